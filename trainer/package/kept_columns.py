"""Columns of the rows that predictions are written with, so that they can be joined: the keys, and those of --keep."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from trainer.config.net_config import NetConfig
from trainer.data import sources
from trainer.data.first_rows import first_rows
from trainer.data.schema import NUMBER_TYPES
from trainer.data.selection import find_shards
from trainer.runtime.errors import ConfigError, DataError, did_you_mean

WRITTEN = ("prediction", "probabilities", "reason")  # the fields of a prediction
SHARDS, BYTES = 4, 2**18  # that show the types of columns without a schema: shards, and the start of each


def kept_columns(config: NetConfig, keep: Sequence[str]) -> list[str]:
    """The columns to write with each prediction, keys first; ConfigError for a name that a prediction has itself."""
    columns = list(dict.fromkeys((*config.key_columns, *keep)))
    if clash := [name for name in columns if name in WRITTEN]:
        raise ConfigError(
            f"Column {clash[0]!r} cannot be kept: predictions have a field of this name. Rename it in the rows."
        )
    return columns


def kept_kinds(source: sources.Source, path: str, columns: Sequence[str]) -> dict[str, str]:
    """Column -> kind in `trainer.data`, of columns that have no role for the model. DataError if rows lack one.

    path: a local path of the source. Whole numbers, texts and the like are exact; other numbers are float64.
    """
    if fields := sources.fields_of(source):
        types = {name: "REPEATED" if field.mode == "REPEATED" else field.type for name, field in fields.items()}
        number = NUMBER_TYPES - {"INTEGER"}
        return {
            name: "categories" if types.get(name) == "REPEATED" else "number" if types.get(name) in number else "key"
            for name in columns
        }  # a name that is no field is refused by the reader
    seen: dict[str, set[type]] = defaultdict(set)
    for row in first_rows(find_shards(path), most=SHARDS, size=BYTES):  # the reader reports bad lines
        for name, value in row.items():
            seen[name].add(type(value))
    for name in columns:
        if name not in seen and seen:
            raise DataError(f"No row of {source.path} has the column {name!r} of --keep. {did_you_mean(name, seen)}")
        if dict in seen[name]:
            raise DataError(f"Column {name!r} of --keep holds objects. Select their fields in the query.")
    kinds = {list: "categories", float: "number"}
    return {name: next((kind for type_, kind in kinds.items() if type_ in seen[name]), "key") for name in columns}


def as_json(value: Any) -> Any:
    """A value of a kept column as JSON: a missing one is null, a whole number has no fraction."""
    if isinstance(value, float):
        return None if pd.isna(value) else int(value) if value.is_integer() else value
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value if isinstance(value, str | int) else list(value)
