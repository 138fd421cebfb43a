"""Start processes from one that has already imported TensorFlow: in milliseconds instead of seconds.

The first call starts a server (`multiprocessing`'s forkserver) that imports what a run needs and computes nothing: the
threads of TensorFlow, which a fork would lose, begin with its first operation. Each process is a fork of that server
and ends with the bits of one that was started by itself. Changes of code after the first call do not show.
"""

import gc
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

IMPORTED = (
    "trainer.__main__",
    # What a run would import on its way:
    "matplotlib.backends.backend_agg", "matplotlib.style", "spacy.lang.en", "tensorboard.plugins.projector",
    "tensorboard.plugins.histogram.summary_v2", "tensorboard.plugins.scalar.summary_v2",
)  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(IMPORTED))


def prepare() -> None:
    """Start the server now, so that it imports while this process does something else."""
    forkserver.ensure_running()


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function of an importable module in a warm process. The arguments are pickled."""
    process = _context.Process(target=_call, args=(function, arguments))
    process.start()
    return process


def start_command(
    module: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], out: Path, err: Path
) -> BaseProcess:
    """`python -m module arguments` in a warm process, in a folder, with further environment variables.

    out, err: files that take its standard output and error. Its exit code is that of the command. Variables that a
    library reads when it is imported, such as TensorFlow's, come too late.
    """
    return start(become_command, module, tuple(arguments), folder, dict(environment), out, err)


def _call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    gc.freeze()  # what the server has imported stays
    function(*arguments)


def become_command(
    module: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    """Make this process the command (see `start_command`); does not return."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.chdir(folder)
    os.environ.update(environment)
    become(module, arguments)


def become(module: str, arguments: Sequence[str]) -> None:
    """Make this process, as it is, `python -m module arguments`; does not return."""
    sys.argv = [module, *arguments]
    program = importlib.import_module(module)
    importlib.import_module("trainer.runtime.command").run_command(program.main)
