"""Let one process at a time write a run's results to a bucket, whatever machine it is on.

The holder of a lease creates numbered objects below a prefix: 00000001.json, 00000002.json and so on. None is ever
replaced, so of two processes that want a number one gets it, and permission to create objects is enough. The newest
object names the holder, and its age is the time since the last renewal: after EXPIRY seconds without one, another
process may take the lease, and the old holder finds its next number taken. All times are those of the service.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.runtime.errors import StorageError

RENEWAL = 60.0  # seconds between renewals
EXPIRY = 300.0  # seconds without a renewal after which the holder counts as dead
KEPT = 2  # objects that stay; all of them do where deleting is not permitted
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # runs on while the machine sleeps, where there is one

Record = dict[str, Any]  # what an object says about its holder


class Lease:
    """The right to write below `prefix`. Raises StorageError, which names the holder, if another process has it.

    home: a folder on this machine that this process has locked, so an earlier process with the same home is dead.
    """

    def __init__(self, prefix: str, home: Path) -> None:
        self.prefix = prefix
        self.record: Record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "home": home_id(home),
            "id": uuid.uuid4().hex,
        }
        self.lost = ""
        self.lock = threading.Lock()
        self.ended = threading.Event()
        now = storage.probe(self.prefix).time
        newest = max(storage.entries(self.prefix), key=number_of, default=None)
        self.number = number_of(newest) if newest else 0
        if newest:
            self.refuse_if_alive(newest, now)
        self.claim = self.number + 1
        self.renew()
        if self.lost:
            raise StorageError(self.lost)
        self.thread = threading.Thread(target=self.keep_renewing, daemon=True)
        self.thread.start()

    def refuse_if_alive(self, newest: Stored, now: float) -> None:
        """Raises StorageError if the process that created the newest object may still be at work."""
        record = read_record(newest)
        if record.get("released") or record.get("home") == self.record["home"]:
            return
        age = now - newest.time
        if age < EXPIRY:
            raise StorageError(
                f"{holder(record)} is using this run (lease {newest.uri}, renewed {age:.0f} s ago). Choose another "
                f"--run, or wait until that process ends; if it is dead, start again in {EXPIRY - age:.0f} s."
            )

    def renew(self, **changes: Any) -> None:
        """Create the next object. If another process has created it, the lease is lost."""
        with self.lock:
            if self.ended.is_set() and not changes:
                return  # released meanwhile
            number = self.number + 1
            try:
                storage.put(json.dumps(self.record | changes).encode(), self.uri(number))
            except storage.ConflictError:
                other = read_record(storage.find(self.uri(number)))
                self.lost = (
                    f"{holder(other)} is using this run (lease {self.uri(number)}). This process has stopped writing."
                )
                return
            self.number, self.renewed = number, time.clock_gettime(CLOCK)
        if number > KEPT:
            with contextlib.suppress(StorageError):
                storage.delete(self.uri(number - KEPT))

    def uri(self, number: int) -> str:
        return storage.join(self.prefix, f"{number:08}.json")

    def keep_renewing(self) -> None:
        while not self.ended.wait(RENEWAL) and not self.lost:
            with contextlib.suppress(StorageError):  # no network: renewed later, or by `check` before the next write
                self.renew()

    def check(self) -> None:
        """Raises StorageError if the lease is lost, for example because this process was asleep for too long."""
        if not self.lost and time.clock_gettime(CLOCK) - self.renewed > EXPIRY / 2:
            self.renew()
        if self.lost:
            raise StorageError(self.lost)

    def release(self) -> None:
        """Let another process take the lease at once."""
        self.ended.set()
        if not self.lost:
            with contextlib.suppress(StorageError):
                self.renew(released=True)


@contextlib.contextmanager
def held(prefix: str, home: Path) -> Iterator[Lease]:
    """Hold the lease of a prefix inside the block. Raises StorageError if another process holds it."""
    lease = Lease(prefix, home)
    try:
        yield lease
    finally:
        lease.release()


def number_of(stored: Stored) -> int:
    """The number in an object's name; 0 if it has none."""
    name = stored.uri.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isdecimal() else 0


def read_record(stored: Stored | None) -> Record:
    """What an object says about its holder; {} if it cannot be read."""
    with contextlib.suppress(StorageError, ValueError):
        record = json.loads(storage.read(stored.uri)) if stored else {}
        return record if isinstance(record, dict) else {}
    return {}


def holder(record: Record) -> str:
    """The holder in a record, for messages."""
    return f"Process {record.get('pid', 'unknown')} on {record.get('host', 'an unknown machine')}"


def home_id(folder: Path) -> str:
    """A text that only processes with this folder, on this machine since its start, have in common."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else uuid.uuid4().hex
    status = folder.stat()
    return f"{machine} {status.st_dev} {status.st_ino}"
