"""Files and bytes on their way to a bucket: never over what another has put there, and never by half.

An upload names the generation that it replaces (0: none, it creates), so that of two writers one is refused. When an
answer is lost, the upload is made again, and meets its own work: that is known by size and CRC-32C, and is success.
"""

import contextlib
import io
import os
import threading
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from trainer.cloud import gcs, retries
from trainer.cloud.retries import StoppedError, Tries, UnwholeError, code_of, said
from trainer.cloud.transfer import Job, Progress, Stored, in_threads, summed
from trainer.runtime.errors import ConfigError, StorageError
from trainer.runtime.system import about_to_change

CHUNK = 2**25  # bytes that a request of a large upload sends; all of them are in memory
LEAST_CHUNK = 2**18  # the service wants multiples of it
AT_ONCE = 2**23  # bytes up to which the client sends what it knows the size of in one request
WORKERS = 3
PROBE_DEADLINE = 45.0  # seconds until a bucket must answer, before a run begins


class Taken(StorageError):  # noqa: N818
    """Another content is where ours was to be."""


def put(
    source: Path | bytes,
    uri: str,
    *,
    replace: bool | Stored = False,
    deadline: float | None = None,
    stop: threading.Event | None = None,
) -> Stored:
    """Upload a file, or bytes. An equal object that is there already is success.

    replace: whether an object that is there may be replaced: False, True, or exactly this one. Raises Taken if another
    content is there, or comes there meanwhile.
    """
    name = gcs.split(uri)[1]
    if not name or name.endswith("/"):
        raise ConfigError(f"{uri!r} names no object.")
    tries = Tries(f"writing {uri}", deadline, stop)
    wanted = summed(source)
    before = (gcs.find(uri, tries.deadline) if replace is True else replace) or None
    if before and replace is True and (before.size, before.crc32c) == wanted:
        return before
    chunk = CHUNK
    while True:
        try:
            return sent(source, uri, wanted, before, tries, chunk)
        except Exception as raised:
            error = retries.unwrapped(raised)
            if retries.too_slow(error):
                chunk = max(chunk // 2, LEAST_CHUNK)
            there, why = understood(error, source, uri, wanted, tries)
            if raised is not error:  # the client has used up all the time there is
                with contextlib.suppress(StorageError):
                    there = there or gcs.find(uri, PROBE_DEADLINE)
            if there and (there.size, there.crc32c) == wanted:
                return there
            if code_of(error) == HTTPStatus.PRECONDITION_FAILED and (there or before):
                raise taken(uri, before) from raised
            tries.again(why)


def sent(
    source: Path | bytes, uri: str, wanted: tuple[int, str], before: Stored | None, tries: Tries, chunk: int
) -> Stored:
    """One upload. A request must be sent within the timeout: where the line is too slow for that, chunk is smaller."""
    blob = gcs.blob(uri, chunk)
    size = wanted[0] if not chunk < wanted[0] <= AT_ONCE else None  # so that the client does not send it at once
    blob.crc32c = wanted[1]  # the service refuses other bytes
    with gcs.answers(), opened(source, uri, tries) as file:
        blob.upload_from_file(
            file, size=size, content_type="application/octet-stream", checksum=None, timeout=gcs.TIMEOUT,
            if_generation_match=before.generation if before else 0, retry=gcs.chunk_retry(tries),
        )  # fmt: skip
        done = gcs.known(blob)
    if (done.size, done.crc32c) != wanted:
        raise UnwholeError("the service tells of other bytes than were sent")
    return done


def understood(
    error: Exception, source: Path | bytes, uri: str, wanted: tuple[int, str], tries: Tries
) -> tuple[Stored | None, Exception]:
    """What is there after a failure by which the upload may have succeeded all the same, and what to make of it."""
    code = code_of(error)
    if code == HTTPStatus.NOT_FOUND:  # the bucket, or the session of a large upload
        gcs.check_bucket(uri, error, tries)
    if code == HTTPStatus.BAD_REQUEST and "crc32c" in said(error).lower():
        if summed(source) != wanted:
            raise StorageError(f"{source!s} changed while it was sent to {uri}. Start it again.") from error
        return None, UnwholeError("the bytes that arrive there are not those that were sent")
    broken = code == HTTPStatus.BAD_REQUEST and "range" in said(error).lower()  # a chunk that had arrived before
    lost = code in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
    if lost or broken or isinstance(error, UnwholeError):
        return gcs.find(uri, tries.deadline), UnwholeError("uploads are broken off")
    return None, error


def taken(uri: str, before: Stored | None) -> Taken:
    """The refusal to take another's place."""
    if before:
        return Taken(f"{uri} was changed by another writer meanwhile; nothing was written.")
    return Taken(f"{uri} is taken: another content is there. Choose another name, or remove it.")


class Source(io.BufferedIOBase):
    """What is sent, a file to the client. Each read comes before a request that changes something in the bucket."""

    def __init__(self, file: BinaryIO, uri: str, tries: Tries) -> None:
        self.file, self.uri, self.tries = file, uri, tries

    def read(self, size: int | None = -1) -> bytes:
        if self.tries.stop.is_set():
            raise StoppedError
        self.tries.progressed(self.file.tell())
        about_to_change(Path(self.uri))
        return self.file.read(-1 if size is None else size)

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def close(self) -> None:
        self.file.close()
        super().close()


def opened(source: Path | bytes, uri: str, tries: Tries) -> Source:
    try:
        return Source(io.BytesIO(source) if isinstance(source, bytes) else source.open("rb"), uri, tries)
    except OSError as error:
        raise StorageError(f"Cannot read {str(source)!r}: {error.strerror}.") from error


def send(files: Sequence[tuple[Path, str]], progress: Progress, deadline: float | None = None) -> None:
    """Upload files, in parallel, each of them as `put` does."""
    stop = threading.Event()

    def sending(path: Path, uri: str) -> list[Job]:
        progress(put(path, uri, deadline=deadline, stop=stop).size)
        return []

    in_threads([partial(sending, path, uri) for path, uri in files], WORKERS, stop)


def probe(prefix: str) -> Stored:
    """Create an empty object below a prefix, and delete it where that is permitted. Raises StorageError if it cannot be
    created, within PROBE_DEADLINE seconds."""
    gcs.split(prefix)
    uri = f"{prefix.rstrip('/')}/.probe-{os.urandom(8).hex()}"
    done = put(b"", uri, deadline=PROBE_DEADLINE)
    try:
        gcs.delete(uri, PROBE_DEADLINE)
    except StorageError as error:
        if code_of(error.__cause__ or error) != HTTPStatus.FORBIDDEN:
            raise
    return done
