"""The space of a search: which settings it changes, and the values that each may have.

A space is a flat JSON object: setting -> a list of values, or a range of numbers `{"low": 1e-4, "high": 0.01, "log":
true}`. `variant` is a setting, too; a setting that the network of a variant lacks is left out for it.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.config import levels, strict_json
from trainer.config.levels import Level, shown, typed, value_from_json
from trainer.config.net_config import NetConfig
from trainer.config.network_settings import config_class
from trainer.runtime.errors import ConfigError, did_you_mean

VARIANT = "variant"
MISSES = 200  # samples in a row that are not new, until a space counts as exhausted
MOST_COMBINATIONS = 100_000  # of a grid
DIGITS = 4  # significant ones of a sampled number

# Settings that a space cannot have, with the reason.
DECIDES_ROWS = "decides which rows the trials are measured on, so that their metrics could not be compared"
OWNED = dict.fromkeys(
    ("label_column", "positive_label", "weight_column", "key_columns", "objective", "split", "test_fraction",
     "validation_fraction", "validation_part", "time_column", "group_columns", "stratify_column", "split_seed",
     "max_bad_rows", "skip_unlabelled", "subsample"),
    DECIDES_ROWS,
) | {
    "network": "has settings of its own: make a variant of each network, and put `variant` into the space",
    "stopping_metric": "is what trials are compared by: choose it with --metric",
    "threads": "is divided among the workers",
    "cache_gb": "does not change a model",
    "checkpoint_minutes": "does not change a model",
    "allow_worse": "does not change a model",
}  # fmt: skip


class Range(NamedTuple):
    """Numbers from low to high, both included. log: each order of magnitude is as likely as the others."""

    low: float
    high: float
    log: bool
    whole: bool

    def sample(self, rng: np.random.Generator) -> float | int:
        """A number of the range, with few digits."""
        if self.whole:
            low, high = (math.log(self.low), math.log(self.high + 1)) if self.log else (self.low, self.high + 1)
            number = rng.uniform(low, high)
            return int(min(max(math.floor(math.exp(number) if self.log else number), self.low), self.high))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = rng.uniform(low, high)
        return min(max(rounded(math.exp(number) if self.log else number), self.low), self.high)


class Space(NamedTuple):
    """A checked space. settings: the values of each setting but `variant`; owners: the variants that have it."""

    variants: tuple[str, ...]
    settings: dict[str, list[Any] | Range]
    owners: dict[str, frozenset[str]]


def rounded(number: float) -> float:
    """A number with few significant digits, which people can read and type."""
    return float(f"{number:.{DIGITS}g}")


def read_space(path: Path) -> dict[str, Any]:
    """The object of a file, whose settings are not checked yet; ConfigError for another content."""
    content = strict_json.read(path)
    if not isinstance(content, dict):
        raise ConfigError(f'{path} must hold an object, {{"learning_rate": [0.001, 0.01]}}, not {shown(content)}.')
    return content


def automatic_space(network: str) -> dict[str, Any]:
    """The space that the settings of a network declare beside their defaults."""
    declared = {item.name: item.metadata["search"] for item in fields(config_class(network))}
    return {name: values for name, values in declared.items() if values is not None}


def check_space(content: Mapping[str, Any], place: str, variant: str, networks: Mapping[str, str]) -> Space:
    """The space of an object; ConfigError with the place, the setting and what is allowed for anything wrong.

    variant: that of the search. networks: the network of each variant that exists.
    """
    variants = tuple(check_variants(content[VARIANT], place, networks)) if VARIANT in content else (variant,)
    if not set(content) - {VARIANT} and len(variants) < 2:
        raise ConfigError(f'{place} holds no settings. Write, for example, {{"learning_rate": [0.001, 0.01]}}.')
    settings: dict[str, list[Any] | Range] = {}
    owners = {}
    for name in content:
        if name == VARIANT:
            continue
        having = [of for of in variants if name in settings_of(networks[of])]
        check_owned(name, place, having, [name for of in variants for name in settings_of(networks[of])])
        settings[name] = check_values(name, content[name], place, config_class(networks[having[0]]))
        owners[name] = frozenset(having)
    return Space(variants, settings, owners)


def settings_of(network: str) -> dict[str, Any]:
    """The type of each setting of a network."""
    return levels.kinds_of(config_class(network))


def check_variants(names: Any, place: str, networks: Mapping[str, str]) -> list[str]:
    """The variants of a space; ConfigError unless they are a list of names that exist."""
    if not isinstance(names, list) or not names or len(set(map(json.dumps, names))) < len(names):
        raise ConfigError(f'{place}: {VARIANT} = {shown(names)} must be a list of variants, such as ["a", "b"].')
    for name in names:
        if not isinstance(name, str) or name not in networks:
            hint = did_you_mean(name if isinstance(name, str) else "", networks)
            raise ConfigError(f"{place}: there is no variant {shown(name)}. {hint}")
    return names


def check_owned(name: str, place: str, having: list[str], known: list[str]) -> None:
    """ConfigError for a setting that no variant of the space has, or that a search cannot change."""
    if name in OWNED:
        raise ConfigError(f"{place}: {name} cannot be in a space: it {OWNED[name]}.")
    if not having:
        raise ConfigError(f"{place}: there is no setting {shown(name)}. {did_you_mean(name, [*known, VARIANT])}")


def check_values(name: str, values: Any, place: str, cls: type[NetConfig]) -> list[Any] | Range:
    """The values of one setting; ConfigError for an empty list, a wrong range, or a value that the setting refuses."""
    kind, limits = levels.kinds_of(cls)[name], cls.__dataclass_fields__[name].metadata

    def checked(value: Any) -> Any:
        return typed(Level({name: value}, place, str, value_from_json, str), name, kind, limits)

    if isinstance(values, list) and values:
        if len({json.dumps(value) for value in values}) < len(values):
            raise ConfigError(f"{place}: {name} = {shown(values)} has a value twice. Leave one out.")
        for value in values:
            checked(value)
        return values
    if not isinstance(values, dict):
        form = '[value, ...] or {"low": 0.001, "high": 0.1, "log": true}'
        raise ConfigError(f"{place}: {name} = {shown(values)} must be {form}.")
    return check_range(name, values, place, kind, checked)


def check_range(name: str, values: dict[str, Any], place: str, kind: Any, checked: Any) -> Range:
    """The range of a number; ConfigError if it is none."""
    here = f"{place}: {name} = {shown(values)}"
    number = next((of for of in (int, float) if kind in (of, of | None)), None)
    if number is None:
        raise ConfigError(f"{here} is a range, but {name} is not a number. Write a list of values.")
    for key in values:
        if key not in ("low", "high", "log"):
            raise ConfigError(f"{here}: a range has no {shown(key)}. {did_you_mean(key, ('low', 'high', 'log'))}")
    if "low" not in values or "high" not in values or type(values.get("log", False)) is not bool:
        raise ConfigError(f'{here}: a range is {{"low": 0.001, "high": 0.1}}, and may have "log": true.')
    low, high, log = checked(values["low"]), checked(values["high"]), values.get("log", False)
    if low is None or high is None or low >= high:
        raise ConfigError(f"{here}: low must be below high.")
    if log and low <= 0:
        raise ConfigError(f"{here}: with log, low must be above 0.")
    return Range(low, high, log, number is int)


def sample(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """One choice of settings at random."""
    variant = space.variants[int(rng.integers(len(space.variants)))]
    chosen: dict[str, Any] = {}
    for name in sorted(space.settings):  # each takes its numbers, so that no setting depends on another
        values = space.settings[name]
        chosen[name] = values.sample(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
    return applicable(space, variant, chosen)


def applicable(space: Space, variant: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial: its variant, and what this variant has of the chosen settings, in the space's order."""
    return {VARIANT: variant} | {name: chosen[name] for name in space.settings if variant in space.owners[name]}


def samples(space: Space, seed: int, count: int) -> list[dict[str, Any]]:
    """Up to `count` different choices at random: number n is the same whatever the count, and fewer if there are no
    more."""
    chosen: dict[str, dict[str, Any]] = {}
    misses = number = 0
    while len(chosen) < count and misses < MISSES:
        settings = sample(space, np.random.default_rng([seed, number]))
        text = json.dumps(settings)
        misses = misses + 1 if text in chosen else 0
        chosen.setdefault(text, settings)
        number += 1
    return list(chosen.values())


def grid_size(space: Space, place: str) -> int:
    """The number of combinations; ConfigError for a range, or for more than a search can hold."""
    size = sum(math.prod(len(values) for name, values in lists_of(space, variant, place)) for variant in space.variants)
    if size > MOST_COMBINATIONS:
        raise ConfigError(f"{place} has {size:,} combinations, more than {MOST_COMBINATIONS:,}. Use --sampler=random.")
    return size


def lists_of(space: Space, variant: str, place: str) -> list[tuple[str, list[Any]]]:
    """The settings of a variant and their values; ConfigError for a range, which has no end of values."""
    lists = []
    for name, values in space.settings.items():
        if isinstance(values, Range):
            raise ConfigError(f"{place}: {name} is a range, which a grid cannot hold. Write a list of values.")
        if variant in space.owners[name]:
            lists.append((name, values))
    return lists


def grid(space: Space, place: str) -> Iterator[dict[str, Any]]:
    """All combinations of the values; ConfigError for a range."""
    for variant in space.variants:
        lists = lists_of(space, variant, place)
        for chosen in itertools.product(*(values for _, values in lists)):
            yield {VARIANT: variant} | dict(zip((name for name, _ in lists), chosen, strict=True))
