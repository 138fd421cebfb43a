"""The real command: a search on the sample, killed and started again, and its trials made again."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands import SAMPLE, Done, finished, made_once, start, trainer
from trainer.config import record
from trainer.package.archive import read_package
from trainer.search import journal
from trainer.search import tune as command
from trainer.search.plan import read_plan
from trainer.search.state import Key, State, ranking, replayed, run_name

SPACE = {"learning_rate": [0.2, 100.0], "dropout": [0.0, 0.2]}
OPTIONS = (
    "--space=space.json", "--sampler=grid", "--name=s", f"--data={SAMPLE}", "--keep=1", "--seeds=2",
    "--workers=2", "--set=optimizer=sgd", "--set=epochs=3", "--set=patience=null",
)  # fmt: skip


def tune(folder: Path, *options: str, **environment: str) -> Done:
    return trainer(folder, *options, module="trainer.search.tune", **environment)


def search(folder: Path) -> None:
    """The search in this process, whose warm process the runs of other tests share."""
    (folder / "space.json").write_text(json.dumps(SPACE))
    with contextlib.chdir(folder), (folder / "stdout").open("w") as out, contextlib.redirect_stdout(out):
        command.main([*OPTIONS])


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a search has ended."""
    return made_once(tmp_path_factory, "search", search)


def state_in(folder: Path) -> State:
    """The state of the search in a folder."""
    plan = read_plan(folder / "searches" / "s")
    assert plan is not None
    return replayed(plan, journal.read(folder / "searches" / "s" / journal.FILE))


def results(state: State) -> dict[str, Any]:
    """What every run has come to, by name."""
    return {run_name(state.plan, key): (run.values, run.weights, run.over, bool(run.reason), bool(run.package))
            for key, run in state.runs.items()}  # fmt: skip


def test_a_search_compares_its_best_trial_with_the_default_and_packages_it(calm: Path) -> None:
    state, out = state_in(calm), (calm / "stdout").read_text()
    (best,) = [key.trial for key, run in state.runs.items() if run.package]
    assert best == ranking(state)[0]
    name = run_name(state.plan, Key(best))
    assert f"The best of 2 finished trials is {name}. Validation loss over 2 seeds:" in " ".join(out.split())
    settings = record.from_json(
        read_package(calm / "packages" / f"{name}.zip", ("config.json",).__contains__)["config.json"]
    )
    assert settings.sources["learning_rate"] == settings.sources["dropout"] == "trial"
    assert settings.config.learning_rate == state.trials[best]["learning_rate"]
    assert settings.sources["optimizer"] == "command line"
    reports = {path.parent.name for path in (calm / "runs").glob("*/report.html")}
    assert {report for report in reports if not report.endswith("-again")} == {name}
    checkpoints = {path.parent.name for path in (calm / "runs").glob("*/checkpoints")}
    assert {run for run in checkpoints if not run.endswith("-again")} == {name}  # no other run needs them any more


def test_a_trial_that_diverges_is_a_row_with_its_reason(calm: Path) -> None:
    state = state_in(calm)
    failed = {
        trial: state.runs[Key(trial)] for trial, settings in state.trials.items() if settings["learning_rate"] == 100
    }
    assert len(failed) == 2
    for run in failed.values():
        assert run.code == 5
        assert "the training loss is" in run.reason
        assert run.reason.endswith("set clip_norm.")


def test_a_search_that_is_killed_goes_on_and_ends_with_the_same_bits(calm: Path, tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    process = start(tmp_path, *OPTIONS, module="trainer.search.tune")
    log = tmp_path / "searches" / "s" / journal.FILE
    while not (log.exists() and log.read_text().count('"end"') >= 2):
        assert process.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert len(results(state_in(tmp_path))) < len(results(state_in(calm)))
    wait_for_the_end_of_runs(tmp_path)
    search(tmp_path)
    assert results(state_in(tmp_path)) == results(state_in(calm))


def wait_for_the_end_of_runs(folder: Path) -> None:
    """No run outlives its search."""
    for _ in range(600):
        if not processes_in(folder):
            return
        time.sleep(0.1)
    raise AssertionError(f"{processes_in(folder)} go on without their search")


def processes_in(folder: Path) -> list[int]:
    """The processes whose working folder this is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder and (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def test_a_trial_made_again_has_the_same_bits(calm: Path) -> None:
    name = run_name(state_in(calm).plan, Key(ranking(state_in(calm))[1], 0))
    done = trainer(calm, f"--trial={name}", module="trainer.search.reproduce")
    assert done.code == 0, done.err
    assert f"same     all bits of {name}: 4 values compared" in done.out
    assert (calm / "packages" / f"{name}-again.zip").exists()


def test_a_run_is_not_replaced_by_its_own_copy(calm: Path) -> None:
    name = run_name(state_in(calm).plan, Key(ranking(state_in(calm))[0]))
    done = trainer(calm, f"--package=packages/{name}.zip", f"--run={name}", module="trainer.search.reproduce")
    assert done.code == 2
    assert f"--run={name} is the run to make again" in done.err
    assert (calm / "packages" / f"{name}.zip").exists()


def test_the_same_command_with_another_plan_is_refused(calm: Path) -> None:
    done = tune(calm, *OPTIONS, "--metric=auc")
    assert done.code == 2
    assert 'metric: "loss" before, "auc" now' in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--space=bad.json",), "bad.json: there is no setting \"dropuot\". Did you mean 'dropout'?"),
        ((), "choose the settings to try: --space=FILE or --auto"),
        (("--auto", "--folds=20"), "validation_part"),
        (("--auto", "--date-ranges=3"), "--date-ranges needs split=time"),
        (("--auto", "--metric=f1"), "--metric=f1 is not a metric"),
        (("--auto", "--trials=0"), "0 is below 1"),
        (("--auto", "--set=epoch=3"), "Did you mean 'epochs'?"),
        (("--auto", "--save-as=deep_v1"), "has this variant already"),
    ],
)
def test_a_wrong_search_is_refused_before_it_begins(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.json").write_text('{"dropuot": [0.1, 0.2]}')
    done = tune(tmp_path, *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "searches").exists()


def test_names_of_runs_that_are_taken_are_refused(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "s-0001.zip").touch()
    done = tune(tmp_path, "--auto", "--name=s")
    assert done.code == 4
    assert "packages/s-0001.zip is not of this search. Choose another --name, or remove it." in done.err


def test_trials_that_hang_are_ended_and_if_all_do_the_search_says_so(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps({"dropout": [0.1, 0.2, 0.3, 0.4]}))
    done = tune(tmp_path, "--space=space.json", "--name=s", FLATFAB_HANG_SECONDS="0.01")
    assert done.code == 1
    assert "error: 3 trials failed alike: hung: no progress for 0:00:00.010000 (h:mm:ss). The logs are in" in done.err


def test_a_stopped_search_saves_its_runs_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text(json.dumps({"dropout": [0.1, 0.2]}))
    options = ("--space=space.json", "--name=s", "--set=epochs=100000", "--set=patience=null", "--no-halving")
    process = start(tmp_path, *options, module="trainer.search.tune")
    while not list(tmp_path.glob("runs/*/checkpoints/*/manifest.json")):
        assert process.is_alive(), (tmp_path / "stderr").read_text()
        time.sleep(0.05)
    os.kill(process.pid or 0, signal.SIGTERM)
    done = finished(tmp_path, process)
    assert done.code == 75
    assert "To go on, start it again with --name=s." in done.err
    state = state_in(tmp_path)
    assert any(run.values for run in state.runs.values())
    assert not any(run.reason or run.over for run in state.runs.values())
