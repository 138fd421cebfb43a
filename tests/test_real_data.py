"""Public data that nobody made for this project: the shipped networks reach what good models reach on it.

The data is no part of the repository: a folder for each set, `train`, `valid` and `test` in each. Settings were chosen
on `valid`; the bars are for `test`.
"""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from trainer.__main__ import WHOLE, run
from trainer.config.loading import load_config
from trainer.config.roles import column_kinds
from trainer.data import dataset
from trainer.features import pipeline
from trainer.features.sides import split_sides
from trainer.package import predictor as prediction
from trainer.package import score
from trainer.package.archive import read_package
from trainer.runtime.progress import RunProgress

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
VARIANTS = Path(__file__).with_name("real_data_variants.json")
FOLDERS = {"train": "train", "validation": "valid", "test": "test"}

AT_LEAST = {
    "adult_deep_v1": {"auc": 0.912},
    "clickbait_deep_v1": {"accuracy": 0.978},
    "clickbait_rnn_v1": {"accuracy": 0.978},
    "chicago_taxi_deep_v1": {"auc": 0.950},
}
AT_MOST = {"adult_deep_v1": {"log_loss": 0.310}, "chicago_taxi_deep_v1": {"log_loss": 0.200}}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not in ../shared/data")


def paths_of(variant: str) -> dict[str, str]:
    """Side -> folder of shards."""
    return {side: str(DATA / variant.removesuffix("_v1").rpartition("_")[0] / name) for side, name in FOLDERS.items()}


def trained(variant: str, folder: Path, data: dict[str, str], **environment: str) -> Path:
    """The package of a run."""
    settings = load_config(variant, path=VARIANTS, environ=environment)
    run(
        settings, data=data, output=str(folder), folder=folder / "runs" / "it", mirror=None, restart=False,
        progress=RunProgress(), goal=WHOLE,
    )  # fmt: skip
    return folder / "it.zip"


def metrics_of(package: Path) -> pd.Series:
    """The row of the best epoch in metrics.csv."""
    epochs = pd.read_csv(io.BytesIO(read_package(package)["metrics.csv"]))
    return epochs.loc[epochs["validation_loss"].idxmin()]


@pytest.mark.parametrize("variant", AT_LEAST)
def test_a_variant_reaches_its_bar_and_its_package_alone_repeats_the_metrics(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = paths_of(variant)
    package = trained(variant, tmp_path, data)
    best = metrics_of(package)
    for metric, bar in AT_LEAST[variant].items():
        assert best[f"test_{metric}"] >= bar
    for metric, bar in AT_MOST.get(variant, {}).items():
        assert best[f"test_{metric}"] <= bar

    capsys.readouterr()
    score.main(["evaluate", f"--package={package}", f"--data={data['test']}"])
    evaluated = json.loads(capsys.readouterr().out)
    reported = {name.removeprefix("test_"): value for name, value in best.items() if name.startswith("test_")}
    assert evaluated == pytest.approx(reported, rel=0, abs=1e-6)


def test_sentinels_in_every_column_of_numbers_leave_taxi_trips_above_their_bar(tmp_path: Path) -> None:
    """10 training rows of each column have 2^31 - 1, as an export writes what is unknown."""
    variant, rng = "chicago_taxi_deep_v1", np.random.default_rng(0)
    config, data = load_config(variant, path=VARIANTS, environ={}).config, paths_of(variant)
    shards = sorted(Path(data["train"]).glob("*.json.gz"))
    rows = [json.loads(line) for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()]
    columns = (*config.numeric_columns, *config.log_numeric_columns)
    for column in columns:
        for row in rng.choice(len(rows), 10, replace=False):
            rows[row][column] = 2**31 - 1
    (tmp_path / "planted.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    package = trained(variant, tmp_path, data | {"train": str(tmp_path / "planted.json")})
    assert metrics_of(package)["test_auc"] >= AT_LEAST[variant]["auc"]
    named = json.loads(read_package(package)["dataset.json"])["split"]["sentinels"]
    assert {column: [found["rows"] for found in sentinels] for column, sentinels in named.items()} == {
        column: [10] for column in columns
    }


def split_run(folder: Path, **environment: str) -> dict[str, pd.DataFrame]:
    """The sides of the training rows of chicago_taxi, after a run that is split in the same way."""
    variant, data = "chicago_taxi_deep_v1", {"train": paths_of("chicago_taxi_deep_v1")["train"]}
    package = trained(variant, folder, data, NET_EPOCHS="1", **environment)
    config = load_config(variant, path=VARIANTS, environ=environment).config
    cut = split_sides(config, {"train": pipeline.read(config, data["train"], "train")})
    sides = {side: frame.take(rows) for side, (frame, rows) in cut.items()}
    split = json.loads(read_package(package)["dataset.json"])["split"]
    assert split["rows"] == {side: len(frame) for side, frame in sides.items()}
    assert np.isfinite(metrics_of(package)["test_log_loss"])
    return sides


def test_taxi_trips_split_by_time_are_tested_on_the_latest(tmp_path: Path) -> None:
    sides = split_run(tmp_path, NET_SPLIT="time", NET_TIME_COLUMN="trip_start_timestamp")
    times = {side: frame["trip_start_timestamp"] for side, frame in sides.items()}
    assert times["train"].max() < times["validation"].min() <= times["validation"].max() < times["test"].min()
    assert len(times["test"]) == pytest.approx(0.1 * sum(map(len, sides.values())), rel=0.01)


def test_taxi_trips_split_by_company_are_tested_on_other_companies(tmp_path: Path) -> None:
    sides = split_run(tmp_path, NET_SPLIT="group", NET_GROUP_COLUMNS='["company"]')
    companies = [set(frame["company"].dropna()) for frame in sides.values()]
    assert len(sides) == 3
    assert all(companies)
    assert sum(map(len, companies)) == len(set.union(*companies))


def test_adult_with_its_sampling_weight_is_measured_by_it(tmp_path: Path) -> None:
    data = paths_of("adult_deep_v1")
    package = trained("adult_deep_v1", tmp_path, data, NET_WEIGHT_COLUMN="fnlwgt", NET_EPOCHS="1")

    predictor = prediction.load_predictor(read_package(package))
    rows = dataset.load(data["test"], column_kinds(predictor.settings.config)).frame
    scores = predictor.predict(rows).astype(np.float64)
    weighted, plain = (log_loss(rows["label"], scores, sample_weight=weight) for weight in (rows["fnlwgt"], None))
    assert metrics_of(package)["test_log_loss"] == pytest.approx(weighted, abs=1e-6)
    assert abs(weighted - plain) > 1e-4
