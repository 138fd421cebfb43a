"""The packed recurrent layers against the layers of Keras whose weights and results they share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import recurrent

LAYERS = {
    "gru": (recurrent.GRU, keras.layers.GRU),
    "lstm": (recurrent.LSTM, keras.layers.LSTM),
}
LENGTHS = {"mixed": [3, 0, 7, 1, 7, 5], "full": [7] * 6, "short": [1] * 6, "empty": [0] * 6, "one row": [4]}


def results(layer: keras.layers.Layer, vectors: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """The output, and the gradients of a function of it with respect to the input and every weight."""

    @tf.function(autograph=False)
    def run(inputs: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs, mask=tf.constant(mask))
            loss = tf.reduce_sum(tf.sin(output) * tf.range(1.0, 1.0 + output.shape[1]))
        sources = [inputs, *(weight.value for weight in layer.trainable_weights)]
        return [output, *tape.gradient(loss, sources)]

    return [tf.convert_to_tensor(result).numpy() for result in run(tf.constant(vectors))]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("both_directions", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_results_and_gradients_are_those_of_keras(cell: str, both_directions: bool, lengths: list[int]) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(lengths), 7, 4)).astype(np.float32)
    mask = np.arange(7) < np.array(lengths)[:, None]
    layers = [cls(5) for cls in LAYERS[cell]]
    if both_directions:
        layers = [keras.layers.Bidirectional(layer) for layer in layers]
    for layer in layers:
        layer.build(vectors.shape)
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    for ours, theirs in zip(*(results(layer, vectors, mask) for layer in layers), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", LAYERS)
def test_without_a_mask_the_layer_is_that_of_keras(cell: str) -> None:
    ours, theirs = (cls(5) for cls in LAYERS[cell])
    vectors = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    ours.build(vectors.shape)
    theirs.build(vectors.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(vectors), theirs(vectors))
