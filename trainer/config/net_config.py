"""Load the flat configuration: class defaults, then a variant in `variant_config.json`, then `NET_*` variables.

`NetConfig` or a network's subclass of it declares each setting with its type, default, meaning and range. Each value
records the level that it comes from. Unknown names are errors at every level.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import networks
from trainer.config import levels, strict_json
from trainer.config.levels import Level, resolve, setting, shown, typed
from trainer.config.names import check_name
from trainer.config.roles import check_columns
from trainer.runtime.errors import ConfigError, did_you_mean

ENV_PREFIX = "NET_"
VARIANT_FILE = Path(__file__).resolve().parents[2] / "variant_config.json"

# objective -> what the best epoch can be chosen by, and which way is better
STOPPING_METRICS: dict[str, dict[str, str]] = {
    "binary": dict.fromkeys(("loss", "mse", "mae", "log_loss", "normalised_entropy"), "min")
    | dict.fromkeys(("auc", "accuracy"), "max"),
    "regression": dict.fromkeys(("loss", "mse", "mae", "rmse"), "min") | {"r2": "max"},
    "multiclass": dict.fromkeys(("loss", "log_loss"), "min")
    | dict.fromkeys(("accuracy", "top_5_accuracy", "macro_f1"), "max"),
    "multilabel": {"loss": "min"} | dict.fromkeys(("auc", "micro_f1", "macro_f1"), "max"),
}


@dataclass(frozen=True)
class NetConfig:
    """The settings that all networks share. The default columns are those of `data/sample_2k.json`."""

    network: str = setting("deep_v1", "name of a file in networks/")

    # Columns of the dataset by role.
    categorical_columns: tuple[str, ...] = setting(
        ("item", "publisher", "campaign", "country", "device", "hour"), "columns with one category per row"
    )
    multi_categorical_columns: tuple[str, ...] = setting(
        (), "columns with a list of categories per row (REPEATED in BigQuery)"
    )
    text_columns: tuple[str, ...] = setting(("title",), "columns with text")
    numeric_columns: tuple[str, ...] = setting(
        ("position", "age"), "columns with numbers, scaled to mean 0 and standard deviation 1"
    )
    log_numeric_columns: tuple[str, ...] = setting((), "columns with numbers >= 0, scaled after log(1 + x)")
    label_column: str = setting("ctr", "column to predict")
    weight_column: str | None = setting(
        "impressions", "column with the weight of each row in loss and metrics; null: equal weights"
    )
    key_columns: tuple[str, ...] = setting(
        (), "columns that identify a row; a random split hashes them; empty: all columns with a role"
    )
    objective: str = setting(
        "binary",
        "kind of label: a click or rate in [0, 1], a number, one class, or a list of classes",
        choices=("binary", "regression", "multiclass", "multilabel"),
    )

    # Split.
    split: str = setting("random", "how to choose test and validation rows", choices=("random", "time", "group"))
    test_fraction: float = setting(
        0.1, "share of the rows (split=group: of the groups) for the test set; --test-data replaces it", low=0, below=1
    )
    validation_fraction: float = setting(
        0.1,
        "share of the rows (split=group: of the groups) for choosing the best epoch; --validation-data replaces it",
        above=0,
        below=1,
    )
    time_column: str | None = setting(None, "split=time: column that orders the rows; the latest are the test set")
    group_columns: tuple[str, ...] = setting(
        (), "split=group: rows that share a value in any of these columns stay together"
    )
    split_seed: int = setting(0, "random seed of the split", low=0, high=2**31 - 1)
    max_bad_rows: int = setting(0, "bad rows to skip; one more stops the run", low=0, high=10**9)
    subsample: float = setting(
        1.0, "share of the rows to use, chosen by their hash: the same rows in every run", above=0, high=1
    )

    # Preprocessing, fitted to training rows only.
    min_count: int = setting(
        2, "categories and tokens that occur less often in the training rows count as unknown", low=1, high=10**9
    )
    max_vocabulary: int = setting(
        200_000, "categories or tokens to keep per column, most frequent first", low=1, high=10**8
    )
    max_values: int = setting(8, "categories to keep per row of a multi-categorical column", low=1, high=10_000)
    tokenizer: str = setting(
        "spacy", "spacy: English rules; regex: also works inside the SavedModel", choices=("spacy", "regex")
    )
    lowercase: bool = setting(True, "convert text to lower case")
    max_tokens: int = setting(16, "tokens to keep per text", low=1, high=10_000)

    # Memory and disk.
    rows_in_memory: int | None = setting(
        None, "rows of each set in memory at a time; the others are read from the cache in shuffled blocks; null: all",
        low=1, high=10**9,
    )  # fmt: skip
    cache_gb: float = setting(
        20.0, "most GB in cache/, which keeps encoded rows and downloads for later runs; 0: no cache", low=0, high=10**6
    )

    # Training.
    batch_size: int = setting(256, "rows per step", low=1, high=2**20)
    epochs: int = setting(20, "passes over the training rows, at most", low=1, high=100_000)
    optimizer: str = setting(
        "adam",
        "update rule; in tables of more than 4096 embeddings it updates only those in the batch",
        choices=("adam", "adagrad", "sgd"),
    )
    learning_rate: float = setting(0.002, "learning rate after warm-up", above=0, high=100)
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", low=0, high=10**9)
    decay: str = setting(
        "none",
        "how the learning rate falls to 0 by the last epoch; none: it does not fall",
        choices=("none", "linear", "cosine"),
    )
    clip_norm: float | None = setting(
        None, "largest global norm of the gradients; larger ones are scaled down; null: no limit", above=0, high=10**9
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints within an epoch; 0: every half second", low=0, high=10**6
    )
    stopping_metric: str = setting("loss", "validation metric that chooses the best epoch")
    patience: int | None = setting(
        3, "epochs without a better stopping_metric before training stops; null: no early stopping", low=1, high=100_000
    )
    seed: int = setting(0, "random seed of weights, shuffling and dropout", low=0, high=2**31 - 1)
    deterministic: bool | None = setting(None, "same bits in every run; null: true on a CPU, false on a GPU")


class Configuration(NamedTuple):
    """A checked configuration and the source of each value."""

    config: NetConfig
    # setting -> "default", "default of NETWORK", "variant NAME", "environment NET_NAME" or "argument"
    sources: dict[str, str]
    variant: str


def load_config(
    variant: str, *, path: Path = VARIANT_FILE, environ: Mapping[str, str], arguments: Mapping[str, Any] | None = None
) -> Configuration:
    """The checked configuration of a variant; ConfigError for any mistake at any level.

    environ: environment variables; `NET_*` override settings. arguments: settings from Python, which override all.
    """
    return settle(variant, levels_of(variant, path, environ, arguments or {}))


def levels_of(variant: str, path: Path, environ: Mapping[str, str], arguments: Mapping[str, Any]) -> tuple[Level, ...]:
    """The levels that override the defaults, see `load_config`; ConfigError for an unknown variant."""
    check_name(variant, "variant")
    in_file = variants(path)
    if variant not in in_file:
        raise ConfigError(f"There is no variant {variant!r} in {path}. {did_you_mean(variant, in_file)}")
    variables = {variable(item.name) for item in fields(NetConfig)}
    in_env = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX) or name.upper() in variables}
    in_variant = f"variant {variant}"
    return (
        Level(in_file[variant], f"{path}, {in_variant}", str, levels.value_from_json, lambda _: in_variant),
        Level(in_env, "environment", variable, levels.value_from_text, lambda name: f"environment {variable(name)}"),
        Level(arguments, "arguments", str, levels.value_from_python, lambda _: "argument"),
    )


def variants(path: Path = VARIANT_FILE) -> dict[str, dict[str, Any]]:
    """The variants of a file: name -> the settings that differ from the defaults, not yet checked."""
    content = strict_json.read(path)
    if not isinstance(content, dict):
        raise ConfigError(f'{path} must hold an object of variants, {{"NAME": {{...}}}}, not {shown(content)}.')
    for name, settings in content.items():
        check_name(name, "variant")
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: variant {name} must be an object of settings, not {shown(settings)}.")
    return content


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def config_class(network: str) -> type[NetConfig]:
    """The settings class of a network."""
    cls = getattr(networks.load(network), "Config", None)
    if not (isinstance(cls, type) and issubclass(cls, NetConfig) and "__dataclass_fields__" in vars(cls)):
        raise ConfigError(f"Network {network!r} must define a @dataclass(frozen=True) class Config(NetConfig).")
    if undeclared := [item.name for item in fields(cls) if "meaning" not in item.metadata]:
        raise ConfigError(f"Network {network!r}: declare {', '.join(undeclared)} as setting(default, meaning).")
    return cls


def settle(variant: str, levels: tuple[Level, ...], cls: type[NetConfig] | None = None) -> Configuration:
    """The checked configuration: defaults of `cls`, or else of the chosen network, overridden level by level."""
    network = chosen_network(levels)
    cls = cls or config_class(network)
    chosen, sources = resolve(cls, levels, f"network {network}")
    defaults = {item.name: "default" if item in fields(NetConfig) else f"default of {network}" for item in fields(cls)}
    configuration = Configuration(cls(**{"network": network} | chosen), defaults | sources, variant)
    check_columns(configuration.config, configuration.sources)
    check_choices(configuration)
    return configuration


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
    if config.test_fraction + config.validation_fraction >= 1:
        fractions = f"{description('test_fraction')} and {description('validation_fraction')}"
        raise ConfigError(f"{fractions} leave no rows to train on; their sum must be below 1.")
    metrics = STOPPING_METRICS[config.objective]
    if config.stopping_metric not in metrics:
        raise ConfigError(
            f"{description('stopping_metric')} is not one of {', '.join(metrics)}, as {description('objective')} needs."
        )
