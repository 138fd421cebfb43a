"""Training on rows in files of which a part is in memory, against the same rows all in memory."""

import functools
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from trainer.runtime.command import import_tensorflow_quietly

import_tensorflow_quietly()

import numpy as np

from tests.benchmarks.speed import BATCH, zipf
from trainer.config.loading import load_config
from trainer.features import DatasetShapes
from trainer.features.encoded import EncodedRows
from trainer.features.tables import FileTable, Rows, rows_of
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph
from trainer.training import loop

CATEGORIES = {"item": 200_000, "publisher": 5_000, "campaign": 500, "country": 50, "device": 10}
WORDS, TOKENS, NUMBERS = 30_000, 16, ("position", "age", "price", "days")
SHAPES = DatasetShapes(CATEGORIES, {}, {"title": (WORDS, TOKENS)}, NUMBERS, 1, (-2.0,), 0.0, 1.0)
CHUNK_ROWS = 2**20
TEST_ROWS = 200_000
IN_MEMORY, FROM_DISK = "in memory", "from disk"


class Tastes(NamedTuple):
    """What decides a click, and when an item is shown most."""

    categories: dict[str, np.ndarray]
    words: np.ndarray
    days: np.ndarray


@functools.cache
def tastes() -> Tastes:
    random = np.random.default_rng(0)
    categories = {column: random.normal(scale=0.5, size=size) for column, size in CATEGORIES.items()}
    return Tastes(categories, random.normal(size=WORDS), random.random(CATEGORIES["item"]))


def catalogue(number: int, rows: int) -> tuple[EncodedRows, np.ndarray]:
    """The chunk of a number, encoded, with the time of each row, float64 [rows]: the shapes of the large catalogue of
    `speed`, but of any length, for a chunk is a function of its number alone. Items come and go over time."""
    random, taste = np.random.default_rng([1, number]), tastes()
    columns = {column: zipf(random, size, rows) for column, size in CATEGORIES.items()}
    lengths = random.integers(4, TOKENS + 1, rows)
    title = zipf(random, WORDS, (rows, TOKENS)) * (np.arange(TOKENS) < lengths[:, None]).astype(np.int32)
    numbers = random.normal(size=(rows, len(NUMBERS))).astype(np.float32)
    logit = sum(taste.categories[column][ids] for column, ids in columns.items()) - 2
    logit += (taste.words[title] * (title > 0)).sum(axis=1) / lengths + 0.5 * np.sin(2 * numbers[:, 1])
    encoded_rows = EncodedRows(
        np.column_stack([*columns.values(), title]),
        np.stack([numbers, np.zeros_like(numbers)], axis=2).reshape(rows, -1),
        (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32),
        np.ones(rows, np.float32),
    )
    return encoded_rows, taste.days[columns["item"]] + 0.1 * random.normal(size=rows)


def test_rows() -> EncodedRows:
    return catalogue(0, TEST_ROWS)[0]


def write(into: str, rows: int) -> dict[str, float]:
    """So many rows as .npy files, in chunks."""
    first = catalogue(1, 1)[0]
    files = EncodedRows(*(
        np.lib.format.open_memmap(
            Path(into) / f"{name}.npy", mode="w+", dtype=array.dtype, shape=(rows, *array.shape[1:])
        )
        for name, array in first._asdict().items()
    ))  # fmt: skip
    for number, start in enumerate(range(0, rows, CHUNK_ROWS), start=1):
        chunk, _ = catalogue(number, min(CHUNK_ROWS, rows - start))
        for file, array in zip(files, chunk, strict=True):
            file[start : start + len(array)] = array
    return {"rows": rows, "bytes": sum(file.nbytes for file in files)}


def build(seed: int) -> OpsWrapper:
    settings = {"NET_BATCH_SIZE": str(BATCH["deep_v1"]), "NET_DROPOUT": "0", "NET_SEED": str(seed)}
    return build_model_graph(load_config("deep_v1", environ=settings).config, SHAPES)


def train_epoch(ops: OpsWrapper, table: Rows, epoch: int, epochs: int) -> None:
    """The trainer's own loop over the rows, without the metrics after it."""
    loop.train_epoch(ops, table, loop.History(rows=[{}] * (epoch - 1)), epochs)


def compare(rows: int, order: str, share: float, epochs: int, seeds: int) -> dict[str, dict[str, float]]:
    """Both sides on rows in an order, epoch by epoch in turn: the median seconds of an epoch; the mean over the seeds
    of the best test loss, and the standard deviation of these.

    share: of the rows, in memory at a time; the others are in .npy files in the working folder. The first epoch traces,
    its time does not count.
    """
    encoded_rows, times = catalogue(1, rows)
    keys = {"random": None, "by item": encoded_rows.ids[:, 0], "by time": times, "by label": encoded_rows.labels}
    if (key := keys[order]) is not None:
        encoded_rows = EncodedRows(*(array[np.argsort(key, kind="stable")] for array in encoded_rows))
    for name, array in encoded_rows._asdict().items():
        np.save(f"{name}.npy", array, allow_pickle=False)
    files = open_files(Path())
    seconds: dict[str, list[float]] = {IN_MEMORY: [], FROM_DISK: []}
    losses: dict[str, list[float]] = {IN_MEMORY: [], FROM_DISK: []}
    for seed in range(seeds):
        sides: dict[str, Rows] = {
            IN_MEMORY: rows_of(encoded_rows),
            FROM_DISK: FileTable(files, max(round(rows * share), 1)),
        }
        models = {side: build(seed) for side in sides}
        test = rows_of(test_rows())
        losses: dict[str, list[float]] = {side: [] for side in sides}
        for epoch in range(1, epochs + 2):
            for side, table in sides.items():
                began = time.perf_counter()
                train_epoch(models[side], table, epoch, epochs + 1)
                seconds[side] += [time.perf_counter() - began] if epoch > 1 else []
                losses[side].append(models[side].evaluate(test)["loss"])
        for side, values in losses.items():
            losses[side].append(min(values))
    return {
        side: {"rows": rows, "seconds": median(seconds[side]), "loss": float(np.mean(losses[side])),
               "deviation": float(np.std(losses[side]))}
        for side in seconds
    }  # fmt: skip


def open_files(folder: Path) -> EncodedRows:
    """Arrays that are mapped from their files."""
    return EncodedRows(
        *(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in EncodedRows._fields)
    )


def epoch(of: str, share: float | None) -> dict[str, float]:
    """One epoch on the rows of a folder, `share` of them in memory at a time (None: all), and the test loss after it.
    Seconds are those of the epoch and of what loads the rows."""
    ops = build(0)
    files = open_files(Path(of))
    began = time.perf_counter()
    table = rows_of(files, None if share is None else round(len(files.weights) * share))
    train_epoch(ops, table, 1, 1)
    seconds = time.perf_counter() - began
    return {"rows": table.rows, "seconds": seconds, "loss": ops.evaluate(rows_of(test_rows()))["loss"]}
