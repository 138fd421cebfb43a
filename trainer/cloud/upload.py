"""Upload files and bytes to a bucket: complete or not at all, and never over another writer's object.

An upload names the generation that it replaces (0: it creates), so one of two writers is refused. When a response is
lost, the upload is sent again and finds its own object, which it recognises by size and CRC-32C.

Google's client sends each object, but its `transfer_manager.upload_many` does not replace `put` (google-cloud-storage
3.17, tried): by default it overwrites another's object; with `skip_if_exists` it does not check whether that is equal;
and it fails when the last response of a large upload is lost, bytes change on the way, or a proxy sends a page.
"""

import contextlib
import io
import os
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from trainer.cloud import gcs, retries
from trainer.cloud.retries import Backoff, BadResponseError, service_message, status_of
from trainer.cloud.transfer import Stored, size_and_crc32c
from trainer.runtime.errors import ConfigError, StorageError
from trainer.runtime.system import disk_errors, fail_point

CHUNK = 2**25  # bytes that a request of a large upload sends; all of them are in memory
SMALLEST_CHUNK = 2**18  # the service wants multiples of it
SINGLE_REQUEST = 2**23  # bytes up to which the client sends an object of known size in one request
PROBE_DEADLINE = 45.0  # seconds in which a bucket must answer before a run begins


class ConflictError(StorageError):
    """Another writer's content is in the place of an upload."""


def put(source: Path | bytes, uri: str, *, replace: bool | Stored = False, deadline: float | None = None) -> Stored:
    """Upload a file or bytes. If an equal object exists, that is success.

    replace: whether an existing object may be replaced: False, True, or exactly this one. deadline: seconds without
    progress after which it is abandoned. Raises ConflictError if another content is there, now or meanwhile.
    """
    name = gcs.split_uri(uri)[1]
    if not name or name.endswith("/"):
        raise ConfigError(f"{uri!r} names no object.")
    backoff = Backoff(f"writing {uri}", deadline)
    content = size_and_crc32c(source)
    before = (gcs.find(uri, backoff.deadline) if replace is True else replace) or None
    if before and replace is True and content_of(before) == content:
        return before
    chunk = CHUNK
    while True:
        try:
            return send_once(source, uri, content, before, backoff, chunk)
        except Exception as raised:
            error = last_attempt(raised)
            if retries.sent_too_slowly(error):
                chunk = max(chunk // 2, SMALLEST_CHUNK)
            existing, reason = after_failure(error, source, uri, content, backoff)
            if error is not raised:  # the client's retries of a chunk took the whole deadline
                with contextlib.suppress(StorageError):
                    existing = existing or gcs.find(uri, PROBE_DEADLINE)
            if existing and content_of(existing) == content:
                return existing
            if status_of(error) == HTTPStatus.PRECONDITION_FAILED and (existing or before):
                raise conflict(uri, before) from raised
            backoff.wait(reason)


def last_attempt(error: Exception) -> Exception:
    """The error of the last attempt, if the client has retried a chunk until the deadline."""
    last = error.__cause__
    return last if type(error).__name__ == "RetryError" and isinstance(last, Exception) else error


def content_of(stored: Stored) -> tuple[int, str]:
    """Size and CRC-32C, which identify the content."""
    return stored.size, stored.crc32c


def send_once(
    source: Path | bytes, uri: str, content: tuple[int, str], before: Stored | None, backoff: Backoff, chunk: int
) -> Stored:
    """Send one upload, in requests of `chunk` bytes. Each must be sent within the timeout, so a slow line needs small
    chunks."""
    blob = gcs.blob(uri, chunk)
    size = content[0] if not chunk < content[0] <= SINGLE_REQUEST else None  # None: in chunks, however small
    blob.crc32c = content[1]  # the service refuses other bytes
    with gcs.parsing_response(), open_source(source, uri, backoff) as file:
        blob.upload_from_file(
            file, size=size, content_type="application/octet-stream", checksum=None, timeout=gcs.TIMEOUT,
            if_generation_match=before.generation if before else 0, retry=gcs.chunk_retry(backoff),
        )  # fmt: skip
        stored = gcs.stored_object(blob)
    if content_of(stored) != content:
        raise BadResponseError("the service confirms other bytes than were sent")
    return stored


def after_failure(
    error: Exception, source: Path | bytes, uri: str, content: tuple[int, str], backoff: Backoff
) -> tuple[Stored | None, Exception]:
    """The object that exists after a failure in which the upload may have succeeded, and the error to act on."""
    status = status_of(error)
    if status == HTTPStatus.NOT_FOUND:  # the bucket, or the session of a large upload
        gcs.check_bucket(uri, error, backoff.doing)
    if status == HTTPStatus.BAD_REQUEST and "crc32c" in service_message(error).lower():
        if size_and_crc32c(source) != content:
            raise StorageError(f"{source!s} changed while it was sent to {uri}. Start it again.") from error
        return None, BadResponseError("the bytes change on their way to the service")
    sent_before = status == HTTPStatus.BAD_REQUEST and "range" in service_message(error).lower()
    lost = status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
    if lost or sent_before or isinstance(error, BadResponseError):
        return gcs.find(uri, backoff.deadline), BadResponseError("uploads are interrupted")
    return None, error


def conflict(uri: str, before: Stored | None) -> ConflictError:
    """The refusal to overwrite another writer's content."""
    if before:
        return ConflictError(f"{uri} was changed by another writer meanwhile; nothing was written.")
    return ConflictError(f"{uri} exists with different content. Choose another name, or remove it.")


class Source(io.BufferedIOBase):
    """The file that the client sends. It reads before each request, so here progress is noticed."""

    def __init__(self, file: BinaryIO, uri: str, backoff: Backoff) -> None:
        self.file, self.uri, self.backoff = file, uri, backoff

    def read(self, size: int | None = -1) -> bytes:
        self.backoff.progressed(self.file.tell())
        fail_point(Path(self.uri))
        return self.file.read(-1 if size is None else size)

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def close(self) -> None:
        self.file.close()
        super().close()


def open_source(source: Path | bytes, uri: str, backoff: Backoff) -> Source:
    if isinstance(source, bytes):
        return Source(io.BytesIO(source), uri, backoff)
    with disk_errors("reading", source):
        return Source(source.open("rb"), uri, backoff)


def probe(prefix: str) -> Stored:
    """Create an empty object below a prefix, and delete it if that is permitted. Raises StorageError if it cannot be
    created within PROBE_DEADLINE seconds."""
    gcs.split_uri(prefix)
    uri = f"{prefix.rstrip('/')}/.probe-{os.urandom(8).hex()}"
    stored = put(b"", uri, deadline=PROBE_DEADLINE)
    try:
        gcs.delete(uri, PROBE_DEADLINE)
    except StorageError as error:
        if status_of(error.__cause__ or error) != HTTPStatus.FORBIDDEN:
            raise
    return stored
