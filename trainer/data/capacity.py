"""Estimate whether rows fit in memory, from the sizes of files and the roles of columns, before reading them.

The operating system kills a process that takes too much memory, without a message and perhaps hours later. This check
stops the run at the start, with figures.
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from trainer.config import roles
from trainer.config.net_config import NetConfig
from trainer.data.selection import find_shards
from trainer.data.shards import GZIP
from trainer.runtime import system
from trainer.runtime.command import amount
from trainer.runtime.errors import ResourceError
from trainer.runtime.memory import available_memory

HEAD_BYTES = 2**24  # of all files together, to estimate the length of rows and how often values repeat
PREPARING_BYTES = 120_000_000  # blocks of the reader, tokenizer: whatever the number of rows
WORKING = 1.7  # measured: what is read is there almost twice while parts become columns, and these are encoded
SURE = 1.1  # by so much an estimate must exceed a limit that the real number of rows decides later
DRAW_BYTES = 24  # of a row: its hash, which is sorted
TRAINING_BYTES = 500_000_000  # graphs, weights, pictures


class Head(NamedTuple):
    """The first values of a column: hashes, and their mean length as JSON in bytes."""

    hashes: list[int]
    length: float


def check_before_reading(config: NetConfig, data: Iterable[str]) -> None:
    """ResourceError if the rows of the datasets, as configured, do not fit in free memory, or in the cache that
    rows_in_memory needs. data: paths."""
    files = [shard for path in data for shard in find_shards(path)]
    kinds = roles.column_kinds(config)
    rows, heads = estimate_rows(files, kinds)
    used = math.ceil(rows * config.subsample)
    check_cache(config, used)
    frame = sum(cell_bytes(kind, heads[column], used) for column, kind in kinds.items())
    preparing = PREPARING_BYTES + used * (WORKING * frame + DRAW_BYTES + (0 if config.cache_gb else row_bytes(config)))
    check_memory(config, used, preparing)


def check_cache(config: NetConfig, rows: float) -> None:
    """ResourceError if rows_in_memory needs more room in the cache than cache_gb allows. rows: an estimate."""
    size, limit = rows * row_bytes(config), config.cache_gb * 1e9
    most = config.rows_in_memory
    if most is not None and rows > SURE * most and size > SURE * limit:
        raise ResourceError(
            f"rows_in_memory = {most:,} needs the encoded rows in the cache: about {amount(math.ceil(size))}, but "
            f"cache_gb = {config.cache_gb:g}. Raise cache_gb, or leave rows_in_memory out."
        )


def check_memory(config: NetConfig, rows: int, preparing: float = 0.0) -> None:
    """ResourceError with advice if encoded rows, or the `preparing` bytes to read them, do not fit in free memory."""
    in_tensors = 2 * row_bytes(config) * min(rows, config.rows_in_memory or rows)  # they are there twice while made
    free, training = available_memory(), TRAINING_BYTES + in_tensors
    if max(preparing, training) <= free:
        return
    advice = []
    on_disk = rounded(max(free - TRAINING_BYTES, 0) / (2 * row_bytes(config)))
    if preparing <= free and on_disk >= config.batch_size:
        advice.append(f"rows_in_memory={on_disk} to train from disk in shuffled blocks")
    room = (free - TRAINING_BYTES) / max(preparing - PREPARING_BYTES, training - TRAINING_BYTES)
    if share := math.floor(100 * config.subsample * max(room, 0)) / 100:
        advice.append(f"subsample={share:g} to use a part of the rows")
    set_to = f"Set {' or '.join(advice)}, or use" if advice else "Use"
    reading = f"{gigabytes(preparing)} to read and encode, " if preparing else ""
    raise ResourceError(
        f"About {rows:,} rows need about {reading}{gigabytes(training)} to train on, but only "
        f"{gigabytes(free)} of memory are free. {set_to} a machine with more memory."
    )


def cell_bytes(kind: str, head: Head, rows: int) -> float:
    """Estimated bytes of a cell in the frame. head: the first cells; rows: of the whole frame."""
    length = head.length
    if kind in ("category", "class"):
        return 4
    if kind == "text":
        return 4 + 1.5 * length * distinct_share(head.hashes, rows)
    return {"key": 8 + length, "categories": 8 + 2 * length, "classes": 8 + 2 * length}.get(kind, 8)


def distinct_share(head: Sequence[int], rows: int) -> float:
    """Estimated share of distinct values among `rows` values; their number grows as rows ** b (Heaps' law).

    head: hashes of the first values.
    """
    half, full = len(set(head[: len(head) // 2])), len(set(head))
    if not half:
        return 1.0
    growth = min(math.log2(full / half), 1.0)
    return min(full * (rows / len(head)) ** growth / max(rows, 1), 1.0)


def row_bytes(config: NetConfig) -> int:
    """Bytes of an encoded row."""
    ids = len(config.categorical_columns) + config.max_values * len(config.multi_categorical_columns)
    numbers = len(config.numeric_columns) + len(config.log_numeric_columns)
    return 4 * (ids + config.max_tokens * len(config.text_columns) + 2 * numbers + 2)


def estimate_rows(files: Sequence[Path], columns: Iterable[str]) -> tuple[int, dict[str, Head]]:
    """Estimated number of rows in files, from the head of each, and facts about the first values of each column."""
    rows = 0.0
    hashes: dict[str, list[int]] = {column: [] for column in columns}
    lengths = dict.fromkeys(hashes, 0)
    for path in files:
        stored, text = head_of(path, max(HEAD_BYTES // len(files), 2**16))
        lines = [line for line in text.split(b"\n")[:-1] if line]
        rows += path.stat().st_size * (len(lines) / stored) if lines else 1  # one long row, or none
        for line in lines:
            try:
                row = orjson.loads(line)
                for column, column_hashes in hashes.items():
                    value = orjson.dumps(row.get(column))
                    column_hashes.append(hash(value))
                    lengths[column] += len(value)
            except (orjson.JSONDecodeError, AttributeError):
                continue  # the reader reports it
    return math.ceil(rows), {column: Head(seen, lengths[column] / max(len(seen), 1)) for column, seen in hashes.items()}


def head_of(path: Path, most: int) -> tuple[int, bytes]:
    """The number of bytes read from the start of a file, at most `most`, and their text."""
    with system.disk_errors("reading", path), path.open("rb") as file:
        stored = file.read(most)
    try:
        text = zlib.decompressobj(wbits=31).decompress(stored, 20 * most) if stored.startswith(GZIP) else stored
    except zlib.error:
        text = b""
    return max(len(stored), 1), text


def rounded(number: float) -> int:
    """A number rounded down to two digits."""
    digits = 10 ** max(len(str(int(number))) - 2, 0)
    return int(number) // digits * digits


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.2g} GB"
