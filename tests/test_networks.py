"""The contract of every network in the folder: a new file gets all of these tests without being named here."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

import networks
from networks import deep_v1
from trainer.features import DatasetShapes
from trainer.features.preprocessing import LABEL
from trainer.features.tables import shuffled
from trainer.model.layers import feature_inputs
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph
from trainer.model.unused import check_features_used, used_inputs
from trainer.runtime.errors import ConfigError

SHAPES = DatasetShapes(
    categorical={"item": 12, "country": 7},
    multi_categorical={"tags": (9, 4)},
    text={"title": (20, 6)},
    numeric=("age",),
    outputs=1,
    output_bias=(-0.5,),
    label_mean=0.0,
    label_std=1.0,
)
ROWS = 512


def examples(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random features whose label follows from each of them: item, tags, words and number all carry signal."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 7, rows)
    title = random.integers(3, 20, (rows, 6)) * (np.arange(6) < lengths[:, None])
    item, tags = random.integers(3, 12, rows), random.integers(3, 9, (rows, 4))
    age = random.normal(size=rows)
    signal = (item % 2) * 2.0 - 1 + ((title == 5).any(1) * 2.0 - 1) + (tags[:, 0] > 5) + age
    return {
        "item": item.astype(np.int32),
        "country": random.integers(3, 7, rows).astype(np.int32),
        "tags": tags.astype(np.int32),
        "title": title.astype(np.int32),
        "age": np.stack([age, np.zeros(rows)], axis=1).astype(np.float32),
        LABEL: (signal > signal.mean()).astype(np.float32),
    }


def built(name: str, shapes: DatasetShapes = SHAPES, **settings: object) -> OpsWrapper:
    config = networks.load(name).Config(network=name, batch_size=64, learning_rate=0.01, **settings)
    return build_model_graph(config, shapes)


def trained(ops: OpsWrapper, epochs: int) -> OpsWrapper:
    table = ops.table(examples())
    for epoch in range(epochs):
        ops.train_steps(table, shuffled(ROWS, [ops.config.seed, epoch]), 0, ROWS // 64, 1000)
    return ops


def with_random_weights(ops: OpsWrapper) -> OpsWrapper:
    """The last layer begins at zero, where all predictions are alike and most gradients zero: begin elsewhere."""
    random = np.random.default_rng(2)
    for weight in ops.model.weights:
        weight.assign(random.normal(scale=0.1, size=weight.shape))
    return ops


@pytest.fixture(scope="module", params=networks.names())
def ops(request: pytest.FixtureRequest) -> OpsWrapper:
    return trained(built(request.param), epochs=25)


def test_learns_a_planted_signal(ops: OpsWrapper) -> None:
    assert ops.evaluate(ops.table(examples()))["auc"] > 0.97


@pytest.mark.parametrize("name", networks.names())
def test_returns_logits_and_starts_at_the_best_constant(name: str) -> None:
    ops = built(name)
    np.testing.assert_allclose(ops.predict(ops.table(examples())), 1 / (1 + np.exp(0.5)), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_saves_and_reloads_to_equal_predictions(ops: OpsWrapper, tmp_path: Path) -> None:
    ops.model.save(tmp_path / "model.keras")
    features = {name: array for name, array in examples().items() if name != LABEL}
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.model.predict(features, verbose=0), again.predict(features, verbose=0))


@pytest.mark.parametrize(
    "change",
    [
        {"item": 2, "country": 2, "tags": 2, "title": 2},  # all out of vocabulary
        {"item": 1, "country": 1, "tags": [1, 0, 0, 0], "title": [1, 0, 0, 0, 0, 0], "age": [0.0, 1.0]},  # all missing
        {"title": 0},  # empty text
    ],
    ids=["oov", "missing", "empty text"],
)
def test_predicts_finite_numbers_for_rows_of_nothing_known(ops: OpsWrapper, change: dict[str, object]) -> None:
    rows = examples(5)
    for name, value in change.items():
        rows[name] = np.broadcast_to(np.asarray(value, rows[name].dtype), rows[name].shape).copy()
    assert np.isfinite(ops.predict(ops.table(rows))).all()


def test_a_row_is_scored_alike_alone_and_among_others(ops: OpsWrapper) -> None:
    together = ops.predict(ops.table(examples()))
    for row in (0, 100):
        alone = ops.predict(ops.table({name: array[row : row + 1] for name, array in examples().items()}))
        np.testing.assert_allclose(alone, together[row : row + 1], atol=1e-6)


def test_padding_does_not_count(ops: OpsWrapper) -> None:
    rows = examples()
    wide = dataclasses.replace(SHAPES, text={"title": (20, 9)}, multi_categorical={"tags": (9, 6)})
    wider = built(ops.config.network, wide)
    for weight, value in zip(wider.model.weights, ops.model.weights, strict=True):
        weight.assign(value)
    padded = rows | {"title": np.pad(rows["title"], ((0, 0), (0, 3))), "tags": np.pad(rows["tags"], ((0, 0), (0, 2)))}
    np.testing.assert_allclose(wider.predict(wider.table(padded)), ops.predict(ops.table(rows)), atol=1e-6)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(
    ("objective", "outputs", "label"),
    [
        ("regression", 1, np.linspace(-1, 1, ROWS, dtype=np.float32)),
        ("multiclass", 3, np.arange(ROWS, dtype=np.int32) % 3),
        ("multilabel", 3, np.stack([np.arange(ROWS) % 4, np.zeros(ROWS)], axis=1).astype(np.int32)),
    ],
)
def test_every_objective_lowers_its_training_loss(name: str, objective: str, outputs: int, label: np.ndarray) -> None:
    shapes = dataclasses.replace(SHAPES, outputs=outputs, output_bias=(0.0,) * outputs)
    metric = {"multiclass": "accuracy", "multilabel": "auc"}.get(objective, "loss")
    dropout = {"dropout": 0.0} if hasattr(networks.load(name).Config, "dropout") else {}
    ops = built(name, shapes, objective=objective, **dropout)
    table = ops.table(examples() | {LABEL: label})
    before = ops.evaluate(table)
    for epoch in range(10):
        ops.train_steps(table, shuffled(ROWS, [ops.config.seed, epoch]), 0, ROWS // 64, 1000)
    after = ops.evaluate(table)
    assert after["loss"] < 0.9 * before["loss"]
    assert metric in after


@pytest.mark.parametrize("name", networks.names())
def test_two_builds_with_one_seed_train_to_the_same_bits(name: str) -> None:
    first, second = (trained(built(name), epochs=2).model.get_weights() for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    before, of_other_seed = (built(name, seed=seed).model.get_weights() for seed in (0, 1))
    assert any(not np.array_equal(one, other) for one, other in zip(before, of_other_seed, strict=True))


@pytest.mark.parametrize("name", networks.names())
def test_weights_have_names_of_their_own_that_do_not_count_up(name: str) -> None:
    paths, again = ([weight.path for weight in built(name).model.weights if "seed" not in weight.path] for _ in "12")
    assert len(set(paths)) == len(paths)
    assert paths == again


@pytest.mark.parametrize("name", networks.names())
def test_holds_no_code_that_a_package_could_carry(name: str) -> None:
    model = built(name).model
    assert not [layer.name for layer in model.layers if isinstance(layer, keras.layers.Lambda)]


@pytest.mark.parametrize(
    "settings", [{"cell": "lstm"}, {"bidirectional": True}, {"cell": "lstm", "bidirectional": True}]
)
def test_rnn_v1_reads_order_with_every_cell(settings: dict[str, object]) -> None:
    ops = with_random_weights(built("rnn_v1", **settings))
    rows = examples()
    swapped = rows | {"title": np.where(rows["title"] == 0, 0, np.roll(rows["title"], 1, axis=1))}
    swapped["title"][:, 0] = rows["title"][:, 1]
    assert not np.allclose(ops.predict(ops.table(rows)), ops.predict(ops.table(swapped)), atol=1e-7)


def test_deep_v1_is_blind_to_the_order_of_words() -> None:
    ops = with_random_weights(built("deep_v1", batch_norm=True))
    rows = examples()
    full = rows | {"title": np.maximum(rows["title"], 3)}
    turned = full | {"title": full["title"][:, ::-1].copy()}
    np.testing.assert_allclose(ops.predict(ops.table(full)), ops.predict(ops.table(turned)), atol=1e-6)


@pytest.mark.parametrize("name", networks.names())
def test_any_column_name_will_do(name: str) -> None:
    columns = ["categories", "features", "logits", "dense_1", "category", "a/b", "a b", "título", "title_input", "1"]
    shapes = dataclasses.replace(
        SHAPES,
        categorical=dict.fromkeys([*columns, "category_rows"], 5),
        multi_categorical={f"list {column}": (9, 4) for column in columns} | {"category_embeddings": (9, 4)},
        text={f"text {column}": (20, 6) for column in columns} | {"text": (20, 6), "text_embeddings": (20, 6)},
        numeric=tuple(f"number {column}" for column in columns),
    )
    assert np.isfinite(built(name, shapes).model.count_params())


def test_regularised_layers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest_weight() -> float:
        ops = trained(built("deep_v1"), epochs=3)
        return float(np.abs(ops.model.get_layer("dense_1").get_weights()[0]).max())

    free = largest_weight()
    dense = keras.layers.Dense
    monkeypatch.setattr(keras.layers, "Dense", lambda *a, **k: dense(*a, **k, kernel_regularizer="l2"))
    assert largest_weight() < 0.7 * free


def test_uses_all_features(ops: OpsWrapper) -> None:
    assert used_inputs(ops.model) == {*SHAPES.id_widths, *SHAPES.numeric}


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_a_feature_that_a_network_ignores_is_named_with_its_role() -> None:
    inputs = feature_inputs(SHAPES)
    shared = keras.layers.Dense(2)
    hidden = [shared(inputs["age"]), keras.layers.Flatten()(keras.ops.cast(inputs["tags"], "float32"))]
    keras.layers.Concatenate()([hidden[0], keras.ops.cast(inputs["title"], "float32")])  # leads nowhere
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()([*hidden, shared(inputs["age"])])))
    assert used_inputs(model) == {"age", "tags"}
    config = deep_v1.Config(
        network="half_v1", categorical_columns=("item", "country"), multi_categorical_columns=("tags",),
        text_columns=("title",), numeric_columns=("age",),
    )  # fmt: skip
    message = (
        r"half_v1 does not use 'item', 'country' \(categorical_columns; dataset_shapes.categorical\) and 'title' "
        r"\(text_columns; dataset_shapes.text\)"
    )
    with pytest.raises(ConfigError, match=message):
        check_features_used(model, config, SHAPES)
