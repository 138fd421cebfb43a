"""Change files safely and handle stop signals: every change that a run makes to its machine goes through here."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.runtime.errors import Interrupted, ResourceError, StorageError, TrainerError

# Fault injection for tests: with "kill:17" in this variable the process kills itself before its 17th change of a file.
# "term" sends it SIGTERM there, "enospc" simulates a full disk, "eio" a broken one.
FAULT = "FLATFAB_FAULT"
FAULTS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "enospc": errno.ENOSPC, "eio": errno.EIO}
_changes = itertools.count(1)


def fail_point(path: Path) -> None:
    """Inject the fault that the environment asks for. Call this before every change of a file."""
    fault, _, number = os.environ.get(FAULT, "").partition(":")
    if not fault or next(_changes) != int(number):
        return
    cause = FAULTS[fault]
    if isinstance(cause, signal.Signals):
        os.kill(os.getpid(), cause)
    else:
        raise OSError(cause, os.strerror(cause), str(path))


def storage_error(doing: str, path: Path, error: OSError, size: int = 0) -> TrainerError:
    """The error for a failed file operation: ResourceError for a full disk, StorageError for anything else.

    doing: the operation, such as "writing". size: of the file in bytes; 0: unknown.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(existing_parent(path)).free
        needed = f"{size:,} bytes are needed, " if size else ""
        return ResourceError(
            f"No space left while {doing} {path}: {needed}{free:,} are free. Free some space and start again."
        )
    is_file = error.errno == errno.EEXIST and Path(error.filename or path).is_file()
    reason = f"{error.filename} is a file, not a folder" if is_file else error.strerror or error
    return StorageError(f"{doing.capitalize()} {path} failed: {reason}.")


@contextlib.contextmanager
def disk_errors(doing: str, path: Path, size: int = 0) -> Iterator[None]:
    """Turn an OSError inside the block into the error that `storage_error` describes."""
    try:
        yield
    except OSError as error:
        raise storage_error(doing, path, error, size) from error


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, durably: temporary file, fsync, rename, fsync of the folder."""
    with atomic_path(path, size=len(data)) as temporary:
        write_pieces(temporary, [data])


@contextlib.contextmanager
def atomic_path(path: Path, *, size: int = 0) -> Iterator[Path]:
    """A temporary path beside `path`: it replaces `path` when the block succeeds and is deleted when it fails.

    size: of the file in bytes, for the message about a full disk; 0: unknown. Raises StorageError or ResourceError.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        fail_point(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fsync(temporary)
        fail_point(path)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        raise storage_error("writing", path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Write a file without fsync; returns its SHA-256 and its size in bytes."""
    sha256, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file:
        for number, piece in enumerate(pieces):
            half = len(piece) // 2
            write_all(file, piece[:half])
            if number == 0:
                fail_point(path)  # with half of the piece written
            write_all(file, piece[half:])
            sha256.update(piece)
            size += len(piece)
    return sha256.hexdigest(), size


def write_all(file: FileIO, piece: bytes | memoryview) -> None:
    """Write all bytes, or raise OSError. `write` itself may write only a part when a disk fills up."""
    while len(piece):
        piece = piece[file.write(piece) :]


def fsync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, survive a loss of power."""
    fail_point(path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_folder(path: Path) -> None:
    """Create a folder that must not exist yet. StorageError if it does: the first of two runs with one name gets it."""
    with disk_errors("creating", path):
        fail_point(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()


@contextlib.contextmanager
def locked_folder(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Create a folder if needed, and lock it for this process. The system releases the lock if the process dies.

    If another process has locked it, raise StorageError or, with `wait`, wait. An empty folder is removed at the end.
    """
    handle = lock_folder(path, wait=wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()
        os.close(handle)


def lock_folder(path: Path, *, wait: bool) -> int:
    """Lock a folder; returns the file handle that holds the lock."""
    while True:
        with disk_errors("creating", path):
            fail_point(path)
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
            os.close(handle)  # the previous owner removed or renamed the folder while we waited
        except BlockingIOError:
            os.close(handle)
            raise StorageError(
                f"Another process is using {path}. Wait until it ends, or choose another name."
            ) from None


def link(path: Path, target: Path) -> bool:
    """Give a file a second name (a hard link); returns False if the file system cannot do that."""
    try:
        fail_point(target)
        os.link(path, target)
    except OSError:
        return False
    return True


def rename_folder(path: Path, target: Path) -> None:
    """Rename a folder durably. If another process has created `target` first, that one stays and `path` is removed."""
    with disk_errors("creating", target):
        fsync(path)
        fail_point(path)
        try:
            path.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            remove(path)
        fsync(target.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder with its contents, as far as possible; never raises OSError."""
    with contextlib.suppress(OSError):
        fail_point(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def array_file(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A writable array in a new .npy file, mapped into memory. ResourceError if the disk has too little space.

    The space is allocated now: if the disk filled up later, writing to the mapped memory would kill the process.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with disk_errors("writing", path, size):
        fail_point(path)
        if size > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def check_writable(folder: Path) -> None:
    """Create a folder if needed and write a test file: StorageError now is better than after hours of training."""
    probe = folder / f".{os.getpid()}.probe"
    with disk_errors("writing to", folder):
        fail_point(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.deferred = False  # if True, the first signal is only recorded
        self.signal = ""  # its name, such as SIGTERM; "" without one


_stop_request = StopRequest()  # a process has one: its signal handlers fill it in
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` inside the block, also in a process that is PID 1 of a container."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def interrupt(number: int, frame: object) -> None:
        repeated, _stop_request.signal = bool(_stop_request.signal), signal.Signals(number).name
        if repeated or not _stop_request.deferred:
            raise interrupted()

    handlers_before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        if _stop_request.signal:
            raise interrupted()
        yield
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        _stop_request.signal = ""


def interrupted() -> Interrupted:
    """The exception for a recorded stop signal."""
    return Interrupted(f"Stopped by {_stop_request.signal}; no package was written. Start it again.")


def record_stop_signals() -> None:
    """From now on record SIGTERM and SIGINT, so that `interruptible` raises them later.

    PID 1 of a container ignores these signals until it has handlers for them, and imports take seconds.
    """

    def record(number: int, frame: object) -> None:
        _stop_request.signal = signal.Signals(number).name

    for number in SIGNALS:
        signal.signal(number, record)


@contextlib.contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Inside the block the first stop signal raises nothing: the block checks `StopRequest.signal` and stops in its own
    time. A second signal raises `Interrupted`."""
    _stop_request.deferred = True
    try:
        yield _stop_request
    finally:
        _stop_request.deferred = False
