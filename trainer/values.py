"""One value of a setting: given in JSON or as the text of an environment variable, held to a type and a range.

The types are those that a flat configuration needs: bool, int, float, str, tuple[str, ...], tuple[int, ...], each also
with `| None`. The functions raise ValueError with the end of a sentence ("is out of range"); the caller begins it.
"""

import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from typing import Any

from trainer import strict_json

_TYPES: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_INTEGER = re.compile(rf"-?[0-9]{{1,{strict_json.MAX_DIGITS}}}")
_FLOAT = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def from_json(value: Any, kind: Any) -> Any:
    """A decoded JSON value as a value of the type `kind`. Nothing is converted but a whole number to a float."""
    kind, optional = _without_none(kind)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is tuple and type(value) is list:
        return tuple(from_json(item, typing.get_args(kind)[0]) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError("has the wrong type")
    if kind is str:
        _check_text(value)
    return value


def from_text(text: str, kind: Any) -> Any:
    """The text of an environment variable as a value of the type `kind`; a list is written as in JSON, None as null."""
    kind, optional = _without_none(kind)
    _check_text(text)
    if optional and text == "null":
        return None
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind is int and _INTEGER.fullmatch(text):
        return int(text)
    if kind is float and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple:
        try:
            return from_json(strict_json.loads(text), kind)
        except ValueError:
            raise ValueError("is not such a list, written as in JSON") from None
    raise ValueError(f"is not a {_TYPES[kind]}" if kind is not bool else "is neither true nor false")


def check_range(value: Any, limits: Mapping[str, Any]) -> None:
    """ValueError unless the value, or each item of a tuple, keeps the limits that `setting` declares."""
    for item in value if isinstance(value, tuple) else (value,):
        if limits["choices"] and item not in limits["choices"]:
            raise ValueError("is not one of the choices")
        if isinstance(item, int | float) and not isinstance(item, bool) and not _in_range(item, limits):
            raise ValueError("is out of range")


def allowed(kind: Any, limits: Mapping[str, Any]) -> str:
    """What a setting accepts, in words: `whole number, 1 <= x <= 8, or null`."""
    kind, optional = _without_none(kind)
    is_list = typing.get_origin(kind) is tuple
    name = _TYPES[typing.get_args(kind)[0] if is_list else kind]
    if limits["choices"]:
        name = "one of " + ", ".join(limits["choices"])
    lower = f"{limits['low']} <= " if limits["low"] is not None else f"{limits['above']} < "
    upper = f" <= {limits['high']}" if limits["high"] is not None else f" < {limits['below']}"
    bounds = (lower + "x" + upper).replace("None < ", "").replace(" < None", "")
    parts = [f"list, each: {name}" if is_list else name, bounds if bounds != "x" else "", "or null" if optional else ""]
    return ", ".join(part for part in parts if part)


def shown(value: Any) -> str:
    """A value as JSON in at most 40 characters, for messages; control characters are escaped."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _without_none(kind: Any) -> tuple[Any, bool]:
    """(int, True) for `int | None`, (int, False) for `int`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (inner,) = (member for member in typing.get_args(kind) if member is not type(None))
        return inner, True
    return kind, False


def _check_text(text: str) -> None:
    if not text:
        raise ValueError("is empty")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("holds a line break, a control character or half of a surrogate pair")


def _in_range(number: float, limits: Mapping[str, Any]) -> bool:
    low, above, high, below = (limits[name] for name in ("low", "above", "high", "below"))
    return (
        (low is None or number >= low)
        and (above is None or number > above)
        and (high is None or number <= high)
        and (below is None or number < below)
    )
