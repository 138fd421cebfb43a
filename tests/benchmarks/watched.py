"""`python -m trainer` as it is, watched from inside: when TensorFlow is there, when the first step is done, what each
stage takes in seconds and memory."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.runtime.command import begin_imports, end_imports, import_tensorflow_quietly

begin_imports()  # as the command does
import_tensorflow_quietly()
IMPORTED = time.time()

from trainer import __main__ as program
from trainer.runtime.timing import Timings, peak_memory
from trainer.training.meter import Meter

RESET_PEAK = "5"  # what Linux wants written to clear_refs


class EnoughError(Exception):
    """The first step is done, and nothing else was asked for."""


def train(began: float, data: str, run: str, first_step_only: bool = False) -> dict[str, float]:
    """Run the trainer in the working folder. Returns seconds and peak bytes of each stage, as "STAGE.seconds" and
    "STAGE.memory", and seconds since `began`, which is when the process was started."""
    end_imports()
    figures: dict[str, float] = {"imported": IMPORTED - began, "memory": 0}
    watch_stages(figures)
    watch_first_step(figures, began, first_step_only)
    with suppress(EnoughError):
        program.main([f"--data={data}", f"--run={run}", "--output=packages"])
    figures["seconds"] = time.time() - began
    figures["memory"] = max(figures["memory"], peak())
    return figures


def watch_stages(figures: dict[str, float]) -> None:
    """Let every stage of the run note its seconds and its own peak of memory."""
    original = Timings.stage

    @contextmanager
    def stage(timings: Timings, name: str) -> Iterator[None]:
        figures["memory"] = max(figures["memory"], peak())
        reset_peak()
        began = time.perf_counter()
        with original(timings, name):
            yield
        figures[f"{name}.seconds"], figures[f"{name}.memory"] = time.perf_counter() - began, peak()
        figures["memory"] = max(figures["memory"], peak())

    Timings.stage = stage  # type: ignore[method-assign,assignment]


def watch_first_step(figures: dict[str, float], began: float, stop: bool) -> None:
    """Note when training first shows progress, which is after its first step."""
    original = Meter.show_steps

    def show_steps(meter: Meter, epoch: int, rows_done: int, loss: float) -> None:
        figures.setdefault("first step", time.time() - began)
        if stop:
            raise EnoughError
        original(meter, epoch, rows_done, loss)

    Meter.show_steps = show_steps  # type: ignore[method-assign]


def peak() -> int:
    """The most bytes held since `reset_peak`; since the process began where the machine cannot tell."""
    status = Path("/proc/self/status")
    match = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(match[1]) * 1024 if match else peak_memory()


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return  # not Linux, or not allowed: the peak of a stage is then that of all before it, too
