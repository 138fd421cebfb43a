"""Propose a role for each column of some rows, with the reason: what `fab init` writes as a variant."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.config.roles import FEATURE_SETTINGS
from trainer.inspection.leakage import fingerprint
from trainer.inspection.outcomes import outcomes
from trainer.inspection.raw_columns import (
    BOOLEAN,
    INTEGER,
    LIST,
    MIXED,
    NOTHING,
    NUMBERS,
    OBJECT,
    TEXT,
    TIME,
    TOO_LARGE,
    RawColumn,
)
from trainer.package.html import percent
from trainer.runtime.errors import DataError, did_you_mean

IDENTIFIER = 0.9  # share of the rows with a value that no other row has
MIN_ROWS = 50  # below which values may be distinct by chance
FEW_NUMBERS = 32  # distinct whole numbers at most, which are like categories: hours, days, grades
WORDS, DISTINCT_TEXTS = 2.5, 0.1  # words of a text on average, and share of distinct texts, at least
UNSPACED, UNSPACED_LENGTH = 0.5, 6  # share of letters beyond ASCII and length of a text in a script without spaces
ONE_VALUE, OF_VALUES = 0.5, 1000  # whole numbers with a value this frequent and no more values are like categories
LARGE_CODE = 10**6  # whole numbers from here on that repeat are codes
LONG_TAIL = 2.0  # skewness from which numbers >= 0 are taken as logarithms
MOST_CLASSES = 1000
CODE_NAME = re.compile(
    r"(?i)(^|_)(id|code|zip|zipcode|postcode|area|tract|class|category|type|hour|day|month|weekday)$"
)
WEIGHT_NAMES = ("impressions", "weight", "weights", "sample_weight", "row_weight")
POSITIVE = ("yes", "y", "true", "t", "1", "positive", "pos", "click", "clicked", "bought", "converted", "win", "won")
LEFT_OUT = ""  # the role of a column without one
OUTCOME = "an outcome? "  # begins the reason

# type -> why it can have no role
NO_ROLE = {
    NOTHING: "no row has a value",
    OBJECT: "records and nested lists are not read",
    MIXED: MIXED,
    TOO_LARGE: TOO_LARGE,
}


class Proposed(NamedTuple):
    """What a column is to be."""

    column: RawColumn
    setting: str  # such as "categorical_columns"; LEFT_OUT: none
    reason: str


class Proposal(NamedTuple):
    """The settings of a variant, and the role of each column."""

    settings: dict[str, Any]  # that differ from the defaults
    columns: list[Proposed]


def propose(columns: Sequence[RawColumn], label_column: str) -> Proposal:
    """The roles of columns, one of which is the label. DataError for a label that nothing can be learnt from."""
    by_name = {column.name: column for column in columns}
    if label_column not in by_name:
        raise DataError(f"No row has the column {label_column!r} of --label. {did_you_mean(label_column, by_name)}")
    label = by_name.pop(label_column)
    settings, what = label_settings(label)
    proposed = {label_column: Proposed(label, "label_column", what)}
    for column in by_name.values():
        proposed[column.name] = Proposed(column, *by_type(column))
    proposed |= identifiers(proposed)
    proposed |= one_time(proposed)
    proposed |= weight(proposed, settings)
    proposed |= without_outcomes(proposed, label)
    proposed |= without_copies(proposed)
    for item in proposed.values():
        if item.setting in ("label_column", "weight_column", "time_column"):
            settings[item.setting] = item.column.name
        elif item.setting:
            settings.setdefault(item.setting, []).append(item.column.name)
    if not settings.keys() & FEATURE_SETTINGS.keys():
        raise DataError("No column can be a feature: " + "; ".join(f"{n}: {p.reason}" for n, p in proposed.items()))
    order = [*FEATURE_SETTINGS, "label_column"]
    return Proposal(
        {name: settings[name] for name in (*order, *(settings.keys() - set(order))) if name in settings},
        [proposed[column.name] for column in columns],
    )


def label_settings(label: RawColumn) -> tuple[dict[str, Any], str]:
    """The settings that the label needs, beside its name, and what kind of label it is."""
    settings: dict[str, Any] = {}
    if len(label.counts) < 2 and label.type != LIST:
        raise DataError(f"Label {label.name!r} has the same value in all rows: there is nothing to learn.")
    missing = len(label.values) - label.present
    if missing:
        settings["skip_unlabelled"] = True
    note = f"; {percent(missing / len(label.values))} of the rows have none and are left out" if missing else ""
    numbers = label.numbers
    if label.type in NUMBERS:
        if numbers.min() >= 0 and numbers.max() <= 1:
            whole = bool(np.isin(numbers, (0, 1)).all())
            what = "1 or 0" if whole else "a rate from 0 to 1"
            return settings, f"binary: {what}, {numbers.mean():.3g} on average{note}"
        settings |= {"objective": "regression"}
        classes = "; set objective=multiclass if these are classes" if len(label.counts) <= FEW_NUMBERS else ""
        return settings, f"regression: numbers from {numbers.min():g} to {numbers.max():g}{classes}{note}"
    if label.type == LIST:
        return settings | {"objective": "multilabel"}, f"multilabel: lists of classes{note}"
    if label.type == BOOLEAN:
        return settings, f"binary: true or false{note}"
    if label.type != TEXT or len(label.counts) > MOST_CLASSES or label.singletons > IDENTIFIER:
        raise DataError(f"Label {label.name!r} holds {label.type}, {len(label.counts):,} of them distinct: no label.")
    values = {value for value in label.values if value is not None}
    if len(values) == 2 and {value.lower() for value in values} != {"true", "false"}:
        settings["positive_label"] = positive = positive_of(label)
        return settings, f"binary: {positive!r} counts as 1{note}"
    if len(values) == 2:
        return settings, f"binary: true or false{note}"
    return settings | {"objective": "multiclass"}, f"multiclass: {len(values):,} classes{note}"


def positive_of(label: RawColumn) -> str:
    """Which of two texts counts as 1: one that says so, or else the rarer one."""
    values = sorted({value for value in label.values if value is not None}, key=list(label.values).count)
    return next((value for value in values if value.lower() in POSITIVE), values[0])


def by_type(column: RawColumn) -> tuple[str, str]:
    """The setting for a column, from its values alone, and the reason."""
    distinct = len(column.counts)
    if column.type in NO_ROLE:
        return LEFT_OUT, NO_ROLE[column.type]
    if column.present < MIN_ROWS <= len(column.values):
        return LEFT_OUT, f"only {column.present} of {len(column.values):,} rows have a value"
    if column.type == LIST:
        return "multi_categorical_columns", "lists of categories"
    if distinct == 1 and column.present == len(column.values):
        return LEFT_OUT, "the same value in all rows"
    if column.type == TIME:
        return LEFT_OUT, "a time"
    if column.type == BOOLEAN:
        return "categorical_columns", "true or false"
    if column.type == TEXT:
        return by_text(column)
    return by_numbers(column)


def by_text(column: RawColumn) -> tuple[str, str]:
    """Text to read, or categories."""
    texts = [value for value in column.values if value is not None][:10_000]
    words = float(np.mean([len(text.split()) for text in texts]))
    letters = [letter for text in texts[:1000] for letter in text]
    foreign = sum(ord(letter) >= 0x0E00 for letter in letters) / max(len(letters), 1)  # Thai and beyond
    distinct = len(column.counts) / column.present
    if distinct >= DISTINCT_TEXTS and words >= WORDS:
        return "text_columns", f"{words:.3g} words on average"
    if foreign >= UNSPACED and distinct >= DISTINCT_TEXTS and len(letters) / min(len(texts), 1000) >= UNSPACED_LENGTH:
        return "text_columns", "text in a script without spaces"
    return "categorical_columns", f"{len(column.counts):,} different texts"


def by_numbers(column: RawColumn) -> tuple[str, str]:
    """Numbers, large ones as logarithms, or whole numbers that are like categories."""
    numbers, distinct = column.numbers, len(column.counts)
    if column.type == INTEGER:
        if distinct <= FEW_NUMBERS:
            return "categorical_columns", f"{distinct} different whole numbers"
        repeats = distinct <= column.present / 2
        if repeats and CODE_NAME.search(column.name):
            return "categorical_columns", f"{distinct:,} different codes, by its name"
        if repeats and np.abs(numbers).min() >= LARGE_CODE:
            return "categorical_columns", f"{distinct:,} different large whole numbers, which look like codes"
        if column.counts[0] >= ONE_VALUE * column.present and distinct <= OF_VALUES:
            return "categorical_columns", f"{distinct} whole numbers, mostly one of them"
    if numbers.min() >= 0 and skewness(numbers) >= LONG_TAIL:
        return "log_numeric_columns", f"numbers from {numbers.min():g} to {numbers.max():g} with a long tail"
    return "numeric_columns", f"numbers from {numbers.min():g} to {numbers.max():g}"


def skewness(numbers: np.ndarray) -> float:
    """The third standardised moment; 0 for constants."""
    with np.errstate(over="ignore", invalid="ignore"):
        deviations = numbers - numbers.mean()
        return float(np.nan_to_num((deviations**3).mean() / max(deviations.std(), 1e-300) ** 3))


def identifiers(proposed: Mapping[str, Proposed]) -> dict[str, Proposed]:
    """Columns of categories or whole numbers that tell rows apart; one of them becomes the key."""
    named: dict[str, Proposed] = {}
    candidates = []
    for name, item in proposed.items():
        column = item.column
        whole = column.type == INTEGER and is_dense(column)
        if column.present < MIN_ROWS or not (item.setting == "categorical_columns" or whole):
            continue
        if column.singletons >= IDENTIFIER:
            share = percent(column.singletons)
            named[name] = Proposed(column, LEFT_OUT, f"an identifier: {share} of its values occur once")
            if len(column.counts) == len(column.values):
                candidates.append(name)
    if candidates:
        key = min(candidates, key=lambda name: "id" not in name.lower())
        named[key] = Proposed(named[key].column, "key_columns", "differs in every row")
    return named


def is_dense(column: RawColumn) -> bool:
    """Whether whole numbers are a counter, or too large to be amounts."""
    numbers = column.numbers
    spread = numbers.max() - numbers.min() <= 10 * len(column.counts)
    return bool(spread or np.abs(numbers).max() > 2**53 or re.search(r"(?i)(^|_|\b)id$", column.name))


def one_time(proposed: Mapping[str, Proposed]) -> dict[str, Proposed]:
    """The time with the most values, for a split by time."""
    times = [item for item in proposed.values() if item.column.type == TIME and item.reason == "a time"]
    if not times:
        return {}
    chosen = max(times, key=lambda item: (item.column.present, len(item.column.counts)))
    reason = "set split=time to test on the latest rows"
    return {chosen.column.name: Proposed(chosen.column, "time_column", reason)}


def weight(proposed: Mapping[str, Proposed], settings: Mapping[str, Any]) -> dict[str, Proposed]:
    """A column whose name says that it weights the rows."""
    for name in WEIGHT_NAMES:
        item = proposed.get(name)
        if (
            not item
            or item.column.type not in NUMBERS
            or item.column.numbers.min() < 0
            or item.setting == "label_column"
        ):
            continue
        if item.column.present < len(item.column.values) or settings.get("objective", "binary") != "binary":
            continue
        return {name: Proposed(item.column, "weight_column", "weights the rows, by its name")}
    return {}


def without_outcomes(proposed: Mapping[str, Proposed], label: RawColumn) -> dict[str, Proposed]:
    """Features that are known only after the label; see `trainer.inspection.outcomes`."""
    rows = label_numbers(label)
    labelled = np.flatnonzero(~np.isnan(rows) if np.issubdtype(rows.dtype, np.floating) else rows >= 0)
    looked_at = {
        name: item.column.comparable[labelled]
        for name, item in proposed.items()
        if item.setting in FEATURE_SETTINGS and item.setting not in ("text_columns", "multi_categorical_columns")
    }
    weights = {name: item.column for name, item in proposed.items() if item.setting == "weight_column"}
    looked_at |= {name: column.comparable[labelled] for name, column in weights.items()}
    reasons = outcomes(looked_at, rows[labelled])
    return {
        name: Proposed(proposed[name].column, LEFT_OUT, f"{OUTCOME}{reason}")
        for name, reason in reasons.items()
        if name not in weights
    }


def label_numbers(label: RawColumn) -> np.ndarray:
    """The label as numbers, of two texts as well; of more classes their codes."""
    if np.issubdtype(label.comparable.dtype, np.floating) or len(label.counts) > 2:
        return label.comparable
    return np.where(label.comparable < 0, np.nan, label.comparable)


def without_copies(proposed: Mapping[str, Proposed]) -> dict[str, Proposed]:
    """Categories and texts that hold the same information as an earlier column."""
    first: dict[str, str] = {}
    copies: dict[str, Proposed] = {}
    for name, item in proposed.items():
        if item.setting not in ("categorical_columns", "text_columns"):
            continue  # two numbers, such as latitude and longitude, are near and far from others in two ways
        mark = fingerprint(item.column.comparable, len(item.column.counts))
        if mark and mark in first:
            copies[name] = Proposed(item.column, LEFT_OUT, f"the same information as {first[mark]}")
        elif mark:
            first[mark] = name
    return copies
