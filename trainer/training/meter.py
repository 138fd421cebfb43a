"""Measure the speed of a training, expect its end, and show both."""

import math
from collections.abc import Callable, Sequence

from trainer.runtime.progress import RunProgress


class Meter:
    """The speed of a training and the time that it still takes, by what this process has done of it.

    rows: of an epoch; evaluated: rows that are evaluated after each epoch; can_stop: before all epochs are done.
    The first steps of a process are not counted, because TensorFlow compiles them, nor are the rows before a resume.
    """

    def __init__(
        self, progress: RunProgress, *, epochs: int, rows: int, evaluated: int = 0, can_stop: bool = False
    ) -> None:
        self.progress, self.epochs, self.rows = progress, epochs, rows
        self.evaluated, self.can_stop = evaluated, can_stop
        self.has_begun = False
        self.counted_rows, self.counted_seconds = 0, 0.0  # of steps
        self.between = math.nan  # seconds from the last step of an epoch to the first of the next
        self.best = ""

    @property
    def rate(self) -> float:
        """Training rows per second, without evaluations; NaN before the second call."""
        return self.counted_rows / self.counted_seconds if self.counted_seconds > 0 else math.nan

    def count(self, rows: int, seconds: float) -> None:
        """Count the rows of some steps and their time."""
        if self.has_begun:
            self.counted_rows += rows
            self.counted_seconds += seconds
        self.has_begun = True

    def seconds_left(self, epoch: int, rows_left: int) -> float:
        """The time to the end of the last epoch, with evaluations; rows_left: to train on in this epoch.

        Until an epoch has been evaluated, a row is taken to need as long for that as for training.
        """
        between = self.evaluated / self.rate if math.isnan(self.between) else self.between
        return rows_left / self.rate + between + (self.epochs - epoch) * (self.rows / self.rate + between)

    def show_steps(self, epoch: int, rows_done: int, loss: float) -> None:
        """Show a place within an epoch, and the mean loss of the last steps."""
        self.progress.expect(self.seconds_left(epoch, self.rows - rows_done), at_most=self.can_stop)
        speed = "" if math.isnan(self.rate) else f"{self.rate:,.0f} rows/s"
        self.show(epoch, "", rows_done / self.rows, (f"loss {loss:#.4g}", self.best, speed))

    def show_evaluation(self, epoch: int, side: str, rows: int) -> Callable[[int], None]:
        """Show that an evaluation begins; returns what is to be called with the number of rows that are done."""

        def advance(rows_done: int) -> None:
            self.show(epoch, f", {side} metrics", rows_done / max(rows, 1), (self.best,))

        advance(0)
        return advance

    def show(self, epoch: int, what: str, share: float, figures: Sequence[str]) -> None:
        """Show what is being done in an epoch, how much of it is done, and the figures that there are."""
        self.progress.show(f"epoch {epoch}/{self.epochs}{what}", share, list(filter(None, figures)))
