"""Declare settings, and check values from JSON, environment variables and Python against their types and ranges.

A level is the variant, the environment or the arguments of a call. Types: bool, int, float, str,
tuple[str, ...], tuple[int, ...], each also with `| None`; and int | str, a number or a share such as "0.1%".
"""

import json
import math
import operator
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Any, NamedTuple

from trainer.config import strict_json
from trainer.runtime.errors import ConfigError, did_you_mean

COUNT_OR_SHARE: Any = int | str
_TYPES: dict[Any, str] = {
    bool: "true or false", int: "whole number", float: "number", str: "text",
    COUNT_OR_SHARE: 'whole number, or share from "0%" to "100%"',
}  # fmt: skip
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_COMPARISONS = {"low": operator.ge, "above": operator.gt, "high": operator.le, "below": operator.lt}
_kinds: dict[type[Any], dict[str, Any]] = {}
MOST_NUMBERS = 100  # in a list of numbers, such as the widths of layers
_INTEGER = re.compile(rf"-?[0-9]{{1,{strict_json.MAX_DIGITS}}}")
_SHARE = re.compile(r"(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%")
_FLOAT = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    search: Any = None,
) -> Any:
    """A dataclass field with its meaning and its range: low <= value <= high, above < value < below.

    search: the values that `fab tune --auto` tries, in the form of a space (see `trainer.search.space`).
    """
    limits = {"low": low, "above": above, "high": high, "below": below, "choices": choices}
    return field(default=default, metadata={"meaning": meaning, "search": search, **limits})


class Level(NamedTuple):
    """The values that one level sets, by the level's names for the settings."""

    values: Mapping[str, Any]
    place: str  # for messages
    spell: Callable[[str], str]  # setting -> its name at this level
    parse: Callable[[Any, Any], Any]  # value, type -> value of this type, or ValueError with the end of a sentence
    source: Callable[[str], str]  # setting -> where its value comes from
    advice: str = ""  # for names that are no setting, in messages


def kinds_of(cls: type[Any]) -> dict[str, Any]:
    """The type of each setting of a dataclass."""
    if cls not in _kinds:
        _kinds[cls] = typing.get_type_hints(cls)  # slow, and a search asks for each trial
    return _kinds[cls]


def resolve(cls: type[Any], levels: tuple[Level, ...], owner: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Combine levels: the value and the source of each setting of a dataclass; a later level wins.

    Every value is checked, even if a later level overrides it. ConfigError for a name that is not a setting of `owner`,
    a wrong type, or a value out of range.
    """
    kinds, settings = kinds_of(cls), {item.name: item for item in fields(cls)}
    chosen: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for level in levels:
        names = {level.spell(name): name for name in settings}
        for spelt in level.values:
            if spelt not in names:
                raise _unknown(level, spelt, names, owner)
            name = names[spelt]
            chosen[name] = typed(level, name, kinds[name], settings[name].metadata)
            sources[name] = level.source(name)
    return chosen, sources


def typed(level: Level, name: str, kind: Any, limits: Mapping[str, Any]) -> Any:
    """The value of a setting at a level; ConfigError unless it has the right type and is in range."""
    spelt = level.spell(name)
    raw = level.values[spelt]
    try:
        value = level.parse(raw, kind)
        _check_range(value, limits)
    except ValueError as error:
        choice = allowed(kind, limits)
        raise ConfigError(f"{level.place}: {spelt} = {shown(raw)} {error}. Allowed: {choice}.") from None
    return value


def value_from_json(value: Any, kind: Any) -> Any:
    """Check that a decoded JSON value has the type `kind`. Integers become floats; nothing else is converted."""
    kind, optional = _without_none(kind)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is tuple and type(value) is list:
        return tuple(value_from_json(item, typing.get_args(kind)[0]) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if kind == COUNT_OR_SHARE and (type(value) is int or (type(value) is str and _SHARE.fullmatch(value))):
        return value
    if type(value) is dict:
        raise ValueError("is an object, but the configuration is flat")
    if type(value) is not kind:
        raise ValueError("has the wrong type")
    if kind is str:
        _check_text(value)
    return value


def value_from_python(value: Any, kind: Any) -> Any:
    """Check that a value from Python has the type `kind`: as in JSON, and a tuple counts as a list."""
    return value_from_json(list(value) if isinstance(value, tuple) else value, kind)


def value_from_text(text: str, kind: Any) -> Any:
    """Parse the text of an environment variable or of --set as the type `kind`.

    None is null. Lists are written as in JSON, or as values with commas between them: `64,32`.
    """
    kind, optional = _without_none(kind)
    _check_text(text)
    if optional and text == "null":
        return None
    if kind is bool and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if kind in (int, COUNT_OR_SHARE) and _INTEGER.fullmatch(text):
        return int(text)
    if kind == COUNT_OR_SHARE and _SHARE.fullmatch(text):
        return text
    if kind is float and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if kind is str:
        return text
    if typing.get_origin(kind) is tuple:
        if text != "null" and not text.lstrip().startswith(("[", "{", "(", '"', "'")):
            item = typing.get_args(kind)[0]
            return tuple(value_from_text(part.strip(), item) for part in text.split(","))
        try:
            return value_from_json(strict_json.loads(text), kind)
        except ValueError:
            raise ValueError("is not a list written as in JSON, or as values with commas between them") from None
    raise ValueError("has the wrong form")


def allowed(kind: Any, limits: Mapping[str, Any]) -> str:
    """What a setting accepts, in words: `whole number, 1 <= x <= 8, or null`."""
    kind, optional = _without_none(kind)
    is_list = typing.get_origin(kind) is tuple
    name = _TYPES[typing.get_args(kind)[0] if is_list else kind]
    if limits["choices"]:
        name = "one of " + ", ".join(limits["choices"])
    lower = f"{limits['low']} <= x" if limits["low"] is not None else f"{limits['above']} < x"
    upper = f" <= {limits['high']}" if limits["high"] is not None else f" < {limits['below']}"
    bounds = (lower + upper).replace("None < ", "").replace(" < None", "")
    parts = ["list, each: " + name if is_list else name, "" if bounds == "x" else bounds, "or null" if optional else ""]
    return ", ".join(part for part in parts if part)


def shown(value: Any) -> str:
    """A value as JSON in at most 40 characters, for messages; control characters are escaped."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 40 else text[:37] + "..."


def _unknown(level: Level, spelt: str, names: Mapping[str, str], owner: str) -> ConfigError:
    """The error for an unknown name. It does not show the value, which may be a secret."""
    same = [name for name in names if name.lower() == spelt.lower()]
    hint = f"Letter case counts: write {same[0]}." if same else did_you_mean(spelt, names)
    return ConfigError(f"{level.place}: {owner} has no setting {shown(spelt)}. {hint} {level.advice}".rstrip())


def _without_none(kind: Any) -> tuple[Any, bool]:
    """(int, True) for `int | None`, (int, False) for `int`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union) and kind != COUNT_OR_SHARE:
        (inner,) = (member for member in typing.get_args(kind) if member is not type(None))
        return inner, True
    return kind, False


def _check_text(text: str) -> None:
    if not text:
        raise ValueError("is empty")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("holds a line break, a control character or half of a surrogate pair")


def _check_range(value: Any, limits: Mapping[str, Any]) -> None:
    if isinstance(value, tuple) and len(value) > MOST_NUMBERS and not isinstance(value[0], str):
        raise ValueError(f"has more than {MOST_NUMBERS} entries")
    for item in value if isinstance(value, tuple) else (value,):
        if limits["choices"] and item is not None and item not in limits["choices"]:
            raise ValueError("is not one of the choices")
        for name, holds in _COMPARISONS.items():
            if type(item) in (int, float) and limits[name] is not None and not holds(item, limits[name]):
                raise ValueError("is out of range")
