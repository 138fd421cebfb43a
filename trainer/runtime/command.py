"""How every command of the trainer ends: with a documented exit code, and for an expected fault with one message."""

import contextlib
import errno
import gc
import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from trainer.runtime.errors import Interrupted, ResourceError, TrainerError
from trainer.runtime.system import interruptible, note_signals, storage_error

# How TensorFlow tells of a full disk: its operation, if one failed, then the file that it could not write.
NO_SPACE = re.compile(rf"^(?:\{{\{{.*\}}\}} )?(.+); {re.escape(os.strerror(errno.ENOSPC))}", re.MULTILINE)


# What Keras tries to import, for parts of it that no command uses: up to a second in all.
UNUSED = ("sklearn", "IPython", "matplotlib.pyplot")


def begin() -> None:
    """The first line of a program: from now on stop signals are noted, and imports are fast.

    Meanwhile `UNUSED` modules count as not installed, and no garbage is collected: imports make none, and the collector
    would walk again and again through all that they bring. `run_command` ends both.
    """
    note_signals()
    gc.disable()
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def all_is_imported() -> None:
    """End what `begin` began."""
    for name in UNUSED:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
    gc.freeze()
    gc.enable()


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without the lines that it writes to stderr before anybody can set its log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # not all of a GPU's memory at once
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def say(what: str, text: str) -> None:
    """One line for people about a stage."""
    print(f"{what:<8} {text}", flush=True)


def run_command(main: Callable[[], None]) -> None:
    """Run a command and leave the process with its exit code (see `trainer.runtime.errors`)."""
    all_is_imported()
    try:
        with interruptible():
            main()
            flush()
    except (TrainerError, Interrupted) as error:
        end(f"error: {error}", error.exit_code)
    except MemoryError:
        end("error: Out of memory. Use fewer rows, or a machine with more memory.", ResourceError.exit_code)
    except BrokenPipeError:
        end("", 128 + signal.SIGPIPE)  # the reader of our output went away, as `head` does: not done, and no bug
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            crash()
        end(f"error: No space left on the disk of {error.filename or 'the output'}.", ResourceError.exit_code)
    except Exception as error:
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which need not be imported yet
            if full := NO_SPACE.search(str(error)):
                path, space = Path(full[1]), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                end(f"error: {storage_error('writing', path, space)}", ResourceError.exit_code)
            end("error: The device is out of memory. Lower batch_size.", ResourceError.exit_code)
        crash()


def crash() -> None:
    """Our own bug: the whole traceback."""
    traceback.print_exc()
    end(
        "This is a bug, of the trainer or of a network's file; please report it with these lines.",
        TrainerError.exit_code,
    )


def end(message: str, code: int) -> None:
    """Leave at once: after a full disk or an interrupt, libraries may crash while the interpreter winds down."""
    if message:
        print(message, file=sys.stderr)
    with contextlib.suppress(OSError):
        flush()
    os._exit(code)


def flush() -> None:
    """Write out what was printed; a stream that was closed before we started is None."""
    for stream in (sys.stdout, sys.stderr):
        if stream:
            stream.flush()
