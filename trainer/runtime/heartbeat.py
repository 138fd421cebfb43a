"""Signs of life of a run: a file that is touched as it gets on, whose age a container's health check reads, and the end
of a training that hangs.

FLATFAB_HEARTBEAT names the file; where it is not set, as outside of the images, there is none.
"""

import contextlib
import faulthandler
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT, HANG = "FLATFAB_HEARTBEAT", "FLATFAB_HANG_SECONDS"
STDERR = 2  # the process's own, whatever sys.stderr is
HANG_SECONDS = 600.0  # without progress; FLATFAB_HANG_SECONDS overrides it

_watching = False


def beat() -> None:
    """Tell that the run has got on. That the file cannot be written is no reason to end a run."""
    if path := os.environ.get(HEARTBEAT):
        with contextlib.suppress(OSError):
            Path(path).touch()
    if _watching:
        faulthandler.dump_traceback_later(hang_seconds(), exit=True, file=STDERR)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Inside the block, too long a time without `beat` ends the process with exit code 1 and the stacks of all threads
    on stderr. This also works while none of them can run Python."""
    global _watching  # noqa: PLW0603 - there is one such timer in a process
    _watching = True
    beat()
    try:
        yield
    finally:
        _watching = False
        faulthandler.cancel_dump_traceback_later()


def hang_seconds() -> float:
    return float(os.environ.get(HANG, HANG_SECONDS))


def main() -> str | None:
    """The health check: what is wrong, if anything is."""
    path = Path(os.environ.get(HEARTBEAT, ""))
    try:
        age = time.time() - path.stat().st_mtime
    except OSError as error:
        return f"There is no heartbeat at {path}: {error.strerror}."
    return f"No progress for {age:,.0f} seconds." if age > hang_seconds() else None


if __name__ == "__main__":
    sys.exit(main())
