"""Read blocks of rows with Arrow's JSON parser, wherever its result equals that of the strict reader.

Arrow's types are strict, and so is most of its grammar. What Arrow accepts but JSON rows may not contain is checked
here: several objects on a line or one on several, a bare NaN or Infinity, invalid UTF-8, deep nesting; and -0, which
it reads differently.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from trainer.data import row_hash
from trainer.data.columns import convert, json_type
from trainer.data.json_values import EXACT
from trainer.data.schema import NUMERIC_KINDS, Column
from trainer.runtime.errors import TrainerError

Bytes = NDArray[np.uint8]
Positions = NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(os.cpu_count() or 1, 16)
AHEAD = THREADS + 1  # blocks read ahead of the next result

# Rows with more brackets than this are left to the strict reader, which knows how deep JSON may be.
MAX_BRACKETS = 500

PIECE_BYTES = 2**18  # of a block that are searched at a time

BARE_CONSTANT = re.compile(rb"[:,\[ \t\r-](NaN|Inf(inity)?)[ \t\r\n,}\]]")
BARE_MINUS_ZERO = re.compile(rb"-0[ \t\r\n,}\]]")
BARE_LARGE_INTEGER = re.compile(rb"[:,\[ \t\r-][0-9]{16,}[ \t\r\n,}\]]")


class BlockRows(NamedTuple):
    """The rows of a block: their number, their columns, and the hashes of the stored rows where they are wanted.

    others: the JSON types of columns without a role that were not known before.
    """

    rows: int
    arrays: dict[str, pa.Array]
    hashes: row_hash.Hashes | None
    others: Mapping[str, pa.DataType] = {}


def in_order(
    items: Iterator[Item], start: Callable[[Item], Future[Result] | None]
) -> Iterator[tuple[Item, Result | None]]:
    """Yield each item, in order, with the result of the future that `start` returned for it; works a few items ahead.

    An item without a future is yielded before the next one is taken. An error raised by `items` comes after the items
    before it.
    """
    waiting: deque[tuple[Item, Future[Result] | None]] = deque()
    fault = None
    while True:
        try:
            item = next(items, None)
        except TrainerError as error:
            item, fault = None, error
        if item is not None:
            waiting.append((item, start(item)))
        while waiting and (item is None or len(waiting) > AHEAD or waiting[-1][1] is None):
            first, future = waiting.popleft()
            yield first, future.result() if future else None
        if fault:
            raise fault
        if item is None:
            return


def read_block(
    text: bytes, columns: Sequence[Column], others: Mapping[str, pa.DataType] | None = None
) -> BlockRows | None:
    """The rows in complete lines, and their columns by name as `columns.convert` returns them.

    others: the JSON types of all other columns, to hash the stored rows; None: no hashes.
    None for anything out of the ordinary; the strict reader then reads the lines.
    """
    if not text.endswith(b"\n"):
        text += b"\n"
    codes = np.frombuffer(text, np.uint8)
    rows = _count_objects(codes) if len(codes) > 2 else 0
    if not rows or not _is_utf8(text):
        return None
    types = {column.name: json_type(column) for column in columns} | dict(others or {})
    batch, new = None, {}
    if others is not None:
        batch = _parsed(text, types, unexpected="error")
        if batch is None and (new := _other_types(text, types)):
            others = {**others, **new}
            batch = _parsed(text, types | new, unexpected="error")
    if batch is None:
        batch = _parsed_with_nan(text, codes, columns, others)
    elif not all(np.isfinite(numbers).all() for numbers in row_hash.fractions_in(batch)):
        return None  # all fields were read, so that a bare NaN or Infinity became a number
    if batch is None or batch.num_rows != rows:
        return None
    stored = {column.name: batch.column(column.name) for column in columns}
    if any(column.kind not in NUMERIC_KINDS and _may_round(stored[column.name]) for column in columns):
        return None
    try:
        arrays = {column.name: convert(stored[column.name], column) for column in columns}
    except (pa.ArrowException, ValueError):
        return None
    fractions = [arrays[column.name] for column in _fractions(columns)]
    if any(map(_has_minus_zero, fractions)) and BARE_MINUS_ZERO.search(text):
        return None
    if others is None:
        return BlockRows(rows, arrays, None)
    large = any((np.abs(numbers) >= EXACT).any() for numbers in row_hash.fractions_in(batch))
    if large and BARE_LARGE_INTEGER.search(text):
        return None
    return BlockRows(rows, arrays, row_hash.of_batch(batch), new)


def _other_types(text: bytes, types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """The types of all other fields, and of objects that have other fields, as far as Arrow can infer them."""
    batch = _parsed(text, types, unexpected="infer")
    inferred = {} if batch is None else {field.name: row_hash.json_type(field.type) for field in batch.schema}
    return {name: kind for name, kind in inferred.items() if kind != types.get(name)}


def _parsed(text: bytes, types: Mapping[str, pa.DataType], unexpected: str) -> pa.RecordBatch | None:
    """The fields of these types; None if Arrow refuses the text. unexpected: what to do about other fields."""
    try:
        table = pa.json.read_json(
            pa.BufferReader(text),
            pa.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pa.json.ParseOptions(explicit_schema=pa.schema(types.items()), unexpected_field_behavior=unexpected),
        )
    except pa.ArrowException:
        return None
    return table.combine_chunks().to_batches()[0]


def _parsed_with_nan(
    text: bytes, codes: Bytes, columns: Sequence[Column], others: Mapping[str, pa.DataType] | None
) -> pa.RecordBatch | None:
    """The fields of a text with "NaN" in quotes among its bare numbers; None for bare constants."""
    constants = _constants(codes)
    if any(BARE_CONSTANT.match(text, at - 1) for at in constants.tolist()):
        return None
    numbers = [column.name for column in _fractions(columns)]
    numbers += [name for name, kind in (others or {}).items() if pa.types.is_floating(kind)]
    plain = _without_quotes(text, constants, numbers) if len(constants) else text
    if others is not None and plain is text:
        return None  # it was parsed before
    types = {column.name: json_type(column) for column in columns} | dict(others or {})
    return _parsed(plain, types, "ignore" if others is None else "error")


def _count_objects(codes: Bytes) -> int:
    """The number of lines if each begins with { and ends with } and none is nested deeply; otherwise 0.

    A newline between } and { is never inside a JSON value, so each line is at least one complete value.
    """
    ends = _positions(codes, b"\n")
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = codes[ends - 1]
    last = np.where(last == ord("\r"), codes[ends - 2], last)
    if not (codes[starts] == ord("{")).all() or not (last == ord("}")).all():
        return 0
    if sum(map(np.count_nonzero, _hits(codes, b"{["))) > len(ends) + MAX_BRACKETS:
        opening = (codes == ord("{")) | (codes == ord("["))
        if np.add.reduceat(opening, starts, dtype=np.int32).max() > MAX_BRACKETS:
            return 0
    return len(ends)


def _is_utf8(text: bytes) -> bool:
    offsets = pa.py_buffer(np.array([0, len(text)], dtype=np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(text)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _constants(codes: Bytes) -> Positions:
    """Positions of NaN and Inf, inside strings too."""
    at = _positions(codes[:-2], b"NI")
    nan = (codes[at + 1] == ord("a")) & (codes[at + 2] == ord("N"))
    infinity = (codes[at + 1] == ord("n")) & (codes[at + 2] == ord("f"))
    return at[nan | infinity]


def _positions(codes: Bytes, wanted: bytes) -> Positions:
    """The positions of some bytes."""
    hits = enumerate(_hits(codes, wanted))
    return np.concatenate([np.flatnonzero(piece) + number * PIECE_BYTES for number, piece in hits])


def _hits(codes: Bytes, wanted: bytes) -> Iterator[NDArray[np.bool_]]:
    """Whether each byte is one of those wanted, a piece at a time, which the processor's cache holds."""
    for begin in range(0, len(codes), PIECE_BYTES):
        piece = codes[begin : begin + PIECE_BYTES]
        hits = piece == wanted[0]
        for code in wanted[1:]:
            hits |= piece == code
        yield hits


def _without_quotes(text: bytes, constants: Positions, columns: Sequence[str]) -> bytes:
    """The text with "NaN", as BigQuery writes it, made a bare NaN in columns of bare numbers.

    Such a column's key in quotes with a colon is a key wherever the text is JSON, and if it is none, it stays none.
    """
    names = [json.dumps(name, ensure_ascii=False).encode() for name in columns]
    keys = (*(name + b':"' for name in names), *(name + b': "' for name in names))
    parts = []
    begin = 0
    for at in constants.tolist():
        if text.startswith(b'NaN"', at) and text.endswith(keys, 0, at):
            parts += [text[begin : at - 1], b"NaN"]
            begin = at + 4
    return b"".join([*parts, text[begin:]]) if parts else text


def _fractions(columns: Sequence[Column]) -> list[Column]:
    """The columns of bare numbers that are float64 in the frame, too."""
    return [column for column in columns if column.form == "fraction" and column.kind in NUMERIC_KINDS]


def _may_round(array: pa.Array) -> bool:
    """Whether float64 holds numbers that may have been other, larger whole numbers in the text."""
    values = array.flatten() if pa.types.is_list(array.type) else array
    return pa.types.is_floating(values.type) and bool((np.abs(values.drop_null().to_numpy()) >= EXACT).any())


def _has_minus_zero(numbers: pa.Array) -> bool:
    values = numbers.to_numpy()
    return bool(np.signbit(values[values == 0]).any())
