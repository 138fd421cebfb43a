"""Copy the files of a search to the bucket that its packages go to, below OUTPUT/NAME.search/.

A thread sends them, so that a slow bucket does not hold up the search, and one that is away does not stop it.
"""

import threading
import time
from pathlib import Path

from trainer.cloud import storage
from trainer.runtime.command import say
from trainer.runtime.errors import TrainerError
from trainer.search import journal, plan, table

FOLDER = "{name}.search"  # in the output
PAGE = "search.html"
FILES = (plan.FILE, journal.FILE, table.FILE, PAGE)
SECONDS = 30.0  # between two copies, at least


class Copies:
    """The files in `folder` and their copies below `prefix`."""

    def __init__(self, folder: Path, prefix: str, seconds: float = SECONDS) -> None:
        self.folder, self.prefix, self.seconds = folder, prefix, seconds
        self.sent: dict[str, int] = {}  # time of each file that was sent
        self.warned = False
        self.requested, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.keep_sending, daemon=True)
        self.thread.start()

    def send(self) -> None:
        """Copy what has changed, soon, in the background."""
        self.requested.set()

    def close(self) -> None:
        """Copy what has changed since, and end."""
        self.ended.set()
        self.requested.set()
        self.thread.join()
        self.send_changed()

    def keep_sending(self) -> None:
        """Copy when that is requested, at most every so many seconds. Runs in the thread."""
        while not self.ended.is_set():
            self.requested.wait()
            self.requested.clear()
            if self.ended.is_set():
                return
            began = time.monotonic()
            self.send_changed()
            self.ended.wait(max(self.seconds - (time.monotonic() - began), 0))

    def send_changed(self) -> None:
        """Copy the files that have changed; warn the first time that this is not possible."""
        try:
            for name in FILES:
                path = self.folder / name
                if path.exists() and self.sent.get(name) != (now := path.stat().st_mtime_ns):
                    storage.put(path.read_bytes(), storage.join(self.prefix, name), replace=True)
                    self.sent[name] = now
        except (TrainerError, OSError) as error:
            if not self.warned:
                say("warning", f"The search goes on, but its files cannot be copied to {self.prefix}: {error}")
            self.warned = True


def copies_of(search: plan.Plan) -> Copies | None:
    """The copies of a search whose packages go to a bucket; None where they go to a folder."""
    if not storage.is_remote(search.output):
        return None
    return Copies(search.folder, storage.join(search.output, FOLDER.format(name=search.name)))
