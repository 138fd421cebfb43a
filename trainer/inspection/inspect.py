"""Inspect a dataset before training: `python -m trainer.inspection.inspect --data=PATH`.

Reads and splits the rows as a run does, with the same errors. Then prints facts and warnings about the columns, the
label and the split, and writes them to a page.
"""

import functools
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainer.runtime.command import begin_imports

if __name__ == "__main__":
    begin_imports()

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.cloud import output, storage
from trainer.config import roles
from trainer.config.loading import load_config
from trainer.config.net_config import NetConfig
from trainer.data import partitions, sources
from trainer.data.bad_rows import counted
from trainer.data.columns import NUMBER
from trainer.data.first_rows import first_rows
from trainer.data.json_values import JSON_TYPE
from trainer.data.loaded import Dataset
from trainer.data.selection import find_shards
from trainer.features import pipeline, sides
from trainer.features.labels import fit_label, unseen_by_set, unseen_classes_warning
from trainer.features.preprocessing import NUMERIC_ROLES, kept_values
from trainer.features.rules import text_rules, vocabulary_rules
from trainer.features.scale import numbers_of
from trainer.inspection.columns import Column, column_values
from trainer.inspection.keys import key_advice
from trainer.inspection.leakage import fingerprint, leakage
from trainer.inspection.page import page
from trainer.inspection.profile import Inspection, Profile, profile_column
from trainer.inspection.text import print_inspection
from trainer.inspection.warnings import dataset_warnings
from trainer.runtime.command import add_set, argument_parser, run_command, say, say_file
from trainer.runtime.timing import Timings

SAMPLE = os.path.relpath(Path(__file__).parents[2] / "data" / "sample_2k.json")
PAGE = "check.html"
SAMPLED_SHARDS, SAMPLED_BYTES = 16, 2**18  # to see column types without a schema: shards, and the start of each

# setting -> role of its columns, features first
ROLES = {name: role for name, (role, _) in roles.FEATURE_SETTINGS.items()} | {
    "label_column": "label", "weight_column": "weight", "time_column": "time", "group_columns": "group",
    "key_columns": "key", "stratify_column": "stratify",
}  # fmt: skip

Array = npt.NDArray[Any]
Sets = Mapping[str, tuple[pd.DataFrame, Array]]  # "train", "validation", "test" -> its dataset, and its rows in it


def inspect(config: NetConfig, data: Mapping[str, str]) -> Inspection:
    """The facts about the dataset under "train", and about separate ones under "validation" and "test".

    data: place of each dataset. DataError for what a run refuses.
    """
    datasets, types, advice = read(config, data)
    frames = {side: dataset.frame for side, dataset in datasets.items()}
    sets, split_facts = sides.split_and_describe(config, datasets)
    frame, label_kind = frames["train"], roles.LABEL_KINDS[config.objective]
    label = column_values(frame[config.label_column], label_kind, text_rules(config))
    labels_and_weights = (label.comparable, row_weights(config, frame))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        profiles = list(pool.map(functools.partial(profile, config, sets, labels_and_weights), columns(config, types)))
    class_warnings = check_labels(config, sets)
    labels = {side: label_facts(config, frame, rows) for side, (frame, rows) in sets.items()}
    return Inspection(
        datasets={side: dataset_facts(data[side], dataset) for side, dataset in datasets.items()},
        profiles=profiles,
        unused={name: type_ for name, type_ in types.items() if name not in {item.column.name for item in profiles}},
        labels=labels,
        split=split_facts,
        warnings=dataset_warnings(config, profiles, labels, split_facts, sources=data) + class_warnings,
        key_advice=advice,
    )


def read(config: NetConfig, data: Mapping[str, str]) -> tuple[dict[str, Dataset], dict[str, str], str]:
    """All datasets, and of the files of "train" the type of every column and advice about a key."""
    located = {side: sources.look_up(path) for side, path in data.items()}
    schema, timings = sources.fields_of(located["train"]), Timings()
    with pipeline.local_paths(config, located, timings) as paths:
        datasets = pipeline.read_all(config, located, paths, timings)
        shards = find_shards(paths["train"])
        advice = key_advice(config, shards)
        if schema is None:
            return datasets, json_types(shards), advice
    types = {name: f"{'REPEATED ' * (field.mode == 'REPEATED')}{field.type}" for name, field in schema.items()}
    return datasets, types, advice


def json_types(shards: Sequence[Path]) -> dict[str, str]:
    """The JSON types of every column in the first lines of some shards, such as "fraction or integer"."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    for row in first_rows(shards, most=SAMPLED_SHARDS, size=SAMPLED_BYTES):  # the reader reports bad lines
        for name, value in row.items():
            seen[name][json_type(value)] = None
    for shard in shards:
        seen |= {name: {"string": None} for name in partitions.values_of(shard.absolute().parent)}
    for types in seen.values():
        if len(types) > 1:
            types.pop("null", None)
        if any(name.startswith("list of") for name in types):
            types.pop("list", None)
    return {name: " or ".join(sorted(types)) for name, types in seen.items()}


def json_type(value: Any) -> str:
    """The JSON type of a value, in words."""
    if isinstance(value, list):
        return f"list of {json_type(value[0])}" if value else "list"
    if isinstance(value, str) and re.fullmatch(NUMBER, value):
        return "quoted number"
    return "null" if value is None else JSON_TYPE[type(value)]


def columns(config: NetConfig, types: Mapping[str, str]) -> list[Column]:
    """The columns with a role, features first."""
    named: dict[str, list[str]] = defaultdict(list)
    for setting_name, role in ROLES.items():
        for name in roles.columns_of(config, setting_name):
            named[name].append(role)
    kinds, features = roles.column_kinds(config), roles.feature_roles(config)
    rules = (vocabulary_rules(config), text_rules(config))
    return [
        Column(name, ", ".join(of_it), kinds[name], types.get(name, ""), kept_values(features.get(name, ""), *rules))
        for name, of_it in named.items()
    ]


def profile(config: NetConfig, sets: Sets, labels_and_weights: tuple[Array, Array], column: Column) -> Profile:
    """The profile of a column; of a feature also its leakage.

    labels_and_weights: label (see `leakage.leakage`) and weight of all rows of the dataset of "train".
    """
    if column.role in NUMERIC_ROLES:
        for frame, _ in sets.values():
            numbers_of(frame[column.name], column.role)  # refuses negative numbers that have no logarithm
    rules = text_rules(config)
    by_frame = {id(frame): column_values(frame[column.name], column.kind, rules) for frame, _ in sets.values()}
    values = {side: (by_frame[id(frame)], rows) for side, (frame, rows) in sets.items()}
    labels, weights = labels_and_weights
    numeric_label = np.issubdtype(labels.dtype, np.floating)
    numeric = labels_and_weights if numeric_label else None
    result = profile_column(column, values, numeric, vocabulary_rules(config))
    if column.name not in roles.feature_roles(config):
        return result
    train, held_out = held_out_rows(sets)
    comparable = values["train"][0].comparable
    measured = leakage(comparable, labels, train, held_out)
    if config.weight_column and numeric_label:
        measured = measured._replace(product=leakage(comparable, labels * weights, train, held_out).forward)
    return result._replace(leakage=measured, fingerprint=fingerprint(comparable, result.distinct))


def held_out_rows(sets: Sets) -> tuple[Array, Array]:
    """Rows of the dataset of "train" to fit and to measure on: another set's, else every tenth training row."""
    frame, train = sets["train"]
    for side, (other, rows) in sets.items():
        if side != "train" and other is frame:
            return train, rows
    return np.setdiff1d(train, train[::10], assume_unique=True), train[::10]


def check_labels(config: NetConfig, sets: Sets) -> list[str]:
    """Warnings about classes that no training row has. DataError for labels that a run refuses."""
    frame, train = sets["train"]
    label = fit_label(frame[config.label_column].iloc[train], config.objective, row_weights(config, frame)[train])
    unseen = unseen_by_set(label, sets)
    return [unseen_classes_warning(label, side, facts) for side, facts in unseen.items()]


def row_weights(config: NetConfig, frame: pd.DataFrame) -> Array:
    """float64 [rows]"""
    return frame[config.weight_column].to_numpy(np.float64) if config.weight_column else np.ones(len(frame))


def label_facts(config: NetConfig, frame: pd.DataFrame, rows: Array) -> dict[str, float]:
    """Number and total weight of some rows; of numeric labels also the weighted mean, its standard error ("error"),
    and the share of rows whose label is 0 ("zero")."""
    weights = row_weights(config, frame)[rows]
    facts = {"rows": float(len(rows)), "weight": float(weights.sum())}
    if config.objective in ("binary", "regression") and facts["weight"] > 0:
        label = frame[config.label_column].to_numpy(np.float64)[rows]
        mean = float(weights @ label) / facts["weight"]
        error = float(np.sqrt(((weights * (label - mean)) ** 2).sum())) / facts["weight"]
        facts |= {"mean": mean, "error": error, "zero": float((label == 0).mean())}
    return facts


def dataset_facts(path: str, dataset: Dataset) -> dict[str, Any]:
    """Place, files, bytes and row counts of a dataset."""
    size = sum(shard.bytes for shard in dataset.shards)
    counts = {
        "rows": dataset.rows, "rows_read": dataset.rows_read, "bad_rows": dataset.bad_rows,
        "left_out": counted(dataset.bad_rows, dataset.unlabelled),
    }  # fmt: skip
    return {"path": path, "files": len(dataset.shards), "bytes": size, **counts}


def main(argv: list[str] | None = None) -> None:
    """Inspect a dataset before training: facts and warnings about its columns, label and split."""
    parser = argument_parser("trainer.inspection.inspect", main)
    rows = "a file, a folder of shards, or a quoted glob"
    parser.add_argument("--variant", default="deep_v1", help="whose columns and split to use; default: %(default)s")
    parser.add_argument("--data", default=SAMPLE, help=f"rows: {rows}; default: %(default)s")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument("--out", default=PAGE, help="page to write or replace, also gs://; default: %(default)s")
    add_set(parser)
    arguments = parser.parse_args(argv)

    config = load_config(arguments.variant, environ=os.environ, command_line=arguments.set).config
    data = {"train": arguments.data, "validation": arguments.validation_data, "test": arguments.test_data}
    inspection = inspect(config, {side: path for side, path in data.items() if path})
    print_inspection(inspection)
    with output.new_file(arguments.out) as temporary:
        temporary.write_bytes(page(inspection, arguments.variant).encode())
    if storage.is_remote(arguments.out):
        say("page", arguments.out)
    else:
        say_file("page", Path(arguments.out))


if __name__ == "__main__":
    run_command(main)
