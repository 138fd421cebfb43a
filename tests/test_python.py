"""`import trainer`: training and packages from Python, the same as the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trainer
from tests.commands import ROOT, SAMPLE
from tests.commands import trainer as command
from trainer.package.archive import read_package
from trainer.package.result import RunResult
from trainer.package.weights import weights_from_bytes
from trainer.runtime.errors import ConfigError, DataError, StorageError

ROWS = [json.loads(line) for line in SAMPLE.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python")


@pytest.fixture(scope="module")
def result(folder: Path) -> RunResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = trainer.train(variant="deep_v1", data=str(SAMPLE), run="it", epochs=3)
        assert result.package == "packages/it.zip"
        return result._replace(package=str(folder / result.package))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS)


def test_importing_is_cheap_and_changes_nothing() -> None:
    code = (
        "import os, signal, sys\n"
        "before = dict(os.environ), [signal.getsignal(number) for number in signal.valid_signals()]\n"
        "import trainer\n"
        "assert (dict(os.environ), [signal.getsignal(number) for number in signal.valid_signals()]) == before\n"
        "heavy = {'tensorflow', 'keras', 'pandas', 'numpy', 'pyarrow', 'spacy', 'matplotlib', 'google', 'docker'}\n"
        "assert not heavy & {name.partition('.')[0] for name in sys.modules}\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_call_overrides_the_environment_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NET_EPOCHS", "7")
    monkeypatch.setenv("NET_BATCH_SIZE", "64")
    settings = trainer.load_config("rnn_v1", epochs=3, hidden_units=(16,))
    assert (settings.config.epochs, settings.config.batch_size, settings.config.hidden_units) == (3, 64, (16,))
    assert [settings.sources[name] for name in ("epochs", "batch_size", "network")] == [
        "argument", "environment NET_BATCH_SIZE", "variant rnn_v1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "arguments: epochs = 0 is out of range"),
        ({"epochs": "3"}, "has the wrong type"),
        ({"learning_rates": 0.1}, "Did you mean 'learning_rate'"),
        ({"seed": np.int64(3)}, "has the wrong type"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer.load_config("deep_v1", **settings)


def test_training_from_python_gives_the_package_of_the_command(result: RunResult, sample_run: Path) -> None:
    ours, theirs = read_package(Path(result.package)), read_package(sample_run / "out" / "it.zip")
    assert ours["metrics.csv"] == theirs["metrics.csv"]
    for members in (ours, theirs):
        assert len(weights_from_bytes(members["weights.npz"])) > 5
    for path, array in weights_from_bytes(ours["weights.npz"]).items():
        np.testing.assert_array_equal(array, weights_from_bytes(theirs["weights.npz"])[path])


def test_the_result_holds_metrics_and_history(result: RunResult) -> None:
    assert result.metrics.keys() == {"train", "validation", "test"}
    assert result.history["epoch"].tolist() == [1, 2, 3]
    record = json.loads(read_package(Path(result.package))["metrics.json"])
    assert result.metrics["test"] == record["test"]


def test_predictions_equal_those_of_the_command(result: RunResult, frame: pd.DataFrame, tmp_path: Path) -> None:
    arguments = ("predict", f"--package={result.package}", f"--data={SAMPLE}", "--out=scores.json")
    assert command(tmp_path, *arguments, module="trainer.package.score").code == 0
    scores = [json.loads(line)["prediction"] for line in (tmp_path / "scores.json").read_bytes().splitlines()]
    predictor = trainer.load_package(result.package)
    np.testing.assert_array_equal(predictor.predict(frame).astype(np.float64), scores)
    shuffled = frame.sample(frac=1, random_state=1)
    np.testing.assert_array_equal(predictor.predict(shuffled), np.float32(scores)[shuffled.index])
    assert predictor.predict(frame.head(0)).shape == (0,)


def test_metrics_equal_those_of_the_command(result: RunResult, frame: pd.DataFrame, tmp_path: Path) -> None:
    arguments = ("evaluate", f"--package={result.package}", f"--data={SAMPLE}")
    printed = json.loads(command(tmp_path, *arguments, module="trainer.package.score").out)
    assert trainer.load_package(result.package).evaluate(frame) == printed
    assert printed["weight"] == frame["impressions"].astype(float).sum()


def test_the_weights_in_a_table_are_those_of_its_rows(result: RunResult, frame: pd.DataFrame) -> None:
    last = result.history.iloc[-1]
    total = sum(last[f"{side}_weight"] for side in ("train", "validation", "test"))
    assert total == frame["impressions"].astype(float).sum()


def test_embeddings_are_named_by_their_values(result: RunResult, frame: pd.DataFrame) -> None:
    predictor = trainer.load_package(result.package)
    embeddings = predictor.embeddings("country")
    assert embeddings.shape[1] == 16
    assert set(embeddings.index[3:]) <= set(frame["country"].dropna())
    assert embeddings.index[1] == "(missing)"
    with pytest.raises(ConfigError, match="Did you mean 'country'"):
        predictor.embeddings("contry")


def test_a_frame_that_training_would_refuse_is_refused(result: RunResult, frame: pd.DataFrame) -> None:
    predictor = trainer.load_package(result.package)
    with pytest.raises(DataError, match="no column 'country'"):
        predictor.predict(frame.drop(columns="country"))
    with pytest.raises(DataError, match="Row 7 of the DataFrame: column 'age' is infinite"):
        predictor.predict(frame.assign(age=[np.inf if row == 7 else 1.0 for row in range(len(frame))]))


def test_frames_of_any_pandas_types_give_the_same_predictions(result: RunResult, frame: pd.DataFrame) -> None:
    predictor = trainer.load_package(result.package)
    expected = predictor.predict(frame)
    typed = frame.assign(
        age=pd.to_numeric(frame["age"]), position=pd.to_numeric(frame["position"]).astype("Int64"),
        country=frame["country"].astype("category"), title=frame["title"].astype("string"),
    )  # fmt: skip
    np.testing.assert_array_equal(predictor.predict(typed), expected)
    np.testing.assert_array_equal(predictor.predict(typed.convert_dtypes(dtype_backend="pyarrow")), expected)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(StorageError):
        trainer.load_package(tmp_path / "no.zip")
