"""The result of reading a dataset: its rows, the shards they come from, and the rows left out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def no_hashes() -> NDArray[np.uint64]:
    """Of rows that are not drawn."""
    return np.empty(0, dtype=np.uint64)


class Shard(NamedTuple):
    """A file that was read: its size in bytes, the number of its good rows, and the CRC-32C of the file as Google Cloud
    Storage writes it."""

    name: str
    bytes: int
    rows: int
    crc32c: str


class BadRow(NamedTuple):
    """A row that is left out and the reason, which shows no value.

    before: how many good rows are before it. keys: the texts of its key columns where they were asked for; None for
    those that cannot be read.
    """

    shard: str
    line: int
    reason: str
    before: int = 0
    keys: Mapping[str, str | None] = {}


@dataclass(frozen=True)
class Dataset:
    """Rows in the order of shards and lines, the shards they come from, and the rows left out.

    hashes: uint64 [rows], of what identifies each row: its key, or the stored row. draws: uint64 [rows], by which the
    row is drawn: different for equal stored rows. Both are empty where they were not asked for.
    unlabelled: how many rows were left out because they have no label. absent: the columns that no row has.
    """

    frame: pd.DataFrame
    shards: tuple[Shard, ...]
    left_out: tuple[BadRow, ...]
    hashes: NDArray[np.uint64] = field(default_factory=no_hashes)
    draws: NDArray[np.uint64] = field(default_factory=no_hashes)
    unlabelled: int = 0
    absent: tuple[str, ...] = ()

    @property
    def bad_rows(self) -> int:
        """How many bad rows were left out."""
        return len(self.left_out)

    def warnings(self, name: str) -> list[str]:
        """What a user may not expect of the rows. name: the dataset's."""
        return [f"No row of {name} has the column {column!r}: it counts as missing." for column in self.absent]

    @property
    def rows(self) -> int:
        """How many rows the frame has."""
        return len(self.frame)

    @property
    def rows_read(self) -> int:
        """How many good rows the shards have, including rows that were not kept or have no label."""
        return sum(shard.rows for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' sizes and checksums, whatever their names and order."""
        checksums = sorted(f"{shard.bytes} {shard.crc32c}" for shard in self.shards)
        return hashlib.sha256("\n".join(checksums).encode()).hexdigest()
