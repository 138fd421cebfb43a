"""Rows as BigQuery exports them, newline-delimited JSON in shards -> a typed DataFrame.

A row is one strict JSON object (RFC 8259, no key twice) on one line; a missing key is NULL. What a column becomes is
decided by its kind (`trainer.values` has the table) and, where the table's schema.json lies with the shards, by that.
Blank lines, CRLF and a byte order mark are accepted; all else that no export contains is refused, by shard and line.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pandas as pd
import pyarrow as pa

from trainer.errors import DataError, StorageError, did_you_mean
from trainer.schema import Column, Field, plan_column, read_schema
from trainer.shards import Tally, find_shards, read_lines
from trainer.values import refused, to_arrow, to_pandas

# Rows, or bytes of text, that are turned into columns at a time: decides memory and speed, never the result.
BLOCK_ROWS = 2**14
BLOCK_BYTES = 2**26


class Shard(NamedTuple):
    """One file that was read: its size in bytes, the rows taken from it, the SHA-256 of its bytes as stored."""

    name: str
    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """The rows in the order of shards and lines, what they were read from, and how many were left out."""

    frame: pd.DataFrame
    shards: tuple[Shard, ...]
    bad_rows: int

    @property
    def rows(self) -> int:
        """How many rows the frame has."""
        return len(self.frame)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' hashes, whatever their names and order."""
        return hashlib.sha256("\n".join(sorted(shard.sha256 for shard in self.shards)).encode()).hexdigest()


class _Fault(NamedTuple):
    """Why a row is refused, and the value at fault in short."""

    reason: str
    value: str = ""


class _Block(NamedTuple):
    """The values of some rows of a shard by column, the rows' line numbers, and the lines that are no good row."""

    columns: dict[str, list[Any]]
    lines: list[int]
    faults: dict[int, _Fault]


def load(
    path: str | Path, kinds: Mapping[str, str], *, max_bad_rows: int = 0, bad_rows_path: Path | None = None
) -> Dataset:
    """Reads the columns in `kinds` (name -> kind, see `trainer.values`) of a file, a folder of shards or a glob.

    Up to `max_bad_rows` rows that are no strict JSON, or hold a value that is refused, are left out and counted; their
    shard, line and reason (no value) go to `bad_rows_path` as JSON lines. Raises DataError naming shard, line and
    column for the first one beyond that, for damaged shards and for no row at all, StorageError for an unreadable file.
    """
    paths = [shard.parent.resolve() / shard.name for shard in find_shards(path)]
    folder = Path(os.path.commonpath([shard.parent for shard in paths]))
    fields = read_schema(folder)
    columns = [plan_column(name, kind, fields) for name, kind in kinds.items()]
    table = _Table(columns, fields, max_bad_rows)
    shards = tuple(table.read(shard, str(shard.relative_to(folder))) for shard in paths)
    frame = table.frame(str(path))
    if bad_rows_path and table.bad_rows:
        _write_json_lines(bad_rows_path, table.bad_rows)
    return Dataset(frame, shards, len(table.bad_rows))


def duplicate_keys(frame: pd.DataFrame, key_columns: Iterable[str]) -> int:
    """How many rows share their key, the values of all `key_columns`, with another row."""
    return int(frame.duplicated(list(key_columns), keep=False).sum())


def parse_row(line: bytes) -> dict[str, Any]:
    """One row; raises ValueError with the reason, which shows no value."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(_explain(line, error)) from None
    if type(row) is not dict:
        raise ValueError("a JSON value, but not an object")
    # Each key ends in a colon, and in `":` where white space is taken out. As many of these as the row has keys: no key
    # is there twice. There may be more of them in values.
    if line.count(b":") != len(row) and line.translate(None, b" \t\r").count(b'":') != len(row):
        _check_keys(line)
    return row


def _explain(line: bytes, error: orjson.JSONDecodeError) -> str:
    line = line.strip()
    if not line.startswith(b"{"):
        if re.search(rb"[\x00-\x08\x0e-\x1f]", line):
            return "binary data, perhaps encrypted, not a JSON object"
        if line.startswith(b"<"):
            return "HTML or XML, not a JSON object"
        if line.startswith(b"["):
            return "a JSON list, not one object on each line"
        if re.search(rb"[,;\t]", line) and not line.endswith(b"}"):
            return "text like CSV, not a JSON object"
    try:
        line.decode()
    except UnicodeDecodeError as invalid:
        return f"invalid UTF-8 at byte {invalid.start + 1}"
    return f"not a JSON object: {error.msg}, column {error.colno}"


def _check_keys(line: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        name, count = next(iter(Counter(name for name, _ in pairs).most_common(1)), ("", 0))
        if count > 1:
            raise ValueError(f"key {_short(name)} occurs {count} times")

    try:
        json.loads(line, object_pairs_hook=unique, parse_int=str, parse_float=str)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


class _Table:
    """The columns of the rows read so far, and the rows left out of them."""

    def __init__(self, columns: list[Column], fields: Mapping[str, Field] | None, max_bad_rows: int) -> None:
        self.columns = columns
        self.fields = fields
        self.max_bad_rows = max_bad_rows
        self.bad_rows: list[dict[str, str | int]] = []
        self.arrays: dict[str, list[pa.Array]] = {column.name: [] for column in columns}
        self.names: set[str] = set()
        self.rows = 0

    def read(self, path: Path, name: str) -> Shard:
        """Takes the rows of one shard; raises DataError at one bad row too many."""
        tally = Tally()
        rows_before = self.rows
        for block in self._blocks(read_lines(path, name, tally)):
            self._add(block, name)
        return Shard(name, tally.bytes, self.rows - rows_before, tally.sha256.hexdigest())

    def _blocks(self, shard: Iterable[list[bytes]]) -> Iterator[_Block]:
        block = self._empty_block()
        done = size = 0
        for lines in shard:
            self._parse(lines, done, block)
            done += len(lines)
            size += sum(map(len, lines))
            if len(block.lines) + len(block.faults) >= BLOCK_ROWS or size >= BLOCK_BYTES:
                yield block
                block = self._empty_block()
                size = 0
        yield block

    def _empty_block(self) -> _Block:
        return _Block({column.name: [] for column in self.columns}, [], {})

    def _parse(self, lines: list[bytes], done: int, block: _Block) -> None:
        """Adds the rows on some lines to a block; only their values are kept, which halves time and memory."""
        rows = []
        for number, line in enumerate(lines, start=done + 1):
            if not line.strip(b" \t\r"):
                continue
            try:
                rows.append(parse_row(line))
                block.lines.append(number)
            except ValueError as error:
                block.faults[number] = _Fault(str(error))
        self.names.update(*rows)
        if self.fields is not None and not self.names <= self.fields.keys():
            for number, row in zip(block.lines[len(block.lines) - len(rows) :], rows, strict=True):
                if unknown := row.keys() - self.fields.keys():
                    block.faults[number] = _Fault(f"field {_short(min(unknown))} is not in schema.json")
        by_column = zip(*[map(row.get, block.columns) for row in rows], strict=True)  # the fastest way to turn rows
        for values, more in zip(block.columns.values(), by_column, strict=False):  # no rows: no columns either
            values.extend(more)

    def _add(self, block: _Block, shard: str) -> None:
        arrays, faults = self._convert(block)
        for line in sorted(faults):
            self._leave_out(shard, line, faults[line])
        kept = [line not in faults for line in block.lines]
        if not all(kept):
            columns = {name: list(compress(values, kept)) for name, values in block.columns.items()}
            arrays, _ = self._convert(_Block(columns, [], {}))
        for name, array in arrays.items():
            self.arrays[name].append(array)
        self.rows += sum(kept)

    def _convert(self, block: _Block) -> tuple[dict[str, pa.Array], dict[int, _Fault]]:
        """The columns of a block, but for those in which a value is refused; the faults by line."""
        arrays: dict[str, pa.Array] = {}
        faults = dict(block.faults)
        most = self.max_bad_rows - len(self.bad_rows) + 1
        for column in self.columns:
            values = block.columns[column.name]
            try:
                arrays[column.name] = to_arrow(values, column)
            except ValueError:
                unseen = self.fields is None and column.name not in self.names
                hint = f" ({did_you_mean(column.name, self.names)})" if unseen else ""
                for index, reason in islice(refused(values, column), most):
                    value = "" if values[index] is None else _short(values[index])
                    fault = _Fault(f"column {column.name!r} {reason}{hint}", value)
                    faults.setdefault(block.lines[index], fault)
        return arrays, faults

    def _leave_out(self, shard: str, line: int, fault: _Fault) -> None:
        self.bad_rows.append({"shard": shard, "line": line, "reason": fault.reason})
        if len(self.bad_rows) <= self.max_bad_rows:
            return
        first = self.bad_rows[0]
        value = f": {fault.value}" if fault.value else ""
        advice = (
            f"max_bad_rows={self.max_bad_rows} are left out already, from {first['shard']}, line {first['line']} on."
            if self.max_bad_rows
            else "Correct the export, or set max_bad_rows to leave such rows out."
        )
        raise DataError(f"{shard}, line {line}: {fault.reason}{value}. {advice}")

    def frame(self, path: str) -> pd.DataFrame:
        """All columns, in the order of their kinds."""
        if not self.rows:
            besides = f" besides {len(self.bad_rows)} bad ones" if self.bad_rows else ""
            raise DataError(f"There are 0 rows in {path!r}{besides}. Export the table again.")
        for column in self.columns:
            # Without a schema a column of NULLs, which an export leaves out, looks like a name that is wrong.
            if self.fields is None and column.name not in self.names:
                hint = did_you_mean(column.name, self.names)
                raise DataError(f"No row of {path!r} has the column {column.name!r}. {hint}")
        data = {column.name: to_pandas(self.arrays[column.name], column) for column in self.columns}
        # The copy makes the columns writable, which what Arrow hands out is not.
        return pd.DataFrame(data, index=pd.RangeIndex(self.rows), copy=True)


def _write_json_lines(path: Path, entries: list[dict[str, str | int]]) -> None:
    try:
        path.write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries))
    except OSError as error:
        raise StorageError(f"Cannot write {str(path)!r}: {error.strerror}.") from error
