"""Load the flat configuration: class defaults, then a variant in `variant_config.json`, then `NET_*` variables, then
the command line.

A variant may name another one as its base, whose settings come before its own: the variants of a dataset share its
columns. Each value records the level that it comes from. Unknown names are errors at every level.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import networks
from trainer.config import levels, strict_json
from trainer.config.levels import Level, resolve, shown, typed
from trainer.config.names import check_name
from trainer.config.net_config import STOPPING_METRICS, NetConfig
from trainer.config.network_settings import BASE, config_class
from trainer.config.roles import check_columns
from trainer.runtime.errors import ConfigError, did_you_mean

ENV_PREFIX = "NET_"
VARIANT_FILE = Path(__file__).resolve().parents[2] / "variant_config.json"


class Configuration(NamedTuple):
    """A checked configuration and the source of each value."""

    config: NetConfig
    # setting -> "default", "default of NETWORK", "base NAME", "variant NAME", "environment NET_NAME", "command line" or
    # "argument"
    sources: dict[str, str]
    variant: str


def load_config(
    variant: str,
    *,
    path: Path = VARIANT_FILE,
    environ: Mapping[str, str],
    command_line: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
) -> Configuration:
    """The checked configuration of a variant; ConfigError for any mistake at any level.

    environ: environment variables; `NET_*` override settings. command_line: texts NAME=VALUE, which override these.
    arguments: settings from Python, which override all.
    """
    check_name(variant, "variant")
    in_file = variants(path)
    if variant not in in_file:
        raise ConfigError(f"There is no variant {variant!r} in {path}. {did_you_mean(variant, in_file)}")
    from_python = Level(arguments or {}, "arguments", str, levels.value_from_python, lambda _: "argument")
    of_variant = variant_levels(variant, in_file, path)
    return settle(variant, (*of_variant, environment(environ), command_line_level(command_line), from_python))


def variant_levels(variant: str, in_file: Mapping[str, Mapping[str, Any]], path: Path) -> tuple[Level, ...]:
    """The levels of a variant: its base, if it names one, then its own settings."""

    def level(name: str, kind: str, advice: str = "") -> Level:
        values = {key: value for key, value in in_file[name].items() if key != BASE}
        source = f"{kind} {name}"
        return Level(values, f"{path}, {source}", str, levels.value_from_json, lambda _: source, advice)

    own = level(variant, "variant")
    if BASE not in in_file[variant]:
        return (own,)
    advice = f"Variant {variant} takes it from its base: move it to the variants that use it."
    return level(in_file[variant][BASE], "base", advice), own


def environment(environ: Mapping[str, str]) -> Level:
    """The level of the environment: the variables that name a setting, or begin as if they did."""
    variables = {variable(item.name) for item in fields(NetConfig)}
    in_env = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX) or name.upper() in variables}
    return Level(in_env, "environment", variable, levels.value_from_text, lambda name: f"environment {variable(name)}")


def command_line_level(assignments: Sequence[str]) -> Level:
    """The level of `--set NAME=VALUE`; ConfigError for another form, and for a name that is set twice."""
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {shown(assignment)} has another form than NAME=VALUE. Write --set epochs=5")
        if name in values:
            raise ConfigError(f"--set {shown(name)} is there twice. Leave one out.")
        values[name] = text
    return Level(values, "--set", str, levels.value_from_text, lambda _: "command line")


def variants(path: Path = VARIANT_FILE) -> dict[str, dict[str, Any]]:
    """The variants of a file: name -> its base, if it has one, and its settings, which are not checked yet."""
    content = strict_json.read(path)
    if not isinstance(content, dict):
        raise ConfigError(f'{path} must hold an object of variants, {{"NAME": {{...}}}}, not {shown(content)}.')
    for name, settings in content.items():
        check_name(name, "variant")
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: variant {name} must be an object of settings, not {shown(settings)}.")
    for name in content:
        check_base(name, content, path)
    return content


def check_base(variant: str, in_file: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """ConfigError for a base that is no variant, or has a base itself."""
    if BASE not in in_file[variant]:
        return
    base = in_file[variant][BASE]
    if not isinstance(base, str) or base not in in_file:
        known = did_you_mean(base if isinstance(base, str) else "", in_file)
        raise ConfigError(f"{path}: variant {variant} has the base {shown(base)}, which is not a variant. {known}")
    if BASE in in_file[base]:
        raise ConfigError(
            f"{path}: variant {variant} has the base {base}, which has a base itself. Name a variant without one."
        )


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def settle(variant: str, levels: tuple[Level, ...]) -> Configuration:
    """The checked configuration: the defaults of the chosen network, overridden level by level."""
    network = chosen_network(levels)
    cls = config_class(network)
    chosen, sources = resolve(cls, levels, f"network {network}")
    shared = fields(NetConfig)
    defaults = {item.name: "default" if item in shared else f"default of {network}" for item in fields(cls)}
    configuration = Configuration(cls(**{"network": network} | chosen), defaults | sources, variant)
    check_columns(configuration.config, configuration.sources)
    check_choices(configuration)
    return configuration


def with_settings(configuration: Configuration, *further: tuple[Mapping[str, Any], str]) -> Configuration:
    """A configuration with further settings: values as in JSON, each with the source that they come from."""
    config, sources, variant = configuration
    as_json = json.loads(json.dumps(asdict(config)))
    before = Level(as_json, "settings", str, levels.value_from_json, sources.__getitem__)
    return settle(variant, (before, *(level_of(values, source) for values, source in further)))


def level_of(values: Mapping[str, Any], source: str) -> Level:
    """A level of values as in JSON that all have one source."""
    return Level(values, source, str, levels.value_from_json, lambda _: source)


def chosen_network(levels: tuple[Level, ...]) -> str:
    """The name of the network, which determines the other settings."""
    network, limits = NetConfig.network, NetConfig.__dataclass_fields__["network"].metadata
    for level in levels:
        if level.spell("network") in level.values:
            network = typed(level, "network", str, {**limits, "choices": tuple(networks.names())})
    return network


def check_choices(configuration: Configuration) -> None:
    """ConfigError for settings that contradict each other, though each is in its range."""
    config, sources, _ = configuration

    def description(name: str) -> str:
        return f"{name} = {json.dumps(getattr(config, name))} ({sources[name]})"

    if config.split == "time" and config.time_column is None:
        raise ConfigError(f"{description('split')} needs a time_column, the column that orders the rows.")
    if config.split == "group" and not config.group_columns:
        raise ConfigError(f"{description('split')} needs group_columns, the columns whose values keep rows together.")
    if config.stratify_column is not None and config.split != "random":
        raise ConfigError(f"{description('stratify_column')} needs split = random, not {description('split')}.")
    if config.test_fraction + config.validation_fraction >= 1:
        fractions = f"{description('test_fraction')} and {description('validation_fraction')}"
        raise ConfigError(f"{fractions} leave no rows to train on; their sum must be below 1.")
    if config.test_fraction + (config.validation_part + 1) * config.validation_fraction >= 1:
        parts = f"{description('validation_part')} leaves no rows to train on"
        raise ConfigError(f"{parts}: there are fewer parts of {description('validation_fraction')}. Lower one of them.")
    if config.positive_label is not None and config.objective != "binary":
        raise ConfigError(f"{description('positive_label')} goes with objective=binary alone. Set it to null.")
    metrics = STOPPING_METRICS[config.objective]
    if config.stopping_metric not in metrics:
        raise ConfigError(
            f"{description('stopping_metric')} is not one of {', '.join(metrics)}, as {description('objective')} needs."
        )
