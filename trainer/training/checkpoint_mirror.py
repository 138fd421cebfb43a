"""Copy a run's checkpoints to the bucket that its package goes to, so that another machine can resume the run.

    OUTPUT/NAME/checkpoints/00000042.0003/    files of checkpoint 42, from the holder whose lease began at 3
    OUTPUT/NAME/holders/                      see `trainer.training.lease`

The manifest of a checkpoint is sent last: without it there is no checkpoint. A thread sends during training.
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
RETRY_SECONDS = 10.0  # before a checkpoint that could not be sent is sent again


class Mirror:
    """The checkpoints of the run in `folder`, and their copies below `prefix` in a bucket."""

    def __init__(self, folder: Path, prefix: str, held: Lease) -> None:
        self.folder = folder / CHECKPOINTS
        self.prefix = storage.join(prefix, CHECKPOINTS)
        self.lease = held
        self.sent = 0  # number of the newest checkpoint in the bucket
        self.failure = ""  # of the last attempt to send
        self.requested, self.ended = threading.Event(), threading.Event()
        self.attempted = threading.Condition()
        self.thread = threading.Thread(target=self.keep_sending, daemon=True)
        self.thread.start()

    def fetch(self) -> None:
        """Fetch the newest checkpoint from the bucket if it is newer than the local ones; send the newest local one if
        that is newer. Raises StorageError."""
        complete = {name: files for name, files in self.copies().items() if checkpoint.MANIFEST in files}
        name, local = max(complete, default=""), self.newest()
        self.sent = number_of(name)
        if local > self.sent:
            self.send()
        if local >= self.sent:
            return
        part, final = self.folder / checkpoint.PART, self.folder / f"{number_of(name):08}"
        system.remove(part)
        system.create_folder(part)
        storage.fetch([(stored, part / file) for file, stored in complete[name].items()])
        system.rename_folder(part, final)
        say("resume", f"checkpoint {number_of(name)} is fetched from {self.prefix}/{name}")

    def copies(self) -> dict[str, dict[str, Stored]]:
        """The checkpoints in the bucket, complete or not: name -> file name -> object."""
        copies: dict[str, dict[str, Stored]] = defaultdict(dict)
        for stored in storage.entries(f"{self.prefix}/"):
            name, _, file = stored.uri.removeprefix(f"{self.prefix}/").partition("/")
            if number_of(name) and file in (*checkpoint.FILES, checkpoint.MANIFEST):
                copies[name][file] = stored
        return copies

    def clear(self) -> None:
        """Delete all checkpoints in the bucket, because the run starts again. Raises StorageError."""
        for name, files in sorted(self.copies().items()):
            self.delete(name, files)

    def delete(self, name: str, files: dict[str, Stored]) -> None:
        for file in sorted(files, key=checkpoint.MANIFEST.__ne__):  # the manifest first: without it, it is incomplete
            storage.delete(f"{self.prefix}/{name}/{file}")

    def check(self) -> None:
        """Raises StorageError if another process has taken the run."""
        self.lease.check()

    def send(self) -> None:
        """Send the newest checkpoint, in the background."""
        self.requested.set()

    def wait(self, seconds: float) -> str:
        """Wait for at most `seconds` until the newest checkpoint is in the bucket. Returns why it is not, or ""."""
        end = time.monotonic() + seconds
        with self.attempted:
            while self.sent < self.newest():
                if not self.attempted.wait(end - time.monotonic()) and time.monotonic() >= end:
                    return self.failure or f"it takes longer than {seconds:.0f} s"
        return ""

    def newest(self) -> int:
        """The number of the newest local checkpoint; 0 if there is none."""
        return max(checkpoint.numbers_in(self.folder), default=0)

    def keep_sending(self) -> None:
        """Send the newest checkpoint when that is requested, until it succeeds. Runs in the thread."""
        while self.requested.wait():
            self.requested.clear()
            if self.ended.is_set():
                return
            number = self.newest()
            try:
                self.send_newest()
                self.failure = ""
            except (TrainerError, FileNotFoundError) as error:
                if self.newest() == number:  # otherwise a newer checkpoint has replaced it: send that one now
                    self.failure = str(error)
                    self.ended.wait(RETRY_SECONDS)
                self.requested.set()
            with self.attempted:
                self.attempted.notify_all()

    def send_newest(self) -> None:
        number = self.newest()
        if number <= self.sent:
            return
        target = f"{self.prefix}/{number:08}.{self.lease.claim:04}"
        for file in (*checkpoint.FILES, checkpoint.MANIFEST):
            self.lease.check()
            storage.put(self.folder / f"{number:08}" / file, f"{target}/{file}")
        self.sent = number
        self.delete_old()

    def delete_old(self) -> None:
        """Delete what is older than the newest two complete checkpoints, if that is permitted."""
        copies = self.copies()
        complete = sorted(name for name, files in copies.items() if checkpoint.MANIFEST in files)
        for name in sorted(copies):
            if len(complete) > checkpoint.GENERATIONS and name < complete[-checkpoint.GENERATIONS]:
                with contextlib.suppress(StorageError):
                    self.delete(name, copies[name])

    def close(self) -> None:
        """End the thread."""
        self.ended.set()
        self.requested.set()


def number_of(name: str) -> int:
    """The number in the name of a checkpoint in the bucket; 0 for other names."""
    number, _, claim = name.partition(".")
    return int(number) if number.isdecimal() and claim.isdecimal() else 0


@contextlib.contextmanager
def mirrored(output: str, folder: Path) -> Iterator[Mirror | None]:
    """Hold the lease of the run in `folder` and mirror its checkpoints to the bucket `output`; None if `output` is a
    folder. Raises StorageError if another process holds the run."""
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
