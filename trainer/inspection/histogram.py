"""Choose the bins of a column's histogram and count its rows in them."""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.inspection.columns import Column, ColumnValues
from trainer.package.html import number

MAX_BINS = 24
TAILS = (0.005, 0.995)  # quantiles that bins of numbers start and end at, so that outliers do not hide the rest
LATEST = 2.5e17  # microseconds since 1970: the year 9892

Array = npt.NDArray[Any]


Beyond = tuple[
    tuple[int, str], tuple[int, str]
]  # rows below the first bin's range and the lowest value; the same above


class Histogram(NamedTuple):
    """The distribution of a column; all lists have an item for each bin."""

    names: list[str]
    rows: dict[str, list[int]]  # "train", "validation", "test" -> row counts
    mean_labels: list[float]  # NaN where there is none
    ordered: bool  # bins are ranges of numbers; else the most frequent values, then all others
    missing: bool  # the last bin counts the rows without a value
    beyond: "Beyond"

    @property
    def totals(self) -> list[int]:
        """Rows of all sets in each bin."""
        return [sum(counts) for counts in zip(*self.rows.values(), strict=True)]


class Bins(NamedTuple):
    """A bin for each name: ranges of numbers between edges, or single values and one bin for all others."""

    names: list[str]
    values: list[str]
    edges: Array | None
    beyond: Beyond = ((0, ""), (0, ""))

    def of(self, values: ColumnValues) -> Array:
        """int [rows]: the bin of each row; of a missing value the one after the last."""
        count = len(self.names)
        if self.edges is None:
            position = pd.Index(self.values).get_indexer(values.texts)
            return np.append(np.where(position < 0, count - 1, position), count)[values.codes]
        return np.where(np.isnan(values.numbers), count, np.searchsorted(self.edges, values.numbers, "right"))


def value_bins(most_frequent: list[str], distinct: int) -> Bins:
    """A bin for each of the most frequent values, and one for all others if there are any."""
    others = ["all others"] if distinct > len(most_frequent) else []
    return Bins([*most_frequent, *others], most_frequent, None)


def number_bins(column: Column, ascending: Array) -> Bins:
    """A bin for each of a few sorted numbers, else bins of equal width; the outer ones hold everything beyond them."""
    distinct = np.unique(ascending)
    if len(distinct) <= MAX_BINS:
        return Bins([number_text(number, column.kind) for number in distinct], [], (distinct[1:] + distinct[:-1]) / 2)
    low, high = np.quantile(ascending, TAILS)
    if low == high:
        low, high = ascending[[0, -1]]
    if bool((distinct == np.floor(distinct)).all()):
        return _integer_bins(column, ascending, low, high)
    if column.role == "log_numeric" and low > -1:
        edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), MAX_BINS + 1))
    else:
        edges = np.linspace(low, high, MAX_BINS + 1)
    names = [_range(*pair, column) for pair in itertools.pairwise(edges)]
    return Bins(names, [], edges[1:-1], _beyond(ascending, edges[0], edges[-1], column))


def _integer_bins(column: Column, ascending: Array, low: float, high: float) -> Bins:
    """Bins that hold the same number of integers each."""
    step = math.ceil((high - low + 1) / MAX_BINS)
    starts = math.floor(low) + step * np.arange(MAX_BINS)
    starts = starts[starts <= high]
    firsts = starts.tolist()
    names = [number_text(at, column.kind) if step == 1 else _range(at, at + step - 1, column) for at in firsts]
    return Bins(names, [], starts[1:] - 0.5, _beyond(ascending, starts[0], starts[-1] + step - 1, column))


def _beyond(ascending: Array, low: float, high: float, column: Column) -> Beyond:
    """How many sorted numbers the outer bins hold beyond the range that they are named by, and the farthest."""
    below, above = np.searchsorted(ascending, low), len(ascending) - np.searchsorted(ascending, high, "right")
    lowest, highest = (number_text(value, column.kind) for value in ascending[[0, -1]])
    return (int(below), lowest), (int(above), highest)


def _range(low: float, high: float, column: Column) -> str:
    return f"{number_text(low, column.kind)} to {number_text(high, column.kind)}"


def histogram(
    bins: Bins, sets: Mapping[str, tuple[ColumnValues, Array]], label: tuple[Array, Array] | None
) -> tuple[Histogram, dict[str, tuple[float, float]]]:
    """The histogram of a column, and by set its `drift` from the training set.

    sets: values of the set's dataset, and the set's rows in it. label: label and weights of the dataset of "train",
    float64 [rows].
    """
    size = len(bins.names) + 1
    bin_of_row = {id(values): bins.of(values) for values, _ in sets.values()}
    counts = {side: np.bincount(bin_of_row[id(values)][rows], minlength=size) for side, (values, rows) in sets.items()}
    mean_labels = np.full(size, np.nan)
    if label:
        train = bin_of_row[id(sets["train"][0])]
        total, weights = (np.bincount(train, weight, size) for weight in (label[0] * label[1], label[1]))
        np.divide(total, weights, out=mean_labels, where=weights > 0)
    missing = any(count[-1] for count in counts.values())
    names = [*bins.names, *(["missing"] if missing else [])]
    rows = {side: count[: len(names)].tolist() for side, count in counts.items()}
    shown = Histogram(
        names, rows, mean_labels[: len(names)].tolist(), bins.edges is not None, bool(missing), bins.beyond
    )
    return shown, {side: drift(counts["train"], count) for side, count in counts.items() if side != "train"}


def drift(train: Array, other: Array) -> tuple[float, float]:
    """The total variation distance of two histograms, and its expected value for two samples of one distribution.

    train, other: row counts of the same bins. The distance is half the sum of the differences between the bins'
    shares, 0 (equal) to 1 (disjoint): the share of rows that would have to change bins. Its expected value treats each
    difference as normal with the variance of two binomial shares, whose mean absolute value is sqrt(2 variance / pi).
    """
    train_rows, other_rows = max(train.sum(), 1), max(other.sum(), 1)
    shares = (train + other) / (train_rows + other_rows)
    deviations = np.sqrt(shares * (1 - shares) * (1 / train_rows + 1 / other_rows)).sum()
    distance = np.abs(train / train_rows - other / other_rows).sum() / 2
    return float(distance), float(deviations / math.sqrt(2 * math.pi))


def number_text(value: float, kind: str = "") -> str:
    """A number as text; of a "time", in microseconds since 1970, the date, and the time of day unless midnight."""
    if kind == "time" and abs(value) < LATEST:
        return str(pd.Timestamp(int(value), unit="us")).removesuffix(" 00:00:00")[:19]
    return number(value)
