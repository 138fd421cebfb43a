"""Several devices train what one trains: two halves of a CPU in the place of two GPUs."""

import copy
import dataclasses
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from networks import deep_v1, rnn_v1
from tests.commands import SAMPLE, trainer
from tests.model import two_devices
from tests.test_networks import SHAPES, examples
from trainer.model import replicas
from trainer.model.layers import Dropout, feature_inputs, feature_vectors, logits
from trainer.model.ops_wrapper import OpsWrapper, build_model_graph
from trainer.model.optimizer import SMALL_TABLE
from trainer.runtime import warm
from trainer.training.loop import History, train

LARGE = dataclasses.replace(SHAPES, categorical={"item": SMALL_TABLE + 1, "country": 7}, text={"title": (5000, 6)})
CASES: dict[str, Any] = {
    "dense gradients": (deep_v1, SHAPES, {"batch_norm": True}),
    "sparse gradients": (deep_v1, LARGE, {"optimizer": "adagrad", "clip_norm": 0.01}),
    "recurrent": (rnn_v1, SHAPES, {"optimizer": "sgd", "warmup_steps": 5}),
}
SIDES = {"train": slice(0, 251), "validation": slice(251, 400), "test": slice(400, 512)}
BATCH = 50  # the last one has a single row: fewer than there are devices
EPOCHS = 2

Trained = tuple[History, dict[str, np.ndarray]]


def built(network: Any, shapes: Any, settings: dict[str, Any]) -> OpsWrapper:
    given = {"network": network.__name__.rpartition(".")[2], "batch_size": BATCH, "dropout": 0.0} | settings
    return build_model_graph(network.Config(**given), shapes)


def trained(ops: OpsWrapper, history: History | None = None, epochs: int = EPOCHS, **watching: Any) -> History:
    rows = examples()
    tables = {side: ops.table({name: column[part] for name, column in rows.items()}) for side, part in SIDES.items()}
    return train(
        ops, tables, epochs=epochs, patience=None, stopping_metric="loss", history=history, **watching,
    )  # fmt: skip


def arrays(ops: OpsWrapper) -> dict[str, np.ndarray]:
    return {name: variable.numpy() for name, variable in ops.state().items()}


def one_and_two() -> dict[str, tuple[Trained, Trained]]:
    """By case, what one device and what two of them make of the same rows."""
    results = {}
    for name, case in CASES.items():
        sides = []
        for number in (1, 2):
            with two_devices.used(number):
                ops = built(*case)
            assert ops.strategy.num_replicas_in_sync == number
            sides.append((trained(ops), arrays(ops)))
        results[name] = tuple(sides)
    return results


def with_and_without_a_break() -> list[dict[str, list[np.ndarray]]]:
    """All copies of the variables after two epochs: in one go, and of a model that takes over after the first."""
    with two_devices.used(2):
        whole, broken = (built(deep_v1, SHAPES, {"dropout": 0.3, "batch_norm": True}) for _ in "12")
    after_first: list[Trained] = []

    def watch(history: History, *, epoch_ended: bool) -> None:
        if epoch_ended and len(history.rows) == 1:
            after_first.append((copy.deepcopy(history), arrays(whole)))

    trained(whole, callback=watch)
    ((history, state),) = after_first
    for name, variable in broken.state().items():
        variable.assign(state[name])
    trained(broken, history)
    return [
        {name: [part.numpy() for part in variable.values] for name, variable in ops.state().items()}
        for ops in (whole, broken)
    ]


def dropped() -> list[np.ndarray]:
    """What two replicas let through."""
    strategy = replicas.mirrored(*two_devices.NAMES)
    with strategy.scope():
        layer = Dropout(0.5)
        layer.build((None, 1000))
    masks = strategy.run(tf.function(lambda: layer(tf.ones([1, 1000]), training=True)))
    return [mask.numpy() for mask in strategy.experimental_local_results(masks)]


def stock_layers() -> History:
    """A network of layers that are not this project's own."""
    config = deep_v1.Config(batch_size=BATCH, learning_rate=0.01)
    strategy = replicas.mirrored(*two_devices.NAMES)
    with strategy.scope():
        inputs = feature_inputs(SHAPES)
        words = keras.layers.Embedding(20, 8)(inputs["title"])
        x = keras.layers.Concatenate()([*feature_vectors(inputs, SHAPES, 8), keras.layers.Flatten()(words)])
        x = keras.layers.BatchNormalization()(keras.layers.Dense(16, kernel_regularizer="l2")(x))
        model = keras.Model(inputs, logits(keras.layers.Dropout(0.2)(x), SHAPES))
    return trained(OpsWrapper(model, config, SHAPES, strategy), epochs=5)


def _answer(path: Path) -> None:
    two_devices.split_the_cpu()
    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    questions = (one_and_two, with_and_without_a_break, dropped, stock_layers)
    path.write_bytes(pickle.dumps({question.__name__: question() for question in questions}))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of a process that has two devices."""
    path = tmp_path_factory.mktemp("replicas") / "answers"
    process = warm.start(_answer, path)
    process.join(timeout=120)
    assert process.exitcode == 0
    results: dict[str, Any] = pickle.loads(path.read_bytes())
    return results


@pytest.mark.parametrize("case", CASES)
def test_two_devices_learn_what_one_learns(answers: dict[str, Any], case: str) -> None:
    (one, weights), (two, others) = answers["one_and_two"][case]
    assert weights.keys() == others.keys()
    for row, other in zip(one.rows, two.rows, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(array, others[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_copies_stay_equal(answers: dict[str, Any]) -> None:
    whole, _ = answers["with_and_without_a_break"]
    assert len(whole) > 10
    for name, (first, second) in whole.items():
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_a_break_does_not_show(answers: dict[str, Any]) -> None:
    whole, broken = answers["with_and_without_a_break"]
    for name, copies in whole.items():
        np.testing.assert_array_equal(copies, broken[name], err_msg=name)


def test_each_replica_drops_other_values(answers: dict[str, Any]) -> None:
    first, second = answers["dropped"]
    assert set(np.unique(first)) == set(np.unique(second)) == {0.0, 2.0}
    assert 0.4 < (first == second).mean() < 0.6


def test_layers_of_keras_work_too(answers: dict[str, Any]) -> None:
    losses = [row["train_loss"] for row in answers["stock_layers"].rows]
    assert losses[-1] < 0.9 * losses[0]


def test_the_command_trains_on_all_devices_to_a_package(tmp_path: Path) -> None:
    arguments = (f"--data={SAMPLE}", "--run=it", "--output=out")
    small = {"NET_EPOCHS": "1", "NET_TOKENIZER": "regex", "NET_CATEGORICAL_COLUMNS": '["item"]'}
    done = trainer(tmp_path, *arguments, module="tests.model.two_devices", **small)
    assert done.code == 0, done.err
    assert "devices  2, each with a share of every batch: CPU:0, CPU:1" in done.out
    with zipfile.ZipFile(tmp_path / "out" / "it.zip") as package:
        assert json.loads(package.read("metrics.json"))
