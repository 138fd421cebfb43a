"""Look at columns whose roles are not known yet: a sample of the rows, and the type of each column's values."""

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from trainer.data import capacity, partitions, times
from trainer.data.columns import FLOAT32_MAX, NUMBER
from trainer.data.schema import NUMBER_TYPES, Field

SHARDS, BYTES, ROWS = 16, 2**26, 100_000  # most that are looked at: shards, bytes of all, rows of all

INTEGER, FRACTION, BOOLEAN, TEXT, TIME = "whole number", "number", "true or false", "text", "time"
LIST, OBJECT, MIXED, NOTHING = "list", "object", "values of different types", "nothing"
TOO_LARGE = "numbers that are infinite or beyond 3.4e38"
NUMBERS = (INTEGER, FRACTION)
TIME_TYPES = ("DATE", "DATETIME", "TIMESTAMP")
UNREADABLE = ("RECORD", "BYTES", "JSON", "GEOGRAPHY", "INTERVAL", "RANGE")
# What whole numbers since 1970 count, and the years 1985 to 2100 in it.
EPOCH_NAME = re.compile(r"(?i)(^|_|(?<=[a-z]))(time|timestamp|ts|date|datetime|epoch|created|updated|at)(_|$)")
EPOCH_UNITS = (1, 10**3, 10**6, 10**9)
EPOCH_SECONDS = (473_385_600, 4_102_444_800)

Array = npt.NDArray[Any]


class RawColumn(NamedTuple):
    """A column of the sample: its values as JSON has them, and as arrays."""

    name: str
    type: str  # one of the above
    values: Sequence[Any]  # [rows]; None: missing
    comparable: Array  # codes (int, -1: missing) or numbers (float64, NaN: missing): what `leakage.leakage` takes
    counts: Array  # how often each distinct value occurs, most frequent first

    @property
    def present(self) -> int:
        """How many rows have a value."""
        return int(self.counts.sum())

    @property
    def singletons(self) -> float:
        """The share of the rows with a value that no other row has, among rows with a value."""
        return float((self.counts == 1).sum()) / max(self.present, 1)

    @property
    def numbers(self) -> Array:
        """The numbers of the rows that have one, float64; of other columns nothing."""
        is_number = np.issubdtype(self.comparable.dtype, np.floating)
        return self.comparable[~np.isnan(self.comparable)] if is_number else np.zeros(0)

    def examples(self, most: int = 3) -> list[Any]:
        """The first distinct values."""
        seen = {orjson.dumps(value, default=str): value for value in self.values[:1000] if value is not None}
        return list(seen.values())[:most]


def sample_rows(shards: Sequence[Path]) -> list[Mapping[str, Any]]:
    """Rows, evenly spaced, from the start of some shards, with the columns of their folders; bad lines are left out."""
    chosen = shards[:: -(-len(shards) // SHARDS)]
    rows: list[Mapping[str, Any]] = []
    for shard in chosen:
        members = partitions.values_of(shard.absolute().parent)
        lines = capacity.head_of(shard, BYTES // len(chosen))[1].split(b"\n")
        for line in lines[:: math.ceil(len(lines) * len(chosen) / ROWS)]:  # the last one may be cut: then it is no JSON
            with contextlib.suppress(orjson.JSONDecodeError):
                row = orjson.loads(line)
                rows += [row | members] if isinstance(row, dict) else []
    return rows


def raw_columns(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, Field] | None) -> list[RawColumn]:
    """The columns of some rows, in the order in which they first occur. fields: of schema.json, if there is one."""
    names: dict[str, None] = dict.fromkeys(fields or ())
    columns: dict[str, list[Any]] = defaultdict(lambda: [None] * len(rows))
    for number, row in enumerate(rows):
        for name, value in row.items():
            names[name] = None
            columns[name][number] = value
    return [raw_column(name, columns[name], (fields or {}).get(name)) for name in names]


def raw_column(name: str, values: Sequence[Any], field: Field | None) -> RawColumn:
    """A column from its values; `field` decides where JSON alone does not, as for numbers in quotes."""
    present = [value for value in values if value is not None]
    type_ = type_of(name, present, field)
    if type_ in NUMBERS or (type_ == TIME and not isinstance(present[0], str)):
        numbers = np.array([math.nan if value is None else float(value) for value in values])
        distinct, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
        if not len(distinct):
            type_ = NOTHING
        elif np.abs(distinct).max() > FLOAT32_MAX:
            type_, numbers = TOO_LARGE, np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX)
        return RawColumn(name, type_, values, numbers, np.sort(counts)[::-1])
    texts = [None if value is None else value if isinstance(value, str) else dumps(value) for value in values]
    codes, _ = pd.factorize(np.array(texts, dtype=object))
    return RawColumn(name, type_, values, codes, np.sort(np.bincount(codes[codes >= 0]))[::-1])


def dumps(value: Any) -> str:
    """A value that is no text, as text."""
    return orjson.dumps(value, default=str).decode()


def type_of(name: str, present: Sequence[Any], field: Field | None) -> str:
    """The type of a column's values."""
    if not present:
        return NOTHING
    if (field and field.mode == "REPEATED") or all(isinstance(value, list) for value in present):
        items = [item for value in present if isinstance(value, list) for item in value]
        return LIST if not any(isinstance(item, list | dict) or item is None for item in items) else OBJECT
    if (field and field.type in UNREADABLE) or all(isinstance(value, dict) for value in present):
        return OBJECT
    types = {type(value) for value in present}
    if types == {bool} or (field and field.type == "BOOLEAN"):
        return BOOLEAN
    if (field and field.type in TIME_TYPES) or (not field and types == {str} and is_time(present)):
        return TIME
    if types <= {int, float} or (types == {str} and is_quoted_number(present, field)):
        return number_type(name, present)
    return TEXT if types == {str} else MIXED


def is_quoted_number(present: Sequence[str], field: Field | None) -> bool:
    """Whether texts are numbers, as BigQuery writes INT64 and NUMERIC."""
    if field:
        return field.type in NUMBER_TYPES
    return all(re.fullmatch(NUMBER, value) for value in present)


def number_type(name: str, present: Sequence[Any]) -> str:
    """Whether numbers are whole, have fractions, or count seconds or parts of one since 1970."""
    numbers = np.array([float(value) for value in present])
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) and EPOCH_NAME.search(name):
        low, high = numbers.min(), numbers.max()
        if any(EPOCH_SECONDS[0] * unit <= low and high <= EPOCH_SECONDS[1] * unit for unit in EPOCH_UNITS):
            return TIME
    return INTEGER if (numbers == np.floor(numbers)).all() else FRACTION


def is_time(present: Sequence[str]) -> bool:
    """Whether texts are times of the same form, and not numbers."""
    forms = set()
    for value in present:
        try:
            forms.add(times.form_of(value))
        except ValueError:
            return False
    return len(forms) == 1 and "NUMBER" not in forms
