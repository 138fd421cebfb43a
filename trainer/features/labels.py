"""Encode labels as numbers, and find the best prediction that is the same for every row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.features.scale import scale_of, total_of
from trainer.features.tokenizers import Tokens
from trainer.features.vocabulary import category_values, indices_of, list_values, padded
from trainer.runtime.errors import DataError

OBJECTIVES = ("binary", "regression", "multiclass", "multilabel")
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
    tokens = (category_values(column) if objective == "multiclass" else list_values(column)).flat
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
    with 0. There is no output for a class that no training row has: multiclass raises DataError, multilabel leaves the
    class out and keeps the others.
    """
    if label.objective in ("binary", "regression"):
        return ((column.to_numpy(np.float64) - label.mean) / label.std).astype(np.float32)
    if label.objective == "multiclass":
        tokens = category_values(column).flat
        numbers = indices_of(tokens.values, label.classes)[tokens.ids]
        if (numbers < 0).any():
            raise _unseen_classes_error(label, tokens, numbers)
        return numbers
    rows, numbers = _distinct_classes(list_values(column).flat, label.classes)
    lengths = np.bincount(rows, minlength=len(column))
    classes = Tokens([], numbers, np.append(0, np.cumsum(lengths)))
    return padded(classes, np.arange(1, len(label.classes) + 1), max(1, int(lengths.max(initial=0))))


def _logits(rates: Array) -> tuple[float, ...]:
    rates = np.clip(rates, RATE_LIMIT, 1 - RATE_LIMIT)
    return tuple(np.log(rates / (1 - rates)).tolist())


def _distinct_classes(tokens: Tokens, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Row and class number of each class of each row, once and in order; unknown classes are left out."""
    rows = np.repeat(np.arange(len(tokens.offsets) - 1), np.diff(tokens.offsets))
    numbers = indices_of(tokens.values, classes)[tokens.ids]
    is_class = numbers >= 0
    return np.divmod(np.unique(rows[is_class] * len(classes) + numbers[is_class]), len(classes))


def _unseen_classes_error(label: Label, tokens: Tokens, numbers: Array) -> DataError:
    counts = np.bincount(tokens.ids[numbers < 0], minlength=len(tokens.values))
    unseen = [value for value in np.argsort(-counts, kind="stable") if counts[value]]
    named = ", ".join(f"{tokens.values[value][:40]!r} ({counts[value]} rows)" for value in unseen[:5])
    more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
    return DataError(
        f"Label column {label.column!r} has classes that no training row has: {named}{more}. "
        "Leave these rows out, or add training rows with these classes."
    )
