"""GRU and LSTM layers that skip padding, for speed on a CPU.

They have the weights and results of the Keras layers. On a GPU and on other backends than TensorFlow they are the
Keras layers; there Keras picks the cuDNN kernel.
On a CPU under TensorFlow the rows of a batch are sorted by length, so that
step t works on the rows that have a token t, a leading block without mask or padding; the input is projected for all
steps at once, and the gradient of the recurrent kernel is one product over all steps instead of a sum of one per step.
"""

from collections.abc import Callable
from typing import Any

import keras

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from trainer.model.optimizer import sum_by_row

Tensor = Any
# One step: projected input, state, recurrent kernel, recurrent bias -> new state, what its gradient needs.
Step = Callable[[Tensor, tuple[Tensor, ...], Tensor, Tensor], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
# Its gradient: gradients of the new state, what was saved, transposed kernel -> gradients of the projected input, of
# the recurrent product, and of the state.
StepGradient = Callable[[tuple[Tensor, ...], tuple[Tensor, ...], Tensor], tuple[Tensor, Tensor, tuple[Tensor, ...]]]


def gru_step(x: Tensor, state: tuple[Tensor, ...], kernel: Tensor, bias: Tensor) -> Any:
    """Cho et al. 2014 with the reset gate after the product, as cuDNN has it; gates in the order update, reset, new."""
    (h,) = state
    recurrent = tf.matmul(h, kernel) + bias
    width = h.shape[1]
    gates = tf.sigmoid(x[:, : 2 * width] + recurrent[:, : 2 * width])
    update, reset = gates[:, :width], gates[:, width:]
    product = recurrent[:, 2 * width :]
    new = tf.tanh(x[:, 2 * width :] + reset * product)
    return (new + update * (h - new),), (h, gates, product, new)


def gru_step_gradient(d_state: tuple[Tensor, ...], saved: tuple[Tensor, ...], kernel_t: Tensor) -> Any:
    (dh,), (h, gates, product, new) = d_state, saved
    update, reset = tf.split(gates, 2, axis=1)
    # All gradients are multiples of dh. Their factors do not wait for it: they are computed beside the chain of steps.
    by_new = (1.0 - update) * (1.0 - new * new)
    by_update = (h - new) * update * (1.0 - update)
    by_reset = by_new * product * reset * (1.0 - reset)
    d_recurrent = tf.concat([by_update, by_reset, by_new * reset], 1) * tf.concat([dh, dh, dh], 1)
    d_x = tf.concat([d_recurrent[:, : 2 * h.shape[1]], by_new * dh], 1)
    return d_x, d_recurrent, (dh * update + tf.matmul(d_recurrent, kernel_t),)


def lstm_step(x: Tensor, state: tuple[Tensor, ...], kernel: Tensor, bias: Tensor) -> Any:
    """Hochreiter and Schmidhuber 1997 with a forget gate; gates in the order input, forget, new, output."""
    h, c = state
    width = h.shape[1]
    z = x + tf.matmul(h, kernel) + bias
    entry_forget = tf.sigmoid(z[:, : 2 * width])
    new, output = tf.tanh(z[:, 2 * width : 3 * width]), tf.sigmoid(z[:, 3 * width :])
    cell = entry_forget[:, width:] * c + entry_forget[:, :width] * new
    squashed = tf.tanh(cell)
    return (output * squashed, cell), (h, c, entry_forget, new, output, squashed)


def lstm_step_gradient(d_state: tuple[Tensor, ...], saved: tuple[Tensor, ...], kernel_t: Tensor) -> Any:
    (dh, dc), (h, c, entry_forget, new, output, squashed) = d_state, saved
    width = h.shape[1]
    d_cell = dc + dh * output * (1.0 - squashed * squashed)
    d_entry_forget = tf.concat([d_cell * new, d_cell * c], 1) * entry_forget * (1.0 - entry_forget)
    d_new = d_cell * entry_forget[:, :width] * (1.0 - new * new)
    dz = tf.concat([d_entry_forget, d_new, dh * squashed * output * (1.0 - output)], 1)
    return dz, dz, (tf.matmul(dz, kernel_t), d_cell * entry_forget[:, width:])


def read_packed(
    vectors: Tensor, mask: Tensor, weights: list[Tensor], step: Step, step_gradient: StepGradient, states: int
) -> Tensor:
    """The last state of each row: float32 [batch, n, width] under a mask bool [batch, n] -> float32 [batch, units].

    Padding is on the right; a row without any token keeps the zeros it starts with. weights: kernel [width, gates],
    recurrent kernel [units, gates], bias of the input [gates], bias of the recurrent product [gates].
    """
    kernel, recurrent_kernel, bias, recurrent_bias = weights
    batch, steps, width = tf.shape(vectors)[0], vectors.shape[1], vectors.shape[2]
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    order = tf.argsort(-lengths, stable=True)
    active = tf.reduce_sum(tf.cast(mask, tf.int32), 0)  # rows that have a token t: the first of the order
    places = order[tf.newaxis] * steps + tf.range(steps)[:, tf.newaxis]
    places = tf.boolean_mask(places, tf.sequence_mask(active, batch))
    packed = affine(take_distinct(tf.reshape(vectors, [-1, width]), places), kernel, bias)

    @tf.custom_gradient
    def scan(packed: Tensor, kernel: Tensor, bias: Tensor) -> Any:
        counts = tf.unstack(active, steps)
        state = tuple(tf.zeros([batch, kernel.shape[0]]) for _ in range(states))
        saved, finished = [], []
        for count, x in zip(counts, tf.split(packed, active, num=steps), strict=True):
            finished.append(state[0][count:])
            state, kept = step(x, tuple(part[:count] for part in state), kernel, bias)
            saved.append(kept)
        finished.append(state[0])

        def gradient(d_last: Tensor) -> Any:
            d_last, kernel_t = tf.convert_to_tensor(d_last), tf.transpose(kernel)
            nothing = tf.zeros_like(d_last)
            d_xs, d_products = [], []
            d_state = tuple((d_last if part == 0 else nothing)[: counts[-1]] for part in range(states))
            for t in reversed(range(steps)):
                d_x, d_product, d_state = step_gradient(d_state, saved[t], kernel_t)
                d_xs.append(d_x)
                d_products.append(d_product)
                if t:  # the rows that ended before step t join in
                    joined = (d_last, *([nothing] * (states - 1)))
                    ends = tuple(part[counts[t] : counts[t - 1]] for part in joined)
                    d_state = tuple(tf.concat(pair, 0) for pair in zip(d_state, ends, strict=True))
            d_recurrent = tf.concat(d_products[::-1], 0)
            before = tf.concat([kept[0] for kept in saved], 0)
            d_kernel = tf.matmul(before, d_recurrent, transpose_a=True)
            return tf.concat(d_xs[::-1], 0), d_kernel, sum_of_rows(d_recurrent)

        return tf.concat(finished[::-1], 0), gradient

    last = scan(packed, tf.convert_to_tensor(recurrent_kernel), tf.convert_to_tensor(recurrent_bias))
    return tf.gather(last, tf.math.invert_permutation(order))


def take_distinct(vectors: Tensor, places: Tensor) -> Tensor:
    """float32 [n, width], int32 [m] without repetition -> [m, width]; `tf.gather` with a faster gradient."""

    @tf.custom_gradient
    def run(vectors: Tensor) -> Any:
        size = tf.shape(vectors)[0]
        return tf.gather(vectors, places), lambda upstream: sum_by_row(upstream, places, size)

    return run(vectors)


def affine(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """x kernel + bias, for float32 [n, width], [width, units] and [units]; the gradient of the bias by a product."""

    @tf.custom_gradient
    def run(x: Tensor, kernel: Tensor, bias: Tensor) -> Any:
        def gradient(upstream: Tensor) -> Any:
            d_x, d_kernel = tf.matmul(upstream, kernel, transpose_b=True), tf.matmul(x, upstream, transpose_a=True)
            return d_x, d_kernel, sum_of_rows(upstream)

        return tf.nn.bias_add(tf.matmul(x, kernel), bias), gradient

    return run(x, tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias))


def sum_of_rows(matrix: Tensor) -> Tensor:
    """float32 [n, width] -> [width]: as a matrix product, in a third of the time of `tf.reduce_sum`.

    Of two equal rows, since the kernel for a single one divides the sum among the threads, whose number would show.
    """
    return tf.matmul(tf.ones([2, tf.shape(matrix)[0]]), matrix)[0]


def on_cpu_of_tensorflow() -> bool:
    return keras.backend.backend() == "tensorflow" and not tf.config.list_logical_devices("GPU")


@keras.saving.register_keras_serializable("flatfab")
class GRU(keras.layers.GRU):
    """`keras.layers.GRU` for masked texts: vectors [batch, n, width], mask [batch, n] -> last state [batch, units]."""

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Tensor = None, training: bool = False) -> Tensor:
        if mask is None or not on_cpu_of_tensorflow():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        cell = self.cell
        weights = [cell.kernel, cell.recurrent_kernel, cell.bias[0], cell.bias[1]]
        return read_packed(turned(self, sequences, mask), mask, weights, gru_step, gru_step_gradient, states=1)


@keras.saving.register_keras_serializable("flatfab")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` for masked texts: vectors [batch, n, width], mask [batch, n] -> last state [batch, units]."""

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Tensor = None, training: bool = False) -> Tensor:
        if mask is None or not on_cpu_of_tensorflow():
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        cell = self.cell
        weights = [cell.kernel, cell.recurrent_kernel, cell.bias, tf.zeros_like(cell.bias)]
        return read_packed(turned(self, sequences, mask), mask, weights, lstm_step, lstm_step_gradient, states=2)


def turned(layer: keras.layers.Layer, vectors: Tensor, mask: Tensor) -> Tensor:
    """The tokens of each row in the layer's direction, padding still on the right."""
    if not layer.go_backwards:
        return vectors
    return tf.reverse_sequence(vectors, tf.reduce_sum(tf.cast(mask, tf.int32), 1), seq_axis=1)
