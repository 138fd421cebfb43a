"""Give encoded rows to training: all from memory, or from files, one part at a time.

The order of an epoch's rows depends only on the seed and the epoch. Rows come in parts that fit in memory: a single
part with all rows, or parts made of shuffled blocks from all over the files.
"""

import math
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from trainer.features.encoded import EncodedRows
from trainer.runtime import system
from trainer.runtime.errors import StorageError

BLOCK_ROWS = 1024  # rows that stay together when rows in files are shuffled


class Part(NamedTuple):
    """Rows of an epoch in memory, and the order in which to train on them, int32 [rows]."""

    table: "Table"
    order: tf.Tensor


class Rows(Protocol):
    """The interface through which training reads the rows of a set."""

    @property
    def rows(self) -> int: ...
    @property
    def weight_scale(self) -> float: ...
    def in_order(self) -> Iterator["Table"]: ...
    def shuffled(self, seed: int, epoch: int, batch_size: int) -> Iterator[Part]: ...
    def evenly_spaced(self, most: int) -> "Rows": ...


class Table(NamedTuple):
    """Encoded rows as tensors in memory."""

    ids: tf.Tensor  # int32 [rows, all id columns]
    numbers: tf.Tensor  # float32 [rows, 2 * numeric columns]
    labels: tf.Tensor  # see `preprocessing.transform`
    weights: tf.Tensor  # float32 [rows]

    @property
    def rows(self) -> int:
        return int(self.weights.shape[0])

    @property
    def weight_scale(self) -> float:
        """The factor that makes the mean of the weights 1."""
        return weight_scale(self.weights.numpy())

    def in_order(self) -> Iterator["Table"]:
        yield self

    def shuffled(self, seed: int, epoch: int, batch_size: int) -> Iterator[Part]:
        yield Part(self, shuffled(self.rows, [seed, epoch]))

    def evenly_spaced(self, most: int) -> "Table":
        """At most `most` rows, in runs at equal distances."""
        if self.rows <= most:
            return self
        runs = evenly_spaced(self.rows, most)
        return Table(*(tf.concat([column[run] for run in runs], axis=0) for column in self))


class FileTable:
    """Encoded rows in .npy files (`np.memmap`), of which at most `rows_in_memory` rows are in memory at a time.

    An epoch shuffles blocks of BLOCK_ROWS neighbouring rows, takes as many blocks as fit, and shuffles their rows. A
    part has half of `rows_in_memory`, because the next part is read during training. Every part except the last
    consists of complete batches.
    """

    def __init__(self, encoded: EncodedRows, rows_in_memory: int) -> None:
        self.columns = [FileColumn(column) for column in encoded]
        self.rows = len(encoded.weights)
        self.rows_in_memory = rows_in_memory
        self.weight_scale = weight_scale(encoded.weights)

    def in_order(self) -> Iterator[Table]:
        for start in range(0, self.rows, self.rows_in_memory):
            yield self._read([slice(start, min(start + self.rows_in_memory, self.rows))])

    def shuffled(self, seed: int, epoch: int, batch_size: int) -> Iterator[Part]:
        part_rows = max(self.rows_in_memory // 2 // batch_size, 1) * batch_size
        blocks = shuffled(-(-self.rows // BLOCK_ROWS), [seed, epoch]).numpy()

        def read(number: int, slices: list[slice]) -> Part:
            table = self._read(slices)
            return Part(table, shuffled(table.rows, tf.random.fold_in([seed, epoch], number)))

        with ThreadPoolExecutor(1) as reader:
            waiting = None
            for number, slices in enumerate(self._parts(blocks, part_rows)):
                reading = reader.submit(read, number, slices)
                if waiting:
                    yield waiting.result()
                waiting = reading
            if waiting:
                yield waiting.result()

    def _parts(self, blocks: np.ndarray, part_rows: int) -> Iterator[list[slice]]:
        """The blocks in their order, cut into parts of `part_rows` rows."""
        part, room = [], part_rows
        for block in blocks.tolist():
            start, end = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, self.rows)
            while start < end:
                taken = min(end - start, room)
                part.append(slice(start, start + taken))
                start, room = start + taken, room - taken
                if not room:
                    yield part
                    part, room = [], part_rows
        if part:
            yield part

    def _read(self, slices: list[slice]) -> Table:
        return to_table(EncodedRows(*(column.read(slices) for column in self.columns)))

    def evenly_spaced(self, most: int) -> Rows:
        """At most `most` rows, in runs at equal distances; all of them in memory where there are more."""
        return self if self.rows <= most else self._read(evenly_spaced(self.rows, most))


class FileColumn:
    """An array in a .npy file whose rows are read on demand.

    It does not use the memory map: a page fault reads megabytes ahead, most of which are not needed. The file stays
    open, so that it can be read to the end of the run even if somebody empties the cache. StorageError if it is gone.
    """

    def __init__(self, array: Any) -> None:
        self.array: np.memmap[Any, Any] = array
        self.path = Path(self.array.filename or "")
        with system.disk_errors("reading", self.path):
            self.handle = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.handle)
        self.row_bytes = array.itemsize * math.prod(array.shape[1:])

    def read(self, slices: list[slice]) -> np.ndarray:
        """The rows of the slices, one after the other. StorageError if the file has become shorter."""
        lengths = [part.stop - part.start for part in slices]
        array = np.empty((sum(lengths), *self.array.shape[1:]), self.array.dtype)
        if not array.nbytes:
            return array
        flat: Any = array.reshape(-1)
        buffer, at = memoryview(flat).cast("B"), 0
        for part, rows in zip(slices, lengths, strict=True):
            start = self.array.offset + part.start * self.row_bytes
            first, wanted = at, at + rows * self.row_bytes
            while at < wanted:
                with system.disk_errors("reading", self.path):
                    taken = os.preadv(self.handle, [buffer[at:wanted]], start + at - first)
                if not taken:
                    raise StorageError(f"{self.path} was cut short during the run. Start the run again.")
                at += taken
        return array


def rows_of(encoded: EncodedRows, rows_in_memory: int | None = None) -> Rows:
    """Encoded rows as training reads them: from memory up to `rows_in_memory` rows (None: always), else from files."""
    if rows_in_memory is not None and len(encoded.weights) > rows_in_memory:
        return FileTable(encoded, rows_in_memory)
    return to_table(encoded)


def to_table(encoded: EncodedRows) -> Table:
    """Encoded rows as tensors."""
    return Table(*map(tf.constant, encoded))


def weight_scale(weights: np.ndarray) -> float:
    """The factor that makes the mean of some weights, float32 [rows], 1."""
    return 1.0 / max(float(weights.mean(dtype=np.float64)), 1e-30)


def shuffled(rows: int, seed: list[int] | tf.Tensor) -> tf.Tensor:
    """The numbers below `rows`, int32 [rows], in an order that depends on the seed, int32 [2], alone."""
    return tf.random.experimental.stateless_shuffle(tf.range(rows), seed=seed)


def evenly_spaced(rows: int, most: int) -> list[slice]:
    """Slices at equal distances with at most `most` rows in all: a thousand slices, or single rows."""
    length = max(most // 1000, 1)
    starts = np.linspace(0, rows - length, most // length).astype(np.int64)
    return [slice(start, start + length) for start in starts.tolist()]
