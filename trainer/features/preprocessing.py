"""Fit preprocessing to the training rows, and transform typed columns into arrays of ids and numbers.

`Preprocessing` is the fitted state, stored as JSON; `trainer.package.saved_model` repeats `transform` in a graph.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.features.labels import OBJECTIVES, Label, encode_label, fit_label
from trainer.features.scale import Scale, feature_scale, numbers_of, standardised
from trainer.features.shapes import DatasetShapes
from trainer.features.tokenizers import TOKENIZERS, TextRules
from trainer.features.vocabulary import (
    ENDS,
    FIRST_ID,
    MISSING,
    Kept,
    Values,
    VocabularyRules,
    ids_of_cells,
    most_frequent,
    values_of,
)
from trainer.runtime.errors import DataError

LABEL = "__label__"
WEIGHT = "__weight__"

VOCABULARY_ROLES = ("categorical", "multi_categorical", "text")
NUMERIC_ROLES = ("numeric", "log_numeric")

Array = npt.NDArray[Any]
Rows = Array | slice
Examples = dict[str, Array]
Columns = pd.DataFrame | Mapping[str, pd.Series | Values]


class Rules(NamedTuple):
    """How features are fitted; outlier_limit: see `scale.feature_scale`."""

    vocabulary: VocabularyRules
    text: TextRules
    outlier_limit: float | None = None


@dataclass(frozen=True)
class Preprocessing:
    """The fitted state: `vocabularies` hold the values of each column from id 3 on."""

    features: dict[str, str]  # column -> role
    vocabularies: dict[str, tuple[str, ...]]
    scales: dict[str, Scale]
    label: Label
    weight: str | None
    vocabulary: VocabularyRules
    text: TextRules
    longest: dict[str, int] = field(default_factory=dict)  # column -> values of the longest training row

    def with_role(self, *roles: str) -> list[str]:
        """The features that have one of the roles, in order."""
        return [column for column, role in self.features.items() if role in roles]

    def kept(self, column: str) -> Kept:
        """Which values of a row are kept, of a column with a vocabulary: no more than the longest training row has."""
        width, end = kept_values(self.features[column], self.vocabulary, self.text)
        return Kept(min(width, self.longest.get(column, width)), end)

    def shapes(self) -> DatasetShapes:
        """The shapes that a network is built from."""
        ids = {column: FIRST_ID + len(values) for column, values in self.vocabularies.items()}
        return DatasetShapes(
            categorical={column: ids[column] for column in self.with_role("categorical")},
            multi_categorical={c: (ids[c], self.kept(c).width) for c in self.with_role("multi_categorical")},
            text={column: (ids[column], self.kept(column).width) for column in self.with_role("text")},
            numeric=tuple(self.scales),
            outputs=len(self.label.output_bias),
            output_bias=self.label.output_bias,
            label_mean=self.label.mean,
            label_std=self.label.std,
        )

    def to_json(self) -> str:
        """The text that `from_json` restores exactly."""
        return json.dumps(self, default=vars, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Preprocessing":
        """Restore what `to_json` wrote. DataError for anything else: a package may be damaged or manipulated."""
        try:
            restored: Preprocessing = _typed(json.loads(text), cls, "preprocessing")
            _check(restored)
        except (ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"preprocessing.json is damaged: {str(error)[:300]}. Use an unchanged package.") from error
        return restored


def with_values(frame: pd.DataFrame, features: Mapping[str, str], text: TextRules) -> dict[str, pd.Series | Values]:
    """The columns of a frame; columns with a vocabulary become `Values`.

    A text is then tokenized once for both `fit` and `encoded.encode_rows`.
    """
    vocabulary = {column: role for column, role in features.items() if role in VOCABULARY_ROLES}
    values = {column: values_of(frame[column], role, text) for column, role in vocabulary.items()}
    return {str(column): frame[column] for column in frame.columns} | values


def fit(
    train: Columns,
    features: Mapping[str, str],
    *,
    label: str,
    weight: str | None,
    objective: str,
    rules: Rules,
    rows: Rows = slice(None),
) -> Preprocessing:
    """Fit vocabularies, scales and the label to the training rows; the order of the rows has no effect.

    features: column -> "categorical", "multi_categorical", "text", "numeric" or "log_numeric"; rows: which of the
    columns' rows are for training. Raises DataError: a negative number in a log_numeric column, a reserved column name,
    no class at all, weights that add up to 0.
    """
    for column in {LABEL, WEIGHT} & features.keys():
        raise DataError(f"Column {column!r}: this name is reserved. Rename the column in the dataset.")
    vocabulary, text, outlier_limit = rules
    vocabularies, scales, longest = {}, {}, {}
    for column, role in features.items():
        if role in NUMERIC_ROLES:
            scales[column] = feature_scale(numbers_of(series_of(train, column, rows), role), outlier_limit)
        else:
            values = values_of(train[column], role, text).of(rows)
            vocabularies[column] = most_frequent(values, kept_values(role, vocabulary, text), vocabulary)
            longest[column] = max(int(values.lengths.max(initial=0)), 1)
    fitted_label = fit_label(series_of(train, label, rows), objective, _weights(train, weight, rows, label))
    return Preprocessing(dict(features), vocabularies, scales, fitted_label, weight, vocabulary, text, longest)


def truncated_shares(preprocessing: Preprocessing, train: Columns, rows: Rows) -> dict[str, float]:
    """The share of the training rows with more values than are kept, by column, where there are any."""
    shares = {}
    for column in preprocessing.with_role("multi_categorical", "text"):
        values = values_of(train[column], preprocessing.features[column], preprocessing.text).of(rows)
        if share := float((values.lengths > preprocessing.kept(column).width).mean()):
            shares[column] = share
    return shares


def transform(preprocessing: Preprocessing, frame: Columns) -> Examples:
    """Transform a frame into arrays, in the order of the features; label and weight only if it has the label column.

    categorical int32 [rows]; multi_categorical and text int32 [rows, width], right-padded with 0, [1, 0, ...] if
    missing (an empty text: all 0); numeric float32 [rows, 2]: (standardised value or 0, 1 if missing else 0).
    Label: float32 [rows] (regression: standardised); multiclass int32 [rows]; multilabel int32 [rows, most classes of
    a row], class numbers from 1, right-padded with 0. A class that no training row has is -1 (multiclass) or left out.
    Weight float32 [rows]. Raises DataError for a negative number in a log_numeric column.
    """
    return feature_encoder(preprocessing, frame)(slice(None)) | label_of(preprocessing, frame, slice(None))


def feature_encoder(preprocessing: Preprocessing, frame: Columns) -> Callable[[Rows], Examples]:
    """Return a function that encodes the features of some rows. Each distinct value is looked up once, here."""
    columns = {
        c: values_of(frame[c], preprocessing.features[c], preprocessing.text) for c in preprocessing.vocabularies
    }
    ids = {
        c: ids_of_cells(values.tokens, preprocessing.vocabularies[c], preprocessing.kept(c))
        for c, values in columns.items()
    }

    def encode(rows: Rows) -> Examples:
        examples: Examples = {}
        for column, role in preprocessing.features.items():
            if role in NUMERIC_ROLES:
                numbers = numbers_of(series_of(frame, column, rows), role)
                examples[column] = standardised(numbers, preprocessing.scales[column])
            else:
                row_ids = np.take(ids[column], columns[column].cells[rows], axis=0, mode="wrap")
                examples[column] = row_ids[:, 0] if role == "categorical" else row_ids
        return examples

    return encode


def label_of(preprocessing: Preprocessing, frame: Columns, rows: Rows) -> Examples:
    """Encode label and weight of some rows; an empty dict if the frame has no label column."""
    if preprocessing.label.column not in frame:
        return {}
    label = encode_label(preprocessing.label, series_of(frame, preprocessing.label.column, rows))
    return {
        LABEL: label,
        WEIGHT: _weights(frame, preprocessing.weight, rows, preprocessing.label.column).astype(np.float32),
    }


def series_of(frame: Columns, column: str, rows: Rows) -> pd.Series:
    """Some rows of a column that has no vocabulary."""
    return typing.cast(pd.Series, frame[column]).iloc[rows]


def kept_values(role: str, vocabulary: VocabularyRules, text: TextRules) -> Kept:
    """Which values of a row are kept by the rules for a role."""
    if role == "text":
        return Kept(text.max_tokens, text.keep)
    return Kept(vocabulary.max_values, vocabulary.keep) if role == "multi_categorical" else Kept(1, "first")


def _weights(frame: Columns, weight: str | None, rows: Rows, label: str) -> npt.NDArray[np.float64]:
    """float64 [rows]; all 1 without a weight column."""
    column = series_of(frame, weight or label, rows)
    return np.ones(len(column)) if weight is None else column.to_numpy(np.float64)


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Convert a JSON value to an annotated type; ValueError if it does not fit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        # What was added since has a default, for older files. Of a field without one both defaults are MISSING.
        optional = {item.name for item in dataclasses.fields(kind) if item.default is not item.default_factory}
        if hints.keys() - optional <= value.keys() <= hints.keys():
            build: Any = kind
            return build(**{name: _typed(item, hints[name], f"{where}.{name}") for name, item in value.items()})
    if origin is dict and isinstance(value, dict):
        return {name: _typed(item, arguments[1], f"{where}.{name[:40]!r}") for name, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(item, arguments[0], where) for item in value)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is not float and type(value) in (arguments if origin is types.UnionType else (kind,)):
        return value
    raise ValueError(f"{where} is {repr(value)[:40]}")


def _is_scale(scale: Scale) -> bool:
    return scale.std > 0 and scale.spread > 0 and (scale.limit is None or 0 < scale.limit < math.inf)


def _check(restored: Preprocessing) -> None:
    """Raise ValueError for a state that `fit` cannot have made."""
    label, scales, vocabularies = restored.label, restored.scales, restored.vocabularies
    for values in (*vocabularies.values(), label.classes):
        "\0".join(values).encode()  # UnicodeEncodeError, which is a ValueError, for half of a surrogate pair
    classes = label.objective in ("multiclass", "multilabel")
    outputs = len(label.classes) if classes else 1
    rules = restored.vocabulary
    limits = (rules.min_count, rules.max_size, rules.max_values, restored.text.max_tokens)
    checks = {
        "roles of the features": set(restored.features.values()) <= {*VOCABULARY_ROLES, *NUMERIC_ROLES},
        "names of the features": not {LABEL, WEIGHT} & restored.features.keys(),
        "vocabularies": list(vocabularies) == restored.with_role(*VOCABULARY_ROLES)
        and all(len({MISSING, *values}) == len(values) + 1 for values in vocabularies.values()),
        "scales": list(scales) == restored.with_role(*NUMERIC_ROLES)
        and all(_is_scale(scale) for scale in scales.values()),
        "objective": label.objective in OBJECTIVES,
        "classes": outputs > 0 and len(set(label.classes)) == len(label.classes) == (outputs if classes else 0),
        "label": label.std > 0 and len(label.output_bias) == outputs,
        "vocabulary": min(limits) > 0 and restored.vocabulary.keep in ENDS,
        "text": restored.text.tokenizer in TOKENIZERS and restored.text.keep in ENDS,
        "longest": restored.longest.keys() <= vocabularies.keys() and min(restored.longest.values(), default=1) > 0,
    }
    for part, fits in checks.items():
        if not fits:
            raise ValueError(f"its {part} cannot be right")
