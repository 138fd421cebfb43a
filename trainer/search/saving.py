"""Write the winner of a search as a variant into variant_config.json."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.config import loading, names
from trainer.config.loading import VARIANT_FILE
from trainer.config.network_settings import BASE
from trainer.config.variant_text import with_variant
from trainer.runtime.errors import ConfigError
from trainer.runtime.system import write_atomic
from trainer.search.space import VARIANT
from trainer.search.state import State


def check_new_variant(name: str, path: Path = VARIANT_FILE) -> None:
    """ConfigError for a name that a variant cannot have, or that one has already."""
    names.check_name(name, "variant")
    if name in loading.variants(path):
        raise ConfigError(f"--save-as={name}: {path} has this variant already. Choose another name.")


def winning_entry(state: State, trial: int, path: Path = VARIANT_FILE) -> dict[str, Any]:
    """The settings of a trial as a variant: its base, then all settings that differ from it."""
    settings = state.trials[trial]
    variant = settings.get(VARIANT, state.plan.variant)
    in_file = loading.variants(path)
    base = in_file.get(variant, {}).get(BASE, variant)
    before = loading.load_config(base, path=path, environ={}) if base in in_file else None
    after = state.plan.configuration(settings)
    values = json.loads(json.dumps(asdict(after.config)))
    chosen = {
        name: values[name] for name, source in after.sources.items()
        if name != "threads" and not source.startswith("default")
        and (before is None or getattr(before.config, name, None) != getattr(after.config, name))
    }  # fmt: skip
    return ({BASE: base} if before else {}) | chosen


def save_variant(state: State, trial: int, name: str, path: Path = VARIANT_FILE) -> None:
    """Add a trial as a variant at the end of the file, which otherwise stays as it is."""
    entry = winning_entry(state, trial, path)
    write_atomic(path, with_variant(path.read_text(encoding="utf-8"), name, entry).encode())
