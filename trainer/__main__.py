"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` is the whole way from rows to a verified package, in the order of the data.
"""

import argparse
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from trainer.command import import_tensorflow_quietly, run_command

import_tensorflow_quietly()

import pandas as pd

from trainer import checks, dataset, packaging, prediction, preprocessing, split, system, training
from trainer import config as configuration
from trainer.artefacts import Trained, write_artefacts
from trainer.config import Configuration, NetConfig
from trainer.errors import StorageError
from trainer.graph import build_model_graph
from trainer.plots import main_metrics
from trainer.reporting import TensorBoardLog, write_metrics_csv
from trainer.show import config_rows
from trainer.text import TextRules
from trainer.timing import Timings
from trainer.vocabulary import VocabularyRules

ROOT = Path(__file__).parent.parent
RUNS = Path("runs")
SAMPLE = os.path.relpath(ROOT / "data" / "sample_2k.json")
PARITY_ROWS = 1000  # held-out rows that the written package must score as the trained model does


def run(settings: Configuration, *, data: Mapping[str, str], output: Path, folder: Path) -> Path:
    """Train, report, package and verify. Returns the package: `output`/NAME.zip of a run whose folder is NAME.

    data: path of the dataset under "train"; of separate sets under "validation" and "test", where there are any.
    """
    config, timings, package = settings.config, Timings(), output / f"{folder.name}.zip"
    check_free(folder, package)

    with timings.stage("read"):
        sets = {side: read(config, path) for side, path in data.items()}
    timings.mark("read", sum(found.rows for found in sets.values()))

    with timings.stage("split"):
        sides = split_sides(config, {side: found.frame for side, found in sets.items()})
        split_facts = split.describe_split(
            sides, categorical_columns=config.categorical_columns, key_columns=config.key_columns,
            group_columns=config.group_columns,
        )  # fmt: skip

    with timings.stage("preprocess"):
        learnt = learn(config, sides["train"])
        examples = {side: preprocessing.apply(learnt, frame) for side, frame in sides.items()}
    timings.mark("preprocess", sum(map(len, sides.values())))

    with timings.stage("build graph"):
        ops = build_model_graph(config, learnt.shapes())
        tables = {side: ops.table(rows) for side, rows in examples.items()}
    warnings = warn(checks.before_training(config, split_facts, learnt, examples["train"], data))

    system.create_folder(folder)
    with timings.stage("train"), TensorBoardLog(folder / "tensorboard") as log:
        log.settings(config_rows(settings))
        log.graph(ops.prediction_graph())

        def on_epoch(history: training.History) -> None:
            log.epoch(history.rows[-1], {weight.path: weight for weight in ops.model.trainable_weights})
            write_metrics_csv(folder / "metrics.csv", history.rows)
            say_epoch(config, history.rows[-1])

        history = training.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            maximise=maximise(config), on_epoch=on_epoch,
        )  # fmt: skip
    timings.mark("train", len(history.rows) * tables["train"].rows)

    with timings.stage("report"):
        side, constant = list(tables)[-1], ops.evaluate_constant(list(tables.values())[-1])
        warnings += warn(checks.after_training(side, history.best_metrics(side), constant))
        trained = Trained(settings, data, sets, split_facts, learnt, ops, tables, history, constant, timings, warnings)
        members = write_artefacts(folder, trained, ROOT)

    with timings.stage("package"), system.atomic_path(package) as temporary:
        packaging.write_package(temporary, members)
        held_out = sides[side].iloc[:PARITY_ROWS]
        expected = ops.predict(ops.table(preprocessing.apply(learnt, held_out)))
        difference = prediction.verify(temporary, held_out, expected)
    say("best", f"epoch {history.best_epoch}: {side} {said(history.best_metrics(side))}; constant {said(constant)}")
    say("package", f"{package}, verified: {len(held_out):,} predictions, largest difference {difference:.1g}")
    return package


def check_free(folder: Path, package: Path) -> None:
    """StorageError where a run of this name has been, or where its package could not be written."""
    for path in (folder, package):
        if path.exists():
            raise StorageError(f"{path} exists: a run of this name has been. Choose another --run, or remove it.")
    system.check_writable(package.parent)
    system.check_writable(folder.parent)


def read(config: NetConfig, path: str) -> dataset.Dataset:
    """A dataset's columns that have a role."""
    found = dataset.load(path, configuration.column_kinds(config), max_bad_rows=config.max_bad_rows)
    files = "1 file" if len(found.shards) == 1 else f"{len(found.shards)} files"
    bad = f", {found.bad_rows:,} bad rows left out" if found.bad_rows else ""
    say("data", f"{path}: {found.rows:,} rows in {files}{bad}")
    if config.key_columns and (shared := dataset.duplicate_keys(found.frame, config.key_columns)):
        say("warning", f"{shared:,} rows of {path} share their key with another ({', '.join(config.key_columns)}).")
    return found


def split_sides(config: NetConfig, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames to train on, to choose by and to report on; sides without a dataset of their own come from "train"."""
    columns = {"random": config.key_columns, "time": (config.time_column,), "group": config.group_columns}
    cut = split.split_rows(
        frames["train"],
        method=config.split,
        columns=[column for column in columns[config.split] if column],
        test_fraction=0.0 if "test" in frames else config.test_fraction,
        validation_fraction=0.0 if "validation" in frames else config.validation_fraction,
        seed=config.split_seed,
    )
    sides = {side: frames["train"].take(rows) for side, rows in cut._asdict().items()}
    sides |= {side: frame for side, frame in frames.items() if side != "train"}
    say("split", ", ".join(f"{side} {len(frame):,}" for side, frame in sides.items()) + f" rows, {config.split}")
    return {side: frame for side, frame in sides.items() if len(frame)}


def learn(config: NetConfig, frame: pd.DataFrame) -> preprocessing.Preprocessing:
    """Vocabularies and statistics of the training rows."""
    return preprocessing.learn(
        frame,
        configuration.feature_roles(config),
        label=config.label_column,
        weight=config.weight_column,
        objective=config.objective,
        vocabulary=VocabularyRules(config.min_count, config.max_vocabulary, config.max_values),
        text=TextRules(config.tokenizer, config.lowercase, config.max_tokens),
    )


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


def say(what: str, text: str) -> None:
    """One line for people about a stage."""
    print(f"{what:<8} {text}", flush=True)


def say_epoch(config: NetConfig, row: training.EpochRow) -> None:
    """One line for people about an epoch: loss, and the stopping metric where that is another."""
    metrics = dict.fromkeys(("loss", config.stopping_metric))
    sides = [side for side in ("train", "validation", "test") if f"{side}_loss" in row]
    figures = [f"{side} " + " ".join(f"{metric} {row[f'{side}_{metric}']:.5f}" for metric in metrics) for side in sides]
    say("epoch", f"{row['epoch']:>3}  {'  '.join(figures)}  {row['rows_per_second']:,.0f} rows/s")


def main(argv: list[str] | None = None) -> None:
    """Train a variant and write its package."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=main.__doc__, allow_abbrev=False)
    rows = "a file, a folder of shards, or a quoted glob"
    parser.add_argument("--variant", default="deep_v1", help="name in variant_config.json; default: %(default)s")
    parser.add_argument("--data", default=SAMPLE, help=f"rows: {rows}; default: %(default)s")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument(
        "--output", type=Path, default=Path("packages"), help="folder of the package; default: %(default)s"
    )
    parser.add_argument("--run", help="name of the run and its package; default: variant and time")
    arguments = parser.parse_args(argv)

    settings = configuration.load_config(arguments.variant, environ=os.environ)
    name = arguments.run or f"{arguments.variant}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    configuration.check_run_name(name)
    data = {"train": arguments.data, "validation": arguments.validation_data, "test": arguments.test_data}
    given = {side: path for side, path in data.items() if path}
    say("run", f"{name}: variant {settings.variant}, network {settings.config.network}")
    run(settings, data=given, output=arguments.output, folder=RUNS / name)


if __name__ == "__main__":
    run_command(main)
