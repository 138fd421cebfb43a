"""Split rows into training, validation and test sets.

The set of a row depends on a hash of its values, not on its position: the order of rows and files has no effect. The
hashes are those of `pandas.util.hash_array`: SipHash-2-4 of text with a fixed key, the bits of numbers, then the
finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainer.runtime.errors import DataError

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

MISSING = np.uint64(0x9E3779B97F4A7C15)  # the hash of a missing value
SUBSAMPLE = 2**63  # a seed that no split has
UNITS = {"random": "keys", "time": "times", "group": "groups"}


class Split(NamedTuple):
    """The row positions of each set, int64, ascending."""

    train: Integers
    validation: Integers
    test: Integers


def split_rows(
    frame: pd.DataFrame,
    *,
    method: str,
    columns: Sequence[str],
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    hashes: Hashes | None = None,
) -> Split:
    """Split the rows of a frame.

    Both fractions are approximate shares: of the rows (time), of the distinct keys (random) or of the groups (group). A
    set with a separate dataset has fraction 0 and is empty here.

    random: `columns` are the key of a row; none: all columns. Rows with equal keys stay together. Adding rows moves no
        other row. `hashes`: the `row_hashes` of these columns, if already computed.
    time: `columns` is the one time column. The latest rows are test, the latest of the others validation. Rows of one
        time stay together, in the later set.
    group: rows that share a value of any of the `columns` stay together, as do the rows linked through them (connected
        components). Each has the same chance, whatever its size. Missing and empty values link no rows.

    Raises DataError if a set would be empty or a row has no time.
    """
    units: Integers | Hashes
    if method == "time":
        units = times = _times(frame[columns[0]])
        side = _sides_by_time(times, test_fraction, validation_fraction)
    else:
        if method == "group":
            hashes = _component_hashes(frame, columns)
        units = hashes = row_hashes(frame, columns) if hashes is None else hashes
        side = 2 - np.digitize(_uniform(hashes, seed), (test_fraction, test_fraction + validation_fraction))
    split = Split(*(np.flatnonzero(side == number) for number in range(3)))
    for name, rows, fraction in zip(Split._fields, split, (1.0, validation_fraction, test_fraction), strict=True):
        if fraction > 0 and not len(rows):
            raise DataError(
                f"No rows are left for the {name} set: split={method} by "
                f"{', '.join(map(repr, columns)) or 'all columns'} "
                f"of {len(frame)} rows with {len(np.unique(units))} distinct {UNITS[method]}, test_fraction="
                f"{test_fraction:g}, validation_fraction={validation_fraction:g}. Change the fractions or the columns, "
                "use more rows, or name separate datasets with --validation-data and --test-data."
            )
    return split


def subsample(frame: pd.DataFrame, columns: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Whether each row is in a sample of about this share: the rows with the lowest hashes of their key (or, without
    `columns`, of all values): bool [rows].

    Every run chooses the same rows in any order, and a larger sample contains a smaller one. The choice is independent
    of the split.
    """
    return _uniform(row_hashes(frame, columns), SUBSAMPLE) < fraction


def _uniform(hashes: Hashes, seed: int) -> NDArray[np.float64]:
    """float64 [rows], in [0, 1)."""
    return np.asarray((_mix(hashes + _mix(np.array([seed], dtype=np.uint64))) >> np.uint64(11)) * 2.0**-53)


def _times(column: pd.Series) -> Integers:
    missing = int(column.isna().sum())
    if missing:
        raise DataError(
            f"Column {column.name!r}: {missing} of {len(column)} rows have no time, which split=time needs. "
            "Leave these rows out of the dataset, or choose another time_column or another split."
        )
    return _integers(column)


def _sides_by_time(times: Integers, test_fraction: float, validation_fraction: float) -> Integers:
    side = np.zeros(len(times), dtype=np.int64)
    rest = np.sort(times)
    for number, fraction in ((2, test_fraction), (1, validation_fraction)):
        wanted = min(round(fraction * len(times)), len(rest))
        if wanted:
            border = rest[-wanted]
            side[(side == 0) & (times >= border)] = number
            rest = rest[: np.searchsorted(rest, border)]
    return side


def row_hashes(frame: pd.DataFrame, columns: Sequence[str]) -> Hashes:
    """uint64 [rows]: a hash of the values of some columns (none: of all), whatever the order of the columns."""
    total = np.zeros(len(frame), dtype=np.uint64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for hashes in pool.map(_column_hashes, [frame[name] for name in columns or frame.columns.tolist()]):
            total += hashes
    return _mix(total)


def _column_hashes(column: pd.Series) -> Hashes:
    return _mix(_value_hashes(column) ^ _text_hashes([column.name]))


def _component_hashes(frame: pd.DataFrame, columns: Sequence[str]) -> Hashes:
    """uint64 [rows]: the same hash for all rows of a component, the least of its links; without links, its own hash.

    So components are drawn, not rows: drawing rows would fill the smaller sets with the rows of large components.
    """
    rows, links = _links(frame, columns)
    component = _components(rows, links, len(frame))
    none = np.iinfo(np.uint64).max
    least = np.full(len(frame), none)
    np.minimum.at(least, component[rows], links)
    hashes = least[component]
    return np.where(hashes == none, row_hashes(frame, ()), hashes)


def _links(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[Integers, Hashes]:
    """The row position and the hash of each value that links rows; a list has several."""
    rows, links = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)]
    for name in columns:
        row, value = _values(frame[name])
        linking = ~np.isin(value, _text_hashes([""]))
        rows.append(row[linking])
        links.append(_mix(value[linking] ^ _text_hashes([name])))
    return np.concatenate(rows), np.concatenate(links)


def _components(rows: Integers, links: Hashes, count: int) -> Integers:
    """int64 [count]: the number of the connected component of each row."""
    distinct, link = np.unique(links, return_inverse=True)
    nodes = count + len(distinct)
    edges = coo_array((np.ones(len(rows), dtype=bool), (rows, count + link)), shape=(nodes, nodes))
    _, labels = connected_components(edges, directed=False)
    return np.unique(labels[:count], return_inverse=True)[1]


def _values(column: pd.Series) -> tuple[Integers, Hashes]:
    """The row position and the hash of each value that is not missing, and of each element of a list."""
    if _is_list(column):
        lists = pa.array(column)
        return np.asarray(pc.list_parent_indices(lists)), _value_hashes(pc.list_flatten(lists).to_pandas())
    hashes = _value_hashes(column)
    rows = np.flatnonzero(hashes != MISSING)
    return rows, hashes[rows]


def _value_hashes(column: pd.Series) -> Hashes:
    """uint64 [rows]: hashes of the values, whatever the categories of their dtype; MISSING for missing values."""
    if _is_list(column):
        lists = pa.array(column)
        some = pc.greater(pc.list_value_length(lists), 0)  # an empty list is no value, too
        column = pc.if_else(some, pc.binary_join(lists, "\0"), None).to_pandas()
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.append(_text_hashes(column.cat.categories), MISSING)[column.cat.codes.to_numpy()]
    if is_float_dtype(column.dtype):
        hashes = pd.util.hash_array(column.to_numpy("float64", na_value=np.nan) + 0.0)  # -0.0 is 0.0
    elif is_numeric_dtype(column.dtype) or is_datetime64_any_dtype(column.dtype):
        hashes = pd.util.hash_array(_integers(column))
    else:
        codes, texts = pd.factorize(column)
        return np.append(_text_hashes(texts), MISSING)[codes]
    return np.where(column.isna(), MISSING, hashes)


def _text_hashes(texts: Any) -> Hashes:
    return pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)


def _integers(column: pd.Series) -> Integers:
    """Integers unchanged, times as microseconds since 1970 (UTC); missing values are any number."""
    if is_datetime64_any_dtype(column.dtype):
        return np.asarray(column.dt.as_unit("us").array.asi8)
    return column.to_numpy("int64", na_value=0)


def _is_list(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_list(column.dtype.pyarrow_dtype)


def _mix(hashes: Hashes) -> Hashes:
    """The finaliser of splitmix64: a bijection in which each bit of the input moves half of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def describe_split(
    sides: Mapping[str, pd.DataFrame],
    *,
    categorical_columns: Sequence[str],
    group_columns: Sequence[str],
    hashes: Mapping[str, Hashes],
) -> dict[str, Any]:
    """Facts about the sets of a split for the report, ready for JSON.

    sides: the frame of each set by name, "train" among them; from one split or from separate datasets. hashes: the
    `row_hashes` of the key columns by set.

    rows: of each set.
    also_in_train: rows of each other set that have the key of a training row (without key columns: all its values).
    unseen: for each other set and column, the share of rows with a value that no training row has.
    groups: with group columns, the number of components in each set, how many of them also have rows in another set,
        and the least, median, mean and most rows of a component.
    """
    train, others = sides["train"], {name: frame for name, frame in sides.items() if name != "train"}
    keys = np.sort(hashes["train"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = list(pool.map(_distinct, [train[column] for column in categorical_columns]))
        unseen = {
            name: list(pool.map(_unseen_share, [frame[column] for column in categorical_columns], seen))
            for name, frame in others.items()
        }
    report: dict[str, Any] = {
        "rows": {name: len(frame) for name, frame in sides.items()},
        "also_in_train": {name: int(_among(np.sort(hashes[name]), keys).sum()) for name in others},
        "unseen": {name: dict(zip(categorical_columns, shares, strict=True)) for name, shares in unseen.items()},
    }
    if group_columns:
        report["groups"] = _describe_groups(sides, group_columns)
    return report


def _among(values: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """Which values are among the others, both sorted: bool [values]."""
    return others[np.minimum(np.searchsorted(others, values), len(others) - 1)] == values


def _distinct(column: pd.Series) -> Hashes:
    """The hashes of the values that some row has, sorted."""
    _, codes, hashes = _coded_values(column)
    return np.sort(hashes[np.bincount(codes, minlength=len(hashes)) > 0])


def _unseen_share(column: pd.Series, seen: Hashes) -> float:
    rows, codes, hashes = _coded_values(column)
    unseen = ~np.isin(hashes, seen)
    return len(np.unique(rows[unseen[codes]])) / max(len(column), 1)


def _coded_values(column: pd.Series) -> tuple[Integers, NDArray[Any], Hashes]:
    """As `_values`, but each value as a code, and the hash that each code stands for."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        rows = np.flatnonzero(column.cat.codes >= 0).astype(np.int64)
        return rows, column.cat.codes.to_numpy()[rows], _text_hashes(column.cat.categories)
    rows, values = _values(column)
    codes, hashes = pd.factorize(values)
    return rows, codes, hashes


def _describe_groups(sides: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> dict[str, dict[str, float]]:
    offsets = np.cumsum([0, *(len(frame) for frame in sides.values())])
    links = [_links(frame, columns) for frame in sides.values()]
    rows = np.concatenate([row + offset for (row, _), offset in zip(links, offsets[:-1], strict=True)])
    component = _components(rows, np.concatenate([link for _, link in links]), int(offsets[-1]))
    groups = {name: np.unique(part) for name, part in zip(sides, np.split(component, offsets[1:-1]), strict=True)}
    rows_of, sides_of = np.bincount(component), np.bincount(np.concatenate(list(groups.values())))
    report: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        report[name] = {"groups": len(group), "also_elsewhere": int((sides_of[group] > 1).sum())}
        if len(group):
            sizes = rows_of[group]
            spread = {"min": sizes.min(), "median": np.median(sizes), "mean": sizes.mean(), "max": sizes.max()}
            report[name] |= {f"rows_{statistic}": float(size) for statistic, size in spread.items()}
    return report
