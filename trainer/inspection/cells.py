"""A column of a loaded dataset as numbers, whatever its kind: what can be counted, sorted and compared."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.schema import LIST_KINDS, NUMERIC_KINDS
from trainer.features.tokenizers import TextRules
from trainer.features.vocabulary import Values, category_values, list_values, values_of
from trainer.inspection.leakage import spaced

MOST_TEXTS = 2**18  # rows whose tokens are counted, where there are more distinct texts

Array = npt.NDArray[Any]


class Column(NamedTuple):
    """A column that has a role: its kind as in `trainer.data.columns`, its type in schema.json, else the form
    that was found; width: how many values of a row are kept of it."""

    name: str
    role: str
    kind: str
    type: str
    width: int = 1

    @property
    def measured(self) -> bool:
        """Whether its values are numbers or times."""
        return self.kind in NUMERIC_KINDS or self.kind == "time"


class Cells(NamedTuple):
    """A column of a frame as numbers; an array or index that does not apply is empty."""

    codes: Array  # int [rows]: which distinct value a row has, -1: none; empty for numbers
    texts: pd.Index  # what the codes of categories, keys and texts stand for
    numbers: Array  # float64 [rows]: numbers, microseconds since 1970, tokens of a text, values of a list; NaN: missing
    values: Values | None  # of columns that can have a vocabulary: their categories or tokens

    @property
    def comparable(self) -> Array:
        """int or float [rows], as `leakage.leak` takes it."""
        return self.codes if len(self.codes) else self.numbers

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """bool [rows]"""
        return np.asarray(self.codes < 0 if len(self.codes) else np.isnan(self.numbers))

    @property
    def uncounted(self) -> bool:
        """Whether the tokens of some texts were not counted, for they are too many."""
        return bool(len(self.codes) and len(self.numbers) and (np.isnan(self.numbers) & (self.codes >= 0)).any())


def cells_of(column: pd.Series, kind: str, rules: TextRules) -> Cells:
    """The cells of a column of a loaded dataset."""
    none, no_text = np.zeros(0), pd.Index([], dtype="str")
    if kind in NUMERIC_KINDS or kind == "time":
        numbers = _times(column) if kind == "time" else column.to_numpy(np.float64)
        return Cells(none, no_text, numbers, None)
    if kind == "key":
        encoded = _encoded(pa.array(column.array))
        return Cells(
            encoded.indices.fill_null(-1).to_numpy(), pd.Index(pd.array(encoded.dictionary, dtype="str")), none, None
        )
    if kind in LIST_KINDS:
        values = list_values(column)
        joined = _encoded(pc.binary_join(pa.array(column.array), "\0"))
        codes = np.where(values.cells < 0, -1, joined.indices.fill_null(-1).to_numpy())
        return Cells(codes, no_text, _lengths(values), values)
    codes, texts = column.cat.codes.to_numpy(), column.cat.categories
    if kind != "text":
        return Cells(codes, texts, none, category_values(column))
    rows = np.arange(len(column))
    if len(texts) > MOST_TEXTS:
        rows = spaced(rows, MOST_TEXTS)
    found = values_of(column.iloc[rows], "text", rules)
    cells = np.full(len(column), -1, np.int32)
    cells[rows] = found.cells
    values = Values(found.tokens, cells)
    return Cells(codes, texts, _lengths(values), values)


def _encoded(array: pa.Array) -> pa.DictionaryArray:
    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return whole.dictionary_encode()


def _times(column: pd.Series) -> Array:
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.to_numpy(np.float64, na_value=np.nan)
    return np.where(column.isna(), np.nan, column.dt.as_unit("us").array.asi8)


def _lengths(values: Values) -> Array:
    return np.append(np.diff(values.tokens.offsets), np.nan)[values.cells]
