"""Read JSON files strictly; errors name the file, the line and the column.

Python's `json` keeps the last of two equal names, accepts NaN, Infinity and 1e999, and gives unclear errors for deep
nesting and very long integers. `object_pairs_hook` would detect a repeated name, but not its line and column. So this
module parses objects and arrays itself, and leaves strings, numbers, true, false and null to `json`.
"""

import json
import math
import stat
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from trainer.runtime.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_DIGITS = 300  # below the 4,300 from which Python refuses to convert, and within the range of a float

_NOT_JSON = "JSON has no comments, trailing commas or single quotes"


def read(path: Path) -> Any:
    """The value in a JSON file; ConfigError unless it is a regular, readable file of at most 1 MB, in UTF-8."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is not a regular file. Give a JSON file.")
        if status.st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        there = ", ".join(sorted(other.name for other in path.parent.glob("*.json"))) or "none"
        raise ConfigError(f"There is no file {path}. JSON files in {path.parent}: {there}.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    return decode(data, str(path))


def decode(data: bytes | str, where: str) -> Any:
    """The value of a JSON text; ConfigError that begins with `where`, line and column if it is not strict JSON."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where} has more than {MAX_BYTES:,} bytes.")
    text = data if isinstance(data, str) else _utf8(data, where)
    if not text.strip():
        raise ConfigError(f"{where} is empty.")
    try:
        return loads(text)
    except JSONDecodeError as error:
        raise ConfigError(f"{where}, line {error.lineno}, column {error.colno}: {error.msg}.") from None


def loads(text: str) -> Any:
    """The value of a JSON text; JSONDecodeError (a ValueError with line and column) if it is not strict JSON."""
    value, end = _value(text, 0, 0)
    if end < len(text):
        raise JSONDecodeError("expected the end of the text after the value", text, end)
    return value


def _utf8(data: bytes, where: str) -> str:
    """The text without a byte order mark; ConfigError with the offset of the first byte that is not UTF-8 text."""
    try:
        text = data.decode("utf-8")
        offset = data.find(0)  # UTF-16 without a mark is valid UTF-8 with a zero byte in each letter
    except UnicodeDecodeError as error:
        offset = error.start
    if offset >= 0:
        raise ConfigError(f"{where} is not UTF-8 text: byte {data[offset]:#04x} at offset {offset}. Save it as UTF-8.")
    return text.removeprefix("\ufeff")


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value at `at`, which may begin with white space, and the position of what follows it."""
    at = _skip_space(text, at)
    opening = text[at : at + 1]
    if opening not in ("{", "["):
        value, at = _scalar(text, at)
    elif depth == MAX_DEPTH:
        raise JSONDecodeError(f"nested more than {MAX_DEPTH} levels deep", text, at)
    elif opening == "{":
        value, at = _object(text, at + 1, depth + 1)
    else:
        value, at = _array(text, at + 1, depth + 1)
    return value, _skip_space(text, at)


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    at = _skip_space(text, at)
    if text.startswith("}", at):
        return members, at + 1
    while True:
        start = at = _skip_space(text, at)
        if not text.startswith('"', at):
            raise JSONDecodeError(f"expected a name in double quotes; {_NOT_JSON}", text, at)
        name, at = _scalar(text, at)
        if name in members:
            raise JSONDecodeError(f"the name {json.dumps(name)} occurs twice in one object", text, start)
        at = _skip_space(text, at)
        if not text.startswith(":", at):
            raise JSONDecodeError("expected ':' after the name", text, at)
        members[name], at = _value(text, at + 1, depth)
        if text.startswith("}", at):
            return members, at + 1
        if not text.startswith(",", at):
            raise JSONDecodeError("expected ',' or '}' after the value", text, at)
        at += 1


def _array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _skip_space(text, at)
    if text.startswith("]", at):
        return items, at + 1
    while True:
        item, at = _value(text, at, depth)
        items.append(item)
        if text.startswith("]", at):
            return items, at + 1
        if not text.startswith(",", at):
            raise JSONDecodeError("expected ',' or ']' after the value", text, at)
        at += 1


def _scalar(text: str, at: int) -> tuple[Any, int]:
    try:
        return _SCALARS.raw_decode(text, at)
    except JSONDecodeError as error:
        message = f"expected a value; {_NOT_JSON}" if error.msg == "Expecting value" else error.msg
        raise JSONDecodeError(message, text, error.pos) from None
    except ValueError as error:  # from the functions below, which do not know the position
        raise JSONDecodeError(str(error), text, at) from None


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\n\r":
        at += 1
    return at


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_SCALARS = json.JSONDecoder(parse_float=_finite, parse_int=_integer, parse_constant=_refuse_constant)
