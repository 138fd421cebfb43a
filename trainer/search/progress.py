"""What is left to do in a search, and how long that may take."""

import math
from statistics import fmean, median

from trainer.search.plan import ETA
from trainer.search.state import State
from trainer.search.table import trial_state

UNITS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def counts(state: State) -> dict[str, int]:
    """How many trials are done, paused, failed, ..."""
    states = [trial_state(state, trial) for trial in state.trials]
    return {name: states.count(name) for name in dict.fromkeys(states)}


def begun(state: State) -> int:
    """Trials of which a run has ended."""
    return len({key.trial for key, run in state.runs.items() if key.trial is not None and (run.machine or run.reason)})


def seconds_left(state: State, workers: int, elapsed: float = 0.0) -> float | None:
    """About how long a search needs to its end; None before an epoch is known. Packages take a little longer.

    elapsed: seconds of all runs that are being trained.
    """
    seconds = sum(run.seconds for run in state.runs.values() if run.epochs)
    done = sum(run.epochs for run in state.runs.values())
    if not done:
        return None
    return max((epochs_in_all(state) - done) * seconds / done - elapsed, 0.0) / workers


def epochs_in_all(state: State) -> float:
    """The epochs that a search trains if what follows is like what was: an expectation, not a bound."""
    plan = state.plan
    complete = [run.epochs for run in state.runs.values() if run.over and not run.reason]
    planned = median(state.epochs.values())
    full = fmean(complete) if complete else planned  # training may stop early
    per_trial, before = 0.0, 0.0
    trial = next(iter(state.trials))
    for rung, epochs in enumerate(state.rungs(trial)):
        reached = min(epochs, full)
        per_trial += (reached - before) / ETA**rung  # one of so many goes on
        before = reached
    again = plan.keep * (plan.seeds - 1) + plan.seeds if plan.seeds > 1 else 0  # with further seeds, and the default
    done = sum(run.epochs for key, run in state.runs.items() if key.trial is not None and not key.seed)
    return max(plan.trials * plan.folds * per_trial, done) + again * plan.folds * full


def about(seconds: float) -> str:
    """A time that is not known exactly: `about 12 min`, `about 3.5 h`."""
    for size, unit in UNITS:
        if seconds >= size:
            number = seconds / size
            return f"about {number:.1f} {unit}" if number < 10 and size > 60 else f"about {math.ceil(number)} {unit}"
    return "less than a minute"
