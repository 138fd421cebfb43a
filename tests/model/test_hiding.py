"""Values that no training row shows get a prediction that is no accident of the random start."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from networks.deep_v1 import Config
from tests.features.test_preprocessing import fitted, typed
from trainer.features.encoded import EncodedRows, to_encoded_rows
from trainer.features.preprocessing import Preprocessing, transform
from trainer.features.shapes import DatasetShapes
from trainer.features.tables import Table, to_table
from trainer.features.untrained import ENOUGH, States, untrained_states
from trainer.model.hiding import hide_values
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph
from trainer.training.loop import train

SHAPES = DatasetShapes(
    categorical={"item": 9}, multi_categorical={"tags": (9, 2)}, text={"title": (9, 3)}, numeric=("age", "views"),
    outputs=1, output_bias=(0.0,), label_mean=0.0, label_std=1.0,
)  # fmt: skip
NONE = np.nan
ALL_STATES = States(
    np.array(
        [
            [1, -1, -1, -1, -1, -1], [2, -1, -1, -1, -1, -1], [-1, 1, 0, -1, -1, -1], [-1, 2, 2, -1, -1, -1],
            [-1, -1, -1, 1, 0, 0], [-1, -1, -1, 2, 2, 2], [-1, -1, -1, 0, 0, 0], *[[-1] * 6] * 2,
        ],
        np.int32,
    ),
    np.array([*[[NONE] * 4] * 7, [0, 1, NONE, NONE], [NONE, NONE, 0, 1]], np.float32),
)  # fmt: skip


def rows_of(count: int) -> EncodedRows:
    """Rows that show no state but that of a present number."""
    ids = np.tile(np.array([5, 4, 0, 6, 7, 0], np.int32), (count, 1))
    numbers = np.tile(np.array([0.5, 0, -2, 0], np.float32), (count, 1))
    return EncodedRows(ids, numbers, np.zeros(count, np.float32), np.ones(count, np.float32))


def test_states_that_hardly_any_training_row_has_are_found() -> None:
    found = untrained_states(rows_of(500), SHAPES)
    np.testing.assert_array_equal(found.ids, ALL_STATES.ids)
    np.testing.assert_array_equal(found.numbers, ALL_STATES.numbers)
    assert (found.ids.dtype, found.numbers.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("state", range(9))
def test_a_state_that_enough_rows_have_is_left_to_them(state: int) -> None:
    for rows in (ENOUGH - 1, ENOUGH):
        train = rows_of(500)
        ids, numbers = (values[state] for values in ALL_STATES)
        of_rows = slice(0, rows)
        train.ids[of_rows] = np.where((ids < 0) | ((ids == 2) & (train.ids[of_rows] < 3)), train.ids[of_rows], ids)
        train.numbers[of_rows] = np.where(np.isnan(numbers), train.numbers[of_rows], numbers)
        found = untrained_states(train, SHAPES)
        left = [other for other in range(9) if rows < ENOUGH or other != state]
        np.testing.assert_array_equal(found.ids, ALL_STATES.ids[left])
        np.testing.assert_array_equal(found.numbers, ALL_STATES.numbers[left])


def test_a_number_that_is_always_missing_may_once_be_there() -> None:
    train = rows_of(500)
    train.numbers[:, :2] = 0, 1
    np.testing.assert_array_equal(untrained_states(train, SHAPES).numbers[7:], [[0, 0, NONE, NONE], [NONE, NONE, 0, 1]])


def hidden(table: Table, first: int, seed: int = 7, share: float = 0.3) -> Table:
    return hide_values(table, ALL_STATES, share, seed, tf.constant(first, tf.int64))


def test_each_state_comes_to_its_share_of_the_rows_and_changes_nothing_else() -> None:
    count, states = 90_000, len(ALL_STATES.ids)
    table = to_table(rows_of(count))
    after = hidden(table, 0)
    changed = (after.ids.numpy() != table.ids.numpy()).any(1) | (after.numbers.numpy() != table.numbers.numpy()).any(1)
    assert changed.mean() == pytest.approx(0.3, abs=0.006)
    distinct = np.unique(np.hstack([after.ids.numpy()[changed], after.numbers.numpy()[changed]]), axis=0)
    expected = [
        [1, 4, 0, 6, 7, 0, 0.5, 0, -2, 0], [2, 4, 0, 6, 7, 0, 0.5, 0, -2, 0], [5, 1, 0, 6, 7, 0, 0.5, 0, -2, 0],
        [5, 2, 0, 6, 7, 0, 0.5, 0, -2, 0], [5, 4, 0, 1, 0, 0, 0.5, 0, -2, 0], [5, 4, 0, 2, 2, 0, 0.5, 0, -2, 0],
        [5, 4, 0, 0, 0, 0, 0.5, 0, -2, 0], [5, 4, 0, 6, 7, 0, 0, 1, -2, 0], [5, 4, 0, 6, 7, 0, 0.5, 0, 0, 1],
    ]  # fmt: skip
    np.testing.assert_array_equal(distinct, sorted(expected))
    _, rows = np.unique(np.hstack([after.ids.numpy(), after.numbers.numpy()])[changed], axis=0, return_counts=True)
    assert np.abs(rows - changed.sum() / states).max() < 5 * np.sqrt(changed.sum() / states)
    assert after.labels is table.labels
    assert after.weights is table.weights


def test_the_draws_depend_on_the_seed_and_the_row_s_number_not_on_how_many_come_at_once() -> None:
    table = to_table(rows_of(1000))
    whole = hidden(table, 500).ids.numpy()
    parts = [hidden(to_table(rows_of(size)), first).ids.numpy() for first, size in ((500, 1), (501, 600), (1101, 399))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for other in (hidden(table, 1500), hidden(table, 500, seed=8)):
        assert (other.ids.numpy() != whole).any(1).sum() > 200


def rows_with_effects(count: int, seed: int) -> pd.DataFrame:
    """Rare labels that hang on a category and the word of a text, neither of which is ever missing or unknown."""
    rng = np.random.default_rng(seed)
    item, word = rng.choice(["cash", "card", "voucher"], count, p=[0.7, 0.2, 0.1]), rng.choice(["low", "high"], count)
    effects = {"cash": -5.0, "card": 1.0, "voucher": 3.0, "low": -1.0, "high": 1.0}
    logits = pd.Series(item).map(effects) + pd.Series(word).map(effects)
    clicks = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(float)
    return typed({"item": item, "title": [f"so {value}" for value in word], "y": clicks})


def worst_bias(state: Preprocessing, ops: OpsWrapper, frame: pd.DataFrame) -> float:
    """How far the mean prediction is from the mean label, as a share of it, where a column says what is new to it."""
    new: dict[str, list[Any]] = {
        "item": ["new", None],
        "tags": [["new"], None],
        "title": ["new", None, ""],
        "age": [None],
    }
    means = []
    for column, values in new.items():
        for value in values:
            other = typed({name: [value] * len(frame) if name == column else frame[name].tolist() for name in frame})
            means.append(float(ops.predict(ops.table(transform(state, other))).mean()))
    return float(np.abs(np.array(means) / frame["y"].mean() - 1).max())


def test_what_training_rows_never_show_is_predicted_without_bias() -> None:
    frames = {side: rows_with_effects(20_000, seed) for seed, side in enumerate(("train", "validation"))}
    state = fitted(frames["train"], outlier_limit=5.0)
    examples = {side: transform(state, frame) for side, frame in frames.items()}
    states = untrained_states(to_encoded_rows(examples["train"], state.shapes()), state.shapes())
    assert len(states.ids) == 5
    config = Config(hidden_units=(16,), embedding_dim=4, text_embedding_dim=4)
    biases, losses = [], []
    for share in (0.0, config.hidden_share):
        ops = build_model_graph(dataclasses.replace(config, hidden_share=share), state.shapes(), states)
        tables: dict[str, Any] = {side: ops.table(rows) for side, rows in examples.items()}
        history = train(ops, tables, epochs=4, patience=None, stopping_metric="loss")
        biases.append(worst_bias(state, ops, frames["validation"]))
        losses.append(history.best["validation_loss"])
    assert biases[1] < 0.1 < 0.2 < biases[0]
    assert losses[1] < losses[0] + 0.003
