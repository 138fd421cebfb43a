"""Read newline-delimited JSON, in shards as BigQuery exports them, into a typed DataFrame.

A row is one strict JSON object (RFC 8259) on one line; a missing key is NULL. The type of a column follows from
its kind (see the table in `trainer.data.columns`) and from the table's schema.json, if it is next to the shards. Of
columns that are not read, only the syntax is checked. Blank lines, CRLF and a byte order mark are accepted; anything
else that no export contains is refused, with shard and line.

`trainer.data.arrow_reader` reads blocks of lines on all cores. Blocks that it cannot read, and the head of each shard,
which decides the forms of the columns, are read line by line here. Both ways give the same result.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.cloud.transfer import encoded
from trainer.data import partitions, row_hash
from trainer.data.absent import NO_ROWS, check_absent
from trainer.data.arrow_reader import THREADS, BlockRows, in_order, read_block
from trainer.data.bad_rows import BadRows
from trainer.data.columns import join, refused_values, to_arrow, to_pandas
from trainer.data.draws import DrawnRows
from trainer.data.identity import Identity
from trainer.data.loaded import Dataset, Shard
from trainer.data.schema import DEFAULT, LABEL_KINDS, LIST_KINDS, Column, Field, RowRules, plan_columns, read_schema
from trainer.data.selection import find_shards
from trainer.data.shards import Block, Tally, read_blocks
from trainer.data.strict_reader import PANDAS, Fault, Rows, parse_row, short
from trainer.runtime.errors import DataError, did_you_mean

Arrays = dict[str, pa.Array]

JOIN = 32  # blocks whose columns are joined: a text that is in all of them is held once then
LINES = 256  # that the strict reader parses at a time: their rows fit the processor's cache


class _Part(NamedTuple):
    """A block of a shard; `head`: it is the first block."""

    shard: int
    head: bool
    block: Block


def load(
    path: str | Path,
    kinds: Mapping[str, str],
    *,
    rules: RowRules = DEFAULT,
    identity: Sequence[str] | None = None,
    share: float = 1.0,
    name: str | None = None,
) -> Dataset:
    """Read the columns in `kinds` (name -> kind, see `trainer.data.columns`) of a file, a folder of shards or a glob.

    Rows that are not strict JSON, or have an invalid value or a column twice, are left out and listed, as many as the
    rules allow. Raises DataError naming shard, line and column for the first one beyond that, for damaged
    shards, for a field in the first lines of a shard that is not in schema.json, and if there are no rows;
    StorageError for an unreadable file.

    identity: the columns that identify a row, to draw it by: its key, or none for the stored row, all columns of the
    file whatever their roles; None: rows are not drawn. share: of the rows, chosen by their draws while reading, so
    that a sample needs no memory for all rows; it needs an `identity`. `name` stands for the path in messages.
    """
    paths = [shard.absolute() for shard in find_shards(path)]
    common = Path(os.path.commonpath([shard.parent for shard in paths]))
    folder = partitions.without_partitions(common)
    fields = read_schema(partitions.schema_folders(common), paths)
    fields = partitions.with_columns(fields, (shard.parent for shard in paths))
    columns = plan_columns(kinds, fields, rules)
    table = _Table(columns, fields, rules, None if identity is None else Identity(identity, {}), share)
    shards = table.read([(shard, str(shard.relative_to(folder))) for shard in paths])
    table.bad.check_share(name or str(path), table.good + len(table.bad.rows))
    frame = table.frame(name or str(path))
    hashes, draws = table.drawn.hashes_and_draws()
    return Dataset(frame, shards, tuple(table.bad.rows), hashes, draws, table.unlabelled, tuple(table.absent))


class _Table:
    """The columns of the rows read so far, and the rows left out of them."""

    def __init__(
        self,
        columns: list[Column],
        fields: Mapping[str, Field] | None,
        rules: RowRules,
        identity: Identity | None,
        share: float,
    ) -> None:
        self.columns = columns
        self.fields = fields
        self.rules = rules
        self.bad = BadRows(rules.max_bad_rows, rules.keys)
        self.identity = identity
        self.drawn = DrawnRows(share, one_by_one=identity is not None and not identity.key_columns)
        self.recent: dict[str, list[pa.Array]] = {column.name: [] for column in columns}
        self.joining: dict[str, list[Future[list[pa.Array]]]] = {column.name: [] for column in columns}
        self.arrays: dict[str, list[pa.Array]] = {}  # complete after `read`
        self.names: set[str] = set()  # of the fields in the heads of the shards
        self.absent: list[str] = []  # columns that no row has
        self.rows = self.good = self.unlabelled = 0  # in the frame; good ones; those left out without a label

    def read(self, shards: Sequence[tuple[Path, str]]) -> tuple[Shard, ...]:
        """Read all shards, pairs of path and name; DataError for too many bad rows."""
        tallies = [Tally() for _ in shards]
        rows = [0] * len(shards)
        with ThreadPoolExecutor(THREADS) as pool:

            def start(part: _Part) -> Future[BlockRows | None] | None:
                if part.head and not self.names:
                    return None  # it has to settle the forms before any block is read by them
                return pool.submit(_read_part, part, [replace(column) for column in self.columns], self.identity)

            for part, read in in_order(_parts(shards, tallies), start):
                block_rows = read or self._read_strictly(part, shards[part.shard][1])
                rows[part.shard] += block_rows.rows
                self.good += block_rows.rows
                self._add(self._kept(block_rows), pool)
        for name, joining in self.joining.items():
            self.arrays[name] = [array for arrays in joining for array in arrays.result()] + self.recent[name]
        return tuple(
            Shard(name, tally.bytes, count, encoded(tally.crc32c))
            for (_, name), tally, count in zip(shards, tallies, rows, strict=True)
        )

    def _kept(self, block: BlockRows) -> Arrays:
        """The columns of the rows of a block that are kept, without the categories that only other rows have."""
        if self.identity and block.others:
            self.identity = self.identity.with_types(block.others)
        stays = np.ones(block.rows, dtype=np.bool_)
        for column in self.columns:
            if column.optional:
                stays = ~block.arrays[column.name].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        labelled = int(stays.sum())
        self.unlabelled += block.rows - labelled
        drawn = None if block.hashes is None else self.drawn.add(block.hashes[stays])
        if drawn is not None:
            stays[stays] = drawn
        self.rows += int(stays.sum())
        if drawn is None and labelled == block.rows:
            return block.arrays
        arrays = {name: array.filter(pa.array(stays)) for name, array in block.arrays.items()}
        for name, array in arrays.items():
            if pa.types.is_dictionary(array.type):
                arrays[name] = array.dictionary_decode().dictionary_encode()
        return arrays

    def _add(self, arrays: Arrays, pool: ThreadPoolExecutor) -> None:
        for column in self.columns:
            recent = self.recent[column.name]
            recent.append(arrays[column.name])
            if len(recent) == JOIN:
                self.joining[column.name].append(pool.submit(join, recent, column))
                self.recent[column.name] = []

    def _read_strictly(self, part: _Part, shard: str) -> BlockRows:
        """The good rows of a block, read line by line."""
        rows = Rows({column.name: [] for column in self.columns}, [], {}, [])
        lines = part.block.text.split(b"\n")
        for begin in range(0, len(lines), LINES):
            self._parse(lines[begin : begin + LINES], part.block.lines_before + begin, rows, shard if part.head else "")
        arrays, faults = self._convert(rows)
        self.bad.leave_out(shard, rows, faults, self.good)
        good = [line not in faults for line in rows.lines]
        if not all(good):
            columns = {name: list(compress(values, good)) for name, values in rows.columns.items()}
            arrays, _ = self._convert(Rows(columns, [], {}, []))
        hashes = np.concatenate(rows.hashes)[good] if rows.hashes else None
        block = BlockRows(sum(good), arrays, hashes)
        return self.identity.with_hashes(block, self.columns) if self.identity else block

    def _parse(self, lines: list[bytes], done: int, into: Rows, head_of: str) -> None:
        """Add the rows of some lines; keeping only their values halves time and memory."""
        rows = []
        for number, line in enumerate(lines, start=done + 1):
            if not line.strip(b" \t\r"):
                continue
            try:
                rows.append(parse_row(line, into.columns))
                into.lines.append(number)
            except ValueError as error:
                into.faults[number] = Fault(str(error))
        if self.identity and not self.identity.key_columns:
            into.hashes.append(row_hash.of_rows(rows))
            self.identity = self.identity.with_types_of(rows, into.columns)
        if head_of:
            self._check_fields(rows, into.lines[len(into.lines) - len(rows) :], head_of)
        by_column = zip(*[map(row.get, into.columns) for row in rows], strict=True)  # the fastest way to turn rows
        for values, more in zip(into.columns.values(), by_column, strict=False):  # no rows: no columns either
            values.extend(more)

    def _check_fields(self, rows: Sequence[Mapping[str, Any]], lines: Sequence[int], shard: str) -> None:
        self.names.update(*rows)
        if self.fields is None or self.names <= self.fields.keys():
            return
        for line, row in zip(lines, rows, strict=True):
            if unknown := row.keys() - self.fields.keys():
                raise DataError(
                    f"{shard}, line {line}: field {short(min(unknown))} is not in schema.json, which is from another "
                    "table or another day. Export both again."
                )

    def _convert(self, rows: Rows) -> tuple[Arrays, dict[int, Fault]]:
        """The columns of some rows, without columns that have an invalid value; and the faults by line."""
        arrays: Arrays = {}
        faults = dict(rows.faults)
        most = None if self.bad.room is None else self.bad.room + 1
        for column in self.columns:
            values = rows.columns[column.name]
            try:
                arrays[column.name] = to_arrow(values, column)
            except ValueError:
                unseen = self.fields is None and column.name not in self.names
                hint = f" ({did_you_mean(column.name, self.names)})" if unseen else ""
                label = column.required and column.kind in LABEL_KINDS - {"weight"}
                for index, reason in islice(refused_values(values, column), most):
                    value = "" if values[index] is None else short(values[index])
                    advice = hint or (" (skip_unlabelled leaves out such rows)" if label and not value else "")
                    if isinstance(values[index], dict) and "0" in values[index]:
                        advice = PANDAS  # its default is one object of columns, each by row number
                    fault = Fault(f"column {column.name!r} {reason}{advice}", value)
                    faults.setdefault(rows.lines[index], fault)
        return arrays, faults

    def frame(self, path: str) -> pd.DataFrame:
        """All columns as a DataFrame, in the order of their kinds; empties the table, which keeps memory low."""
        if not self.rows and self.good > self.unlabelled:
            raise DataError(f"subsample keeps 0 of {self.good} rows in {path!r}. Raise it.")
        if not self.good and not (self.rules.keys is not None and self.bad.rows):
            bad = f" and {len(self.bad.rows)} bad rows" if self.bad.rows else ""
            raise DataError(f"{path!r} has 0 rows{bad}. Export the table again.")
        for column in self.columns:
            # Without a schema a column of NULLs, which an export leaves out, looks like a name that is wrong.
            if self.good and not self.fields and column.name not in self.names and not self._has_values(column):
                with_role = {column.name for column in self.columns}
                scoring = self.rules.absent_is_missing and not self.names & NO_ROWS
                check_absent(path, column, self.names, with_role, scoring=scoring)
                self.absent.append(column.name)
        if not self.rows and self.unlabelled:
            raise DataError(f"None of the {self.unlabelled:,} rows of {path!r} has a label.")
        data = {}
        for column in self.columns:
            data[column.name] = to_pandas(self.arrays.pop(column.name), column)
            pa.default_memory_pool().release_unused()
        return pd.DataFrame(data, index=pd.RangeIndex(self.rows), copy=False)

    def _has_values(self, column: Column) -> bool:
        arrays = self.arrays[column.name]
        # Empty lists have no form.
        return bool(column.form) or any(len(array) > array.null_count for array in arrays if column.kind in LIST_KINDS)


def _parts(shards: Sequence[tuple[Path, str]], tallies: Sequence[Tally]) -> Iterator[_Part]:
    for shard, ((path, name), tally) in enumerate(zip(shards, tallies, strict=True)):
        members = partitions.members_of(path.parent)
        for number, block in enumerate(read_blocks(path, name, tally)):
            text = partitions.with_members(block.text, members)
            yield _Part(shard, number == 0, block._replace(text=text))


def _read_part(part: _Part, columns: Sequence[Column], identity: Identity | None) -> BlockRows | None:
    """The rows of a block at once, or None if it has to be read line by line."""
    block = None if part.head else read_block(part.block.text, columns, identity and identity.types_to_read)
    return identity.with_hashes(block, columns) if block and identity else block
