"""Write search.html, a self-contained page about a search."""

import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from trainer.config.variant_text import setting_text
from trainer.package.html import figure, render
from trainer.package.report import plot
from trainer.package.shown import metric_name
from trainer.runtime.command import count
from trainer.runtime.errors import ConfigError
from trainer.runtime.system import write_atomic
from trainer.search import axes, history, journal, plots, progress
from trainer.search.plan import Plan, rungs
from trainer.search.saving import winning_entry
from trainer.search.space import VARIANT, Range
from trainer.search.state import State
from trainer.search.table import FILE as TABLE
from trainer.search.table import changed, score, standing, trial_state, value_text
from trainer.search.winner import candidates, conclusion, spread, winner

FILE = "search.html"
TEMPLATE = Path(__file__).parent / "templates" / FILE
MOST_ROWS = 1000  # of the table of trials; trials.csv has all
MOST_REASONS = 5  # why trials have failed
GO_ON = "The search is not finished: the same command with --name={} goes on."
OPTUNA = "The importance of settings needs Optuna: `pip install optuna`, then the same command again."
FEW_TRIALS = "The importance of settings cannot be told from so few trials."
ORDER = ("done", "running", "stopped", "paused", "waiting", "failed")


class Row(NamedTuple):
    """A trial in the table of the page."""

    name: str
    best: bool
    cells: list[str]
    reason: str
    orders: list[int]  # the place of the row when the table is sorted by each column


def write_page(state: State, *, finished: bool) -> Path:
    """Write the page; returns its path. StorageError or ResourceError where the disk refuses it.

    finished: nothing is left to do.
    """
    path = state.plan.folder / FILE
    events = list(journal.read(state.plan.folder / journal.FILE))
    write_atomic(path, page(state, events, finished=finished).encode())
    return path


def page(state: State, events: list[journal.Event], *, finished: bool) -> str:
    """The page as HTML, without scripts and outside resources. events: of the journal."""
    best = winner(state)
    return render(
        TEMPLATE,
        title=state.plan.name,
        sentences=[*conclusion(state), *([] if finished else [GO_ON.format(state.plan.name)])],
        tiles=tiles(state, best),
        facts=facts(state),
        warnings=failures(state),
        space=space_table(state, best),
        candidates=[
            ("default" if of.trial is None else f"{of.trial:04}", len(of.validation),
             spread(of.validation), spread(of.test) if of.test else None)
            for of in candidates(state)
        ],
        entry=entry_text(state, best),
        pictures=pictures(state, events, shares := importance(state)),
        without_importance=OPTUNA if shares is None else "" if shares else FEW_TRIALS,
        columns=columns(state),
        rows=rows(state),
        left_out=max(len(state.trials) - MOST_ROWS, 0),
        table_file=TABLE,
    )  # fmt: skip


def tiles(state: State, best: int | None) -> list[tuple[str, object, str]]:
    """The figures at the top: name, value, note."""
    counts = progress.counts(state)
    states = ", ".join(f"{counts[name]} {name}" for name in ORDER if name in counts)
    seconds = sum(run.seconds for run in state.runs.values())
    size, unit = next(((size, unit) for size, unit in progress.UNITS if seconds >= size), (1.0, "s"))
    metric = metric_in_text(state.plan)
    by_trial = {of.trial: of.validation for of in candidates(state)}

    def tile(name: str, trial: int | None) -> tuple[str, object, str]:
        if trial in by_trial:
            return name, fmean(by_trial[trial]), f"{metric}, mean of {count(len(by_trial[trial]), 'seed')}"
        return name, score(state, trial), f"{metric}, one seed"

    return [
        tile("Best trial", best) if best is not None else ("Best trial", None, ""),
        tile("Default", None),
        ("Trials", len(state.trials), states),
        ("Training time", f"{seconds / size:.1f} {unit}", "all workers together"),
    ]


def metric_in_text(plan: Plan) -> str:
    """The name of the metric within a sentence: `loss`, `AUC`."""
    name = metric_name(plan.metric)
    return name[0].lower() + name[1:] if name[1:2].islower() else name


def facts(state: State) -> dict[str, object]:
    """What was searched."""
    plan = state.plan
    metric = metric_in_text(plan)
    better = "higher" if plan.higher_is_better else "lower"
    epochs = max(state.epochs.values(), default=1)
    stops = rungs(epochs, halving=plan.halving)[state.skipped or 0 : -1]
    early = f"trials pause after {' and '.join(map(str, stops))} of {epochs} epochs" if stops else "off"
    values: dict[str, object] = {
        "Variant": plan.variant,
        "Metric": f"validation {metric}, {better} is better",
        "Sampler": plan.sampler if plan.sampler == "grid" else f"{plan.sampler}, seed {plan.seed}",
        "Successive halving": early,
        "Rows": rows_text(state),
    }
    values |= {f"Data, {side}" if len(plan.data) > 1 else "Data": path for side, path in plan.data.items()}
    values |= {"Validation sets": plan.folds} if plan.folds > 1 else {}
    return values


def rows_text(state: State) -> str:
    """How many rows trials are trained and chosen on."""
    best = next((run.best for run in state.runs.values() if run.best), {})
    numbers = {side: best.get(f"{side}_rows") for side in ("train", "validation", "test")}
    return ", ".join(f"{number:,.0f} {side}" for side, number in numbers.items() if number) or "–"


def failures(state: State) -> list[str]:
    """Why trials have failed, the most frequent reasons first."""
    reasons = Counter(reason for trial in state.trials if (reason := state.reason_of(trial)))
    shown = [f"{count(number, 'trial')} failed: {reason}" for reason, number in reasons.most_common(MOST_REASONS)]
    more = len(reasons) - MOST_REASONS
    return shown + ([f"{count(more, 'further reason')}: see {TABLE}."] if more > 0 else [])


def space_table(state: State, best: int | None) -> list[tuple[str, str, str, str]]:
    """Of each setting the best trial's value, the default, and what was tried."""
    default, chosen = changed(state, None), {} if best is None else changed(state, best)
    return [
        (name, text_in(chosen, name), text_in(default, name), tried(values))
        for name, values in values_of(state.plan).items()
    ]


def text_in(settings: dict[str, Any], name: str) -> str:
    return value_text(settings[name]) if name in settings else "–"


def values_of(plan: Plan) -> dict[str, list[Any] | Range]:
    """The values of each setting of the space, of `variant` too if there are several."""
    space = plan.checked_space()
    return ({VARIANT: list(space.variants)} if VARIANT in plan.space else {}) | space.settings


def tried(values: list[Any] | Range) -> str:
    """The values of a setting as text."""
    if isinstance(values, Range):
        return f"{values.low:g} to {values.high:g}{', log' if values.log else ''}"
    return ", ".join(map(value_text, values))


def entry_text(state: State, best: int | None) -> str:
    """The best trial as an entry for variant_config.json; "" without one, or if the file cannot be read now."""
    if best is None:
        return ""
    try:
        entry = winning_entry(state, best)
    except ConfigError:
        return ""
    lines = ",\n".join(f"  {setting_text(name, value)}" for name, value in entry.items())
    return f'"{state.plan.name}-best": {{\n{lines}\n}}'


def pictures(
    state: State, events: list[journal.Event], shares: Mapping[str, tuple[float, float]] | None
) -> dict[str, dict[str, object]]:
    """The pictures of the page, by name; none before a trial has a metric. shares: importance of the settings."""
    plan = state.plan
    steps, ranked = history.steps(plan, events), standing(state)
    if not steps or not ranked:
        return {}
    higher = plan.higher_is_better
    scores, default = dict(ranked), score(state, None)
    name = f"Validation {metric_in_text(plan)}"
    metric = axes.metric_axis(name, [*scores.values()], higher_is_better=higher)
    over_time = axes.metric_axis(name, [step.value for step in steps], higher_is_better=higher)
    values = {name: of for name, of in values_of(plan).items() if isinstance(of, Range) or len(of) > 1}
    settings = [axes.axis_of(name, of) for name, of in values.items()]
    failed = [trial for trial in state.trials if state.reason_of(trial)]
    points = [
        plots.Point(trial, changed(state, trial), scores.get(trial), trial_state(state, trial) == "done")
        for trial in (*scores, *failed)
    ]
    drawn = {"progress": plots.plot_progress(steps, over_time, default)}
    if settings:
        drawn["parallel"] = plots.plot_parallel(points, settings, metric, winner(state), higher_is_better=higher)
        drawn["slices"] = plots.plot_slices(points, settings, metric, default, higher_is_better=higher)
    if shares:
        drawn["importance"] = plots.plot_importance(shares)
    return {name: plot(name, data) for name, data in drawn.items()}


def importance(state: State) -> dict[str, tuple[float, float]] | None:
    """The importance of each setting and its standard deviation; empty with too few trials, None without Optuna."""
    study = optuna_study()
    return study.importances(state) if study else None


def optuna_study() -> Any:
    """The module that uses Optuna; None where Optuna, an extra, is not installed."""
    try:
        return importlib.import_module("trainer.search.optuna_study")
    except ModuleNotFoundError:
        return None


def columns(state: State) -> list[str]:
    """The header of the table of trials."""
    return ["Trial", metric_name(state.plan.metric), "State", "Epochs", "Seconds", *changed(state, None)]


def rows(state: State) -> list[Row]:
    """The trials, the best first; then those without a metric."""
    scores = dict(standing(state))
    best = winner(state)
    trials = [*scores, *(trial for trial in state.trials if trial not in scores)][:MOST_ROWS]
    values = [sort_values(state, trial, scores.get(trial)) for trial in trials]
    places = [places_of([row[number] for row in values]) for number in range(len(columns(state)))]
    places[1] = list(range(len(trials)))  # the best first
    return [
        Row(
            f"{trial:04}",
            trial == best,
            [figure(scores.get(trial)), trial_state(state, trial), *map(figure, values[at][3:5]),
             *(text_in(changed(state, trial), name) for name in changed(state, None))],
            state.reason_of(trial),
            [of[at] for of in places],
        )
        for at, trial in enumerate(trials)
    ]  # fmt: skip


def sort_values(state: State, trial: int, value: float | None) -> list[Any]:
    """What a row is sorted by, for each column."""
    runs = [state.runs[key] for key in state.keys_of(trial)]
    epochs, seconds = max(run.epochs for run in runs), sum(run.seconds for run in runs)
    settings = changed(state, trial)
    own = [trial, value, ORDER.index(trial_state(state, trial)), epochs, round(seconds)]
    return [*own, *(settings.get(name) for name in changed(state, None))]


def places_of(values: list[Any]) -> list[int]:
    """The place of each value in their order: numbers, then texts, then what is missing."""

    def key(at: int) -> tuple[int, float, str]:
        value = values[at]
        if isinstance(value, int | float):
            return 0, float(value), ""
        return (2, 0.0, "") if value is None else (1, 0.0, value_text(value))

    places = [0] * len(values)
    for place, at in enumerate(sorted(range(len(values)), key=key)):
        places[at] = place
    return places
