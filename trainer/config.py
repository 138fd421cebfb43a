"""The flat configuration: class defaults -> a variant in `variant_config.json` -> `NET_*` environment variables.

Every setting has a type (that of its annotation), a meaning and a range, written once, in `NetConfig` or in the
network's own subclass of it. Each value knows the level it came from. Nothing is ignored: an unknown name is an error
at every level.
"""

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import networks
from trainer.errors import ConfigError, did_you_mean

ENV_PREFIX = "NET_"
MAX_VARIANT_FILE_BYTES = 1_000_000

# What a column is to the loader; see `trainer.dataset`.
LABEL_KINDS = {"binary": "probability", "regression": "target", "multiclass": "class", "multilabel": "classes"}


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its meaning and its range: low <= value <= high, above < value < below."""
    limits = {"low": low, "above": above, "high": high, "below": below, "choices": choices}
    return field(default=default, metadata={"meaning": meaning, **limits})


@dataclass(frozen=True)
class NetConfig:
    """The settings that every network shares. The default columns are those of `data/sample_2k.json`."""

    network: str = setting("deep_v1", "registered architecture: a file in networks/")

    # Roles: what each column of the dataset is to the model.
    categorical_columns: tuple[str, ...] = setting(
        ("item", "publisher", "campaign", "country", "device", "hour"), "columns of one category a row"
    )
    multi_categorical_columns: tuple[str, ...] = setting((), "REPEATED columns: a list of categories a row")
    text_columns: tuple[str, ...] = setting(("title",), "columns of text")
    numeric_columns: tuple[str, ...] = setting(("position", "age"), "numbers, standardised")
    log_numeric_columns: tuple[str, ...] = setting((), "numbers >= 0, standardised after log(1 + x)")
    label_column: str = setting("ctr", "what is predicted")
    weight_column: str | None = setting("impressions", "weight of a row in loss and metrics; null: all rows weigh 1")
    key_columns: tuple[str, ...] = setting((), "identify a row; its hash decides its side of a random split; none: all columns with a role")
    objective: str = setting(
        "binary", "kind of label: a click or a rate in [0, 1], a number, one class, a list of classes",
        choices=("binary", "regression", "multiclass", "multilabel"),
    )

    # Split.
    split: str = setting("random", "how test and validation rows are chosen", choices=("random", "time", "group"))
    test_fraction: float = setting(0.1, "share of rows (groups, latest times) to test on, unless --test-data is given", low=0, below=1)
    validation_fraction: float = setting(
        0.1, "share to choose by (early stopping, best epoch), unless --validation-data is given", above=0, below=1
    )
    time_column: str | None = setting(None, "orders the rows of split=time")
    group_columns: tuple[str, ...] = setting((), "split=group: rows that share a value of any of these stay together")
    split_seed: int = setting(0, "another number, another random split", low=0, high=2**31 - 1)
    max_bad_rows: int = setting(0, "unreadable rows to skip and report before the run is refused", low=0, high=10**9)

    # Preprocessing, learnt from training rows only.
    min_count: int = setting(2, "a category or token seen in fewer training rows is out of vocabulary", low=1, high=10**9)
    max_vocabulary: int = setting(200_000, "categories or tokens kept per column, most frequent first", low=1, high=10**8)
    max_values: int = setting(8, "categories kept per row of a multi-categorical column", low=1, high=10_000)
    tokenizer: str = setting("spacy", "spacy: its English rules; regex: runs inside the SavedModel too", choices=("spacy", "regex"))
    lowercase: bool = setting(True, "lower-case tokens")
    max_tokens: int = setting(16, "tokens kept per text", low=1, high=10_000)

    # Training.
    batch_size: int = setting(256, "rows per step", low=1, high=2**20)
    epochs: int = setting(20, "passes over the training rows, at most", low=1, high=100_000)
    optimizer: str = setting("adam", "update rule; rows of an embedding are updated only where touched", choices=("adam", "adagrad", "sgd"))
    learning_rate: float = setting(0.002, "step size after warm-up", above=0, high=100)
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", low=0, high=10**9)
    decay: str = setting("none", "of the learning rate, over all epochs, after warm-up", choices=("none", "linear", "cosine"))
    clip_norm: float | None = setting(None, "gradients are scaled down to this global norm; null: never", above=0, high=10**9)
    stopping_metric: str = setting("loss", "validation metric that picks the best epoch")
    patience: int | None = setting(3, "epochs without a better validation metric before training stops; null: never", low=1, high=100_000)
    seed: int = setting(0, "of weights, shuffling and dropout", low=0, high=2**31 - 1)
    deterministic: bool | None = setting(None, "bit-identical runs; null: on a CPU yes, on a GPU no")


class Configuration(NamedTuple):
    """A checked configuration and, for each setting, where its value came from."""

    config: NetConfig
    sources: dict[str, str]


def config_class(network: str) -> type[NetConfig]:
    """The settings class of a network."""
    cls = networks.load(network).Config
    assert issubclass(cls, NetConfig)
    return typing.cast(type[NetConfig], cls)
