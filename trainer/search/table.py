"""The table of a search, `trials.csv`: a row for each run, from the state, written again after each run.

Numbers of test rows are not in it: nobody should choose by them.
"""

import csv
import io
import json
import math
from statistics import fmean
from typing import Any

from trainer.package.csv_text import table_cell
from trainer.runtime.system import write_atomic
from trainer.search.space import VARIANT
from trainer.search.state import Key, Run, State, run_name

FILE = "trials.csv"
COLUMNS = (
    "run", "trial", "seed", "fold", "state", "reason", "epochs", "metric", "seconds", "machine", "package",
)  # fmt: skip
SIDE = "validation_"

Mark = tuple[object, ...]


class TrialsCsv:
    """Writes the table. A row that has not changed is not made again, so that thousands of trials cost milliseconds."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.metrics: list[str] = []  # columns of the best epoch
        self.lines: dict[Key, tuple[Mark, str]] = {}

    def write(self) -> None:
        """Write the file. ResourceError or StorageError where the disk refuses it."""
        state = self.state
        metrics = next((best for run in state.runs.values() if (best := metrics_of(run))), {})
        if list(metrics) != self.metrics:
            self.metrics, self.lines = list(metrics), {}
        lines = [as_line(header(state, self.metrics))]
        for key in sorted(state.runs, key=place):
            run = state.runs[key]
            if (what := run_state(state, key)) == "waiting":
                continue
            mark = (what, run.epochs, run.seconds, run.package)
            if key not in self.lines or self.lines[key][0] != mark:
                self.lines[key] = mark, as_line(row(state, key, self.metrics))
            lines.append(self.lines[key][1])
        write_atomic(state.plan.folder / FILE, "".join(lines).encode())


def place(key: Key) -> tuple[int, int, int]:
    """Where a run stands in the table: the default first."""
    return (-1 if key.trial is None else key.trial), key.seed, key.fold


def header(state: State, metrics: list[str]) -> list[str]:
    """The names of the columns. A setting that is called like another column gets `setting_` in front."""
    settings = setting_names(state)
    return [*COLUMNS, *metrics, *(f"setting_{name}" if name in COLUMNS else name for name in settings)]


def row(state: State, key: Key, metrics: list[str]) -> list[object]:
    """The cells of a run."""
    run, best = state.runs[key], metrics_of(state.runs[key])
    settings = settings_of(state, key.trial)
    own: list[object] = [
        run_name(state.plan, key), "default" if key.trial is None else key.trial, key.seed, key.fold,
        run_state(state, key), run.reason, run.epochs, best_value(state, run), round(run.seconds, 1), run.machine,
        run.package,
    ]  # fmt: skip
    return [
        *own,
        *(best.get(name) for name in metrics),
        *(cell(settings.get(name, "")) for name in setting_names(state)),
    ]


def metrics_of(run: Run) -> dict[str, float | None]:
    """The metrics of validation rows in a run's best epoch."""
    return {name: value for name, value in run.best.items() if name.startswith(SIDE)}


def setting_names(state: State) -> list[str]:
    """The variant and the settings of the space."""
    return [VARIANT, *(name for name in state.plan.space if name != VARIANT)]


def settings_of(state: State, trial: int | None) -> dict[str, Any]:
    """What a trial has for the settings of the space; of the default its own values."""
    if trial is not None:
        return {VARIANT: state.plan.variant} | state.trials[trial]
    entries = state.plan.variants[state.plan.variant]["settings"]
    values = {name: entries[name]["value"] for name in setting_names(state) if name in entries}
    return {VARIANT: state.plan.variant} | values


def changed(state: State, trial: int | None) -> dict[str, Any]:
    """The settings of a trial that the space changes; its variant if there are several."""
    settings = settings_of(state, trial)
    return {
        name: settings[name] for name in setting_names(state)[VARIANT not in state.plan.space :] if name in settings
    }


def value_text(value: Any) -> str:
    """A setting as people read it."""
    return value if isinstance(value, str) else json.dumps(value).replace(", ", ",")


def cell(value: Any) -> object:
    """A setting as a cell: numbers and text as they are, anything else as JSON."""
    return value if isinstance(value, str | float | int) and not isinstance(value, bool) else json.dumps(value)


def as_line(cells: list[Any]) -> str:
    """A line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(table_cell(value) if value else value for value in cells)
    return text.getvalue()


def run_state(state: State, key: Key) -> str:
    """How a run is: `running`, `failed`, `done`, `paused` until it is promoted, `stopped` on its way, or `waiting`."""
    run, goal = state.runs[key], state.goals[key.trial, key.seed]
    if run.running:
        return "running"
    if run.reason:
        return "failed"
    if run.over:
        return "done"
    if not run.machine:
        return "waiting"
    return "paused" if goal.until is not None and run.epochs >= goal.until else "stopped"


def trial_state(state: State, trial: int | None) -> str:
    """How a trial is: as its runs are, the most telling first."""
    states = {run_state(state, key) for key in state.keys_of(trial) if key in state.runs}
    return next(name for name in ("failed", "running", "stopped", "paused", "waiting", "done") if name in states)


def best_value(state: State, run: Run) -> float | None:
    """The best metric of a run so far."""
    values = [value for value in run.values if value is not None]
    return (max if state.plan.higher_is_better else min)(values) if values else None


def score(state: State, trial: int | None) -> float | None:
    """The best metric of a trial so far, the mean over its folds; None if it has failed or one has no epoch yet."""
    values = []
    for key in state.keys_of(trial):
        run = state.runs.get(key)
        value = best_value(state, run) if run and not run.reason else None
        if value is None:
            return None
        values.append(value)
    mean = fmean(values)
    return mean if math.isfinite(mean) else None


def standing(state: State) -> list[tuple[int, float]]:
    """The trials that have a metric, finished or not, the best first, with their metric."""
    scores = [(trial, value) for trial in state.trials if (value := score(state, trial)) is not None]
    sign = -1 if state.plan.higher_is_better else 1
    return sorted(scores, key=lambda pair: (sign * pair[1], pair[0]))
