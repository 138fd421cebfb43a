"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` is the whole way from rows to a verified package, in the order of the data.
"""

import argparse
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import numpy as np
import pandas as pd

from trainer import config as configuration
from trainer import dataset, packaging, prediction, preprocessing, provenance, reporting, serving, split, system, training
from trainer.command import run_command
from trainer.graph import build_model_graph
from trainer.timing import Timings

ROOT = Path(__file__).parent.parent
MAX_PARITY_ROWS = 1000  # held-out rows that the written package must score as the trained model does


def run(settings: configuration.Configuration, *, data: Mapping[str, str], output: Path, folder: Path) -> Path:
    """Train, report, package and verify; returns the path of the package, `output`/NAME.zip for a folder of that NAME.

    data: path of the dataset under "train"; those of separate sets under "validation" and "test" where there are any.
    """
    config, timings = settings.config, Timings()
    package = output / f"{folder.name}.zip"
    system.create_folder(folder)

    with timings.stage("read"):
        kinds = configuration.column_kinds(config)
        sets = {side: dataset.load(path, kinds, max_bad_rows=config.max_bad_rows) for side, path in data.items()}
    for side, rows in sets.items():
        timings.mark("read", rows.rows)
        say("data", f"{data[side]}: {rows.rows:,} rows in {len(rows.shards)} shards")

    with timings.stage("split"):
        frames, split_facts = split_sides(config, {side: rows.frame for side, rows in sets.items()})
    say("split", ", ".join(f"{side} {len(frame):,}" for side, frame in frames.items()))

    with timings.stage("preprocess"):
        learnt = learn(config, frames["train"])
        examples = {side: preprocessing.apply(learnt, frame) for side, frame in frames.items()}
    say("columns", ", ".join(f"{column} {size:,}" for column, size in sizes(learnt.shapes()).items()))

    with timings.stage("build graph"):
        ops = build_model_graph(config, learnt.shapes())
        tables = {side: ops.table(rows) for side, rows in examples.items()}

    with timings.stage("train"), reporting.TensorBoardLog(folder / "tensorboard") as log:
        history = training.train(
            ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
            maximise=configuration.STOPPING_METRICS[config.objective][config.stopping_metric] == "max",
            on_epoch=lambda row: tell_epoch(row, log),
        )  # fmt: skip
    timings.mark("train", len(history.rows) * tables["train"].rows)

    with timings.stage("report"):
        ...

    with timings.stage("package"), system.atomic_path(package) as temporary:
        packaging.write_package(temporary, members)
        difference = prediction.verify(temporary, held_out, ops.predict(ops.table(...)))
    say("package", f"{package}, verified: predictions agree within {difference:.1e}")
    return package
