"""TPE, importance and the export, on searches whose runs take no time."""

import math
from pathlib import Path
from statistics import fmean

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.search.simulated import SPACE, SimulatedEngine, new_plan, searched
from trainer.search import journal, optuna_study
from trainer.search.optuna_study import export, importances, propose
from trainer.search.state import Key, State, ranking, replayed, value_at


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tpe_comes_closer_to_the_best_than_random_search() -> None:
    """The best possible loss after three epochs is 0.3301, with a learning rate of 0.005 and a dropout of 0.1."""
    distance: dict[str, list[float]] = {"random": [], "tpe": []}
    for sampler, of_sampler in distance.items():
        for seed in range(4):
            plan = new_plan(f"{sampler}{seed}", sampler=sampler, seed=seed, trials=30, halving=False, seeds=1, epochs=3)
            state = searched(plan, SimulatedEngine(2))
            of_sampler.append((value_at(state, ranking(state)[0], None) or math.inf) - 0.3301)
    assert fmean(distance["tpe"]) < 0.8 * fmean(distance["random"])


def test_a_state_has_one_proposal_inside_the_space() -> None:
    plan = new_plan(sampler="tpe", trials=15, seeds=1, epochs=3)
    state = searched(plan, SimulatedEngine(2))
    settings = propose(state)
    assert settings == propose(state)
    assert settings is not None
    assert list(settings) == ["variant", *SPACE]
    assert 1e-4 <= settings["learning_rate"] <= 1e-1
    assert settings["learning_rate"] == float(f"{settings['learning_rate']:.4g}")
    assert settings["embedding_dim"] in SPACE["embedding_dim"]
    other = propose(State(plan._replace(seed=7), state.trials, state.epochs, state.goals, state.runs, state.skipped))
    assert other != settings


def test_a_search_that_starts_again_has_the_same_proposal() -> None:
    plan = new_plan(sampler="tpe", trials=15, seeds=1, epochs=3)
    state = searched(plan, SimulatedEngine(2))
    assert propose(replayed(plan, journal.read(plan.folder / journal.FILE))) == propose(state)


def test_no_settings_are_tried_twice() -> None:
    space = {"dropout": [0.1, 0.2], "embedding_dim": [8, 16]}
    state = searched(new_plan(sampler="tpe", space=space, trials=10, seeds=1, epochs=3), SimulatedEngine(2))
    assert len(state.trials) == 4
    assert len({str(settings) for settings in state.trials.values()}) == 4


def test_settings_that_a_variant_lacks_are_not_proposed_for_it() -> None:
    variants = new_plan("other").variants
    rnn = {**variants["deep_v1"], "variant": "rnn", "network": "rnn_v1"}
    rnn["settings"] = {name: entry for name, entry in rnn["settings"].items() if name != "batch_norm"}
    rnn["settings"]["network"] = {"value": "rnn_v1", "source": "variant rnn"}
    space = {"variant": ["deep_v1", "rnn"], "cell": ["gru", "lstm"], "dropout": {"low": 0.0, "high": 0.5}}
    plan = new_plan(sampler="tpe", space=space, trials=25, seeds=1, epochs=3, variants={**variants, "rnn": rnn})
    state = searched(plan, SimulatedEngine(2))
    assert {settings["variant"] for settings in state.trials.values()} == {"deep_v1", "rnn"}
    for settings in state.trials.values():
        assert ("cell" in settings) == (settings["variant"] == "rnn")


def test_the_setting_that_decides_is_the_most_important_one() -> None:
    state = searched(new_plan(trials=60, seeds=1), SimulatedEngine(2))
    found = importances(state)
    assert next(iter(found)) == "learning_rate"
    assert set(found) == set(SPACE)
    mean, spread = found["learning_rate"]
    assert 0.5 < mean <= 1
    assert 0 < spread < 0.3
    assert importances(searched(new_plan("few", trials=5, seeds=1), SimulatedEngine(2))) == {}


@pytest.mark.parametrize("metric", ["loss", "auc"])
def test_the_export_holds_all_trials_as_they_are(metric: str) -> None:
    plan = new_plan(metric=metric, halving=False, seeds=1, epochs=3)
    state = searched(plan, SimulatedEngine(2))
    path = export(state, plan.folder)
    assert path.name == optuna_study.FILE
    study = optuna.load_study(study_name="sim", storage=JournalStorage(JournalFileBackend(str(path))))
    assert study.direction.name == ("MINIMIZE" if metric == "loss" else "MAXIMIZE")
    assert study.best_trial.number == ranking(state)[0]
    for trial in study.trials:
        run = state.runs[Key(trial.number)]
        assert list(trial.intermediate_values.values()) == run.values
        assert trial.user_attrs["run"] == f"sim-{trial.number:04}"
    assert export(state, plan.folder) == path  # again, from scratch
