"""Objects from a bucket to files and back: by `trainer.cloud.storage`, and by Google's client alone."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.cloud import storage

BUCKET = "gs://bench-transfer"


def serve(address: str) -> dict[str, float]:
    """A bucket server, in this process until it is asked to end; it writes its address to a file."""
    from tests.servers.bucket import known_as_the_service, serving  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda number, frame: exit(0))
    with serving() as host, known_as_the_service(host):
        bucket = client().bucket(BUCKET.removeprefix("gs://"))
        bucket.create()
        bucket.soft_delete_policy.retention_duration_seconds = 0  # it would keep all that was deleted in memory
        bucket.patch()
        Path(address).write_text(host)
        signal.pause()
    return {}


def client():
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
    from google.cloud.storage import Client  # noqa: PLC0415

    return Client(project="bench", credentials=AnonymousCredentials())


def fill(shards: list[str]) -> dict[str, float]:
    """Put the files below shards/."""
    put_all(shards, "shards")
    return {}


def put_all(files: list[str], folder: str) -> None:
    """Put files into a folder of the bucket, three at a time."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda path: storage.put(Path(path), f"{BUCKET}/{folder}/{Path(path).name}"), files))


def timed(work: Callable[[], object]) -> dict[str, float]:
    """The seconds of some work, without the import of the client and the disk's work for the side before."""
    from google.cloud.storage import transfer_manager  # noqa: F401, PLC0415

    os.sync()
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began}


def ours_down(into: str) -> dict[str, float]:
    """All objects below shards/ into a folder, which is removed afterwards."""

    def work() -> None:
        objects = storage.entries(f"{BUCKET}/shards/")
        storage.fetch([(stored, Path(into) / stored.uri.rpartition("/")[2]) for stored in objects])

    figures = timed(work)
    shutil.rmtree(into)
    return figures


def bare_down(into: str, worker: str, workers: int, single: bool) -> dict[str, float]:
    """The same by the client's transfer manager, checked by it."""
    from google.cloud.storage import transfer_manager  # noqa: PLC0415

    Path(into).mkdir()

    def work() -> None:
        blobs = client().list_blobs(BUCKET.removeprefix("gs://"), prefix="shards/")
        pairs = [(blob, str(Path(into) / Path(blob.name).name)) for blob in blobs]
        transfer_manager.download_many(
            pairs, worker_type=worker, max_workers=workers, raise_exception=True,
            download_kwargs={"raw_download": True, "single_shot_download": single},
        )  # fmt: skip

    figures = timed(work)
    shutil.rmtree(into)
    return figures


def ours_up(shards: list[str]) -> dict[str, float]:
    """Files to up/, which is emptied afterwards."""
    figures = timed(lambda: put_all(shards, "up"))
    empty()
    return figures


def bare_up(shards: list[str], worker: str, workers: int) -> dict[str, float]:
    """The same by the client's transfer manager."""
    from google.cloud.storage import transfer_manager  # noqa: PLC0415

    bucket = client().bucket(BUCKET.removeprefix("gs://"))
    pairs = [(path, bucket.blob(f"up/{Path(path).name}")) for path in shards]
    figures = timed(
        lambda: transfer_manager.upload_many(
            pairs, worker_type=worker, max_workers=workers, raise_exception=True, skip_if_exists=True
        )
    )
    empty()
    return figures


def empty() -> None:
    for stored in storage.entries(f"{BUCKET}/up/"):
        storage.delete(stored.uri)
