"""The engine of one machine: warm processes side by side, each with its share of the cores or a GPU."""

import os
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from trainer.search import trials
from trainer.search.state import Key
from trainer.search.trials import Job, Outcome, Slot

GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each; asking CUDA would keep processes from being forked


class Running(NamedTuple):
    """A run that is being trained."""

    key: Key
    job: Job
    slot: Slot
    process: BaseProcess
    began: float  # by the monotonic clock
    log_before: int  # size of its log


class LocalEngine:
    """Trains up to `workers` runs at once."""

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self.free = slots(workers, threads)
        self.running: list[Running] = []

    def start(self, key: Key, job: Job) -> None:
        """Start a run on a free slot."""
        slot, log = self.free.pop(0), trials.log_of(job)
        log_before = log.stat().st_size if log.exists() else 0
        process = trials.start(job, slot)
        self.running.append(Running(key, job, slot, process, time.monotonic(), log_before))

    def wait(self, seconds: float) -> list[tuple[Key, Outcome]]:
        """The runs that have ended, after waiting for one for some seconds at most."""
        ended = wait([run.process.sentinel for run in self.running], timeout=seconds) if self.running else []
        done = [run for run in self.running if run.process.sentinel in ended]
        outcomes = []
        for run in done:
            run.process.join()
            code = run.process.exitcode or 0
            seconds = time.monotonic() - run.began
            outcomes.append((run.key, trials.outcome(run.job, code, seconds, run.log_before)))
            self.running.remove(run)
            self.free.append(run.slot)
        return outcomes

    def stop(self) -> None:
        """Ask all runs to save a checkpoint and to end."""
        for run in self.running:
            run.process.terminate()


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as in CUDA_VISIBLE_DEVICES."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name and name != "-1"]
    return [str(number) for number in range(len(list(GPUS.iterdir())) if GPUS.exists() else 0)]


def most_workers() -> int:
    """Workers that fill this machine: one per GPU, without GPUs one per core."""
    return len(gpus()) or len(cores())


def threads_each(workers: int | None) -> int:
    """The threads of each worker on this machine; None: as many workers as fill it."""
    return max(1, len(cores()) // (workers or most_workers()))


def slots(workers: int, threads: int) -> list[Slot]:
    """The cores and the GPU of each worker: cores of its own if there are enough, GPUs in turn."""
    available, names = cores(), gpus()
    shares = [available[number * threads : (number + 1) * threads] for number in range(workers)]
    own = len(available) >= workers * threads
    return [
        Slot(share if own else (), names[number % len(names)] if names else "") for number, share in enumerate(shares)
    ]
