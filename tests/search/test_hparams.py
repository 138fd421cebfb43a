"""TensorBoard's log of a search, read back by TensorBoard."""

from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util import tensor_util

from tests.search.events import EPOCHS, RUNG, end, goal, new_plan, searched, start, state_of
from trainer.search import hparams
from trainer.search.state import Key, apply


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: Path) -> EventAccumulator:
    log = EventAccumulator(str(path), size_guidance={"tensors": 0})
    log.Reload()
    return log


def curve(log: EventAccumulator, tag: str = "validation_loss") -> dict[int, float]:
    events = log.Tensors(tag)
    return {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events}


def test_the_table_and_the_curves_are_there() -> None:
    state = state_of(plan := new_plan(), searched(plan))
    hparams.write_experiment(state)
    for key in state.runs:
        hparams.write_run(state, key)
    folder = plan.folder / hparams.FOLDER
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert len(runs) == len(state.runs)
    plugin = read(folder).PluginTagToContent("hparams")
    experiment = metadata.parse_experiment_plugin_data(plugin[metadata.EXPERIMENT_TAG])
    assert [info.name for info in experiment.hparam_infos] == ["variant", *plan.space]
    assert experiment.hparam_infos[1].domain_interval.max_value == 0.05
    assert list(experiment.hparam_infos[2].domain_discrete) == [8.0, 16.0, 32.0]
    assert [info.name.tag for info in experiment.metric_infos] == ["best_validation_loss", "validation_loss"]
    log = read(folder / "lr-0002")
    start_info = metadata.parse_session_start_info_plugin_data(
        log.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    )
    settings = state.trials[2]
    assert start_info.hparams["learning_rate"].number_value == settings["learning_rate"]
    assert start_info.hparams["hidden_units"].string_value == "[128, 64]"
    values = state.runs[Key(2)].values
    assert curve(log) == {epoch: float(np.float32(value)) for epoch, value in enumerate(values, 1)}
    state.runs[Key(2)].values = [0.5, 0.3, None, 0.4]
    (other := plan.folder / hparams.FOLDER / "lr-0002").rename(other.with_name("before"))
    hparams.write_run(state, Key(2))
    assert curve(read(other)) == pytest.approx({1: 0.5, 2: 0.3, 4: 0.4})
    assert curve(read(other), "best_validation_loss") == pytest.approx({1: 0.5, 2: 0.3, 4: 0.3})
    ends = {name: end_status(folder / name) for name in ("lr-0002", "lr-0008", "lr-default")}
    assert ends == {"lr-0002": api_pb2.STATUS_SUCCESS, "lr-0008": api_pb2.STATUS_FAILURE,
                    "lr-default": api_pb2.STATUS_SUCCESS}  # fmt: skip


def end_status(path: Path) -> int:
    content = read(path).PluginTagToContent("hparams")[metadata.SESSION_END_INFO_TAG]
    status: int = metadata.parse_session_end_info_plugin_data(content).status
    return status


def test_a_trial_that_goes_on_adds_to_its_log_and_nothing_is_written_twice() -> None:
    settings = {"variant": "deep_v1", "learning_rate": 0.004, "embedding_dim": 8, "dropout": 0.1}
    events = [{"event": "rungs", "skipped": 1}, {"event": "trial", "trial": 0, "settings": settings}, start(0)]
    state = state_of(plan := new_plan(), events)
    folder = plan.folder / hparams.FOLDER / "lr-0000"
    hparams.write_run(state, Key(0))
    assert not folder.exists()
    apply(state, end(0, RUNG, 0.36))
    hparams.write_run(state, Key(0))
    assert list(curve(read(folder))) == list(range(1, RUNG + 1))
    assert metadata.SESSION_END_INFO_TAG not in read(folder).PluginTagToContent("hparams")
    for event in (goal(0), start(0), end(0, EPOCHS, 0.34)):
        apply(state, event)
    hparams.write_run(state, Key(0))
    files = {path: path.read_bytes() for path in folder.iterdir()}
    hparams.write_run(state, Key(0))
    assert {path: path.read_bytes() for path in folder.iterdir()} == files
    assert [event.step for event in read(folder).Tensors("validation_loss")] == list(range(1, EPOCHS + 1))
