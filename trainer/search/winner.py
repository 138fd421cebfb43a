"""Is the best trial better than the default? By several seeds of each, compared on validation and on test rows.

Trials are chosen on validation rows, the best of many, so the value of the best one is partly luck. Further seeds are
not: each of the best trials is trained with the same seeds as the default, and the means are compared by Welch's
t-test (B. L. Welch, "The generalization of Student's problem when several different population variances are
involved", 1947). Test rows are looked at once, at the end, and choose nothing.
"""

from statistics import fmean, stdev
from typing import NamedTuple

from trainer.search.state import Key, State, ranking, run_name

LEVEL = 0.05  # of the test


class Candidate(NamedTuple):
    """A trial, None for the default, and its metric with each seed, the mean over folds."""

    trial: int | None
    validation: list[float]
    test: list[float]  # empty without test rows


class Comparison(NamedTuple):
    """The means of two candidates, lower or higher is better."""

    default: float
    best: float
    difference: float  # best minus default
    low: float  # of the interval that holds the true difference in 95 of 100 cases
    high: float
    p: float


def candidates(state: State) -> list[Candidate]:
    """The default and the trials that were trained with several seeds, the best first.

    The order is that of the mean over the seeds, on validation rows.
    """
    trials = {trial for trial, seed in state.goals if seed}
    trained = [of for of in (candidate_of(state, trial) for trial in trials) if len(of.validation) > 1]
    sign = -1 if state.plan.higher_is_better else 1
    return sorted(trained, key=lambda of: (sign * fmean(of.validation), of.trial or 0))


def candidate_of(state: State, trial: int | None) -> Candidate:
    """A candidate with the seeds that it was trained with to the end."""
    validation: list[float] = []
    test: list[float] = []
    for seed in range(state.plan.seeds):
        runs = [state.runs.get(Key(trial, seed, fold)) for fold in range(state.plan.folds)]
        best = [run.best for run in runs if run and run.over and not run.reason]
        if len(best) < len(runs):
            continue
        for values, side in ((validation, "validation"), (test, "test")):
            of_folds = [row.get(f"{side}_{state.plan.metric}") for row in best]
            numbers = [value for value in of_folds if value is not None]
            if len(numbers) == len(of_folds):
                values.append(fmean(numbers))
    return Candidate(trial, validation, test)


def winner(state: State) -> int | None:
    """The best trial: by the mean over seeds on validation rows, or without seeds by the one run of each; None without
    trials. The default does not count."""
    best = [of.trial for of in candidates(state) if of.trial is not None] or ranking(state)
    return best[0] if best else None


def compare(default: list[float], best: list[float]) -> Comparison | None:
    """Welch's t-test of two lists of metrics; None where one has fewer than two, or where nothing varies."""
    if min(len(default), len(best)) < 2 or stdev(default) + stdev(best) == 0:
        return None
    from scipy.stats import ttest_ind  # noqa: PLC0415 - a second, which only the end of a search needs

    test = ttest_ind(best, default, equal_var=False)
    low, high = test.confidence_interval(1 - LEVEL)
    return Comparison(fmean(default), fmean(best), fmean(best) - fmean(default), low, high, float(test.pvalue))


def conclusion(state: State) -> list[str]:
    """What the search has come to, in sentences."""
    best = winner(state)
    if best is None:
        return ["No trial was trained to its end."]
    metric, name = state.plan.metric, run_name(state.plan, Key(best))
    by_trial = {of.trial: of for of in candidates(state)}
    if None not in by_trial or best not in by_trial:
        value = candidate_of(state, best).validation[0]
        return [
            f"The best of {len(ranking(state))} finished trials is {name}: validation {metric} {value:.5g}. That is "
            "partly luck, since it was trained with one seed. More --seeds compare it with the default."
        ]
    ours, default = by_trial[best], by_trial[None]
    lines = [
        f"The best of {len(ranking(state))} finished trials is {name}. Validation {metric} over "
        f"{len(ours.validation)} seeds: {spread(ours.validation)}; of the default: {spread(default.validation)}."
    ]
    if ours.test and default.test:
        lines.append(f"Test {metric}: {name} {spread(ours.test)}, the default {spread(default.test)}.")
    sides = (
        ("test", ours.test, default.test) if ours.test and default.test else ("validation", *ours[1:2], *default[1:2])
    )
    return [*lines, verdict(name, sides[0], compare(sides[2], sides[1]), higher_is_better=state.plan.higher_is_better)]


def spread(values: list[float]) -> str:
    """A mean and the standard deviation between seeds: `0.34512 +- 0.00031`."""
    return f"{fmean(values):.5g}" + (f" +- {stdev(values):.1g}" if len(values) > 1 else "")


def verdict(name: str, side: str, test: Comparison | None, *, higher_is_better: bool) -> str:
    """Whether a trial is better than the default, in a sentence."""
    if test is None:
        return "Too few seeds to say whether it is better than the default."
    scale = 100 / abs(test.default) if test.default else 100
    gain = (test.difference if higher_is_better else -test.difference) * scale
    low, high = sorted((bound if higher_is_better else -bound) * scale for bound in (test.low, test.high))
    figures = f"{gain:+.2g}% on {side} rows, 95% interval {low:+.2g}% to {high:+.2g}%, Welch's t-test p = {test.p:.2g}"
    if test.p < LEVEL and gain > 0:
        return f"{name} is better than the default: {figures}."
    if test.p < LEVEL:
        return f"{name} is worse than the default: {figures}. Keep the default."
    return (
        f"{name} is not shown to be better than the default: {figures}. Keep the default, or compare with more --seeds."
    )
