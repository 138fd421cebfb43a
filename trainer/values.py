"""The JSON values of one column -> an Arrow array -> a pandas column, as the column's kind demands.

    kind          JSON values                                         pandas column
    category      string, INTEGER (bare or in quotes), boolean        category of str; missing: NaN
    categories    a list of such values                               ArrowDtype(list<string>)
    text          string of at most MAX_TEXT characters               str
    number        number, or in quotes: "12", "1.5", "NaN"            float64; missing: NaN
    key           as category                                         str, the exact text
    time          INTEGER, or text of DATE, DATETIME or TIMESTAMP     Int64, datetime64[us], datetime64[us, UTC]
    probability   as number, or boolean; in [0, 1], required          float64
    target        as number; required                                 float64
    class         as category; required                               as category
    classes       as categories; required, [] allowed                 as categories
    weight        as number; >= 0, required                           float64

Categories, keys and times are exact. Numbers are float64: integers beyond 2**53 and NUMERIC round to the nearest one;
what is infinite or beyond float32 is refused, since features, labels and weights are float32 later on.
A column of categories, keys or times has one form in all its rows, that of its first value: no type is ever guessed.
Where the table's schema is known, it decides which kinds a column can have, and values must be of its type.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.schema import LABEL_KINDS, LIST_KINDS, NUMERIC_KINDS, Column

MAX_TEXT = 1_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

# Grammars, ASCII only. JSON's own for numbers: no "+1", "007", "1_000", " 5 ", "0x10".
INTEGER = r"(0|-?[1-9][0-9]*)"
NUMBER = r"(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|NaN|-?Infinity)"
BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
DATETIME = DATE + r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
UTC = r" ?(UTC|Z|\+00(:?00)?)"

JSON_TYPE = {str: "string", int: "integer", float: "fraction", bool: "boolean", list: "list", dict: "object"}
PYTHON_TYPE = {"string": str, "integer": int, "boolean": bool}
TIME_FORMS = {"INTEGER": INTEGER, "DATE": DATE, "DATETIME": DATETIME, "TIMESTAMP": DATETIME + UTC}
TIME_TYPES = {"DATE": pa.timestamp("us"), "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC")}


def to_arrow(values: list[Any], column: Column) -> pa.Array:
    """The values of some rows as an array; numbers have NaN for what is missing, all others null.

    Raises ValueError with the reason, without saying which value, if any of them is refused. Gives the same for a
    list of values as for its parts, one after the other.
    """
    if column.required and None in values:
        raise ValueError("is missing")
    if column.kind in NUMERIC_KINDS:
        return pa.array(_numbers(values, column))
    if column.kind in LIST_KINDS:
        return _lists(values, column)
    if column.kind == "time":
        return _times(values, column)
    texts = _texts(values, column)
    if column.kind == "text" and (pc.max(pc.utf8_length(texts)).as_py() or 0) > MAX_TEXT:
        raise ValueError(f"has a text of more than {MAX_TEXT:,} characters")
    return texts.dictionary_encode() if column.kind in ("category", "class") else texts


def refused(values: list[Any], column: Column) -> Iterator[tuple[int, str]]:
    """Index and reason of each value that `to_arrow` refuses, in order, found by halving."""
    try:
        to_arrow(values, column)
    except ValueError as error:
        if len(values) == 1:
            yield 0, str(error)
            return
        half = len(values) // 2
        yield from refused(values[:half], column)
        yield from ((half + index, reason) for index, reason in refused(values[half:], column))


def to_pandas(arrays: list[pa.Array], column: Column) -> Any:
    """The arrays of all rows, one after the other, as a pandas column."""
    if column.kind == "time":
        final = TIME_TYPES.get(column.form, pa.int64())
        times = pa.chunked_array([array.cast(final) for array in arrays])  # arrays before the first value: null
        return times.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    chunks = pa.chunked_array(arrays)
    if column.kind in NUMERIC_KINDS:
        return chunks.to_numpy()
    if column.kind in LIST_KINDS:
        return pd.array(chunks, dtype=pd.ArrowDtype(chunks.type))
    if column.kind in ("category", "class"):
        return _categorical(chunks)
    return pd.array(chunks, dtype="str")


def _categorical(chunks: pa.ChunkedArray) -> pd.Categorical:
    """Categories in the order of their code points, so that the order of the rows does not show."""
    merged = chunks.unify_dictionaries().combine_chunks()
    order = pc.sort_indices(merged.dictionary).to_numpy()
    ranks = np.full(len(order) + 1, -1)  # the last one is what the code -1 of a missing value finds
    ranks[order] = np.arange(len(order))
    codes = ranks[merged.indices.fill_null(-1).to_numpy()]
    return pd.Categorical.from_codes(codes, categories=pd.Index(pd.array(merged.dictionary.take(order), dtype="str")))


def _settle_form(values: Iterable[Any], column: Column) -> None:
    if not column.form:
        first = next((value for value in values if value is not None), None)
        if first is not None:
            column.form = _form(first, column.kind)


def _form(value: Any, kind: str) -> str:
    form = JSON_TYPE[type(value)]
    if kind == "time":
        if form == "string":
            form = next((name for name, grammar in TIME_FORMS.items() if re.fullmatch(grammar, value)), "")
        if form not in ("integer", *TIME_FORMS):
            raise ValueError(f"is no {', '.join(TIME_FORMS)}")
    elif form not in (("string",) if kind == "text" else PYTHON_TYPE):
        raise ValueError(f"holds a JSON {form}, which {kind!r} does not take")
    return form


def _check_types(values: Iterable[Any], expected: type) -> None:
    for wrong in set(map(type, values)) - {expected, NoneType}:
        raise ValueError(f"holds a JSON {JSON_TYPE[wrong]} where every row needs a JSON {JSON_TYPE[expected]}")


def _matched(texts: pa.Array, grammar: str, what: str) -> pa.Array:
    if pc.all(pc.match_substring_regex(texts, f"^({grammar})$")).as_py() is False:
        raise ValueError(f"is not {what}")
    return texts


def _cast(texts: pa.Array, target: pa.DataType, what: str) -> pa.Array:
    try:
        return texts.cast(target)
    except pa.ArrowInvalid:  # its text holds the value
        raise ValueError(f"is not {what}") from None


def _int64(texts: pa.Array) -> pa.Array:
    what = "an INTEGER within 64 bits"
    return _cast(_matched(texts, INTEGER, what), pa.int64(), what)


def _bare_int64(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except OverflowError:
        raise ValueError("is not an INTEGER within 64 bits") from None


def _texts(values: list[Any], column: Column) -> pa.Array:
    _settle_form(values, column)
    form = column.form or "string"
    _check_types(values, PYTHON_TYPE[form])
    if form == "integer":
        return _bare_int64(values).cast(pa.string())
    if form == "boolean":
        return pa.array(values, pa.bool_()).cast(pa.string())
    texts = pa.array(values, pa.string())
    if column.type == "INTEGER":
        _int64(texts)
    elif column.type == "BYTES":
        _matched(texts, BASE64, "base64, as BYTES are written")
    return texts


def _lists(values: list[Any], column: Column) -> pa.Array:
    _check_types(values, list)
    flat = list(chain.from_iterable(filter(None, values)))
    if None in flat:
        raise ValueError("holds a list with null in it")
    offsets = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, _texts(flat, column), mask=missing)


def _times(values: list[Any], column: Column) -> pa.Array:
    _settle_form(values, column)
    if not column.form:
        return pa.nulls(len(values))
    if column.form == "integer":
        _check_types(values, int)
        return _bare_int64(values)
    _check_types(values, str)
    texts = pa.array(values, pa.string())
    if column.form == "INTEGER":
        return _int64(texts)
    what = f"a {column.form} as every row needs"
    texts = _matched(texts, TIME_FORMS[column.form], what)
    if column.form == "TIMESTAMP":
        texts = pc.replace_substring_regex(texts, f"{UTC}$", "")
    return _cast(texts, pa.timestamp("us"), what).cast(TIME_TYPES[column.form])


def _numbers(values: list[Any], column: Column) -> np.ndarray:
    allowed: set[type] = {int, float, str}
    if column.type in ("INTEGER", "BOOLEAN"):
        allowed = {int, str} if column.type == "INTEGER" else {bool}
    if column.kind == "probability" and not column.type:
        allowed = allowed | {bool}
    types = set(map(type, values)) - {NoneType}
    for wrong in types - allowed:
        raise ValueError(f"holds a JSON {JSON_TYPE[wrong]}, which {column.type or repr(column.kind)} does not take")
    bare = [None if type(value) is str else value for value in values] if str in types else values
    if column.type == "INTEGER":
        _bare_int64(bare)
    numbers = np.array(bare, dtype=np.float64)  # None becomes NaN
    if str in types:
        quoted = pa.array([value if type(value) is str else None for value in values], pa.string())
        numbers = np.where(quoted.is_valid(), _quoted_numbers(quoted, column), numbers)
    _check_range(numbers, column)
    return numbers


def _quoted_numbers(texts: pa.Array, column: Column) -> np.ndarray:
    if column.type == "INTEGER":
        _int64(texts)
    numbers = _cast(_matched(texts, NUMBER, "a number"), pa.float64(), "a number")
    return np.asarray(numbers.to_numpy(zero_copy_only=False))


def _check_range(numbers: np.ndarray, column: Column) -> None:
    if column.kind in LABEL_KINDS and np.isnan(numbers).any():
        raise ValueError("is NaN, but every row needs a number")
    if np.isinf(numbers).any():
        raise ValueError("is infinite")
    if (np.abs(numbers) > FLOAT32_MAX).any():
        raise ValueError(f"is beyond what float32 holds ({FLOAT32_MAX:.7g})")
    if column.kind == "probability" and not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError("is a binary label outside [0, 1]")
    if column.kind == "weight" and (numbers < 0).any():
        raise ValueError("is a negative weight")
