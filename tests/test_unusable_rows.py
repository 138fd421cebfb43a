"""Rows that cannot be used never end a whole batch: each command leaves them out where a setting allows it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import trainer as api
from tests.commands import SAMPLE, Done, trainer
from trainer.package.archive import read_package

ROWS = [json.loads(line) for line in SAMPLE.read_text().rstrip("\n").split("\n")]
PREDICTOR = "trainer.package.score"


def write(folder: Path, rows: list[Any], name: str = "rows.json") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("".join(line + "\n" for line in lines))
    return folder / name


def predict(folder: Path, package: Path, rows: list[Any], **environment: str) -> tuple[Done, list[dict[str, Any]]]:
    write(folder, rows)
    arguments = ("predict", f"--package={package}", "--data=rows.json", "--out=out.json")
    done = trainer(folder, *arguments, module=PREDICTOR, **environment)
    lines = (folder / "out.json").read_text().rstrip("\n").split("\n") if done.code == 0 else []
    return done, [json.loads(line) for line in lines]


def test_predict_keeps_the_order_with_null_and_the_reason(tmp_path: Path, sample_run: Path) -> None:
    package = sample_run / "out" / "it.zip"
    rows: list[Any] = [*ROWS[:3], ROWS[3] | {"position": "first"}, "{", *ROWS[5:9]]
    done, lines = predict(tmp_path, package, rows)
    assert done.code == 3
    assert "rows.json, line 4: column 'position' is not a number: 'first'" in done.err
    assert "NET_MAX_BAD_ROWS=1" in done.err
    done, lines = predict(tmp_path, package, rows, NET_MAX_BAD_ROWS="25%")
    assert (done.code, done.err) == (0, "")
    assert "7 predictions in out.json, 2 bad rows without a prediction" in done.out
    assert [line["prediction"] is None for line in lines] == [number in (3, 4) for number in range(9)]
    assert lines[3] == {"prediction": None, "reason": "rows.json, line 4: column 'position' is not a number"}
    assert lines[4]["reason"].startswith("rows.json, line 5: not a JSON object")
    good = pd.DataFrame([row for number, row in enumerate(rows) if number not in (3, 4)])
    expected = api.load_package(package).predict(good)
    assert [line["prediction"] for line in lines if line["prediction"] is not None] == pytest.approx(expected.tolist())


def test_evaluate_leaves_out_bad_and_unlabelled_rows(tmp_path: Path, sample_run: Path) -> None:
    package = sample_run / "out" / "it.zip"
    unlabelled = {name: value for name, value in ROWS[1].items() if name != "ctr"}
    write(tmp_path, [ROWS[0], unlabelled, ROWS[2] | {"age": "old"}, *ROWS[3:60]])
    arguments = ("evaluate", f"--package={package}", "--data=rows.json")
    assert trainer(tmp_path, *arguments, module=PREDICTOR).code == 3
    done = trainer(tmp_path, *arguments, module=PREDICTOR, NET_MAX_BAD_ROWS="1", NET_SKIP_UNLABELLED="true")
    assert done.code == 0
    assert "58 rows of rows.json are evaluated, 1 bad row left out, 1 row without a label left out." in done.err
    expected = api.load_package(package).evaluate(pd.DataFrame([ROWS[0], *ROWS[3:60]]))
    assert json.loads(done.out)["loss"] == pytest.approx(expected["loss"])


def test_a_row_whose_number_is_NULL_is_scored(tmp_path: Path, sample_run: Path) -> None:
    package = sample_run / "out" / "it.zip"
    row = {name: value for name, value in ROWS[0].items() if name != "age"}
    done, lines = predict(tmp_path, package, [row])
    assert (done.code, done.err) == (0, "warning: No row of rows.json has the column 'age': it counts as missing.\n")
    expected = api.load_package(package).predict(pd.DataFrame([row | {"age": None}]))
    assert [line["prediction"] for line in lines] == pytest.approx(expected.tolist())
    done, _ = predict(tmp_path, package, [row | {"Age": 30}])
    assert done.code == 3
    assert "No row of 'rows.json' has the column 'age', but they have 'Age'." in done.err


def test_a_file_of_pandas_trains_with_its_words_and_gaps(tmp_path: Path) -> None:
    """Ids and booleans as fractions, a label in words, rows without one, a bad row; check-data agrees with the run."""
    frame = pd.DataFrame({"shop_id": [float(row["hour"]) for row in ROWS], "is_new": [i % 3 == 0 for i in range(2000)]})
    frame["price"] = [float(row["position"]) for row in ROWS]
    frame["click"] = ["yes" if row["ctr"] > 0.1 else "no" for row in ROWS]
    frame = frame.astype({"is_new": float, "click": object})
    frame.loc[::9, ["shop_id", "is_new"]] = None
    frame.loc[5:20, "click"] = None
    frame.to_json(tmp_path / "rows.json", orient="records", lines=True)
    with (tmp_path / "rows.json").open("a") as file:
        file.write('{"shop_id": 1.5, "is_new": 1.0, "price": 3.0, "click": "no"}\n')
    settings = {
        "NET_CATEGORICAL_COLUMNS": '["shop_id", "is_new"]',
        "NET_TEXT_COLUMNS": "[]",
        "NET_NUMERIC_COLUMNS": '["price"]',
        "NET_LABEL_COLUMN": "click",
        "NET_WEIGHT_COLUMN": "null",
        "NET_EPOCHS": "1",
    }
    rules = {"NET_POSITIVE_LABEL": "yes", "NET_SKIP_UNLABELLED": "true", "NET_MAX_BAD_ROWS": "0.1%"}
    done = trainer(tmp_path, "--data=rows.json", "--run=it", "--output=out", **settings)
    assert (done.code, "positive_label" in done.err) == (3, True)
    left_out = "rows.json: 2,000 rows in 1 file, 1 bad row left out, 16 rows without a label left out"
    for module, arguments in (("trainer.__main__", ("--run=it", "--output=out")), ("trainer.inspection.inspect", ())):
        done = trainer(tmp_path, "--data=rows.json", *arguments, module=module, **settings, **rules)
        assert (done.code, done.err) == (0, "")
        assert left_out in done.out
    members = read_package(tmp_path / "out" / "it.zip")
    facts = json.loads(members["dataset.json"])["sets"]["train"]
    assert (facts["rows"], facts["bad_rows"], facts["unlabelled_rows"]) == (1984, 1, 16)
    assert b"1,984, 1 bad row left out, 16 rows without a label left out" in members["report.html"]
    vocabularies = json.loads(members["preprocessing.json"])["vocabularies"]
    assert set(vocabularies["is_new"]) == {"0", "1"}
    assert "18" in vocabularies["shop_id"]
    done = trainer(tmp_path, "--data=rows.json", "--run=none", **settings, **rules | {"NET_POSITIVE_LABEL": "Yes"})
    assert done.code == 3
    assert "No row of 'rows.json' has positive_label = 'Yes' in column 'click'." in done.err
