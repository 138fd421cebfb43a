"""Split the datasets of a run into its sets, as configured, and describe them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trainer.config.net_config import NetConfig
from trainer.data.column_hash import row_hashes
from trainer.data.loaded import Dataset
from trainer.data.row_hash import Hashes
from trainer.data.split import split_rows
from trainer.data.split_facts import RULE, describe_split
from trainer.runtime.command import count, say


def split_sides(config: NetConfig, datasets: Mapping[str, Dataset]) -> dict[str, tuple[pd.DataFrame, np.ndarray]]:
    """The training, validation and test set by name: a frame and the positions of its rows, int64 [rows].

    Sets without a separate dataset are cut from "train". DataError where a set would be empty.
    """
    whole, columns = datasets["train"], {"time": (config.time_column,), "group": config.group_columns}
    cut = split_rows(
        whole.frame,
        method=config.split,
        columns=[column for column in columns.get(config.split, config.key_columns) if column],
        draws=whole.draws,
        test_fraction=0.0 if "test" in datasets else config.test_fraction,
        validation_fraction=0.0 if "validation" in datasets else config.validation_fraction,
        seed=config.split_seed,
        stratify_column=config.stratify_column,
        validation_part=config.validation_part,
    )
    sides = {side: (whole.frame, rows) for side, rows in cut._asdict().items()}
    sides |= {side: (read.frame, np.arange(read.rows)) for side, read in datasets.items() if side != "train"}
    say("split", ", ".join(f"{side} {len(rows):,}" for side, (_, rows) in sides.items()) + f" rows, {rule(config)}")
    if between := whole.rows - sum(map(len, cut)):
        say("split", f"{count(between, 'row')} between validation and test rows not used: validation_part")
    return {side: (frame, rows) for side, (frame, rows) in sides.items() if len(rows)}


def rule(config: NetConfig) -> str:
    """How rows are split, in words."""
    if config.split != "random":
        return config.split
    strata = f", the same shares of each {config.stratify_column}" if config.stratify_column else ""
    return f"random by {', '.join(config.key_columns) or 'all columns of the files'}{strata}"


def split_and_describe(
    config: NetConfig, datasets: Mapping[str, Dataset]
) -> tuple[dict[str, tuple[pd.DataFrame, np.ndarray]], dict[str, Any]]:
    """The sets from `split_sides`, and the facts about them from `split_facts.describe_split`."""
    sides = split_sides(config, datasets)
    compared = list(dict.fromkeys((*config.categorical_columns, *config.group_columns)))
    read = {side: datasets.get(side, datasets["train"]) for side in sides}
    identities = {side: identities_of(config, datasets[side], alone=len(datasets) == 1) for side in datasets}
    hashes, draws = {}, {}
    for side, (_, rows) in sides.items():
        identity = identities.get(side, identities["train"])
        hashes[side] = identity[rows]
        draws[side] = hashes[side] if read[side].draws is identity else read[side].draws[rows]
    facts = describe_split(
        {side: frame[compared].take(rows) for side, (frame, rows) in sides.items()},
        categorical_columns=config.categorical_columns,
        group_columns=config.group_columns,
        hashes=hashes,
        draws=draws,
    )
    return sides, {"rule": {"version": RULE, "split": rule(config), "seed": config.split_seed}} | facts


def identities_of(config: NetConfig, read: Dataset, *, alone: bool) -> Hashes:
    """uint64 [rows]: hashes that are equal for the same row: its key; without keys, the stored row. Where sets have
    datasets of their own, whose other columns may differ, all values with a role."""
    return read.hashes if config.key_columns or alone else row_hashes(read.frame, ())
