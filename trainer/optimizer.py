"""Update rules that touch only the rows of an embedding that a batch looked up.

A stock optimizer walks through whole tables at every step, also where the gradient is zero: on a table of 200,000
rows that is most of the time of a step. Here a sparse gradient (`tf.IndexedSlices`) updates its own rows and their
slots only. For Adam this is the "lazy" variant: moments of untouched rows do not decay.

Adam: Kingma and Ba 2015, algorithm 1. Adagrad: Duchi et al. 2011. Dense tensors use TensorFlow's fused kernels.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
ADAGRAD_START = 0.1  # keeps the first steps finite
SLOTS_PER_RULE = {"adam": 2, "adagrad": 1, "sgd": 0}  # values remembered for each weight

Gradient = Any  # a tf.Tensor, or the tf.IndexedSlices of a table


class DistinctRows(tf.IndexedSlices):
    """A sparse gradient that names every row once."""


class Optimizer(tf.Module):
    """One update rule over a fixed list of variables; `slots` and `steps` are all of its state."""

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

    def apply(self, gradients: Sequence[Gradient], learning_rate: tf.Tensor, clip_norm: float | None = None) -> None:
        """One step. Gradients are float32, in the order of the variables; sparse ones with distinct rows."""
        self.steps.assign_add(1)
        if clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        if self.rule == "adam":  # both bias corrections folded into the step size, as in the paper's section 2
            t = tf.cast(self.steps, tf.float32)
            corrected = learning_rate * tf.sqrt(1.0 - BETA_2**t) / (1.0 - BETA_1**t)
        else:
            corrected = learning_rate
        for variable, slots, gradient in zip(self.variables_, self.slots, gradients, strict=True):
            update = self._update_rows if isinstance(gradient, tf.IndexedSlices) else self._update_dense
            update(variable, slots, gradient, corrected)

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
        self, variable: tf.Variable, slots: list[tf.Variable], gradient: tf.IndexedSlices, rate: tf.Tensor
    ) -> None:
        rows, g = gradient.indices, gradient.values
        if self.rule == "adam":
            m = BETA_1 * tf.gather(slots[0], rows) + (1.0 - BETA_1) * g
            v = BETA_2 * tf.gather(slots[1], rows) + (1.0 - BETA_2) * tf.square(g)
            scatter(slots[0], rows, m)
            scatter(slots[1], rows, v)
            step = m / (tf.sqrt(v) + EPSILON)
        elif self.rule == "adagrad":
            total = tf.gather(slots[0], rows) + tf.square(g)
            scatter(slots[0], rows, total)
            step = g / (tf.sqrt(total) + EPSILON)
        else:
            step = g
        scatter(variable, rows, tf.gather(variable, rows) - rate * step)  # ResourceScatterSub takes longer


def scatter(variable: tf.Variable, rows: tf.Tensor, values: tf.Tensor) -> None:
    """variable[rows] = values."""
    tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=rows, updates=values)


def sum_duplicates(gradient: Gradient) -> Gradient:
    """A sparse gradient with every row once: what its repeated rows add up to. Others pass."""
    if isinstance(gradient, DistinctRows) or not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, position = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
    return DistinctRows(values, rows, gradient.dense_shape)


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
