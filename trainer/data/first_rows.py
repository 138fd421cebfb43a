"""Look at the first rows of a dataset: enough to see which columns there are, and of which type."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from trainer.data import capacity, partitions


def first_rows(shards: Sequence[Path], *, most: int, size: int) -> Iterator[dict[str, Any]]:
    """The rows in the first `size` bytes of each of up to `most` shards, evenly spaced; bad lines are left out.

    The columns of their folders are among their values.
    """
    for shard in shards[:: -(-len(shards) // most)]:
        members = partitions.values_of(shard.absolute().parent)
        for line in capacity.head_of(shard, size)[1].split(b"\n")[:-1]:
            with contextlib.suppress(orjson.JSONDecodeError):
                row = orjson.loads(line)
                if isinstance(row, dict):
                    yield members | row
