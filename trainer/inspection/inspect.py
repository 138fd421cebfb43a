"""Look at a dataset before anything is trained on it: `python -m trainer.inspection.inspect --data=PATH`.

Reads and splits the rows as a run does and refuses what a run refuses; then tells of each column what is in it and what
is doubtful about it, on the screen and on a page.
"""

import argparse
import ast
import contextlib
import functools
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from trainer.runtime.command import begin

if __name__ == "__main__":
    begin()

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

import networks
from trainer.config import net_config
from trainer.config.levels import Level, resolve, value_from_json, value_from_text
from trainer.config.net_config import ENV_PREFIX, Configuration, NetConfig, variable
from trainer.data import capacity, sources, split
from trainer.data.columns import JSON_TYPE, NUMBER
from trainer.data.dataset import Dataset
from trainer.data.schema import plan_columns
from trainer.data.shards import find_shards
from trainer.features import pipeline
from trainer.features.labels import apply_label, learn_label
from trainer.features.preprocessing import NUMERIC_ROLES
from trainer.features.scale import numbers_of
from trainer.features.tokenizers import TextRules, get_ready
from trainer.features.vocabulary import VocabularyRules
from trainer.inspection.cells import Column, cells_of
from trainer.inspection.findings import doubts_of
from trainer.inspection.leakage import fingerprint, leak
from trainer.inspection.page import page
from trainer.inspection.profile import Inspection, Profile, profile
from trainer.inspection.text import print_inspection
from trainer.runtime import cache
from trainer.runtime.command import import_tensorflow_quietly, run_command, say

SAMPLE = os.path.relpath(Path(__file__).parents[2] / "data" / "sample_2k.json")
PAGE = "check.html"
HEADS, HEAD_BYTES = 16, 2**18  # shards whose first lines tell which columns there are, and how much of each

# setting -> what its columns are to the model, in the order in which they are told
ROLES = {name: role for name, (role, _) in net_config.FEATURE_SETTINGS.items()} | {
    "label_column": "label", "weight_column": "weight", "time_column": "time", "group_columns": "group",
    "key_columns": "key",
}  # fmt: skip

Array = npt.NDArray[Any]
Sides = Mapping[str, tuple[pd.DataFrame, Array]]


def inspect(config: NetConfig, data: Mapping[str, str]) -> Inspection:
    """Look at the dataset under "train", and at separate sets under "validation" and "test", where there are any."""
    sets, types = read(config, data)
    frames = {side: found.frame for side, found in sets.items()}
    hashes = {id(frame): split.row_hashes(frame, config.key_columns) for frame in frames.values()}
    sides = pipeline.split_sides(config, frames, hashes)
    compared = list(dict.fromkeys((*config.categorical_columns, *config.group_columns)))
    facts = split.describe_split(
        {side: frame[compared].take(rows) for side, (frame, rows) in sides.items()},
        categorical_columns=config.categorical_columns,
        group_columns=config.group_columns,
        hashes={side: hashes[id(frame)][rows] for side, (frame, rows) in sides.items()},
    )
    del hashes
    frame = frames["train"]
    label = cells_of(frame[config.label_column], net_config.LABEL_KINDS[config.objective], text_rules(config))
    labelled = (label.comparable, weights_of(config, frame))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        look = functools.partial(look_at, config, sides, labelled)
        profiles = list(pool.map(look, columns_of(config, types)))
    check_labels(config, sides)
    labels = {side: label_facts(config, frame, rows) for side, (frame, rows) in sides.items()}
    roles = {told.column.name for told in profiles}
    return Inspection(
        sets={side: facts_of(data[side], found) for side, found in sets.items()},
        profiles=profiles,
        without_role={name: type_ for name, type_ in types.items() if name not in roles},
        labels=labels,
        split=facts,
        doubts=doubts_of(config, profiles, labels, facts, given=data),
    )


def read(config: NetConfig, data: Mapping[str, str]) -> tuple[dict[str, Dataset], dict[str, str]]:
    """All datasets, and the type of each column that the files of the first one have."""
    lie = {side: sources.look_up(path) for side, path in data.items()}
    kinds = net_config.column_kinds(config)
    schemas = {side: sources.fields_of(source) for side, source in lie.items()}
    for table in schemas.values():
        plan_columns(kinds, table)
    with contextlib.ExitStack() as while_read, ThreadPoolExecutor(1) as beside:
        if config.text_columns:
            beside.submit(get_ready, config.tokenizer)  # a second, while most of the reading is the work of others
        places = {
            side: while_read.enter_context(sources.local(source, cache.FOLDER, int(config.cache_gb * 1e9)))
            for side, source in lie.items()
        }
        capacity.check_before_reading(config, places.values())
        sets = {side: pipeline.read(config, place, lie[side].given) for side, place in places.items()}
        fields_of_table = schemas["train"]
        if fields_of_table is None:
            types = types_of(find_shards(places["train"]))
        else:
            types = {
                name: f"{'REPEATED ' * (field.mode == 'REPEATED')}{field.type}"
                for name, field in fields_of_table.items()
            }
    for side, found in sets.items():
        sources.check_rows(lie[side], found)
    return sets, types


def types_of(shards: Sequence[Path]) -> dict[str, str]:
    """The JSON types of every column among the first lines of some shards."""
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    for shard in shards[:: -(-len(shards) // HEADS)]:
        _, text = capacity.head_of(shard, HEAD_BYTES)
        for line in text.split(b"\n")[:-1]:
            with contextlib.suppress(orjson.JSONDecodeError, AttributeError):  # the reader says what is wrong
                for name, value in orjson.loads(line).items():
                    seen[name][json_form(value)] = None
    for types in seen.values():
        if len(types) > 1:
            types.pop("null", None)
        if any(name.startswith("list of") for name in types):
            types.pop("list", None)
    return {name: " or ".join(sorted(types)) for name, types in seen.items()}


def json_form(value: Any) -> str:
    """What a value looks like in JSON."""
    if isinstance(value, list):
        return f"list of {json_form(value[0])}" if value else "list"
    if isinstance(value, str) and re.fullmatch(NUMBER, value):
        return "quoted number"
    return "null" if value is None else JSON_TYPE[type(value)]


def columns_of(config: NetConfig, types: Mapping[str, str]) -> list[Column]:
    """The columns that have a role: features first."""
    roles: dict[str, list[str]] = defaultdict(list)
    for setting_name, role in ROLES.items():
        for name in net_config.columns_of(config, setting_name):
            roles[name].append(role)
    kinds, widths = net_config.column_kinds(config), {"text": config.max_tokens, "categories": config.max_values}
    return [
        Column(name, ", ".join(of_it), kinds[name], types.get(name, ""), widths.get(kinds[name], 1))
        for name, of_it in roles.items()
    ]


def look_at(config: NetConfig, sides: Sides, labelled: tuple[Array, Array], column: Column) -> Profile:
    """The profile of a column, and how much of the label it tells. labelled: label (see `leakage.leak`) and weights of
    all rows of the first frame."""
    frame, train = sides["train"]
    if column.role in NUMERIC_ROLES:
        for other, _ in sides.values():
            numbers_of(other[column.name], column.role)  # refuses what has no logarithm
    by_frame = {id(other): cells_of(other[column.name], column.kind, text_rules(config)) for other, _ in sides.values()}
    cells = {side: (by_frame[id(other)], rows) for side, (other, rows) in sides.items()}
    rules = VocabularyRules(config.min_count, config.max_vocabulary, config.max_values)
    label, weights = labelled
    numeric = np.issubdtype(label.dtype, np.floating)
    told = profile(column, cells, labelled if numeric else None, rules)
    if column.name not in net_config.feature_roles(config):
        return told
    held = next((rows for side, (other, rows) in sides.items() if other is frame and side != "train"), train[::10])
    learnt_from = np.setdiff1d(train, held, assume_unique=True) if held[0] == train[0] else train
    values = cells["train"][0].comparable
    found = leak(values, label, learnt_from, held)
    if config.weight_column and numeric:
        found = found._replace(product=leak(values, label * weights, learnt_from, held).alone)
    return told._replace(leak=found, content=fingerprint(values, told.distinct))


def text_rules(config: NetConfig) -> TextRules:
    return TextRules(config.tokenizer, config.lowercase, config.max_tokens)


def check_labels(config: NetConfig, sides: Sides) -> None:
    """DataError for labels that a run refuses: without weight, or of classes that no training row has."""
    frame, train = sides["train"]
    learnt = learn_label(frame[config.label_column].iloc[train], config.objective, weights_of(config, frame)[train])
    if config.objective == "multiclass":
        for other, rows in sides.values():
            apply_label(learnt, other[config.label_column].iloc[rows])


def weights_of(config: NetConfig, frame: pd.DataFrame) -> Array:
    """float64 [rows]"""
    return frame[config.weight_column].to_numpy(np.float64) if config.weight_column else np.ones(len(frame))


def label_facts(config: NetConfig, frame: pd.DataFrame, rows: Array) -> dict[str, float]:
    """Of some rows the number and the weight; of labels that are numbers the mean, the standard error of it, and the
    share of rows with the label 0."""
    weights = weights_of(config, frame)[rows]
    facts = {"rows": float(len(rows)), "weight": float(weights.sum())}
    if config.objective in ("binary", "regression") and facts["weight"] > 0:
        label = frame[config.label_column].to_numpy(np.float64)[rows]
        mean = float(weights @ label) / facts["weight"]
        error = float(np.sqrt(((weights * (label - mean)) ** 2).sum())) / facts["weight"]
        facts |= {"mean": mean, "error": error, "zero": float((label == 0).mean())}
    return facts


def facts_of(path: str, found: Dataset) -> dict[str, Any]:
    """What is told of a dataset as a whole."""
    size = sum(shard.bytes for shard in found.shards)
    counts = {"rows": found.rows, "rows_read": found.rows_read, "bad_rows": found.bad_rows}
    return {"path": path, "files": len(found.shards), "bytes": size, **counts}


def settings_of(variant: str, environ: Mapping[str, str]) -> NetConfig:
    """The checked configuration of a variant. A network's file needs TensorFlow, which takes seconds to import: it is
    left alone where none but shared settings are given and it has no defaults of its own for these."""
    shared = {item.name for item in fields(NetConfig)}
    given = net_config.variants().get(variant, {"": None})
    from_environment = {name: text for name, text in environ.items() if name.upper().startswith(ENV_PREFIX)}
    if given.keys() <= shared and from_environment.keys() <= set(map(variable, shared)):
        levels = (
            Level(
                given,
                f"{net_config.VARIANT_FILE}, variant {variant}",
                str,
                value_from_json,
                lambda _: f"variant {variant}",
            ),
            Level(
                from_environment, "environment", variable, value_from_text, lambda name: f"environment {variable(name)}"
            ),
        )
        network = net_config.chosen_network(levels)
        if not shared & declared(networks.files()[network]):
            chosen, sources_ = resolve(NetConfig, levels, f"network {network}")
            defaults = dict.fromkeys(shared, "default")
            settings = Configuration(NetConfig(**chosen), defaults | sources_, variant)
            net_config.check_columns(settings)
            net_config.check_choices(settings)
            return settings.config
    import_tensorflow_quietly()
    return net_config.load_config(variant, environ=environ).config


def declared(network: Path) -> set[str]:
    """The settings that a network's file declares, by its text."""
    classes = [node for node in ast.parse(network.read_bytes()).body if isinstance(node, ast.ClassDef)]
    statements = [statement for node in classes for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return {ast.unparse(statement.target) for statement in statements}


def main(argv: list[str] | None = None) -> None:
    """Look at a dataset before training on it: columns, label, split, and what is doubtful."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.inspection.inspect", description=main.__doc__, allow_abbrev=False
    )
    rows = "a file, a folder of shards, or a quoted glob"
    parser.add_argument("--variant", default="deep_v1", help="whose columns and split; default: %(default)s")
    parser.add_argument("--data", default=SAMPLE, help=f"rows: {rows}; default: %(default)s")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument(
        "--out", default=PAGE, help="page to write, or to replace; gs:// likewise; default: %(default)s"
    )
    arguments = parser.parse_args(argv)

    config = settings_of(arguments.variant, os.environ)
    data = {"train": arguments.data, "validation": arguments.validation_data, "test": arguments.test_data}
    found = inspect(config, {side: path for side, path in data.items() if path})
    print_inspection(found)
    with sources.new_file(arguments.out) as temporary:
        temporary.write_bytes(page(found, arguments.variant).encode())
    say("page", arguments.out)


if __name__ == "__main__":
    run_command(main)
