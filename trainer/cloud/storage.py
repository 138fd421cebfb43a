"""Read and write files and objects in Google Cloud Storage through one interface, chosen by the scheme of a URI.

gs://bucket/name      an object; `trainer.cloud.gcs` imports Google's client when it is first needed
anything else         a file, by its path; needs no account, no credentials and no Google library
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.cloud import download, gcs, upload
from trainer.cloud.transfer import Stored, crc32c_of_file, size_and_crc32c
from trainer.cloud.upload import ConflictError
from trainer.runtime import system
from trainer.runtime.errors import StorageError

__all__ = [
    "ConflictError", "Stored", "check", "delete", "entries", "fetch", "find", "get", "is_remote", "join", "probe",
    "put", "read",
]  # fmt: skip

PIECE = 2**20  # bytes copied at a time


def is_remote(uri: str) -> bool:
    """Whether a URI names something in a bucket."""
    return uri.startswith(gcs.SCHEME)


def check(uri: str) -> None:
    """Raises ConfigError if a URI can name nothing. Sends no request."""
    if is_remote(uri):
        gcs.split_uri(uri)


def join(prefix: str, name: str) -> str:
    """The URI of a name below a prefix, which is a folder whether it ends in / or not."""
    return f"{prefix.rstrip('/')}/{name}" if is_remote(prefix) else str(Path(prefix) / name)


def entries(prefix: str) -> list[Stored]:
    """All objects below a prefix or files below a folder, without hidden files, sorted by URI. If the prefix itself
    names an object or a file, that is the only entry. [] if there is none."""
    if is_remote(prefix):
        return gcs.entries(prefix)
    path = Path(prefix)
    with system.disk_errors("listing", path):
        paths = [path] if path.is_file() else path.rglob("*")
        return sorted(
            stored_file(each)
            for each in paths
            if each.is_file() and not any(part.startswith(".") for part in each.relative_to(path).parts)
        )


def stored_file(path: Path) -> Stored:
    status = path.stat()
    return Stored(str(path), status.st_size, "", status.st_mtime_ns, status.st_mtime)


def find(uri: str) -> Stored | None:
    """The metadata of an object or a file; None if it does not exist."""
    if is_remote(uri):
        return gcs.find(uri)
    with system.disk_errors("looking up", Path(uri)):
        return stored_file(Path(uri)) if Path(uri).is_file() else None


def get(uri: str, path: Path) -> Stored:
    """Copy one object or file to a local path: verified and durable, or not there. Raises StorageError if it does not
    exist."""
    stored = find(uri)
    if stored is None:
        raise gcs.missing(uri) if is_remote(uri) else StorageError(f"There is no file {uri!r}.")
    fetch([(stored, path)])
    return stored


def fetch(objects: Sequence[tuple[Stored, Path]]) -> None:
    """Copy objects or files to local paths: in parallel, large objects in ranges, resumed after a break, and exactly
    the generation in the metadata.

    Raises DataError if an object was replaced, ResourceError if the disk is too small, StorageError.
    """
    remote = [(stored, path) for stored, path in objects if is_remote(stored.uri)]
    if remote:
        download.fetch(remote)
    for stored, path in objects:
        if not is_remote(stored.uri):
            copy(Path(stored.uri), path)


def copy(source: Path, path: Path) -> None:
    """Copy a file, completely or not at all."""
    with system.disk_errors("reading", source):
        if path.exists() and path.samefile(source):
            return
        size = source.stat().st_size
    with system.atomic_path(path, size=size) as temporary:
        system.write_pieces(temporary, pieces_of(source))


def pieces_of(source: Path | bytes) -> Iterator[bytes]:
    """The bytes of a file, a piece at a time, or bytes as they are."""
    if isinstance(source, bytes):
        yield source
        return
    with system.disk_errors("reading", source), source.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            yield piece


def read(uri: str) -> bytes:
    """The bytes of a small object or file. Raises StorageError if it does not exist."""
    if is_remote(uri):
        return gcs.read(uri)
    with system.disk_errors("reading", Path(uri)):
        return Path(uri).read_bytes()


def put(source: Path | bytes, uri: str, *, replace: bool | Stored = False) -> Stored:
    """Copy a file, or write bytes, to a URI. If an equal one exists, that is success.

    replace: whether an existing one may be replaced: False, True, or exactly this one. Raises ConflictError if another
    content is there, now or meanwhile.
    """
    if is_remote(uri):
        return upload.put(source, uri, replace=replace)
    return put_file(source, Path(uri), replace)


def put_file(source: Path | bytes, path: Path, replace: bool | Stored) -> Stored:
    """Write a file or bytes to a local path; unless it may replace, by a hard link, which never overwrites."""
    size, crc32c = size_and_crc32c(source)
    existing = find(str(path))
    if existing and existing.size == size and crc32c_of_file(path) == crc32c:
        return existing
    if isinstance(replace, Stored) and (existing is None or replace.generation != existing.generation):
        raise upload.conflict(str(path), replace)
    try:
        with system.temporary_file(path) as temporary:
            system.write_pieces(temporary, pieces_of(source))
            system.fsync(temporary)
            system.fail_point(path)
            if replace:
                temporary.replace(path)
            else:
                link_as_new(temporary, path)
            system.fsync(path.parent)
    except OSError as error:
        raise system.storage_error("writing", path, error, size) from error
    return stored_file(path)


def link_as_new(temporary: Path, path: Path) -> None:
    """Give a temporary file its name. ConflictError if there is a file of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise upload.conflict(str(path), None) from error


def delete(uri: str) -> None:
    """Delete an object or a file; a missing one is fine."""
    if is_remote(uri):
        gcs.delete(uri)
        return
    with system.disk_errors("deleting", Path(uri)):
        system.fail_point(Path(uri))
        Path(uri).unlink(missing_ok=True)


def probe(prefix: str) -> Stored:
    """Check now, not after hours, that something can be written below a prefix. Raises StorageError within a minute.

    Returns the metadata of what was written for a moment: its time is now, by the clock of the service.
    """
    if is_remote(prefix):
        return upload.probe(prefix)
    system.check_writable(Path(prefix))
    return Stored(prefix, 0, "", time.time_ns(), time.time())
