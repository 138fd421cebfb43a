"""The packed recurrent layers against the layers of Keras whose weights and results they share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model import recurrent

LAYERS = {
    "gru": (recurrent.GRU, keras.layers.GRU),
    "lstm": (recurrent.LSTM, keras.layers.LSTM),
}
STEPS = 7
LENGTHS = {"mixed": [3, 0, 7, 1, 7, 5], "full": [7] * 6, "short": [1] * 6, "empty": [0] * 6, "one row": [4]}


def results(layer: keras.layers.Layer, rows: list[tuple[np.ndarray, np.ndarray]]) -> list[list[np.ndarray]]:
    """Of each batch of vectors and their mask the output, and the gradients of a function of it with respect to the
    input and every weight."""

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None, STEPS, 4]), tf.TensorSpec([None, STEPS], tf.bool)]
    )
    def run(inputs: tf.Tensor, mask: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layer(inputs, mask=mask)
            loss = tf.reduce_sum(tf.sin(output) * tf.range(1.0, 1.0 + output.shape[1]))
        sources = [inputs, *(weight.value for weight in layer.trainable_weights)]
        return [output, *tape.gradient(loss, sources)]

    return [[tf.convert_to_tensor(result).numpy() for result in run(*batch)] for batch in rows]


@pytest.mark.parametrize("both_directions", [False, True])
@pytest.mark.parametrize("cell", LAYERS)
def test_results_and_gradients_are_those_of_keras(cell: str, both_directions: bool) -> None:
    random = np.random.default_rng(0)
    rows = [
        (random.normal(size=(len(lengths), STEPS, 4)).astype(np.float32), np.arange(STEPS) < np.array(lengths)[:, None])
        for lengths in LENGTHS.values()
    ]
    layers = [cls(5) for cls in LAYERS[cell]]
    if both_directions:
        layers = [keras.layers.Bidirectional(layer) for layer in layers]
    for layer in layers:
        layer.build((None, STEPS, 4))
    weights = [random.normal(size=weight.shape).astype(np.float32) for weight in layers[0].get_weights()]
    for layer in layers:
        layer.set_weights(weights)
    for name, ours, theirs in zip(LENGTHS, *(results(layer, rows) for layer in layers), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=5e-6, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("cell", LAYERS)
def test_without_a_mask_the_layer_is_that_of_keras(cell: str) -> None:
    ours, theirs = (cls(5) for cls in LAYERS[cell])
    vectors = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)
    ours.build(vectors.shape)
    theirs.build(vectors.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(vectors), theirs(vectors))
