"""Moving to a bucket and from it: what moves, known by size and CRC-32C, and the threads that end at once when told."""

import base64
import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import LifoQueue, SimpleQueue
from typing import NamedTuple

import google_crc32c

from trainer.runtime.errors import StorageError

PIECE = 2**20  # bytes read at a time to sum them
POLYNOMIAL = 0x82F63B78
LEAVE_SECONDS = 1.0  # that threads are given to end

Job = Callable[[], "list[Job]"]
Progress = Callable[[int], object]  # told the bytes that were done since the last time, by any thread


class Stored(NamedTuple):
    """A file or an object."""

    uri: str  # gs://bucket/name, or a path
    size: int  # bytes as stored
    crc32c: str  # of these, base64 of big-endian as Google Cloud Storage writes it; "" of a local file
    generation: int  # of the object; of a local file the time of its last change in ns
    time: float = 0.0  # when it was written, in seconds since 1970, by the clock of the service or of this machine


def crc32c_of(data: bytes) -> str:
    """The checksum of bytes as Google Cloud Storage writes it."""
    return encoded(google_crc32c.value(data))


def encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def crc32c_of_file(path: Path, size: int | None = None) -> str:
    """The checksum of a file, or of its first `size` bytes."""
    crc, left = 0, path.stat().st_size if size is None else size
    with path.open("rb", buffering=0) as file:
        while left and (piece := file.read(min(PIECE, left))):
            crc, left = google_crc32c.extend(crc, piece), left - len(piece)
    return encoded(crc)


def in_threads(jobs: Sequence[Job], workers: int, stop: threading.Event) -> None:
    """Run jobs, and those that they return, which go first. The first error ends all of it and is raised; so does an
    order to stop, at once: `stop` is set, and threads that wait for an answer are left behind."""
    todo: LifoQueue[Job | None] = LifoQueue()
    done: SimpleQueue[list[Job] | Exception] = SimpleQueue()

    def work() -> None:
        while job := todo.get():
            try:
                done.put(job())
            except Exception as error:
                done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for job in reversed(jobs):
        todo.put(job)
    pending = len(jobs)
    try:
        for thread in threads:
            thread.start()
        while pending:
            outcome = done.get()
            if isinstance(outcome, Exception):
                raise outcome
            for job in reversed(outcome):
                todo.put(job)
            pending += len(outcome) - 1
    finally:
        stop.set()
        for _ in threads:
            todo.put(None)
        for thread in threads:
            if thread.ident:
                thread.join(LEAVE_SECONDS / workers)


def joined(first: int, second: int, size: int) -> int:
    """The CRC-32C of two texts, one after the other, from those of both and the size of the second in bytes."""
    return times(shift(size), first) ^ second


@functools.cache
def shift(size: int) -> int:
    """x to the power of 8 * size, modulo the polynomial of CRC-32C; the highest bit is the lowest power."""
    power, square = 1 << 31, 1 << 23
    while size:
        power, square, size = times(square, power) if size & 1 else power, times(square, square), size >> 1
    return power


def times(a: int, b: int) -> int:
    """The product of two polynomials, modulo that of CRC-32C."""
    product = 0
    for bit in range(31, -1, -1):
        product ^= b if a >> bit & 1 else 0
        b = (b >> 1) ^ (POLYNOMIAL if b & 1 else 0)
    return product


def summed(source: Path | bytes) -> tuple[int, str]:
    """Size and checksum of a file, or of bytes."""
    if isinstance(source, bytes):
        return len(source), crc32c_of(source)
    try:
        return source.stat().st_size, crc32c_of_file(source)
    except OSError as error:
        raise StorageError(f"Cannot read {str(source)!r}: {error.strerror}.") from error
