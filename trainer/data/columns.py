"""Convert the JSON values of a column to an Arrow array, and that to a pandas column, by the column's kind.

    kind          JSON values                                         pandas column
    category      string, whole number, boolean                       category of str; missing: NaN
    categories    a list of such values                               ArrowDtype(list<string>)
    text          string of at most MAX_TEXT characters               category of str; missing: NaN
    number        number, or in quotes: "12", "1.5", "NaN"            float64; missing: NaN
    amount        as number; >= 0                                     float64; missing: NaN
    key           as category                                         str, the exact text
    time          number, or text (see `trainer.data.times`)          Int64, datetime64[us], datetime64[us, UTC]
    probability   as number, or boolean; in [0, 1], required          float64
    outcome       as category, required                               float64: 1 for the positive value, else 0
    target        as number; required                                 float64
    class         as category; required                               as category
    classes       as categories; required, [] allowed                 as categories
    weight        as number; >= 0, required                           float64

Categories, keys and times are exact. Numbers are float64: integers beyond 2**53 and NUMERIC round to the nearest one;
what is infinite or beyond float32 is refused, since features, labels and weights are float32 later on.
A column of categories, keys or times has the same form in all rows, that of its first value: no type is guessed.
Whole numbers may be written with a fraction of 0, and are 1021 then, not 1021.0.
If the table has a schema, it decides which kinds a column can have, and values must have its type.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data import times
from trainer.data.json_values import FORM_TYPES, typed_array
from trainer.data.schema import LABEL_KINDS, LIST_KINDS, NUMERIC_KINDS, Column

MAX_TEXT = 1_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

# Grammars, ASCII only. Numbers are those of JSON: no "+1", "007", "1_000", " 5 ", "0x10".
NUMBER = r"(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|NaN|-?Infinity)"
TRUE, FALSE = "^(true|True|TRUE)$", "^(false|False|FALSE)$"
BASE64 = r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

DICTIONARY_KINDS = {"category", "class", "text"}  # values repeat, and are held once


def to_arrow(values: list[Any], column: Column) -> pa.Array:
    """Convert the JSON values of some rows to an array; the first value decides the column's form.

    Raises ValueError with the reason, but without the value, if a value is invalid. Converting a list of values gives
    the same as converting its parts in order.
    """
    return convert(typed_array(values, column), column)


def convert(array: pa.Array, column: Column) -> pa.Array:
    """Convert an array of the type `json_type` of its column to the array that `to_pandas` takes.

    Missing numbers are NaN, other missing values null. Raises ValueError as `to_arrow`.
    """
    if column.required and array.null_count:
        raise ValueError("is missing")
    if column.kind in NUMERIC_KINDS:
        return pa.array(_numbers(array, column))
    if column.kind == "time":
        return times.convert(array, column)
    if column.kind in LIST_KINDS:
        if array.flatten().null_count:
            raise ValueError("holds a list with null in it")
        texts = _texts(array.values, column)
        return pa.ListArray.from_arrays(array.offsets, texts, mask=array.is_null())
    if column.kind == "key":
        return _texts(array, column)
    if column.type in ("INTEGER", "BYTES") and pa.types.is_string(array.type):
        encoded = array.dictionary_encode()  # so that each is checked once
        return pa.DictionaryArray.from_arrays(encoded.indices, _texts(encoded.dictionary, column))
    texts = _texts(array, column)
    # Bytes are counted in no time, and are not fewer than the characters.
    longest = pc.max(pc.binary_length(texts)).as_py() or 0
    if column.kind == "text" and longest > MAX_TEXT and pc.max(pc.utf8_length(texts)).as_py() > MAX_TEXT:
        raise ValueError(f"has a text of more than {MAX_TEXT:,} characters")
    return texts


def json_type(column: Column) -> pa.DataType:
    """The Arrow type of a column's values in JSON."""
    of_form = FORM_TYPES.get(column.form, pa.string())
    return pa.list_(of_form) if column.kind in LIST_KINDS else of_form


def refused_values(values: list[Any], column: Column) -> Iterator[tuple[int, str]]:
    """Index and reason of each value that `to_arrow` refuses, in order; searches by halving the list."""
    try:
        to_arrow(values, column)
    except ValueError as error:
        if len(values) == 1:
            yield 0, str(error)
            return
        half = len(values) // 2
        yield from refused_values(values[:half], column)
        yield from ((half + index, reason) for index, reason in refused_values(values[half:], column))


def join(arrays: list[pa.Array], column: Column) -> list[pa.Array]:
    """Join arrays of one type into one, which holds each category and text once."""
    if len({array.type for array in arrays}) > 1:
        return arrays
    joined = pa.chunked_array(arrays)
    if pa.types.is_dictionary(joined.type):
        joined = joined.unify_dictionaries()
    elif column.kind in DICTIONARY_KINDS:
        joined = joined.dictionary_encode()
    return [joined.combine_chunks()]


def to_pandas(arrays: list[pa.Array], column: Column) -> Any:
    """Join the arrays of all rows into a writable pandas column.

    Empties the list on the way, which keeps memory low. The categories of a text are in the order of their first row,
    all others are sorted by code points, so that the order of the rows has no effect.
    """
    if column.kind in DICTIONARY_KINDS:
        arrays[:] = [array if pa.types.is_dictionary(array.type) else array.dictionary_encode() for array in arrays]
    chunks = times.join(arrays, column) if column.kind == "time" else pa.chunked_array(arrays)
    arrays.clear()
    if column.kind == "time":
        return chunks.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).copy()
    if column.kind in NUMERIC_KINDS:
        return np.concatenate([chunk.to_numpy() for chunk in chunks.chunks])
    if column.kind in LIST_KINDS:
        return pd.array(chunks, dtype=pd.ArrowDtype(chunks.type))
    if column.kind == "key":
        return pd.array(chunks, dtype="str")
    return _categorical(chunks.unify_dictionaries(), in_order=column.kind != "text")


def _categorical(chunks: pa.ChunkedArray, *, in_order: bool) -> pd.Categorical:
    """A categorical of chunks that share their dictionary."""
    texts = chunks.chunk(0).dictionary
    codes = np.concatenate([chunk.indices.fill_null(-1).to_numpy() for chunk in chunks.chunks])
    del chunks
    if in_order:
        order = pc.sort_indices(texts).to_numpy()
        ranks = np.full(len(order) + 1, -1, dtype=np.int32)  # the last is for the code -1 of a missing value
        ranks[order] = np.arange(len(order), dtype=np.int32)
        codes, texts = ranks[codes], texts.take(order)
    # The public way would look whether categories are distinct, which they are, at 160 bytes for each of them.
    categories = pd.Index(pd.array(texts, dtype="str"))
    dtype = pd.CategoricalDtype._from_fastpath(categories, ordered=False)  # type: ignore[attr-defined]
    return pd.Categorical.from_codes(codes, dtype=dtype, validate=False)


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
    return _cast(_matched(texts, times.INTEGER, what), pa.int64(), what)


def _texts(array: pa.Array, column: Column) -> pa.Array:
    if pa.types.is_floating(array.type):
        array = array.cast(pa.int64())
    if not pa.types.is_string(array.type):
        return array.cast(pa.string())
    if column.type == "INTEGER":
        _int64(array)
    elif column.type == "BYTES":
        _matched(array, BASE64, "base64, as BYTES are written")
    return array


def _numbers(array: pa.Array, column: Column) -> np.ndarray:
    if column.kind == "outcome":
        array = _outcomes(array, column.positive)
    if pa.types.is_string(array.type):
        distinct = array.dictionary_encode()
        texts = distinct.dictionary
        if column.type == "INTEGER":
            _int64(texts)
        what = "a number"
        if column.kind == "probability":
            what = "a number from 0 to 1, true or false (positive_label sets another value that counts as 1)"
            for words, number in ((TRUE, "1"), (FALSE, "0")):
                texts = pc.replace_substring_regex(texts, words, number)
        array = _cast(_matched(texts, NUMBER, what), pa.float64(), what).take(distinct.indices)
    numbers = array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    _check_range(numbers, column)
    return numbers


def _outcomes(array: pa.Array, positive: str) -> pa.Array:
    """1 where the value is the positive one, as text or as the number that it means, else 0; null where missing."""
    number = float(positive) if re.fullmatch(NUMBER, positive) else np.nan
    if pa.types.is_string(array.type):
        distinct = array.dictionary_encode()
        texts = distinct.dictionary.to_pylist()
        same = [text == positive or bool(re.fullmatch(NUMBER, text) and float(text) == number) for text in texts]
        return pa.array(same, pa.bool_()).take(distinct.indices)
    if pa.types.is_boolean(array.type):
        return pc.equal(array, positive == "true") if positive in ("true", "false") else pc.and_(array, False)
    return pc.equal(array, number)


def _check_range(numbers: np.ndarray, column: Column) -> None:
    if column.kind in LABEL_KINDS and not column.optional and np.isnan(numbers).any():
        raise ValueError("is NaN, but every row needs a number")
    if np.isinf(numbers).any():
        raise ValueError("is infinite")
    if (np.abs(numbers) > FLOAT32_MAX).any():
        raise ValueError(f"is beyond what float32 holds ({FLOAT32_MAX:.7g})")
    if column.kind == "probability" and ((numbers < 0) | (numbers > 1)).any():
        raise ValueError("is a binary label outside [0, 1] (positive_label sets another value that counts as 1)")
    if column.kind == "amount" and (numbers < 0).any():
        raise ValueError("is negative, so that it has no log(1 + x): make the column numeric")
    if column.kind == "weight" and (numbers < 0).any():
        raise ValueError("is a negative weight")
