"""Files here and objects in Google Cloud Storage, by one small interface: the scheme of a URI says which.

gs://bucket/name      an object            trainer.cloud.gcs, which imports Google's client when first asked
anything else         a file, by its path  no account, no credentials, no Google library
"""

import contextlib
import glob
import os
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.cloud import gcs, upload
from trainer.cloud.transfer import Progress, Stored, crc32c_of_file, summed
from trainer.cloud.upload import Taken
from trainer.runtime import system
from trainer.runtime.errors import StorageError

__all__ = [
    "Stored", "Taken", "check", "delete", "entries", "fetch", "find", "get", "is_remote", "join", "probe", "put",
    "put_bytes", "read", "send",
]  # fmt: skip

DEAD_SECONDS = 24 * 3600  # after which what a killed process was writing is removed by the next
PIECE = 2**20  # bytes copied at a time


def is_remote(uri: str) -> bool:
    """Whether it names something in a bucket."""
    return uri.startswith(gcs.SCHEME)


def check(uri: str) -> None:
    """Raises ConfigError if it can name nothing; nobody is asked."""
    if is_remote(uri):
        gcs.split(uri)


def join(prefix: str, name: str) -> str:
    """The URI of a name below a prefix, which is a folder whether it ends in / or not."""
    return f"{prefix.rstrip('/')}/{name}" if is_remote(prefix) else str(Path(prefix) / name)


def entries(prefix: str) -> list[Stored]:
    """All objects below a prefix, or files below a folder, sorted by URI; the one of this very name, if it is one; []
    where there is none. Hidden files are none."""
    if is_remote(prefix):
        return gcs.entries(prefix)
    path = Path(prefix)
    try:
        paths = [path] if path.is_file() else path.rglob("*")
        return sorted(
            stored_file(each)
            for each in paths
            if each.is_file() and not any(part.startswith(".") for part in each.relative_to(path).parts)
        )
    except OSError as error:
        raise StorageError(f"Cannot look into {prefix!r}: {error.strerror}.") from error


def stored_file(path: Path) -> Stored:
    found = path.stat()
    return Stored(str(path), found.st_size, "", found.st_mtime_ns, found.st_mtime)


def find(uri: str) -> Stored | None:
    """What an object or a file is; None where there is none."""
    if is_remote(uri):
        return gcs.find(uri)
    try:
        return stored_file(Path(uri)) if Path(uri).is_file() else None
    except OSError as error:
        raise StorageError(f"Cannot look at {uri!r}: {error.strerror}.") from error


def get(uri: str, path: Path) -> Stored:
    """Bring one object to a local path: verified, durable, whole or not there. Raises StorageError if there is none."""
    found = find(uri)
    if found is None:
        raise gcs.missing(uri) if is_remote(uri) else StorageError(f"There is no file {uri!r}.")
    fetch([(found, path)])
    return found


def fetch(objects: Sequence[tuple[Stored, Path]], progress: Progress = lambda done: None) -> None:
    """Bring many: in parallel, large ones in ranges, resumed after a break, of exactly the generation that is named.

    progress: told the bytes that arrived since the last time, by any thread. Raises DataError if an object was
    replaced, ResourceError if the disk is too small, StorageError.
    """
    remote = [(stored, path) for stored, path in objects if is_remote(stored.uri)]
    if remote:
        gcs.fetch(remote, progress)
    for stored, path in objects:
        if not is_remote(stored.uri):
            copy(Path(stored.uri), path)
            progress(stored.size)


def copy(source: Path, path: Path) -> None:
    """A file to another place, whole or not at all."""
    try:
        if path.exists() and path.samefile(source):
            return
        file = source.open("rb")
    except OSError as error:
        raise StorageError(f"Cannot read {str(source)!r}: {error.strerror}.") from error
    with file, system.atomic_path(path, size=os.fstat(file.fileno()).st_size) as temporary:
        system.write_pieces(temporary, iter(lambda: file.read(PIECE), b""))


def read(uri: str) -> bytes:
    """The bytes of a small object or file."""
    if is_remote(uri):
        return gcs.read(uri)
    try:
        return Path(uri).read_bytes()
    except OSError as error:
        raise StorageError(f"Cannot read {uri!r}: {error.strerror}.") from error


def put(path: Path, uri: str, *, replace: bool | Stored = False, deadline: float | None = None) -> Stored:
    """Put a file there. An equal one that is there already is success.

    replace: whether one that is there may be replaced: False, True, or only exactly this one. deadline: seconds without
    any progress after which it is given up. Raises Taken if another content is there, or comes there meanwhile.
    """
    if is_remote(uri):
        return upload.put(path, uri, replace=replace, deadline=deadline)
    return put_file(path, Path(uri), replace)


def put_bytes(data: bytes, uri: str, *, replace: bool | Stored = False, deadline: float | None = None) -> Stored:
    """Put bytes there, as `put` does."""
    if is_remote(uri):
        return upload.put(data, uri, replace=replace, deadline=deadline)
    return put_file(data, Path(uri), replace)


def send(files: Sequence[tuple[Path, str]], progress: Progress = lambda done: None) -> None:
    """Put many files, in parallel; create-only."""
    remote = [(path, uri) for path, uri in files if is_remote(uri)]
    if remote:
        upload.send(remote, progress)
    for path, uri in files:
        if not is_remote(uri):
            progress(put(path, uri).size)


def put_file(source: Path | bytes, path: Path, replace: bool | Stored) -> Stored:
    """Put a file or bytes at a local path; without leave to replace by a link, which never takes another's place."""
    size, crc = summed(source)
    there = find(str(path))
    if there and there.size == size and crc32c_of_file(path) == crc:
        return there
    if isinstance(replace, Stored) and (there is None or replace.generation != there.generation):
        raise upload.taken(str(path), replace)
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}.new")
    try:
        if isinstance(source, bytes):
            system.write_atomic(part, source)
        else:
            copy(source, part)
        system.about_to_change(path)
        if replace:
            part.replace(path)
        else:
            os.link(part, path)
        system.fsync(path.parent)
    except FileExistsError as error:
        raise upload.taken(str(path), None) from error
    except OSError as error:
        raise system.storage_error("writing", path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    for dead in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - dead.stat().st_mtime > DEAD_SECONDS:
                system.remove(dead)
    return stored_file(path)


def delete(uri: str) -> None:
    """Delete an object or a file; one that is missing is fine."""
    if is_remote(uri):
        gcs.delete(uri)
        return
    try:
        system.about_to_change(Path(uri))
        Path(uri).unlink(missing_ok=True)
    except OSError as error:
        raise system.storage_error("deleting", Path(uri), error) from error


def probe(prefix: str) -> Stored:
    """Show now, not after hours, that something can be put below a prefix. Raises StorageError within a minute.

    Returns what was put there for a moment: its time is now, by the clock of the service.
    """
    if is_remote(prefix):
        return upload.probe(prefix)
    system.check_writable(Path(prefix))
    return Stored(prefix, 0, "", time.time_ns(), time.time())
