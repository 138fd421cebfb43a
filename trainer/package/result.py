"""Read the result of a run from its package."""

import io
import json
from typing import NamedTuple

import pandas as pd

from trainer.data import sources
from trainer.package import archive


class RunResult(NamedTuple):
    """The package of a finished run and what it achieved."""

    package: str  # path or gs://
    metrics: dict[str, dict[str, float]]  # of the best epoch, by set: train, validation, test
    history: pd.DataFrame  # metrics.csv: a row per epoch


def read_result(package: str) -> RunResult:
    """The metrics in a package, a zip here or at gs://; StorageError for a missing or damaged package."""
    with sources.local_file(package) as path:
        members = archive.read_package(path, ("metrics.json", "metrics.csv").__contains__)
    record = json.loads(members["metrics.json"])
    metrics = {side: record[side] for side in ("train", "validation", "test") if side in record}
    return RunResult(package, metrics, pd.read_csv(io.BytesIO(members["metrics.csv"])))
