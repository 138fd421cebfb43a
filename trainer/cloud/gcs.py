"""Read and delete objects in Google Cloud Storage with Google's client, which is imported when it is first needed.

Requests are retried here and not by the client, with a deadline that progress renews; reads name a generation.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import unicodedata
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from trainer.cloud import retries
from trainer.cloud.retries import Backoff, BadResponseError, capitalized, service_message, status_of, with_retries
from trainer.cloud.transfer import Stored, crc32c_of
from trainer.runtime.errors import ConfigError, DataError, StorageError
from trainer.runtime.system import fail_point

SCHEME = "gs://"
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
LONGEST_NAME = 1024  # bytes
SYMBOLS = {"So", "Sk", "Cn", "Co", "Cs"}  # Unicode categories that a name may not contain, such as emoji
TIMEOUT = (50.0, 50.0)  # seconds, for a connection (and to send a chunk), and between two packets of a response


def split_uri(uri: str) -> tuple[str, str]:
    """The bucket and the name in gs://bucket/name. Raises ConfigError if it can be neither a name nor a prefix."""
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    fault = ""
    if not bucket:
        fault = "it names no bucket"
    elif not BUCKET.fullmatch(bucket):
        fault = f"{bucket!r} is not a bucket name: 3 or more of a-z, 0-9, '-', '_' and '.'"
    elif "//" in name or name.startswith("/"):
        fault = "it contains //"
    elif not name.isprintable():
        fault = "it contains a control character"
    elif {".", ".."} & set(name.split("/")):
        fault = "it contains . or .. between slashes"
    elif any(part != part.strip() or part.startswith("-") for part in name.split("/")):
        fault = "a part of it begins or ends with a space, or begins with -"
    elif any(unicodedata.category(letter) in SYMBOLS for letter in name):
        fault = "it contains a symbol or an unassigned character"
    elif len(name.encode(errors="replace")) > LONGEST_NAME:
        fault = f"the name has more than {LONGEST_NAME:,} bytes"
    if fault:
        raise ConfigError(f"{uri!r} cannot be used: {fault}. It must be like gs://bucket/folder/.")
    return bucket, name


def client() -> Any:
    """The client of this process; a new one after a fork, or when the environment names another service."""
    return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))


@functools.cache
def _client(process: int, host: str) -> Any:
    # Its telemetry would read the bucket's metadata, for which a trainer needs no permission.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    storage = importlib.import_module("google.cloud.storage")
    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")


def blob(uri: str, chunk: int | None = None) -> Any:
    """The client's handle of an object."""
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    return client().bucket(bucket).blob(name, chunk_size=chunk)


@contextlib.contextmanager
def parsing_response() -> Iterator[None]:
    """BadResponseError for what the client raises when a response is not the service's, such as an empty one."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if retries.credentials_fault(error):
            raise
        message = "the answers do not come from the service; a proxy or a log-in page may be in the way"
        raise BadResponseError(message) from error


def stored_object(handle: Any) -> Stored:
    """The metadata that the service returned for an object."""
    if None in (handle.crc32c, handle.generation, handle.size, handle.time_created):
        raise BadResponseError("a response lacks checksum, generation, size or time")
    uri = f"{SCHEME}{handle.bucket.name}/{handle.name}"
    return Stored(uri, int(handle.size), handle.crc32c, int(handle.generation), handle.time_created.timestamp())


def entries(prefix: str) -> list[Stored]:
    """The objects below a prefix, or the object of this name, sorted. Raises StorageError if the bucket is missing."""
    bucket, name = split_uri(prefix)
    doing = f"listing {prefix}"

    def request() -> list[Stored]:
        try:
            with parsing_response():
                return sorted(
                    stored_object(each)
                    for each in client().list_blobs(bucket, prefix=name or None, retry=None, timeout=TIMEOUT)
                    if not each.name.endswith("/")  # a placeholder for an empty folder
                    and (not name or name.endswith("/") or each.name == name or each.name.startswith(f"{name}/"))
                )
        except Exception as error:
            refuse_missing_bucket(error, bucket, doing)
            raise

    return with_retries(doing, request)


def find(uri: str, deadline: float | None = None) -> Stored | None:
    """The metadata of an object; None if it does not exist. Raises StorageError if the bucket does not exist."""
    split_uri(uri)
    doing = f"looking for {uri}"

    def request() -> Stored | None:
        try:
            handle = blob(uri)
            with parsing_response():
                handle.reload(retry=None, timeout=TIMEOUT)
                return stored_object(handle)
        except Exception as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                raise
            if "no such object" not in service_message(error).lower():
                check_bucket(uri, error, doing)
            return None

    return with_retries(doing, request, deadline)


def check_bucket(uri: str, error: Exception, doing: str) -> None:
    """Raises StorageError if a status 404 means that the bucket does not exist: not all responses tell."""
    bucket = split_uri(uri)[0]
    if "bucket does not exist" in service_message(error).lower():
        refuse_missing_bucket(error, bucket, doing)

    def request() -> None:
        try:
            with parsing_response():
                next(iter(client().list_blobs(bucket, max_results=1, retry=None, timeout=TIMEOUT)), None)
        except Exception as another:
            refuse_missing_bucket(another, bucket, doing)
            if status_of(another) not in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
                raise

    with_retries(doing, request)


def refuse_missing_bucket(error: Exception, bucket: str, doing: str) -> None:
    """Raises StorageError if an error has status 404, where that means the bucket."""
    if status_of(error) == HTTPStatus.NOT_FOUND:
        raise StorageError(
            f"{capitalized(doing)} failed: there is no bucket {bucket!r}. Check its name, or create it."
        ) from error


def read_range(stored: Stored, start: int, end: int, file: BinaryIO, *, single_read: bool = False) -> None:
    """Write the stored bytes start..end-1 of exactly this generation to a file.

    single_read: all at once, which is faster, but nothing has arrived if the connection breaks. Raises DataError if the
    generation is gone, and the client's errors.
    """
    try:
        blob(stored.uri).download_to_file(
            file, start=start, end=end - 1, raw_download=True, if_generation_match=stored.generation,
            checksum=None, retry=None, timeout=TIMEOUT, single_shot_download=single_read,
        )  # fmt: skip
    except Exception as error:
        if status_of(error) in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND):
            raise DataError(
                f"{stored.uri} was replaced or deleted while it was read: generation {stored.generation} is gone. "
                "Start again when nobody writes there."
            ) from error
        raise


def read(uri: str) -> bytes:
    """The bytes of a small object. Raises StorageError if it does not exist."""

    def request() -> bytes:
        stored, data = find(uri), io.BytesIO()
        if stored is None:
            raise missing(uri)
        try:
            if stored.size:
                read_range(stored, 0, stored.size, data)
        except DataError as error:
            raise BadResponseError("it is replaced while it is read") from error
        if crc32c_of(data.getvalue()) != stored.crc32c:
            raise BadResponseError("the bytes that arrive do not have the object's checksum")
        return data.getvalue()

    return with_retries(f"reading {uri}", request)


def missing(uri: str) -> StorageError:
    return StorageError(f"There is no object {uri}.")


def chunk_retry(backoff: Backoff) -> Any:
    """How the client retries a chunk of a large upload, so that a break does not cost the chunks before it."""
    from google.api_core.retry import Retry  # noqa: PLC0415

    return Retry(
        lambda error: retries.transient(error) and not retries.sent_too_slowly(error),
        initial=retries.FIRST_PAUSE, maximum=retries.LONGEST_PAUSE, timeout=backoff.deadline, on_error=backoff.warn,
    )  # fmt: skip


def delete(uri: str, deadline: float | None = None) -> None:
    """Delete an object; a missing one is fine."""
    split_uri(uri)

    def request() -> None:
        try:
            fail_point(Path(uri))
            blob(uri).delete(retry=None, timeout=TIMEOUT)
        except Exception as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                raise

    with_retries(f"deleting {uri}", request, deadline)
