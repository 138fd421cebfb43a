"""Find the columns that are known only after the label: outcomes, which a model would learn from and never have.

A column is an outcome if it is nearly the same as the label, or derived from it (`trainer.inspection.leakage`); if
whether it has a value at all gives the label away; if its ratio to another number, or its difference, nearly equals the
label; or if it is a number that alone explains more of the label than all other columns together. The last rule can hit
an honest feature, so each decision comes with its figure, and the user has the last word.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.inspection.leakage import SMOOTHING, SUSPICIOUS, evenly_spaced, leakage
from trainer.package.html import percent

Array = npt.NDArray[np.float64]

RANGES = 64  # of about equal size, that numbers are cut into
MANY = 32  # distinct numbers; fewer are like categories
LEAST_OTHERS = 3  # columns, without which there is nothing to compare a number with
EXPLAINED = 0.02  # share of the variance that a number must explain to be an outcome
PAIR_ROWS, MOST_PAIRS = 2**15, 300  # that ratios and differences are looked at in
RIDGE = 1e-3


def outcomes(columns: Mapping[str, Array], label: Array) -> dict[str, str]:
    """Column -> why it is an outcome, in words, with a figure.

    columns, label: codes or numbers of some rows, as `leakage.leakage` takes them; texts are left out, and rows have a
    label.
    """
    reasons: dict[str, str] = {}
    sets = np.arange(len(label)) % 4  # rows of shards have no order of fours
    train, held_out = np.flatnonzero(sets < 3), np.flatnonzero(sets == 3)
    explained: dict[str, float] = {}
    for name, column in columns.items():
        forward, backward, _ = leakage(column, label, train, held_out)
        explained[name] = forward or 0.0
        if max(forward or 0, backward or 0) >= SUSPICIOUS:
            nearly = percent(max(forward or 0, backward or 0))
            reasons[name] = f"nearly equals the label: explains {nearly} of it alone"
            continue
        present = ~np.isnan(column) if np.issubdtype(column.dtype, np.floating) else column >= 0
        share = leakage(present.astype(np.int64), label, train, held_out).forward or 0.0
        if share >= SUSPICIOUS:
            reasons[name] = f"whether it has a value explains {percent(share)} of the label"
    rest = {name: column for name, column in columns.items() if name not in reasons}
    reasons |= pairs(rest, label, explained)
    rest = {name: column for name, column in rest.items() if name not in reasons}
    if np.issubdtype(label.dtype, np.floating):
        reasons |= dominant(rest, label)
    return reasons


def pairs(columns: Mapping[str, Array], label: Array, explained: Mapping[str, float]) -> dict[str, str]:
    """Numbers whose ratio to another number, or difference, nearly equals the label; the one that explains more is the
    outcome."""
    numbers = [name for name, column in columns.items() if np.issubdtype(column.dtype, np.floating)]
    numbers.sort(key=lambda name: -explained[name])
    rows = evenly_spaced(np.arange(len(label)), PAIR_ROWS)
    train, held_out = np.flatnonzero(np.arange(len(rows)) % 4 < 3), np.flatnonzero(np.arange(len(rows)) % 4 == 3)
    reasons: dict[str, str] = {}
    tried = list(itertools.combinations(numbers, 2))[:MOST_PAIRS]
    for first, second in tried:
        if first in reasons or second in reasons:
            continue
        one, other = columns[first][rows], columns[second][rows]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            combined = {f"its ratio to {second}": one / other, f"its difference to {second}": one - other}
        for what, values in combined.items():
            values[~np.isfinite(values)] = np.nan
            share = leakage(values, label[rows], train, held_out).forward or 0.0
            if share >= SUSPICIOUS:
                reasons[first] = f"{what} explains {percent(share)} of the label"
                break
    return reasons


def dominant(columns: Mapping[str, Array], label: Array) -> dict[str, str]:
    """Numbers that explain more of the label than all other columns together, one after the other."""
    reasons: dict[str, str] = {}
    left = {name: target_means(column, label) for name, column in columns.items()}
    while len(left) > LEAST_OTHERS:
        numbers = [name for name in left if is_fine(columns[name])]
        alone = {name: explained_by([left[name]], label) for name in numbers}
        name = max(alone, key=alone.__getitem__, default="")
        if not name or alone[name] < EXPLAINED:
            break
        together = explained_by([means for other, means in left.items() if other != name], label)
        if alone[name] <= together:
            break
        reasons[name] = (
            f"explains {percent(alone[name])} of the label, all other columns together {percent(max(together, 0.0))}"
        )
        del left[name]
    return reasons


def is_fine(column: Array) -> bool:
    """Whether a column holds numbers of many different values."""
    return bool(np.issubdtype(column.dtype, np.floating)) and len(np.unique(column[~np.isnan(column)])) > MANY


def target_means(column: Array, label: Array) -> Array:
    """float64 [rows]: the mean label of the even rows with the same value, or range of numbers, smoothed as by
    Micci-Barreca, "A Preprocessing Scheme for High-Cardinality Categorical Attributes" (2001)."""
    codes = column + 1
    if np.issubdtype(column.dtype, np.floating):
        ascending = np.sort(column[~np.isnan(column)])
        edges = np.unique(ascending[np.arange(1, RANGES) * len(ascending) // RANGES]) if len(ascending) else ascending
        codes = np.where(np.isnan(column), len(edges) + 1, np.searchsorted(edges, column, "right"))
    codes = codes.astype(np.int64)
    even, mean = slice(0, None, 2), label[::2].mean()
    rows = np.bincount(codes[even], minlength=codes.max() + 1)
    sums = np.bincount(codes[even], label[even], minlength=codes.max() + 1)
    return np.asarray(((sums + SMOOTHING * mean) / (rows + SMOOTHING))[codes])


def explained_by(means: Sequence[Array], label: Array) -> float:
    """R^2 on every fourth row of a linear model of target means, which is fitted to other rows than the means are."""
    x = np.stack([np.ones(len(label)), *means], axis=1)
    fit, measure = np.arange(len(label)) % 4 == 1, np.arange(len(label)) % 4 == 3
    gram = x[fit].T @ x[fit] + RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[fit].T @ label[fit])
    truth = label[measure]
    return 1 - float(((truth - x[measure] @ weights) ** 2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-12))
