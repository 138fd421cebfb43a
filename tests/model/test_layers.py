"""The blocks of the networks against plain Keras: the same results and the same gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_networks import SHAPES, built
from trainer.model.layers import ColumnOffsets, Dropout, Embedding, MeanEmbedding, embeddings_by_column
from trainer.model.optimizer import SMALL_TABLE

IDS = np.array([[3, 5, 3, 0], [0, 0, 0, 0], [1, 0, 0, 0], [5, 6, 4, 3]], np.int32)


def gradient_of(layer: keras.layers.Layer, ids: np.ndarray) -> tuple[np.ndarray, tf.Tensor | tf.IndexedSlices]:
    @tf.function(autograph=False)
    def run() -> tuple[tf.Tensor, tf.Tensor | tf.IndexedSlices]:
        with tf.GradientTape() as tape:
            output = layer(tf.constant(ids))
            loss = tf.reduce_sum(tf.sin(output) * tf.range(1.0, 1.0 + output.shape[-1]))
        return output, tape.gradient(loss, layer.trainable_weights[0].value)

    output, gradient = run()
    return output.numpy(), gradient


@pytest.mark.parametrize("width", [3, 37])
@pytest.mark.parametrize("size", [7, SMALL_TABLE + 1])
@pytest.mark.parametrize("ids", [IDS, np.zeros((2, 4), np.int32), np.full((1, 4), 3, np.int32)])
def test_mean_embedding_is_a_masked_average_of_stock_embeddings(ids: np.ndarray, size: int, width: int) -> None:
    inputs = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(size, width, mask_zero=True, name="stock")(inputs)
    stock = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(embedded))
    ours = MeanEmbedding(size, width)
    ours.build(ids.shape)
    stock.set_weights(ours.get_weights())
    empty = (ids == 0).all(axis=1)  # the stock layer divides 0 by 0 there
    expected, stock_gradient = gradient_of(stock, np.where(empty[:, None], 3, ids))
    vectors, gradient = gradient_of(ours, ids)
    np.testing.assert_array_equal(vectors[empty], 0)
    np.testing.assert_allclose(vectors[~empty], expected[~empty], atol=1e-7)
    if not empty.any():
        np.testing.assert_allclose(tf.convert_to_tensor(gradient), tf.convert_to_tensor(stock_gradient), rtol=2e-6)
    np.testing.assert_array_equal(tf.convert_to_tensor(gradient)[0], 0)  # padding learns nothing
    if size > SMALL_TABLE:
        assert sorted(gradient.indices.numpy()) == sorted(set(ids.ravel()))


def test_embedding_gradients_name_only_the_rows_that_were_read() -> None:
    layer = Embedding(100, 3)
    output, gradient = gradient_of(layer, IDS)
    np.testing.assert_array_equal(output, layer.get_weights()[0][IDS])
    assert isinstance(gradient, tf.IndexedSlices)
    assert set(gradient.indices.numpy().ravel()) == set(IDS.ravel())


def test_columns_of_one_table_do_not_overlap() -> None:
    rows = ColumnOffsets([4, 7, 2])([np.arange(2, dtype=np.int32) for _ in range(3)])
    np.testing.assert_array_equal(rows, [[0, 4, 11], [1, 5, 12]])


def test_embeddings_are_found_by_column() -> None:
    model = built("deep_v1").model
    tables = embeddings_by_column(model, SHAPES)
    assert {column: vectors.shape for column, vectors in tables.items()} == {
        "item": (12, 16), "country": (7, 16), "tags": (9, 16), "title": (20, 32)
    }  # fmt: skip
    table = model.get_layer("category_embeddings").get_weights()[0]
    np.testing.assert_array_equal(tables["country"], table[12:])


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    keras.utils.set_random_seed(0)
    layer, ones = Dropout(rate), np.ones((1000, 333), np.float32)
    first, second = layer(ones, training=True).numpy(), layer(ones, training=True).numpy()
    assert abs((first == 0).mean() - rate) < 0.005
    assert abs(first.mean() - 1) < 0.15
    assert not np.array_equal(first, second)
    assert np.ptp(first[first > 0]) == 0
    np.testing.assert_array_equal(layer(ones, training=False), ones)


def test_dropout_passes_the_gradient_of_what_it_kept() -> None:
    layer, inputs = Dropout(0.5), tf.Variable(tf.ones((7, 5)))
    with tf.GradientTape() as tape:
        output = layer(inputs, training=True)
    np.testing.assert_array_equal(tape.gradient(output, inputs), output)


def test_dropout_repeats_by_its_seed() -> None:
    def masks() -> list[np.ndarray]:
        layer = Dropout(0.3, seed=5)
        return [layer(np.ones((50, 20), np.float32), training=True).numpy() for _ in range(2)]

    np.testing.assert_array_equal(masks(), masks())
