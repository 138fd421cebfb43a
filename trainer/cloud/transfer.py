"""Object metadata, CRC-32C checksums, and threads that stop at once, for uploads and downloads."""

import base64
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import LifoQueue, SimpleQueue
from typing import NamedTuple

import google_crc32c

from trainer.runtime import system

PIECE = 2**20  # bytes read at a time to compute a checksum
JOIN_SECONDS = 1.0  # that threads get to end

Job = Callable[[], "list[Job]"]


class Stored(NamedTuple):
    """A file or an object."""

    uri: str  # gs://bucket/name, or a path
    size: int  # bytes as stored
    crc32c: str  # checksum of the stored bytes, base64 of big-endian as Google Cloud Storage writes it; "" for a file
    generation: int  # of an object; for a file, the time of its last change in ns
    time: float = 0.0  # of writing, in seconds since 1970, by the clock of the service or of this machine


def crc32c_of(data: bytes) -> str:
    """The CRC-32C of bytes, as Google Cloud Storage writes it."""
    return encoded(google_crc32c.value(data))


def crc32c_of_file(path: Path, size: int | None = None) -> str:
    """The CRC-32C of a file, or of its first `size` bytes."""
    crc, left = 0, path.stat().st_size if size is None else size
    with path.open("rb", buffering=0) as file:
        while left and (piece := file.read(min(PIECE, left))):
            crc, left = google_crc32c.extend(crc, piece), left - len(piece)
    return encoded(crc)


def encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def size_and_crc32c(source: Path | bytes) -> tuple[int, str]:
    """Size in bytes and CRC-32C of a file or of bytes. Raises StorageError for a file that cannot be read."""
    if isinstance(source, bytes):
        return len(source), crc32c_of(source)
    with system.disk_errors("reading", source):
        return source.stat().st_size, crc32c_of_file(source)


def run_jobs(jobs: Sequence[Job], workers: int, stop: threading.Event) -> None:
    """Run jobs in threads; the jobs that a job returns go first. The first error stops all and is raised; a stop
    request does the same.

    Daemon threads instead of a ThreadPoolExecutor, whose threads keep the process alive at its end for as long as
    their request waits, also after `shutdown(wait=False, cancel_futures=True)`. Here `stop` is set, and threads that
    wait for a response are left behind.
    """
    queue: LifoQueue[Job | None] = LifoQueue()
    outcomes: SimpleQueue[list[Job] | Exception] = SimpleQueue()

    def work() -> None:
        while job := queue.get():
            try:
                outcomes.put(job())
            except Exception as error:
                outcomes.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for job in reversed(jobs):
        queue.put(job)
    pending = len(jobs)
    try:
        for thread in threads:
            thread.start()
        while pending:
            outcome = outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            for job in reversed(outcome):
                queue.put(job)
            pending += len(outcome) - 1
    finally:
        stop.set()
        for _ in threads:
            queue.put(None)
        for thread in threads:
            if thread.ident:
                thread.join(JOIN_SECONDS / workers)
