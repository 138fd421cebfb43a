"""Measure target leakage: how well a single column predicts the label of held-out rows.

A column that predicts the label almost perfectly is usually derived from it: a copy, a rate that counts this very
click, a category such as "high". The measure must not depend on the label's scale, must detect any function of
it, monotonic or not, and must stay far from 1 for a column that is only a good feature:

    forward   Predict each held-out row by the mean label of the training rows with the same value (of a number: the
              nearest value). The measure is R^2 on the held-out rows, the correlation ratio eta^2 of Pearson (1905)
              measured out of sample. Numbers, labels included, are replaced by their ranks, as in Spearman's rho.
              For classes the variance is that of all class indicators, which makes it the tau of Goodman and Kruskal,
              "Measures of Association for Cross Classifications" (1954). Held-out rows with a value that no training
              row has are left out.
    backward  The same with column and label exchanged, which detects columns that are coarser than the label.

Noise in single rows makes both measures small, also for a column with a distinct value in each row.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

MAX_TRAIN_ROWS, MAX_HELD_OUT_ROWS = 2**17, 2**15  # evenly spaced rows are used where there are more
MIN_ROWS = 50  # held-out rows, below which there is no measure
MIN_MINORITY_ROWS = 20  # held-out rows without the most common label
COARSE_GROUPS = 32  # groups of about equal size that numbers are also cut into
SMOOTHING = 10.0  # pseudo-rows with the overall mean label in each group
SUSPICIOUS = 0.95

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]  # of training rows, of held-out rows


class Leakage(NamedTuple):
    """Shares of variance from -inf to 1; None where there are too few rows to tell."""

    forward: float | None  # of the label, explained by the column
    backward: float | None  # of the column, explained by the label
    product: float | None = None  # of label times weight, explained by the column


def leakage(column: Array, label: Array, train: Array, held_out: Array) -> Leakage:
    """How well a column predicts a label.

    column, label: [rows], as codes (integers, -1: missing) or as numbers (floats, NaN: missing). train, held_out: int
    arrays with the positions of the rows to fit and to measure on.
    """
    train, held_out = evenly_spaced(train, MAX_TRAIN_ROWS), evenly_spaced(held_out, MAX_HELD_OUT_ROWS)
    values, labels = (column[train], column[held_out]), (label[train], label[held_out])
    return Leakage(_explained(values, labels), _explained(labels, values, coarse=False))


def evenly_spaced(rows: Array, limit: int) -> Array:
    """At most `limit` of the rows, evenly spaced."""
    return rows[:: -(-len(rows) // limit)] if len(rows) > limit else rows


def _explained(values: Pair, target: Pair, *, coarse: bool = True) -> float | None:
    """The largest share of the target's variance that a grouping of the values explains."""
    ranked = _codes_or_ranks(*target)
    shares = [
        share
        for groups in _groupings(*values, coarse=coarse)
        for smoothing in ((0.0, SMOOTHING) if coarse else (0.0,))
        if (share := _r_squared(groups, ranked, smoothing)) is not None
    ]
    return max(shares, default=None)


def _groupings(train: Array, held_out: Array, *, coarse: bool) -> Iterator[Pair]:
    """The group of each row, from 0: by its value (of numbers: the nearest one), then by range of numbers."""
    if not np.issubdtype(train.dtype, np.floating):
        yield train + 1, held_out + 1
        return
    ascending = np.sort(train[~np.isnan(train)])
    if not len(ascending):
        return
    distinct = np.unique(ascending)
    yield _nearest(distinct, train), _nearest(distinct, held_out)
    if coarse:
        edges = np.unique(ascending[np.arange(1, COARSE_GROUPS) * len(ascending) // COARSE_GROUPS])
        yield _ranges(edges, train), _ranges(edges, held_out)


def _ranges(edges: Array, numbers: Array) -> Array:
    """The index of the range between edges that a number falls into; NaN: one after the last."""
    return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, "right"))


def _nearest(distinct: Array, numbers: Array) -> Array:
    """The index of the nearest of some sorted numbers; NaN: one after the last."""
    after = np.clip(np.searchsorted(distinct, numbers), 1, max(len(distinct) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(distinct) - 1)
    nearest = np.where(numbers - distinct[before] <= distinct[after] - numbers, before, after)
    return np.where(np.isnan(numbers), len(distinct), nearest)


def _codes_or_ranks(train: Array, held_out: Array) -> Pair:
    """Codes, counted from 0; of numbers the mean ranks among all rows."""
    if not np.issubdtype(train.dtype, np.floating):
        return train + 1, held_out + 1
    _, codes, counts = np.unique(np.concatenate([train, held_out]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    return ranks[: len(train)], ranks[len(train) :]


def _r_squared(groups: Pair, target: Pair, smoothing: float) -> float | None:
    """1 - squared error of the group means / squared error of the overall mean, on held-out rows of training groups."""
    rows = np.bincount(groups[0], minlength=int(groups[1].max(initial=0)) + 1)
    in_training = rows[groups[1]] > 0
    group, truth = groups[1][in_training], target[1][in_training]
    _, counts = np.unique(truth, return_counts=True)
    if len(truth) < MIN_ROWS or len(truth) - counts.max() < MIN_MINORITY_ROWS:
        return None
    errors = _class_errors if np.issubdtype(truth.dtype, np.integer) else _number_errors
    error, constant_error = errors(groups[0], target[0], group, truth, rows, smoothing)
    return 1 - error / constant_error


def _number_errors(
    groups: Array, target: Array, group: Array, truth: Array, rows: Array, smoothing: float
) -> tuple[float, float]:
    """Squared errors of the group means and of the overall mean.

    groups, target: of training rows; group, truth: of held-out rows; rows: training rows in each group.
    """
    mean = target.mean()
    means = (np.bincount(groups, target, len(rows)) + smoothing * mean) / np.maximum(rows + smoothing, 1e-9)
    return float(((truth - means[group]) ** 2).sum()), float(((truth - mean) ** 2).sum())


def _class_errors(
    groups: Array, target: Array, group: Array, truth: Array, rows: Array, smoothing: float
) -> tuple[float, float]:
    """As `_number_errors`, of vectors of class indicators: a row's error is 1 - 2 * p[class] + sum of all p ** 2,
    where p are the class shares in its group."""
    classes = int(max(target.max(), truth.max())) + 1
    shares = np.bincount(target, minlength=classes) / len(target)
    pairs, counts = np.unique(groups * np.int64(classes) + target, return_counts=True)  # (group, class) of rows
    pair = group * np.int64(classes) + truth
    at = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
    same_class = np.where(pairs[at] == pair, counts[at], 0)
    pair_group, pair_class = np.divmod(pairs, classes)
    squares = np.bincount(pair_group, counts**2 + 2 * smoothing * counts * shares[pair_class], len(rows))
    total = (rows + smoothing)[group]
    all_squares = (squares[group] + smoothing**2 * (shares**2).sum()) / total**2
    errors = 1 - 2 * (same_class + smoothing * shares[truth]) / total + all_squares
    return float(errors.sum()), float((1 - 2 * shares[truth] + (shares**2).sum()).sum())


def fingerprint(column: Array, distinct: int) -> str:
    """A hash that two columns share if each value of one goes with exactly one value of the other.

    column: as in `leakage`; distinct: the number of its values. The hash is "" for a column with a single value, or
    with a distinct value in almost every row: every other such column would match.
    """
    if len(column) < MIN_ROWS or not 1 < distinct <= len(column) / 2:
        return ""
    codes, _ = pd.factorize(column)  # numbered by first occurrence, which does not depend on the values
    return hashlib.sha256(codes.astype(np.int64).tobytes()).hexdigest()
