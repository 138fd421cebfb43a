"""Write the files of a run's package, all but the manifest, to the run's folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import record, roles
from trainer.config.loading import Configuration
from trainer.config.show import config_rows
from trainer.data.bad_rows import counted
from trainer.features.pipeline import Prepared
from trainer.features.preprocessing import transform
from trainer.features.tables import Rows
from trainer.model.layers import embeddings_by_column
from trainer.model.ops_wrapper import OpsWrapper
from trainer.package import archive, logs, plots, saved_model, shown
from trainer.package.predictor import RESERVED, get_weights, verify
from trainer.package.report import Report, write_report
from trainer.package.weights import weights_to_bytes
from trainer.runtime.provenance import environment
from trainer.runtime.system import atomic_path, write_atomic
from trainer.runtime.timing import Timings
from trainer.training.loop import MAX_TRAIN_METRIC_ROWS, History


class TrainedRun(NamedTuple):
    """A finished training and its inputs."""

    settings: Configuration
    data: Mapping[str, str]  # place of each dataset, by set
    prepared: Prepared
    ops: OpsWrapper
    tables: Mapping[str, Rows]
    history: History
    constant: dict[str, float]  # metrics of the best constant prediction on the last set
    timings: Timings
    warnings: list[str]


def write_artefacts(folder: Path, run: TrainedRun, root: Path) -> dict[str, Path]:
    """Write all artefacts of a run; return the members of its package, name -> file.

    folder: the run's, which has the TensorBoard logs already. root: of the project, whose commit is recorded.
    """
    machine, columns = environment(root), roles.column_kinds(run.settings.config)
    datasets = {"sets": run.prepared.sets, "columns": columns, "split": run.prepared.split}
    texts = {
        "config.json": record.to_json(run.settings),
        "preprocessing.json": run.prepared.preprocessing.to_json(),
        "metrics.json": json.dumps(describe_result(run), indent=2),
        "dataset.json": json.dumps(datasets, indent=2),
        "environment.json": json.dumps(machine, indent=2),
        "timings.json": json.dumps(run.timings.report(), indent=2),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    logs.write_metrics_csv(folder / "metrics.csv", run.history.rows)
    write_atomic(folder / "weights.npz", weights_to_bytes(get_weights(run.ops)))
    variables = [weight.value for weight in run.ops.model.weights]
    saved_model.export_saved_model(folder / "saved_model", run.prepared.preprocessing, run.ops.predictions, variables)
    logs.write_projector(folder / "tensorboard" / "train", named_embeddings(run))
    figures = write_plots(folder, run)
    write_report(folder / "report.html", describe_run(folder, run, figures, machine))
    names = [*texts, "weights.npz", "metrics.csv", *(path.name for path in figures.values()), "report.html"]
    members = {name: folder / name for name in names}
    event_files = archive.files_below(folder / "tensorboard")
    # TensorFlow puts the host name into the names of event files; a package must not tell it.
    members |= {re.sub(r"(tfevents\.\d+)\..*", r"\1", name): path for name, path in event_files.items()}
    return members | archive.files_below(folder / "saved_model")


def write_verified_package(
    path: Path, members: Mapping[str, Path | bytes], ops: OpsWrapper, prepared: Prepared
) -> float:
    """Write a package and check that it predicts what the trained model does; returns the difference (see `verify`)."""
    expected = ops.predict(ops.table(transform(prepared.preprocessing, prepared.held_out)))
    with atomic_path(path, size=archive.size_of(members)) as temporary:
        archive.write_package(temporary, members)
        return verify(temporary, prepared.held_out, expected)


def describe_result(run: TrainedRun) -> dict[str, Any]:
    """The content of metrics.json: the best epoch, its metrics by set, and those of the best constant prediction."""
    history = run.history
    return {
        "best_epoch": history.best_epoch,
        "epochs": len(history.rows),
        "stopping_metric": run.settings.config.stopping_metric,
        **{side: history.best_metrics(side) for side in run.tables},
        "constant": run.constant,
    }


def named_embeddings(run: TrainedRun) -> dict[str, tuple[Any, list[str]]]:
    """The embedding table of each column, float32 [ids, width], and the value of each id."""
    vectors = embeddings_by_column(run.ops.model, run.prepared.preprocessing.shapes())
    vocabularies = run.prepared.preprocessing.vocabularies
    return {column: (table, [*RESERVED, *vocabularies[column]]) for column, table in vectors.items()}


def write_plots(folder: Path, run: TrainedRun) -> dict[str, Path]:
    """Plot the metrics by epoch and, for binary labels, reliability and predictions; return caption -> PNG."""
    figures = {"Metrics of each epoch": folder / "metrics.png"}
    plots.plot_metrics(folder / "metrics.png", run.history.rows, run.history.best_epoch)
    if run.settings.config.objective == "binary":
        curves, distribution, side = {}, {}, ""
        for side, rows in run.tables.items():  # predictions are plotted for the last set
            run.ops.evaluate(rows.evenly_spaced(MAX_TRAIN_METRIC_ROWS) if side == "train" else rows)
            curves[side], distribution = run.ops.metrics.reliability(), run.ops.metrics.distribution()
        figures |= {"Reliability": folder / "reliability.png", "Predictions": folder / "predictions.png"}
        plots.plot_reliability(figures["Reliability"], curves)
        plots.plot_predictions(figures["Predictions"], distribution, side)
    return figures


def describe_run(folder: Path, run: TrainedRun, figures: dict[str, Path], machine: dict[str, Any]) -> Report:
    """The content of report.html. The metrics of `run.ops` must be those of its evaluation on the last set."""
    settings, history, config = run.settings, run.history, run.settings.config
    shown_metrics = history.best_metrics(list(run.tables)[-1])
    hidden = shown.hidden_metrics(
        shown_metrics, rates=run.ops.metrics.rates, stopping_metric=config.stopping_metric
    )  # fmt: skip
    sets = run.prepared.sets.values()
    rows, *left_out = (sum(facts[name] for facts in sets) for name in ("rows", "bad_rows", "unlabelled_rows"))
    facts = {
        "Variant": settings.variant,
        "Network": f"{config.network}, {run.ops.model.count_params():,} weights",
        "Objective": f"{config.objective}: {config.label_column}",
        "Data": ", ".join(run.data.values()),
        "Rows": f"{rows:,}{counted(*left_out)}",
        **({"Weight": config.weight_column} if config.weight_column else {}),
        "Features": ", ".join(run.prepared.preprocessing.features),
        "Commit": f"{(machine['commit'] or 'none')[:12]}{' with changes' if machine['uncommitted_changes'] else ''}",
    }
    return Report(
        title=folder.name,
        facts=facts,
        metrics={side: history.best_metrics(side) for side in run.tables},
        constant=run.constant,
        objective=config.objective,
        hidden=hidden,
        history=history.rows,
        best_epoch=history.best_epoch,
        plots=figures,
        settings=config_rows(settings),
        split=run.prepared.split,
        timings=run.timings.report(),
        environment=machine,
        warnings=run.warnings,
    )
