"""Write report.html, a self-contained page about a finished run."""

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.package.html import TEMPLATES, figure, number, percent, render
from trainer.package.shown import explanations, main_metrics, metric_name
from trainer.runtime.system import write_atomic

PLOT_DPI, SCREEN_DPI = 160, 96

# objective -> what the best constant prediction is, for the console and for the page
BASELINES = dict.fromkeys(("binary", "regression"), "mean training label")
BASELINES |= dict.fromkeys(("multiclass", "multilabel"), "class shares in training")
BASELINE_SENTENCES = {
    "mean training label": "the mean label of the training rows for every row",
    "class shares in training": "each class with its share of the training rows, for every row",
}


class Report(NamedTuple):
    """The content of the page."""

    title: str  # the name of the run
    facts: Mapping[str, object]  # variant, network, dataset, objective, ...
    metrics: Mapping[str, Mapping[str, float]]  # of the best epoch, by set; the summary is about the last set
    constant: Mapping[str, float]  # of the best constant prediction on the last set
    objective: str
    hidden: Collection[str]  # metrics that are not shown
    history: Sequence[Mapping[str, float]]  # a row per epoch
    best_epoch: int
    plots: Mapping[str, Path]  # caption -> PNG
    settings: Sequence[tuple[str, str, str, str]]  # name, value, source, meaning
    split: Mapping[str, Any]  # see `trainer.data.split.describe_split`
    timings: Mapping[str, Any]  # see `trainer.runtime.timing.Timings.report`
    environment: Mapping[str, Any]
    warnings: Sequence[str]


class Table(NamedTuple):
    """Rows of values under their columns; a row is its name and its values."""

    columns: list[str]
    rows: list[tuple[object, list[object]]]


def write_report(path: Path, report: Report) -> None:
    """Write the page atomically. StorageError or ResourceError where the disk refuses it."""
    write_atomic(path, page(report).encode())


def page(report: Report) -> str:
    """The page as HTML, without scripts and outside resources."""
    side, metrics = list(report.metrics.items())[-1]
    return render(
        TEMPLATES / "report.html",
        title=report.title,
        report=report,
        summary=summary(report, side, metrics),
        tiles=[(metric_name(name), *tile_values(report, metrics, name)) for name in main_metrics(list(metrics))],
        plots=[plot(caption, path.read_bytes()) for caption, path in report.plots.items()],
        metrics=metrics_table(report),
        explanations=explanations(report.objective, metrics),
        epochs=epochs_table(report),
        changed_settings=[row for row in report.settings if not row[2].startswith("default")],
        environment={name.replace("_", " "): value for name, value in report.environment.items()},
    )


def summary(report: Report, side: str, metrics: Mapping[str, float]) -> str:
    """Which epoch was best, and how its loss compares with the best constant prediction."""
    text = f"Epoch {report.best_epoch} of {len(report.history)} was best on the validation set."
    loss, constant = metrics["loss"], report.constant.get("loss", math.nan)
    if constant > 0 and math.isfinite(loss):
        change = loss / constant - 1
        text += (
            f" On {figure(int(metrics['rows']))} {side} rows, its loss is {percent(abs(change))} "
            f"{'above' if change > 0 else 'below'} that of the baseline, which predicts "
            f"{BASELINE_SENTENCES[BASELINES[report.objective]]}."
        )
    return text


def tile_values(report: Report, metrics: Mapping[str, float], name: str) -> tuple[float, str]:
    """A main metric, and a note with the same metric of the best constant prediction."""
    constant = report.constant.get(name, math.nan)
    return metrics[name], "" if math.isnan(constant) else f"baseline {figure(constant)}"


def plot(caption: str, data: bytes) -> dict[str, object]:
    """A PNG as a data URI, and its size in CSS pixels."""
    width, height = (int.from_bytes(data[at : at + 4]) * SCREEN_DPI // PLOT_DPI for at in (16, 20))  # of the PNG header
    return {"caption": caption, "width": width, "height": height, "base64": base64.b64encode(data).decode()}


def metrics_table(report: Report) -> Table:
    """Every metric of the best epoch, by set, and of the best constant prediction."""
    columns = dict(report.metrics) | ({"baseline": report.constant} if report.constant else {})
    names = [name for name in report.metrics["validation"] if name not in ("rows", "weight", *report.hidden)]
    rows: list[tuple[object, list[object]]] = [
        (metric_name(name), [values.get(name) for values in columns.values()]) for name in names
    ]
    rows += [(name.title(), [number(values.get(name)) for values in columns.values()]) for name in ("rows", "weight")]
    return Table(list(columns), rows)


def epochs_table(report: Report) -> Table:
    """The loss of every epoch and set, and the main metrics of the last set; metrics.csv has the rest."""
    names = main_metrics(list(report.metrics["validation"]))
    keys = [(side, "loss") for side in report.metrics] + [(list(report.metrics)[-1], name) for name in names[1:]]
    columns = {f"{side}_{name}": f"{metric_name(name)}, {side}" for side, name in keys}
    columns |= {"learning_rate": "Learning rate"}
    rows: list[tuple[object, list[object]]] = [
        (int(row["epoch"]), [row.get(key, math.nan) for key in columns]) for row in report.history
    ]
    return Table(list(columns.values()), rows)
