"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` goes from rows to a verified package, one step after the other.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.config.options import train_options
from trainer.runtime.command import begin_imports, import_tensorflow_quietly, run_command, say

if __name__ == "__main__":
    begin_imports()
    train_options()  # what is wrong with them need not wait for TensorFlow
import_tensorflow_quietly()

from trainer.cloud import storage
from trainer.config import loading, names, record
from trainer.config.loading import Configuration
from trainer.config.net_config import NetConfig
from trainer.config.show import config_rows
from trainer.features.pipeline import Prepared, prepare
from trainer.features.tables import Rows, rows_of
from trainer.features.untrained import untrained_states
from trainer.inspection import run_warnings
from trainer.machines import gpu
from trainer.model import replicas
from trainer.model.ops_wrapper import Gain, OpsWrapper, build_model_graph
from trainer.model.threads import use_threads
from trainer.model.unused import check_features_used
from trainer.package import publish
from trainer.package.artefacts import TrainedRun, write_artefacts, write_verified_package
from trainer.package.console import say_end, say_epoch, say_finished, warn
from trainer.package.logs import TensorBoardLog, write_metrics_csv
from trainer.package.publish import RUNS
from trainer.package.shown import hidden_metrics
from trainer.runtime import heartbeat, signals, system
from trainer.runtime.errors import StorageError
from trainer.runtime.progress import RunProgress
from trainer.runtime.timing import Timings
from trainer.training import checkpoint, loop, resume
from trainer.training.checkpoint_mirror import Mirror, mirrored

ROOT = Path(__file__).parent.parent
SAMPLE = os.path.relpath(ROOT / "data" / "sample_2k.json")


class Goal(NamedTuple):
    """How far a run goes now; the same run may go on later."""

    pause_after: int | None = None  # epochs
    package: bool = True  # whether training ends with a report and a package


WHOLE = Goal()  # to the package


def run(
    settings: Configuration, *, data: Mapping[str, str], output: str, folder: Path, mirror: Mirror | None,
    restart: bool, progress: RunProgress, goal: Goal,
) -> None:  # fmt: skip
    """Train, report, package and verify: writes `output`/NAME.zip, where NAME is that of the run's folder.

    data: place of the dataset under "train"; of separate sets under "validation" and "test", if there are any. A run
    that was stopped continues. restart: start it again, and delete the package that it left. goal: how far to go now.
    """
    config, timings, package = settings.config, Timings(progress), storage.join(output, f"{folder.name}.zip")
    identity = resume.identity(config, ROOT)
    latest = resume.find_checkpoint(folder, identity, mirror, restart=restart)
    identity |= {resume.THREADS: use_threads(config.threads or resume.threads_of(latest))}
    check_devices(config)
    finished = storage.find(package) if latest else None
    check_places(folder, output, package, is_own=bool(finished) or restart)

    prepared = prepare(config, data, timings)
    identity |= resume.identity_of_data(prepared)
    if latest:
        resume.check_same_run(folder, latest.progress["identity"], identity)
    if latest and resume.is_over(latest, config) and (finished or not goal.package):
        progress.close()
        return say_finished(config, resume.history_of(latest), folder, package if finished else None)
    warnings = warn(run_warnings.before_training(config, prepared, data))
    if restart:
        storage.delete(package)

    with timings.stage("build graph"):
        ops = build_model(config, prepared)
        tables = {side: rows_of(rows, config.rows_in_memory) for side, rows in prepared.encoded.items()}
        prepared.encoded.clear()  # the tables hold the same rows
    with timings.stage("train"):
        history = resume.restore(ops, latest)
        checkpointer = resume.Checkpointer(folder, ops, identity, history, mirror, goal.pause_after)
        timings.count_rows("train", fit(settings, ops, tables, history, checkpointer, progress))
    if not goal.package:
        progress.close()
        return say_finished(config, history, folder, None)

    with timings.stage("report"):
        trained = TrainedRun(settings, data, prepared, ops, tables, history, {}, timings, warnings)
        members = report(folder, trained)
    with timings.stage("package"):
        local = folder / f"{folder.name}.zip"
        difference = write_verified_package(local, members, ops, prepared)
    publish.publish(local, package, replace=finished)
    checkpoint.keep_newest(folder / resume.CHECKPOINTS, 1)
    progress.close()
    say_end(trained, folder, package, difference)


def build_model(config: NetConfig, prepared: Prepared) -> OpsWrapper:
    """The model for the prepared rows, all of whose features it uses; training shows it the states that they lack."""
    shapes = prepared.preprocessing.shapes()
    ops = build_model_graph(config, shapes, untrained_states(prepared.encoded["train"], shapes))
    check_features_used(ops.model, config, shapes)
    return ops


def check_devices(config: NetConfig) -> None:
    """Start TensorFlow's devices and print GPUs; ResourceError without a GPU where a run must have one."""
    if gpu.required():
        gpu.say_gpus(gpu.require_gpu())
    replicas.say_devices(config.batch_size)


def check_worth(
    config: NetConfig, ops: OpsWrapper, tables: Mapping[str, Rows], history: loop.History, gain: Gain
) -> None:
    """DivergedError if the model is far worse than a constant prediction on each set."""
    if gain.mean >= 0:
        return
    sets = {side: rows.evenly_spaced(loop.MAX_TRAIN_METRIC_ROWS) if side == "train" else rows
            for side, rows in tables.items()}  # fmt: skip
    constants = {side: ops.evaluate_constant(rows) for side, rows in sets.items()}
    run_warnings.check_worth(config, {side: history.best_metrics(side) for side in sets}, constants)


def check_places(folder: Path, output: str, package: str, *, is_own: bool) -> None:
    """StorageError if another run has written the package, or if files cannot be written to the folders."""
    if not is_own and storage.find(package):
        raise StorageError(f"{package} belongs to another run. Choose another --run, or replace it with --restart.")
    if not storage.is_remote(output) and Path(package).exists() and not Path(package).is_file():
        raise StorageError(
            f"{package} is not a file, so the package cannot be written. Remove it, or choose another --run."
        )
    if not storage.is_remote(output):  # a bucket has shown it: the run holds its name there
        storage.probe(output)
    system.check_writable(folder.parent)


def fit(
    settings: Configuration, ops: OpsWrapper, tables: dict[str, Rows], history: loop.History,
    checkpointer: resume.Checkpointer, progress: RunProgress,
) -> int:  # fmt: skip
    """Train from the end of the history on, and add to it, with logs, checkpoints and a line per epoch.

    Returns how many rows this process has trained on, with repetitions.
    """
    config, rows, folder = settings.config, tables["train"].rows, checkpointer.folder
    rows_before = history.rows_trained(rows, config.batch_size)
    with (
        TensorBoardLog(folder / resume.LOGS, history.rows) as log,
        signals.deferred_stop() as checkpointer.stop_request,
        heartbeat.watched(),
    ):
        log.settings(config_rows(settings))
        log.graph(ops.prediction_graph())

        def callback(history: loop.History, *, epoch_ended: bool) -> None:
            if epoch_ended:
                weights = {weight.path: weight for weight in ops.model.trainable_weights}
                log.epoch(history.rows[-1], weights, hidden(ops, history))
                write_metrics_csv(folder / "metrics.csv", history.rows)
                say_epoch(config, history)
            checkpointer(history, epoch_ended=epoch_ended)

        loop.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            history=history, callback=callback, progress=progress,
        )  # fmt: skip
    if checkpointer.mirror:  # by its last checkpoint, another machine sees that the run is finished
        checkpointer.mirror.wait(resume.UPLOAD_SECONDS)
    return history.rows_trained(rows, config.batch_size) - rows_before


def report(folder: Path, run: TrainedRun) -> dict[str, Path]:
    """Compare the model with a constant prediction, print warnings, and write the files of the package.

    Returns the members of the package, name -> file. DivergedError if the model is far worse than the constant.
    """
    side, table = list(run.tables.items())[-1]
    run.constant.update(run.ops.evaluate_constant(table))
    gain = run.ops.gain_over_constant(table)
    check_worth(run.settings.config, run.ops, run.tables, run.history, gain)
    best, of_training = run.history.best_metrics(side), run.history.best_metrics("train")
    run.warnings.extend(warn(run_warnings.after_training(side, of_training, best, run.constant, gain)))
    return write_artefacts(folder, run, ROOT)


def hidden(ops: OpsWrapper, history: loop.History) -> set[str]:
    """The metrics that are not shown of the last epoch, after whose evaluation this is called."""
    metrics = {name.removeprefix("validation_"): value for name, value in history.rows[-1].items()}
    return hidden_metrics(metrics, rates=ops.metrics.rates, stopping_metric=ops.config.stopping_metric)


def train(
    settings: Configuration, *, data: Mapping[str, str | None], output: str, name: str | None, restart: bool,
    goal: Goal = WHOLE,
) -> str:  # fmt: skip
    """Train a variant under a name that no other process uses meanwhile; returns its package, a path or gs://.

    data, output, restart, goal: see `run`. name: of the run; default: variant, time and random digits.
    """
    name = name or names.new_run_name(settings.variant)
    names.check_name(name, "run")
    say("run", f"{name}: variant {settings.variant}, network {settings.config.network}")
    paths = {side: path for side, path in data.items() if path}
    folder = RUNS / name
    with system.locked_folder(folder), mirrored(output, folder) as mirror, RunProgress() as progress:
        run(settings, data=paths, output=output, folder=folder, mirror=mirror, restart=restart, progress=progress,
            goal=goal)  # fmt: skip
    return storage.join(output, f"{name}.zip")


def main(argv: list[str] | None = None) -> None:
    """Train a variant and write its package."""
    options = train_options(argv)

    if options.config:
        settings = record.read(Path(options.config))
    else:
        settings = loading.load_config(options.variant, environ=os.environ, command_line=options.set)
    data = {"train": options.data or SAMPLE, "validation": options.validation_data, "test": options.test_data}
    goal = Goal(options.pause_after, not options.no_package)
    train(settings, data=data, output=options.output, name=options.run, restart=options.restart, goal=goal)


if __name__ == "__main__":
    run_command(main)
