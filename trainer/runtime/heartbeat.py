"""Show that a run makes progress: touch a file whose age a container's health check reads, and end a hanging run.

FLATFAB_HEARTBEAT names the file, as the images do; without it no file is touched.
"""

import contextlib
import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT, HANG = "FLATFAB_HEARTBEAT", "FLATFAB_HANG_SECONDS"
STDERR = 2  # the file descriptor of the process, whatever sys.stderr is
HANG_SECONDS = 600.0  # without progress; FLATFAB_HANG_SECONDS overrides it

_watching = False


def beat() -> None:
    """Report progress. If the file cannot be touched, the run continues."""
    if path := os.environ.get(HEARTBEAT):
        with contextlib.suppress(OSError):
            Path(path).touch()
    if _watching:
        faulthandler.dump_traceback_later(hang_seconds(), exit=True, file=STDERR)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside the block, end the process if `beat` is not called for `hang_seconds`.

    The process exits with code 1 and prints the stacks of all threads to stderr, even when no thread can run Python.
    """
    global _watching  # noqa: PLW0603 - faulthandler has one timer per process
    _watching = True
    beat()
    try:
        yield
    finally:
        _watching = False
        faulthandler.cancel_dump_traceback_later()


def hang_seconds() -> float:
    """How long a run may go without progress, in seconds."""
    return float(os.environ.get(HANG, HANG_SECONDS))


def main() -> str | None:
    """The health check of a container: returns a message if the run makes no progress."""
    path = Path(os.environ.get(HEARTBEAT, ""))
    try:
        age = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"There is no heartbeat at {path}: {error.strerror}."
    return f"No progress for {age:,.0f} seconds." if age > hang_seconds() else None


if __name__ == "__main__":
    sys.exit(main())
