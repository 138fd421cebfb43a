"""Google Cloud Storage, through its own client, which is imported when it is first needed.

Every request is made again by us while its failure may be over in a while, and every read is pinned to a generation.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from trainer.cloud import download, retries
from trainer.cloud.retries import Tries, UnwholeError, code_of, said
from trainer.cloud.transfer import Progress, Stored, crc32c_of
from trainer.runtime.errors import ConfigError, DataError, StorageError
from trainer.runtime.system import about_to_change

SCHEME = "gs://"
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
MOST_NAME_BYTES = 1024
UNNAMED = {"So", "Sk", "Cn", "Co", "Cs"}  # kinds of characters, beyond those that cannot be printed: emoji and the like
TIMEOUT = (50.0, 50.0)  # seconds, for a connection (and to send a chunk), and between two packets of an answer


def split(uri: str) -> tuple[str, str]:
    """The bucket and the name in gs://bucket/name. Raises ConfigError if it can be neither a name nor a prefix."""
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    wrong = ""
    if not bucket:
        wrong = "it names no bucket"
    elif not BUCKET.fullmatch(bucket):
        wrong = f"{bucket!r} is no name of a bucket: 3 or more of a-z, 0-9, '-', '_' and '.'"
    elif "//" in name or name.startswith("/"):
        wrong = "there is // in it"
    elif not name.isprintable():
        wrong = "there is a control character in it"
    elif {".", ".."} & set(name.split("/")):
        wrong = "there is . or .. in it"
    elif any(part != part.strip() or part.startswith("-") for part in name.split("/")):
        wrong = "a part of it begins or ends with a space, or begins with -"
    elif any(unicodedata.category(letter) in UNNAMED for letter in name):
        wrong = "there is a symbol or an unassigned character in it"
    elif len(name.encode(errors="replace")) > MOST_NAME_BYTES:
        wrong = f"the name has more than {MOST_NAME_BYTES:,} bytes"
    if wrong:
        raise ConfigError(f"{uri!r} cannot be used: {wrong}. It must be like gs://bucket/folder/.")
    return bucket, name


def client() -> Any:
    """The client of this process; another one after a fork, or where the environment names another service."""
    return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST", ""))


@functools.cache
def _client(process: int, host: str) -> Any:
    # Its telemetry would ask for the bucket itself, for which a trainer needs no permission.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    storage = importlib.import_module("google.cloud.storage")
    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "none")


def blob(uri: str, chunk: int | None = None) -> Any:
    """The client's handle of an object."""
    bucket, _, name = uri.removeprefix(SCHEME).partition("/")
    return client().bucket(bucket).blob(name, chunk_size=chunk)


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """The client trips over answers that are not the service's, such as an empty one."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if retries.kind(error):
            raise
        raise UnwholeError("the answers are not the service's; a proxy or a log-in page may be in the way") from error


def known(found: Any) -> Stored:
    """What the service tells of an object."""
    if None in (found.crc32c, found.generation, found.size, found.time_created):
        raise UnwholeError("an answer lacks checksum, generation, size or time")
    uri = f"{SCHEME}{found.bucket.name}/{found.name}"
    return Stored(uri, int(found.size), found.crc32c, int(found.generation), found.time_created.timestamp())


def entries(prefix: str) -> list[Stored]:
    """The objects below a prefix, or the one of this name, sorted. Raises StorageError if there is no such bucket."""
    bucket, name = split(prefix)
    tries = Tries(f"listing {prefix}")
    while True:
        try:
            with answers():
                return sorted(
                    known(each)
                    for each in client().list_blobs(bucket, prefix=name or None, retry=None, timeout=TIMEOUT)
                    if not each.name.endswith("/")  # what stands for an empty folder
                    and (not name or name.endswith("/") or each.name == name or each.name.startswith(f"{name}/"))
                )
        except Exception as error:
            missing_bucket(error, bucket, tries)
            tries.again(error)


def find(uri: str, deadline: float | None = None) -> Stored | None:
    """What an object is; None where there is none. Raises StorageError if there is no such bucket."""
    split(uri)
    tries = Tries(f"looking for {uri}", deadline)
    while True:
        try:
            found = blob(uri)
            with answers():
                found.reload(retry=None, timeout=TIMEOUT)
                return known(found)
        except Exception as error:
            if code_of(error) == HTTPStatus.NOT_FOUND:
                if "no such object" not in said(error).lower():
                    check_bucket(uri, error, tries)
                return None
            tries.again(error)


def check_bucket(uri: str, error: Exception, tries: Tries) -> None:
    """Raises StorageError if the bucket is what is missing: not all answers tell."""
    bucket = split(uri)[0]
    missing_bucket(error, bucket, tries, certain="bucket does not exist" in said(error).lower())
    while True:
        try:
            with answers():
                next(iter(client().list_blobs(bucket, max_results=1, retry=None, timeout=TIMEOUT)), None)
            return
        except Exception as another:
            if code_of(another) in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
                return
            missing_bucket(another, bucket, tries)
            tries.again(another)


def missing_bucket(error: Exception, bucket: str, tries: Tries, *, certain: bool = True) -> None:
    """Raises StorageError for an answer 404 that is about the bucket."""
    if certain and code_of(error) == HTTPStatus.NOT_FOUND:
        raise StorageError(
            f"{retries.sentence(tries.doing)} failed: there is no bucket {bucket!r}. Check its name, or create it."
        ) from error


def read_range(
    stored: Stored, start: int, end: int, write: Callable[[bytes], object], *, at_once: bool = False
) -> None:
    """Bytes start..end-1 as they are stored, of this generation; in small pieces, or all at once."""
    try:
        blob(stored.uri).download_to_file(
            Writer(write), start=start, end=end - 1, raw_download=True, if_generation_match=stored.generation,
            checksum=None, retry=None, timeout=TIMEOUT, single_shot_download=at_once,
        )  # fmt: skip
    except Exception as error:
        if code_of(error) in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND):
            raise DataError(
                f"{stored.uri} was replaced or deleted while it was read: generation {stored.generation} is gone. "
                "Start again when nobody writes there."
            ) from error
        raise


class Writer(io.RawIOBase):
    """A file to the client, a function to us."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self.take = take

    def write(self, piece: Any) -> int:
        self.take(piece)
        return len(piece)


def fetch(objects: Sequence[tuple[Stored, Path]], progress: Progress, deadline: float | None = None) -> None:
    """Bring objects to files, in parallel (see `trainer.cloud.download`)."""
    download.fetch(objects, read_range, progress, deadline)


def read(uri: str) -> bytes:
    """The bytes of a small object. Raises StorageError if there is none."""
    tries, damaged = Tries(f"reading {uri}"), 0
    while True:
        found = find(uri)
        if found is None:
            raise missing(uri)
        data = io.BytesIO()
        try:
            if found.size:
                read_range(found, 0, found.size, data.write)
            if crc32c_of(data.getvalue()) == found.crc32c:
                return data.getvalue()
            raise UnwholeError("the bytes that arrive do not have the object's checksum")
        except DataError:
            damaged += 1  # replaced meanwhile: the new one, then
            if damaged >= download.MOST_DAMAGED:
                raise
        except Exception as error:
            tries.again(error)


def missing(uri: str) -> StorageError:
    return StorageError(f"There is no object {uri}.")


def chunk_retry(tries: Tries) -> Any:
    """How the client sends a chunk of a large upload again, so that a break does not cost the chunks before."""
    from google.api_core.retry import Retry  # noqa: PLC0415

    return Retry(
        predicate=lambda error: (
            retries.transient(error) and not retries.too_slow(error) and not tries.stop.is_set()
        ), on_error=tries.report,
        initial=retries.FIRST_PAUSE, maximum=retries.LONGEST_PAUSE, timeout=tries.deadline,
    )  # fmt: skip


def delete(uri: str, deadline: float | None = None) -> None:
    """Delete an object; one that is missing is fine."""
    split(uri)
    tries = Tries(f"deleting {uri}", deadline)
    while True:
        try:
            about_to_change(Path(uri))
            blob(uri).delete(retry=None, timeout=TIMEOUT)
            return
        except Exception as error:
            if code_of(error) == HTTPStatus.NOT_FOUND:
                return
            tries.again(error)
