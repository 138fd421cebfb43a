"""The training loop: what it decides, on which rows, and what it shows meanwhile."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

from networks.deep_v1 import Config
from tests.test_networks import ROWS, SHAPES, examples
from trainer.features import DatasetShapes
from trainer.features.preprocessing import LABEL, WEIGHT, Examples
from trainer.features.tables import Table, shuffled
from trainer.model.layers import Embedding
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph
from trainer.runtime.errors import DataError, DivergedError
from trainer.runtime.progress import RunProgress
from trainer.training import loop
from trainer.training.loop import History, train, train_epoch

SIDES = {"train": slice(0, 250), "validation": slice(250, 400), "test": slice(400, ROWS)}


def small(**settings: Any) -> OpsWrapper:
    return build_model_graph(Config(**({"batch_size": 64, "hidden_units": (16,), "dropout": 0.0} | settings)), SHAPES)


def tables_of(ops: OpsWrapper, rows: Examples) -> dict[str, Table]:
    return {side: ops.table({name: column[part] for name, column in rows.items()}) for side, part in SIDES.items()}


def trained(
    rows: Examples, *, patience: int | None = 2, epochs: int = 30, metric: str = "loss", **settings: Any
) -> tuple[OpsWrapper, dict[str, Table], History]:
    ops = small(**settings)
    tables = tables_of(ops, rows)
    history = train(
        ops, tables, epochs=epochs, patience=patience, stopping_metric=metric,
    )  # fmt: skip
    return ops, tables, history


@pytest.fixture(scope="module")
def overfitted() -> tuple[OpsWrapper, dict[str, Table], History]:
    """Labels by chance: sooner or later the validation loss can only rise."""
    rows = examples() | {LABEL: np.random.default_rng(0).integers(2, size=ROWS).astype(np.float32)}
    return trained(rows, learning_rate=0.03)


def test_training_stops_when_patience_is_over(overfitted: tuple[OpsWrapper, dict[str, Table], History]) -> None:
    _, _, history = overfitted
    losses = [row["validation_loss"] for row in history.rows]
    assert history.best_epoch == 1 + int(np.argmin(losses))
    assert len(history.rows) == history.best_epoch + 2 < 30
    assert history.best_value == min(losses) < losses[-1]
    assert history.rows[-1]["train_loss"] < history.best["train_loss"]


def test_the_model_is_that_of_the_best_epoch(overfitted: tuple[OpsWrapper, dict[str, Table], History]) -> None:
    ops, tables, history = overfitted
    for side, table in tables.items():
        assert ops.evaluate(table) == history.best_metrics(side)
    assert ops.evaluate(tables["validation"])["loss"] == history.best_value


def test_each_epoch_has_a_row_of_every_sides_metrics(overfitted: tuple[OpsWrapper, dict[str, Table], History]) -> None:
    _, _, history = overfitted
    assert [row["epoch"] for row in history.rows] == list(range(1, len(history.rows) + 1))
    for row in history.rows:
        assert list(row)[:2] == ["epoch", "learning_rate"]
        assert [row[f"{side}_rows"] for side in SIDES] == [250, 150, 112]
        assert all(math.isfinite(value) for value in row.values())


def test_a_metric_of_which_more_is_better_is_maximised_and_no_patience_runs_on() -> None:
    _, _, history = trained(examples(), metric="auc", patience=None, epochs=6, learning_rate=0.05)
    values = [row["validation_auc"] for row in history.rows]
    assert len(values) == 6
    assert history.best_epoch == 1 + int(np.argmax(values))


def test_test_rows_decide_nothing() -> None:
    rows = examples()
    flipped = rows[LABEL].copy()
    flipped[SIDES["test"]] = 1 - flipped[SIDES["test"]]
    (one, _, first), (other, _, second) = (trained(rows | {LABEL: label}, epochs=4) for label in (rows[LABEL], flipped))
    for weight, again in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, again)
    assert first.best_epoch == second.best_epoch
    ours = [{name: value for name, value in row.items() if name.startswith(("train", "val"))} for row in first.rows]
    theirs = [{name: value for name, value in row.items() if name.startswith(("train", "val"))} for row in second.rows]
    assert ours == theirs
    assert first.rows[0]["test_auc"] != second.rows[0]["test_auc"]


def test_only_the_ratios_of_weights_count() -> None:
    weights = np.random.default_rng(0).uniform(1, 5, ROWS).astype(np.float32)
    (one, _, first), (other, _, second) = (
        trained(examples() | {WEIGHT: np.float32(scale) * weights}, epochs=2) for scale in (1, 1024)
    )
    for weight, again in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, again)
    assert first.best_value == second.best_value


def test_a_row_of_weight_three_counts_as_three_rows() -> None:
    """In full batches: the gradient of an epoch of one step."""
    rows = {name: column[:128] for name, column in examples().items()}
    weights = np.where(np.arange(128) % 2, 3, 1).astype(np.float32)
    repeated = {name: np.repeat(column, weights.astype(int), axis=0) for name, column in rows.items()}
    ends = []
    for some, size in ((rows | {WEIGHT: weights}, 128), (repeated, 256)):
        ops = small(optimizer="sgd", learning_rate=0.1, batch_size=size)
        for epoch in (1, 2, 3):
            train_epoch(ops, ops.table(some), History([{}] * (epoch - 1)), 3)
        ends.append(ops.model.get_weights())
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def probe() -> OpsWrapper:
    """One weight for each row: what an epoch did to a weight tells how often its row was taken, and in which batch."""
    shapes = DatasetShapes({"row": 253}, {}, {}, (), 1, (0.0,), 0.0, 1.0)
    inputs = {"row": keras.Input((), dtype="int32", name="row")}
    logits = Embedding(253, 1, name="weights")(inputs["row"])
    return OpsWrapper(keras.Model(inputs, logits), Config(batch_size=64, optimizer="sgd", learning_rate=0.01), shapes)


def test_an_epoch_takes_every_row_once_also_those_of_a_smaller_last_batch() -> None:
    ops = probe()
    table = ops.table({"row": np.arange(3, 253, dtype=np.int32), LABEL: np.ones(250, np.float32)})
    moved = {}
    for epoch in (1, 2):
        before = ops.model.get_weights()[0][3:, 0].astype(np.float64)
        train_epoch(ops, table, History([{}] * (epoch - 1)), 2)
        gradient = 1 - 1 / (1 + np.exp(-before))
        moved[epoch] = (ops.model.get_weights()[0][3:, 0] - before) / (ops.config.learning_rate * gradient)
        in_last_batch = np.zeros(250, bool)
        in_last_batch[shuffled(250, [ops.config.seed, epoch]).numpy()[192:]] = True
        np.testing.assert_allclose(moved[epoch], np.where(in_last_batch, 1 / 58, 1 / 64), rtol=1e-3)
    assert (np.abs(moved[1] - moved[2]) > 1e-3).any()  # other rows came last


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_how_long_a_call_may_take_does_not_show_in_the_bits(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(loop, "CALL_SECONDS", seconds)
    ops, _, _ = trained(examples(), epochs=2, dropout=0.3)
    monkeypatch.setattr(loop, "CALL_SECONDS", 0.5)
    other, _, _ = trained(examples(), epochs=2, dropout=0.3)
    for weight, again in zip(ops.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, again)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("train", r"Epoch 1, steps \d+ to \d+: the training loss is nan. Lower learning_rate"),
        ("validation", "Epoch 1: the validation loss is nan. Lower learning_rate"),
    ],
)
def test_divergence_is_told_where_it_is_met(side: str, message: str) -> None:
    label = examples()[LABEL]
    label[SIDES[side]][77] = np.nan
    with pytest.raises(DivergedError, match=message):
        trained(examples() | {LABEL: label})


def test_weights_that_explode_are_met_before_they_are_kept() -> None:
    shapes = dataclasses.replace(SHAPES, output_bias=(0.0,))
    config = Config(objective="regression", optimizer="sgd", learning_rate=100.0, batch_size=64)
    ops = build_model_graph(config, shapes)
    tables = tables_of(ops, examples())
    with pytest.raises(DivergedError):
        train(ops, tables, epochs=9, patience=None, stopping_metric="loss")


def test_validation_rows_that_cannot_decide_are_refused_as_data() -> None:
    label = examples()[LABEL]
    label[SIDES["validation"]] = 1
    with pytest.raises(DataError, match="150 validation rows have no auc"):
        trained(examples() | {LABEL: label}, metric="auc")
    weight = np.ones(ROWS, np.float32)
    weight[SIDES["validation"]] = 0
    with pytest.raises(DataError, match="150 validation rows have no loss"):
        trained(examples() | {WEIGHT: weight})


def test_the_whole_training_shows_its_progress_and_only_its_own_speed() -> None:
    seen: list[tuple[list[str], list[str]]] = []

    class Watched(RunProgress):
        def show(self, what: str, share: float | None, figures: Sequence[str]) -> None:
            super().show(what, share, figures)
            seen.append((self.place(), list(figures)))

    ops = small()
    train(ops, tables_of(ops, examples()), epochs=2, patience=1, stopping_metric="auc", progress=Watched())
    places, figures = [place for place, _ in seen], [figure for _, figure in seen]
    whats = [place[0] for place in places]
    for what in ("epoch 1/2 100%", "epoch 1/2, train metrics 100%", "epoch 2/2, test metrics 100%"):
        assert what in whats
    assert len(places[0]) == 2  # nothing is known about the speed before the second call
    assert "at most" in places[1][2]
    assert not any("rows/s" in figure for figure in figures[0])
    assert any("rows/s" in figure for figure in figures[1])
    assert any(figure.startswith("best auc 0.") and figure.endswith(" in epoch 1") for figure in figures[-1])


def test_rows_are_counted_from_where_a_run_continues() -> None:
    history = History([{}] * 3, step=2)
    assert history.rows_trained(1000, 64) == 3128
    history.step = 16  # the last batch is smaller
    assert history.rows_trained(1000, 64) == 4000
