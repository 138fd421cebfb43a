"""What a run leaves behind, written to its folder: each file of the package but the manifest."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import net_config
from trainer.config.net_config import Configuration
from trainer.config.show import config_rows
from trainer.features.preprocessing import Preprocessing
from trainer.features.tables import Rows
from trainer.model.layers import embeddings_by_column
from trainer.model.ops_wrapper import OpsWrapper
from trainer.package import archive, plots, saved_model
from trainer.package import logs as reporting
from trainer.package.predictor import RESERVED, get_weights
from trainer.package.report import Report, write_report
from trainer.runtime.provenance import environment
from trainer.runtime.system import write_atomic
from trainer.runtime.timing import Timings
from trainer.training.loop import MAX_TRAIN_METRIC_ROWS, History


class Trained(NamedTuple):
    """A finished training and all that led to it."""

    settings: Configuration
    data: Mapping[str, str]  # side -> path that was given
    sets: Mapping[str, dict[str, Any]]  # see `preparation.Prepared`
    split: dict[str, Any]  # see `split.describe_split`
    learnt: Preprocessing
    ops: OpsWrapper
    tables: Mapping[str, Rows]
    history: History
    constant: dict[str, float]  # metrics of the best constant prediction on the last side
    timings: Timings
    warnings: list[str]


def write_artefacts(folder: Path, trained: Trained, root: Path) -> dict[str, Path]:
    """Write all artefacts of a run but its TensorBoard logs, which are there; returns the members of its package."""
    where = environment(root)
    facts = {
        "config.json": net_config.to_json(trained.settings),
        "preprocessing.json": trained.learnt.to_json(),
        "metrics.json": json.dumps(describe_result(trained), indent=2),
        "dataset.json": json.dumps(describe_datasets(trained), indent=2),
        "environment.json": json.dumps(where, indent=2),
        "timings.json": json.dumps(trained.timings.report(), indent=2),
    }
    for name, text in facts.items():
        write_atomic(folder / name, text.encode())
    reporting.write_metrics_csv(folder / "metrics.csv", trained.history.rows)
    write_atomic(folder / "weights.npz", archive.weights_to_bytes(get_weights(trained.ops)))
    variables = [weight.value for weight in trained.ops.model.weights]
    saved_model.export_saved_model(folder / "saved_model", trained.learnt, trained.ops.predictions, variables)
    reporting.write_projector(folder / "tensorboard" / "train", named_embeddings(trained))
    figures = write_plots(folder, trained)
    write_report(folder / "report.html", describe_run(folder, trained, figures, where))
    names = [*facts, "weights.npz", "metrics.csv", *(path.name for path in figures.values()), "report.html"]
    members = {name: folder / name for name in names}
    logs = archive.files_below(folder / "tensorboard")
    # TensorFlow puts the name of the machine into the names of event files; it stays here.
    members |= {re.sub(r"(tfevents\.\d+)\..*", r"\1", name): path for name, path in logs.items()}
    return members | archive.files_below(folder / "saved_model")


def describe_datasets(trained: Trained) -> dict[str, Any]:
    """The content of dataset.json: where the rows came from, their fingerprints, and how they were split."""
    return {
        "sets": trained.sets,
        "columns": net_config.column_kinds(trained.settings.config),
        "split": trained.split,
    }


def describe_result(trained: Trained) -> dict[str, Any]:
    """The content of metrics.json: the best epoch, its metrics by side, and those of the best constant prediction."""
    history = trained.history
    return {
        "best_epoch": history.best_epoch,
        "epochs": len(history.rows),
        "stopping_metric": trained.settings.config.stopping_metric,
        **{side: history.best_metrics(side) for side in trained.tables},
        "constant": trained.constant,
    }


def named_embeddings(trained: Trained) -> dict[str, tuple[Any, list[str]]]:
    """For TensorBoard's projector: the vectors of each column with the values that they stand for."""
    vectors = embeddings_by_column(trained.ops.model, trained.learnt.shapes())
    return {column: (table, [*RESERVED, *trained.learnt.vocabularies[column]]) for column, table in vectors.items()}


def write_plots(folder: Path, trained: Trained) -> dict[str, Path]:
    """Draw the curves of all metrics and, for rates, calibration and predictions; returns the files by caption."""
    figures = {"Metrics of each epoch": folder / "metrics.png"}
    plots.plot_metrics(folder / "metrics.png", trained.history.rows, trained.history.best_epoch)
    if trained.settings.config.objective == "binary":
        curves, distribution, side = {}, {}, ""
        for side, rows in trained.tables.items():  # the last side is the one that decided nothing
            trained.ops.evaluate(rows.evenly_spaced(MAX_TRAIN_METRIC_ROWS) if side == "train" else rows)
            curves[side], distribution = trained.ops.metrics.curve(), trained.ops.metrics.distribution()
        figures |= {"Calibration": folder / "calibration.png", "Predictions": folder / "predictions.png"}
        plots.plot_calibration(figures["Calibration"], curves)
        plots.plot_predictions(figures["Predictions"], distribution, side)
    return figures


def describe_run(folder: Path, trained: Trained, figures: dict[str, Path], where: dict[str, Any]) -> Report:
    """The content of report.html."""
    settings, history, learnt = trained.settings, trained.history, trained.learnt
    facts = {
        "Variant": settings.variant,
        "Network": f"{settings.config.network}, {trained.ops.model.count_params():,} weights",
        "Objective": f"{settings.config.objective}: {settings.config.label_column}",
        "Data": ", ".join(trained.data.values()),
        "Rows": sum(found["rows"] for found in trained.sets.values()),
        "Features": ", ".join(learnt.features),
        "Commit": f"{(where['commit'] or 'none')[:12]}{' and changes' if where['uncommitted_changes'] else ''}",
    }
    return Report(
        title=folder.name,
        facts=facts,
        metrics={side: history.best_metrics(side) for side in trained.tables},
        constant=trained.constant,
        history=history.rows,
        best_epoch=history.best_epoch,
        plots=figures,
        settings=config_rows(settings),
        split=trained.split,
        timings=trained.timings.report(),
        environment=where,
        warnings=trained.warnings,
    )
