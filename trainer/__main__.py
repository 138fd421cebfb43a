"""Train one variant: `python -m trainer --variant=deep_v1 --data=data/sample_2k.json --output=packages`.

`run` below is the whole way from rows to a verified package, in the order of the data.
"""

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it once, when it is imported

from trainer import config as configuration
from trainer import dataset, packaging, prediction, preprocessing, provenance, reporting, serving, split, system, training
from trainer.command import run_command
from trainer.graph import build_model_graph
from trainer.timing import Timings

ROOT = Path(__file__).parent.parent


def run(
    settings: configuration.Configuration, *, data: dict[str, str], output: Path, name: str, runs: Path = ROOT / "runs"
) -> Path:
    """Train, report, package and verify one run; returns the path of its package.

    data: the dataset's path under "train", and separate sets under "validation" and "test" where they are given.
    """
    config, timings = settings.config, Timings()
    folder, package = runs / name, output / f"{name}.zip"
    ...
