"""What a search shows while it goes on: a table that moves on a terminal, elsewhere a line for each run that ends."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainer.package.console import compact
from trainer.runtime.command import count, printable
from trainer.runtime.progress import duration
from trainer.search import progress
from trainer.search.plan import LOGS
from trainer.search.state import Key, State, run_name
from trainer.search.table import best_value, changed, run_state, standing, trial_state, value_text

LINE_WIDTH = 120  # columns of a line, at most
BEST = 10  # trials in the table
EPOCH = re.compile(r"^epoch +([0-9]+) ", re.MULTILINE)  # a line of a run's log
GAP = 2  # between the columns of the table
LOG_END = 4096  # bytes of a log that are read for its last epoch


def trial_line(state: State, key: Key) -> str:
    """What a run has come to, in one line."""
    plan, run = state.plan, state.runs[key]
    settled = f"{progress.begun(state)}/{plan.trials}"
    name, value, what = run_name(plan, key), best_value(state, run), run_state(state, key)
    spent = f"{what} after {count(run.epochs, 'epoch')}, {run.seconds:.0f} s"
    line = f"{'trial':<8} {settled:>{2 * len(str(plan.trials)) + 1}}  {name}  "
    if run.reason:
        return cut(f"{line}{spent}: {run.reason}")
    best = next(iter(standing(state)), None)
    known = ""
    if best:
        known = " (best)" if best[0] == key.trial else f" (best {compact(best[1])} of {run_name(plan, Key(best[0]))})"
    metric = f"{plan.metric} {'-' if value is None else compact(value)}"
    return cut(f"{line}{metric}{known}  {spent}  {settings_text(state, key.trial)}")


def settings_text(state: State, trial: int | None) -> str:
    """The settings that a trial has changed: `learning_rate 0.004, dropout 0.2`."""
    settings = changed(state, trial)
    return ", ".join(f"{name} {value_text(value)}" for name, value in settings.items())


def cut(line: str, width: int = LINE_WIDTH) -> str:
    """A line of text in at most so many columns."""
    line = printable(line.rstrip())
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


class Lines:
    """A line for each run that ends."""

    def __init__(self, state: State) -> None:
        self.state = state

    def ended(self, key: Key) -> None:
        """Show a run that has ended."""
        print(trial_line(self.state, key), flush=True)

    def tick(self) -> None:
        """Nothing moves."""

    def close(self) -> None:
        """Nothing is left open."""


class LiveTable:
    """A table of the best trials and of those that are being trained, with the time that is left.

    All is drawn by the thread that changes the state. clock: seconds; deadline: when the search stops, by this clock.
    """

    def __init__(
        self, state: State, workers: int, deadline: float, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.state, self.workers, self.deadline, self.clock = state, workers, deadline, clock
        self.began, self.closed = clock(), False
        self.since: dict[Key, float] = {}  # when each run was first seen
        self.best, self.counts = standing(state)[:BEST], progress.counts(state)
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()

    def ended(self, key: Key) -> None:
        """Show a run that has ended."""
        self.best, self.counts = standing(self.state)[:BEST], progress.counts(self.state)
        run = self.state.runs[key]
        if run.reason:  # stays above the table
            self.live.console.print(Text(trial_line(self.state, key)))
        self.tick()

    def tick(self) -> None:
        """Show how far everything is."""
        running, now = self.state.running(), self.clock()
        self.since = {key: self.since.get(key, now) for key in running}
        lines = [self.running_line(key, now) for key in running]
        parts: list[RenderableType] = [self.table(), Text(""), *lines, Text(self.time_line(now))]
        self.live.update(Group(*parts), refresh=True)

    def close(self) -> None:
        """Leave the last table as it is."""
        self.live.transient, self.closed = False, True
        self.tick()
        self.live.stop()

    def table(self) -> Table:
        """The best trials so far, with as many of their settings as fit beside each other."""
        names = list(changed(self.state, None))
        rows = [("trial", f"validation {self.state.plan.metric}", "epochs", "", *names)]
        for trial, value in self.best:
            settings, epochs = changed(self.state, trial), self.state.runs[Key(trial)].epochs
            name, what = run_name(self.state.plan, Key(trial)), trial_state(self.state, trial)
            cells = [value_text(settings[name]) if name in settings else "" for name in names]
            rows.append((name, compact(value), str(epochs), what, *cells))
        widths = [max(map(len, column)) + GAP for column in zip(*rows, strict=True)]
        fitting = [
            number for number in range(len(widths)) if sum(widths[: number + 1]) <= self.live.console.width + GAP
        ]
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
        for number in fitting:
            table.add_column(Text(rows[0][number]), no_wrap=True, justify="left" if number in (0, 3) else "right")
        for number, row in enumerate(rows[1:]):
            table.add_row(*(Text(printable(row[at])) for at in fitting), style="bold" if number == 0 else "")
        return table

    def running_line(self, key: Key, now: float) -> Text:
        """A run that is being trained: its epochs and seconds."""
        plan, run, name = self.state.plan, self.state.runs[key], run_name(self.state.plan, key)
        until = self.state.goals[key.trial, key.seed].until or epochs_of(self.state, key.trial)
        epochs = max(run.epochs, epoch_in_log(plan.folder / LOGS / f"{name}.log"))
        figures = f"epoch {epochs} of {until}  {duration(now - self.since[key])}"
        text = f"running  {name}  {figures}  {settings_text(self.state, key.trial)}"
        return Text(printable(text), no_wrap=True, overflow="ellipsis")

    def time_line(self, now: float) -> str:
        """The counts, the time since the start, and the time that is left."""
        elapsed = sum(now - began for began in self.since.values())
        left = None if self.closed else progress.seconds_left(self.state, self.workers, elapsed)
        parts = [f"{progress.begun(self.state)} of {count(self.state.plan.trials, 'trial')}"]
        parts += [f"{number} {name}" for name, number in self.counts.items() if name != "running"]
        parts += [f"{duration(now - self.began)} elapsed"]
        parts += [f"{progress.about(left)} left"] if left is not None else []
        if left is not None and now + left > self.deadline:
            parts += [f"stops in {duration(max(self.deadline - now, 0))}"]
        return ", ".join(parts)


def epochs_of(state: State, trial: int | None) -> int:
    """The epochs that a trial has in all, if it does not stop early."""
    if trial is not None:
        return state.epochs[trial]
    return int(state.plan.variants[state.plan.variant]["settings"]["epochs"]["value"])


def epoch_in_log(path: Path) -> int:
    """The last epoch that a log speaks of; 0 for none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LOG_END, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return 0
    found = EPOCH.findall(text)
    return int(found[-1]) if found else 0
