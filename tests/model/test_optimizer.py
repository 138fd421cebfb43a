"""The update rules: equal to Keras' own where both apply, and blind to rows that were not looked up."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model.optimizer import (
    SMALL_TABLE,
    DistinctRows,
    Optimizer,
    learning_rate_at,
    pairs,
    sparse_product,
    sum_duplicates,
)

KERAS = {
    "adam": lambda: keras.optimizers.Adam(0.01, epsilon=1e-7),
    "adagrad": lambda: keras.optimizers.Adagrad(0.01, initial_accumulator_value=0.1, epsilon=1e-7),
    "sgd": lambda: keras.optimizers.SGD(0.01),
}


def gradients(steps: int = 5, shape: tuple[int, int] = (7, 3)) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(steps, *shape)).astype(np.float32))


@pytest.mark.parametrize("rule", KERAS)
def test_dense_updates_are_those_of_keras(rule: str) -> None:
    ours, theirs = tf.Variable(tf.ones((7, 3))), keras.Variable(np.ones((7, 3), "float32"))
    optimizer, reference = Optimizer(rule, [ours]), KERAS[rule]()
    reference.build([theirs])
    for gradient in gradients():
        optimizer.apply([tf.constant(gradient)], tf.constant(0.01))
        reference.apply([tf.constant(gradient)])
    # Keras folds Adam's epsilon in at the same place, after the bias correction.
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-6)


@pytest.mark.parametrize("rule", KERAS)
def test_row_updates_equal_dense_ones_where_every_row_is_touched(rule: str) -> None:
    dense, sparse = tf.Variable(tf.ones((7, 3))), tf.Variable(tf.ones((7, 3)))
    dense_optimizer, sparse_optimizer = Optimizer(rule, [dense]), Optimizer(rule, [sparse])
    for gradient in gradients():
        order = np.random.default_rng(1).permutation(7)
        slices = tf.IndexedSlices(tf.constant(gradient[order]), tf.constant(order), tf.constant([7, 3]))
        dense_optimizer.apply([tf.constant(gradient)], tf.constant(0.01))
        sparse_optimizer.apply([slices], tf.constant(0.01))
    np.testing.assert_allclose(sparse.numpy(), dense.numpy(), atol=1e-6)


@pytest.mark.parametrize("rule", KERAS)
def test_untouched_rows_and_their_slots_keep_their_bits(rule: str) -> None:
    table = tf.Variable(tf.random.stateless_normal((7, 3), seed=[0, 1]))
    optimizer = Optimizer(rule, [table])
    before = [variable.numpy() for variable in (table, *optimizer.slots[0])]
    for gradient in gradients():
        optimizer.apply([tf.IndexedSlices(tf.constant(gradient[:2]), tf.constant([5, 1]))], tf.constant(0.01))
    for old, variable in zip(before, (table, *optimizer.slots[0]), strict=True):
        untouched = [0, 2, 3, 4, 6]
        np.testing.assert_array_equal(variable.numpy()[untouched], old[untouched])
        assert not np.array_equal(variable.numpy()[[5, 1]], old[[5, 1]])


@pytest.mark.parametrize("ids", [[3, 1, 3, 3, 0], []])
@pytest.mark.parametrize("width", [(), (2,), (16,), (37,), (300,), (2, 3)], ids=str)
@pytest.mark.parametrize("size", [4, SMALL_TABLE, SMALL_TABLE + 1])
def test_repeated_rows_of_a_gradient_add_up(size: int, width: tuple[int, ...], ids: list[int]) -> None:
    rows = np.array(ids, np.int32)
    values = np.random.default_rng(0).normal(size=(len(rows), *width)).astype(np.float32)
    expected = np.zeros((size, *width), np.float32)
    np.add.at(expected, rows, values)
    summed = sum_duplicates(tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([size, *width])))
    np.testing.assert_allclose(tf.convert_to_tensor(summed).numpy(), expected, rtol=1e-6)
    assert isinstance(summed, DistinctRows) == (size > SMALL_TABLE)
    if size > SMALL_TABLE:
        assert sorted(summed.indices.numpy()) == sorted(set(ids))


@pytest.mark.parametrize("width", [1, 15, 16, 40, 256, 257])
def test_a_sparse_product_is_that_of_the_dense_matrices(width: int) -> None:
    random = np.random.default_rng(0)
    rows, columns = random.integers(5, size=20).astype(np.int32), random.integers(9, size=20).astype(np.int32)
    weights = random.normal(size=20).astype(np.float32)
    dense = np.zeros((5, 9), np.float32)
    np.add.at(dense, (rows, columns), weights)
    entries = pairs(tf.constant(rows), tf.constant(columns))
    for factor, transpose in ((dense, False), (dense.T, True)):
        other = random.normal(size=(factor.shape[1], width)).astype(np.float32)
        product = sparse_product(entries, tf.constant(weights), [5, 9], tf.constant(other), transpose=transpose)
        np.testing.assert_allclose(product, factor @ other, atol=1e-5)


def test_pairs_hold_every_number() -> None:
    numbers = np.array([0, 1, -1, 2**23, 2**31 - 1, -(2**31), 0x7F800001, 0x7FC00000], np.int32)  # some are NaN
    np.testing.assert_array_equal(
        pairs(tf.constant(numbers), tf.constant(numbers[::-1].copy())), np.stack([numbers, numbers[::-1]], 1)
    )


def test_gradients_above_the_norm_are_scaled_down_together() -> None:
    dense, table = tf.Variable(tf.zeros(2)), tf.Variable(tf.zeros((3, 1)))
    slices = tf.IndexedSlices(tf.constant([[12.0]]), tf.constant([1]))
    Optimizer("sgd", [dense, table]).apply([tf.constant([3.0, 4.0]), slices], tf.constant(1.0), clip_norm=1.3)
    np.testing.assert_allclose(dense.numpy(), [-0.3, -0.4], rtol=1e-6)  # the global norm is 13
    np.testing.assert_allclose(table.numpy(), [[0.0], [-1.2], [0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("decay", "rates"),
    [("none", [0.25, 0.5, 1, 1, 1]), ("linear", [0.25, 0.5, 1, 0.5, 0]), ("cosine", [0.25, 0.5, 1, 0.5, 0])],
)
def test_learning_rate_warms_up_and_decays(decay: str, rates: list[float]) -> None:
    ours = [
        float(learning_rate_at(tf.constant(step), base=1.0, warmup_steps=4, decay=decay, total_steps=tf.constant(12)))
        for step in (0, 1, 4, 8, 12)
    ]
    np.testing.assert_allclose(ours, rates, atol=1e-6)
