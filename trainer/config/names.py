"""Check the names of runs and variants, and make new ones."""

import re
import secrets
from datetime import UTC, datetime

from trainer.config.levels import shown
from trainer.runtime.errors import ConfigError


def check_name(name: str, what: str) -> None:
    """ConfigError unless a name is safe as a file name, in a bucket and in a shell. what: "run" or "variant"."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9_.-]{0,98}[a-z0-9])?", name):
        raise ConfigError(
            f"{shown(name)} cannot be the name of a {what}. Allowed: 1 to 100 characters a-z 0-9 _ . - that begin and "
            "end with a letter or digit."
        )


def new_run_name(variant: str) -> str:
    """A name for a run that no other run has, on any machine: the variant, the time, and four random digits."""
    return f"{variant}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
