"""Optuna: proposals that learn from the trials so far, importance of settings, and a study for its dashboard.

Optuna never owns the search. A study is made of the state of the search each time, so a search that goes on proposes
what it would have proposed. `optuna` is an extra: `pip install "flatfab[search]"`.
"""

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from trainer.runtime.system import atomic_path
from trainer.search.space import VARIANT, Range, Space, applicable, rounded
from trainer.search.state import Key, State, run_name, value_at

FILE = "optuna.journal"
LEAST_TRIALS = 10  # with a value, that importance needs
ATTEMPTS = 20  # at settings that are new
RESAMPLES = 30  # of the trials, for the uncertainty of importance

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(state: State) -> dict[str, Any] | None:
    """The settings of a new trial that no trial has had; None if none was proposed in many attempts."""
    before = list(state.trials.values())
    proposals = (proposal(state, attempt) for attempt in range(ATTEMPTS))
    return next((settings for settings in proposals if settings not in before), None)


def proposal(state: State, attempt: int) -> dict[str, Any]:
    """Settings for a new trial, by a tree-structured Parzen estimator (S. Watanabe, arXiv 2304.11127).

    It treats all settings together, and counts trials that are being trained as bad ones, so that several workers do
    not try the same. The random numbers follow from the seed of the search, the number of the trial and the attempt.
    """
    space, number = state.plan.checked_space(), len(state.trials)
    seed = int(np.random.SeedSequence([state.plan.seed, number, attempt]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    study = optuna.create_study(sampler=sampler)  # lower is better
    study.add_trials(trials_of(state, space))
    trial = study.ask()
    by_name = distributions(space)
    variant = space.variants[0]
    if VARIANT in by_name:
        variant = suggested(trial, VARIANT, by_name.pop(VARIANT))
    chosen = {
        name: suggested(trial, name, distribution)
        for name, distribution in by_name.items() if variant in space.owners[name]
    }  # fmt: skip
    return applicable(space, variant, chosen)


def distributions(space: Space) -> dict[str, Distribution]:
    """Optuna's form of a space; a value of a list is its JSON text."""
    chosen: dict[str, Distribution] = {}
    if len(space.variants) > 1:
        chosen[VARIANT] = CategoricalDistribution([json.dumps(name) for name in space.variants])
    for name, values in space.settings.items():
        if not isinstance(values, Range):
            chosen[name] = CategoricalDistribution([json.dumps(value) for value in values])
        elif values.whole:
            chosen[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
        else:
            chosen[name] = FloatDistribution(values.low, values.high, log=values.log)
    return chosen


def suggested(trial: optuna.Trial, name: str, of: Distribution) -> Any:
    """What Optuna suggests for a setting; a number has few digits."""
    if isinstance(of, CategoricalDistribution):
        return json.loads(str(trial.suggest_categorical(name, of.choices)))
    if isinstance(of, IntDistribution):
        return trial.suggest_int(name, of.low, of.high, log=of.log)
    return min(max(rounded(trial.suggest_float(name, of.low, of.high, log=of.log)), of.low), of.high)


def trials_of(state: State, space: Space, *, first_rung: bool = False) -> list[FrozenTrial]:
    """The trials in Optuna's form: complete with a value, lower is better, as far as they have come; failed or running
    without one. first_rung: values at the first rung, which all trials reach."""
    by_name, frozen = distributions(space), []
    for number, settings in state.trials.items():
        rungs, epochs = state.rungs(number), state.goals[number, 0].until
        value = value_at(state, number, rungs[0] if first_rung and len(rungs) > 1 else epochs)
        failed = state.reason_of(number) or all(state.runs[key].over for key in state.keys_of(number))
        status = TrialState.COMPLETE if value is not None else TrialState.FAIL if failed else TrialState.RUNNING
        own = {name: of for name, of in by_name.items() if name in settings}
        params = {name: json.dumps(settings[name]) if isinstance(of, CategoricalDistribution) else settings[name]
                  for name, of in own.items()}  # fmt: skip
        frozen.append(create_trial(
            state=status, value=value, params=params, distributions={**own},
            intermediate_values=dict(epochs_of(state, number)),
            user_attrs=attributes(state, number),
        ))  # fmt: skip
    return frozen


def epochs_of(state: State, number: int) -> Iterator[tuple[int, float]]:
    """The metric after each epoch of a trial."""
    return ((epoch, value) for epoch, value in enumerate(state.runs[Key(number)].values, 1) if value is not None)


def attributes(state: State, number: int) -> dict[str, Any]:
    """What else the dashboard shows of a trial."""
    run = state.runs[Key(number)]
    facts = {"run": run_name(state.plan, Key(number)), "epochs": run.epochs, "seconds": round(run.seconds, 1)}
    return facts | {name: value for name, value in (("reason", run.reason), ("package", run.package)) if value}


def importances(state: State) -> dict[str, tuple[float, float]]:
    """The importance of each setting, from 0 to 1, and its standard deviation over resampled trials; the most
    important first. Empty with too few trials.

    By PED-ANOVA (S. Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023), from the values at the first rung, so that trials that paused count, too.
    """
    space = state.plan.checked_space()
    trials = [trial for trial in trials_of(state, space, first_rung=True) if trial.state == TrialState.COMPLETE]
    if len(trials) < LEAST_TRIALS:
        return {}
    rng = np.random.default_rng(0)
    resampled = [rng.integers(len(trials), size=len(trials)) for _ in range(RESAMPLES)]
    rounds = [
        round_ for rows in [np.arange(len(trials)), *resampled] if (round_ := importance([trials[n] for n in rows]))
    ]
    means = {name: rounds[0][name] for name in rounds[0]} if rounds else {}
    spreads = {name: float(np.std([of.get(name, 0.0) for of in rounds[1:]])) for name in means}
    return {name: (means[name], spreads[name]) for name in sorted(means, key=lambda name: -means[name])}


def importance(trials: list[FrozenTrial]) -> dict[str, float]:
    """The importance of each setting that all trials have; empty where nothing varies."""
    study = optuna.create_study()
    study.add_trials(trials)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):  # no setting varies among these trials
        return {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def export(state: State, folder: Path) -> Path:
    """Write a study that `optuna-dashboard FILE` opens: metrics as they are, not turned; returns its path."""
    space = state.plan.checked_space()
    sign = -1 if state.plan.higher_is_better else 1
    with atomic_path(folder / FILE) as path:
        path.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            study_name=state.plan.name, storage=storage, direction="maximize" if sign < 0 else "minimize"
        )
        for trial in trials_of(state, space):
            if trial.values:
                trial.value = sign * trial.values[0]
            study.add_trial(trial)
    return folder / FILE
