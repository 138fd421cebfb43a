"""Advise a key where rows have none: without one, a row that is corrected may move to another set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.config.net_config import NetConfig
from trainer.data.first_rows import first_rows

SHARDS, BYTES = 4, 2**18  # that are looked at: shards, and the start of each
MIN_ROWS = 50  # below which a column may be distinct by chance


def key_advice(config: NetConfig, shards: Sequence[Path]) -> str:
    """A column that can be the key, if rows are drawn by all their columns and there is such a column; or ""."""
    if config.key_columns or (config.split != "random" and config.subsample == 1):
        return ""
    names = distinct_columns(
        list(first_rows(shards, most=SHARDS, size=BYTES)), {config.label_column, config.weight_column}
    )
    if not names:
        return ""
    return (
        f"A row's set depends on all its columns, so a corrected label moves it. Column {names[0]!r} differs in every "
        f'row looked at. If it identifies the row, set key_columns to ["{names[0]}"]: then each row stays in its set.'
    )


def distinct_columns(rows: Sequence[Mapping[str, Any]], without: set[str | None]) -> list[str]:
    """The columns with a text or a whole number in each row that no other row has; names with "id" come first."""
    if len(rows) < MIN_ROWS:
        return []
    values: dict[str, set[str | int]] = defaultdict(set)
    for row in rows:
        for name, value in row.items():
            if type(value) in (str, int):
                values[name].add(value)
    names = [name for name, distinct in values.items() if len(distinct) == len(rows) and name not in without]
    return sorted(names, key=lambda name: "id" not in name.lower())
