"""The one door to files, the clock and signals: every side effect of a run on its machine goes through here."""

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import Interrupted, ResourceError, StorageError, TrainerError


def storage_error(doing: str, path: Path, error: OSError) -> TrainerError:
    """The refusal that a failed file operation ends in; a full disk is told apart from a wrong path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(existing_parent(path)).free
        return ResourceError(f"No space left while {doing} {path}: {free:,} bytes are free. Free some and start again.")
    in_the_way = error.errno == errno.EEXIST and Path(error.filename or path).is_file()
    reason = f"{error.filename} is a file, not a folder" if in_the_way else error.strerror or error
    return StorageError(f"{doing.capitalize()} {path} failed: {reason}.")


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.exists())


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, durably: temporary file, fsync, rename, fsync of the folder."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is gone when it does not."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        raise storage_error("writing", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, outlive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_folder(path: Path) -> None:
    """Create a folder that must not exist yet: the first of two runs with one name gets it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        raise storage_error("creating", path, error) from error


def check_writable(folder: Path) -> None:
    """Create a folder where it is missing, and show now, not after hours of training, that files can be put there."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise storage_error("writing to", folder, error) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` inside the block, also for a process that is PID 1 of a container."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted(f"Stopped by {signal.Signals(number).name}; no package was written. Start it again.")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
