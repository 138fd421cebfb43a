"""Download and upload against the bare client at its best settings, on a bucket server in a process of its own."""

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import fresh
from tests.benchmarks.fresh import Outcome, medians
from tests.benchmarks.options import Options
from tests.benchmarks.table import Chapter, side_by_side
from tests.servers.bucket import known_as_the_service

SHARDS, SHARD_BYTES = 20, 50_000_000
ROUNDS = 5
START_SECONDS = 30
OURS = "trainer.cloud.storage"
NAMES = {"thread": "threads", "process": "processes"}


def transfer(options: Options) -> Chapter:
    """Objects to files and back."""
    with TemporaryDirectory(dir=options.folder) as name, server(Path(name)) as host, known_as_the_service(host):
        folder = Path(name)
        shards = [str(shard_file(folder, number)) for number in range(SHARDS)]
        fresh.run("bucket_sides:fill", folder=folder, shards=shards)
        rows = []
        for what, ours, bare in (
            ("download", down(folder), bare_downs(folder)),
            (
                "upload",
                partial(fresh.run, "bucket_sides:ours_up", folder=folder, shards=shards),
                bare_ups(folder, shards),
            ),
        ):
            best = best_of(bare)
            sides = medians({OURS: ours, f"bare client, {best}": bare[best]}, max(options.rounds, ROUNDS))
            rows += side_by_side(f"{what}, {SHARDS} x {SHARD_BYTES / 1e6:.0f} MB", sides, SHARDS * SHARD_BYTES)
    return Chapter("Transfer", rows, NOTE)


NOTE = (
    "rows/s are bytes/s. Our side checks every byte against the object's checksum, and its files are durable (fsync) "
    "when it returns; the client's `transfer_manager` checks what the answer says. Of its settings the fastest of "
    "those in tests/benchmarks/transfer.py takes part; the memory of its worker processes is not counted."
)


def down(folder: Path) -> Callable[[], Outcome]:
    return partial(fresh.run, "bucket_sides:ours_down", folder=folder, into=str(folder / "ours"))


def bare_downs(folder: Path) -> dict[str, Callable[[], Outcome]]:
    """The client's settings, by name."""
    return {
        f"{workers} {NAMES[worker]}{', single shot' * single}": partial(
            fresh.run, "bucket_sides:bare_down", folder=folder, into=str(folder / "bare"), worker=worker,
            workers=workers, single=single,
        )
        for worker in ("thread", "process") for workers in (2, 4, 8) for single in (False, True)
    }  # fmt: skip


def bare_ups(folder: Path, shards: list[str]) -> dict[str, Callable[[], Outcome]]:
    return {
        f"{workers} {NAMES[worker]}": partial(
            fresh.run, "bucket_sides:bare_up", folder=folder, shards=shards, worker=worker, workers=workers
        )
        for worker in ("thread", "process") for workers in (2, 4, 8)
    }  # fmt: skip


def best_of(sides: dict[str, Callable[[], Outcome]]) -> str:
    """The fastest, by the better of two tries each."""
    fastest: dict[str, float] = {}
    for _ in range(2):
        for name, side in sides.items():
            fastest[name] = min(fastest.get(name, math.inf), side().figures.get("seconds", math.inf))
    for name, seconds in fastest.items():
        print(f"  {name}: {seconds:.2f}", file=sys.stderr, flush=True)
    return min(fastest, key=lambda name: fastest[name])


def shard_file(folder: Path, number: int) -> Path:
    path = folder / f"shard-{number:02}.bin"
    path.write_bytes(os.urandom(SHARD_BYTES))
    return path


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A bucket server in a process of its own."""
    address = folder / "address"
    code = f"from tests.benchmarks.bucket_sides import serve; serve({str(address)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=fresh.ROOT, stdout=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while not address.exists() or not address.read_text():
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise RuntimeError("the bucket server does not start")
            time.sleep(0.1)
        yield address.read_text()
    finally:
        process.terminate()
        process.wait()
