"""The operations of a graph: they do what a plain Keras loop does, with the same bits each time."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

import networks
from tests.test_networks import ROWS, SHAPES, built, examples, with_random_weights
from trainer.features import DatasetShapes
from trainer.features.preprocessing import LABEL, WEIGHT
from trainer.features.tables import Table, shuffled
from trainer.model import ops_wrapper

CLASSES = 3
RANDOM = np.random.default_rng(1)
WEIGHTS = RANDOM.uniform(0.5, 3, ROWS).astype(np.float32)
LABELS = {
    "binary": RANDOM.uniform(size=ROWS).astype(np.float32),
    "regression": RANDOM.normal(size=ROWS).astype(np.float32),
    "multiclass": RANDOM.integers(CLASSES, size=ROWS).astype(np.int32),
    "multilabel": np.array([[1, 0], [0, 0], [3, 2], [2, 0]], np.int32)[RANDOM.integers(4, size=ROWS)],
}


def rows_for(objective: str) -> dict[str, np.ndarray]:
    return examples() | {LABEL: LABELS[objective], WEIGHT: WEIGHTS}


def shapes_for(objective: str) -> DatasetShapes:
    outputs = CLASSES if objective in ("multiclass", "multilabel") else 1
    scale = (2.0, 5.0) if objective == "regression" else (0.0, 1.0)
    return dataclasses.replace(
        SHAPES, outputs=outputs, output_bias=(0.0,) * outputs, label_mean=scale[0], label_std=scale[1]
    )


@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES,
        dataclasses.replace(SHAPES, categorical={}, multi_categorical={}, text={}),
        dataclasses.replace(SHAPES, numeric=()),
        dataclasses.replace(SHAPES, text={}, numeric=()),
    ],
    ids=["all", "numbers alone", "no number", "categories alone"],
)
def test_a_table_gives_the_columns_back(shapes: DatasetShapes) -> None:
    ops, rows = built("deep_v1", shapes), examples()
    table = ops.table(rows)
    columns = ops.features(table.ids, table.numbers)
    assert columns.keys() == {*shapes.categorical, *shapes.multi_categorical, *shapes.text, *shapes.numeric}
    for name, column in columns.items():
        assert column.dtype == rows[name].dtype
        np.testing.assert_array_equal(column, rows[name])
    np.testing.assert_array_equal(table.labels, rows[LABEL])
    assert table.rows == ROWS
    assert np.isfinite(ops.predict(table)).all()


def keras_loss(objective: str) -> keras.losses.Loss:
    return {
        "binary": keras.losses.BinaryCrossentropy(from_logits=True),
        "regression": keras.losses.MeanSquaredError(),
        "multiclass": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "multilabel": keras.losses.BinaryCrossentropy(from_logits=True),
    }[objective]


@pytest.mark.parametrize("network", networks.names())
@pytest.mark.parametrize("objective", LABELS)
def test_steps_are_those_of_a_plain_loop_over_batches(network: str, objective: str) -> None:
    settings = {"objective": objective, "optimizer": "sgd", "dropout": 0.0}
    ours, theirs = (with_random_weights(built(network, shapes_for(objective), **settings)) for _ in range(2))
    rows = rows_for(objective)
    table, order = ours.table(rows), shuffled(ROWS, [ours.config.seed, 1]).numpy()
    sum_of_losses = float(ours.train_steps(table, order, 0, 3, 100, table.weight_scale))

    model, losses = theirs.model, []
    labels = LABELS[objective]
    if objective == "multilabel":
        labels = np.zeros((ROWS, CLASSES + 1))
        np.put_along_axis(labels, LABELS[objective], 1, axis=1)
        labels = labels[:, 1:]
    labels = labels if objective == "multilabel" else labels[:, None]
    for batch in (order[0:64], order[64:128], order[128:192]):
        with tf.GradientTape() as tape:
            logits = model({name: column[batch] for name, column in rows.items() if not name.startswith("__")})
            loss = keras_loss(objective)(labels[batch], logits, sample_weight=(WEIGHTS / WEIGHTS.mean())[batch])
        losses.append(float(loss))
        for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
            weight.assign(weight - 0.01 * tf.convert_to_tensor(gradient))

    assert sum_of_losses == pytest.approx(sum(losses), rel=1e-6)
    for one, other in zip(ours.model.trainable_weights, model.trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_an_update_is_no_longer_than_the_clipped_gradient() -> None:
    ops = with_random_weights(built("deep_v1", optimizer="sgd", dropout=0.0, clip_norm=0.002))
    before = [weight.numpy().astype(np.float64) for weight in ops.model.trainable_weights]
    ops.train_steps(ops.table(examples()), shuffled(ROWS, [ops.config.seed, 1]), 0, 1, 100)
    moved = [weight.numpy() - old for weight, old in zip(ops.model.trainable_weights, before, strict=True)]
    assert np.sqrt(sum(np.square(change).sum() for change in moved)) == pytest.approx(0.01 * 0.002, rel=1e-2)


def test_the_learning_rate_warms_up_and_decays_within_the_steps() -> None:
    ops = built("deep_v1", optimizer="sgd", warmup_steps=4, decay="linear")
    rates = []
    for step in range(8):
        rates.append(float(ops.learning_rate(8)))
        ops.train_steps(ops.table(examples()), shuffled(ROWS, [ops.config.seed, 1]), step, step + 1, 8)
    np.testing.assert_allclose(rates, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.0075, 0.005, 0.0025], rtol=1e-5)


@pytest.mark.parametrize("network", networks.names())
def test_bits_repeat_however_many_steps_one_call_takes(network: str) -> None:
    weights = []
    for stops in ((8,), (1, 5, 8)):
        ops = built(network)
        table, order, first = ops.table(examples()), shuffled(ROWS, [ops.config.seed, 1]), 0
        for stop in stops:
            ops.train_steps(table, order, first, stop, 8)
            first = stop
        weights.append(ops.model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_metrics_have_the_same_bits_however_many_rows_one_call_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_wrapper, "EVALUATION_BATCH", 64)
    ops, metrics, done = with_random_weights(built("deep_v1")), [], list[int]()
    table = ops.table(examples())
    for rows in (ROWS, 128):
        monkeypatch.setattr(ops_wrapper, "EVALUATION_CALL", rows)
        metrics.append(ops.evaluate(table, done.append))
    assert metrics[0] == metrics[1]
    assert done == [ROWS, *range(128, ROWS + 1, 128)]


def test_nothing_is_dropped_out_where_nothing_is_trained() -> None:
    calm, wild = (with_random_weights(built("deep_v1", dropout=dropout)) for dropout in (0.0, 0.9))
    table = calm.table(examples())
    np.testing.assert_array_equal(calm.predict(table), wild.predict(table))
    np.testing.assert_array_equal(wild.predict(table), wild.predict(table))
    assert calm.evaluate(table) == wild.evaluate(table)
    losses = [float(ops.train_steps(table, shuffled(ROWS, [ops.config.seed, 1]), 0, 1, 8)) for ops in (calm, wild)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


def test_a_prediction_does_not_depend_on_the_rows_around_it() -> None:
    ops, rows = built("deep_v1", batch_norm=True), examples()
    ops.train_steps(ops.table(rows), shuffled(ROWS, [ops.config.seed, 1]), 0, 8, 8)
    together = ops.predict(ops.table(rows))
    alone = [ops.predict(ops.table({name: column[i : i + 1] for name, column in rows.items()}))[0] for i in range(20)]
    np.testing.assert_allclose(alone, together[:20], atol=1e-6)
    moving = {weight.path: weight.numpy() for weight in ops.model.weights if "moving_mean" in weight.path}
    assert all(np.abs(mean).max() > 0 for mean in moving.values())


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 rows in six batches, the last one smaller."""
    monkeypatch.setattr(ops_wrapper, "EVALUATION_BATCH", 100)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("objective", LABELS)
def test_metrics_are_those_of_scikit_learn_on_the_predictions(objective: str) -> None:
    ops = with_random_weights(built("deep_v1", shapes_for(objective), objective=objective))
    rows = rows_for(objective)
    if objective == "binary":
        rows[LABEL] = (LABELS["binary"] > 0.7).astype(np.float32)
    table = ops.table(rows)
    metrics, predicted, labels = ops.evaluate(table), ops.predict(table).astype(np.float64), rows[LABEL]
    expected: dict[str, float] = {}
    if objective == "binary":
        for name, metric in {"loss": log_loss, "auc": roc_auc_score, "mse": mean_squared_error}.items():
            expected[name] = metric(labels, predicted, sample_weight=WEIGHTS)
        expected["calibration"] = np.average(predicted, weights=WEIGHTS) / np.average(labels, weights=WEIGHTS)
    elif objective == "regression":
        labels = 2.0 + 5.0 * labels.astype(np.float64)
        for name, metric in {"mse": mean_squared_error, "mae": mean_absolute_error, "r2": r2_score}.items():
            expected[name] = metric(labels, predicted, sample_weight=WEIGHTS)
    elif objective == "multiclass":
        predicted /= predicted.sum(axis=1, keepdims=True)  # float32 sums to one within 1e-7
        expected["loss"] = log_loss(labels, predicted, sample_weight=WEIGHTS)
        expected["accuracy"] = accuracy_score(labels, predicted.argmax(axis=1), sample_weight=WEIGHTS)
    else:
        hot = np.zeros((ROWS, CLASSES + 1))
        np.put_along_axis(hot, labels, 1, axis=1)
        expected["auc"] = roc_auc_score(
            hot[:, 1:].ravel(), predicted.ravel(), sample_weight=np.repeat(WEIGHTS, CLASSES)
        )
    assert {name: metrics[name] for name in expected} == pytest.approx(
        expected, rel=1e-4
    )  # AUC: two rows may share a bin
    assert metrics["rows"] == ROWS


def test_the_constant_prediction_is_measured_like_the_model() -> None:
    ops = built("deep_v1")  # untrained: it still predicts the constant
    table = ops.table(examples())
    assert ops.evaluate_constant(table) == pytest.approx(ops.evaluate(table), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("objective", LABELS)
def test_the_gain_over_the_constant_is_the_difference_of_the_losses(objective: str) -> None:
    ops = with_random_weights(built("deep_v1", shapes_for(objective), objective=objective))
    table = ops.table(rows_for(objective))
    gain = ops.gain_over_constant(table)
    assert gain.mean == pytest.approx(ops.evaluate_constant(table)["loss"] - ops.evaluate(table)["loss"], abs=1e-6)
    twice = Table(*(tf.concat([column] * 2, axis=0) for column in table))
    assert ops.gain_over_constant(twice).mean == pytest.approx(gain.mean)
    assert ops.gain_over_constant(twice).error == pytest.approx(gain.error / np.sqrt(2))
    if objective == "binary":
        shares, labels = WEIGHTS / WEIGHTS.sum(), LABELS["binary"]
        score, constant = (
            np.clip(p, 1e-9, 1 - 1e-9) for p in (ops.predict(table), 1 / (1 + np.exp(-ops.shapes.output_bias[0])))
        )
        losses = [-labels * np.log(p) - (1 - labels) * np.log1p(-p) for p in (constant, score)]
        error = np.sqrt((shares**2 * (losses[0] - losses[1] - gain.mean) ** 2).sum())
        assert gain.error == pytest.approx(error, rel=1e-4)


def test_evenly_spaced_rows_are_rows_of_the_table_in_their_order() -> None:
    ops = built("deep_v1")
    table = ops.table(examples())
    assert table.evenly_spaced(ROWS) is table
    some = table.evenly_spaced(100)
    assert some.rows == 100
    chosen = np.linspace(0, ROWS - 1, 100).astype(int)
    assert len(set(chosen)) == 100
    for part, whole in zip(some, table, strict=True):
        np.testing.assert_array_equal(part, whole.numpy()[chosen])


def test_the_order_of_rows_is_a_function_of_seed_and_epoch() -> None:
    ops, other = built("deep_v1"), built("deep_v1", seed=1)
    orders = [
        tuple(order)
        for order in (shuffled(1000, [ops.config.seed, 1]).numpy(), shuffled(1000, [ops.config.seed, 2]).numpy())
    ]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert (
        len(
            {
                *orders,
                tuple(shuffled(1000, [ops.config.seed, 1]).numpy()),
                tuple(shuffled(1000, [other.config.seed, 1]).numpy()),
            }
        )
        == 3
    )
