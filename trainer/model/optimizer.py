"""Optimizers that update only the rows of an embedding table that a batch looked up.

Keras' optimizers update all rows of a table at every step, even where the gradient is zero: with 200,000 rows, that is
most of the time of a step. Here a sparse gradient (`tf.IndexedSlices`) updates its own rows and their
slots only. For Adam this is the "lazy" variant: moments of untouched rows do not decay. A table of at most SMALL_TABLE
rows is updated completely, as Keras does: that takes less time than selecting rows.

Adam: Kingma and Ba 2015, algorithm 1. Adagrad: Duchi et al. 2011. Both by TensorFlow's fused kernels.
"""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.model.replicas import own

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
ADAGRAD_START = 0.1  # keeps the first steps finite
SMALL_TABLE = 4096  # rows
SLOTS_PER_RULE = {"adam": 2, "adagrad": 1, "sgd": 0}  # values remembered for each weight

Gradient = Any  # a tf.Tensor, or the tf.IndexedSlices of a table


class DistinctRows(tf.IndexedSlices):
    """A sparse gradient that names every row once."""


class Optimizer(tf.Module):
    """One update rule over a fixed list of variables; `slots` and `steps` are all of its state.

    `blocks` are not: in the course of a step they hold the rows of a table that it updates, and those of its slots.
    """

    def __init__(self, rule: str, variables: Sequence[tf.Variable]) -> None:
        super().__init__(name="optimizer")
        self.rule = rule
        self.variables_ = list(variables)
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="steps")
        start = ADAGRAD_START if rule == "adagrad" else 0.0
        self.slots = [
            [tf.Variable(tf.fill(v.shape, start), trainable=False) for _ in range(SLOTS_PER_RULE[rule])]
            for v in self.variables_
        ]
        self.blocks = [
            [tf.Variable(tf.zeros([0, *v.shape[1:]]), shape=[None, *v.shape[1:]], trainable=False) for _ in (v, *slots)]
            for v, slots in zip(self.variables_, self.slots, strict=True)
        ]

    def apply(self, gradients: Sequence[Gradient], learning_rate: tf.Tensor, clip_norm: float | None = None) -> None:
        """One step. Gradients are float32, in the order of the variables; sparse ones with distinct rows."""
        steps = own(self.steps)
        steps.assign_add(1)
        if clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        if self.rule == "adam":  # both bias corrections folded into the step size, as in the paper's section 2
            t = tf.cast(steps, tf.float32)
            corrected = learning_rate * tf.sqrt(1.0 - BETA_2**t) / (1.0 - BETA_1**t)
        else:
            corrected = learning_rate
        variables, slots_of, blocks_of = tf.nest.map_structure(own, [self.variables_, self.slots, self.blocks])
        for variable, slots, blocks, gradient in zip(variables, slots_of, blocks_of, gradients, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                self._update_rows([variable, *slots], blocks, gradient, corrected)
            else:
                self._update_dense(variable, slots, gradient, corrected)

    def _update_dense(self, variable: tf.Variable, slots: list[tf.Variable], g: tf.Tensor, rate: tf.Tensor) -> None:
        handles = [slot.handle for slot in slots]
        if self.rule == "adam":
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=handles[0], v=handles[1], beta1_power=0.0, beta2_power=0.0,
                lr=rate, beta1=BETA_1, beta2=BETA_2, epsilon=EPSILON, grad=g,
            )  # fmt: skip
        elif self.rule == "adagrad":
            tf.raw_ops.ResourceApplyAdagradV2(var=variable.handle, accum=handles[0], lr=rate, epsilon=EPSILON, grad=g)
        else:
            variable.assign_sub(rate * g)

    def _update_rows(
        self, tables: list[tf.Variable], blocks: list[tf.Variable], gradient: tf.IndexedSlices, rate: tf.Tensor
    ) -> None:
        """The dense update of a block: the rows that the gradient names, in one piece."""
        for table, block in zip(tables, blocks, strict=True):
            block.assign(tf.gather(table, gradient.indices))
        self._update_dense(blocks[0], blocks[1:], gradient.values, rate)
        for table, block in zip(tables, blocks, strict=True):
            tf.raw_ops.ResourceScatterUpdate(
                resource=table.handle, indices=gradient.indices, updates=block.read_value()
            )


def sum_duplicates(gradient: Gradient) -> Gradient:
    """A sparse gradient with every row once: what its repeated rows add up to. That of a small table becomes dense.

    Dense gradients pass, and so do sparse ones that name every row once.
    """
    if isinstance(gradient, DistinctRows) or not isinstance(gradient, tf.IndexedSlices):
        return gradient
    size, *row = gradient.shape.as_list()
    indices = tf.cast(tf.reshape(gradient.indices, [-1]), tf.int32)
    values = tf.reshape(gradient.values, [-1, math.prod(row)])
    if size <= SMALL_TABLE:
        return tf.reshape(sum_by_row(values, indices, size), [size, *row])
    rows, position = tf.unique(indices)
    values = sum_by_row(values, position, tf.size(rows))
    return DistinctRows(tf.reshape(values, [-1, *row]), rows, gradient.dense_shape)


def sum_by_row(values: tf.Tensor, rows: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """float32 [n, width] and int32 [n] -> [size, width], whose row i is the sum of the values of which `rows` is i."""
    count = tf.size(rows)
    return sparse_product(pairs(rows, tf.range(count)), tf.ones([count]), [size, count], values)


def pairs(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Two int32 [n] side by side: int32 [n, 2]. What `tf.stack` gives, in a tenth of its time."""
    halves = (tf.bitcast(numbers, tf.float32) for numbers in (first, second))
    return tf.bitcast(tf.complex(*halves), tf.int32)


def sparse_product(
    entries: tf.Tensor, weights: tf.Tensor, shape: Sequence[int | tf.Tensor], dense: tf.Tensor, transpose: bool = False
) -> tf.Tensor:
    """The product of a sparse matrix, or of its transpose, and a dense one, float32 [columns, width].

    The sparse matrix has `weights[k]`, float32 [n], at row and column `entries[k]`, int32 [n, 2] in any order;
    repeated places add up.
    """
    # TensorFlow's kernel is a plain loop below 32 columns, and calls a slower piece of code per entry from there on:
    # pieces of 16 columns take a tenth of the time, up to widths where that call no longer counts.
    width = dense.shape[1]
    widths = [min(16, width - start) for start in range(0, width, 16)] if width <= 256 else [width]
    products = [
        tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=entries, a_values=weights, a_shape=tf.cast(tf.stack(shape), tf.int64), b=part, adjoint_a=transpose
        )
        for part in tf.split(dense, widths, axis=1)
    ]
    return tf.concat(products, axis=1)


def learning_rate_at(
    step: tf.Tensor, *, base: float, warmup_steps: int, decay: str, total_steps: tf.Tensor
) -> tf.Tensor:
    """The rate of a step, counted from 0: linear warm-up from 0 to `base`, then decay towards 0 at `total_steps`.

    Cosine: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    step, total = tf.cast(step, tf.float32), tf.cast(total_steps, tf.float32)
    rate = tf.constant(base, tf.float32)
    if decay != "none":
        done = tf.clip_by_value((step - warmup_steps) / tf.maximum(total - warmup_steps, 1.0), 0.0, 1.0)
        rate *= (1.0 - done) if decay == "linear" else 0.5 * (1.0 + tf.cos(tf.constant(3.141592653589793) * done))
    if warmup_steps:
        rate *= tf.minimum((step + 1.0) / warmup_steps, 1.0)
    return rate
