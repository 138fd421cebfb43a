"""Run epochs, evaluate after each, keep the weights of the best one, and show progress."""

import math
import sys
import time
from collections.abc import Callable, Iterator
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

CALL_SECONDS = 0.5  # time in the graph until Python checks signals and updates the progress bar
LINE_SECONDS = 5.0  # between two lines of progress without a terminal
MAX_TRAIN_METRIC_ROWS = 200_000  # at most, evenly spaced, for the train metrics of an epoch

EpochRow = dict[str, float]
Weights = dict[str, np.ndarray]
ShowProgress = Callable[[int, float], None]  # shows the rows done in an epoch and the mean loss of the last steps


@dataclass
class History:
    """The state of a training: one row of metrics per epoch, and the best epoch by the stopping metric.

    Interruptions change nothing in it but `rows_per_second`.
    """

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan
    best_weights: Weights = field(default_factory=dict)  # path -> array, of the best epoch
    step: int = 0  # steps done in the epoch after the last row
    rows_per_second: float = math.nan  # in the last epoch, since this process started

    @property
    def best(self) -> EpochRow:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def best_metrics(self, side: str) -> dict[str, float]:
        """The metrics of a side ("train", "validation", "test") in the best epoch, without the side in their names."""
        return {
            name.removeprefix(f"{side}_"): value for name, value in self.best.items() if name.startswith(f"{side}_")
        }

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are done, or `patience` epochs have passed since the best one."""
        done = len(self.rows)
        return done >= epochs or (patience is not None and done - self.best_epoch >= patience and done > 0)


class Callback(Protocol):
    """Called after every few steps and at the end of every epoch, to report, save a checkpoint or stop."""

    def __call__(self, history: History, *, epoch_ended: bool) -> None: ...


def no_callback(history: History, *, epoch_ended: bool) -> None:
    """Do nothing."""


def train(
    ops: "OpsWrapper",
    tables: "dict[str, Rows]",
    *,
    epochs: int,
    patience: int | None,
    stopping_metric: str,
    maximise: bool,
    history: History | None = None,
    callback: Callback = no_callback,
) -> History:
    """Train on `tables["train"]` for `epochs`, or until `patience` epochs have not improved the stopping metric.

    tables: "train", "validation" and optionally "test". Each epoch ends with an evaluation of all of them and adds a
    row to the history: epoch, learning_rate, then the metrics of each table. The stopping metric is a metric of the
    validation rows; test rows influence nothing. At the end the model has the weights of the best epoch.
    history: of an interrupted training, whose variables `ops` has.

    Raises DivergedError if a loss or the best weights are not finite, DataError if the validation rows do not
    determine the stopping metric, and what `callback` raises.
    """
    history = history or History()
    measured = tables | {"train": tables["train"].evenly_spaced(MAX_TRAIN_METRIC_ROWS)}
    while not history.is_over(epochs, patience):
        train_epoch(ops, tables["train"], history, epochs, callback)
        callback(history, epoch_ended=False)  # a request to stop need not wait for the metrics
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
            check_finite(history.best_weights, epoch)
        callback(history, epoch_ended=True)
    for weight in ops.model.weights:
        weight.assign(history.best_weights[weight.path])
    return history


def check_finite(weights: Weights, epoch: int, note: str = "") -> None:
    """DivergedError if weights are not finite. The validation loss does not show that of embeddings it does not use.

    note: ends the message.
    """
    if not_finite := sorted(path for path, array in weights.items() if not np.isfinite(array).all()):
        contain = f"{', '.join(not_finite[:3])} contain NaN or infinity"
        raise DivergedError(f"Epoch {epoch}: {contain}. Lower learning_rate or set clip_norm.{note}")


def check_validation(row: EpochRow, value: float, stopping_metric: str) -> None:
    """DivergedError if the validation loss is not finite, DataError if the stopping metric is undefined."""
    if row["validation_weight"] and not math.isfinite(row["validation_loss"]):
        raise DivergedError(
            f"Epoch {row['epoch']}: the validation loss is {row['validation_loss']}. Lower learning_rate or set "
            "clip_norm."
        )
    if not math.isfinite(value):
        raise DataError(
            f"The {row['validation_rows']:,.0f} validation rows have no {stopping_metric}: their labels are all "
            "the same, or their weights all 0. Use other rows, or choose another stopping_metric."
        )


def train_epoch(
    ops: "OpsWrapper", table: "Rows", history: History, epochs: int, callback: Callback = no_callback
) -> None:
    """Do the remaining steps of an epoch: one pass over the rows, in an order drawn from the seed and the epoch."""
    epoch, size, weight_scale = len(history.rows) + 1, ops.config.batch_size, table.weight_scale
    steps, first = math.ceil(table.rows / size), history.step
    began = time.monotonic()
    with progress(epoch, epochs, table.rows) as advance:
        before, steps_per_call = 0, 1  # steps of the parts before this one
        for part in table.shuffled(ops.config.seed, epoch, size):
            last = before + math.ceil(part.table.rows / size)
            while history.step < last:
                call_began, step = time.monotonic(), history.step
                stop = min(step + steps_per_call, last)
                total = ops.train_steps(*part, step - before, stop - before, steps * epochs, weight_scale)
                loss = float(total) / (stop - step)
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"Epoch {epoch}, steps {step + 1} to {stop}: the training loss is {loss}. "
                        "Lower learning_rate or set clip_norm."
                    )
                history.step = stop
                advance(min(stop * size, table.rows), loss)
                callback(history, epoch_ended=False)
                seconds = max(time.monotonic() - call_began, 1e-6)
                steps_per_call = max(1, min(4 * steps_per_call, int((stop - step) * CALL_SECONDS / seconds)))
            before = last
    rows = min(steps * size, table.rows) - first * size
    history.rows_per_second = rows / max(time.monotonic() - began, 1e-6)


@contextmanager
def progress(epoch: int, epochs: int, rows: int) -> Iterator[ShowProgress]:
    """Show the progress of an epoch: a bar on a terminal, otherwise a line every few seconds."""
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

    def print_line(rows_done: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            rate = rows_done / (now - began)
            seconds_left = (rows - rows_done) / rate
            figures = f"loss {loss:.4f}  {rate:,.0f} rows/s  {seconds_left:,.0f} s left"
            print(f"epoch {epoch}/{epochs} {rows_done / rows:4.0%}  {figures}", file=sys.stderr, flush=True)

    yield print_line
