"""What the rows hold of each column: counts, most frequent values, quantiles, lengths, and how they differ by side.

Works on codes and on sorted numbers, never on one value after the other.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.schema import LIST_KINDS
from trainer.features.preprocessing import VOCABULARY_ROLES
from trainer.features.vocabulary import Values, VocabularyRules, indices_of, most_frequent
from trainer.inspection.cells import Cells, Column
from trainer.inspection.leakage import Leak

TOP = 8  # most frequent values that are told
BARS = 24  # of a distribution
QUANTILES = {"least": 0.0, "1%": 0.01, "25%": 0.25, "median": 0.5, "75%": 0.75, "99%": 0.99, "most": 1.0}
TAILS = (0.005, 0.995)  # what bars of numbers reach from and to, so that a single huge one does not hide the others
LATEST = 2.5e17  # microseconds since 1970: the year 9892

# How a missing value is written where it should be NULL. NA is Namibia, too.
WORDS = ("null", "(null)", "none", "nan", "n/a", "#n/a", "undefined", "nil", "(not set)")
PLACEHOLDERS = pa.array(["", *WORDS, *map(str.upper, WORDS), *map(str.capitalize, WORDS), "NaN"], pa.large_string())

Array = npt.NDArray[Any]


class Bars(NamedTuple):
    """A distribution: the rows of each side in each bar, and the mean label of a bar's rows (all NaN for classes)."""

    names: list[str]
    rows: dict[str, list[int]]
    labels: list[float]
    ordered: bool  # neighbouring bars are neighbours; else they are the most frequent values, then all others
    missing: bool  # the last bar is that of the rows without a value


class Profile(NamedTuple):
    """What the rows of the training data's dataset hold of a column. Shares are of all its rows, from 0 to 1."""

    column: Column
    missing: float
    distinct: int  # values; of texts and lists the whole ones
    once: float  # share of the rows that have a value as the only one
    placeholder: float  # share of the categories' values that are written as if they were none
    top: list[tuple[str, float]]  # most frequent categories, and the share of the rows; of lists, of all their values
    numbers: dict[str, float]  # mean, deviation and quantiles
    whole: bool  # numbers without fractions
    lengths: dict[str, float]  # mean, most, empty (share), cut (share), counted (rows)
    bars: Bars
    vocabulary: int | None  # values that are learnt
    unseen: dict[str, float]  # by side: share of values that no training row has
    unknown: dict[str, float]  # by side: share of values that are out of vocabulary
    drift: dict[str, tuple[float, float]]  # by side: difference from training, from 0 to 1, and what chance would give
    leak: Leak | None = None  # of features
    content: str = ""  # see `leakage.fingerprint`

    @property
    def alone(self) -> float | None:
        """The share of the label that it explains, at least 0."""
        return max(self.leak.alone, 0.0) if self.leak and self.leak.alone is not None else None


class Inspection(NamedTuple):
    """What was found of a dataset."""

    sets: dict[str, dict[str, Any]]  # by side that has a dataset of its own: path, rows, files, bytes, bad_rows
    profiles: list[Profile]  # of the columns that have a role
    without_role: dict[str, str]  # column -> type, of the others
    labels: dict[str, dict[str, float]]  # by side: rows, weight; of labels that are numbers mean and its error
    split: dict[str, Any]  # see `split.describe_split`
    doubts: list[str]


def runs(numbers: Array) -> Array:
    """How often each distinct one of some sorted numbers occurs."""
    starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])) if len(numbers) else np.zeros(0, np.int64)
    return np.diff(np.append(starts, len(numbers)))


def statistics(ascending: Array) -> dict[str, float]:
    """Mean, deviation and quantiles of sorted numbers; nothing of none."""
    if not len(ascending):
        return {}
    with np.errstate(over="ignore"):
        moments = {"mean": float(ascending.mean()), "deviation": float(ascending.std())}
    return moments | dict(zip(QUANTILES, np.quantile(ascending, list(QUANTILES.values())).tolist(), strict=True))


def token_counts(values: Values, rows: Array | slice = slice(None)) -> Array:
    """How often each token, or category, occurs in some rows."""
    tokens = values.tokens
    of_cell = np.bincount(values.cells[rows] + 1, minlength=len(tokens.offsets))[1:]
    weights = np.repeat(of_cell, np.diff(tokens.offsets))
    return np.bincount(tokens.ids, weights, len(tokens.values)).astype(np.int64)


def most_common(texts: Any, counts: Array, total: int) -> list[tuple[str, float]]:
    """The most frequent ones with their share of the total; ties in the order of the texts."""
    order = np.argsort(-counts, kind="stable")[:TOP]
    return [(str(texts[at]), counts[at] / total) for at in order.tolist() if counts[at]]


class Binning(NamedTuple):
    """How the rows of a column fall into bars: by most frequent values, or by the borders between the bars."""

    names: list[str]
    values: list[str]
    borders: Array | None

    def bars_of(self, cells: Cells) -> Array:
        """int [rows]: the bar of each row; of a missing value the one after the last."""
        bars = len(self.names)
        if self.borders is None:
            place = pd.Index(self.values).get_indexer(cells.texts)
            return np.append(np.where(place < 0, bars - 1, place), bars)[cells.codes]
        return np.where(np.isnan(cells.numbers), bars, np.searchsorted(self.borders, cells.numbers, "right"))


def binning_of(column: Column, ascending: Array) -> Binning:
    """Bars for sorted numbers: one for each, or of one width, the first and the last with all beyond them."""
    distinct = ascending[np.append(True, ascending[1:] != ascending[:-1])] if len(ascending) else ascending
    if len(distinct) <= BARS:
        return Binning([shown(number, column.kind) for number in distinct], [], (distinct[1:] + distinct[:-1]) / 2)
    low, high = np.quantile(ascending, TAILS)
    if low == high:
        low, high = ascending[[0, -1]]
    if bool((distinct == np.floor(distinct)).all()):
        step = math.ceil((high - low + 1) / BARS)  # bars of as many whole numbers each
        starts = math.floor(low) + step * np.arange(BARS)
        starts = starts[starts <= high]
        names = [
            shown(at, column.kind) if step == 1 else f"{shown(at, column.kind)} to {shown(at + step - 1, column.kind)}"
            for at in starts
        ]
        return Binning(names, [], starts[1:] - 0.5)
    if column.role == "log_numeric" and low > -1:
        edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), BARS + 1))
    else:
        edges = np.linspace(low, high, BARS + 1)
    names = [f"{shown(left, column.kind)} to {shown(right, column.kind)}" for left, right in itertools.pairwise(edges)]
    return Binning(names, [], edges[1:-1])


def distance(train: Array, other: Array) -> tuple[float, float]:
    """Half of what the shares of two counts differ by, from 0 (same) to 1, and what chance alone would give."""
    rows, others = max(train.sum(), 1), max(other.sum(), 1)
    shares = (train + other) / (rows + others)
    spread = np.sqrt(shares * (1 - shares) * (1 / rows + 1 / others)).sum()
    return float(np.abs(train / rows - other / others).sum() / 2), float(spread / math.sqrt(2 * math.pi))


def shown(number: float, kind: str = "") -> str:
    """A number in a few words; of a time the date and, where it has one, the time of day."""
    if kind == "time" and abs(number) < LATEST:
        return str(pd.Timestamp(int(number), unit="us")).removesuffix(" 00:00:00")[:19]
    if float(number).is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e15 else f"{number:.4g}"


def profile(
    column: Column,
    cells: Mapping[str, tuple[Cells, Array]],
    label: tuple[Array, Array] | None,
    rules: VocabularyRules,
) -> Profile:
    """The profile of a column.

    cells: those of each side's frame, and its rows, "train" first. label: label and weights of all rows of the first
    frame, float64 [rows]; None for classes.
    """
    first = cells["train"][0]
    ascending = np.sort(first.numbers[~np.isnan(first.numbers)])
    texts: Any = []
    if column.measured:
        counts = runs(ascending)
    elif column.kind in LIST_KINDS and first.values is not None:
        counts, texts = token_counts(first.values), first.values.tokens.values
    else:
        counts, texts = np.bincount(first.codes + 1, minlength=len(first.texts) + 1)[1:], first.texts
    total = int(counts.sum()) if column.kind in LIST_KINDS else len(first.missing)
    top = [] if column.measured or column.kind == "text" else most_common(texts, counts, max(total, 1))
    if len(first.numbers):
        binning = binning_of(column, ascending)
    else:
        names = [name for name, _ in top]
        binning = Binning([*names, *(["all others"] if len(texts) > len(names) else [])], names, None)
    vocabulary, unseen, unknown = _known(cells, column, rules)
    bars, drift = _bars(binning, cells, label)
    return Profile(
        column,
        missing=float(first.missing.mean()),
        distinct=int((counts > 0).sum()),
        once=float((counts == 1).sum() / max(counts.sum(), 1)),
        placeholder=_placeholder(texts, counts) if top else 0.0,
        top=top,
        numbers=statistics(ascending) if column.measured else {},
        whole=column.measured and bool((ascending == np.floor(ascending)).all()),
        lengths=_lengths_told(ascending, column.width) if len(first.codes) else {},
        bars=bars, vocabulary=vocabulary, unseen=unseen, unknown=unknown, drift=drift,
    )  # fmt: skip


def _placeholder(texts: Any, counts: Array) -> float:
    given = pa.array(texts, pa.large_string()) if isinstance(texts, list) else pa.array(texts.array)
    found = pc.is_in(given.cast(pa.large_string()), value_set=PLACEHOLDERS).to_numpy(zero_copy_only=False)
    return float(counts[found].sum() / max(counts.sum(), 1))


def _lengths_told(ascending: Array, width: int) -> dict[str, float]:
    if not len(ascending):
        return {}
    shares = {"empty": float((ascending == 0).mean()), "cut": float((ascending > width).mean())}
    return {"mean": float(ascending.mean()), "most": float(ascending[-1]), **shares, "counted": float(len(ascending))}


def _bars(
    binning: Binning, cells: Mapping[str, tuple[Cells, Array]], label: tuple[Array, Array] | None
) -> tuple[Bars, dict[str, tuple[float, float]]]:
    """The distribution, and by side how far it is from that of the training rows."""
    size = len(binning.names) + 1
    bars = {id(found): binning.bars_of(found) for found, _ in cells.values()}
    rows = {side: np.bincount(bars[id(found)][taken], minlength=size) for side, (found, taken) in cells.items()}
    drift = {side: distance(rows["train"], counted) for side, counted in rows.items() if side != "train"}
    means = np.full(size, np.nan)
    if label:
        of_first = bars[id(cells["train"][0])]
        total, weights = (np.bincount(of_first, weight, size) for weight in (label[0] * label[1], label[1]))
        np.divide(total, weights, out=means, where=weights > 0)
    missing = any(counted[-1] for counted in rows.values())
    names = [*binning.names, *(["missing"] if missing else [])]
    told = {side: counted[: len(names)].tolist() for side, counted in rows.items()}
    return Bars(names, told, means[: len(names)].tolist(), binning.borders is not None, bool(missing)), drift


def _known(
    cells: Mapping[str, tuple[Cells, Array]], column: Column, rules: VocabularyRules
) -> tuple[int | None, dict[str, float], dict[str, float]]:
    """The size of the vocabulary that the training rows teach; by side the share of values that no training row has,
    and of those that are out of the vocabulary. Nothing where not all texts were looked at, for these would be less."""
    found, train = cells["train"]
    if found.values is None or column.role not in VOCABULARY_ROLES or found.uncounted:
        return None, {}, {}
    learnt = most_frequent(found.values.of(train), column.width, rules)
    counted = token_counts(found.values, train)
    unseen, unknown = {}, {}
    for side, (others, rows) in cells.items():
        if side != "train" and others.values is not None and not others.uncounted:
            counts, tokens = token_counts(others.values, rows), others.values.tokens.values
            new = counted == 0
            if others is not found:
                trained = pa.array(found.values.tokens.values, pa.large_string()).filter(pa.array(~new))
                new = indices_of(tokens, trained) < 0
            total = max(int(counts.sum()), 1)
            unseen[side] = float(counts[new].sum() / total)
            unknown[side] = float(counts[indices_of(tokens, learnt) < 0].sum() / total)
    return len(learnt), unseen, unknown
