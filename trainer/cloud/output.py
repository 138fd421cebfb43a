"""Write the file that a user names with `--out`: complete or not at all, or through to a pipe, terminal or device."""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.cloud import storage
from trainer.runtime import system
from trainer.runtime.errors import StorageError

# What this process has open already. Opening it anew could replace or truncate what a shell redirects it to.
OPEN_STREAM = re.compile(r"/dev/(stdout|stderr)|(?:/dev|/proc/self)/fd/(\d+)")
STREAMS = {"stdout": 1, "stderr": 2}
REFUSED = {stat.S_IFDIR: "a folder", stat.S_IFBLK: "a disk", stat.S_IFSOCK: "a socket"}


@contextlib.contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """A path to write to. At the end of the block its content goes to `uri`, unless the block raises.

    It replaces a file, or the file that a link leads to. A pipe, a terminal or a device such as /dev/null stays what it
    is, and the content is written to it. Raises StorageError at once for a folder, a disk or a socket.
    """
    if storage.is_remote(uri) or is_stream(uri):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / uri.rpartition("/")[2]
            yield path
            if storage.is_remote(uri):
                storage.put(path, uri, replace=True)
            else:
                write_through(path, uri)
        return
    target = Path(uri)
    with system.atomic_path(Path(os.path.realpath(target)) if target.is_symlink() else target) as path:
        yield path


def is_stream(uri: str) -> bool:
    """Whether a path leads to a pipe, a terminal, a device, or a stream that this process has open; not to a file or
    to nothing. StorageError for a folder, a disk or a socket."""
    if OPEN_STREAM.fullmatch(uri):
        return True
    with system.disk_errors("writing", Path(uri)):
        try:
            kind = stat.S_IFMT(Path(uri).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
    if kind in REFUSED:
        raise StorageError(f"{uri} is {REFUSED[kind]}, to which no file can be written. Name a file.")
    return kind != stat.S_IFREG


def is_stdout(uri: str | None) -> bool:
    """Whether a path is the standard output of this process, which then must not hold anything else."""
    return uri in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def write_through(path: Path, uri: str) -> None:
    """Write the content of a file to a stream."""
    with system.disk_errors("writing", Path(uri)), path.open("rb") as content, open_stream(uri) as stream:
        system.fail_point(Path(uri))
        shutil.copyfileobj(content, stream)


def open_stream(uri: str) -> BinaryIO:
    """A stream to write to: open already, or a pipe, for which this waits until somebody reads from it."""
    if match := OPEN_STREAM.fullmatch(uri):
        return os.fdopen(os.dup(STREAMS[match[1]] if match[1] else int(match[2])), "wb")
    return os.fdopen(os.open(uri, os.O_WRONLY | os.O_NOCTTY), "wb")
