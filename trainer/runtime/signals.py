"""Turn SIGTERM and SIGINT into a request to stop, which a run obeys at a safe moment."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from trainer.runtime.errors import Interrupted

SET_PARENT_DEATH_SIGNAL = 1  # of prctl, Linux


class StopRequest:
    """Whether a signal has asked this process to stop."""

    def __init__(self) -> None:
        self.deferred = False  # if True, the first signal is only recorded
        self.signal = ""  # its name, such as SIGTERM; "" without one

    @property
    def by(self) -> str:
        """Who has asked, for messages."""
        return "Ctrl-C" if self.signal == "SIGINT" else self.signal


_stop_request = StopRequest()  # a process has one: its signal handlers fill it in
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` inside the block, also in a process that is PID 1 of a container."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def interrupt(number: int, frame: object) -> None:
        repeated, _stop_request.signal = bool(_stop_request.signal), signal.Signals(number).name
        if repeated or not _stop_request.deferred:
            raise interrupted()

    handlers_before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        if _stop_request.signal:
            raise interrupted()
        yield
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        _stop_request.signal = ""


def interrupted() -> Interrupted:
    """The exception for a recorded stop signal."""
    return Interrupted(f"Stopped by {_stop_request.by}; no package was written. Start it again.")


def record_stop_signals() -> None:
    """From now on record SIGTERM and SIGINT, so that `interruptible` raises them later.

    PID 1 of a container ignores these signals until it has handlers for them, and imports take seconds.
    """

    def record(number: int, frame: object) -> None:
        _stop_request.signal = signal.Signals(number).name

    for number in SIGNALS:
        signal.signal(number, record)


@contextlib.contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Inside the block the first stop signal raises nothing: the block checks `StopRequest.signal` and stops in its own
    time. A second signal raises `Interrupted`."""
    _stop_request.deferred = True
    try:
        yield _stop_request
    finally:
        _stop_request.deferred = False


def ending_with_parent() -> Callable[[], None] | None:
    """The `preexec_fn` of a child process that must not outlive this one: it gets SIGTERM when this process ends, also
    by SIGKILL. None where the system cannot do that: only Linux can.

    Start the child in the main thread: the signal comes when the thread ends that started it.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def before_exec() -> None:
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # which has ended already
            os._exit(128 + signal.SIGTERM)

    return before_exec
