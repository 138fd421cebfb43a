"""Change files safely: every change that a run makes to its machine goes through here."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import math
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.runtime.errors import ResourceError, StorageError, TrainerError

# Fault injection for tests: with "kill:17" in this variable the process kills itself before its 17th change of a file.
# "term" sends it SIGTERM there, "enospc" simulates a full disk, "eio" a broken one.
FAULT = "FLATFAB_FAULT"
FAULTS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "enospc": errno.ENOSPC, "eio": errno.EIO}
_changes = itertools.count(1)

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.new")  # names of temporary files
MAX_STEM = 200  # bytes of a file's name in that of its temporary file; file systems take 255


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
    """Turn an OSError inside the block into the error that `storage_error` describes, except for a reader that left."""
    try:
        yield
    except BrokenPipeError:
        raise
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
    """A temporary file beside `path`: it replaces `path` when the block succeeds and is deleted when it fails.

    size: of the file in bytes, for the message about a full disk; 0: unknown. Raises StorageError or ResourceError.
    """
    try:
        with temporary_file(path) as temporary:
            yield temporary
            fsync(temporary)
            fail_point(path)
            temporary.replace(path)
            fsync(path.parent)
    except OSError as error:
        raise storage_error("writing", path, error, size) from error


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A new, empty file beside `path`, in a folder that is created if needed; removed at the end, unless renamed.

    Its name is random and its creation exclusive: nobody else's file, link or pipe is ever opened or removed. It is
    locked until the end of the block, which tells it from the leftovers of killed processes; those are removed here.
    """
    fail_point(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary, handle = create_temporary(path)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(handle), temporary.lstat()):
                temporary.unlink()
        os.close(handle)


def create_temporary(path: Path) -> tuple[Path, int]:
    """Create a temporary file beside `path`; returns it and the file handle that holds its lock."""
    stem = path.name.encode()[:MAX_STEM].decode(errors="ignore")
    while True:
        temporary = path.with_name(f".{stem}.{os.urandom(8).hex()}.new")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), temporary.lstat()):
                return temporary, handle
        os.close(handle)  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in a folder that no process has locked, because theirs was killed."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            remove_if_unlocked(path)


def remove_if_unlocked(path: Path) -> bool:
    """Remove a file or a folder, unless a process holds it; a link is not followed. Returns whether it is gone."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_file() or path.is_dir():
                remove(path)
        finally:
            os.close(handle)
    return not path.exists()


def hold(path: Path) -> int | None:
    """Lock a folder, together with others, so that `remove_if_unlocked` leaves it; returns the file handle of the lock.

    None if there is no such folder, or if it is being removed.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    os.close(handle)
    return None


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
        if path.is_dir() and not path.is_symlink():
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
    with disk_errors("writing to", folder), temporary_file(folder / "probe"):
        pass
