"""The training loop: epochs, metrics of each, the best weights by a validation metric, progress."""

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

from trainer.errors import DataError, DivergedError

if TYPE_CHECKING:
    from trainer.graph import OpsWrapper, Table

CALL_SECONDS = 0.5  # how long the graph runs before Python looks at signals and the progress bar again
LINE_SECONDS = 5.0  # between two progress lines where there is no terminal
MAX_TRAIN_METRIC_ROWS = 200_000  # training rows that the epoch's train metrics are measured on, evenly spaced

EpochRow = dict[str, float]


@dataclass
class History:
    """What training decided and measured: a row per epoch, the best epoch by the stopping metric."""

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan

    @property
    def best(self) -> EpochRow:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def best_metrics(self, side: str) -> dict[str, float]:
        """The metrics of one side in the best epoch, by their own names."""
        return {
            name.removeprefix(f"{side}_"): value for name, value in self.best.items() if name.startswith(f"{side}_")
        }


class Progressing(Protocol):
    def __call__(self, rows_done: int, loss: float) -> None: ...


def train(
    ops: "OpsWrapper",
    tables: "dict[str, Table]",
    *,
    epochs: int,
    patience: int | None,
    stopping_metric: str,
    maximise: bool,
    on_epoch: Callable[[History], None],
) -> History:
    """Train on `tables["train"]`, choose by `tables["validation"]`, report on `tables["test"]` where there is one.

    Each epoch appends a row to the history, which `on_epoch` is then given: epoch, seconds, rows_per_second,
    learning_rate, then the metrics of each side, measured in evaluation mode with the weights of the epoch's end. Test
    rows decide nothing. The weights of the epoch with the best validation metric are in the model at the end. Raises
    DivergedError where a training or validation loss is not finite, DataError where the validation rows do not
    determine the stopping metric.
    """
    history = History()
    best_weights: list[np.ndarray] = []
    measured = tables | {"train": ops.evenly_spaced(tables["train"], MAX_TRAIN_METRIC_ROWS)}
    for epoch in range(1, epochs + 1):
        row: EpochRow = {"epoch": epoch, **train_epoch(ops, tables["train"], epoch, epochs)}
        for side, table in measured.items():
            row |= {f"{side}_{name}": value for name, value in ops.evaluate(table).items()}
        history.rows.append(row)
        on_epoch(history)
        value = row[f"validation_{stopping_metric}"]
        if row["validation_weight"] and not math.isfinite(row["validation_loss"]):
            raise DivergedError(
                f"Epoch {epoch}: the validation loss is {row['validation_loss']}. Lower learning_rate or set clip_norm."
            )
        if not math.isfinite(value):
            raise DataError(
                f"The {row['validation_rows']:,.0f} validation rows have no {stopping_metric}: their labels are all "
                "the same, or their weights all 0. Take other rows, or choose another stopping_metric."
            )
        if not best_weights or (value > history.best_value if maximise else value < history.best_value):
            history.best_epoch, history.best_value = epoch, value
            best_weights = [weight.numpy() for weight in ops.model.weights]
        elif patience is not None and epoch - history.best_epoch >= patience:
            break
    for weight, best in zip(ops.model.weights, best_weights, strict=True):
        weight.assign(best)
    return history


def train_epoch(ops: "OpsWrapper", table: "Table", epoch: int, epochs: int) -> EpochRow:
    """One pass over the rows in a new order; returns seconds, rows_per_second and the learning rate at its end."""
    steps = math.ceil(table.rows / ops.config.batch_size)
    order = ops.shuffled(table.rows, epoch)
    began = time.monotonic()
    with progress(epoch, epochs, table.rows) as advance:
        step, steps_per_call = 0, 1
        while step < steps:
            call_began = time.monotonic()
            stop = min(step + steps_per_call, steps)
            loss = float(ops.train_steps(table, order, step, stop, steps * epochs)) / (stop - step)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"Epoch {epoch}, steps {step + 1} to {stop}: the training loss is {loss}. "
                    "Lower learning_rate or set clip_norm."
                )
            advance(min(stop * ops.config.batch_size, table.rows), loss)
            seconds = max(time.monotonic() - call_began, 1e-6)
            steps_per_call = max(1, min(4 * steps_per_call, int((stop - step) * CALL_SECONDS / seconds)))
            step = stop
    seconds = time.monotonic() - began
    return {
        "seconds": seconds,
        "rows_per_second": table.rows / seconds,
        "learning_rate": float(ops.learning_rate(steps * epochs)),
    }


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
