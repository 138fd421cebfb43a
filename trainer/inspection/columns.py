"""Convert a column to arrays that can be counted, sorted and compared."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.schema import LIST_KINDS, NUMERIC_KINDS
from trainer.features.tokenizers import TextRules
from trainer.features.vocabulary import Kept, Values, category_values, list_values, values_of
from trainer.inspection.leakage import evenly_spaced

MAX_TEXTS = 2**18  # with more distinct texts than this, only so many rows are tokenized

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """A column with a role."""

    name: str
    role: str
    kind: str  # see `trainer.data.columns`
    type: str  # as in schema.json, else the JSON types seen in the rows
    kept: Kept = Kept(1, "first")

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers or times."""
        return self.kind in NUMERIC_KINDS or self.kind == "time"


class ColumnValues(NamedTuple):
    """The values of a column as arrays; what does not apply to its kind is empty."""

    codes: Array  # int [rows]: index of the row's distinct value, -1: missing; empty for numbers
    texts: pd.Index  # the distinct value of each code, of categories, keys and texts
    numbers: Array  # float64 [rows]: number, microseconds since 1970, tokens of a text, values of a list; NaN: missing
    tokens: Values | None  # categories or tokens, of columns that can have a vocabulary

    @property
    def comparable(self) -> Array:
        """int or float [rows], the form that `leakage.leakage` takes."""
        return self.codes if len(self.codes) else self.numbers

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """bool [rows]"""
        return np.asarray(self.codes < 0 if len(self.codes) else np.isnan(self.numbers))

    @property
    def sampled(self) -> bool:
        """Whether only some of the texts were tokenized, since there are too many."""
        return bool(len(self.codes) and len(self.numbers) and (np.isnan(self.numbers) & (self.codes >= 0)).any())


def column_values(column: pd.Series, kind: str, rules: TextRules) -> ColumnValues:
    """The arrays of a column of a loaded dataset. kind: as in `trainer.data.columns`."""
    no_numbers, no_texts = np.zeros(0), pd.Index([], dtype="str")
    if kind == "time":
        return ColumnValues(no_numbers, no_texts, _microseconds(column), None)
    if kind in NUMERIC_KINDS:
        return ColumnValues(no_numbers, no_texts, column.to_numpy(np.float64), None)
    if kind == "key":
        encoded = _dictionary(pa.array(column.array))
        texts = pd.Index(pd.array(encoded.dictionary, dtype="str"))
        return ColumnValues(encoded.indices.fill_null(-1).to_numpy(), texts, no_numbers, None)
    if kind in LIST_KINDS:
        values = list_values(column)
        lists = _dictionary(pc.binary_join(pa.array(column.array), "\0"))
        codes = np.where(values.cells < 0, -1, lists.indices.fill_null(-1).to_numpy())
        return ColumnValues(codes, no_texts, _lengths(values), values)
    codes, texts = column.cat.codes.to_numpy(), column.cat.categories
    if kind == "text":
        tokens = _tokens(column, rules)
        return ColumnValues(codes, texts, _lengths(tokens), tokens)
    return ColumnValues(codes, texts, no_numbers, category_values(column))


def _tokens(column: pd.Series, rules: TextRules) -> Values:
    """The tokens of a text column, of evenly spaced rows where it has too many texts."""
    rows = np.arange(len(column))
    if len(column.cat.categories) > MAX_TEXTS:
        rows = evenly_spaced(rows, MAX_TEXTS)
    values = values_of(column.iloc[rows], "text", rules)
    cells = np.full(len(column), -1, np.int32)
    cells[rows] = values.cells
    return Values(values.tokens, cells)


def _dictionary(array: pa.Array) -> pa.DictionaryArray:
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).dictionary_encode()


def _microseconds(column: pd.Series) -> Array:
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.where(column.isna(), np.nan, column.dt.as_unit("us").array.asi8)


def _lengths(values: Values) -> Array:
    return np.append(np.diff(values.tokens.offsets), np.nan)[values.cells]
