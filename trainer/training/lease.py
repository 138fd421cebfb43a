"""One run of a name at a time, whatever machine it is on: the right to write below a prefix of a bucket.

The holder writes numbered objects, 00000001.json, 00000002.json and so on, each create-only, so that of two who want
the same number one gets it. The newest one tells who holds, and is its sign of life: a holder that is silent for EXPIRY
seconds may be followed by another, and finds its next number taken then. All times are those of the service.
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

RENEWAL = 60.0  # seconds between signs of life
EXPIRY = 300.0  # without one, after which a holder is taken for dead
KEPT = 2  # signs that stay; where removing is not permitted, all do
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, where there is such

Sign = dict[str, Any]


class Lease:
    """The right to write below `prefix`; StorageError, with who holds it, where another has it.

    home: a folder that only one process of this machine can hold, and that this process holds: an earlier process with
    the same home is dead.
    """

    def __init__(self, prefix: str, home: Path) -> None:
        self.prefix = prefix
        self.sign: Sign = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "home": home_of(home),
            "id": uuid.uuid4().hex,
        }
        self.lost = ""
        self.lock = threading.Lock()
        self.ended = threading.Event()
        now = storage.probe(self.prefix).time
        newest = self.newest()
        self.number = number_of(newest) if newest else 0
        if newest:
            self.refuse_if_alive(newest, now)
        self.claim = self.number + 1
        self.renew()
        if self.lost:
            raise StorageError(self.lost)
        self.thread = threading.Thread(target=self.keep_alive, daemon=True)
        self.thread.start()

    def newest(self) -> Stored | None:
        signs = storage.entries(self.prefix)
        return max(signs, key=number_of, default=None)

    def refuse_if_alive(self, newest: Stored, now: float) -> None:
        """StorageError where the process whose newest sign this is may still be at work."""
        sign = read_sign(newest)
        if sign.get("released") or sign.get("home") == self.sign["home"]:
            return
        age = now - newest.time
        if age < EXPIRY:
            raise StorageError(
                f"{said(sign)} holds this run, by {newest.uri}; its last sign of life is {age:.0f} s old. Choose "
                f"another --run, or wait for its end; if it is dead, start again in {EXPIRY - age:.0f} s."
            )

    def renew(self, **more: Any) -> None:
        """Write the next sign of life. Where another process has written it, the lease is lost."""
        with self.lock:
            if self.ended.is_set() and not more:
                return  # released meanwhile
            number = self.number + 1
            try:
                storage.put_bytes(json.dumps(self.sign | more).encode(), self.uri(number))
            except storage.ConflictError:
                other = read_sign(storage.find(self.uri(number)))
                self.lost = f"{said(other)} holds this run, by {self.uri(number)}. This process writes nothing more."
                return
            self.number, self.renewed = number, time.clock_gettime(CLOCK)
        if number > KEPT:
            with contextlib.suppress(StorageError):
                storage.delete(self.uri(number - KEPT))

    def uri(self, number: int) -> str:
        return storage.join(self.prefix, f"{number:08}.json")

    def keep_alive(self) -> None:
        while not self.ended.wait(RENEWAL) and not self.lost:
            with contextlib.suppress(StorageError):  # no network: the next time, or `check` before something is written
                self.renew()

    def check(self) -> None:
        """StorageError where the lease is lost, as by a process that was asleep for too long."""
        if not self.lost and time.clock_gettime(CLOCK) - self.renewed > EXPIRY / 2:
            self.renew()
        if self.lost:
            raise StorageError(self.lost)

    def release(self) -> None:
        """Let another process begin at once."""
        self.ended.set()
        if not self.lost:
            with contextlib.suppress(StorageError):
                self.renew(released=True)


@contextlib.contextmanager
def held(prefix: str, home: Path) -> Iterator[Lease]:
    """Hold the right to write below a prefix while the block lasts; StorageError where another process does."""
    lease = Lease(prefix, home)
    try:
        yield lease
    finally:
        lease.release()


def number_of(sign: Stored) -> int:
    """Of a sign of life; what else lies there has none."""
    name = sign.uri.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isdecimal() else 0


def read_sign(stored: Stored | None) -> Sign:
    """Who wrote a sign; nothing of one that cannot be read."""
    with contextlib.suppress(StorageError, ValueError):
        sign = json.loads(storage.read(stored.uri)) if stored else {}
        return sign if isinstance(sign, dict) else {}
    return {}


def said(sign: Sign) -> str:
    """A holder, for people."""
    return f"Process {sign.get('pid', 'unknown')} on {sign.get('host', 'an unknown machine')}"


def home_of(folder: Path) -> str:
    """A folder of this machine since its start, in a word: the same for the processes that can be its holder only."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    machine = boot.read_text().strip() if boot.exists() else uuid.uuid4().hex
    found = folder.stat()
    return f"{machine} {found.st_dev} {found.st_ino}"
