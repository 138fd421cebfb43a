"""How the best metric of a search came down, from its journal."""

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from trainer.search.journal import Event
from trainer.search.plan import Plan


class Step(NamedTuple):
    """A trial whose run has ended or paused."""

    trials: int  # that were begun until then
    seconds: float  # that all runs have taken until then
    value: float  # of this trial
    best: float  # of all trials until then


def steps(plan: Plan, events: Iterable[Event]) -> list[Step]:
    """The metric of trials in the order in which their runs ended; runs with further seeds count for the time only."""
    better = max if plan.higher_is_better else min
    begun: set[int] = set()
    folds: dict[int, dict[int, float]] = {}  # trial -> fold -> best metric
    seconds, best, result = 0.0, None, []
    for event in events:
        if event["event"] != "end":
            continue
        seconds += event["seconds"]
        trial, values = event["trial"], [value for value in event["values"] if value is not None]
        if trial is None or event["seed"]:
            continue
        begun.add(trial)
        if not values:
            continue
        folds.setdefault(trial, {})[event["fold"]] = better(values)
        if len(folds[trial]) == plan.folds:
            value = fmean(folds[trial].values())
            best = value if best is None else better(best, value)
            result.append(Step(len(begun), seconds, value, best))
    return result
