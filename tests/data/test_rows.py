"""Rows as pandas and other exporters write them, rows without a label, bad rows, and columns that no row has."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trainer.data import shards
from trainer.data.dataset import load
from trainer.data.frames import typed_frame
from trainer.data.loaded import Dataset
from trainer.data.schema import RowRules
from trainer.runtime.errors import DataError

pytestmark = pytest.mark.usefixtures("way")

KINDS = {"shop_id": "category", "is_new": "category", "price": "number", "click": "probability"}


def write(folder: Path, rows: list[Any], name: str = "rows.json") -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / name).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder / name


def read(folder: Path, kinds: dict[str, str], *rows: Any, **rules: Any) -> Dataset:
    return load(write(folder, list(rows)), kinds, rules=RowRules(**rules))


def refusal(folder: Path, kinds: dict[str, str], *rows: Any, **rules: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, kinds, *rows, **rules)
    return str(caught.value)


def plain(column: pd.Series) -> list[Any]:
    return [None if gone else value for gone, value in zip(column.isna(), column.tolist(), strict=True)]


# Whole numbers with a fraction of 0.


def shops(rows: int) -> pd.DataFrame:
    """What pandas makes of whole numbers and booleans with a missing value: fractions."""
    chance = np.random.default_rng(9)
    frame = pd.DataFrame(
        {
            "shop_id": chance.integers(1000, 1050, rows).astype(float),
            "is_new": (chance.random(rows) < 0.5).astype(float),
            "price": chance.gamma(2, 20, rows).round(2),
            "click": (chance.random(rows) < 0.3).astype(float),
        }
    )
    frame.loc[chance.random(rows) < 0.1, ["shop_id", "is_new"]] = np.nan
    return frame


def test_ids_that_pandas_writes_as_fractions_are_the_whole_numbers(tmp_path: Path) -> None:
    frame = shops(300)
    frame.to_json(tmp_path / "rows.json", orient="records", lines=True)
    assert '"shop_id":1' in (tmp_path / "rows.json").read_text()
    assert ".0," in (tmp_path / "rows.json").read_text()
    loaded = load(tmp_path / "rows.json", KINDS).frame
    wanted = [None if np.isnan(value) else str(int(value)) for value in frame.shop_id]
    assert plain(loaded["shop_id"]) == wanted
    assert set(plain(loaded["is_new"])) == {None, "0", "1"}
    assert loaded["click"].tolist() == frame.click.tolist()
    pd.testing.assert_frame_equal(typed_frame(frame, KINDS), loaded)


@pytest.mark.parametrize("kind", ["category", "key", "class"])
def test_whole_numbers_and_fractions_of_0_may_share_a_column(tmp_path: Path, kind: str) -> None:
    values = [5, 1021.0, -3.0, 2**53, 2**63 - 1, 1e3, -0.0, 0]
    rows = [{"x": value} for value in values]
    for order in (rows, rows[::-1], random.Random(3).sample(rows, len(rows))):
        texts = plain(read(tmp_path, {"x": kind}, *order).frame["x"])
        assert texts == [str(int(row["x"])) for row in order]
    assert "holds a JSON fraction" in refusal(tmp_path, {"x": kind}, *rows, {"x": 1.5})
    assert "beyond 2**53" in refusal(tmp_path, {"x": kind}, *rows, {"x": 2.0**60})
    assert "holds a JSON string" in refusal(tmp_path, {"x": kind}, *rows, {"x": "1021"})


def test_lists_of_whole_numbers_likewise(tmp_path: Path) -> None:
    rows = [{"x": [1, 2]}, {"x": [3.0, 4]}, {}, {"x": []}, {"x": [2**62]}]
    lists = read(tmp_path, {"x": "categories"}, *rows).frame["x"]
    assert plain(lists) == [["1", "2"], ["3", "4"], None, [], [str(2**62)]]
    assert "holds a JSON fraction" in refusal(tmp_path, {"x": "categories"}, {"x": [1.0, 1.5]})


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    assert plain(read(tmp_path, {"x": "category"}, {"x": "1021.0"}, {"x": "1021"}).frame["x"]) == ["1021.0", "1021"]


def test_a_table_with_whole_numbers_or_floats_has_ids(tmp_path: Path) -> None:
    for type_ in ("INTEGER", "FLOAT64"):
        (tmp_path / "schema.json").write_text(json.dumps([{"name": "x", "type": type_}]))
        assert plain(read(tmp_path, {"x": "category"}, {"x": 7.0}, {}, {"x": 8}).frame["x"]) == ["7", None, "8"]
        assert read(tmp_path, {"x": "number"}, {"x": 7.0}, {"x": 8}).frame["x"].tolist() == [7, 8]
        assert "column 'x'" in refusal(tmp_path, {"x": "category"}, {"x": 7.5})
    (tmp_path / "schema.json").write_text(json.dumps([{"name": "x", "type": "INTEGER"}]))
    assert "column 'x'" in refusal(tmp_path, {"x": "number"}, {"x": 7.5})


# Labels.


@pytest.mark.parametrize(
    ("values", "positive", "expected"),
    [
        (["yes", "no", "yes", "maybe"], "yes", [1, 0, 1, 0]),
        ([-1, 1, 1.0, 0], "1", [0, 1, 1, 0]),
        (["-1", "1", "1.0"], "1", [0, 1, 1]),
        ([True, False], "false", [0, 1]),
        ([2, 1, "2"], "2.0", [1, 0, 1]),
        (["true", True, "no"], "true", [1, 1, 0]),
        (["cat", "CAT"], "cat", [1, 0]),
        (["true", "false", "True", "FALSE", True, 0], None, [1, 0, 1, 0, 1, 0]),
    ],
)
def test_one_value_of_a_binary_label_counts_as_1(
    tmp_path: Path, values: list[Any], positive: str | None, expected: list[float]
) -> None:
    kind = "outcome" if positive else "probability"
    rules = RowRules(positive_label=positive)
    for step in (1, -1):
        rows = [{"y": value} for value in values[::step]]
        assert load(write(tmp_path, rows), {"y": kind}, rules=rules).frame["y"].tolist() == expected[::step]
        assert typed_frame(pd.DataFrame(rows, dtype=object), {"y": kind}, rules)["y"].tolist() == expected[::step]


@pytest.mark.parametrize("value", ["yes", "no", -1, 2, "1,5"])
def test_a_label_that_needs_positive_label_says_so(tmp_path: Path, value: Any) -> None:
    assert "positive_label" in refusal(tmp_path, {"y": "probability"}, {"y": 1}, {"y": value})
    assert "holds a JSON list" in refusal(tmp_path, {"y": "outcome"}, {"y": "no"}, {"y": [1]}, positive_label="no")


@pytest.mark.parametrize(
    ("kind", "label"),
    [("probability", 1), ("outcome", "yes"), ("target", 2.5), ("class", "a"), ("class", 3), ("classes", [])],
)
def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path, kind: str, label: Any) -> None:
    kinds = {"x": "number", "y": kind}
    rows = [{"x": 0, "y": label}, {"x": 1}, {"x": 2, "y": None}, {"x": 3, "y": label}, {"x": 4}]
    loaded = read(tmp_path, kinds, *rows, skip_unlabelled=True, positive_label="yes")
    assert loaded.frame["x"].tolist() == [0, 3]
    assert (loaded.rows, loaded.rows_read, loaded.bad_rows, loaded.unlabelled) == (2, 5, 0, 3)
    typed = typed_frame(pd.DataFrame(rows, dtype=object), kinds, RowRules(skip_unlabelled=True, positive_label="yes"))
    assert typed["x"].tolist() == [0, 3]
    message = refusal(tmp_path, kinds, *rows, positive_label="yes")
    assert "line 2: column 'y' is missing (skip_unlabelled leaves out such rows)." in message
    some_bad = read(tmp_path, kinds, *rows, b"{", {"x": "?"}, skip_unlabelled=True, max_bad_rows=2)
    assert (some_bad.rows, some_bad.bad_rows, some_bad.unlabelled) == (2, 2, 3)
    none = [{"x": 2, "y": None}, {"x": 1}, {"x": 4}]
    assert "No row of" in refusal(tmp_path, kinds, *none[1:], skip_unlabelled=True)
    assert "None of the 3 rows" in refusal(tmp_path, kinds, *none, skip_unlabelled=True)


def test_a_weight_is_required_even_then(tmp_path: Path) -> None:
    kinds = {"y": "target", "w": "weight"}
    message = refusal(tmp_path, kinds, {"y": 1, "w": 1}, {"y": 1}, skip_unlabelled=True)
    assert "line 2: column 'w' is missing. Correct it" in message


# Bad rows.


def test_a_share_of_bad_rows_is_checked_at_the_end(tmp_path: Path) -> None:
    rows: list[Any] = [{"x": number} for number in range(1000)]
    for number in (0, 500, 999):
        rows[number] = {"x": "many"}
    loaded = read(tmp_path, {"x": "number"}, *rows, max_bad_rows="0.3%")
    assert [(row.line, row.before) for row in loaded.left_out] == [(1, 0), (501, 499), (1000, 997)]
    message = refusal(tmp_path, {"x": "number"}, *rows, max_bad_rows="0.29%")
    assert "3 of 1,000 rows" in message
    assert "max_bad_rows = 0.29%" in message
    assert "rows.json, line 1: column 'x' is not a number: 'many'" in message
    assert read(tmp_path, {"x": "number"}, *rows[1:500], max_bad_rows="0%").rows == 499
    assert "0 rows and 3 bad rows" in refusal(tmp_path, {"x": "number"}, *[b"{"] * 3, max_bad_rows="100%")


def test_a_refusal_names_a_setting_that_works_in_every_command(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"x": "number"}, {"x": 1}, {"x": "many"})
    assert message.endswith("or skip bad rows by max_bad_rows (here: NET_MAX_BAD_ROWS=1 or 0.1%).")


def test_a_bad_row_has_its_place_and_its_keys_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "HEAD_BYTES", 30)
    kinds = {"id": "key", "shop": "category", "x": "number"}
    rows: list[Any] = [
        {"id": 1, "shop": "a", "x": 1},
        {"id": 2.0, "shop": "b", "x": "?"},
        {"id": 3, "shop": "a", "x": 2},
        b"nonsense",
        {"shop": "c", "x": 1},
        {"id": 6, "shop": [1], "x": 1},
        {"id": 7, "x": 1},
        {"id": [], "shop": "z", "x": 1},
    ]
    for name in ("a.json", "b.json"):
        write(tmp_path, rows, name)
    loaded = load(tmp_path, kinds, rules=RowRules("50%", keys=("id", "shop")))
    places = [(2, 1), (4, 2), (6, 3), (8, 4)]
    assert [(row.line, row.before) for row in loaded.left_out] == [
        *places, *((line, before + 4) for line, before in places)
    ]  # fmt: skip
    assert [dict(row.keys) for row in loaded.left_out[:4]] == [
        {"id": "2", "shop": "b"}, {"id": None, "shop": None}, {"id": "6", "shop": None}, {"id": None, "shop": "z"}
    ]  # fmt: skip
    assert load(tmp_path, kinds, rules=RowRules("50%")).left_out[0].keys == {}
    (tmp_path / "b.json").unlink()
    write(tmp_path, [b"{", b"["], "a.json")
    assert load(tmp_path, kinds, rules=RowRules("100%", keys=())).rows == 0


def test_a_negative_amount_is_a_bad_row(tmp_path: Path) -> None:
    kinds = {"x": "amount"}
    assert read(tmp_path, kinds, {"x": 0}, {"x": "-3"}, {"x": 5}, {}, max_bad_rows=1).frame["x"].tolist()[:2] == [0, 5]
    assert "is negative, so that it has no log(1 + x)" in refusal(tmp_path, kinds, {"x": 0}, {"x": -0.5})


# Columns that no row has.

ONE = {"item": "item_15", "title": "free secret nightbird", "hour": "18", "position": "7", "unused": 1}
SCORED = {"item": "category", "title": "text", "hour": "category", "position": "number", "age": "number", "id": "key"}


def test_a_feature_that_is_NULL_in_every_row_to_score_is_missing(tmp_path: Path) -> None:
    loaded = read(tmp_path, SCORED, ONE, absent_is_missing=True)
    assert loaded.frame.isna().iloc[0].to_dict() == {name: name in ("age", "id") for name in SCORED}
    assert loaded.absent == ("age", "id")
    assert loaded.warnings("rows") == [
        "No row of rows has the column 'age': it counts as missing.",
        "No row of rows has the column 'id': it counts as missing.",
    ]
    assert "has the column 'age'. Known: hour" in refusal(tmp_path, SCORED, ONE)


@pytest.mark.parametrize("name", ["Age", "AGE", "agee", "_age"])
def test_a_name_that_is_nearly_the_same_is_a_slip(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path, SCORED, ONE | {name: 30}, absent_is_missing=True)
    assert (
        f"has the column 'age', but they have {name!r}. Rename that" in message if name != "àge" else "age" in message
    )
    rows = [ONE | {name: 30, "age": None}]
    assert read(tmp_path, SCORED, *rows, absent_is_missing=True).absent == ("id",)


@pytest.mark.parametrize("name", ["page_views", "hours", "impressions", "position"])
def test_another_name_is_none(tmp_path: Path, name: str) -> None:
    assert "age" in read(tmp_path, SCORED, ONE | {name: 5}, absent_is_missing=True).absent


@pytest.mark.parametrize("kind", ["probability", "class", "weight"])
def test_a_label_has_to_be_there(tmp_path: Path, kind: str) -> None:
    message = refusal(tmp_path, {"item": "category", "ctr": kind}, ONE | {"Ctr": 1}, absent_is_missing=True)
    assert "column 'ctr' is missing (Did you mean 'Ctr'?)" in message


@pytest.mark.parametrize("orient", ["records", "columns", "split", "index", "table", "values"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("scoring", [False, True])
def test_a_table_in_one_object_says_how_pandas_writes_rows(
    tmp_path: Path, orient: Any, indent: int | None, scoring: bool
) -> None:
    path = tmp_path / "rows.json"
    pd.DataFrame({"x": ["a", "b"], "y": [1.5, None]}).to_json(path, orient=orient, indent=indent)
    with pytest.raises(DataError) as caught:
        load(path, {"x": "category", "y": "number"}, rules=RowRules(absent_is_missing=scoring))
    assert '(from pandas: to_json(orient="records", lines=True))' in str(caught.value)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_a_bare_NaN_says_what_to_write(tmp_path: Path, token: str) -> None:
    message = refusal(tmp_path, {"x": "number"}, {"x": 1}, f'{{"x": {token}, "y": 2}}'.encode())
    assert "line 2: not a JSON object: JSON has no NaN or Infinity; write null" in message
