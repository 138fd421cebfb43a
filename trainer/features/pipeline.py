"""Read, split and encode the rows of a run, or take the encoded rows of an earlier run from the cache."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import feather

from trainer.config import roles
from trainer.config.net_config import NetConfig
from trainer.data import capacity, dataset, sources
from trainer.data.bad_rows import counted
from trainer.data.first_rows import first_rows
from trainer.data.loaded import Dataset
from trainer.data.schema import NUMERIC_KINDS, plan_columns
from trainer.data.selection import find_shards
from trainer.data.sources import Source
from trainer.features.encoded import EncodedRows, encode_rows
from trainer.features.labels import unseen_by_set
from trainer.features.preprocessing import Preprocessing, truncated_shares, with_values
from trainer.features.rules import fit_preprocessing, row_rules, text_rules
from trainer.features.sentinels import sentinels
from trainer.features.sides import split_and_describe
from trainer.features.tokenizers import load_tokenizer
from trainer.runtime import cache, system
from trainer.runtime.command import amount, count, say
from trainer.runtime.errors import DataError, ResourceError
from trainer.runtime.provenance import code_hashes, package_versions
from trainer.runtime.timing import Timings

NAMES_BYTES = 2**16  # of rows, that show which columns there are
HELD_OUT_ROWS = 1000  # raw rows that a written package must score as the trained model does
HELD_OUT = "held_out.arrow"
MOST_LISTED = 1000  # bad rows that the package names

# The code that decides the encoded rows and the form of a cache entry. Downloads are left out: their size and checksum
# are checked.
ENCODING_CODE = ("config", "data", "features", "runtime/cache.py", "runtime/system.py")

# Settings that do not affect the encoded rows. The settings of a network do not affect them either.
AFTER_ENCODING = frozenset(
    ("network", "rows_in_memory", "cache_gb", "batch_size", "epochs", "optimizer", "learning_rate", "warmup_steps",
     "decay", "clip_norm", "checkpoint_minutes", "stopping_metric", "patience", "seed", "deterministic",
     "threads", "allow_worse", "hidden_share")
)  # fmt: skip


class Prepared(NamedTuple):
    """The data that training needs, and the facts about it for the package."""

    sets: dict[str, dict[str, Any]]  # facts about each dataset: path, rows, rows_read, bad_rows, fingerprint, shards
    split: dict[str, Any]  # facts about the split: see `sides.split_and_describe`
    preprocessing: Preprocessing
    encoded: dict[str, EncodedRows]  # by side: train, validation, test where there is one
    held_out: pd.DataFrame  # raw features of some rows of the last side


def prepare(
    config: NetConfig, data: Mapping[str, str], timings: Timings, code: Path = Path(__file__).parents[1]
) -> Prepared:
    """The encoded rows of a run.

    data: path of the dataset under "train"; of separate sets under "validation" and "test", where there are any.
    code: the folder of this package, whose files are part of the cache's key.
    """
    located = {side: sources.look_up(path) for side, path in data.items()}
    identities = {side: source.identity for side, source in located.items()}
    versions = code_hashes(code, *ENCODING_CODE) | package_versions()
    key = cache.key_of(encoding_settings(config), identities, versions)
    if config.cache_gb:
        with timings.stage("cache"):
            facts, arrays, damaged = cache.find(cache.FOLDER, key)
        if damaged:
            say("warning", f"{damaged} in the cache is damaged. The rows are encoded again.")
        if facts:
            capacity.check_memory(config, sum(facts["split"]["rows"].values()))
            return restored(cache.FOLDER / key, facts, arrays, data)

    with local_paths(config, located, timings) as paths:
        datasets = read_all(config, located, paths, timings)
    with timings.stage("split"):
        sides, facts = split_and_describe(config, datasets)
    with timings.stage("preprocess"):
        sets = {side: dataset_facts(located[side], read) for side, read in datasets.items()}
        prepared = encode(config, key, sets, facts, sides)
    timings.count_rows("preprocess", sum(len(rows) for _, rows in sides.values()))
    return prepared


def encoding_settings(config: NetConfig) -> dict[str, Any]:
    """The settings that decide the encoded rows, by name: a part of the key of the cache."""
    return {item.name: getattr(config, item.name) for item in fields(NetConfig) if item.name not in AFTER_ENCODING}


@contextlib.contextmanager
def local_paths(config: NetConfig, located: Mapping[str, Source], timings: Timings) -> Iterator[dict[str, str]]:
    """A local path of each dataset for the length of the block; those in buckets are fetched.

    DataError where a column cannot have its role by schema.json, ResourceError where the rows do not fit in memory.
    """
    for source in located.values():
        fields = sources.fields_of(source)
        check_dataset(config, source.path, fields or ())
        plan_columns(roles.column_kinds(config), fields)
    with contextlib.ExitStack() as copies, ThreadPoolExecutor(1) as background:
        if config.text_columns:
            background.submit(load_tokenizer, config.tokenizer)  # takes a second, while reading mostly waits
        with (
            timings.stage("download") if any(source.remote for source in located.values()) else contextlib.nullcontext()
        ):
            paths = {
                side: copies.enter_context(sources.local(source, cache.FOLDER, int(config.cache_gb * 1e9)))
                for side, source in located.items()
            }
        for side, path in paths.items():
            rows = first_rows(find_shards(path), most=1, size=NAMES_BYTES)
            check_dataset(config, located[side].path, {name for row in rows for name in row})
        capacity.check_before_reading(config, paths.values())
        yield paths


def check_dataset(config: NetConfig, data: str, names: Collection[str]) -> None:
    """DataError if most columns of the variant are not among the names: then it is that of another dataset."""
    wanted = roles.column_kinds(config)
    missing = [name for name in wanted if name not in names]
    if not names or len(missing) <= max(2, len(wanted) / 2):
        return
    first = ", ".join(map(repr, missing[:3])) + " and more" * (len(missing) > 3)
    raise DataError(
        f"{data} lacks {len(missing)} of the {len(wanted)} columns that the variant names: {first}. Choose the "
        "--variant of these rows, or the --data of this variant. To write a variant: fab init "
        f"--data={data} --label=COLUMN"
    )


def read_all(
    config: NetConfig, located: Mapping[str, Source], paths: Mapping[str, str], timings: Timings
) -> dict[str, Dataset]:
    """Read all datasets from their local paths. DataError where rows differ from their dataset.json."""
    with timings.stage("read"):
        datasets = {side: read(config, path, located[side].path, side=side) for side, path in paths.items()}
    for side, read_rows in datasets.items():
        sources.check_rows(located[side], read_rows)
    timings.count_rows("read", sum(read_rows.rows for read_rows in datasets.values()))
    return datasets


def read(config: NetConfig, path: str, name: str, *, side: str = "train") -> Dataset:
    """Read the columns of a dataset that have a role, and print how many rows it has. name: the dataset in messages."""
    rules = row_rules(config)._replace(absent_is_missing=side != "train")
    if side == "train" and config.split == "time" and config.time_column:
        rules = rules._replace(required=(config.time_column,))
    loaded = dataset.load(
        path, roles.column_kinds(config), rules=rules, identity=config.key_columns, share=config.subsample, name=name
    )
    left_out = counted(loaded.bad_rows, loaded.unlabelled)
    used = f", {loaded.rows:,} of them used (subsample {config.subsample:g})" if config.subsample < 1 else ""
    say("data", f"{name}: {count(loaded.rows_read, 'row')} in {count(len(loaded.shards), 'file')}{left_out}{used}")
    for warning in loaded.warnings(name):
        say("warning", warning)
    if side == "train" and config.positive_label is not None and not loaded.frame[config.label_column].any():
        raise DataError(
            f"No row of {name!r} has positive_label = {config.positive_label!r} in column {config.label_column!r}. "
            "Write it exactly as in the rows."
        )
    if config.key_columns and (shared := duplicate_keys(loaded.frame, config.key_columns)):
        say("warning", f"{shared:,} rows of {name} share their key with another ({', '.join(config.key_columns)}).")
    return loaded


def duplicate_keys(frame: pd.DataFrame, key_columns: Iterable[str]) -> int:
    """How many rows share their key, the values of all `key_columns`, with another row."""
    return int(frame.duplicated(list(key_columns), keep=False).sum())


def dataset_facts(source: Source, read: Dataset) -> dict[str, Any]:
    """What the package reports about a dataset, ready for JSON."""
    shards = [shard._asdict() for shard in read.shards]
    if source.remote:
        for shard, stored in zip(shards, source.shards, strict=True):
            shard["generation"] = str(stored.generation)  # beyond what some readers of JSON keep exact
    counts = {
        "rows": read.rows, "rows_read": read.rows_read, "bad_rows": read.bad_rows, "unlabelled_rows": read.unlabelled,
    }  # fmt: skip
    rows = [{"shard": row.shard, "line": row.line, "reason": row.reason} for row in read.left_out[:MOST_LISTED]]
    listed = {"left_out": rows} if rows else {}
    return {"path": source.path, **counts, **listed, "fingerprint": read.fingerprint, "shards": shards}


def encode(
    config: NetConfig,
    key: str,
    sets: dict[str, Any],
    facts: dict[str, Any],
    sides: Mapping[str, tuple[pd.DataFrame, Any]],
) -> Prepared:
    """Fit the preprocessing to the training set and encode all sets: into the cache, or in memory if it has no room."""
    features = roles.feature_roles(config)
    frames = {id(frame): frame for frame, _ in sides.values()}
    values = {number: with_values(frame, features, text_rules(config)) for number, frame in frames.items()}
    columns = {side: values[id(frame)] for side, (frame, _) in sides.items()}
    preprocessing = fit_preprocessing(config, columns["train"], sides["train"][1])
    facts = facts | {
        "unseen_classes": unseen_by_set(preprocessing.label, sides),
        "truncated": truncated_shares(preprocessing, columns["train"], sides["train"][1]),
        "sentinels": sentinels_by_column(config, *sides["train"]),
    }
    frame, rows = list(sides.values())[-1]
    held_out = frame[list(features)].iloc[rows[:HELD_OUT_ROWS]].reset_index(drop=True)

    entry = new_entry(config, key, sum(len(rows) for _, rows in sides.values()))
    try:
        encoded = {
            side: encode_rows(preprocessing, columns[side], rows, entry.empty if entry else in_memory, f"{side}.")
            for side, (_, rows) in sides.items()
        }
        if entry:
            feather.write_feather(held_out, table := pa.BufferOutputStream(), compression="uncompressed")
            system.write_atomic(entry.part / HELD_OUT, table.getvalue().to_pybytes())
            arrays = entry.save(
                {"sets": sets, "split": facts, "preprocessing": preprocessing.to_json(), "sides": list(sides)}
            )
            encoded = rows_by_side(arrays, list(sides))
            say("cache", f"encoded rows saved for the next run: {entry.path}, {amount(cache.size_of(entry.path))}")
    finally:
        if entry:
            entry.discard()
    return Prepared(sets, facts, preprocessing, encoded, held_out)


def sentinels_by_column(config: NetConfig, frame: pd.DataFrame, rows: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Numbers in some rows that stand apart from all others (see `sentinels.Sentinel`), by column."""
    columns = [column for column, kind in roles.column_kinds(config).items() if kind in NUMERIC_KINDS]
    apart = {column: sentinels(frame[column].to_numpy(np.float64)[rows]) for column in columns}
    return {column: [sentinel._asdict() for sentinel in values] for column, values in apart.items() if values}


def in_memory(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array in memory; has the arguments of `cache.Entry.empty`."""
    return np.empty(shape, dtype)


def new_entry(config: NetConfig, key: str, rows: int) -> cache.Entry | None:
    """A new cache entry for this number of rows; None if the cache is off or too small.

    ResourceError if rows_in_memory needs the cache.
    """
    full = cache.make_room(cache.FOLDER, rows * capacity.row_bytes(config), int(config.cache_gb * 1e9))
    if not full:
        return cache.Entry(cache.FOLDER, key)
    if config.rows_in_memory is not None and rows > config.rows_in_memory:
        raise ResourceError(
            f"rows_in_memory = {config.rows_in_memory:,} needs the encoded rows in the cache, but {full}. "
            "Raise cache_gb or free disk space."
        )
    if config.cache_gb:
        say("cache", f"encoded rows not saved: {full}")
    return None


def rows_by_side(arrays: Mapping[str, np.ndarray], sides: list[str]) -> dict[str, EncodedRows]:
    """The encoded rows of an entry's arrays by side."""
    return {side: EncodedRows(*(arrays[f"{side}.{name}"] for name in EncodedRows._fields)) for side in sides}


def restored(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray], data: Mapping[str, str]) -> Prepared:
    """Restore what `encode` saved in a cache entry. data: the paths of this run, for the facts about its datasets."""
    encoded = rows_by_side(arrays, facts["sides"])
    sizes = ", ".join(f"{side} {len(rows.weights):,}" for side, rows in encoded.items())
    say("cache", f"encoded rows of an earlier run: {sizes}, from {path}, {amount(cache.size_of(path))}")
    lists = (pa.types.is_list, pa.types.is_large_list)
    with system.disk_errors("reading", path / HELD_OUT):
        table = feather.read_table(path / HELD_OUT, memory_map=False)
    held_out = table.to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if any(is_kind(kind) for is_kind in lists) else None
    )
    sets = {side: described | {"path": data[side]} for side, described in facts["sets"].items()}
    return Prepared(sets, facts["split"], Preprocessing.from_json(facts["preprocessing"]), encoded, held_out)
