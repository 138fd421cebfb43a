"""A run's checkpoints in the bucket that its package goes to, so that it can go on where its machine is no more.

    OUTPUT/NAME/checkpoints/00000042.0003/    the files of checkpoint 42, by the holder whose lease began with number 3
    OUTPUT/NAME/holders/                      see `trainer.training.lease`

The manifest of a checkpoint is sent last: without it there is no checkpoint. Training goes on while a thread sends.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.runtime import system
from trainer.runtime.command import say
from trainer.runtime.errors import StorageError, TrainerError
from trainer.training import checkpoint, lease
from trainer.training.lease import Lease

CHECKPOINTS, HOLDERS = "checkpoints", "holders"
AGAIN = 10.0  # seconds until a checkpoint that could not be sent is tried again


class Mirror:
    """The checkpoints of the run in `folder` below `prefix`, gs://."""

    def __init__(self, folder: Path, prefix: str, held: Lease) -> None:
        self.folder = folder / CHECKPOINTS
        self.prefix = storage.join(prefix, CHECKPOINTS)
        self.lease = held
        self.sent = 0  # the newest checkpoint that is there
        self.failure = ""  # why the last attempt failed
        self.news, self.ended = threading.Event(), threading.Event()
        self.idle = threading.Condition()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def fetch(self) -> None:
        """Bring the newest checkpoint here if it is newer than those here; send the newest here if that is newer."""
        whole = {name: files for name, files in self.there().items() if checkpoint.MANIFEST in files}
        name, here = max(whole, default=""), self.newest()
        self.sent = number_of(name)
        if here > self.sent:
            self.send()
        if here >= self.sent:
            return
        part, final = self.folder / checkpoint.PART, self.folder / f"{number_of(name):08}"
        system.remove(part)
        system.create_folder(part)
        storage.fetch([(stored, part / file) for file, stored in whole[name].items()])
        system.rename_folder(part, final)
        say("resume", f"checkpoint {number_of(name)} is fetched from {self.prefix}/{name}")

    def there(self) -> dict[str, dict[str, Stored]]:
        """Of each checkpoint in the bucket, its objects by the name of the file."""
        found: dict[str, dict[str, Stored]] = defaultdict(dict)
        for stored in storage.entries(f"{self.prefix}/"):
            name, _, file = stored.uri.removeprefix(f"{self.prefix}/").partition("/")
            if number_of(name) and file in (*checkpoint.FILES, checkpoint.MANIFEST):
                found[name][file] = stored
        return found

    def clear(self) -> None:
        """Remove all checkpoints: the run begins anew."""
        for name, files in sorted(self.there().items()):
            for file in sorted(files, key=checkpoint.MANIFEST.__ne__):  # the mark that it is whole goes first
                storage.delete(f"{self.prefix}/{name}/{file}")

    def check(self) -> None:
        """StorageError where another process has taken the run."""
        self.lease.check()

    def send(self) -> None:
        """There is a new checkpoint."""
        self.news.set()

    def wait(self, seconds: float) -> str:
        """Wait until the newest checkpoint is in the bucket, at most so long; returns why it is not, or ""."""
        end = time.monotonic() + seconds
        with self.idle:
            while self.sent < self.newest():
                if not self.idle.wait(end - time.monotonic()) and time.monotonic() >= end:
                    return self.failure or f"it takes longer than {seconds:.0f} s"
        return ""

    def newest(self) -> int:
        return max(checkpoint.numbers_in(self.folder), default=0)

    def work(self) -> None:
        """What the thread does: send the newest checkpoint, until there is none newer."""
        while self.news.wait():
            self.news.clear()
            if self.ended.is_set():
                return
            try:
                self.send_newest()
                self.failure = ""
            except FileNotFoundError:
                self.news.set()  # a newer one has taken its place
            except TrainerError as error:
                self.failure = str(error)
                self.ended.wait(AGAIN)
                self.news.set()
            with self.idle:
                self.idle.notify_all()

    def send_newest(self) -> None:
        number = self.newest()
        if number <= self.sent:
            return
        target = f"{self.prefix}/{number:08}.{self.lease.claim:04}"
        for file in (*checkpoint.FILES, checkpoint.MANIFEST):
            self.lease.check()
            storage.put(self.folder / f"{number:08}" / file, f"{target}/{file}")
        self.sent = number
        self.keep_newest()

    def keep_newest(self) -> None:
        """Remove all but two whole checkpoints and what is newer, if that is permitted."""
        there = self.there()
        whole = sorted(name for name, files in there.items() if checkpoint.MANIFEST in files)
        for name in sorted(there):
            if len(whole) > checkpoint.GENERATIONS and name < whole[-checkpoint.GENERATIONS]:
                for file in sorted(there[name], key=checkpoint.MANIFEST.__ne__):
                    with contextlib.suppress(StorageError):
                        storage.delete(f"{self.prefix}/{name}/{file}")

    def close(self) -> None:
        self.ended.set()
        self.news.set()


def number_of(name: str) -> int:
    """The number of a checkpoint by its name in the bucket; 0 of what is none."""
    number, _, claim = name.partition(".")
    return int(number) if number.isdecimal() and claim.isdecimal() else 0


@contextlib.contextmanager
def mirrored(output: str, folder: Path) -> Iterator[Mirror | None]:
    """Hold the name of the run in `folder` in the bucket that its package goes to, and mirror its checkpoints there;
    None where it goes to a folder."""
    if not storage.is_remote(output):
        yield None
        return
    prefix = storage.join(output, folder.name)
    with lease.held(f"{storage.join(prefix, HOLDERS)}/", folder) as held:
        mirror = Mirror(folder, prefix, held)
        try:
            yield mirror
        finally:
            mirror.close()
