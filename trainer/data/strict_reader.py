"""Parse one line of JSON strictly as one row, and explain what is wrong with a line that is not a row."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

import orjson

from trainer.data.row_hash import Hashes

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?')  # a string or a number
PANDAS = ' (from pandas: to_json(orient="records", lines=True))'
LIST = f"a JSON list, not one object on each line{PANDAS}"


class Fault(NamedTuple):
    """Why a row is refused, and the wrong value, shortened."""

    reason: str
    value: str = ""


class Rows(NamedTuple):
    """The values of some rows of a shard by column, the rows' line numbers, and the reasons for refused lines; the
    hashes of the stored rows, where they are wanted."""

    columns: dict[str, list[Any]]
    lines: list[int]
    faults: dict[int, Fault]
    hashes: list[Hashes]


def parse_row(line: bytes, names: Collection[str]) -> dict[str, Any]:
    """Parse a row; ValueError, with a reason that shows no value, if it is invalid or has one of `names` twice."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        row = _without_huge_numbers(line, names) if "infinity" in error.msg else None
        if row is None:
            raise ValueError(_explain(line, error)) from None
    if type(row) is not dict:
        raise ValueError(LIST if type(row) is list else "a JSON value, but not an object")
    # Each key ends in a colon, and in `":` where white space is taken out. As many of these as the row has keys: no key
    # is there twice. There may be more of them in values.
    if line.count(b":") != len(row) and line.translate(None, b" \t\r").count(b'":') != len(row):
        _check_keys(line, names)
    return row


def _without_huge_numbers(line: bytes, names: Collection[str]) -> Any:
    """A row without its numbers beyond float64, which orjson refuses; None if one of them is needed."""

    def filled(filler: bytes) -> Any:
        return orjson.loads(TOKEN.sub(lambda token: filler if _is_huge(token[0]) else token[0], line))

    try:
        row, other = filled(b"0"), filled(b"1")
    except orjson.JSONDecodeError:
        return None
    if type(row) is not dict:
        return row
    return row if all(row.get(name) == other.get(name) for name in names) else None


def _is_huge(token: bytes) -> bool:
    return not token.startswith(b'"') and math.isinf(float(token))


def _explain(line: bytes, error: orjson.JSONDecodeError) -> str:
    line = line.strip()
    if not line.startswith(b"{"):
        if re.search(rb"[\x00-\x08\x0e-\x1f]", line):
            return "binary data, perhaps encrypted, not a JSON object"
        if line.startswith(b"<"):
            return "HTML or XML, not a JSON object"
        if line.startswith(b"["):
            return LIST
        if re.search(rb"[,;\t]", line) and not line.endswith(b"}"):
            return "text like CSV, not a JSON object"
    if line == b"{":
        return f"not a JSON object, but the first line of one{PANDAS}"
    if re.search(rb"[:,\[]\s*-?(NaN|Infinity)\s*[,}\]]", line):
        return "not a JSON object: JSON has no NaN or Infinity; write null"
    try:
        line.decode()
    except UnicodeDecodeError as invalid:
        return f"invalid UTF-8 at byte {invalid.start + 1}"
    return f"not a JSON object: {error.msg}, column {error.colno}"


def _check_keys(line: bytes, names: Collection[str]) -> None:
    try:
        pairs = json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1 and name in names:
            raise ValueError(f"key {short(name)} occurs {times} times")


def short(value: Any) -> str:
    """A value for a message: escaped, at most 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
