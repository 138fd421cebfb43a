"""Hash the typed columns of a frame: by its values, whatever the order of rows, categories and columns.

The hashes are those of `pandas.util.hash_array`: SipHash-2-4 of text with a fixed key, the bits of numbers, then the
finaliser of splitmix64.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api.types import is_datetime64_any_dtype, is_float_dtype, is_numeric_dtype

from trainer.data.row_hash import Hashes, Integers, mix

MISSING = np.uint64(0x9E3779B97F4A7C15)  # the hash of a missing value


def row_hashes(frame: pd.DataFrame, columns: Sequence[str]) -> Hashes:
    """uint64 [rows]: a hash of the values of some columns (none: of all), whatever the order of the columns."""
    total = np.zeros(len(frame), dtype=np.uint64)
    named = [frame[name] for name in columns or frame.columns.tolist()]
    with ThreadPoolExecutor(os.cpu_count()) if len(named) > 1 else nullcontext() as pool:
        for hashes in (pool.map if pool else map)(_column_hashes, named):
            total += hashes
    return mix(total)


def _column_hashes(column: pd.Series) -> Hashes:
    return mix(value_hashes(column) ^ text_hashes([column.name]))


def values_of(column: pd.Series) -> tuple[Integers, Hashes]:
    """The row position and the hash of each value that is not missing, and of each element of a list."""
    if _is_list(column):
        lists = pa.array(column)
        return np.asarray(pc.list_parent_indices(lists)), value_hashes(pc.list_flatten(lists).to_pandas())
    hashes = value_hashes(column)
    rows = np.flatnonzero(hashes != MISSING)
    return rows, hashes[rows]


def value_hashes(column: pd.Series) -> Hashes:
    """uint64 [rows]: hashes of the values, whatever the categories of their dtype; MISSING for missing values."""
    if _is_list(column):
        lists = pa.array(column)
        some = pc.greater(pc.list_value_length(lists), 0)  # an empty list is no value, too
        column = pc.if_else(some, pc.binary_join(lists, "\0"), None).to_pandas()
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.append(text_hashes(column.cat.categories), MISSING)[column.cat.codes.to_numpy()]
    if is_float_dtype(column.dtype):
        hashes = pd.util.hash_array(column.to_numpy("float64", na_value=np.nan) + 0.0)  # -0.0 is 0.0
    elif is_numeric_dtype(column.dtype) or is_datetime64_any_dtype(column.dtype):
        hashes = pd.util.hash_array(integers_of(column))
    else:
        codes, texts = pd.factorize(column)
        return np.append(text_hashes(texts), MISSING)[codes]
    return np.where(column.isna(), MISSING, hashes)


def text_hashes(texts: Any) -> Hashes:
    return pd.util.hash_array(np.asarray(texts, dtype=object), categorize=False)


def integers_of(column: pd.Series) -> Integers:
    """Integers unchanged, times as microseconds since 1970 (UTC); missing values are any number."""
    if is_datetime64_any_dtype(column.dtype):
        return np.asarray(column.dt.as_unit("us").array.asi8)
    return column.to_numpy("int64", na_value=0)


def _is_list(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_list(column.dtype.pyarrow_dtype)


def coded_values(column: pd.Series) -> tuple[Integers, NDArray[Any], Hashes]:
    """As `values_of`, but each value as a code, and the hash that each code stands for."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        rows = np.flatnonzero(column.cat.codes >= 0).astype(np.int64)
        return rows, column.cat.codes.to_numpy()[rows], text_hashes(column.cat.categories)
    rows, values = values_of(column)
    codes, hashes = pd.factorize(values)
    return rows, codes, hashes
