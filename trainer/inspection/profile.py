"""Compute statistics of a column: counts, frequent values, quantiles, lengths, and how the sets differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.schema import LIST_KINDS
from trainer.features.preprocessing import VOCABULARY_ROLES
from trainer.features.sentinels import Sentinel, sentinels
from trainer.features.vocabulary import Values, VocabularyRules, indices_of, most_frequent
from trainer.inspection.columns import Column, ColumnValues
from trainer.inspection.histogram import Histogram, histogram, number_bins, value_bins
from trainer.inspection.leakage import Leakage

TOP = 8  # most frequent values that are listed
QUANTILES = {"min": 0.0, "1%": 0.01, "25%": 0.25, "median": 0.5, "75%": 0.75, "99%": 0.99, "max": 1.0}

# How a missing value is written where it should be NULL. NA is Namibia, too.
WORDS = ("null", "(null)", "none", "nan", "n/a", "#n/a", "undefined", "nil", "(not set)")
PLACEHOLDERS = pa.array(["", *WORDS, *map(str.upper, WORDS), *map(str.capitalize, WORDS), "NaN"], pa.large_string())

Array = npt.NDArray[Any]


class Coverage(NamedTuple):
    """How well the training set covers the values of the other sets; None and empty where this does not apply."""

    vocabulary: int | None = None  # size of the vocabulary
    unseen: Mapping[str, float] = {}  # by set: share of values that no training row has
    out_of_vocabulary: Mapping[str, float] = {}  # by set: share of values that are not in the vocabulary


class Profile(NamedTuple):
    """Statistics of a column over all rows of the training data's dataset. Shares are from 0 to 1."""

    column: Column
    missing: float  # share of the rows
    distinct: int  # values; of texts and lists, distinct texts and lists
    singletons: float  # share of the rows with a value that no other row has, among rows with a value
    placeholders: float  # share of the categories that are empty or a word such as NULL
    top: list[tuple[str, float]]  # most frequent categories and their share of the rows; of lists, of all their values
    statistics: dict[str, float]  # mean, std and quantiles of numbers and times
    integers: bool  # numbers without fractions
    lengths: dict[str, float]  # of texts and lists: mean, max, and the shares that are empty, of length 1 and truncated
    histogram: Histogram
    coverage: Coverage
    drift: dict[str, tuple[float, float]]  # by set, see `histogram.drift`
    sentinels: Sequence[Sentinel] = ()  # numbers that stand apart from all others
    leakage: Leakage | None = None  # of features
    fingerprint: str = ""  # see `leakage.fingerprint`

    @property
    def explained(self) -> float | None:
        """The share of the label's variance that the column explains alone, at least 0."""
        return max(self.leakage.forward, 0.0) if self.leakage and self.leakage.forward is not None else None


class Inspection(NamedTuple):
    """The facts about a dataset."""

    datasets: dict[str, dict[str, Any]]  # by set with a dataset of its own: path, rows, files, bytes, bad_rows
    profiles: list[Profile]  # of the columns with a role
    unused: dict[str, str]  # column -> type, of columns without a role
    labels: dict[str, dict[str, float]]  # by set: rows, weight; of numeric labels mean, error and zero
    split: dict[str, Any]  # see `trainer.data.split.describe_split`
    warnings: list[str]
    key_advice: str = ""  # about a column that can be the key


def profile_column(
    column: Column,
    sets: Mapping[str, tuple[ColumnValues, Array]],
    label: tuple[Array, Array] | None,
    rules: VocabularyRules,
) -> Profile:
    """The profile of a column.

    sets: the column's values in the dataset of each set, and the set's rows in it; "train" first. label: label and
    weights of all rows of the dataset of "train", float64 [rows]; None for classes.
    """
    values = sets["train"][0]
    ascending = np.sort(values.numbers[~np.isnan(values.numbers)])
    texts, counts = value_counts(column, values, ascending)
    total = int(counts.sum()) if column.kind in LIST_KINDS else len(values.missing)
    top = [] if column.numeric or column.kind == "text" else most_common(texts, counts, max(total, 1))
    bins = (
        number_bins(column, ascending)
        if len(values.numbers)
        else value_bins([name for name, _ in top], distinct=len(texts))
    )
    shown, drift = histogram(bins, sets, label)
    return Profile(
        column,
        missing=float(values.missing.mean()),
        distinct=int((counts > 0).sum()),
        singletons=float((counts == 1).sum() / max(counts.sum(), 1)),
        placeholders=placeholder_share(texts, counts) if top else 0.0,
        top=top,
        statistics=number_statistics(ascending) if column.numeric else {},
        integers=column.numeric and bool((ascending == np.floor(ascending)).all()),
        lengths=length_statistics(ascending, column.kept.width) if len(values.codes) else {},
        histogram=shown,
        coverage=coverage(column, sets, rules),
        drift=drift,
        sentinels=sentinels(ascending) if column.numeric else (),
    )


def value_counts(column: Column, values: ColumnValues, ascending: Array) -> tuple[Any, Array]:
    """The distinct values of a column as texts (numbers: none) and how often each occurs; of lists, their values."""
    if column.numeric:
        return [], np.unique(ascending, return_counts=True)[1]
    if column.kind in LIST_KINDS and values.tokens is not None:
        return values.tokens.tokens.values, token_counts(values.tokens)
    return values.texts, np.bincount(values.codes + 1, minlength=len(values.texts) + 1)[1:]


def token_counts(values: Values, rows: Array | slice = slice(None)) -> Array:
    """How often each token or category occurs in some rows."""
    tokens = values.tokens
    cell_counts = np.bincount(values.cells[rows] + 1, minlength=len(tokens.offsets))[1:]
    weights = np.repeat(cell_counts, np.diff(tokens.offsets))
    return np.bincount(tokens.ids, weights, len(tokens.values)).astype(np.int64)


def most_common(texts: Sequence[str], counts: Array, total: int) -> list[tuple[str, float]]:
    """The most frequent texts with their share of the total; ties in the order of the texts."""
    order = np.argsort(-counts, kind="stable")[:TOP]
    return [(str(texts[at]), counts[at] / total) for at in order.tolist() if counts[at]]


def placeholder_share(texts: Any, counts: Array) -> float:
    """The share of values that are empty or a word for a missing value."""
    array = pa.array(texts if isinstance(texts, list) else texts.array).cast(pa.large_string())
    placeholders = pc.is_in(array, value_set=PLACEHOLDERS).to_numpy(zero_copy_only=False)
    return float(counts[placeholders].sum() / max(counts.sum(), 1))


def number_statistics(ascending: Array) -> dict[str, float]:
    """Mean, standard deviation and quantiles of sorted numbers; empty for none."""
    if not len(ascending):
        return {}
    with np.errstate(over="ignore"):
        moments = {"mean": float(ascending.mean()), "std": float(ascending.std())}
    return moments | dict(zip(QUANTILES, np.quantile(ascending, list(QUANTILES.values())).tolist(), strict=True))


def length_statistics(ascending: Array, width: int) -> dict[str, float]:
    """Statistics of the sorted lengths of texts or lists, of which `width` values are kept."""
    if not len(ascending):
        return {}
    matches = {"empty": ascending == 0, "single": ascending == 1, "truncated": ascending > width}
    shares = {name: float(match.mean()) for name, match in matches.items()}
    return {"mean": float(ascending.mean()), "max": float(ascending[-1]), **shares}


def coverage(column: Column, sets: Mapping[str, tuple[ColumnValues, Array]], rules: VocabularyRules) -> Coverage:
    """The coverage of a column with a vocabulary; nothing where only some texts were tokenized, for it would be too
    small."""
    values, train = sets["train"]
    if values.tokens is None or column.role not in VOCABULARY_ROLES or values.sampled:
        return Coverage()
    vocabulary = most_frequent(values.tokens.of(train), column.kept, rules)
    in_training = token_counts(values.tokens, train) > 0
    unseen, out_of_vocabulary = {}, {}
    for side, (others, rows) in sets.items():
        if side == "train" or others.tokens is None or others.sampled:
            continue
        counts, tokens = token_counts(others.tokens, rows), others.tokens.tokens.values
        new = ~in_training
        if others is not values:
            trained = pa.array(values.tokens.tokens.values, pa.large_string()).filter(pa.array(in_training))
            new = indices_of(tokens, trained) < 0
        total = max(int(counts.sum()), 1)
        unseen[side] = float(counts[new].sum() / total)
        out_of_vocabulary[side] = float(counts[indices_of(tokens, vocabulary) < 0].sum() / total)
    return Coverage(len(vocabulary), unseen, out_of_vocabulary)
