"""What people see of a search while it goes on: the terminal, trials.csv, TensorBoard, the page, copies in a bucket."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console

from trainer.runtime.command import say_file
from trainer.search import copies, hparams, page
from trainer.search.console import Lines, LiveTable
from trainer.search.state import Key, State
from trainer.search.table import TrialsCsv


class View:
    """All views of a search. The search tells it what happens; it changes nothing. finished: nothing is left to do."""

    def __init__(self, state: State, workers: int, deadline: float) -> None:
        self.state, self.table = state, TrialsCsv(state)
        self.copies = copies.copies_of(state.plan)
        self.finished = False
        hparams.write_experiment(state)
        for key in state.runs:  # a search that was killed may not have written its last one
            hparams.write_run(state, key)
        self.table.write()
        on_terminal = sys.stdout.isatty() and Console().is_interactive
        self.shown = LiveTable(state, workers, deadline, Console()) if on_terminal else Lines(state)

    def ended(self, key: Key) -> None:
        """A run has ended, and the state knows."""
        self.table.write()
        hparams.write_run(self.state, key)
        if self.copies:
            self.copies.send()
        self.shown.ended(key)

    def tick(self) -> None:
        """Some time has gone by."""
        self.shown.tick()

    def close(self) -> None:
        """The search has ended, or was stopped: write the page."""
        self.shown.close()
        self.table.write()
        path = page.write_page(self.state, finished=self.finished)
        if study := page.optuna_study():
            study.export(self.state, self.state.plan.folder)
        if self.copies:
            self.copies.close()
        say_file("page", path)


@contextlib.contextmanager
def viewed(state: State, workers: int, deadline: float = float("inf")) -> Iterator[View]:
    """The views of a search for the length of the block. deadline: by the monotonic clock."""
    view = View(state, workers, deadline)
    try:
        yield view
    finally:
        view.close()
