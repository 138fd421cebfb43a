"""Which run comes next: halving, promotion, seeds, faults, and a search that goes on."""

import math
from pathlib import Path

import pytest

from tests.search.simulated import SimulatedEngine, events, new_plan, searched
from trainer.runtime.errors import StorageError
from trainer.search import journal
from trainer.search.plan import rungs
from trainer.search.state import Key, ranking, replayed, value_at
from trainer.search.winner import winner


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rungs_are_a_ninth_a_third_and_all_of_the_epochs() -> None:
    assert rungs(18, halving=True) == [2, 6, 18]
    assert rungs(20, halving=True) == [3, 7, 20]
    assert rungs(2, halving=True) == [1, 2]
    assert rungs(1, halving=True) == [1]
    assert rungs(18, halving=False) == [18]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_halving_finds_the_best_in_a_third_of_the_epochs(workers: int) -> None:
    full, halved = SimulatedEngine(workers), SimulatedEngine(workers)
    plan = new_plan("full", halving=False, seeds=1)
    everything = searched(plan, full)
    quick = searched(new_plan("halved", seeds=1), halved)
    assert full.trained == 27 * 18
    assert halved.trained <= 0.4 * full.trained
    best, of_halved = (value_at(state, ranking(state)[0], None) for state in (everything, quick))
    assert best is not None
    assert of_halved is not None
    assert of_halved <= 1.001 * best


def test_a_promoted_trial_goes_on_where_it_paused() -> None:
    engine = SimulatedEngine(2)
    searched(new_plan(seeds=1), engine)
    for run in {name for name, _, _ in engine.starts}:
        begins = [(begin, until) for name, begin, until in engine.starts if name == run]
        ends = [until for _, until in begins]
        assert [begin for begin, _ in begins] == [0, *(until or 18 for until in ends[:-1])]


def test_only_the_best_third_of_a_rung_goes_on() -> None:
    engine = SimulatedEngine(1)
    state = searched(new_plan(seeds=1), engine)
    at_first = {trial: value_at(state, trial, 2) for trial in state.trials}
    went_on = {trial for trial in state.trials if state.runs[Key(trial)].epochs > 2}
    assert 9 <= len(went_on) <= 14  # those of the first trials that were best then, too
    best = sorted(at_first, key=lambda trial: (at_first[trial], trial))[:9]
    assert set(best) <= went_on


def test_the_order_in_which_trials_end_changes_nothing_without_halving() -> None:
    states = [searched(new_plan(f"order{seed}", halving=False), SimulatedEngine(3, seed)) for seed in range(3)]
    assert states[0].trials == states[1].trials == states[2].trials
    assert len({tuple(ranking(state)) for state in states}) == 1
    assert len({winner(state) for state in states}) == 1


def test_the_best_are_trained_with_the_seeds_of_the_default_and_packaged() -> None:
    state = searched(new_plan(halving=False), SimulatedEngine(2))
    best = ranking(state)[:3]
    seeds = {(trial, seed) for trial, seed in state.goals if trial in (None, *best)}
    assert seeds == {(trial, seed) for trial in (None, *best) for seed in range(3)}
    assert {key.trial for key, run in state.runs.items() if run.package} == set(best)
    configurations = [state.plan.configuration({}, seed=seed).config for seed in range(3)]
    assert [config.seed for config in configurations] == [0, 1, 2]


def test_workers_are_busy_while_the_best_are_compared() -> None:
    most: list[tuple[int, bool]] = []

    class Watched(SimulatedEngine):
        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            most.append((len(self.running), "seed" in "".join(job.run for _, job in self.running)))
            return super().wait(seconds)

    searched(new_plan(halving=False), Watched(4))
    assert max(count for count, compared in most if compared) == 4


def test_rungs_that_last_less_than_ten_starts_are_left_out() -> None:
    engine = SimulatedEngine(2, start=0.3)  # an epoch lasts 1 second
    state = searched(new_plan(seeds=1), engine)
    assert state.skipped == 1
    assert {until for _, _, until in engine.starts[2:]} == {6, None}
    slow = SimulatedEngine(2, start=5.0)
    state = searched(new_plan("slow", seeds=1), slow)
    assert state.skipped == 2
    assert all(run.over for run in state.runs.values())


@pytest.mark.parametrize("seed", range(5))
def test_kills_change_no_result(seed: int) -> None:
    calm = searched(new_plan("calm", halving=False), SimulatedEngine(2))
    killed = searched(new_plan("killed", halving=False), SimulatedEngine(2, seed, faults=0.3))
    assert {key: run.values for key, run in calm.runs.items()} == {key: run.values for key, run in killed.runs.items()}
    assert ranking(calm) == ranking(killed)
    assert winner(calm) == winner(killed)


@pytest.mark.parametrize("cut", [0, 1, 5, 17, 40, 80, 10**6])
def test_a_search_that_was_killed_anywhere_goes_on_to_the_same_end(cut: int) -> None:
    plan = new_plan(halving=False)
    engine = SimulatedEngine(2)
    whole = searched(plan, engine)
    path = plan.folder / journal.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:cut]) + (lines[cut][:-7] if cut < len(lines) else b""))
    again = searched(plan, SimulatedEngine(2, seed=9))
    assert again.trials == whole.trials
    assert again.runs.keys() == whole.runs.keys()
    assert {key: run.values for key, run in again.runs.items()} == {key: run.values for key, run in whole.runs.items()}
    assert winner(again) == winner(whole)


def test_the_state_is_what_the_journal_makes_it() -> None:
    plan = new_plan()
    state = searched(plan, SimulatedEngine(3, faults=0.1))
    assert replayed(plan, journal.read(plan.folder / journal.FILE)) == state
    kinds = {event["event"] for event in events(plan)}
    assert kinds == {"trial", "goal", "start", "end", "rungs"}


def test_a_run_that_never_comes_further_fails_with_its_reason_and_the_others_go_on() -> None:
    class Cursed(SimulatedEngine):
        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            ((key, outcome),) = super().wait(seconds)
            if key.trial == 2:
                self.epochs.pop("sim-0002", None)
                outcome = outcome._replace(code=-9, reason="killed by SIGKILL", values=[], best={})
            return [(key, outcome)]

    engine = Cursed(2)
    state = searched(new_plan(halving=False), engine)
    assert state.runs[Key(2)].reason == "killed by SIGKILL"
    assert [name for name, _, _ in engine.starts].count("sim-0002") == 3
    assert len(ranking(state)) == 26
    assert 2 not in ranking(state)


def test_a_run_that_is_killed_again_and_again_goes_on_as_long_as_its_checkpoints_do() -> None:
    class Hunted(SimulatedEngine):
        kills = 0

        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            ((key, outcome),) = super().wait(seconds)
            if key == Key(2) and self.kills < 10:
                self.kills += 1
                self.epochs.pop("sim-0002", None)
                outcome = outcome._replace(code=-9, reason="killed", values=[], best={}, step=10 * self.kills)
            return [(key, outcome)]

    state = searched(new_plan(halving=False), Hunted(2))
    assert state.runs[Key(2)].over
    assert len(ranking(state)) == 27


def test_a_trial_that_diverges_never_wins() -> None:
    class Diverging(SimulatedEngine):
        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            ((key, outcome),) = super().wait(seconds)
            if key.trial in (0, 1):
                outcome = outcome._replace(code=5, reason="the loss is nan", values=[None, 0.0001], best={})
            elif key.trial == 3:
                outcome = outcome._replace(values=[None] * len(outcome.values))
            return [(key, outcome)]

    state = searched(new_plan(halving=False), Diverging(2))
    assert not {0, 1, 3} & set(ranking(state))
    assert winner(state) is not None


def test_failed_trials_start_again_when_asked_to() -> None:
    class Ill(SimulatedEngine):
        def wait(self, seconds: float):  # type: ignore[no-untyped-def]
            ((key, outcome),) = super().wait(seconds)
            if key.trial == 4:
                outcome = outcome._replace(code=6, reason="out of memory", values=[], best={})
            return [(key, outcome)]

    plan = new_plan(halving=False)
    assert searched(plan, Ill(2)).runs[Key(4)].reason
    journal.append(plan.folder / journal.FILE, {"event": "retry"})
    state = searched(plan, SimulatedEngine(2))
    assert state.runs[Key(4)].over
    assert len(ranking(state)) == 27


def test_each_fold_counts_for_a_trial() -> None:
    state = searched(new_plan(halving=False, folds=3, seeds=1), SimulatedEngine(4))
    for trial in state.trials:
        keys = state.keys_of(trial)
        assert [state.runs[key].over for key in keys] == [True] * 3
        means = [min(value for value in state.runs[key].values if value is not None) for key in keys]
        assert value_at(state, trial, None) == pytest.approx(math.fsum(means) / 3)
    assert [state.plan.configuration({}, fold=fold).config.validation_part for fold in range(3)] == [0, 1, 2]


def test_a_damaged_journal_is_refused_with_the_line() -> None:
    plan = new_plan()
    searched(plan, SimulatedEngine(2))
    path = plan.folder / journal.FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{]\n", *lines[4:]]))
    with pytest.raises(StorageError, match=r"trials.jsonl, line 4 is damaged"):
        list(journal.read(path))
