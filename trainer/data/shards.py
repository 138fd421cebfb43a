"""Read the files of a dataset as blocks of lines, in bounded memory.

The first bytes of a file, not its name, decide whether it is plain or gzip. A damaged or doubly compressed file, or one
in another format, raises an error with its name; nothing is skipped or repaired.
"""

import codecs
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from trainer.runtime.errors import DataError
from trainer.runtime.system import disk_errors

MAX_LINE = 16 * 2**20
PIECE = 2**18  # bytes read or inflated at a time
HEAD_BYTES = 2**16  # of a shard: its first lines, which decide the forms of the columns
BLOCK_BYTES = 2**23  # parsed at a time: decides memory and speed, never the result

# Deflate cannot do better than 1032:1; rows of a dataset are far from it, but a few that repeat are not.
BOMB_BYTES = 64 * 10**6
BOMB_RATIO = 1000

GZIP = b"\x1f\x8b"
FORMATS = {
    GZIP: "gzip inside gzip", b"Obj\x01": "Avro", b"PAR1": "Parquet", b"ORC": "ORC", b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"%PDF": "PDF",
    codecs.BOM_UTF16_LE: "UTF-16 text", codecs.BOM_UTF16_BE: "UTF-16 text",
}  # fmt: skip
LONGEST_MAGIC = max(map(len, FORMATS))


class Block(NamedTuple):
    """Complete lines of a shard, and the number of lines before them."""

    text: bytes
    lines_before: int


@dataclass
class Tally:
    """What has been read of a file so far: bytes as stored and their CRC-32C."""

    bytes: int = 0
    crc32c: int = 0


def read_blocks(path: Path, name: str, tally: Tally) -> Iterator[Block]:
    """The text of a shard in order, without the byte order mark, as non-empty blocks of complete lines.

    The first block, the head, has the lines that begin in the first HEAD_BYTES bytes; the others have about
    BLOCK_BYTES. Raises DataError with the shard's name for another format, damaged gzip data or a line above MAX_LINE
    bytes (after the lines before it), StorageError if the file cannot be read.
    """
    held: list[bytes] = []  # pieces of the next block
    size = done = 0
    wanted = HEAD_BYTES
    for piece in _text(path, name, tally):
        held.append(piece)
        size += len(piece)
        if size < wanted:
            continue
        end = piece.rfind(b"\n") + 1 if done else 0
        if not end:
            held = [b"".join(held)]
            end = (held[0].rfind(b"\n") if done else held[0].find(b"\n", HEAD_BYTES - 1)) + 1
        if end:
            rest = held[-1][end:]
            text = b"".join([*held[:-1], memoryview(held[-1])[:end]])
            yield from _checked(Block(text, done), name)
            done += count(text, b"\n")
            held, size, wanted = [rest], len(rest), BLOCK_BYTES
        else:  # still in the middle of a line
            if size - held[0].rfind(b"\n") - 1 > MAX_LINE:
                yield from _checked(Block(held[0], done), name)
            wanted = 2 * size
    yield from _checked(Block(b"".join(held), done), name)


def count(text: bytes, byte: bytes) -> int:
    """The number of times a byte occurs; several times faster than bytes.count, and other threads keep running."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(byte)))


def _checked(block: Block, name: str) -> Iterator[Block]:
    """A block unless it is empty; of one with a line that is too long, the lines before that."""
    if len(block.text) > MAX_LINE:
        begin = 0
        for number, line in enumerate(block.text.split(b"\n"), start=block.lines_before + 1):
            if len(line) > MAX_LINE:
                yield from _checked(Block(block.text[:begin], block.lines_before), name)
                raise DataError(f"{name}, line {number}: longer than {MAX_LINE >> 20} MiB. Write one row on each line.")
            begin += len(line) + 1
    if block.text:
        yield block


def _text(path: Path, name: str, tally: Tally) -> Iterator[bytes]:
    stored = _stored(path, tally)
    head = next(stored, b"")
    if not head and path.suffix == ".gz":
        raise DataError(f"{name} is empty, not gzip data: a copy or an export was interrupted. Fetch it again.")
    text: Iterator[bytes] = chain([head], stored)
    if head.startswith(GZIP) or head == GZIP[:1]:
        text = _gunzip(text, name)
    head = next(text, b"")
    while len(head) < LONGEST_MAGIC and (more := next(text, b"")):
        head += more
    for magic, what in FORMATS.items():
        if head.startswith(magic):
            raise DataError(f"{name} is {what}, not newline-delimited JSON. Export it as JSON, plain or with GZIP.")
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from text


def _stored(path: Path, tally: Tally) -> Iterator[bytes]:
    with disk_errors("reading", path), path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            tally.bytes += len(piece)
            tally.crc32c = google_crc32c.extend(tally.crc32c, piece)
            yield piece


def _gunzip(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """All members, one after the other; what follows the last one, zeros included, is an error."""
    member = zlib.decompressobj(wbits=31)
    stored = inflated = 0
    for piece in pieces:
        stored += len(piece)
        rest = piece
        while rest:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            try:
                text = member.decompress(rest, PIECE)
            except zlib.error as error:
                raise DataError(
                    f"{name}: damaged gzip data after {inflated:,} bytes of text ({error}). Fetch or export it again."
                ) from error
            rest = member.unused_data if member.eof else member.unconsumed_tail
            inflated += len(text)
            if inflated > BOMB_BYTES and inflated > BOMB_RATIO * (stored - len(rest)):
                raise DataError(
                    f"{name} unpacks to more than {BOMB_RATIO} times its size, as no dataset does. Do not use it."
                )
            if text:
                yield text
    if not member.eof:
        raise DataError(f"{name}: the gzip data is cut off after {inflated:,} bytes of text. Fetch or export it again.")
