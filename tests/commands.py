"""The real commands, each in a process of its own that is forked from one in which TensorFlow is imported already."""

import fcntl
import os
import re
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from trainer.runtime import warm

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample_2k.json"
CANARY = "canary-7f3a9c"  # stands in the environment of `sample_run`, and must stand nowhere else

PROGRESS = re.compile(r"^progress .*\n", re.MULTILINE)  # which a busy machine makes worth a line


class Done(NamedTuple):
    """How a command ended, and its output, without the progress of a run."""

    code: int
    out: str
    err: str


def trainer(folder: Path, *arguments: str, module: str = "trainer.__main__", **environment: str) -> Done:
    """`python -m trainer`, or another module, to its end."""
    return finished(folder, start(folder, *arguments, module=module, **environment))


def start(folder: Path, *arguments: str, module: str = "trainer.__main__", **environment: str) -> BaseProcess:
    """The same, on its way; working folder, runs and output are `folder`."""
    out, err = folder / "stdout", folder / "stderr"
    return warm.start_command(module, arguments, folder=folder, environment=environment, out=out, err=err)


def become_trainer(folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    """Make this process the trainer, which has been prepared for some fault; does not return."""
    warm.become_command("trainer.__main__", arguments, folder, environment, folder / "stdout", folder / "stderr")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills once for all workers of pytest; tests that change files in it use a copy."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, mark = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            folder.mkdir()
            make(folder)
            mark.touch()
    return folder


def finished(folder: Path, process: BaseProcess) -> Done:
    process.join(timeout=120)
    assert process.exitcode is not None, (folder / "stderr").read_text()
    errors = PROGRESS.sub("", (folder / "stderr").read_text())
    return Done(process.exitcode, (folder / "stdout").read_text(), errors)
