"""One run of a search: an ordinary run in a warm process, and what it has come to."""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from trainer.cloud import storage
from trainer.package.publish import RUNS
from trainer.runtime import warm
from trainer.runtime.errors import Interrupted, StorageError
from trainer.runtime.system import locked_folder, remove, write_atomic
from trainer.training import checkpoint
from trainer.training.checkpoint import MANIFEST, numbers_in

LAST_WORDS = 60.0  # seconds for a run to save a checkpoint once its search has ended
HUNG = "Timeout ("  # what a run without progress prints: see `trainer.runtime.heartbeat`


class Job(NamedTuple):
    """A run to start or to go on."""

    run: str
    config: str  # the text of its config.json
    data: Mapping[str, str]
    output: str
    until: int | None
    package: bool
    folder: Path  # for its configuration and its log


class Slot(NamedTuple):
    """What a run computes on."""

    cores: Sequence[int] = ()  # none: all of the machine
    gpu: str = ""  # CUDA_VISIBLE_DEVICES


class Outcome(NamedTuple):
    """What a run has come to. JSON values."""

    code: int  # exit code; negative: the signal that killed it
    reason: str  # in one line, unless it has ended or paused
    values: list[float | None]  # the metric after each epoch
    best: dict[str, float | None]  # the row of the best epoch
    epoch_seconds: list[float]
    step: int  # steps done in the epoch after these
    weights: str  # SHA-256 of those of the best epoch
    package: str
    seconds: float
    machine: str


def start(job: Job, slot: Slot) -> BaseProcess:
    """Start a run in a warm process."""
    write_atomic(job.folder / f"{job.run}.json", job.config.encode())
    return warm.start(become_run, job, slot, Path.cwd())


def become_run(job: Job, slot: Slot, folder: Path) -> None:
    """Make this process the run, in a folder; does not return. It ends with the search that has started it."""
    os.chdir(folder)
    threading.Thread(target=end_with_search, daemon=True).start()
    if slot.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    if slot.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    log = os.open(log_of(job), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(log, number)
    wait_for_earlier(job)
    arguments = [f"--run={job.run}", f"--config={job.folder / f'{job.run}.json'}", f"--output={job.output}"]
    names = {"train": "data", "validation": "validation-data", "test": "test-data"}
    arguments += [f"--{names[side]}={path}" for side, path in job.data.items()]
    arguments += [f"--pause-after={job.until}"] * bool(job.until) + ["--no-package"] * (not job.package)
    warm.become("trainer.__main__", arguments)


def wait_for_earlier(job: Job) -> None:
    """Wait for the end of an earlier process of a run: one whose search was killed saves its last checkpoint."""
    end = time.monotonic() + LAST_WORDS
    while (RUNS / job.run).exists() and time.monotonic() < end:
        try:
            with locked_folder(RUNS / job.run):
                return
        except StorageError:
            time.sleep(0.1)


def end_with_search() -> None:
    """Wait for the end of the search, then stop this run; kill it if it does not obey."""
    search = parent_process()
    if search is None:
        return
    wait([search.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(LAST_WORDS)
    os.kill(os.getpid(), signal.SIGKILL)


def forget(run: str) -> None:
    """Remove the checkpoints of a run that has ended; if it should go on all the same, it begins again."""
    remove(RUNS / run / checkpoint.FOLDER)


def log_of(job: Job) -> Path:
    """The log of a run: what it prints, of all its starts."""
    return job.folder / f"{job.run}.log"


def outcome(job: Job, code: int, seconds: float, log_before: int) -> Outcome:
    """What a run has come to, after its process has ended. log_before: size of its log before."""
    progress, manifest = newest_checkpoint(RUNS / job.run / checkpoint.FOLDER)
    rows = progress.get("rows", [])
    metric = "validation_" + json.loads(job.config)["settings"]["stopping_metric"]["value"]
    best = rows[progress["best_epoch"] - 1] if rows else {}
    return Outcome(
        code=code,
        reason="" if code in (0, Interrupted.exit_code) else reason_of(code, log_of(job), log_before),
        values=[finite(row[metric]) for row in rows],
        best={name: finite(value) for name, value in best.items()},
        epoch_seconds=progress.get("seconds", []),
        step=progress.get("step", 0),
        weights=manifest["best.bin"][0] if rows else "",
        package=storage.join(job.output, f"{job.run}.zip") if job.package and code == 0 else "",
        seconds=seconds,
        machine=platform.node(),
    )


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The progress and the manifest of the newest checkpoint that can be read; empty without one."""
    for number in reversed(numbers_in(folder)):
        path = folder / f"{number:08}"
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            return json.loads((path / "progress.json").read_bytes())["progress"], manifest
        except (OSError, ValueError, KeyError):
            continue
    return {}, {}


def finite(value: float) -> float | None:
    """A number, or None if it is not finite."""
    return value if value - value == 0 else None


def reason_of(code: int, log: Path, log_before: int) -> str:
    """Why a run has ended, in one line: its error message, or the signal that killed it."""
    with log.open("rb") as file:
        file.seek(log_before)
        lines = file.read().decode(errors="backslashreplace").splitlines()
    hung = next((line for line in lines if line.startswith(HUNG)), None)
    if hung:
        return f"hung: no progress for {hung.removeprefix(HUNG).partition(')')[0]} (h:mm:ss)"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + " (out of memory?)" * (name == "SIGKILL")
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else next((line for line in reversed(lines) if ": " in line), f"exit code {code}")
