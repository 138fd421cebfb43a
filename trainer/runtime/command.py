"""Start and end every command: fast imports, documented exit codes, and one message for an expected fault."""

import argparse
import contextlib
import errno
import gc
import importlib
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trainer.runtime import missing
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError, TrainerError, did_you_mean
from trainer.runtime.signals import interruptible, record_stop_signals
from trainer.runtime.system import storage_error

# TensorFlow's message for a full disk: the failed operation, if any, then the file that it could not write.
NO_SPACE = re.compile(rf"^(?:\{{\{{.*\}}\}} )?(.+); {re.escape(os.strerror(errno.ENOSPC))}", re.MULTILINE)

WITHOUT_LINKS = ("dumb", "linux")  # kinds of terminals that would print the address of a link

# Modules that Keras tries to import for features that no command uses: up to a second in all.
UNUSED = ("sklearn", "IPython", "matplotlib.pyplot")


def begin_imports() -> None:
    """Call this first in a program: record stop signals, speed up imports, and explain packages that are missing.

    Until `run_command` starts, the `UNUSED` modules count as not installed, and the garbage collector is off: imports
    make no garbage, but the collector would scan everything they load again and again.
    """
    record_stop_signals()
    sys.excepthook = missing.explain_uncaught  # until `run_command` can catch what an import raises
    gc.disable()
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def end_imports() -> None:
    """Undo `begin_imports`; do nothing if it was not called."""
    for name in UNUSED:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
    gc.freeze()
    gc.enable()


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors, which quote the arguments, are safe for a terminal."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
        hint = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        super().error(printable(message) + f". {hint}" * hint.startswith("Did"))


def argument_parser(module: str, main: Callable[..., None]) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, described by the docstring of `main`. Options cannot be abbreviated."""
    return ArgumentParser(f"python -m {module}", description=main.__doc__)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes settings for one run, `--set NAME=VALUE`."""
    help_ = "change a setting for this run; repeatable, such as --set epochs=5 --set hidden_units=64,32"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help_)


def import_tensorflow_quietly(*modules: str) -> None:
    """Import TensorFlow and Keras, or only these modules, without the lines that TensorFlow writes to stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # do not take all GPU memory at once
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        for module in modules or ("tensorflow", "keras"):
            importlib.import_module(module)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def printable(text: str) -> str:
    """Text for a terminal, on one line: names of files and columns can hold line breaks, which could fake a message,
    and control characters, which could change what is shown. They become escapes such as \\n and \\x1b."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def say(stage: str, text: str) -> None:
    """Print one line for people: the stage, then the text. On a terminal, a warning is wrapped to its width."""
    start, line = f"{stage:<8} ", f"{stage:<8} {printable(text)}"
    if stage.endswith("warning") and sys.stdout and sys.stdout.isatty():
        width, indent = max(shutil.get_terminal_size().columns, 40), " " * len(start)
        line = textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    print(line, flush=True)


def say_file(stage: str, path: Path) -> None:
    """Print the path of a file in the form of `say`; a terminal makes it a link."""
    text = printable(str(path))
    if sys.stdout.isatty() and os.environ.get("TERM") not in WITHOUT_LINKS:
        text = f"\x1b]8;;{path.absolute().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"
    print(f"{stage:<8} {text}", flush=True)


def count(number: int, noun: str) -> str:
    """A number of things: `1 row`, `2,000 rows`, `3 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def aligned(rows: Sequence[tuple[str, ...]], *, widest: int = sys.maxsize, right: Container[int] = ()) -> str:
    """Rows of cells as lines of text, in columns of at most `widest` characters; right: the columns to align right."""
    widths = [min(max(map(len, column)), widest) for column in zip(*rows, strict=True)]
    align = [str.rjust if number in right else str.ljust for number in range(len(widths))]
    return "\n".join(
        "  ".join(place(cell, width) for place, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )


def amount(size: int) -> str:
    """A number of bytes with a unit, such as `1.25 MB`."""
    return f"{size / 1e9:,.2f} GB" if size >= 10**9 else f"{size / 1e6:,.2f} MB" if size >= 10**5 else f"{size:,} bytes"


def run_command(main: Callable[[], None]) -> None:
    """Run a command and exit the process with its exit code (see `trainer.runtime.errors`)."""
    end_imports()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot show every character
    try:
        with interruptible():
            main()
            flush_output()
    except Interrupted as error:
        exit_process(error.exit_code, *map(str, error.args))
    except TrainerError as error:
        first, *others = map(str, error.args)
        exit_process(error.exit_code, f"error: {first}", *(f"  {line}" for line in others))
    except ModuleNotFoundError as error:
        if not (text := missing.explanation(error)):
            report_bug()
        exit_process(ConfigError.exit_code, f"error: {text}")
    except MemoryError:
        exit_process(ResourceError.exit_code, "error: Out of memory. Use fewer rows, or a machine with more memory.")
    except BrokenPipeError:
        exit_process(128 + signal.SIGPIPE)  # the reader closed our output, as `head` does: not finished, but no bug
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            report_bug()
        exit_process(ResourceError.exit_code, f"error: No space left on the disk of {error.filename or 'the output'}.")
    except Exception as error:
        if type(error).__name__ != "ResourceExhaustedError":  # by name: TensorFlow may not be imported
            report_bug()
        message = "The device is out of memory. Lower batch_size."
        if full_disk := NO_SPACE.search(str(error)):
            no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            message = str(storage_error("writing", Path(full_disk[1]), no_space))
        exit_process(ResourceError.exit_code, f"error: {message}")


def report_bug() -> None:
    """Print the traceback of an unexpected exception and exit with code 1."""
    for part in traceback.format_exception(*sys.exc_info()):
        is_place = part.startswith(("  ", "Traceback", "\n"))  # otherwise it is an exception with its text
        for line in part.rstrip("\n").split("\n") if is_place else [part.rstrip("\n")]:
            print(printable(line), file=sys.stderr)
    exit_process(
        TrainerError.exit_code,
        "This is a bug in the trainer or in a network's file; please report it with the lines above.",
    )


def exit_process(code: int, *lines: str) -> None:
    """Exit at once: after a full disk or an interrupt, libraries may crash while the interpreter shuts down."""
    for line in lines:
        print(printable(line), file=sys.stderr)
    with contextlib.suppress(OSError):
        flush_output()
    os._exit(code)


def flush_output() -> None:
    """Flush stdout and stderr; a stream that was closed before the process started is None."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
