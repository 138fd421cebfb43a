"""Compile the operations of a model: train steps, evaluate, predict.

Many steps are one `tf.function` over tensors that stay in memory: shuffled order, gather of a batch, forward,
backward and update never return to Python. That is many times faster than feeding batches from outside.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import networks
from trainer.config.net_config import NetConfig
from trainer.features import DatasetShapes
from trainer.features.encoded import to_encoded_rows
from trainer.features.preprocessing import Examples
from trainer.features.tables import Rows, Table, to_table
from trainer.features.untrained import States
from trainer.model import objectives, replicas
from trainer.model.hiding import hide_values
from trainer.model.metrics import Metrics
from trainer.model.optimizer import Optimizer, learning_rate_at, sum_duplicates

EVALUATION_BATCH = 8192  # rows; larger ones gain nothing on a CPU
EVALUATION_CALL = 8 * EVALUATION_BATCH  # rows, until Python shows the progress
MAX_GAIN_ROWS = 65_536  # enough to see a gain of a hundredth of the loss's standard deviation


class Gain(NamedTuple):
    """How much lower one mean loss is than another, and the standard error of the difference."""

    mean: float
    error: float


def set_deterministic(seed: int, deterministic: bool | None) -> None:
    """Seed Python, NumPy and Keras; make TensorFlow operations deterministic, unless on a GPU by default."""
    keras.utils.set_random_seed(seed)
    if deterministic or (deterministic is None and not tf.config.list_physical_devices("GPU")):
        tf.config.experimental.enable_op_determinism()


class Outline(NamedTuple):
    """What building a network would make."""

    weights: dict[str, tuple[tuple[int, ...], str]]  # shape and dtype by path
    row_bytes: int  # of the outputs of all layers for one row


def outline_of(net_config: NetConfig, dataset_shapes: DatasetShapes) -> Outline:
    """Build a network without memory for its weights: however wide it is, this takes little."""
    keras.utils.clear_session(free_memory=False)
    with keras.StatelessScope(initialize_variables=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = networks.load(net_config.network).build_graph(net_config, dataset_shapes)
    outputs = [tensor for layer in model.layers for tensor in keras.tree.flatten(layer.output)]
    return Outline(
        {weight.path: (tuple(weight.shape), str(weight.dtype)) for weight in model.weights},
        4 * sum(math.prod(tensor.shape[1:]) for tensor in outputs),
    )


def build_model_graph(
    net_config: NetConfig, dataset_shapes: DatasetShapes, untrained: States | None = None
) -> "OpsWrapper":
    """The configured network with its operations, weights drawn from the configured seed.

    untrained: what training rows lack, to be put into some of them; see `trainer.model.hiding`.
    """
    # Layers without a name count from the start: weights keep their names in any process.
    keras.utils.clear_session(free_memory=False)
    set_deterministic(net_config.seed, net_config.deterministic)
    strategy = replicas.strategy(net_config.batch_size)
    with strategy.scope(), warnings.catch_warnings():
        # Inputs are looked up by column; their names only have to differ from the names of other layers.
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        model = networks.load(net_config.network).build_graph(net_config, dataset_shapes)
    return OpsWrapper(model, net_config, dataset_shapes, strategy, untrained)


def compiled(function: Callable[..., Any], *signature: Any) -> Any:
    """The function as a graph, traced once for all sizes that the signature allows."""
    return tf.function(function, input_signature=signature, autograph=False)


class OpsWrapper(tf.Module):
    """A Keras model and its operations for the training loop, on one device or on all devices of the strategy."""

    def __init__(
        self,
        model: keras.Model,
        net_config: NetConfig,
        dataset_shapes: DatasetShapes,
        strategy: replicas.Strategy | None = None,
        untrained: States | None = None,
    ) -> None:
        super().__init__(name="ops")
        self.model = model
        self.config = net_config
        self.shapes = dataset_shapes
        self.untrained = untrained if untrained and len(untrained.ids) and net_config.hidden_share else None
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.strategy.scope():
            self.optimizer = Optimizer(net_config.optimizer, [weight.value for weight in model.trainable_weights])
        label = (dataset_shapes.outputs, dataset_shapes.label_mean, dataset_shapes.label_std)
        self.metrics = Metrics(net_config.objective, *label, center=dataset_shapes.output_bias[0])
        table, number = self._table_spec(), tf.TensorSpec((), tf.int32)
        # Signatures without a number of rows: one trace serves every table.
        order, scale = tf.TensorSpec([None], tf.int32), tf.TensorSpec((), tf.float32)
        self._compiled_steps = compiled(self._train_steps, table, order, number, number, number, scale)
        self._evaluate_rows = compiled(self._evaluate, table)
        self._predict_rows = compiled(self._predict, table.ids, table.numbers)

    def _table_spec(self) -> Table:
        multilabel, multiclass = self.config.objective == "multilabel", self.config.objective == "multiclass"
        return Table(
            tf.TensorSpec([None, sum(self.shapes.id_widths.values())], tf.int32),
            tf.TensorSpec([None, 2 * len(self.shapes.numeric)], tf.float32),
            tf.TensorSpec([None, None] if multilabel else [None], tf.int32 if multilabel or multiclass else tf.float32),
            tf.TensorSpec([None], tf.float32),
        )

    def table(self, examples: Examples) -> Table:
        """Examples as tensors; without labels they are zeros, for prediction."""
        return to_table(to_encoded_rows(examples, self.shapes))

    def state(self) -> dict[str, tf.Variable]:
        """All variables that a checkpoint needs, by name: weights, dropout seeds, optimizer state."""
        state = {variable.path: variable.value for variable in self.model.variables}
        for variable, slots in zip(self.model.trainable_weights, self.optimizer.slots, strict=True):
            state |= {f"optimizer/{variable.path}/{number}": slot for number, slot in enumerate(slots)}
        return state | {"optimizer/steps": self.optimizer.steps}

    def features(self, ids: tf.Tensor, numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns of a batch of encoded rows, as the model takes them."""
        widths = self.shapes.id_widths
        columns = dict(zip(widths, tf.split(ids, list(widths.values()), axis=1), strict=True)) if widths else {}
        columns |= {column: columns[column][:, 0] for column in self.shapes.categorical}
        return columns | {column: numbers[:, 2 * i : 2 * i + 2] for i, column in enumerate(self.shapes.numeric)}

    def train_steps(
        self, table: Table, order: tf.Tensor, first: int, stop: int, steps_in_all: int, weight_scale: float = 1.0
    ) -> tf.Tensor:
        """Steps `first` to `stop` of an epoch, with the rows in this order; the sum of their losses, float32 [].

        weight_scale: makes the mean weight of the training set 1, so that the learning rate suits any weights.
        """
        return self._compiled_steps(table, order, first, stop, steps_in_all, weight_scale)

    def _train_steps(
        self, table: Table, order: tf.Tensor, first: tf.Tensor, stop: tf.Tensor, steps_in_all: tf.Tensor,
        weight_scale: tf.Tensor,
    ) -> tf.Tensor:  # fmt: skip
        size = self.config.batch_size
        rows = order[first * size : stop * size]
        shuffled = Table(*(tf.gather(column, rows) for column in table))  # at once: a gather per batch takes longer
        if self.untrained:
            done = self.optimizer.steps * size
            shuffled = hide_values(shuffled, self.untrained, self.config.hidden_share, self.config.seed, done)

        def train_step(step: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = Table(*(column[step * size : (step + 1) * size] for column in shuffled))
            batch = batch._replace(weights=batch.weights * weight_scale)
            losses = self.strategy.run(self._replica_step, (batch, steps_in_all))
            return step + 1, total + sum(self.strategy.experimental_local_results(losses))

        return tf.while_loop(lambda step, _: step < stop - first, train_step, (0, 0.0), parallel_iterations=1)[1]

    def _replica_step(self, batch: Table, steps_in_all: tf.Tensor) -> tf.Tensor:
        """A step on this replica's share of the batch; its part of the loss."""
        config, replicas_in_sync = self.config, self.strategy.num_replicas_in_sync
        rows = tf.shape(batch.weights)[0]
        if replicas_in_sync > 1:
            first, end, counted = replicas.share(rows)
            batch = Table(*(column[first:end] for column in batch))
            batch = batch._replace(weights=batch.weights * tf.cast(counted > 0, tf.float32))
        with tf.GradientTape() as tape:
            logits = self.model(self.features(batch.ids, batch.numbers), training=True)
            losses = batch.weights * objectives.row_loss(config.objective, logits, batch.labels)
            loss = tf.reduce_sum(losses) / tf.cast(rows, tf.float32)
            loss += sum(self.model.losses) / replicas_in_sync  # of regularised layers
        gradients = [sum_duplicates(g) for g in tape.gradient(loss, self.optimizer.variables_)]
        if replicas_in_sync > 1:
            gradients = [sum_duplicates(g) for g in replicas.summed(gradients)]
        self.optimizer.apply(gradients, self.learning_rate(steps_in_all), config.clip_norm)
        return loss

    def learning_rate(self, steps_in_all: int | tf.Tensor) -> tf.Tensor:
        """The learning rate of the next step, float32 []."""
        config = self.config
        return learning_rate_at(
            self.optimizer.steps, base=config.learning_rate, warmup_steps=config.warmup_steps,
            decay=config.decay, total_steps=steps_in_all,
        )  # fmt: skip

    def evaluate(self, rows: Rows, advance: Callable[[int], None] | None = None) -> dict[str, float]:
        """The metrics of the model on labelled rows; `self.metrics` then still holds their curve.

        advance: called with the number of rows that are done, now and then.
        """
        self.metrics.reset()
        done = 0
        for table in rows.in_order():
            for start in range(0, table.rows, EVALUATION_CALL):
                part = Table(*(column[start : start + EVALUATION_CALL] for column in table))
                self._evaluate_rows(part)
                done += part.rows
                if advance:
                    advance(done)
        return self.metrics.result()

    def _evaluate(self, table: Table) -> None:
        rows = tf.shape(table.weights)[0]

        def add_batch(start: tf.Tensor) -> tuple[tf.Tensor]:
            batch = Table(*(column[start : start + EVALUATION_BATCH] for column in table))
            self.metrics.update(self._logits(batch.ids, batch.numbers), batch.labels, batch.weights)
            return (start + EVALUATION_BATCH,)

        tf.while_loop(lambda start: start < rows, add_batch, (0,), parallel_iterations=1)

    def _logits(self, ids: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """float32 [batch, outputs] in evaluation mode; of several devices each does its share of the rows."""

        def part(ids: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
            first, end, counted = replicas.share(tf.shape(ids)[0])
            return self.model(self.features(ids[first:end], numbers[first:end]), training=False)[:counted]

        if self.strategy.num_replicas_in_sync == 1:
            return self.model(self.features(ids, numbers), training=False)
        parts = self.strategy.run(part, (ids, numbers))
        return tf.concat(self.strategy.experimental_local_results(parts), axis=0)

    def evaluate_constant(self, rows: Rows) -> dict[str, float]:
        """The metrics of the best constant prediction, taken from the training rows: the baseline of a model."""
        self.metrics.reset()
        for table in rows.in_order():
            for start in range(0, table.rows, EVALUATION_BATCH):
                _, _, labels, weights = (column[start : start + EVALUATION_BATCH] for column in table)
                logits = tf.tile(tf.constant([self.shapes.output_bias], tf.float32), [weights.shape[0], 1])
                self.metrics.update(logits, labels, weights)
        return self.metrics.result()

    def gain_over_constant(self, rows: Rows) -> Gain:
        """How much lower the mean loss of the model is than that of the best constant prediction, on at most
        MAX_GAIN_ROWS rows."""
        differences, weights = [], []
        for table in rows.evenly_spaced(MAX_GAIN_ROWS).in_order():
            for start in range(0, table.rows, EVALUATION_BATCH):
                batch = Table(*(column[start : start + EVALUATION_BATCH] for column in table))
                logits = self.model(self.features(batch.ids, batch.numbers), training=False)
                losses = [
                    objectives.row_loss(self.config.objective, tf.cast(values, tf.float64), batch.labels)
                    for values in (tf.broadcast_to(self.shapes.output_bias, logits.shape), logits)
                ]
                differences.append((losses[0] - losses[1]).numpy())
                weights.append(batch.weights.numpy().astype(np.float64))
        difference, weight = np.concatenate(differences), np.concatenate(weights)
        total = max(float(weight.sum()), 1e-30)
        mean = float(weight @ difference) / total
        return Gain(mean, float(np.sqrt(np.square(weight * (difference - mean)).sum())) / total)

    def predict(self, table: Table) -> np.ndarray:
        """float32 [rows], or [rows, classes]: probabilities, or the number of a regression."""
        starts = range(0, table.rows, EVALUATION_BATCH)
        parts = [self._predict_rows(*(column[s : s + EVALUATION_BATCH] for column in table[:2])) for s in starts]
        return np.concatenate([part.numpy() for part in parts])

    def _predict(self, ids: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        return self.predictions(self.features(ids, numbers))

    def prediction_graph(self) -> Any:
        """The concrete function that predicts, for TensorBoard; it shows the layers by their names."""
        return self._predict_rows.get_concrete_function()

    def predictions(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Features by column -> predictions, inside a graph."""
        logits = self.model(features, training=False)
        return objectives.predictions(self.config.objective, logits, self.shapes.label_mean, self.shapes.label_std)
