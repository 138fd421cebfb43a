"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` is the whole way from rows to a verified package, in the order of the data.
"""

import argparse
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from trainer.command import import_tensorflow_quietly, run_command, say
from trainer.system import note_signals

if __name__ == "__main__":
    note_signals()  # importing takes seconds
import_tensorflow_quietly()

from trainer import (
    checkpoint,
    checks,
    gpu,
    heartbeat,
    packaging,
    prediction,
    preprocessing,
    publishing,
    replicas,
    resuming,
    storage,
    system,
    training,
)  # fmt: skip
from trainer import config as configuration
from trainer.artefacts import Trained, write_artefacts
from trainer.config import Configuration, NetConfig
from trainer.errors import StorageError
from trainer.graph import build_model_graph
from trainer.mirror import Mirror, mirrored
from trainer.plots import main_metrics
from trainer.preparation import prepare
from trainer.publishing import RUNS
from trainer.reporting import TensorBoardLog, write_metrics_csv
from trainer.show import config_rows
from trainer.tables import rows_of
from trainer.timing import Timings

ROOT = Path(__file__).parent.parent
SAMPLE = os.path.relpath(ROOT / "data" / "sample_2k.json")


def run(
    settings: Configuration, *, data: Mapping[str, str], output: str, folder: Path, mirror: Mirror | None, restart: bool
) -> None:
    """Train, report, package and verify: `output`/NAME.zip of a run whose folder is NAME.

    data: place of the dataset under "train"; of separate sets under "validation" and "test", where there are any.
    A run that was stopped goes on where it stood; `restart`: it begins anew, and the package that it left goes.
    """
    config, timings, package = settings.config, Timings(), storage.join(output, f"{folder.name}.zip")
    identity = resuming.identity(config, ROOT)
    found = resuming.find(folder, identity, mirror, restart=restart)
    ended = found is not None and storage.find(package) is not None
    check_free(folder, output, package, own=ended or restart)

    sets, split_facts, learnt, packed, held_out = prepared = prepare(config, data, timings)
    identity |= resuming.identity_of_data(prepared)
    if found:
        resuming.refuse_if_different(folder, found.progress["identity"], identity)
    if ended:
        say("package", f"{package} is there: this run has ended. Begin it anew with --restart.")
        return
    warnings = warn(checks.before_training(config, split_facts, learnt, packed["train"], data))
    if restart:
        storage.delete(package)

    with timings.stage("build graph"):
        ops = build_model_graph(config, learnt.shapes())
        tables = {side: rows_of(rows, config.rows_in_memory) for side, rows in packed.items()}
        del prepared, packed  # the tables hold the same rows
    history = resuming.restore(ops, found)
    logs = TensorBoardLog(folder / resuming.LOGS, history.rows)

    with timings.stage("train"), logs as log, system.deferring() as order, heartbeat.watched():
        log.settings(config_rows(settings))
        log.graph(ops.prediction_graph())
        keeper = resuming.Keeper(folder, ops, identity, order, history, mirror)

        def watch(history: training.History, *, epoch_ended: bool) -> None:
            if epoch_ended:
                log.epoch(history.rows[-1], {weight.path: weight for weight in ops.model.trainable_weights})
                write_metrics_csv(folder / "metrics.csv", history.rows)
                say_epoch(config, history)
            keeper(history, epoch_ended=epoch_ended)

        training.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            maximise=maximise(config), history=history, watch=watch,
        )  # fmt: skip
    timings.mark("train", len(history.rows) * tables["train"].rows)

    with timings.stage("report"):
        side, constant = list(tables)[-1], ops.evaluate_constant(list(tables.values())[-1])
        warnings += warn(checks.after_training(side, history.best_metrics(side), constant))
        trained = Trained(settings, data, sets, split_facts, learnt, ops, tables, history, constant, timings, warnings)
        members = write_artefacts(folder, trained, ROOT)

    local = folder / f"{folder.name}.zip"
    with timings.stage("package"), system.atomic_path(local, size=packaging.size_of(members)) as temporary:
        packaging.write_package(temporary, members)
        expected = ops.predict(ops.table(preprocessing.apply(learnt, held_out)))
        difference = prediction.verify(temporary, held_out, expected)
    publishing.publish(local, package)
    checkpoint.keep_newest(folder / resuming.CHECKPOINTS, 1)
    say("best", f"epoch {history.best_epoch}: {side} {said(history.best_metrics(side))}; constant {said(constant)}")
    say("package", f"{package}, verified: {len(held_out):,} predictions, largest difference {difference:.1g}")


def check_free(folder: Path, output: str, package: str, *, own: bool) -> None:
    """StorageError where the package is that of another run, or where a run's files could not be written."""
    if not own and storage.find(package):
        raise StorageError(f"{package} exists, of another run. Choose another --run, or replace it with --restart.")
    if not storage.is_remote(output):  # or holding the run's name has shown it
        storage.probe(output)
    system.check_writable(folder.parent)


def maximise(config: NetConfig) -> bool:
    """Whether more of the stopping metric is better."""
    return configuration.STOPPING_METRICS[config.objective][config.stopping_metric] == "max"


def warn(found: list[str]) -> list[str]:
    """Show warnings to people; returns them."""
    for warning in found:
        say("warning", warning)
    return found


def said(metrics: Mapping[str, float]) -> str:
    """The main metrics in a few words."""
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in main_metrics(list(metrics)))


def say_epoch(config: NetConfig, history: training.History) -> None:
    """One line for people about an epoch: loss, and the stopping metric where that is another."""
    row = history.rows[-1]
    metrics = dict.fromkeys(("loss", config.stopping_metric))
    sides = [side for side in ("train", "validation", "test") if f"{side}_loss" in row]
    figures = [f"{side} " + " ".join(f"{metric} {row[f'{side}_{metric}']:.5f}" for metric in metrics) for side in sides]
    say("epoch", f"{row['epoch']:>3}  {'  '.join(figures)}  {history.rows_per_second:,.0f} rows/s")


def main(argv: list[str] | None = None) -> None:
    """Train a variant and write its package."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=main.__doc__, allow_abbrev=False)
    rows = "a file, a folder of shards, or a quoted glob; gs:// likewise"
    parser.add_argument("--variant", default="deep_v1", help="name in variant_config.json; default: %(default)s")
    parser.add_argument("--data", default=SAMPLE, help=f"rows: {rows}; default: %(default)s")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument("--output", default="packages", help="folder of the package, or gs://; default: %(default)s")
    parser.add_argument("--run", help="name of the run and its package; default: variant and time")
    parser.add_argument("--restart", action="store_true", help="begin anew what a run of this name has left")
    arguments = parser.parse_args(argv)

    settings = configuration.load_config(arguments.variant, environ=os.environ)
    name = arguments.run or f"{arguments.variant}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    configuration.check_run_name(name)
    data = {"train": arguments.data, "validation": arguments.validation_data, "test": arguments.test_data}
    given = {side: path for side, path in data.items() if path}
    say("run", f"{name}: variant {settings.variant}, network {settings.config.network}")
    if gpu.required():
        gpu.say_gpus(gpu.require_gpu())
    replicas.say_devices(settings.config.batch_size)
    with system.held_folder(RUNS / name), mirrored(arguments.output, RUNS / name) as mirror:
        run(
            settings, data=given, output=arguments.output, folder=RUNS / name, mirror=mirror, restart=arguments.restart
        )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
