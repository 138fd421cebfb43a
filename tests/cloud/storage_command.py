"""`trainer.cloud.storage` as a command, for tests that kill it:

    python -m tests.cloud.storage_command get gs://bucket/name FILE
    python -m tests.cloud.storage_command put FILE gs://bucket/name
    python -m tests.cloud.storage_command publish FOLDER gs://bucket/prefix     its files, then a manifest of them

Without arguments it runs commands from stdin, each in a fork, so that imports happen once: a line of JSON
{"arguments": [...], "environment": {...}, "log": PATH} starts one, and its exit code is printed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google.cloud.storage  # noqa: F401

from trainer.cloud import download, gcs, retries, storage, upload
from trainer.cloud.transfer import crc32c_of
from trainer.runtime.command import run_command

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run one command, with small ranges and chunks, so that there are many."""
    download.RANGE, upload.CHUNK = 2**14, 2**21
    retries.FIRST_PAUSE, retries.DEADLINE, gcs.TIMEOUT = 0.01, 30.0, (20.0, 20.0)
    what, source, target = sys.argv[1:]
    if what == "get":
        storage.get(source, Path(target))
    elif what == "put":
        storage.put(Path(source), target)
    else:
        files = sorted(Path(source).iterdir())
        for file in files:
            storage.put(file, storage.join(target, file.name))
        manifest = {file.name: crc32c_of(file.read_bytes()) for file in files}
        storage.put(json.dumps(manifest).encode(), storage.join(target, "manifest.json"))


def serve() -> None:
    """Run the commands on stdin."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.environ.update(request["environment"])
            sys.argv[1:] = request["arguments"]
            with Path(request["log"]).open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            run_command(main)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Commands:
    """Starts commands in a process that runs `serve`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log

    def run(self, *arguments: str | Path, **environment: str) -> int:
        """Run a command; returns its exit code. Its output is in `log`."""
        assert self.process.stdin
        assert self.process.stdout
        host = {"STORAGE_EMULATOR_HOST": os.environ["STORAGE_EMULATOR_HOST"]}
        request = {"arguments": [*map(str, arguments)], "environment": host | environment, "log": str(self.log)}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def commands(log: Path) -> Iterator[Commands]:
    """Start a process that runs commands."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.storage_command"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Commands(process, log)
        assert process.stdin
        process.stdin.close()


if __name__ == "__main__":
    if sys.argv[1:]:
        run_command(main)
    else:
        serve()
