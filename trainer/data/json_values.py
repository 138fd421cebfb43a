"""Convert the Python values of a parsed JSON column to an Arrow array of one form."""

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data import times
from trainer.data.schema import LIST_KINDS, NUMERIC_KINDS, Column

JSON_TYPE = {str: "string", int: "integer", float: "fraction", bool: "boolean", list: "list", dict: "object"}
PYTHON_TYPE = {"string": str, "boolean": bool}  # by form, of values that no other type can stand for
WHOLE = ("integer", "fraction")
TIME_NUMBERS = (*WHOLE, "NUMBER")
EXACT = 2.0**53  # up to here, each whole number is a float64, and no two are the same one
FORM_TYPES = {"": pa.null(), "integer": pa.int64(), "fraction": pa.float64(), "boolean": pa.bool_()}  # else text


def typed_array(values: list[Any], column: Column) -> pa.Array:
    """Convert JSON values to an array of the column's form; numbers with and without quotes may mix.

    Settles the form by the first value. Raises ValueError with the reason if a value is refused.
    """
    if column.kind in NUMERIC_KINDS:
        return _typed_numbers(values, column)
    if column.kind == "time":
        return _typed_times(values, column)
    if column.kind not in LIST_KINDS:
        return _of_form(values, column)
    _check_types(values, list)
    flat = list(chain.from_iterable(filter(None, values)))
    offsets = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int32)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, _of_form(flat, column), mask=missing)


def _of_form(values: list[Any], column: Column) -> pa.Array:
    if not column.form:
        first = next((value for value in values if value is not None), None)
        column.form = "" if first is None else _form(first, column.kind)
    if not column.form:
        return pa.nulls(len(values))
    if column.form in WHOLE:
        return _whole_numbers(values, column)
    _check_types(values, PYTHON_TYPE.get(column.form, str))
    return pa.array(values, FORM_TYPES.get(column.form, pa.string()))


def _whole_numbers(values: list[Any], column: Column) -> pa.Array:
    """Exact whole numbers; those with a fraction of 0 count, since pandas writes 1021.0 for 1021 beside a NULL."""
    types = set(map(type, values)) - {NoneType}
    for wrong in types - {int, float}:
        raise ValueError(f"holds a JSON {type_name(wrong)} where every row needs a JSON integer")
    if float not in types:
        return _bare_int64(values)
    column.form = "fraction"
    return _bare_int64([_whole(value, column) if type(value) is float else value for value in values])


def _whole(value: float, column: Column) -> int:
    if not value.is_integer():
        raise ValueError(f"holds a JSON fraction, which {column.type or repr(column.kind)} does not accept")
    if abs(value) > EXACT:
        raise ValueError("is beyond 2**53 and written as a fraction, so that its last digits are lost: write it whole")
    return int(value)


def _typed_times(values: list[Any], column: Column) -> pa.Array:
    types = set(map(type, values)) - {NoneType}
    for wrong in types - {int, float, str}:
        raise ValueError(f"holds a JSON {type_name(wrong)}, which 'time' does not accept")
    if not column.form or column.form in TIME_NUMBERS:
        first = next((value for value in values if value is not None), None)
        if first is None:
            return pa.nulls(len(values))
        column.form = column.form or ("NUMBER" if type(first) is not str else times.form_of(first))
    if column.form not in TIME_NUMBERS:
        return pa.array([value if type(value) in (str, NoneType) else repr(value) for value in values], pa.string())
    column.form = "NUMBER" if str in types else "fraction" if float in types else "integer"
    if str in types:
        return pa.array([None if value is None else _number_text(value) for value in values], pa.string())
    if float in types and column.type != "INTEGER":
        _bare_int64([value for value in values if type(value) is int])  # refuses those beyond 64 bits, as if alone
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return _whole_numbers(values, column)


def _typed_numbers(values: list[Any], column: Column) -> pa.Array:
    allowed: set[type] = {int, float, str}
    if column.type in ("INTEGER", "BOOLEAN"):
        allowed = {int, float, str} if column.type == "INTEGER" else {bool}
    if column.kind == "outcome" or (column.kind == "probability" and not column.type):
        allowed = allowed | {bool}
    types = set(map(type, values)) - {NoneType}
    for wrong in types - allowed:
        raise ValueError(f"holds a JSON {type_name(wrong)}, which {column.type or repr(column.kind)} does not accept")
    if not types:
        return pa.nulls(len(values))
    column.form = _commonest_form(values, column) or column.form or "string"
    if str in types or (column.kind == "outcome" and len(types) > 1):
        as_text = json_text if column.kind == "outcome" else _number_text
        return pa.array([None if value is None else as_text(value) for value in values], pa.string())
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if column.type == "INTEGER":
        return _bare_int64([_whole(value, column) if type(value) is float else value for value in values])
    return pa.array(np.array(values, dtype=np.float64), from_pandas=True)  # None is NaN is null


def _commonest_form(values: list[Any], column: Column) -> str:
    """The form of most numbers; a NaN in quotes counts as any, since it also stands among bare numbers."""
    forms: Counter[str] = Counter()
    for type_, count in Counter(map(type, values)).items():
        if type_ is str:
            forms["string"] += count - values.count("NaN")
        elif type_ is not NoneType:
            bare = "integer" if column.type == "INTEGER" else "fraction"
            forms["boolean" if type_ is bool else bare] += count
    return max(forms, key=forms.__getitem__) if +forms else ""


def json_text(value: Any) -> str:
    """A text, a number or a boolean as JSON has it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


def _number_text(value: Any) -> str:  # read back to the same bits
    return value if isinstance(value, str) else repr(float(value) if isinstance(value, bool) else value)


def _form(value: Any, kind: str) -> str:
    form = type_name(type(value))
    if form not in (("string",) if kind == "text" else ("string", "boolean", *WHOLE)):
        raise ValueError(f"holds a JSON {form}, which {kind!r} does not accept")
    return form


def type_name(type_: type) -> str:
    """What JSON calls the values of a Python type; the name of a type that JSON does not have."""
    return JSON_TYPE.get(type_, type_.__name__)


def _check_types(values: Iterable[Any], expected: type) -> None:
    for wrong in set(map(type, values)) - {expected, NoneType}:
        raise ValueError(f"holds a JSON {type_name(wrong)} where every row needs a JSON {type_name(expected)}")


def _bare_int64(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except OverflowError:
        raise ValueError("is not an INTEGER within 64 bits") from None
