"""Split rows into training, validation and test sets.

The set of a row depends on what the row holds, not on its position: the order of rows and files has no effect. Random
sets depend on the draws of the rows alone (see `trainer.data.draws`), so not on the columns of a variant either.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from trainer.data.column_hash import integers_of, text_hashes, value_hashes, values_of
from trainer.data.draws import uniform
from trainer.data.row_hash import Hashes, Integers, mix
from trainer.runtime.errors import DataError

TEST, VALIDATION = 2, 1  # the number of a side; 0 is training
BETWEEN = -1  # rows between an earlier validation set and the test set


class Split(NamedTuple):
    """The row positions of each set, int64, ascending."""

    train: Integers
    validation: Integers
    test: Integers


def split_rows(  # noqa: PLR0913 - each is a setting
    frame: pd.DataFrame,
    *,
    method: str,
    columns: Sequence[str],
    draws: Hashes,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    stratify_column: str | None = None,
    validation_part: int = 0,
) -> Split:
    """Split the rows of a frame.

    draws: uint64 [rows], by which rows are drawn: see `Dataset.draws`. Both fractions are approximate shares: of the
    rows (time), of the distinct draws (random) or of the groups (group). A set with a separate dataset has fraction 0
    and is empty here.

    random: rows with equal draws (one key) stay together; `columns` are the key, or none. Adding rows moves
        no other row. With a `stratify_column`, the fractions hold within each of its values, and adding rows may move
        others: see `_stratified_sides`.
    time: `columns` is the one time column, which all rows have. The latest rows are test, the latest of the others
        validation. Rows of one time stay together, in the later set.
    group: rows that share a value of any of the `columns` stay together, as do the rows linked through them (connected
        components). Each has the same chance, whatever its size. Missing and empty values link no rows.
    validation_part: which part validates, with the same test set; parts are disjoint. time: so many validation sets
        earlier; the rows between it and the test set are in no set.

    Raises DataError if a set would be empty.
    """
    fractions = {TEST: test_fraction, VALIDATION: validation_fraction}
    units: Integers | Hashes = draws
    if method == "time":
        units = times = integers_of(frame[columns[0]])
        side = _sides_by_time(times, fractions, validation_part)
    elif stratify_column is not None:
        side = _stratified_sides(draws, value_hashes(frame[stratify_column]), fractions, seed, validation_part)
    else:
        units = hashes = _component_hashes(frame, columns, draws) if method == "group" else draws
        side = _drawn_sides(uniform(hashes, seed), fractions, validation_part)
    split = Split(*(np.flatnonzero(side == number) for number in range(3)))
    for number, rows in enumerate(split):
        if not len(rows) and fractions.get(number, 1) > 0:
            by = _rule(method, columns, stratify_column, len(frame), len(np.unique(units)))
            raise DataError(
                f"No rows are left for the {split._fields[number]} set: {by}, test_fraction={test_fraction:g}, "
                f"validation_fraction={validation_fraction:g}. Change the fractions or the columns, use more rows, or "
                "name separate datasets with --validation-data and --test-data."
            )
    return split


def _rule(method: str, columns: Sequence[str], stratify_column: str | None, rows: int, distinct: int) -> str:
    """How rows are split, and how many there are, for messages."""
    by = f"{', '.join(map(repr, columns)) or 'all columns'}{f' and {stratify_column=}' * bool(stratify_column)}"
    what = {"time": "times", "group": "groups"}.get(method, "keys" if columns else "rows")
    return f"split={method} by {by} of {rows} rows with {distinct} distinct {what}"


def _drawn_sides(numbers: NDArray[np.float64], fractions: Mapping[int, float], validation_part: int) -> Integers:
    """int64 [rows]: the side of each row by its number in [0, 1): the test set is below its fraction, then validation
    parts follow one another."""
    begin, end = (fractions[TEST] + part * fractions[VALIDATION] for part in (validation_part, validation_part + 1))
    side = np.where(numbers < fractions[TEST], TEST, 0)
    side[(numbers >= begin) & (numbers < end)] = VALIDATION
    return side


def _parts(fractions: Mapping[int, float], validation_part: int) -> list[tuple[int, float]]:
    """The parts to cut in turn, each with its number and its fraction: the test set, then validation parts, of which
    the last one counts."""
    numbers = [VALIDATION, *range(TEST + 1, TEST + 1 + validation_part)]
    return [(TEST, fractions[TEST]), *((number, fractions[VALIDATION]) for number in numbers)]


def _stratified_sides(
    draws: Hashes, values: Hashes, fractions: Mapping[int, float], seed: int, validation_part: int
) -> Integers:
    """int64 [rows]: the side of each row; each side has its fraction of the rows of each value, rounded up or down.

    One row of each value is for training, so single ones are. Rows of one key, with equal draws, count as one row, of
    the rarest of their values. Sides are cut by systematic sampling: rows are in the order of their values, within a
    value in the order of their draws, and a side takes each row at which the sum of its shares passes a whole number.
    """
    keys, key = np.unique(draws, return_inverse=True)
    _, code, counts = np.unique(values, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))  # the rarest first
    stratum = np.full(len(keys), len(counts), dtype=np.int64)
    np.minimum.at(stratum, key, rank[code])
    order = np.lexsort((uniform(keys, seed), stratum))
    stratum = stratum[order]
    free = np.append(False, stratum[1:] == stratum[:-1])
    rows = np.bincount(stratum, minlength=len(counts))
    side = np.zeros(len(keys), dtype=np.int64)
    for number, fraction in _parts(fractions, validation_part):
        left = np.bincount(stratum[free], minlength=len(counts))
        shares = np.where(free, np.minimum(fraction * rows / np.maximum(left, 1), 1)[stratum], 0.0)
        begin = uniform(np.array([number], dtype=np.uint64), seed)
        taken = np.diff(np.floor(np.cumsum(np.append(begin, shares)))) > 0
        side[taken] = number
        free &= ~taken
    result = np.empty_like(side)
    result[order] = np.where(side == TEST, TEST, np.where(side == number, VALIDATION, 0))
    return result[key]


def _sides_by_time(times: Integers, fractions: Mapping[int, float], validation_part: int) -> Integers:
    side = np.zeros(len(times), dtype=np.int64)
    rest = np.sort(times)
    for number, fraction in _parts(fractions, validation_part):
        wanted = min(round(fraction * len(times)), len(rest))
        if wanted:
            border = rest[-wanted]
            side[(side == 0) & (times >= border)] = number
            rest = rest[: np.searchsorted(rest, border)]
    between = (side != 0) & (side != TEST) & (side != number)
    return np.where(between, BETWEEN, np.where(side == number, VALIDATION, side))


def _component_hashes(frame: pd.DataFrame, columns: Sequence[str], draws: Hashes) -> Hashes:
    """uint64 [rows]: the same hash for all rows of a component, the least of its links; without links, its own draw.

    So components are drawn, not rows: drawing rows would fill the smaller sets with the rows of large components.
    """
    rows, links = links_of(frame, columns)
    component = components_of(rows, links, len(frame))
    none = np.iinfo(np.uint64).max
    least = np.full(len(frame), none)
    np.minimum.at(least, component[rows], links)
    hashes = least[component]
    return np.where(hashes == none, draws, hashes)


def links_of(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[Integers, Hashes]:
    """The row position and the hash of each value that links rows; a list has several."""
    rows, links = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)]
    for name in columns:
        row, value = values_of(frame[name])
        linking = ~np.isin(value, text_hashes([""]))
        rows.append(row[linking])
        links.append(mix(value[linking] ^ text_hashes([name])))
    return np.concatenate(rows), np.concatenate(links)


def components_of(rows: Integers, links: Hashes, count: int) -> Integers:
    """int64 [count]: the number of the connected component of each row."""
    distinct, link = np.unique(links, return_inverse=True)
    nodes = count + len(distinct)
    edges = coo_array((np.ones(len(rows), dtype=bool), (rows, count + link)), shape=(nodes, nodes))
    _, labels = connected_components(edges, directed=False)
    return np.unique(labels[:count], return_inverse=True)[1]
