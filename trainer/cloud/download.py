"""Objects on their way to local files: in parallel, in ranges, resumed after a break, never wrong under their name.

An object goes to `.NAME.GENERATION.part` beside its file. Behind the object's bytes the part has a byte for each block
of them, which is 1 when the block is there: that is how the next process knows what is left. The part gets the file's
name once all of it has the size and the CRC-32C that the object is known to have.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import google_crc32c

from trainer.cloud.retries import StoppedError, Tries, UnwholeError
from trainer.cloud.transfer import Job, Progress, Stored, crc32c_of_file, encoded, in_threads, joined
from trainer.runtime import heartbeat, system
from trainer.runtime.errors import ResourceError, StorageError

WORKERS = 8
BLOCK = 2**20  # bytes that are written, and known to be there, at a time
RANGE = 2**23  # bytes that a request asks for, at most; as many are in memory for each worker
MOST_DAMAGED = 3  # times that an object may arrive with wrong bytes
PART = re.compile(r"\.(.+?)\.\d{5,}(?:\.\d+)?\.part")


class ReadRange(Protocol):
    """Reads bytes start..end-1 of an object in exactly this generation, in order: in small pieces, or all at once,
    which is faster, but nothing has arrived then if the connection breaks."""

    def __call__(
        self, stored: Stored, start: int, end: int, write: Callable[[bytes], object], *, at_once: bool = False
    ) -> None: ...


def fetch(
    objects: Sequence[tuple[Stored, Path]], read_range: ReadRange, progress: Progress, deadline: float | None = None
) -> None:
    """Bring objects to local files, where they are whole and durable when this returns.

    Raises ResourceError if the disk has not the space, StorageError, or what `read_range` does. What has arrived stays
    in parts for the next time.
    """
    paths = Counter(path for _, path in objects)
    if twice := [str(path) for path, times in paths.items() if times > 1]:
        raise ValueError(f"two objects for one file: {twice[0]}")
    check_space(objects)
    stop = threading.Event()
    tries = [Tries(f"reading {stored.uri}", deadline, stop) for stored, _ in objects]
    parts = [Part(*each, read_range, progress, of) for each, of in zip(objects, tries, strict=True)]
    try:
        in_threads([part.open for part in parts], WORKERS, stop)
    finally:
        for part in parts:
            part.close()
    clean(paths)


def clean(paths: Iterable[Path]) -> None:
    """Remove parts of these files that nobody works on: of generations that are gone, or of killed processes."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, wanted in names.items():
        for part in folder.glob(".*.part"):
            if (match := PART.fullmatch(part.name)) and match[1] in wanted:
                with contextlib.suppress(OSError), part.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    system.remove(part)


def check_space(objects: Sequence[tuple[Stored, Path]]) -> None:
    """Raises ResourceError if the objects do not fit on the disks of their files."""
    needed: Counter[int] = Counter()
    folders = {}
    for stored, path in objects:
        folder = system.existing_parent(path)
        device = folder.stat().st_dev
        with contextlib.suppress(OSError):
            needed[device] -= part_of(stored, path).stat().st_blocks * 512  # what is there already
        needed[device] += stored.size
        folders[device] = folder
    for device, folder in folders.items():
        free = shutil.disk_usage(folder).free
        if needed[device] > free:
            raise ResourceError(
                f"No space for {len(objects)} objects in {folder}: {needed[device]:,} bytes are needed, {free:,} are "
                "free. Free some and start again."
            )


def part_of(stored: Stored, path: Path) -> Path:
    return path.with_name(f".{path.name}.{stored.generation}.part")


@contextlib.contextmanager
def told(path: Path, size: int) -> Iterator[None]:
    """Errors of the file system become ours."""
    try:
        yield
    except OSError as error:
        raise system.storage_error("writing", path, error, size) from error


class Part:
    """An object that is on its way."""

    def __init__(self, stored: Stored, path: Path, read_range: ReadRange, progress: Progress, tries: Tries) -> None:
        self.stored, self.path, self.part = stored, path, part_of(stored, path)
        self.read_range, self.progress, self.tries = read_range, progress, tries
        self.blocks = -(-stored.size // BLOCK)
        self.left = self.damaged = 0
        self.sums: dict[int, tuple[int, int]] = {}  # start of a range -> size and CRC-32C, of what this process brought
        self.file, self.lock = -1, threading.Lock()  # a thread that was left behind must not write to a closed file

    def open(self) -> list[Job]:
        """Open the part, or make it. Returns what is left to do."""
        with told(self.path, self.stored.size):
            system.about_to_change(self.part)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._hold()
            length = os.fstat(self.file).st_size
            if length == self.stored.size > 0:  # ended between the last byte and the name
                return self._finish()
            if length != self.stored.size + self.blocks:
                self._clear()
            return self._ranges()

    def _hold(self) -> None:
        """Open the file for this process alone; where another one works on it, or there are no locks, another file."""
        file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file), self.part.stat())  # not renamed just now
        except OSError:
            held = False
        if not held:
            os.close(file)
            self.part = self.part.with_suffix(f".{time.time_ns()}.part")
            file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.file = file

    def _clear(self) -> None:
        """Begin anew, with no block there."""
        self.sums.clear()
        self._resize(0, self.stored.size + self.blocks)

    def _resize(self, *sizes: int) -> None:
        system.about_to_change(self.part)
        with self.lock:
            if self.file < 0:
                raise StoppedError
            for size in sizes:
                os.ftruncate(self.file, size)

    def _ranges(self) -> list[Job]:
        """A job for each run of blocks that are not there, of RANGE bytes at most."""
        there = os.pread(self.file, self.blocks, self.stored.size)
        self.progress(min(there.count(1) * BLOCK, self.stored.size))
        ranges: list[tuple[int, int]] = []
        for block in (number for number, byte in enumerate(there) if byte != 1):
            start, end = block * BLOCK, min((block + 1) * BLOCK, self.stored.size)
            if ranges and ranges[-1][1] == start and end - ranges[-1][0] <= RANGE:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((start, end))
        self.left = len(ranges)
        return [partial(self._read, start, end) for start, end in ranges] or self._finish()

    def _read(self, start: int, end: int) -> list[Job]:
        """Bring a range; whoever brings the last one finishes the object."""
        tries = Tries(self.tries.doing, self.tries.deadline, self.tries.stop)
        sink, calm = Sink(self, start, end, tries), True
        while sink.position < end:
            with told(self.path, self.stored.size):
                system.about_to_change(self.part)
            try:
                self.read_range(self.stored, sink.received, end, sink.write, at_once=calm)
                if sink.position < end:
                    raise UnwholeError("an answer is too short")
            except Exception as error:
                calm = False
                tries.again(error)
        with self.lock:
            self.sums[start] = (end - start, sink.crc)
            self.left -= 1
            last = not self.left
        return self._finish() if last else []

    def write(self, data: bytes, position: int) -> None:
        """Put whole blocks in their place, and note that they are there."""
        with told(self.path, self.stored.size), self.lock:
            if self.file < 0:
                raise StoppedError
            if os.pwrite(self.file, data, position) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.pwrite(self.file, b"\x01" * -(-len(data) // BLOCK), self.stored.size + position // BLOCK)
        self.progress(len(data))
        heartbeat.beat()

    def _finish(self) -> list[Job]:
        """Check the bytes and give the file its name; wrong ones are thrown away, and asked for again."""
        with told(self.path, self.stored.size):
            if self._sum() != self.stored.crc32c:
                self.damaged += 1
                self.progress(-self.stored.size)
                self._clear()
                if self.damaged < MOST_DAMAGED:
                    return self._ranges()
                system.remove(self.part)
                raise StorageError(
                    f"{self.stored.uri} arrived {self.damaged} times with bytes that do not have the object's "
                    "checksum. Something between this machine and the bucket changes them."
                )
            self._resize(self.stored.size)
            system.fsync(self.part)
            system.about_to_change(self.path)
            self.part.replace(self.path)
            self.close()
            system.fsync(self.path.parent)
        return []

    def _sum(self) -> str:
        """The checksum of the bytes that are there; they are read again only where another process brought some."""
        if sum(size for size, _ in self.sums.values()) != self.stored.size:
            return crc32c_of_file(self.part, self.stored.size)
        crc = 0
        for start in sorted(self.sums):
            crc = joined(crc, self.sums[start][1], self.sums[start][0])
        return encoded(crc)

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            if self.file >= 0:
                os.close(self.file)
            self.file = -1


class Sink:
    """Where the bytes of a range go: into the part, block by block."""

    def __init__(self, part: Part, start: int, end: int, tries: Tries) -> None:
        self.part, self.position, self.end, self.tries = part, start, end, tries
        self.held = bytearray()  # the beginning of a block
        self.crc = 0  # of what was written

    @property
    def received(self) -> int:
        return self.position + len(self.held)

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self.received + len(piece) > self.end:
            self.held.clear()
            raise UnwholeError("an answer is too long")
        if self.held:
            self.held += piece
        data = memoryview(self.held or piece)
        whole = len(data) if self.position + len(data) == self.end else len(data) // BLOCK * BLOCK
        if whole:
            block = piece if whole == len(piece) and not self.held else bytes(data[:whole])
            self.part.write(block, self.position)
            self.position, self.crc = self.position + whole, google_crc32c.extend(self.crc, block)
            self.tries.progressed()
        if whole or not self.held:
            self.held = bytearray(data[whole:])
        if self.tries.stop.is_set():
            raise StoppedError
