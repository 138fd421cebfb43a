"""Run epochs, evaluate after each, keep the weights of the best one, and show progress."""

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainer.config.net_config import STOPPING_METRICS
from trainer.runtime import heartbeat
from trainer.runtime.errors import DataError, DivergedError
from trainer.runtime.progress import RunProgress
from trainer.training.meter import Meter

if TYPE_CHECKING:
    from trainer.features.tables import Rows
    from trainer.model.ops_wrapper import OpsWrapper

CALL_SECONDS = 0.5  # time in the graph until Python checks signals and shows the progress
MAX_TRAIN_METRIC_ROWS = 200_000  # at most, evenly spaced, for the train metrics of an epoch

EpochRow = dict[str, float]
Weights = dict[str, np.ndarray]


@dataclass
class History:
    """The state of a training: one row of metrics per epoch, and the best epoch by the stopping metric.

    Interruptions change nothing in it but `seconds` and `rows_per_second`.
    """

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.nan
    best_weights: Weights = field(default_factory=dict)  # path -> array, of the best epoch
    step: int = 0  # steps done in the epoch after the last row
    seconds: list[float] = field(default_factory=list)  # that each epoch took; of one that was stopped, the last part
    rows_per_second: float = math.nan  # of training in the last epoch, evaluation and first steps apart

    @property
    def best(self) -> EpochRow:
        """The row of the best epoch."""
        return self.rows[self.best_epoch - 1]

    def rows_trained(self, rows: int, batch_size: int) -> int:
        """Rows that training has seen, with repetitions, if an epoch has so many rows."""
        return len(self.rows) * rows + min(self.step * batch_size, rows)

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
    history: History | None = None,
    callback: Callback = no_callback,
    progress: RunProgress | None = None,
) -> History:
    """Train on `tables["train"]` for `epochs`, or until `patience` epochs have not improved the stopping metric.

    tables: "train", "validation" and optionally "test". Each epoch ends with an evaluation of all of them and adds a
    row to the history: epoch, learning_rate, then the metrics of each table. The stopping metric is a metric of the
    validation rows; test rows influence nothing. At the end the model has the weights of the best epoch.
    history: of an interrupted training, whose variables `ops` has. progress: shows how far the training is.

    Raises DivergedError if a loss or the best weights are not finite, DataError if the validation rows do not
    determine the stopping metric, and what `callback` raises.
    """
    history = history or History()
    higher_is_better = STOPPING_METRICS[ops.config.objective][stopping_metric] == "max"
    measured = tables | {"train": tables["train"].evenly_spaced(MAX_TRAIN_METRIC_ROWS)}
    meter = Meter(
        progress or RunProgress(), epochs=epochs, rows=tables["train"].rows,
        evaluated=sum(table.rows for table in measured.values()), can_stop=patience is not None,
    )  # fmt: skip
    while not history.is_over(epochs, patience):
        meter.best, began = best_so_far(history, stopping_metric), time.monotonic()
        train_epoch(ops, tables["train"], history, epochs, callback, meter)
        trained_at = time.monotonic()
        callback(history, epoch_ended=False)  # a request to stop need not wait for the metrics
        epoch, steps = len(history.rows) + 1, history.step
        row: EpochRow = {"epoch": epoch, "learning_rate": float(ops.learning_rate(steps * epochs))}
        row |= evaluated(ops, measured, meter, epoch)
        value = row[f"validation_{stopping_metric}"]
        check_validation(row, value, stopping_metric)
        history.rows.append(row)
        history.seconds.append(time.monotonic() - began)
        history.step = 0
        if epoch == 1 or (value > history.best_value if higher_is_better else value < history.best_value):
            history.best_epoch, history.best_value = epoch, value
            history.best_weights = {weight.path: weight.numpy() for weight in ops.model.weights}
            check_finite(history.best_weights, epoch)
        callback(history, epoch_ended=True)
        meter.between = time.monotonic() - trained_at
    for weight in ops.model.weights:
        weight.assign(history.best_weights[weight.path])
    return history


def evaluated(ops: "OpsWrapper", tables: "dict[str, Rows]", meter: Meter, epoch: int) -> EpochRow:
    """The metrics of each set, their names beginning with the set."""
    row: EpochRow = {}
    for side, table in tables.items():
        heartbeat.beat()
        metrics = ops.evaluate(table, meter.show_evaluation(epoch, side, table.rows))
        row |= {f"{side}_{name}": value for name, value in metrics.items()}
    return row


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


def best_so_far(history: History, stopping_metric: str) -> str:
    """The best epoch so far and its value of the stopping metric, for people; "" before the first."""
    return f"best {stopping_metric} {history.best_value:#.4g} in epoch {history.best_epoch}" if history.rows else ""


def train_epoch(
    ops: "OpsWrapper",
    table: "Rows",
    history: History,
    epochs: int,
    callback: Callback = no_callback,
    meter: Meter | None = None,
) -> None:
    """Do the remaining steps of an epoch: one pass over the rows, in an order drawn from the seed and the epoch."""
    meter = meter or Meter(RunProgress(), epochs=epochs, rows=table.rows)
    epoch, size, weight_scale = len(history.rows) + 1, ops.config.batch_size, table.weight_scale
    steps, steps_per_call, before = math.ceil(table.rows / size), 1, 0  # before: steps of the parts before this one
    counted_rows, counted_seconds, mark = meter.counted_rows, meter.counted_seconds, time.monotonic()
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
            history.step, rows_done = stop, min(stop * size, table.rows)
            callback(history, epoch_ended=False)
            now = time.monotonic()
            meter.count(rows_done - step * size, now - mark)
            meter.show_steps(epoch, rows_done, loss)
            mark, seconds = now, max(now - call_began, 1e-6)
            steps_per_call = max(1, min(4 * steps_per_call, int((stop - step) * CALL_SECONDS / seconds)))
        before = last
    seconds = meter.counted_seconds - counted_seconds
    history.rows_per_second = (meter.counted_rows - counted_rows) / seconds if seconds > 0 else math.nan
