"""Read times: BigQuery's forms, other ISO 8601 times, and numbers that count from an epoch.

    form in `Column.form`   JSON values                                        Arrow array
    DATE                    2026-03-01 (only where schema.json says DATE)      timestamp[us]
    DATETIME                the same; 2026-03-01T23; 2026-03-01 23:59:59.5     timestamp[us]
    TIMESTAMP               such a time with its offset to UTC                 timestamp[us, UTC]
    integer, fraction       a number                                           int64 or double
    NUMBER                  a number in quotes                                 int64 or double

A column has times without an offset, times with one, or numbers: which moment a mixture means is not known. Digits
beyond microseconds are cut off. Whole numbers keep their unit; where one row has a fraction, all are seconds since
1970.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.data.schema import Column
from trainer.runtime.errors import DataError

# Grammars, ASCII only. Arrow checks that the moment exists.
INTEGER = r"(0|-?[1-9][0-9]*)"
NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?"
DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
BIGQUERY = DATE + r"[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
BIGQUERY_UTC = r" ?(UTC|Z|\+00(:?00)?)"
EXTENDED = DATE + r"[Tt ][0-9]{2}(:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?)?"
BASIC = r"[0-9]{8}T[0-9]{2}([0-9]{2}([0-9]{2}([.,][0-9]{1,9})?)?)?"
TIME = f"({EXTENDED}|{BASIC})"
OFFSET = r" ?(UTC|GMT|[Zz]|[-+][0-9]{2}(:?[0-9]{2})?)"
FORMS = {"NUMBER": NUMBER, "DATETIME": f"({DATE}|{TIME})", "TIMESTAMP": TIME + OFFSET}

LOCAL, UTC = pa.timestamp("us"), pa.timestamp("us", "UTC")
TYPES = {"DATE": LOCAL, "DATETIME": LOCAL, "TIMESTAMP": UTC}  # by form, or by the table's type; else int64
FIRST, END = -62_135_596_800, 253_402_300_800  # the years 1 to 9999, in seconds since 1970
MICRO = 1_000_000

# What other forms of a time would take its place, as (pattern, rules).
REWRITES = (
    (r"^([0-9]{4})([0-9]{2})([0-9]{2})T", r"\1-\2-\3T"),
    (r"^([0-9-]{10}T[0-9]{2})([0-9]{2})", r"\1:\2"),
    (r"^([0-9-]{10}T[0-9]{2}:[0-9]{2})([0-9]{2})", r"\1:\2"),
    (r"^(.{10})t", r"\1T"),
    (r"[.,]([0-9]{1,6})[0-9]*", r".\1"),
    (r" ?(UTC|GMT|z)$", "Z"),
    (r" ([-+Z])", r"\1"),
)
WRITE = "write it as 2026-03-31 23:59:59, or with its offset to UTC as 2026-03-31T23:59:59+02:00"
AMBIGUOUS = r"[0-9]{1,2}[/.-][0-9]{1,2}[/.-][0-9]{2,4}.*"
REASONS = (
    (AMBIGUOUS, f"is ambiguous (is the day or the month first?): {WRITE}"),
    (f"{TIME} ?[A-Za-z].*", f"names a time zone, of which there are several: {WRITE}"),
)


def form_of(text: str) -> str:
    """The form of a time or number in text; ValueError with the reason if it has none."""
    form = next((name for name, grammar in FORMS.items() if re.fullmatch(grammar, text, re.ASCII)), "")
    if not form:
        raise ValueError(next((why for grammar, why in REASONS if re.fullmatch(grammar, text)), f"is no time: {WRITE}"))
    return form


def convert(array: pa.Array, column: Column) -> pa.Array:
    """Convert times or numbers to an array as in the table above; ValueError with the reason if one is invalid."""
    if pa.types.is_string(array.type):
        array = _numbers(array) if column.form == "NUMBER" else _moments(array, column.form)
    if pa.types.is_floating(array.type):
        numbers = array.drop_null().to_numpy()
        if column.type == "INTEGER" and not _is_whole(numbers).all():
            raise ValueError("is not an INTEGER")
        if not (_is_whole(numbers) | ((numbers >= FIRST) & (numbers < END))).all():
            raise ValueError("has a fraction, but is no time in seconds since 1970")
    return array


def _numbers(texts: pa.Array) -> pa.Array:
    if not _all_match(texts, NUMBER):
        raise ValueError(_why_not(texts, "NUMBER"))
    try:
        if _all_match(texts, INTEGER):
            return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        raise ValueError("is not an INTEGER within 64 bits") from None
    return texts.cast(pa.float64())


def _moments(texts: pa.Array, form: str) -> pa.Array:
    plain = {"DATE": DATE, "DATETIME": BIGQUERY, "TIMESTAMP": BIGQUERY + BIGQUERY_UTC}[form]
    if form == "TIMESTAMP" and _all_match(texts, plain):
        return _cast(pc.replace_substring_regex(texts, f"{BIGQUERY_UTC}$", ""), LOCAL).cast(UTC)
    if not _all_match(texts, plain):
        if form == "DATE" or not _all_match(texts, FORMS[form]):
            raise ValueError(_why_not(texts, form))
        for pattern, rewritten in REWRITES:
            texts = pc.replace_substring_regex(texts, pattern, rewritten)
    return _cast(texts, TYPES[form])


def _all_match(texts: pa.Array, grammar: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, f"^({grammar})$")).as_py() is not False


def _cast(texts: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        moments = texts.cast(target)
    except pa.ArrowInvalid:  # its text holds the value
        raise ValueError("is a moment that does not exist") from None
    # An offset may lead beyond the years that texts can have.
    ends = pc.min_max(moments.cast(pa.int64()))
    if (ends["min"].as_py() or 0) < FIRST * MICRO or (ends["max"].as_py() or 0) >= END * MICRO:
        raise ValueError("is before the year 1 or after 9999 in UTC")
    return moments


def _why_not(texts: pa.Array, form: str) -> str:
    """Why a text does not have its column's form; of several texts, of any."""
    if form == "DATE":
        return "is not a DATE as every row needs"
    names = {"NUMBER": "a number", "DATETIME": "a time without an offset to UTC", "TIMESTAMP": "a time with an offset"}
    try:
        other_form = next(other for text in texts.to_pylist() if text is not None and (other := form_of(text)) != form)
    except ValueError as error:
        return str(error)
    return f"is {names[other_form]}, but the rows before hold {names[form]}: {WRITE}"


def _is_whole(numbers: np.ndarray) -> np.ndarray:
    return np.asarray((numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63))


def join(arrays: Sequence[pa.Array], column: Column) -> pa.ChunkedArray:
    """One array of all times of a column. DataError if some numbers have fractions and others cannot be seconds."""
    types = {array.type for array in arrays if array.type != pa.null()}
    if pa.float64() in types:
        numbers = [array.cast(pa.float64()).drop_null().to_numpy() for array in arrays]
        if all(_is_whole(part).all() for part in numbers):
            types = {pa.int64()}
        elif all(((part >= FIRST) & (part < END)).all() for part in numbers):
            arrays, types = [_moments_of(array) for array in arrays], {UTC}
        else:
            raise DataError(
                f"Column {column.name!r} holds numbers with a fraction, which are seconds since 1970, and others that "
                "are no seconds. Write all times in one unit."
            )
    target = next(iter(types), TYPES.get(column.type, pa.int64()))
    return pa.chunked_array([array.cast(target) for array in arrays], target)


def _moments_of(seconds: pa.Array) -> pa.Array:
    micros = pc.round(pc.multiply(seconds.cast(pa.float64()), float(MICRO)))
    return micros.cast(pa.int64()).cast(UTC)
