"""Download objects to local files: in parallel, in ranges, resumable, and verified before they get their name.

An object goes to `.NAME.GENERATION.part` beside its file. After the object's bytes the part has one byte for each
range, 1 when the range is complete, so the next process knows what is left. The part takes the file's name once all of
it has the object's size and CRC-32C.

Google's `transfer_manager` does less (google-cloud-storage 3.17, tried): `download_chunks_concurrently` writes under
the final name, leaves wrong bytes there after a short, empty or changed response, and starts from zero after a kill;
`download_many` accepts a proxy's HTML page as the object.
"""

import contextlib
import errno
import fcntl
import io
import os
import re
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from trainer.cloud import gcs
from trainer.cloud.retries import Backoff, BadResponseError, StoppedError
from trainer.cloud.transfer import Job, Stored, crc32c_of_file, run_jobs
from trainer.runtime import heartbeat, system
from trainer.runtime.errors import ResourceError, StorageError

WORKERS = 8
RANGE = 2**23  # bytes of a request; as many are in memory for each worker, and lost when the process is killed
DAMAGED_LIMIT = 3  # times that an object may arrive with wrong bytes
PART = re.compile(r"\.(.+?)\.\d{5,}(?:\.\d+)?\.part")


def fetch(objects: Sequence[tuple[Stored, Path]]) -> None:
    """Download objects to local files, which are complete and durable when this returns. An interrupted download
    leaves its complete ranges in parts for the next one.

    Raises ResourceError if the disk is too small, DataError if an object was replaced, StorageError.
    """
    paths = Counter(path for _, path in objects)
    if duplicates := [str(path) for path, times in paths.items() if times > 1]:
        raise ValueError(f"two objects for one file: {duplicates[0]}")
    check_space(objects)
    stop = threading.Event()
    parts = [Part(stored, path, stop) for stored, path in objects]
    try:
        run_jobs([part.open for part in parts], WORKERS, stop)
    finally:
        for part in parts:
            part.close()
    remove_dead_parts(paths)


def remove_dead_parts(paths: Iterable[Path]) -> None:
    """Remove the parts of these files that no process works on: of replaced generations or killed processes."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, files in names.items():
        for part in folder.glob(".*.part"):
            if (match := PART.fullmatch(part.name)) and match[1] in files:
                system.remove_if_unlocked(part)


def check_space(objects: Sequence[tuple[Stored, Path]]) -> None:
    """Raises ResourceError if the objects do not fit on the disks of their files."""
    needed: Counter[int] = Counter()
    folders = {}
    for stored, path in objects:
        folder = system.existing_parent(path)
        device = folder.stat().st_dev
        with contextlib.suppress(OSError):
            needed[device] -= part_of(stored, path).stat().st_blocks * 512  # downloaded before
        needed[device] += stored.size
        folders[device] = folder
    for device, folder in folders.items():
        free = shutil.disk_usage(folder).free
        if needed[device] > free:
            raise ResourceError(
                f"No space for {len(objects)} objects in {folder}: {needed[device]:,} bytes are needed, {free:,} are "
                "free. Free some space and start again."
            )


def part_of(stored: Stored, path: Path) -> Path:
    """The part that an object is downloaded to."""
    return path.with_name(f".{path.name}.{stored.generation}.part")


class Part:
    """A file that holds what has been downloaded of an object."""

    def __init__(self, stored: Stored, path: Path, stop: threading.Event) -> None:
        self.stored, self.path, self.part, self.stop = stored, path, part_of(stored, path), stop
        self.starts = range(0, stored.size, RANGE)
        self.left = self.damaged = 0
        self.file, self.lock = -1, threading.Lock()  # so a thread that was left behind never writes to a closed file

    def open(self) -> list[Job]:
        """Open or create the part. Returns the jobs that are left."""
        with system.disk_errors("writing", self.path, self.stored.size):
            system.fail_point(self.part)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file()
            length = os.fstat(self.file).st_size
            if length == self.stored.size > 0:  # stopped between the last range and the rename
                return self._finish()
            if length != self.stored.size + len(self.starts):
                self._clear()
            return self._missing_ranges()

    def _lock_file(self) -> None:
        """Open the part for this process alone; if another process works on it, if it is a link or no file, or if the
        disk has no locks, a new one."""
        file, alone = -1, False
        with contextlib.suppress(OSError):
            file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = os.fstat(file)
            alone = stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, self.part.stat())  # not renamed meanwhile
        if not alone:
            if file >= 0:
                os.close(file)
            self.part = self.part.with_suffix(f".{time.time_ns()}.part")
            file = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.file = file

    def _clear(self) -> None:
        """Mark all ranges as missing."""
        self._resize(0, self.stored.size + len(self.starts))

    def _resize(self, *sizes: int) -> None:
        system.fail_point(self.part)
        with self.lock:
            if self.file < 0:
                raise StoppedError
            for size in sizes:
                os.ftruncate(self.file, size)

    def _missing_ranges(self) -> list[Job]:
        """A job for each range that is missing."""
        marks = os.pread(self.file, len(self.starts), self.stored.size)
        missing = [start for start, mark in zip(self.starts, marks, strict=True) if mark != 1]
        self.left = len(missing)
        return [partial(self._fetch_range, start) for start in missing] or self._finish()

    def _fetch_range(self, start: int) -> list[Job]:
        """Download one range. The thread that writes the last one finishes the object."""
        size, data, single_read = min(RANGE, self.stored.size - start), io.BytesIO(), True
        backoff = Backoff(f"reading {self.stored.uri}", stop=self.stop)
        while data.tell() < size:
            try:
                gcs.read_range(self.stored, start + data.tell(), start + size, data, single_read=single_read)
                if data.tell() != size:
                    raise BadResponseError("a response is too short or too long")
            except Exception as error:
                if data.tell() > size:
                    data.seek(0)
                    data.truncate()
                single_read = False  # slower, but what arrives before a break counts
                backoff.progressed(data.tell())
                backoff.wait(error)
        self._write(start, data.getbuffer())
        with self.lock:
            self.left -= 1
            last = not self.left
        return self._finish() if last else []

    def _write(self, start: int, data: memoryview) -> None:
        """Write a range and mark it as complete."""
        with system.disk_errors("writing", self.path, self.stored.size):
            system.fail_point(self.part)
            with self.lock:
                if self.file < 0:
                    raise StoppedError
                if os.pwrite(self.file, data, start) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.pwrite(self.file, b"\x01", self.stored.size + start // RANGE)
        heartbeat.beat()

    def _finish(self) -> list[Job]:
        """Check the bytes and give the file its name; damaged ones are thrown away and downloaded again."""
        with system.disk_errors("writing", self.path, self.stored.size):
            if crc32c_of_file(self.part, self.stored.size) != self.stored.crc32c:
                self.damaged += 1
                self._clear()
                if self.damaged < DAMAGED_LIMIT:
                    return self._missing_ranges()
                system.remove(self.part)
                raise StorageError(
                    f"{self.stored.uri} arrived {self.damaged} times with bytes that do not have the object's "
                    "checksum. Something between this machine and the bucket changes them."
                )
            self._resize(self.stored.size)
            system.fsync(self.part)
            system.fail_point(self.path)
            self.part.replace(self.path)
            self.close()
            system.fsync(self.path.parent)
        return []

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        with self.lock:
            if self.file >= 0:
                os.close(self.file)
            self.file = -1
