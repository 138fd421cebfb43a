"""The journal of a search, `trials.jsonl`: one JSON line per event, on disk before the search goes on.

It is the truth about a search: its state, its tables and its page follow from it. Events:

    {"event": "trial", "trial": 7, "settings": {...}}            a trial has its settings
    {"event": "goal", "trial": 7, "seed": 0, "until": 9, "package": false}     how far its runs should come
    {"event": "start", "trial": 7, "seed": 0, "fold": 0}         a run starts, or goes on
    {"event": "end", "trial": 7, "seed": 0, "fold": 0, "code": 75, ...}        it has ended or paused: see `Outcome`
    {"event": "rungs", "skipped": 1}                             the first rungs are too short for these rows
    {"event": "retry"}                                           failed runs may start again

at: also in each event, the time in seconds since 1970. trial: null for the default. seed, fold: added to those of the
variant.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.runtime.errors import StorageError
from trainer.runtime.system import storage_error

FILE = "trials.jsonl"

Event = Mapping[str, Any]


def append(path: Path, event: Event) -> None:
    """Add an event, durably. ResourceError or StorageError if it cannot be written."""
    line = json.dumps(event, allow_nan=False).encode() + b"\n"
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error("writing", path, error, len(line)) from error


def read(path: Path) -> Iterator[Event]:
    """The events in their order. The last line may be cut, as by a power failure: it is removed.

    StorageError for another line that is no event.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise StorageError(f"{path}, line {number} is damaged: {error}. Choose another --name.") from error
        yield event
