"""Encode labels as numbers, and find the best prediction that is the same for every row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.features.scale import scale_of, total_of
from trainer.features.tokenizers import Tokens
from trainer.features.vocabulary import Kept, category_values, indices_of, list_values, padded
from trainer.runtime.command import count
from trainer.runtime.errors import DataError

OBJECTIVES = ("binary", "regression", "multiclass", "multilabel")
SHOWN_CLASSES = 5  # most frequent ones that a warning names
CLASS_VALUES = {"multiclass": category_values, "multilabel": list_values}
RATE_LIMIT = 1e-6  # a constant prediction stays this far from 0 and 1, so that its logit is finite

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Label:
    """What is fitted to the labels of the training rows, with weights.

    classes: of multiclass and multilabel, sorted, one for each output. mean, std: of a regression's label, else 0, 1.
    output_bias: logits of the best constant prediction, 0 for a regression.
    """

    column: str
    objective: str
    classes: tuple[str, ...]
    mean: float
    std: float
    output_bias: tuple[float, ...]


def fit_label(column: pd.Series, objective: str, weights: Array) -> Label:
    """Fit a label to the training rows. weights: float64 [rows].

    DataError if all weights are 0 or no row has a class.
    """
    name, total = str(column.name), total_of(weights)
    if total <= 0:
        raise DataError(
            f"The weights of the {len(weights)} training rows add up to {total:g}. Check the weight column."
        )
    if objective == "regression":
        scale = scale_of(column.to_numpy(np.float64), weights)
        return Label(name, objective, (), scale.mean, scale.std, (0.0,))
    if objective == "binary":
        rate = total_of(weights * column.to_numpy(np.float64)) / total
        return Label(name, objective, (), 0.0, 1.0, _logits(np.array([rate])))
    tokens = CLASS_VALUES[objective](column).flat
    classes = tuple(sorted({tokens.values[value] for value in np.unique(tokens.ids)}))
    if not classes:
        raise DataError(f"Label column {name!r}: no training row has a class. Check the column and the split.")
    rows, numbers = _distinct_classes(tokens, classes)
    order = np.lexsort((weights[rows], numbers))  # the same bits for the same rows in any order
    rates = np.bincount(numbers[order], weights[rows][order], minlength=len(classes)) / total
    if objective == "multilabel":
        return Label(name, objective, classes, 0.0, 1.0, _logits(rates))
    return Label(name, objective, classes, 0.0, 1.0, tuple(np.log(np.clip(rates, RATE_LIMIT, 1)).tolist()))


def encode_label(label: Label, column: pd.Series) -> Array:
    """Encode labels: binary and regression float32 [rows], multiclass int32 [rows], multilabel int32 [rows, width].

    The width of multilabel is the largest number of classes in a row; class numbers begin at 1 and are right-padded
    with 0. There is no output for a class that no training row has: it is -1 in multiclass, and multilabel keeps only
    the other classes of the row (see `unseen_classes`).
    """
    if label.objective in ("binary", "regression"):
        return ((column.to_numpy(np.float64) - label.mean) / label.std).astype(np.float32)
    if label.objective == "multiclass":
        tokens = category_values(column).flat
        return indices_of(tokens.values, label.classes)[tokens.ids]
    rows, numbers = _distinct_classes(list_values(column).flat, label.classes)
    lengths = np.bincount(rows, minlength=len(column))
    classes = Tokens([], numbers, np.append(0, np.cumsum(lengths)))
    every = Kept(max(1, int(lengths.max(initial=0))), "first")
    return padded(classes, np.arange(1, len(label.classes) + 1), every)


def _logits(rates: Array) -> tuple[float, ...]:
    rates = np.clip(rates, RATE_LIMIT, 1 - RATE_LIMIT)
    return tuple(np.log(rates / (1 - rates)).tolist())


def _distinct_classes(tokens: Tokens, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Row and class number of each class of each row, once and in order; unknown classes are left out."""
    rows = np.repeat(np.arange(len(tokens.offsets) - 1), np.diff(tokens.offsets))
    numbers = indices_of(tokens.values, classes)[tokens.ids]
    is_class = numbers >= 0
    return np.divmod(np.unique(rows[is_class] * len(classes) + numbers[is_class]), len(classes))


def unseen_classes(label: Label, column: pd.Series) -> dict[str, Any]:
    """Facts about the classes of some rows that no training row has, ready for JSON; empty if there are none.

    classes, labels: how many there are. most_frequent: the rows of a few of them, by class.
    """
    if label.objective not in CLASS_VALUES:
        return {}
    tokens = CLASS_VALUES[label.objective](column).flat
    unseen = indices_of(tokens.values, label.classes)[tokens.ids] < 0
    counts = np.bincount(tokens.ids[unseen], minlength=len(tokens.values))
    order = [value for value in np.argsort(-counts, kind="stable") if counts[value]]
    if not order:
        return {}
    most_frequent = {tokens.values[value]: int(counts[value]) for value in order[:SHOWN_CLASSES]}
    return {"classes": len(order), "labels": int(counts.sum()), "most_frequent": most_frequent}


def unseen_classes_warning(label: Label, side: str, unseen: Mapping[str, Any]) -> str:
    """A warning from the facts of `unseen_classes` about a set."""
    named = ", ".join(f"{name[:40]!r} ({rows:,})" for name, rows in unseen["most_frequent"].items())
    others = unseen["classes"] - len(unseen["most_frequent"])
    more = f" and {others:,} more" if others else ""
    effect = "counted as wrong" if label.objective == "multiclass" else "left out"
    return (
        f"Label column {label.column!r}: no training row has the class of {count(unseen['labels'], 'label')} of the "
        f"{side} set ({effect}): {named}{more}."
    )


def unseen_by_set(label: Label, sides: Mapping[str, tuple[pd.DataFrame, Array]]) -> dict[str, dict[str, Any]]:
    """The facts of `unseen_classes` by set, without sets that have none. The training set has none.

    sides: by set, a frame and the positions of its rows. DataError for multiclass if all classes of a set are unseen.
    """
    unseen = {}
    for side, (frame, rows) in sides.items():
        if side != "train" and (facts := unseen_classes(label, frame[label.column].iloc[rows])):
            unseen[side] = facts
            if label.objective == "multiclass" and facts["labels"] == len(rows):
                raise DataError(
                    f"Label column {label.column!r}: no row of the {side} set has a class of the training rows. Check "
                    "the column, or use other rows."
                )
    return unseen
