"""Target leakage: how well one column alone tells the label of rows that it was not learnt from.

A column that all but tells the label was mostly made from it: a copy, a rate that counts this very click, a category
such as "high". So the measure must not depend on the label's scale, must see any function of it, rising or not, and
must stay far from 1 for a column that is merely good:

    forward   each held-out row is given the mean label of the training rows with its value (of a number: the nearest
              value); the share of the label's variance on held-out rows that this explains. Numbers, labels too, are
              taken as their ranks. Of classes it is the variance of all their indicators (the tau of Goodman and
              Kruskal). Held-out rows with a value that no training row has are left out: nothing is known of these.
    backward  the same with column and label exchanged, which finds what is coarser than the label.

Noise that rows do not share makes both small, also where a column is unique to each row.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

TRAIN_ROWS, HELD_ROWS = 2**17, 2**15  # looked at, at most: evenly spaced among all
LEAST_ROWS = 50  # held-out rows, below which nothing is said
LEAST_OTHERS = 20  # of them without their commonest value
COARSE = 32  # groups of about as many rows, into which numbers are cut
SMOOTHING = 10.0  # rows of the mean label that each value is given in addition
SUSPICIOUS = 0.95

Array = npt.NDArray[Any]


class Leak(NamedTuple):
    """What was found of a column: `alone`, the share of the label that it explains, None where it cannot be told;
    `backward`, the share of it that the label explains; `product`, the share of label times weight that it explains."""

    alone: float | None
    backward: float | None
    product: float | None = None


def leak(column: Array, label: Array, train: Array, held: Array) -> Leak:
    """How much of a label a column tells.

    column, label: [rows], as codes (integers, -1: missing) or as numbers (floats, NaN: missing). train, held: the
    positions of the rows to learn from and to measure on.
    """
    train, held = spaced(train, TRAIN_ROWS), spaced(held, HELD_ROWS)
    values, labels = (column[train], column[held]), (label[train], label[held])
    return Leak(_explained(values, labels), _explained(labels, values, coarse=False))


def spaced(rows: Array, most: int) -> Array:
    """Evenly spaced ones of some rows."""
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows


def _explained(values: tuple[Array, Array], target: tuple[Array, Array], *, coarse: bool = True) -> float | None:
    """The best of what the groupings of one column explain of another on held-out rows; both as (train, held)."""
    wanted = _comparable(*target)
    shares = [
        share
        for groups in _groupings(*values, coarse=coarse)
        for smoothing in ((0.0, SMOOTHING) if coarse else (0.0,))
        if (share := _share(groups, wanted, smoothing)) is not None
    ]
    return max(shares, default=None)


def _groupings(train: Array, held: Array, *, coarse: bool) -> Iterator[tuple[Array, Array]]:
    """The rows' groups, numbered from 0: of one value each, for numbers the nearest one, or of neighbouring numbers."""
    if not np.issubdtype(train.dtype, np.floating):
        yield train + 1, held + 1
        return
    known = np.sort(train[~np.isnan(train)])
    if not len(known):
        return
    distinct = known[np.append(True, known[1:] != known[:-1])]
    yield _nearest(distinct, train), _nearest(distinct, held)
    if coarse:
        edges = np.unique(known[np.arange(1, COARSE) * len(known) // COARSE])
        yield _between(edges, train), _between(edges, held)


def _between(edges: Array, numbers: Array) -> Array:
    """Between which of some edges numbers lie; of NaN one beyond the last."""
    return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, "right"))


def _nearest(distinct: Array, numbers: Array) -> Array:
    """The index of the nearest of some sorted numbers; of NaN one beyond the last."""
    after = np.clip(np.searchsorted(distinct, numbers), 1, max(len(distinct) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(distinct) - 1)
    nearest = np.where(numbers - distinct[before] <= distinct[after] - numbers, before, after)
    return np.where(np.isnan(numbers), len(distinct), nearest)


def _comparable(train: Array, held: Array) -> tuple[Array, Array]:
    """Codes as they are, from 0; numbers as their mean ranks among all."""
    if not np.issubdtype(train.dtype, np.floating):
        return train + 1, held + 1
    _, codes, counts = np.unique(np.concatenate([train, held]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    return ranks[: len(train)], ranks[len(train) :]


def _share(groups: tuple[Array, Array], target: tuple[Array, Array], smoothing: float) -> float | None:
    """1 - squared error of the groups' means / that of the overall mean, on held-out rows of groups that are known."""
    rows = np.bincount(groups[0], minlength=int(groups[1].max(initial=0)) + 1)
    known = rows[groups[1]] > 0
    group, wanted = groups[1][known], target[1][known]
    _, counts = np.unique(wanted, return_counts=True)
    if len(wanted) < LEAST_ROWS or len(wanted) - counts.max() < LEAST_OTHERS:
        return None
    errors = _errors_of_classes if np.issubdtype(wanted.dtype, np.integer) else _errors_of_numbers
    error, constant = errors(groups[0], target[0], group, wanted, rows, smoothing)
    return 1 - error / constant


def _errors_of_numbers(
    groups: Array, target: Array, group: Array, wanted: Array, rows: Array, smoothing: float
) -> tuple[float, float]:
    mean = target.mean()
    means = (np.bincount(groups, target, len(rows)) + smoothing * mean) / np.maximum(rows + smoothing, 1e-9)
    return float(((wanted - means[group]) ** 2).sum()), float(((wanted - mean) ** 2).sum())


def _errors_of_classes(
    groups: Array, target: Array, group: Array, wanted: Array, rows: Array, smoothing: float
) -> tuple[float, float]:
    """Of the vectors of indicators: 1 - 2 * p[class] + sum of all p ** 2 for a row, p being the shares in its group."""
    classes = int(max(target.max(), wanted.max())) + 1
    shares = np.bincount(target, minlength=classes) / len(target)
    pairs, counts = np.unique(groups * np.int64(classes) + target, return_counts=True)
    at = np.minimum(np.searchsorted(pairs, group * np.int64(classes) + wanted), len(pairs) - 1)
    found = np.where(pairs[at] == group * np.int64(classes) + wanted, counts[at], 0)
    of_group, of_class = np.divmod(pairs, classes)
    squares = np.bincount(of_group, counts**2 + 2 * smoothing * counts * shares[of_class], len(rows))
    total = (rows + smoothing)[group]
    all_squares = (squares[group] + smoothing**2 * (shares**2).sum()) / total**2
    errors = 1 - 2 * (found + smoothing * shares[wanted]) / total + all_squares
    return float(errors.sum()), float((1 - 2 * shares[wanted] + (shares**2).sum()).sum())


def fingerprint(column: Array, distinct: int) -> str:
    """What two columns share where each value of the one goes with one value of the other; "" where that says nothing,
    since there is one value only, or one for almost every row.

    column: as `leak` takes it; distinct: how many values it has.
    """
    if len(column) < LEAST_ROWS or not 1 < distinct <= len(column) / 2:
        return ""
    codes, _ = pd.factorize(column)  # by first occurrence: numbers that do not depend on what the values are
    return hashlib.sha256(codes.astype(np.int64).tobytes()).hexdigest()
