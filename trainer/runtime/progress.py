"""Show how far a run is: a line that moves on a terminal, elsewhere a line every few seconds."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

LINE_SECONDS = 5.0  # between two lines without a terminal
LINE_WIDTH = 120  # columns of such a line, at most
BAR_WIDTH = 16  # columns of the bar on a terminal


class State(NamedTuple):
    """What is going on."""

    what: str = "start"
    share: float | None = None  # of it that is done; None: unknown
    figures: Sequence[str] = ()  # the most important first
    ends: float | None = None  # expected end of training, by the clock
    at_most: bool = False  # it may end earlier


class RunProgress:
    """The progress of a run, shown on stderr while the context is open.

    What is shown moves by itself, in a thread: a stage need not report anything for its time to be seen.
    clock: seconds; the default cannot be set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.began, self.state = clock, clock(), State()
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if sys.stderr and sys.stderr.isatty() and Console(stderr=True).is_interactive:
            both = bool(sys.stdout) and sys.stdout.isatty()  # what is printed meanwhile appears above the line
            bar = Progress(
                _Bar(self), _Figures(self), console=Console(stderr=True), transient=True, redirect_stdout=both
            )
            bar.add_task("", total=None)
            self._closing.enter_context(bar)
        elif sys.stderr:
            ended = threading.Event()
            thread = threading.Thread(target=self._print_lines, args=(ended,), daemon=True)
            thread.start()
            self._closing.callback(thread.join)
            self._closing.callback(ended.set)  # the last callback is called first
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Show nothing any more, so that what follows stands as it is printed."""
        self._closing.close()

    def stage(self, name: str) -> None:
        """Show the name of a stage that has begun."""
        self.state = State(name)

    def show(self, what: str, share: float | None, figures: Sequence[str]) -> None:
        """Show what is being done, how much of it is done, and figures; the expected end stays."""
        self.state = self.state._replace(what=what, share=share, figures=figures)

    def expect(self, seconds: float, *, at_most: bool) -> None:
        """Expect training to end after some seconds from now, NaN for unknown."""
        ends = self.clock() + seconds if math.isfinite(seconds) else None
        self.state = self.state._replace(ends=ends, at_most=at_most)

    def place(self) -> list[str]:
        """What is being done, the time since the start, and the time left; none if it is unknown or over."""
        state, now = self.state, self.clock()
        what = state.what + (f" {state.share:.0%}" if state.share is not None else "")
        seconds = math.nan if state.ends is None else state.ends - now
        left = [f"{'at most ' * state.at_most}{duration(seconds)} left"] if seconds > 0 else []
        return [what, f"{duration(now - self.began)} elapsed", *left]

    def _print_lines(self, ended: threading.Event) -> None:
        while not ended.wait(LINE_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed; the run is worth more
                line = fitting([*self.place(), *self.state.figures], LINE_WIDTH - len("progress "))
                print(f"progress {line}", file=sys.stderr, flush=True)


class _Bar(BarColumn):
    """A bar of the share that is done; without a share it moves to and fro."""

    def __init__(self, progress: RunProgress) -> None:
        super().__init__(bar_width=BAR_WIDTH)
        self.progress = progress

    def render(self, task: Task) -> Any:
        share = self.progress.state.share
        task.total, task.completed = (None, 0) if share is None else (1.0, share)
        return super().render(task)


class _Figures(ProgressColumn):
    """The place, and below it the figures, as far as they fit the terminal."""

    def __init__(self, progress: RunProgress) -> None:
        super().__init__()
        self.progress = progress

    def render(self, task: Task) -> Text:
        width = Console(stderr=True).width - BAR_WIDTH - 2
        lines = [self.progress.place(), self.progress.state.figures]
        return Text("\n".join(fitting(parts, width) for parts in lines if parts), no_wrap=True, overflow="ellipsis")


def fitting(parts: Sequence[str], width: int) -> str:
    """The first parts, joined by commas, that fit a line of `width` characters; at least one."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(", ") + len(part) > width:
            break
        line += f", {part}"
    return line


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, `1:05`, or hours, minutes and seconds, `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
