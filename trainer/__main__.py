"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` is the whole way from rows to a verified package, in the order of the data.
"""

import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import pandas as pd

from trainer import config as configuration
from trainer import dataset, preprocessing, reporting, split, system, training
from trainer.config import Configuration, NetConfig
from trainer.graph import build_model_graph
from trainer.timing import Timings

ROOT = Path(__file__).parent.parent
PARITY_ROWS = 1000  # held-out rows that the written package must score as the trained model does


def run(settings: Configuration, *, data: Mapping[str, str], output: Path, folder: Path) -> Path:
    """Train, report, package and verify. Returns the package: `output`/NAME.zip of a run whose folder is NAME.

    data: path of the dataset under "train"; of separate sets under "validation" and "test", where there are any.
    """
    config, timings = settings.config, Timings()
    package = output / f"{folder.name}.zip"
    system.create_folder(folder)
    say("run", f"{folder.name}: variant {settings.variant}, network {config.network}")

    with timings.stage("read"):
        sets = {side: read(config, path) for side, path in data.items()}
    timings.mark("read", sum(rows.rows for rows in sets.values()))

    with timings.stage("split"):
        sides = split_sides(config, {side: rows.frame for side, rows in sets.items()})
        split_facts = describe_sides(config, sides)

    with timings.stage("preprocess"):
        learnt = learn(config, sides["train"])
        examples = {side: preprocessing.apply(learnt, frame) for side, frame in sides.items()}
    timings.mark("preprocess", sum(map(len, sides.values())))

    with timings.stage("build graph"):
        ops = build_model_graph(config, learnt.shapes())
        tables = {side: ops.table(rows) for side, rows in examples.items()}

    with timings.stage("train"), reporting.TensorBoardLog(folder / "tensorboard") as log:
        history = training.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            maximise=maximise(config), on_epoch=log.epoch,
        )  # fmt: skip
    timings.mark("train", len(history.rows) * tables["train"].rows)


def read(config: NetConfig, path: str) -> dataset.Dataset:
    """A dataset's columns that have a role."""
    found = dataset.load(path, configuration.column_kinds(config), max_bad_rows=config.max_bad_rows)
    say("data", f"{path}: {found.rows:,} rows, {len(found.shards)} shards, {found.bad_rows} bad rows left out")
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
    sides = {side: frames["train"].iloc[rows] for side, rows in cut._asdict().items()} | dict(frames)
    sides["train"] = frames["train"].iloc[cut.train]
    say("split", ", ".join(f"{side} {len(frame):,}" for side, frame in sides.items()))
    return {side: frame for side, frame in sides.items() if len(frame)}


def learn(config: NetConfig, frame: pd.DataFrame) -> preprocessing.Preprocessing:
    """Vocabularies and statistics of the training rows."""
    return preprocessing.learn(
        frame,
        configuration.feature_roles(config),
        label=config.label_column,
        weight=config.weight_column,
        objective=config.objective,
        vocabulary=preprocessing.VocabularyRules(config.min_count, config.max_vocabulary, config.max_values),
        text=preprocessing.TextRules(config.tokenizer, config.lowercase, config.max_tokens),
    )


def maximise(config: NetConfig) -> bool:
    """Whether more of the stopping metric is better."""
    return configuration.STOPPING_METRICS[config.objective][config.stopping_metric] == "max"


def say(what: str, text: str) -> None:
    """One line for people about a stage."""
    print(f"{what:<10} {text}", flush=True)
