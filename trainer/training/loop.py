"""The training loop: epochs, metrics of each, the best weights by a validation metric, progress."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.runtime import heartbeat
from trainer.runtime.errors import DataError, DivergedError

if TYPE_CHECKING:
    from trainer.features.tables import Rows
    from trainer.model.ops_wrapper import OpsWrapper

CALL_SECONDS = 0.5  # how long the graph runs before Python looks at signals and the progress bar again
LINE_SECONDS = 5.0  # between two progress lines where there is no terminal
MAX_TRAIN_METRIC_ROWS = 200_000  # training rows that the epoch's train metrics are measured on, evenly spaced

EpochRow = dict[str, float]
Weights = dict[str, np.ndarray]


@dataclass
class History:
    """Where training stands, and what it decided and measured: a row per epoch, the best epoch by the stopping metric.

    All of it but the clock is a function of the rows and the configuration, however often the run was interrupted.
    """

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan
    best_weights: Weights = field(default_factory=dict)  # path -> array, of the best epoch
    step: int = 0  # steps done of the epoch that comes after the last row
    rows_per_second: float = math.nan  # of the last epoch, or of the part of it that this process did

    @property
    def best(self) -> EpochRow:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def best_metrics(self, side: str) -> dict[str, float]:
        """The metrics of one side in the best epoch, by their own names."""
        return {
            name.removeprefix(f"{side}_"): value for name, value in self.best.items() if name.startswith(f"{side}_")
        }

    def over(self, epochs: int, patience: int | None) -> bool:
        """Whether there is no epoch left, or too many came after the best one."""
        done = len(self.rows)
        return done >= epochs or (patience is not None and done - self.best_epoch >= patience and done > 0)


class Progressing(Protocol):
    def __call__(self, rows_done: int, loss: float) -> None: ...


class Watching(Protocol):
    """Called after every few steps and at the end of every epoch: the place to report, to save, and to stop."""

    def __call__(self, history: History, *, epoch_ended: bool) -> None: ...


def watch_nothing(history: History, *, epoch_ended: bool) -> None:
    """For a training that nobody looks at or interrupts."""


def train(
    ops: "OpsWrapper",
    tables: "dict[str, Rows]",
    *,
    epochs: int,
    patience: int | None,
    stopping_metric: str,
    maximise: bool,
    history: History | None = None,
    watch: Watching = watch_nothing,
) -> History:
    """Train on `tables["train"]`, choose by `tables["validation"]`, report on `tables["test"]` where there is one.

    history: where an interrupted training stood; `ops` then holds the variables of that moment. Each epoch appends a
    row to it: epoch, learning_rate, then the metrics of each side, measured in evaluation mode with the weights of the
    epoch's end. Test rows decide nothing. The weights of the epoch with the best validation metric are in the model at
    the end. Raises DivergedError where a training or validation loss or the best weights are not finite, DataError
    where the validation rows do not determine the stopping metric, and what `watch` raises.
    """
    history = history or History()
    measured = tables | {"train": tables["train"].evenly_spaced(MAX_TRAIN_METRIC_ROWS)}
    while not history.over(epochs, patience):
        train_epoch(ops, tables["train"], history, epochs, watch)
        watch(history, epoch_ended=False)  # a request to stop need not wait for the metrics
        epoch, steps = len(history.rows) + 1, history.step
        row: EpochRow = {"epoch": epoch, "learning_rate": float(ops.learning_rate(steps * epochs))}
        for side, table in measured.items():
            heartbeat.beat()
            row |= {f"{side}_{name}": value for name, value in ops.evaluate(table).items()}
        value = row[f"validation_{stopping_metric}"]
        check_validation(row, value, stopping_metric)
        history.rows.append(row)
        history.step = 0
        if epoch == 1 or (value > history.best_value if maximise else value < history.best_value):
            history.best_epoch, history.best_value = epoch, value
            history.best_weights = {weight.path: weight.numpy() for weight in ops.model.weights}
            refuse_broken(history.best_weights, epoch)
        watch(history, epoch_ended=True)
    for weight in ops.model.weights:
        weight.assign(history.best_weights[weight.path])
    return history


def refuse_broken(weights: Weights, epoch: int) -> None:
    """DivergedError where weights are not finite: rows of a table that no row of the validation looks up, say."""
    if broken := sorted(path for path, array in weights.items() if not np.isfinite(array).all()):
        raise DivergedError(
            f"Epoch {epoch}: {', '.join(broken[:3])} hold NaN or infinity. Lower learning_rate or set clip_norm."
        )


def check_validation(row: EpochRow, value: float, stopping_metric: str) -> None:
    """DivergedError or DataError where the validation rows cannot say how good an epoch is."""
    if row["validation_weight"] and not math.isfinite(row["validation_loss"]):
        raise DivergedError(
            f"Epoch {row['epoch']}: the validation loss is {row['validation_loss']}. Lower learning_rate or set "
            "clip_norm."
        )
    if not math.isfinite(value):
        raise DataError(
            f"The {row['validation_rows']:,.0f} validation rows have no {stopping_metric}: their labels are all "
            "the same, or their weights all 0. Take other rows, or choose another stopping_metric."
        )


def train_epoch(
    ops: "OpsWrapper", table: "Rows", history: History, epochs: int, watch: Watching = watch_nothing
) -> None:
    """The steps that are left of an epoch: one pass over the rows, in an order that is the epoch's own."""
    epoch, size = len(history.rows) + 1, ops.config.batch_size
    steps, first = math.ceil(table.rows / size), history.step
    began = time.monotonic()
    with progress(epoch, epochs, table.rows) as advance:
        before, steps_per_call = 0, 1  # steps of the parts before this one
        for part in table.shuffled(ops.config.seed, epoch, size):
            last = before + math.ceil(part.table.rows / size)
            while history.step < last:
                call_began, step = time.monotonic(), history.step
                stop = min(step + steps_per_call, last)
                total = ops.train_steps(*part, step - before, stop - before, steps * epochs)
                loss = float(total) / (stop - step)
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"Epoch {epoch}, steps {step + 1} to {stop}: the training loss is {loss}. "
                        "Lower learning_rate or set clip_norm."
                    )
                history.step = stop
                advance(min(stop * size, table.rows), loss)
                watch(history, epoch_ended=False)
                seconds = max(time.monotonic() - call_began, 1e-6)
                steps_per_call = max(1, min(4 * steps_per_call, int((stop - step) * CALL_SECONDS / seconds)))
            before = last
    rows = min(steps * size, table.rows) - first * size
    history.rows_per_second = rows / max(time.monotonic() - began, 1e-6)


@contextmanager
def progress(epoch: int, epochs: int, rows: int) -> Iterator[Progressing]:
    """A bar on a terminal, a plain line every few seconds elsewhere; both with loss, rows per second and time left."""
    began = time.monotonic()
    if sys.stderr.isatty():
        columns: list[Any] = [
            TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        ]  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=rows, epoch=f"{epoch}/{epochs}", figures="")

            def show(rows_done: int, loss: float) -> None:
                rate = rows_done / max(time.monotonic() - began, 1e-6)
                bar.update(task, completed=rows_done, figures=f"loss {loss:.4f}  {rate:,.0f} rows/s")

            yield show
        return

    last = began

    def tell(rows_done: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            rate = rows_done / (now - began)
            left = (rows - rows_done) / rate
            figures = f"loss {loss:.4f}  {rate:,.0f} rows/s  {left:,.0f} s left"
            print(f"epoch {epoch}/{epochs} {rows_done / rows:4.0%}  {figures}", file=sys.stderr, flush=True)

    yield tell
