"""The real command, as a user runs it: from rows to a verified package, and every refusal."""

import base64
import hashlib
import html
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import google_crc32c
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from tests.commands import CANARY, PROGRESS, ROOT, SAMPLE, Done, trainer
from tests.sample import sample_config
from trainer.config import record as config_record
from trainer.config import roles
from trainer.data import dataset
from trainer.features import pipeline
from trainer.features.preprocessing import Preprocessing
from trainer.features.sides import split_sides
from trainer.package import console
from trainer.package.archive import read_package
from trainer.package.predictor import load_predictor, needed_columns
from trainer.training.loop import History

FAB = Path(sys.executable).with_name("fab")
SIDES = ("train", "validation", "test")
TOP_5 = ("loss", "accuracy", "macro_f1", "top_5_accuracy")


@pytest.fixture(scope="module")
def members(sample_run: Path) -> dict[str, bytes]:
    return read_package(sample_run / "out" / "it.zip")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def make_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def metrics_of(members: dict[str, bytes]) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(members["metrics.csv"]))


def test_sentinels_cost_nothing_and_are_named_by_the_run_its_report_and_check_data(tmp_path: Path) -> None:
    """The better a model orders the test rows by `seconds`, the closer it is to the AUC of that column itself."""
    rng, areas = np.random.default_rng(0), []
    for name, rows in (("train", 4000), ("test", 2000)):
        seconds, visits = rng.normal(40, 12, rows).round(2), rng.poisson(5, rows).astype(float)
        clicks = rng.random(rows) < 1 / (1 + np.exp((40 - seconds) / 5))
        areas.append(roc_auc_score(clicks, seconds))
        if name == "train":
            seconds[:10] = 2**31 - 1
            visits[1000:1200] = 9999
        columns = {"seconds": seconds, "visits": visits, "click": clicks.astype(int)}
        make_rows(tmp_path / f"{name}.json", pd.DataFrame(columns).to_dict("records"))
    settings = {
        "NET_CATEGORICAL_COLUMNS": "[]", "NET_TEXT_COLUMNS": "[]", "NET_NUMERIC_COLUMNS": '["seconds"]',
        "NET_LOG_NUMERIC_COLUMNS": '["visits"]', "NET_LABEL_COLUMN": "click", "NET_WEIGHT_COLUMN": "null",
        "NET_EPOCHS": "3", "NET_LEARNING_RATE": "0.01", "NET_CACHE_GB": "0",
    }  # fmt: skip
    data = ("--data=train.json", "--test-data=test.json", "--validation-data=test.json")
    done = trainer(tmp_path, *data, "--run=it", "--output=out", **settings)
    assert (done.code, done.err) == (0, "")
    members = read_package(tmp_path / "out" / "it.zip")
    assert json.loads(members["metrics.json"])["test"]["auc"] > areas[1] - 0.005
    assert [apart["rows"] for (apart,) in json.loads(members["dataset.json"])["split"]["sentinels"].values()] == [
        10,
        200,
    ]

    checked = trainer(tmp_path, *data, module="trainer.inspection.inspect", **settings)
    report = html.unescape(members["report.html"].decode())
    for warning in ("'seconds': 10 rows have 2,147,483,647, while", "'visits': 200 rows have 9,999, while"):
        assert all(f"warning  Column {warning} all other values are from" in text for text in (done.out, checked.out))
        assert warning in report


def test_a_run_ends_with_a_verified_package_and_nothing_half_written(sample_run: Path) -> None:
    folder = sample_run
    lines = (folder / "stdout").read_text().splitlines()
    assert [line.split()[0] for line in lines[-5:]] == ["best", "baseline", "verified", "report", "package"]
    assert lines[-3].startswith("verified 206 rows, package against model: ")
    assert lines[-2] == "report   runs/it/report.html"
    assert (folder / "runs" / "it" / "report.html").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["cache", "out", "runs", "sample.json", "stderr", "stdout"]
    assert [path.name for path in (folder / "out").iterdir()] == ["it.zip"]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("metric", ["loss", "log_loss", "normalised_entropy"])
def test_the_lines_of_a_run_fit_100_columns(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = (0.123456, 4.5678e-12, -123456789.0, 999.999994)
    names = ("loss", "normalised_entropy")
    row = {f"{side}_{name}": value for side, value in zip(SIDES, values, strict=False) for name in names}
    row |= {f"{side}_log_loss": row[f"{side}_loss"] for side in SIDES}
    console.say_epoch(
        sample_config(stopping_metric=metric), History([{"epoch": 1000, **row}], rows_per_second=1_234_567.0)
    )  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "epoch    1000  loss train 0.12346  validation 4.568e-12  test -1.235e+08  training 1,234,567 rows/s"
    )
    assert len(said) == (2 if metric == "normalised_entropy" else 1)
    console.say_lines("best", "epoch 100: validation " + console.summary(dict.fromkeys(TOP_5, -1.2346e-12)))
    said += capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= console.LINE_WIDTH == 100
    assert said[-2].startswith("best     epoch 100: validation loss -1.235e-12, accuracy")
    assert said[-1].startswith("         top_5")
    console.say_epoch(sample_config(), History([{"epoch": 1, **row}]))  # of one step, which is not timed
    assert "rows/s" not in capsys.readouterr().out


def test_package_is_a_plain_zip_whose_manifest_is_true(sample_run: Path) -> None:
    with zipfile.ZipFile(sample_run / "out" / "it.zip") as archive:
        assert archive.testzip() is None
        listed = json.loads(archive.read("manifest.json"))["members"]
        assert sorted(listed) == sorted(set(archive.namelist()) - {"manifest.json"})
        for name, entry in listed.items():
            data = archive.read(name)
            assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_package_holds_every_setting_with_its_value_and_source(members: dict[str, bytes]) -> None:
    record = json.loads(members["config.json"])
    assert (record["variant"], record["network"]) == ("deep_v1", "deep_v1")
    assert record["settings"].keys() == sample_config().__dataclass_fields__.keys()
    assert record["settings"]["epochs"] == {"value": 3, "source": "environment NET_EPOCHS"}
    assert record["settings"]["hidden_units"] == {"value": [128, 64], "source": "default of deep_v1"}
    assert config_record.from_json(members["config.json"]).config == sample_config(epochs=3)


def test_metrics_have_a_row_per_epoch_and_columns_for_each_side(sample_run: Path, members: dict[str, bytes]) -> None:
    metrics = metrics_of(members)
    assert metrics["epoch"].tolist() == [1, 2, 3]
    for side, rows in {"train": 1604, "validation": 190, "test": 206}.items():
        for metric in ("loss", "auc", "calibration", "mse", "mae", "normalised_entropy"):
            assert np.isfinite(metrics[f"{side}_{metric}"]).all()
        assert (metrics[f"{side}_rows"] == rows).all()
    assert metrics["train_loss"].is_monotonic_decreasing
    assert members["metrics.csv"] == (sample_run / "runs" / "it" / "metrics.csv").read_bytes()


def test_every_picture_can_be_seen(members: dict[str, bytes]) -> None:
    pictures = {name: matplotlib.image.imread(io.BytesIO(data)) for name, data in members.items() if ".png" in name}
    assert pictures.keys() == {"metrics.png", "reliability.png", "predictions.png"}
    for pixels in pictures.values():
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.01


def test_report_is_one_page_that_loads_nothing(members: dict[str, bytes]) -> None:
    class Sources(HTMLParser):
        urls: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.urls += [value for name, value in attrs if name in ("src", "href", "srcset", "action") and value]
            assert tag not in ("script", "link", "iframe", "object")

    page = members["report.html"].decode()
    Sources().feed(page)
    assert Sources.urls
    assert all(source.startswith(("data:image/", "#")) for source in Sources.urls)
    best = metrics_of(members)["test_loss"].iloc[-1]
    assert f"{best:.4f}"[:6] in page


def test_tensorboard_reads_the_metrics_of_metrics_csv(members: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    metrics = metrics_of(members)
    for side in ("train", "validation", "test"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / side), size_guidance={"tensors": 0}).Reload()
        for metric in ("loss", "auc"):
            values = [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(f"metrics/{metric}")]
            np.testing.assert_allclose(values, metrics[f"{side}_{metric}"], rtol=1e-6)
    assert (tmp_path / "tensorboard" / "train" / "projector_config.pbtxt").read_text().count("embeddings {") == 7


def test_package_tells_where_its_rows_came_from(members: dict[str, bytes]) -> None:
    facts = json.loads(members["dataset.json"])
    rows = facts["sets"]["train"]
    assert (rows["path"], rows["rows"], rows["bad_rows"]) == ("sample.json", 2000, 0)
    checksum = base64.b64encode(google_crc32c.value(SAMPLE.read_bytes()).to_bytes(4)).decode()
    assert [shard["crc32c"] for shard in rows["shards"]] == [checksum]
    assert facts["columns"] == roles.column_kinds(sample_config())
    assert facts["split"]["rows"] == {"train": 1604, "validation": 190, "test": 206}
    assert facts["split"]["also_in_train"] == {"validation": 0, "test": 0}


def test_package_tells_where_and_how_fast_it_was_made(members: dict[str, bytes]) -> None:
    environment, timings = json.loads(members["environment.json"]), json.loads(members["timings.json"])
    assert environment["packages"]["keras"] == importlib.metadata.version("keras")
    assert environment["python"] == sys.version.split()[0]
    assert re.fullmatch("[0-9a-f]{40}", environment["commit"] or "0" * 40)
    stages = timings["stages"]
    assert {"read", "split", "preprocess", "build graph", "train"} <= stages.keys()
    assert all(stage["seconds"] > 0 and stage["passes"] == 1 for stage in stages.values())
    assert (stages["read"]["rows"], stages["train"]["rows"]) == (2000, 3 * 1604)
    assert timings["peak_memory_bytes"] > 100e6


def test_package_has_what_was_fitted_to_training_rows_and_weights_that_numpy_reads(members: dict[str, bytes]) -> None:
    preprocessing = Preprocessing.from_json(members["preprocessing.json"])
    items = {row["item"] for row in read_rows(SAMPLE)}
    assert 0 < len(preprocessing.vocabularies["item"]) < len(items)  # rare ones are none of it
    with np.load(io.BytesIO(members["weights.npz"]), allow_pickle=False) as weights:
        assert all(weights[name].dtype == np.float32 and np.isfinite(weights[name]).all() for name in weights.files)
        assert weights["logits/kernel"].shape == (64, 1)
    assert "saved_model/saved_model.pb" in members


def test_nothing_in_a_package_is_a_pickle_or_code(members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(members["weights.npz"])) as archive:
        arrays = {f"weights/{name}": archive.read(name) for name in archive.namelist()}
    for name, data in (members | arrays).items():
        assert not name.endswith((".py", ".pyc", ".so", ".pkl", ".pickle", ".h5", ".keras")), name
        assert not re.match(rb"\x80[\x02-\x05]", data), name
    assert all(data.startswith(b"\x93NUMPY") for data in arrays.values())


def test_no_secret_and_no_folder_of_the_machine_gets_out(sample_run: Path, members: dict[str, bytes]) -> None:
    shown = (sample_run / "stdout").read_text() + (sample_run / "stderr").read_text()
    for forbidden in (CANARY, str(sample_run), str(ROOT), str(Path.home()) + "/"):
        assert forbidden not in shown
        assert not [name for name, data in members.items() if forbidden.encode() in data], forbidden
        assert not [name for name in members if forbidden in name]


def prepared(folder: Path, package: Path | None = None) -> set[Path]:
    """Write all that the refusals below speak of, packages too if there is one to copy; returns the files."""
    rows = read_rows(SAMPLE)[:60]
    lines = list(map(json.dumps, rows))
    texts = {"rows.json": lines, "broken.json": [*lines[:2], lines[2][:50], *lines[3:]], "two.json": lines[:2]}
    for name, some in texts.items():
        (folder / name).write_text("\n".join(some))
    (folder / "empty.json").write_text("")
    unlabelled = [{name: value for name, value in row.items() if name not in ("ctr", "impressions")} for row in rows]
    make_rows(folder / "unlabelled.json", unlabelled)
    make_rows(folder / "no_title.json", [row | {"title": 5} for row in rows])
    make_rows(folder / "weightless.json", [row | {"impressions": "0"} for row in rows])
    make_rows(folder / "usa.json", [row | {"country": "usa"} for row in rows])
    (folder / "a_file").write_text("")
    (folder / "packages").mkdir()
    (folder / "packages" / "taken.zip").write_text("")
    if package:
        data = package.read_bytes()
        (folder / "good.zip").write_bytes(data)
        with zipfile.ZipFile(package) as archive:
            inside = archive.getinfo("weights.npz").header_offset + 5000
        (folder / "damaged.zip").write_bytes(data[:inside] + bytes([data[inside] ^ 1]) + data[inside + 1 :])
        (folder / "cut.zip").write_bytes(data[:-100])
    return files(folder)


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()} | set(folder.glob("runs/*"))


def assert_refused(done: Done, code: int, words: list[str]) -> None:
    assert done.code == code, done.err
    assert re.fullmatch(r"error: [^\n]*[.?)]\n", done.err), done.err
    assert "Traceback" not in done.out
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("code", "words", "arguments"),
    [
        (4, ["There is no package", "none.zip"], "evaluate --package=none.zip --data=rows.json"),
        (4, ["rows.json", "not a package"], "evaluate --package=rows.json --data=rows.json"),
        (4, ["damaged.zip"], "evaluate --package=damaged.zip --data=rows.json"),
        (4, ["cut.zip", "not a package"], "evaluate --package=cut.zip --data=rows.json"),
        (4, ["packages"], "evaluate --package=packages --data=rows.json"),
        (3, ["unlabelled.json", "'ctr'"], "evaluate --package=good.zip --data=unlabelled.json"),
        (4, ["nowhere.json"], "evaluate --package=good.zip --data=nowhere.json"),
        (3, ["broken.json, line 3"], "predict --package=good.zip --data=broken.json --out=scores.json"),
        (4, ["packages", "is a folder"], "predict --package=good.zip --data=rows.json --out=packages"),
        (4, ["a_file is a file"], "predict --package=good.zip --data=rows.json --out=a_file/scores.json"),
    ],
)
def test_scoring_refuses_with_one_message_and_leaves_nothing(
    sample_run: Path, tmp_path: Path, code: int, words: list[str], arguments: str
) -> None:
    before = prepared(tmp_path, sample_run / "out" / "it.zip")
    assert_refused(trainer(tmp_path, *arguments.split(), module="trainer.package.score"), code, words)
    assert files(tmp_path) == before | {tmp_path / "stdout", tmp_path / "stderr"}


def test_evaluating_the_test_rows_gives_the_metrics_of_the_best_epoch(sample_run: Path, tmp_path: Path) -> None:
    package = sample_run / "out" / "it.zip"
    members = read_package(package)
    config = config_record.from_json(members["config.json"]).config
    lines = SAMPLE.read_bytes().splitlines(keepends=True)
    _, rows = split_sides(config, {"train": pipeline.read(config, str(SAMPLE), "train")})["test"]
    (tmp_path / "test.json").write_bytes(b"".join(lines[row] for row in rows))
    done = trainer(tmp_path, "evaluate", f"--package={package}", "--data=test.json", module="trainer.package.score")
    assert (done.code, done.err) == (0, "")
    evaluated = json.loads(done.out)
    metrics = metrics_of(members)
    best = metrics.loc[metrics["validation_loss"].idxmin()]
    expected = {name.removeprefix("test_"): best[name] for name in metrics.columns if name.startswith("test_")}
    assert evaluated == pytest.approx(expected, rel=1e-12)


def test_the_command_scores_row_by_row_what_the_predictor_scores(sample_run: Path, tmp_path: Path) -> None:
    package = sample_run / "out" / "it.zip"
    make_rows(tmp_path / "new.json", (row | {"ctr": "unknown"} for row in read_rows(SAMPLE)[:100]))
    arguments = ("predict", f"--package={package}", "--data=new.json", "--out=scores/all.json")
    done = trainer(tmp_path, *arguments, module="trainer.package.score")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("100 predictions in scores/all.json, in the order of the rows; --keep=COLUMN copies")
    predictor = load_predictor(read_package(package))
    frame = dataset.load(SAMPLE, needed_columns(predictor.settings.config, labelled=False)).frame.iloc[:100]
    scored = [row["prediction"] for row in read_rows(tmp_path / "scores" / "all.json")]
    np.testing.assert_allclose(scored, predictor.predict(frame), rtol=1e-6)


def test_predictions_keep_any_column_of_the_rows_to_be_joined_by(sample_run: Path, tmp_path: Path) -> None:
    package = sample_run / "out" / "it.zip"
    extra = {"seen": 1_234_567_890_123_456_789, "rate": 0.25, "tags": ["a", "b"], "note": None}
    rows = [row | extra | {"note": "x" if number == 3 else None} for number, row in enumerate(read_rows(SAMPLE)[:50])]
    make_rows(tmp_path / "new.json", rows)
    columns = ["row_id", "item", "position", "age", "ctr", *extra]
    arguments = ("predict", f"--package={package}", "--data=new.json", "--out=kept.json")
    done = trainer(tmp_path, *arguments, f"--keep={','.join(columns)}", module="trainer.package.score")
    assert (done.code, done.out, done.err) == (0, "50 predictions in kept.json\n", "")
    for row, scored in zip(rows, read_rows(tmp_path / "kept.json"), strict=True):
        assert list(scored) == [*columns, "prediction"]
        for name in columns:
            numeric = name in ("position", "age", "ctr", "rate") and row.get(name) is not None
            expected = float(row[name]) if numeric else row.get(name)
            assert scored[name] == (str(expected) if name == "seen" else expected), name
    for keep, code, words in (
        ("row_ip", 3, "column 'row_ip' of --keep. Did you mean 'row_id'?"),
        ("prediction", 2, "Column 'prediction' cannot be kept"),
    ):
        done = trainer(tmp_path, *arguments, f"--keep={keep}", module="trainer.package.score")
        assert done.code == code
        assert words in done.err


def test_a_metric_that_the_rows_do_not_determine_is_null(sample_run: Path, tmp_path: Path) -> None:
    make_rows(tmp_path / "one.json", [read_rows(SAMPLE)[0] | {"ctr": 0.0}])
    package = sample_run / "out" / "it.zip"
    done = trainer(tmp_path, "evaluate", f"--package={package}", "--data=one.json", module="trainer.package.score")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)
    assert metrics["auc"] is None
    assert metrics["loss"] > 0


def test_rnn_v1_and_the_other_tokenizer_run_to_a_package_too(tmp_path: Path) -> None:
    make_rows(tmp_path / "rows.json", read_rows(SAMPLE)[:600])
    environment = {"NET_EPOCHS": "2", "NET_TOKENIZER": "regex"}
    done = trainer(tmp_path, "--variant=rnn_v1", "--data=rows.json", "--run=it", **environment)
    assert (done.code, done.err) == (0, "")
    members = read_package(tmp_path / "packages" / "it.zip")
    settings = json.loads(members["config.json"])["settings"]
    assert settings["network"] == {"value": "rnn_v1", "source": "variant rnn_v1"}
    assert settings["tokenizer"] == {"value": "regex", "source": "environment NET_TOKENIZER"}
    metrics = metrics_of(members)
    assert metrics["train_loss"].is_monotonic_decreasing
    assert len(metrics) == 2


WORDS = ("red", "green", "blue", "new", "old", "夜", "Straße", "🙂")


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Rows in export form with a label for each objective, all of them decided by the item."""
    random = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            item = int(random.integers(6))
            row: dict[str, Any] = {
                "id": str(2**62 + number),
                "item": f"item_{item}",
                "author": f"author_{number % 40}",
                "tags": [str(tag) for tag in random.integers(9, size=random.integers(4))],
                "title": " ".join(random.choice(WORDS, random.integers(6))),
                "price": float(random.exponential(100)),
                "day": f"2026-01-{1 + number % 28:02}",
                "views": str(random.integers(1, 50)),
                "kind": ("news", "sport", "夜")[item % 3],
                "topics": [f"topic_{topic}" for topic in range(4) if (item >> topic) & 1],
                "sales": 2000.0 + 10 * item,
            }
            for name in random.choice(["item", "title", "price", "tags"], random.integers(2)):
                del row[name]
            out.write(json.dumps(row) + "\n")


COLUMNS = {
    "NET_CATEGORICAL_COLUMNS": '["item"]',
    "NET_MULTI_CATEGORICAL_COLUMNS": '["tags"]',
    "NET_NUMERIC_COLUMNS": "[]",
    "NET_LOG_NUMERIC_COLUMNS": '["price"]',
    "NET_WEIGHT_COLUMN": "views",
    "NET_KEY_COLUMNS": '["id"]',
    "NET_BATCH_SIZE": "32",
    "NET_LEARNING_RATE": "0.01",
    "NET_EPOCHS": "3",
}


def trained_on_rows(folder: Path, *arguments: str, **environment: str) -> dict[str, bytes]:
    """The package of a run on 400 generated rows."""
    write_rows(folder / "rows.json", 400)
    done = trainer(folder, "--data=rows.json", "--run=it", *arguments, **(COLUMNS | environment))
    assert (done.code, done.err) == (0, ""), done.out
    assert "verified" in done.out
    return read_package(folder / "packages" / "it.zip")


def test_regression_with_a_split_by_time(tmp_path: Path) -> None:
    environment = {"NET_TOKENIZER": "regex", "NET_SPLIT": "time", "NET_TIME_COLUMN": "day"}
    environment |= {"NET_OBJECTIVE": "regression", "NET_LABEL_COLUMN": "sales", "NET_STOPPING_METRIC": "mae"}
    members = trained_on_rows(tmp_path, **environment)
    metrics = metrics_of(members)
    assert metrics["test_rmse"].iloc[-1] < metrics["test_rmse"].iloc[0]
    assert metrics["test_mean_label"].iloc[0] == pytest.approx(2025, abs=5)
    rows = read_rows(tmp_path / "rows.json")
    assert json.loads(members["dataset.json"])["split"]["rows"] == {"train": 316, "validation": 42, "test": 42}

    features = ("id", "item", "tags", "title", "price")  # no label, nor what only decided the split
    make_rows(tmp_path / "new.json", ({name: row[name] for name in row.keys() & set(features)} for row in rows))
    scoring = ("predict", "--package=packages/it.zip", "--data=new.json", "--out=scores.json")
    scored = trainer(tmp_path, *scoring, module="trainer.package.score")
    assert (scored.code, scored.err) == (0, "")
    scores = read_rows(tmp_path / "scores.json")
    assert [row["id"] for row in scores] == [row["id"] for row in rows]
    assert all(1950 < row["prediction"] < 2100 for row in scores)


def test_multiclass_with_a_split_by_group(tmp_path: Path) -> None:
    environment = {"NET_OBJECTIVE": "multiclass", "NET_LABEL_COLUMN": "kind", "NET_STOPPING_METRIC": "accuracy"}
    members = trained_on_rows(tmp_path, NET_SPLIT="group", NET_GROUP_COLUMNS='["author"]', **environment)
    metrics = metrics_of(members)
    assert metrics["test_accuracy"].iloc[-1] > 0.8
    groups = json.loads(members["dataset.json"])["split"]["groups"]
    assert sum(side["groups"] for side in groups.values()) == 40
    assert not any(side["also_elsewhere"] for side in groups.values())


def test_multilabel_with_rows_of_their_own_to_test_and_to_choose_by(tmp_path: Path) -> None:
    write_rows(tmp_path / "choose.json", 60, seed=2)
    write_rows(tmp_path / "final.json", 70, seed=3)
    environment = {"NET_OBJECTIVE": "multilabel", "NET_LABEL_COLUMN": "topics", "NET_STOPPING_METRIC": "auc"}
    members = trained_on_rows(tmp_path, "--validation-data=choose.json", "--test-data=final.json", **environment)
    metrics = metrics_of(members)
    assert metrics[["train_rows", "validation_rows", "test_rows"]].iloc[0].tolist() == [400, 60, 70]
    assert metrics["test_auc"].iloc[-1] > 0.8
    sets = json.loads(members["dataset.json"])["sets"]
    assert {side: facts["path"] for side, facts in sets.items()} == {
        "train": "rows.json",
        "validation": "choose.json",
        "test": "final.json",
    }


TINY = '''"""tiny_v1: a vector for each column, one dense layer."""

from dataclasses import dataclass

import keras

from trainer.config import NetConfig, setting
from trainer.model.layers import feature_inputs, feature_vectors
from trainer.features import DatasetShapes


@dataclass(frozen=True)
class Config(NetConfig):
    """The settings of tiny_v1."""

    width: int = setting(4, "width of everything", low=1, high=64)


def build_graph(net_config: Config, dataset_shapes: DatasetShapes) -> keras.Model:
    """The network: features by column -> logits, float32 [batch, outputs]."""
    inputs = feature_inputs(dataset_shapes)
    x = keras.layers.Concatenate()(feature_vectors(inputs, dataset_shapes, net_config.width))
    x = keras.layers.Dense(net_config.width, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(dataset_shapes.outputs)(x))
'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a run needs, with one more file: a network whose layers have no names of their own."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("trainer", "networks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for name in ("variant_config.json", "fabfile.py"):
        shutil.copy(ROOT / name, folder / name)
    make_rows(folder / "data" / "sample_2k.json", read_rows(SAMPLE)[:500])
    (folder / "networks" / "tiny_v1.py").write_text(TINY)
    return folder


def test_adding_a_network_is_one_new_file(checkout: Path) -> None:
    environment = os.environ | {"NET_NETWORK": "tiny_v1", "NET_WIDTH": "5", "NET_EPOCHS": "2"}
    environment["NET_TEXT_COLUMNS"] = "[]"
    command = [str(FAB), "train", "--run=tiny"]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, PROGRESS.sub("", done.stderr)) == (0, "")
    members = read_package(checkout / "packages" / "tiny.zip")
    record = json.loads(members["config.json"])
    assert record["network"] == "tiny_v1"
    assert record["settings"]["width"] == {"value": 5, "source": "environment NET_WIDTH"}
    metrics = metrics_of(members)
    assert metrics["train_loss"].is_monotonic_decreasing


def test_a_terminated_run_is_resumable_and_leaves_no_package(checkout: Path) -> None:
    environment = os.environ | {"NET_NETWORK": "tiny_v1", "NET_EPOCHS": "100000", "NET_PATIENCE": "null"}
    environment["NET_TEXT_COLUMNS"] = "[]"
    command = [str(FAB), "train", "--run=stopped"]
    process = subprocess.Popen(
        command, env=environment, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    assert any(line.startswith("epoch") for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert re.fullmatch(
        r"Stopped by SIGTERM after [\d,]+ epochs? and [\d,]+ steps?\. "
        r"To continue, start it again with --run=stopped\.\n",
        PROGRESS.sub("", errors),
    )
    assert not [path for path in checkout.rglob("*") if "stopped.zip" in path.name or path.suffix == ".part"]
    assert (checkout / "runs" / "stopped" / "metrics.csv").read_text().startswith("epoch,")


COUNTRY = {
    "NET_OBJECTIVE": "multiclass",
    "NET_LABEL_COLUMN": "country",
    "NET_CATEGORICAL_COLUMNS": '["item"]',
    "NET_TOKENIZER": "regex",
}


@pytest.mark.parametrize(
    ("code", "words", "arguments", "environment"),
    [
        (2, ["'deep_v2'", "Did you mean 'deep_v1'"], "--variant=deep_v2", {}),
        (2, ["NET_LERNING_RATE", "Did you mean 'NET_LEARNING_RATE'"], "", {"NET_LERNING_RATE": "1"}),
        (2, ["NET_EPOCHS", "zero", "whole number"], "", {"NET_EPOCHS": "zero"}),
        (2, ["NET_DROPOUT", "1.5", "out of range"], "", {"NET_DROPOUT": "1.5"}),
        (2, ["NET_NETWORK", "deep_v9", "rnn_v1"], "", {"NET_NETWORK": "deep_v9"}),
        (2, ["NET_SPLIT", "needs a time_column"], "", {"NET_SPLIT": "time"}),
        (2, ['"ctr"', "label_column", "numeric_columns"], "", {"NET_NUMERIC_COLUMNS": '["ctr"]'}),
        (2, ["../evil", "name of a run"], "--run=../evil", {}),
        (4, ["nowhere.json"], "--data=nowhere.json", {}),
        (3, ["0 rows", "empty.json"], "--data=empty.json", {}),
        (3, ["broken.json, line 3"], "--data=broken.json", {}),
        (3, ["'ctrr'", "Did you mean 'ctr'"], "", {"NET_LABEL_COLUMN": "ctrr"}),
        (3, ["rows.json, line 1", "'clicks'", "3"], "", {"NET_LABEL_COLUMN": "clicks"}),
        (3, ["no_title.json, line 1", "'title'"], "--data=no_title.json", {}),
        (3, ["weights", "add up to 0"], "--data=weightless.json", {}),
        (3, ["No rows are left for", "2 rows"], "--data=two.json", {}),
        (3, ["'country'", "no row of the test set has a class"], "--test-data=usa.json", COUNTRY),
        (4, ["taken.zip", "--run"], "--run=taken", {}),
        (4, ["a_file", "Not a directory"], "--output=a_file/packages", {}),
        (4, ["a_file is a file, not a folder"], "--output=a_file", {}),
    ],
)
def test_a_run_refuses_with_one_message_and_leaves_nothing(
    tmp_path: Path, code: int, words: list[str], arguments: str, environment: dict[str, str]
) -> None:
    before = prepared(tmp_path)
    done = trainer(tmp_path, "--data=rows.json", *arguments.split(), **environment)
    assert_refused(done, code, words)
    assert files(tmp_path) == before | {tmp_path / "stdout", tmp_path / "stderr"}


def test_a_taken_run_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "notes.txt").write_text("mine")
    done = trainer(tmp_path, f"--data={SAMPLE}", "--run=mine")
    assert_refused(done, 4, ["runs/mine", "--run"])
    assert (tmp_path / "runs" / "mine" / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob("packages/*"))


def test_the_value_of_an_unknown_variable_is_not_told(tmp_path: Path) -> None:
    done = trainer(tmp_path, NET_API_TOKEN=CANARY)
    assert_refused(done, 2, ["NET_API_TOKEN"])
    assert CANARY not in done.err


def test_a_diverged_run_says_so_and_leaves_no_package(tmp_path: Path) -> None:
    environment = {"NET_OBJECTIVE": "regression", "NET_LABEL_COLUMN": "impressions", "NET_WEIGHT_COLUMN": "null"}
    environment |= {"NET_OPTIMIZER": "sgd", "NET_LEARNING_RATE": "100", "NET_TOKENIZER": "regex"}
    done = trainer(tmp_path, f"--data={SAMPLE}", "--run=it", **environment)
    assert_refused(done, 5, ["Epoch 1", "loss is", "learning_rate"])
    assert not list(tmp_path.glob("packages/*"))


def test_an_argument_that_is_none_is_refused(tmp_path: Path) -> None:
    done = trainer(tmp_path, "--varient=deep_v1")
    assert done.code == 2
    assert "unrecognized arguments: --varient=deep_v1" in done.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 kB as the folder of runs."""
    (tmp_path / "runs").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path / "runs")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk takes a right that this user does not have")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path / "runs")], check=True)


def test_a_full_disk_is_named_as_such_whoever_writes(small_disk: Path) -> None:
    done = trainer(small_disk, f"--data={SAMPLE}", "--run=it", NET_EPOCHS="1", NET_TOKENIZER="regex")
    assert_refused(done, 6, ["No space left"])
    assert not list(small_disk.glob("packages/*"))
