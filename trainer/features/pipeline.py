"""From files to encoded rows: read, split, learn, encode; or what an earlier run left of this in the cache."""

import contextlib
import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import feather

from trainer.config import net_config
from trainer.config.net_config import NetConfig
from trainer.data import capacity, dataset, sources, split
from trainer.data.schema import plan_columns
from trainer.data.sources import Source
from trainer.features import encoded, preprocessing
from trainer.features.encoded import Packed
from trainer.features.preprocessing import Preprocessing
from trainer.features.tokenizers import TextRules, get_ready
from trainer.features.vocabulary import VocabularyRules
from trainer.runtime import cache, system
from trainer.runtime.command import say
from trainer.runtime.errors import ResourceError
from trainer.runtime.provenance import code_hashes, package_versions
from trainer.runtime.timing import Timings

HELD_OUT_ROWS = 1000  # raw rows that a written package must score as the trained model does
HELD_OUT = "held_out.arrow"
MOST_LISTED = 1000  # bad rows that the package names

# The code that decides what the encoded rows are and how an entry of the cache stores them. What fetches rows is left
# out: they are checked by size and checksum.
ENCODING_CODE = ("config", "data", "features", "runtime/cache.py", "runtime/system.py")

# The settings that do not decide what the encoded rows are, as the settings of a network do not.
AFTER_ENCODING = frozenset(
    ("network", "rows_in_memory", "cache_gb", "batch_size", "epochs", "optimizer", "learning_rate", "warmup_steps",
     "decay", "clip_norm", "checkpoint_minutes", "stopping_metric", "patience", "seed", "deterministic")
)  # fmt: skip


class Prepared(NamedTuple):
    """All that training needs of the data, and what its package tells of it."""

    sets: dict[str, dict[str, Any]]  # of each dataset: path, rows, rows_read, bad_rows, fingerprint, shards
    split: dict[str, Any]  # see `split.describe_split`
    learnt: Preprocessing
    packed: dict[str, Packed]  # by side: train, validation, test where there is one
    held_out: pd.DataFrame  # raw features of some rows of the last side


def prepare(
    config: NetConfig, data: Mapping[str, str], timings: Timings, code: Path = Path(__file__).parents[1]
) -> Prepared:
    """The encoded rows of a run.

    data: path of the dataset under "train"; of separate sets under "validation" and "test", where there are any.
    code: the folder of this package, whose files are part of the cache's key.
    """
    lie = {side: sources.look_up(path) for side, path in data.items()}
    versions = code_hashes(code, *ENCODING_CODE) | package_versions()
    key = cache.key_of(encoding_settings(config), {side: source.identity for side, source in lie.items()}, versions)
    if config.cache_gb:
        with timings.stage("cache"):
            facts, arrays, damaged = cache.find(cache.FOLDER, key)
        if damaged:
            say("warning", f"the cache is damaged: {damaged}. Its rows are made anew.")
        if facts:
            capacity.check_before_training(config, sum(facts["split"]["rows"].values()))
            return restored(cache.FOLDER / key, facts, arrays, data)

    sets = read_all(config, lie, timings)
    with timings.stage("split"):
        frames = {side: found.frame for side, found in sets.items()}
        hashes = {id(frame): split.row_hashes(frame, config.key_columns) for frame in frames.values()}
        sides = split_sides(config, frames, hashes)
        compared = list(dict.fromkeys((*config.categorical_columns, *config.group_columns)))
        facts = split.describe_split(
            {side: frame[compared].take(rows) for side, (frame, rows) in sides.items()},
            categorical_columns=config.categorical_columns,
            group_columns=config.group_columns,
            hashes={side: hashes[id(frame)][rows] for side, (frame, rows) in sides.items()},
        )
        del hashes
    with timings.stage("preprocess"):
        told = {side: describe(lie[side], found) for side, found in sets.items()}
        prepared = encode(config, key, told, facts, sides)
    timings.count_rows("preprocess", sum(len(rows) for _, rows in sides.values()))
    return prepared


def encoding_settings(config: NetConfig) -> dict[str, Any]:
    """The settings that decide what the encoded rows are."""
    return {item.name: getattr(config, item.name) for item in fields(NetConfig) if item.name not in AFTER_ENCODING}


def read_all(config: NetConfig, lie: Mapping[str, Source], timings: Timings) -> dict[str, dataset.Dataset]:
    """The rows of all datasets; those in buckets are brought here first."""
    for source in lie.values():
        plan_columns(net_config.column_kinds(config), sources.fields_of(source))
    with contextlib.ExitStack() as while_read, ThreadPoolExecutor(1) as beside:
        if config.text_columns:
            beside.submit(get_ready, config.tokenizer)  # a second, while most of the reading is the work of others
        with timings.stage("download") if any(source.remote for source in lie.values()) else contextlib.nullcontext():
            places = {
                side: while_read.enter_context(sources.local(source, cache.FOLDER, int(config.cache_gb * 1e9)))
                for side, source in lie.items()
            }
        capacity.check_before_reading(config, places.values())
        with timings.stage("read"):
            sets = {side: read(config, place, lie[side].given) for side, place in places.items()}
    for side, found in sets.items():
        sources.check_rows(lie[side], found)
    timings.count_rows("read", sum(found.rows for found in sets.values()))
    return sets


def read(config: NetConfig, path: str, name: str) -> dataset.Dataset:
    """A dataset's columns that have a role. name: what people call it."""
    keep = functools.partial(split.subsample, columns=config.key_columns, fraction=config.subsample)
    found = dataset.load(
        path, net_config.column_kinds(config), max_bad_rows=config.max_bad_rows,
        keep=keep if config.subsample < 1 else None, name=name,
    )  # fmt: skip
    files = "1 file" if len(found.shards) == 1 else f"{len(found.shards)} files"
    bad = f", {found.bad_rows:,} bad rows left out" if found.bad_rows else ""
    used = f", {found.rows:,} of them used (subsample {config.subsample:g})" if config.subsample < 1 else ""
    say("data", f"{name}: {found.rows_read:,} rows in {files}{bad}{used}")
    if config.key_columns and (shared := duplicate_keys(found.frame, config.key_columns)):
        say("warning", f"{shared:,} rows of {name} share their key with another ({', '.join(config.key_columns)}).")
    return found


def duplicate_keys(frame: pd.DataFrame, key_columns: Iterable[str]) -> int:
    """How many rows share their key, the values of all `key_columns`, with another row."""
    return int(frame.duplicated(list(key_columns), keep=False).sum())


def split_sides(
    config: NetConfig, frames: Mapping[str, pd.DataFrame], hashes: Mapping[int, np.ndarray] | None = None
) -> dict[str, tuple[pd.DataFrame, np.ndarray]]:
    """The frame and its rows, int64, to train on, to choose by and to report on; sides without a dataset of their own
    come from "train". hashes: the `split.row_hashes` of the key columns, by id of the frame, where they are known."""
    columns = {"random": config.key_columns, "time": (config.time_column,), "group": config.group_columns}
    cut = split.split_rows(
        frames["train"],
        method=config.split,
        columns=[column for column in columns[config.split] if column],
        test_fraction=0.0 if "test" in frames else config.test_fraction,
        validation_fraction=0.0 if "validation" in frames else config.validation_fraction,
        seed=config.split_seed,
        hashes=hashes[id(frames["train"])] if hashes and config.split == "random" else None,
    )
    sides = {side: (frames["train"], rows) for side, rows in cut._asdict().items()}
    sides |= {side: (frame, np.arange(len(frame))) for side, frame in frames.items() if side != "train"}
    say("split", ", ".join(f"{side} {len(rows):,}" for side, (_, rows) in sides.items()) + f" rows, {config.split}")
    return {side: (frame, rows) for side, (frame, rows) in sides.items() if len(rows)}


def describe(source: Source, found: dataset.Dataset) -> dict[str, Any]:
    """What the package tells of a dataset."""
    shards = [shard._asdict() for shard in found.shards]
    if source.remote:
        for shard, stored in zip(shards, source.shards, strict=True):
            shard["generation"] = str(stored.generation)  # beyond what some readers of JSON keep exact
    counts = {"rows": found.rows, "rows_read": found.rows_read, "bad_rows": found.bad_rows}
    listed = {"left_out": [row._asdict() for row in found.left_out[:MOST_LISTED]]} if found.left_out else {}
    return {"path": source.given, **counts, **listed, "fingerprint": found.fingerprint, "shards": shards}


def learn(config: NetConfig, train: preprocessing.Columns, rows: preprocessing.Rows = slice(None)) -> Preprocessing:
    """Vocabularies and statistics of the training rows."""
    return preprocessing.learn(
        train,
        net_config.feature_roles(config),
        label=config.label_column,
        weight=config.weight_column,
        objective=config.objective,
        vocabulary=VocabularyRules(config.min_count, config.max_vocabulary, config.max_values),
        text=TextRules(config.tokenizer, config.lowercase, config.max_tokens),
        rows=rows,
    )


def encode(
    config: NetConfig,
    key: str,
    sets: dict[str, Any],
    facts: dict[str, Any],
    sides: Mapping[str, tuple[pd.DataFrame, Any]],
) -> Prepared:
    """Learn from the training rows and encode all sides: into the cache; where that is off or too small, in memory."""
    features = net_config.feature_roles(config)
    text = TextRules(config.tokenizer, config.lowercase, config.max_tokens)
    frames = {id(frame): frame for frame, _ in sides.values()}
    values = {number: preprocessing.with_values(frame, features, text) for number, frame in frames.items()}
    columns = {side: values[id(frame)] for side, (frame, _) in sides.items()}
    learnt = learn(config, columns["train"], sides["train"][1])
    frame, rows = list(sides.values())[-1]
    held_out = frame[list(features)].iloc[rows[:HELD_OUT_ROWS]].reset_index(drop=True)

    entry = new_entry(config, key, sum(len(rows) for _, rows in sides.values()))
    try:
        packed = {
            side: encoded.pack_rows(learnt, columns[side], rows, entry.empty if entry else in_memory, f"{side}.")
            for side, (_, rows) in sides.items()
        }
        if entry:
            feather.write_feather(held_out, table := pa.BufferOutputStream(), compression="uncompressed")
            system.write_atomic(entry.part / HELD_OUT, table.getvalue().to_pybytes())
            arrays = entry.save({"sets": sets, "split": facts, "learnt": learnt.to_json(), "sides": list(sides)})
            packed = packed_of(arrays, list(sides))
            say("cache", f"{entry.path}: {cache.size_of(entry.path) / 1e9:.3f} GB for the next run on these rows")
    finally:
        if entry:
            entry.discard()
    return Prepared(sets, facts, learnt, packed, held_out)


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to fill."""
    return np.empty(shape, dtype)


def new_entry(config: NetConfig, key: str, rows: int) -> cache.Entry | None:
    """Where to put so many rows in the cache; None where it is off or too small for them."""
    full = cache.make_room(cache.FOLDER, rows * capacity.row_bytes(config), int(config.cache_gb * 1e9))
    if not full:
        return cache.Entry(cache.FOLDER, key)
    if config.rows_in_memory is not None and rows > config.rows_in_memory:
        raise ResourceError(
            f"rows_in_memory = {config.rows_in_memory:,} needs the cache, but {full}. Give it more room."
        )
    if config.cache_gb:
        say("cache", f"not kept: {full}")
    return None


def packed_of(arrays: Mapping[str, np.ndarray], sides: list[str]) -> dict[str, Packed]:
    """The arrays of an entry by side."""
    return {side: Packed(*(arrays[f"{side}.{name}"] for name in Packed._fields)) for side in sides}


def restored(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray], data: Mapping[str, str]) -> Prepared:
    """What `encode` has kept in an entry of the cache."""
    packed = packed_of(arrays, facts["sides"])
    sizes = ", ".join(f"{side} {len(rows.weights):,}" for side, rows in packed.items())
    say("cache", f"{path}: {sizes} rows, {cache.size_of(path) / 1e9:.3f} GB")
    lists = (pa.types.is_list, pa.types.is_large_list)
    held_out = feather.read_table(path / HELD_OUT, memory_map=False).to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if any(is_kind(kind) for is_kind in lists) else None
    )
    sets = {side: found | {"path": data[side]} for side, found in facts["sets"].items()}
    return Prepared(sets, facts["split"], Preprocessing.from_json(facts["learnt"]), packed, held_out)
