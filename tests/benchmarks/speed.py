"""Rows per second of our training loop and of Keras `fit`: the same model, batch and data, in alternating runs.

    python -m tests.benchmarks.speed [--rows=200000] [--rounds=5] [--network=rnn_v1] [--data=catalogue]

`fit` trains the model as one writes it with Keras' own layers (Embedding, GRU, average pooling) and Adam, our loop the
registered network; both begin with the same weights and have no dropout, so that only the loops differ. Each round
trains every contender for one epoch, one after the other, so that a machine that slows down slows down all of them. The
table gives the median rate, its ratio to `fit` on a shuffled `tf.data` pipeline, and the best test loss that each
contender reached in the course of the rounds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trainer.runtime.command import import_tensorflow_quietly

import_tensorflow_quietly()

import keras
import numpy as np
import tensorflow as tf

import networks
from data.make_sample import write_sample
from trainer.config.loading import load_config
from trainer.features import DatasetShapes, pipeline
from trainer.features.preprocessing import LABEL, WEIGHT, transform
from trainer.features.rules import fit_preprocessing
from trainer.features.sides import split_sides
from trainer.features.tables import Table, shuffled
from trainer.model import layers, recurrent
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph

BATCH = {"deep_v1": 1024, "rnn_v1": 512}
Examples = dict[str, np.ndarray]


def sample_data(rows: int) -> tuple[DatasetShapes, dict[str, Examples]]:
    """Rows of `data/make_sample.py`: some 2,000 items, 250 words."""
    config = load_config("deep_v1", environ={}).config
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        write_sample(path, rows)
        cut = split_sides(config, {"train": pipeline.read(config, str(path), path.name)})
    sides = {side: cut[side][0].take(cut[side][1]) for side in ("train", "test")}
    fitted = fit_preprocessing(config, sides["train"])
    return fitted.shapes(), {side: transform(fitted, frame) for side, frame in sides.items()}


def catalogue_data(rows: int) -> tuple[DatasetShapes, dict[str, Examples]]:
    """A large catalogue: 200,000 items, 30,000 words, values by Zipf's law; the label follows the taste of each."""
    random = np.random.default_rng(0)
    sizes = {"item": 200_000, "publisher": 5_000, "campaign": 500, "country": 50, "device": 10}
    words, tokens, numbers = 30_000, 16, ("position", "age", "price", "days")
    examples = {column: zipf(random, size, rows) for column, size in sizes.items()}
    lengths = random.integers(4, tokens + 1, rows)
    examples["title"] = zipf(random, words, (rows, tokens)) * (np.arange(tokens) < lengths[:, None]).astype(np.int32)
    for column in numbers:
        examples[column] = np.stack([random.normal(size=rows), np.zeros(rows)], axis=1).astype(np.float32)
    logit = sum(random.normal(scale=0.5, size=size)[examples[column]] for column, size in sizes.items())
    logit += (random.normal(size=words)[examples["title"]] * (examples["title"] > 0)).sum(axis=1) / lengths
    logit += 0.5 * np.sin(2 * examples["age"][:, 0]) - 2
    examples[LABEL] = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    examples[WEIGHT] = np.ones(rows, np.float32)
    shapes = DatasetShapes(sizes, {}, {"title": (words, tokens)}, numbers, 1, (-2.0,), 0.0, 1.0)
    cut = rows - rows // 10
    sides = {"train": slice(0, cut), "test": slice(cut, None)}
    return shapes, {side: {name: array[part] for name, array in examples.items()} for side, part in sides.items()}


def zipf(random: np.random.Generator, size: int, shape: int | tuple[int, int]) -> np.ndarray:
    """Ids 3 to size - 1, int32, the n-th with a chance in proportion to 1 / n."""
    ranks = np.floor((size - 2.0) ** random.random(shape)).astype(np.int32)  # the inverse of log(rank) / log(size)
    return np.minimum(ranks + 2, size - 1)


DATA = {"catalogue": catalogue_data, "sample": sample_data}


class Contender:
    """A way to train: its epoch function, its seconds per epoch and its test losses."""

    def __init__(self, name: str, epoch: Callable[[int], None], test_loss: Callable[[], float]) -> None:
        self.name, self.epoch, self.test_loss = name, epoch, test_loss
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def run(self, number: int) -> None:
        began = time.perf_counter()
        self.epoch(number)
        self.seconds.append(time.perf_counter() - began)
        self.losses.append(self.test_loss())


class AverageOfWords(keras.layers.Layer):
    """A stock embedding and the mean over what is not padding; Keras' pooling layer divides 0 by 0 at an empty text."""

    def __init__(self, size: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(size, width)

    def call(self, ids: Any) -> Any:
        mask = keras.ops.expand_dims(keras.ops.cast(ids != 0, "float32"), -1)
        total = keras.ops.sum(self.embedding(ids) * mask, axis=1)
        return total / keras.ops.maximum(keras.ops.sum(mask, axis=1), 1.0)


def stock(model: keras.Model) -> keras.Model:
    """The same model with the same weights, of Keras' own layers."""

    def layer_of_keras(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, layers.MeanEmbedding):
            return AverageOfWords(layer.size, layer.width, name=layer.name)
        if isinstance(layer, layers.Embedding):
            return keras.layers.Embedding(layer.size, layer.width, name=layer.name)
        if isinstance(layer, recurrent.GRU):
            return keras.layers.GRU.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    clone = keras.models.clone_model(model, clone_function=layer_of_keras)
    clone.set_weights(model.get_weights())
    return clone


def in_graph(ops: OpsWrapper, table: Table, test: Table, epochs: int) -> Contender:
    steps = -(-table.rows // ops.config.batch_size)

    def epoch(number: int) -> None:
        ops.train_steps(table, shuffled(table.rows, [ops.config.seed, number]), 0, steps, steps * epochs).numpy()

    return Contender("in-graph epoch", epoch, lambda: ops.evaluate(test)["loss"])


def keras_fit(name: str, ops: OpsWrapper, examples: Examples, test: Table) -> Contender:
    """`fit` on arrays, or on a shuffled `tf.data` pipeline, with Keras' own Adam; `ops` measures the test loss."""
    batch, model = ops.config.batch_size, stock(ops.model)

    def test_loss() -> float:
        ops.model.set_weights(model.get_weights())
        return ops.evaluate(test)["loss"]

    features = {column: array for column, array in examples.items() if column not in (LABEL, WEIGHT)}
    weights = examples[WEIGHT] / examples[WEIGHT].mean()
    arrays = (features, examples[LABEL][:, None], weights)
    model.compile(
        keras.optimizers.Adam(ops.config.learning_rate, epsilon=1e-7), keras.losses.BinaryCrossentropy(from_logits=True)
    )
    if name == "fit on tf.data":
        data = tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(weights)).batch(batch).prefetch(tf.data.AUTOTUNE)
        return Contender(name, lambda _: model.fit(data, verbose=0), test_loss)
    x, y, w = arrays
    return Contender(name, lambda _: model.fit(x, y, sample_weight=w, batch_size=batch, verbose=0), test_loss)


def race(network: str, data: str, names: Sequence[str], *, rows: int, rounds: int) -> None:
    """Print the table of one network on one kind of data."""
    shapes, examples = DATA[data](rows)
    settings = load_config(network, environ={"NET_BATCH_SIZE": str(BATCH[network]), "NET_DROPOUT": "0", **os.environ})
    contenders = []
    for name in names:
        ops = build_model_graph(settings.config, shapes)  # seeded: all start from the same weights
        test = ops.table(examples["test"])
        if name == "in-graph epoch":
            contenders.append(in_graph(ops, ops.table(examples["train"]), test, rounds + 1))
        else:
            contenders.append(keras_fit(name, ops, examples["train"], test))
    for number in range(rounds + 1):  # the first round traces and warms up; it trains, but its time does not count
        for contender in contenders:
            contender.run(number)
    rows = len(examples["train"][LABEL])
    rates = [rows / statistics.median(contender.seconds[1:]) for contender in contenders]
    print(f"\n{network} on {data} rows, batch {settings.config.batch_size}, {rows:,} training rows, {rounds} rounds")
    print(f"{'':16}  {'rows/s':>9}  {'ratio':>6}  {'best test loss':>14}  {'after each epoch'}")
    for contender, rate in zip(contenders, rates, strict=True):
        losses = " ".join(f"{loss:.5f}" for loss in contender.losses)
        best = min(contender.losses)
        print(f"{contender.name:16}  {rate:9,.0f}  {rate / rates[-1]:6.1f}  {best:14.5f}  {losses}", flush=True)


def main() -> None:
    """Race all networks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=networks.names(), action="append")
    parser.add_argument("--data", choices=DATA, action="append")
    parser.add_argument("--ours", action="store_true", help="only our loop: what a setting costs, by NET_... variables")
    arguments = parser.parse_args()
    names = ("in-graph epoch",) if arguments.ours else ("in-graph epoch", "fit on arrays", "fit on tf.data")
    for network in arguments.network or networks.names():
        for data in arguments.data or DATA:
            race(network, data, names, rows=arguments.rows, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
