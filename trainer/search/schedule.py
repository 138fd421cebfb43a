"""What a search does next, as a function of its state.

Trials pause at rungs, and the best third of those that have come to a rung goes on at once, without waiting for the
others: asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020).
Unlike there, a trial that pauses loses nothing: the same run goes on, with the bits that it would have had.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

from trainer.search.journal import Event
from trainer.search.plan import ETA
from trainer.search.state import Goal, State, ranking, value_at

LEAST_STARTS = 10  # a rung lasts at least as long as so many starts of a trial

Propose = Callable[[State], dict[str, Any] | None]  # the settings of a new trial; None if there are no more


def next_event(state: State, propose: Propose) -> Event | None:
    """The next decision of a search that has a worker free and no run to start; None: wait for the runs, or all is
    done."""
    if event := promotion(state):
        return event
    number = len(state.trials)
    if number < state.plan.trials and not is_closed(state) and (settings := propose(state)) is not None:
        return {"event": "trial", "trial": number, "settings": settings}
    if state.running() and not is_closed(state):
        return None  # a trial that is being trained may be among the best
    return confirmation(state) or packaging(state)


def is_closed(state: State) -> bool:
    """Whether the best trials have been chosen, so that further trials would come too late."""
    return any(trial is None or seed or goal.package for (trial, seed), goal in state.goals.items())


def promotion(state: State) -> Event | None:
    """A trial that goes on to a higher rung; those that are furthest come first."""
    most = max((len(state.rungs(trial)) for trial in state.trials), default=1)
    for rung in reversed(range(most - 1)):
        values = values_at(state, rung)
        best = sorted(values, key=lambda trial: (values[trial], trial))[: len(values) // ETA]
        if trial := next((trial for trial in best if state.goals[trial, 0].until == state.rungs(trial)[rung]), None):
            return goal_event(trial, state.rungs(trial), rung + 1)
    for trial in state.trials:  # paused at a rung that no longer counts
        goal, rungs = state.goals[trial, 0].until, state.rungs(trial)
        if goal is not None and goal not in rungs and value_at(state, trial, goal) is not None:
            return goal_event(trial, rungs, next(rung for rung, epochs in enumerate(rungs) if epochs > goal))
    return None


def values_at(state: State, rung: int) -> dict[int, float]:
    """The value of each trial that has come to a rung and has not failed."""
    values = {trial: value_at(state, trial, state.rungs(trial)[rung])
              for trial in state.trials if rung < len(state.rungs(trial)) - 1}  # fmt: skip
    return {trial: value for trial, value in values.items() if value is not None}


def goal_event(trial: int, rungs: list[int], rung: int) -> Event:
    """The event that lets a trial go on to a rung."""
    goal = Goal(rungs[rung] if rung + 1 < len(rungs) else None)
    return {"event": "goal", "trial": trial, "seed": 0, **goal._asdict()}


def confirmation(state: State) -> Event | None:
    """A further seed for one of the best trials, or for the default."""
    best = ranking(state)[: state.plan.keep]
    if state.plan.seeds < 2 or not best:  # one seed compares nothing
        return None
    for seed in range(state.plan.seeds):
        for trial in (None, *best):
            if (trial, seed) not in state.goals:
                return {"event": "goal", "trial": trial, "seed": seed, **Goal(None)._asdict()}
    return None


def packaging(state: State) -> Event | None:
    """A trial that becomes a package."""
    for trial in ranking(state)[: state.plan.keep]:
        if not state.goals[trial, 0].package:
            return {"event": "goal", "trial": trial, "seed": 0, **Goal(None, package=True)._asdict()}
    return None


def short_rungs(state: State, trial: int, seconds: float, epoch_seconds: list[float]) -> int:
    """How many of the first rungs to leave out: those that last less than ten starts of a trial.

    seconds: of the first start of this trial; epoch_seconds: of the epochs that it has trained.
    """
    epoch = median(epoch_seconds)
    start = max(seconds - epoch * len(epoch_seconds), 0)
    return sum(epochs * epoch < LEAST_STARTS * start for epochs in state.rungs(trial)[:-1])
