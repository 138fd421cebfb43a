"""Write and read the configuration in a package: config.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from trainer.config import strict_json
from trainer.config.levels import Level, resolve, shown, value_from_json
from trainer.config.loading import Configuration, environment, settle
from trainer.config.names import check_name
from trainer.runtime.errors import ConfigError

NAME = "config.json"  # of the file in a package
BEFORE = {"split_characters": False}  # what files without these settings mean, where the default is something else
FORMAT_VERSION = 1
OF_READING = ("max_bad_rows", "skip_unlabelled", "positive_label", "cache_gb")  # may differ each time rows are read


def to_json(configuration: Configuration) -> str:
    """The text of config.json: every setting with its value and source."""
    config, sources, variant = configuration
    settings = {name: {"value": value, "source": sources[name]} for name, value in asdict(config).items()}
    record = {"format_version": FORMAT_VERSION, "variant": variant, "network": config.network, "settings": settings}
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def read(path: Path) -> Configuration:
    """The configuration of a file that holds the text of `to_json`; ConfigError if it does not, or cannot be read."""
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. --config needs a config.json.") from error


def from_json(data: bytes | str) -> Configuration:
    """The configuration from the text of a config.json; settings added since then have their defaults, or
    what `BEFORE` says.

    Raises ConfigError for text that `to_json` did not write.
    """
    record = strict_json.decode(data, NAME)
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        reads = f"this code reads {FORMAT_VERSION}. Use the release that wrote it"
        raise ConfigError(f"{NAME} has format version {shown(version)}; {reads}.")
    try:
        variant, network, entries = record["variant"], record["network"], record["settings"]
        values = BEFORE | {name: entry["value"] for name, entry in entries.items()}
        sources = dict.fromkeys(BEFORE, "default") | {name: entry["source"] for name, entry in entries.items()}
        if values["network"] != network or not all(text.isprintable() for text in (variant, *sources.values())):
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError):
        parts = "a variant, a network, and settings with a value and a source each"
        raise ConfigError(f"{NAME} is damaged: it must hold {parts}.") from None
    check_name(variant, "variant")
    return settle(variant, (Level(values, NAME, str, value_from_json, sources.__getitem__),))


def for_reading(configuration: Configuration, environ: Mapping[str, str]) -> Configuration:
    """The configuration of a package with those settings of the environment that are about reading rows.

    A package has settled the others. ConfigError for a name that is no setting, or a value out of range.
    """
    level = environment(environ)
    values, sources = resolve(type(configuration.config), (level,), f"network {configuration.config.network}")
    chosen = {name: value for name, value in values.items() if name in OF_READING}
    config = replace(configuration.config, **chosen)
    return configuration._replace(
        config=config, sources=configuration.sources | {name: sources[name] for name in chosen}
    )
