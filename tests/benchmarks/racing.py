"""Training, evaluation and scoring against Keras, in one process each: the sides take turns in every round."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from trainer.runtime.command import import_tensorflow_quietly

import_tensorflow_quietly()

import keras
import numpy as np

from tests.benchmarks import speed
from trainer.config.loading import load_config
from trainer.features import DatasetShapes
from trainer.features.preprocessing import LABEL, WEIGHT
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph

CONTENDERS = {
    "in-graph epoch": "this trainer",
    "fit on tf.data": "fit, shuffled tf.data",
    "fit on arrays": "fit, arrays",
}
EVALUATION_BATCH = 8192

Figures = dict[str, dict[str, float]]  # by side


def build(network: str, shapes: DatasetShapes) -> OpsWrapper:
    """The network as the race needs it: without dropout, all from the same weights."""
    settings = {"NET_BATCH_SIZE": str(speed.BATCH[network]), "NET_DROPOUT": "0"}
    return build_model_graph(load_config(network, environ=settings).config, shapes)


def train(network: str, data: str, rows: int, rounds: int) -> Figures:
    """An epoch per side and round: the median of its seconds, and the best test loss after any of them.

    The first round traces and warms up; it trains, but its time does not count.
    """
    shapes, examples = speed.DATA[data](rows)
    contenders = {}
    for name, side in CONTENDERS.items():
        ops = build(network, shapes)
        table, test = ops.table(examples["train"]), ops.table(examples["test"])
        contenders[side] = (
            speed.in_graph(ops, table, test, rounds + 1)
            if name == "in-graph epoch"
            else speed.keras_fit(name, ops, examples["train"], test)
        )
    for number in range(rounds + 1):
        for contender in contenders.values():
            contender.run(number)
    count = len(examples["train"][LABEL])
    return {
        side: {"rows": count, "seconds": median(contender.seconds[1:]), "loss": min(contender.losses)}
        for side, contender in contenders.items()
    }


def score(network: str, data: str, rows: int, rounds: int, least_seconds: float) -> dict[str, Figures]:
    """Evaluation of the training rows, and predictions for batches of several sizes from encoded arrays.

    least_seconds: over which calls are repeated to time one.
    """
    shapes, examples = speed.DATA[data](rows)
    ops, train = build(network, shapes), examples["train"]
    model = speed.stock(ops.model)
    features = {column: array for column, array in train.items() if column not in (LABEL, WEIGHT)}
    labelled = (features, train[LABEL][:, None], train[WEIGHT] / train[WEIGHT].mean())
    table, count = ops.table(train), len(train[LABEL])
    evaluators: dict[str, Callable[[], object]] = {"ops.evaluate, all metrics": lambda: ops.evaluate(table)["loss"]}
    for side, metrics in (("model.evaluate, loss", None), ("model.evaluate, loss and AUC", [auc()])):
        evaluators[side] = keras_evaluation(model if metrics is None else speed.stock(ops.model), labelled, metrics)
    timings = {f"evaluate {count:,}": turns(evaluators, rounds, count, least_seconds)}
    for size in sorted({1, min(512, count), min(16_384, count)}):
        batch = {column: array[:size] for column, array in features.items()}
        scorers: dict[str, Callable[[], object]] = {
            "ops.predict": partial(predict, ops, batch),
            "model.predict": partial(model.predict, batch, batch_size=size, verbose=0),
            "model.predict_on_batch": partial(model.predict_on_batch, batch),
        }
        timings[f"score {size:,}"] = turns(scorers, rounds, size, least_seconds)
    return timings


def predict(ops: OpsWrapper, examples: speed.Examples) -> np.ndarray:
    return ops.predict(ops.table(examples))


def auc() -> keras.metrics.Metric:
    return keras.metrics.AUC(from_logits=True, name="auc")


def keras_evaluation(model: keras.Model, labelled: tuple[Any, ...], metrics: list[Any] | None) -> Callable[[], float]:
    """`evaluate` on arrays, in batches as large as ours."""
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), weighted_metrics=metrics)
    x, y, weights = labelled
    return lambda: model.evaluate(
        x, y, sample_weight=weights, batch_size=EVALUATION_BATCH, verbose=0, return_dict=True
    )["loss"]


def turns(sides: dict[str, Callable[[], object]], rounds: int, rows: int, least_seconds: float) -> Figures:
    """The median over the rounds of the seconds of a call; the loss, if a call returns one."""
    answers = {side: call() for side, call in sides.items()}  # traces
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, call in sides.items():
            seconds[side].append(seconds_of(call, least_seconds))
    losses = {side: {"loss": answer} if isinstance(answer, float) else {} for side, answer in answers.items()}
    return {side: {"rows": rows, "seconds": median(times), **losses[side]} for side, times in seconds.items()}


def seconds_of(call: Callable[[], object], least_seconds: float) -> float:
    """The mean seconds of a call, repeated until the clock can measure it."""
    calls, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < least_seconds:
        call()
        calls += 1
    return seconds / calls
