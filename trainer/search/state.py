"""The state of a search, as its events make it: its trials, and the runs of each.

A trial has a run for each fold. The best trials are trained again with further seeds, as is the default, which is the
trial `None`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.runtime.errors import ConfigError, Interrupted, StorageError
from trainer.search.journal import Event
from trainer.search.plan import Plan, rungs

MOST_ATTEMPTS = 3  # that come no further
REPEATABLE = (Interrupted.exit_code, StorageError.exit_code)  # and all kills by a signal


class Key(NamedTuple):
    """Which run of a search. trial: None for the default. seed, fold: 0 for those of the variant."""

    trial: int | None
    seed: int = 0
    fold: int = 0


@dataclass
class Run:
    """A run as far as it has come."""

    values: list[float | None] = field(default_factory=list)  # the metric after each epoch; None: not a number
    best: dict[str, float | None] = field(default_factory=dict)  # the row of metrics.csv of the best epoch
    step: int = 0  # steps done in the epoch after these, as far as they are in a checkpoint
    running: bool = False
    over: bool = False  # nothing is left to train
    reason: str = ""  # why it has failed
    code: int = 0  # exit code of its last process
    attempts: int = 0  # in a row, that came no further
    seconds: float = 0.0
    weights: str = ""  # SHA-256 of those of the best epoch
    package: str = ""
    machine: str = ""

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.values)


class Goal(NamedTuple):
    """How far runs should come. until: epochs after which they pause; None: they train to their end."""

    until: int | None
    package: bool = False

    def is_reached(self, run: Run) -> bool:
        """Whether a run has come so far."""
        return bool(run.package) if self.package else has_reached(run, self.until)


@dataclass
class State:
    """The state of a search. epochs: of the variant of each trial."""

    plan: Plan
    trials: dict[int, dict[str, Any]] = field(default_factory=dict)  # the settings of each, by number
    epochs: dict[int, int] = field(default_factory=dict)
    goals: dict[tuple[int | None, int], Goal] = field(default_factory=dict)  # of the runs of a trial and a seed
    runs: dict[Key, Run] = field(default_factory=dict)
    skipped: int | None = None  # first rungs that are too short; None: not measured yet

    def rungs(self, trial: int) -> list[int]:
        """The epochs at which a trial waits for others; the last are all its epochs."""
        return rungs(self.epochs[trial], halving=self.plan.halving)[self.skipped or 0 :]

    def keys_of(self, trial: int | None, seed: int = 0) -> list[Key]:
        """The runs of a trial with a seed, one for each fold."""
        return [Key(trial, seed, fold) for fold in range(self.plan.folds)]

    def reason_of(self, trial: int | None, seed: int = 0) -> str:
        """Why a trial has failed; "" if it has not."""
        return next((self.runs[key].reason for key in self.keys_of(trial, seed) if self.runs[key].reason), "")

    def next_run(self) -> Key | None:
        """A run that has not come to its goal and is not being trained."""
        for (trial, seed), goal in self.goals.items():
            for key in [] if self.reason_of(trial, seed) else self.keys_of(trial, seed)[: 1 if goal.package else None]:
                if not self.runs[key].running and not goal.is_reached(self.runs[key]):
                    return key
        return None

    def running(self) -> list[Key]:
        """The runs that are being trained."""
        return [key for key, run in self.runs.items() if run.running]


def run_name(plan: Plan, key: Key) -> str:
    """The name of a run: `lr-0007`, `lr-0007-seed2`, `lr-default-seed1`."""
    parts = [plan.name, "default" if key.trial is None else f"{key.trial:04}"]
    parts += [f"fold{key.fold}"] * bool(key.fold) + [f"seed{key.seed}"] * bool(key.seed)
    return "-".join(parts)


def replayed(plan: Plan, events: Iterable[Event]) -> State:
    """The state after all events. Runs that were being trained are not any more."""
    state = State(plan)
    for event in events:
        apply(state, event)
    for run in state.runs.values():
        run.running = False
    return state


def apply(state: State, event: Event) -> None:
    """Change the state by an event."""
    kind = event["event"]
    if kind == "rungs":
        state.skipped = event["skipped"]
    elif kind == "retry":
        for run in state.runs.values():
            run.reason, run.attempts = "", 0
    elif kind == "trial":
        add_trial(state, event["trial"], event["settings"])
    elif kind == "goal":
        set_goal(state, event["trial"], event["seed"], Goal(event["until"], event["package"]))
    else:
        run = state.runs[Key(event["trial"], event["seed"], event["fold"])]
        if kind == "start":
            run.running = True
        else:
            end(run, event, state.goals[event["trial"], event["seed"]])


def add_trial(state: State, number: int, settings: dict[str, Any]) -> None:
    """A trial with its settings; it has failed already if they contradict each other."""
    state.trials[number] = settings
    reason = ""
    try:
        state.epochs[number] = state.plan.configuration(settings).config.epochs
    except ConfigError as error:
        state.epochs[number], reason = 1, str(error)
    first = state.rungs(number)[0]
    set_goal(state, number, 0, Goal(first if first < state.epochs[number] else None))
    for key in state.keys_of(number):
        state.runs[key].reason = reason


def set_goal(state: State, trial: int | None, seed: int, goal: Goal) -> None:
    """Let the runs of a trial and a seed come to a goal."""
    state.goals[trial, seed] = goal
    for key in state.keys_of(trial, seed):
        state.runs.setdefault(key, Run())


def end(run: Run, event: Event, goal: Goal) -> None:
    """A run has ended: it is over, it pauses, it has failed, or it was stopped and will start again."""
    before, code = (run.epochs, run.step), event["code"]
    run.running, run.code = False, code
    run.seconds += event["seconds"]
    run.values, run.best, run.step = event["values"], event["best"], event["step"]
    run.weights, run.machine = event["weights"], event["machine"]
    run.over = run.over or code == 0
    run.package = event["package"] or run.package
    run.attempts = 0 if (run.epochs, run.step) > before or goal.is_reached(run) else run.attempts
    if code < 0 or code in REPEATABLE:
        run.attempts += code != Interrupted.exit_code
        run.reason = event["reason"] if run.attempts >= MOST_ATTEMPTS else ""
    elif code:
        run.reason = event["reason"]


def has_reached(run: Run, epochs: int | None) -> bool:
    """Whether a run has done so many epochs, None for all, or has nothing left to train."""
    return run.over or (epochs is not None and run.epochs >= epochs and not run.running)


def value_at(state: State, trial: int | None, epochs: int | None, seed: int = 0) -> float | None:
    """The best metric of a trial in its first epochs, lower is better, the mean over its folds; None if it has failed
    or has not come so far. epochs: None for all. A trial that fails after its training has its value all the same."""
    runs = [state.runs[key] for key in state.keys_of(trial, seed) if key in state.runs]
    if len(runs) < state.plan.folds or any(
        (run.reason and not run.over) or not has_reached(run, epochs) for run in runs
    ):
        return None
    sign = -1 if state.plan.higher_is_better else 1
    values = [min((sign * value for value in run.values[:epochs] if value is not None), default=math.inf)
              for run in runs]  # fmt: skip
    mean = math.fsum(values) / len(values)
    return mean if math.isfinite(mean) else None


def losers(state: State, *, finished: bool) -> list[Key]:
    """The runs whose checkpoints nothing needs: those that have ended and become no package.

    A trial that is among the best so far may become one. finished: the search is over, and paused trials have lost.
    """
    best = {*ranking(state)[: state.plan.keep]}
    return [
        key for key, run in state.runs.items()
        if not run.running and (run.over or run.reason or finished) and (key.seed or key.trial not in best)
    ]  # fmt: skip


def ranking(state: State) -> list[int]:
    """The trials that are trained to their end, the best first."""
    values = {trial: value_at(state, trial, None) for trial in state.trials}
    ranked = {trial: value for trial, value in values.items() if value is not None}
    return sorted(ranked, key=lambda trial: (ranked[trial], trial))
