"""Convert the Python values of a parsed JSON column to an Arrow array of one form."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.schema import LIST_KINDS, NUMERIC_KINDS, Column

# Grammars, ASCII only.
INTEGER = r"(0|-?[1-9][0-9]*)"
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
DATETIME = DATE + r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
UTC = r" ?(UTC|Z|\+00(:?00)?)"
TIME_FORMS = {"INTEGER": INTEGER, "DATE": DATE, "DATETIME": DATETIME, "TIMESTAMP": DATETIME + UTC}

JSON_TYPE = {str: "string", int: "integer", float: "fraction", bool: "boolean", list: "list", dict: "object"}
PYTHON_TYPE = {"string": str, "integer": int, "boolean": bool}
FORM_TYPES = {"": pa.null(), "integer": pa.int64(), "fraction": pa.float64(), "boolean": pa.bool_()}  # else text


def typed_array(values: list[Any], column: Column) -> pa.Array:
    """Convert JSON values to an array of the column's form; numbers with and without quotes may mix.

    Settles the form by the first value. Raises ValueError with the reason if a value is refused.
    """
    if column.kind in NUMERIC_KINDS:
        return _typed_numbers(values, column)
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
    _check_types(values, PYTHON_TYPE.get(column.form, str))
    if column.form == "integer":
        return _bare_int64(values)
    return pa.array(values, FORM_TYPES.get(column.form, pa.string()))


def _typed_numbers(values: list[Any], column: Column) -> pa.Array:
    allowed: set[type] = {int, float, str}
    if column.type in ("INTEGER", "BOOLEAN"):
        allowed = {int, str} if column.type == "INTEGER" else {bool}
    if column.kind == "probability" and not column.type:
        allowed = allowed | {bool}
    types = set(map(type, values)) - {NoneType}
    for wrong in types - allowed:
        raise ValueError(f"holds a JSON {JSON_TYPE[wrong]}, which {column.type or repr(column.kind)} does not accept")
    if not types:
        return pa.nulls(len(values))
    column.form = _commonest_form(values, column) or column.form or "string"
    if str in types:  # the texts of bare numbers are read back to the same bits
        return pa.array([None if value is None else _number_text(value) for value in values], pa.string())
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if column.type == "INTEGER":
        return _bare_int64(values)
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


def _number_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(float(value) if isinstance(value, bool) else value)


def _form(value: Any, kind: str) -> str:
    form = JSON_TYPE[type(value)]
    if kind == "time":
        if form == "string":
            form = next((name for name, grammar in TIME_FORMS.items() if re.fullmatch(grammar, value)), "")
        if form not in ("integer", *TIME_FORMS):
            raise ValueError(f"is not a valid {', '.join(TIME_FORMS)}")
    elif form not in (("string",) if kind == "text" else PYTHON_TYPE):
        raise ValueError(f"holds a JSON {form}, which {kind!r} does not accept")
    return form


def _check_types(values: Iterable[Any], expected: type) -> None:
    for wrong in set(map(type, values)) - {expected, NoneType}:
        raise ValueError(f"holds a JSON {JSON_TYPE[wrong]} where every row needs a JSON {JSON_TYPE[expected]}")


def _bare_int64(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except OverflowError:
        raise ValueError("is not an INTEGER within 64 bits") from None
