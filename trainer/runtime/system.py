"""The one door to files, the clock and signals: every side effect of a run on its machine goes through here."""

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

# For tests of what survives: "kill:17" in this variable ends the process at the 17th change that it makes to files;
# "term" is asked to stop there, "enospc" and "eio" meet a full or a broken disk.
FAULT = "FLATFAB_FAULT"
FAULTS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "enospc": errno.ENOSPC, "eio": errno.EIO}
_changes = itertools.count(1)


def about_to_change(path: Path) -> None:
    """The fail-point that every change of files passes first."""
    fault, _, number = os.environ.get(FAULT, "").partition(":")
    if not fault or next(_changes) != int(number):
        return
    what = FAULTS[fault]
    if isinstance(what, signal.Signals):
        os.kill(os.getpid(), what)
    else:
        raise OSError(what, os.strerror(what), str(path))


def storage_error(doing: str, path: Path, error: OSError, size: int = 0) -> TrainerError:
    """The refusal that a failed file operation ends in; a full disk is told apart from a wrong path. size: of the file
    in bytes, where that is known."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(existing_parent(path)).free
        needed = f"{size:,} bytes are needed, " if size else ""
        return ResourceError(
            f"No space left while {doing} {path}: {needed}{free:,} are free. Free some and start again."
        )
    in_the_way = error.errno == errno.EEXIST and Path(error.filename or path).is_file()
    reason = f"{error.filename} is a file, not a folder" if in_the_way else error.strerror or error
    return StorageError(f"{doing.capitalize()} {path} failed: {reason}.")


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, durably: temporary file, fsync, rename, fsync of the folder."""
    with atomic_path(path, size=len(data)) as temporary:
        write_pieces(temporary, [data])


@contextlib.contextmanager
def atomic_path(path: Path, *, size: int = 0) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is gone when it does not.

    size: of the file to be, in bytes, if that is known.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        about_to_change(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fsync(temporary)
        about_to_change(path)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        raise storage_error("writing", path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Write a file, not yet durably; returns the SHA-256 of its bytes and their number."""
    sha256, size = hashlib.sha256(), 0
    with path.open("wb", buffering=0) as file:
        for number, piece in enumerate(pieces):
            half = len(piece) // 2
            write_all(file, piece[:half])
            if number == 0:
                about_to_change(path)  # while it is half there
            write_all(file, piece[half:])
            sha256.update(piece)
            size += len(piece)
    return sha256.hexdigest(), size


def write_all(file: FileIO, piece: bytes | memoryview) -> None:
    """Write all of a piece, or raise: a disk that becomes full takes a part of it first, and says so in a number."""
    while len(piece):
        piece = piece[file.write(piece) :]


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, outlive a loss of power."""
    about_to_change(path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_folder(path: Path) -> None:
    """Create a folder that must not exist yet: the first of two runs with one name gets it."""
    try:
        about_to_change(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        raise storage_error("creating", path, error) from error


@contextlib.contextmanager
def held_folder(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Create a folder where it is missing, and hold it until this process ends, however it does. Another process that
    wants to hold it is refused (StorageError) or, with `wait`, waits. Left empty, the folder is removed again."""
    handle = hold(path, wait=wait)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()
        os.close(handle)


def hold(path: Path, *, wait: bool) -> int:
    """The handle by which a folder is held."""
    while True:
        try:
            about_to_change(path)
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise storage_error("creating", path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
            os.close(handle)  # its holder has removed or renamed it meanwhile
        except BlockingIOError:
            os.close(handle)
            raise StorageError(f"Another process works in {path}. Wait for its end, or choose another name.") from None


def link(path: Path, target: Path) -> bool:
    """Give a file a second name, if its disk can do that."""
    try:
        about_to_change(target)
        os.link(path, target)
    except OSError:
        return False
    return True


def rename_folder(path: Path, target: Path) -> None:
    """Give a folder its final name. Where another process has put one there meanwhile, that one stays."""
    try:
        fsync(path)
        about_to_change(path)
        try:
            path.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            remove(path)
        fsync(target.parent)
    except OSError as error:
        raise storage_error("creating", target, error) from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, as far as that is possible."""
    with contextlib.suppress(OSError):
        about_to_change(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def array_file(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array to fill in a new .npy file. Its space on disk is taken now: a disk that is full later on would end the
    process, for the file is filled by way of memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        about_to_change(path)
        if size > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise storage_error("writing", path, error, size) from error
    return array


def check_writable(folder: Path) -> None:
    """Create a folder where it is missing, and show now, not after hours of training, that files can be put there."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        about_to_change(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise storage_error("writing to", folder, error) from error


class Order:
    """An order to stop, once a signal has given it."""

    def __init__(self) -> None:
        self.deferred = False
        self.signal = ""


_order = Order()
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` inside the block, also for a process that is PID 1 of a container."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def interrupt(number: int, frame: object) -> None:
        again, _order.signal = bool(_order.signal), signal.Signals(number).name
        if again or not _order.deferred:
            raise stopped()

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        if _order.signal:
            raise stopped()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _order.signal = ""


def stopped() -> Interrupted:
    return Interrupted(f"Stopped by {_order.signal}; no package was written. Start it again.")


def note_signals() -> None:
    """From now on SIGTERM and SIGINT are noted, for `interruptible` to obey: a program that is PID 1 of a container and
    still imports would not get them at all."""

    def note(number: int, frame: object) -> None:
        _order.signal = signal.Signals(number).name

    for number in SIGNALS:
        signal.signal(number, note)


@contextlib.contextmanager
def deferring() -> Iterator[Order]:
    """Inside the block the first such signal raises nothing: it is noted, for the block to look at and to end in order.
    The second one raises."""
    _order.deferred = True
    try:
        yield _order
    finally:
        _order.deferred = False
