"""What is predicted, as numbers, and the best constant prediction of it."""

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
    """`classes` (multiclass, multilabel) in the order of the outputs, sorted; `mean` and `std` of a regression's label,
    else 0 and 1; `output_bias`: logits of the best constant prediction, 0 for a regression. All weighted."""

    column: str
    objective: str
    classes: tuple[str, ...]
    mean: float
    std: float
    output_bias: tuple[float, ...]


def learn_label(column: pd.Series, objective: str, weights: Array) -> Label:
    """The label of the training rows. DataError where all weights are 0, or no row has a class."""
    name, total = str(column.name), total_of(weights)
    if total <= 0:
        raise DataError(f"The weights of the {len(weights)} training rows add up to {total:g}: no row counts.")
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


def apply_label(label: Label, column: pd.Series) -> Array:
    """binary, regression float32 [rows]; multiclass int32 [rows]; multilabel int32 [rows, most classes of a row].

    multiclass refuses a class that no training row has (DataError), for no output stands for it; multilabel leaves such
    a class out, for the row's answer to every other class still holds.
    """
    if label.objective in ("binary", "regression"):
        return ((column.to_numpy(np.float64) - label.mean) / label.std).astype(np.float32)
    if label.objective == "multiclass":
        tokens = category_values(column).flat
        numbers = indices_of(tokens.values, label.classes)[tokens.ids]
        if (numbers < 0).any():
            raise DataError(_unseen_classes(label, tokens, numbers))
        return numbers
    rows, numbers = _distinct_classes(list_values(column).flat, label.classes)
    lengths = np.bincount(rows, minlength=len(column))
    known = Tokens([], numbers, np.append(0, np.cumsum(lengths)))
    return padded(known, np.arange(1, len(label.classes) + 1), max(1, int(lengths.max(initial=0))))


def _logits(rates: Array) -> tuple[float, ...]:
    rates = np.clip(rates, RATE_LIMIT, 1 - RATE_LIMIT)
    return tuple(np.log(rates / (1 - rates)).tolist())


def _distinct_classes(tokens: Tokens, classes: tuple[str, ...]) -> tuple[Array, Array]:
    """Row and class number of every known class of every row, each once, in order."""
    rows = np.repeat(np.arange(len(tokens.offsets) - 1), np.diff(tokens.offsets))
    numbers = indices_of(tokens.values, classes)[tokens.ids]
    known = numbers >= 0
    return np.divmod(np.unique(rows[known] * len(classes) + numbers[known]), len(classes))


def _unseen_classes(label: Label, tokens: Tokens, numbers: Array) -> str:
    counts = np.bincount(tokens.ids[numbers < 0], minlength=len(tokens.values))
    unseen = [value for value in np.argsort(-counts, kind="stable") if counts[value]]
    named = ", ".join(f"{tokens.values[value][:40]!r} ({counts[value]} rows)" for value in unseen[:5])
    more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
    return (
        f"Label column {label.column!r} has classes that no training row has: {named}{more}. "
        "Leave these rows out, or see to it that training rows have these classes too."
    )
