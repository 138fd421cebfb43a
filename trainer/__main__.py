"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` is the whole way from rows to a verified package, in the order of the data.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from trainer.runtime.command import argument_parser, begin_imports, import_tensorflow_quietly, run_command, say

if __name__ == "__main__":
    begin_imports()
import_tensorflow_quietly()

from trainer.cloud import storage
from trainer.config import names, net_config
from trainer.config.net_config import Configuration, NetConfig
from trainer.config.show import config_rows
from trainer.features.pipeline import prepare
from trainer.features.preprocessing import transform
from trainer.features.tables import rows_of
from trainer.inspection import run_warnings
from trainer.machines import gpu
from trainer.model import replicas
from trainer.model.ops_wrapper import build_model_graph
from trainer.package import archive, predictor, publish
from trainer.package.artefacts import TrainedRun, write_artefacts
from trainer.package.logs import TensorBoardLog, write_metrics_csv
from trainer.package.plots import main_metrics
from trainer.package.publish import RUNS
from trainer.runtime import heartbeat, system
from trainer.runtime.errors import StorageError
from trainer.runtime.timing import Timings
from trainer.training import checkpoint, loop, resume  # fmt: skip
from trainer.training.checkpoint_mirror import Mirror, mirrored

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
    identity = resume.identity(config, ROOT)
    found = resume.find_checkpoint(folder, identity, mirror, restart=restart)
    ended = found is not None and storage.find(package) is not None
    check_free(folder, output, package, own=ended or restart)

    sets, facts, preprocessing, encoded, held_out = prepared = prepare(config, data, timings)
    identity |= resume.identity_of_data(prepared)
    if found:
        resume.check_same_run(folder, found.progress["identity"], identity)
    if ended:
        say("package", f"{package} is there: this run has ended. Begin it anew with --restart.")
        return
    warnings = warn(run_warnings.before_training(config, facts, preprocessing, encoded["train"], data))
    if restart:
        storage.delete(package)

    with timings.stage("build graph"):
        ops = build_model_graph(config, preprocessing.shapes())
        tables = {side: rows_of(rows, config.rows_in_memory) for side, rows in encoded.items()}
        del prepared, encoded  # the tables hold the same rows
    history = resume.restore(ops, found)
    logs = TensorBoardLog(folder / resume.LOGS, history.rows)

    with timings.stage("train"), logs as log, system.deferred_stop() as stop_request, heartbeat.watched():
        log.settings(config_rows(settings))
        log.graph(ops.prediction_graph())
        checkpointer = resume.Checkpointer(folder, ops, identity, stop_request, history, mirror)

        def callback(history: loop.History, *, epoch_ended: bool) -> None:
            if epoch_ended:
                log.epoch(history.rows[-1], {weight.path: weight for weight in ops.model.trainable_weights})
                write_metrics_csv(folder / "metrics.csv", history.rows)
                say_epoch(config, history)
            checkpointer(history, epoch_ended=epoch_ended)

        loop.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            maximise=maximise(config), history=history, callback=callback,
        )  # fmt: skip
    timings.count_rows("train", len(history.rows) * tables["train"].rows)

    with timings.stage("report"):
        side, constant = list(tables)[-1], ops.evaluate_constant(list(tables.values())[-1])
        warnings += warn(run_warnings.after_training(side, history.best_metrics(side), constant))
        done = TrainedRun(settings, data, sets, facts, preprocessing, ops, tables, history, constant, timings, warnings)
        members = write_artefacts(folder, done, ROOT)

    local = folder / f"{folder.name}.zip"
    with timings.stage("package"), system.atomic_path(local, size=archive.size_of(members)) as temporary:
        archive.write_package(temporary, members)
        expected = ops.predict(ops.table(transform(preprocessing, held_out)))
        difference = predictor.verify(temporary, held_out, expected)
    publish.publish(local, package)
    checkpoint.keep_newest(folder / resume.CHECKPOINTS, 1)
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
    return net_config.STOPPING_METRICS[config.objective][config.stopping_metric] == "max"


def warn(found: list[str]) -> list[str]:
    """Show warnings to people; returns them."""
    for warning in found:
        say("warning", warning)
    return found


def said(metrics: Mapping[str, float]) -> str:
    """The main metrics in a few words."""
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in main_metrics(list(metrics)))


def say_epoch(config: NetConfig, history: loop.History) -> None:
    """One line for people about an epoch: loss, and the stopping metric where that is another."""
    row = history.rows[-1]
    metrics = dict.fromkeys(("loss", config.stopping_metric))
    sides = [side for side in ("train", "validation", "test") if f"{side}_loss" in row]
    figures = [f"{side} " + " ".join(f"{metric} {row[f'{side}_{metric}']:.5f}" for metric in metrics) for side in sides]
    say("epoch", f"{row['epoch']:>3}  {'  '.join(figures)}  {history.rows_per_second:,.0f} rows/s")


def train(
    settings: Configuration, *, data: Mapping[str, str | None], output: str, name: str | None, restart: bool
) -> str:
    """Train a variant under a name that no other process uses meanwhile; returns its package, a path or gs://.

    data, output, restart: see `run`. name: of the run; default: variant and time.
    """
    name = name or f"{settings.variant}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    names.check_run_name(name)
    say("run", f"{name}: variant {settings.variant}, network {settings.config.network}")
    if gpu.required():
        gpu.say_gpus(gpu.require_gpu())
    replicas.say_devices(settings.config.batch_size)
    paths = {side: path for side, path in data.items() if path}
    folder = RUNS / name
    with system.locked_folder(folder), mirrored(output, folder) as mirror:
        run(settings, data=paths, output=output, folder=folder, mirror=mirror, restart=restart)
    return storage.join(output, f"{name}.zip")


def main(argv: list[str] | None = None) -> None:
    """Train a variant and write its package."""
    parser = argument_parser("trainer", main)
    rows = "a file, a folder of shards, or a quoted glob; gs:// likewise"
    parser.add_argument("--variant", default="deep_v1", help="name in variant_config.json; default: %(default)s")
    parser.add_argument("--data", default=SAMPLE, help=f"rows: {rows}; default: %(default)s")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument("--output", default="packages", help="folder of the package, or gs://; default: %(default)s")
    parser.add_argument("--run", help="name of the run and its package; default: variant and time")
    parser.add_argument("--restart", action="store_true", help="begin anew what a run of this name has left")
    arguments = parser.parse_args(argv)

    settings = net_config.load_config(arguments.variant, environ=os.environ)
    data = {"train": arguments.data, "validation": arguments.validation_data, "test": arguments.test_data}
    train(settings, data=data, output=arguments.output, name=arguments.run, restart=arguments.restart)


if __name__ == "__main__":
    run_command(main)
