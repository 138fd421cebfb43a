"""Check the names of runs and variants."""

import re

from trainer.config.levels import shown
from trainer.runtime.errors import ConfigError


def check_run_name(name: str) -> None:
    """ConfigError unless the name of a run is safe as a file name, in a bucket and in a shell."""
    check_name(name, "run")


def check_name(name: str, what: str) -> None:
    """ConfigError unless a name follows the rules; `what` says what it names: "run", "variant"."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9_.-]{0,98}[a-z0-9])?", name):
        raise ConfigError(
            f"{shown(name)} cannot be the name of a {what}. Allowed: 1 to 100 characters a-z 0-9 _ . - that begin and "
            "end with a letter or digit."
        )
