"""`fab check-data`: figures checked against the truth, warnings, the page, what is refused."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.commands import ROOT, SAMPLE, trainer
from tests.package.test_report import HOSTILE, read
from tests.sample import SAMPLE_COLUMNS
from tests.servers.bucket import Bucket
from trainer.config.net_config import NetConfig
from trainer.data import dataset
from trainer.data.schema import parse_schema, plan_columns
from trainer.features.pipeline import prepare
from trainer.features.tokenizers import TextRules
from trainer.features.vocabulary import Kept, VocabularyRules
from trainer.inspection.columns import Column, column_values
from trainer.inspection.inspect import inspect, json_types
from trainer.inspection.leakage import SUSPICIOUS, fingerprint, leakage
from trainer.inspection.page import page
from trainer.inspection.profile import Inspection, Profile, profile_column
from trainer.inspection.text import printable
from trainer.runtime.errors import DataError
from trainer.runtime.timing import Timings

RULES = TextRules("spacy", True, 3)
NO_COLUMNS: dict[str, Any] = {
    "categorical_columns": (), "text_columns": (), "numeric_columns": (), "label_column": "y", "weight_column": None,
}  # fmt: skip


def write(folder: Path, rows: Iterable[dict[str, Any]], schema: dict[str, str] | None = None) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if schema:
        write_schema(folder, schema)
    return str(folder)


def write_schema(folder: Path, schema: dict[str, str]) -> None:
    fields = [{"name": name, "type": kind.split()[-1], "mode": kind.split()[0]} for name, kind in schema.items()]
    fields = [field | {"mode": "NULLABLE"} if field["mode"] == field["type"] else field for field in fields]
    (folder / "schema.json").write_text(json.dumps(fields))


def config(**values: Any) -> NetConfig:
    return replace(NetConfig(), **NO_COLUMNS | {"cache_gb": 0.0} | values)


def by_name(inspection: Inspection) -> dict[str, Profile]:
    return {profile.column.name: profile for profile in inspection.profiles}


def profile_of(folder: Path, values: list[Any], kind: str, role: str) -> Profile:
    """The profile of a column whose rows are all for training but the last, which is for testing."""
    write(folder, ({} if value is None else {"x": value} for value in values), schema={"x": SCHEMA[kind]})
    frame = dataset.load(folder, {"x": kind}).frame
    arrays, rows = column_values(frame["x"], kind, RULES), np.arange(len(frame))
    column = Column("x", role, kind, "", Kept(3 if kind in ("text", "categories") else 1, "first"))
    return profile_column(
        column, {"train": (arrays, rows[:-1]), "test": (arrays, rows[-1:])}, None, VocabularyRules(2, 100, 3)
    )


SCHEMA = {"category": "STRING", "number": "FLOAT", "text": "STRING", "categories": "REPEATED STRING", "time": "INTEGER"}


def test_figures_of_a_tiny_table_are_those_computed_by_hand(tmp_path: Path) -> None:
    colours = profile_of(
        tmp_path / "c", ["red", "blue", "red", None, "NULL", "red", "green", "red"], "category", "categorical"
    )
    assert (colours.missing, colours.distinct, colours.singletons) == (1 / 8, 4, 3 / 7)
    assert colours.top == [("red", 4 / 8), ("NULL", 1 / 8), ("blue", 1 / 8), ("green", 1 / 8)]
    assert colours.placeholders == 1 / 7
    assert colours.coverage.vocabulary == 1  # red alone occurs twice among the training rows
    assert (colours.coverage.unseen, colours.coverage.out_of_vocabulary) == ({"test": 0.0}, {"test": 0.0})

    sizes = profile_of(tmp_path / "n", [1.0, 2.0, 2.0, None, 10.0], "number", "numeric")
    assert (sizes.missing, sizes.distinct, sizes.singletons, sizes.integers) == (1 / 5, 3, 2 / 4, True)
    assert sizes.statistics["mean"] == 3.75
    assert [sizes.statistics[name] for name in ("min", "25%", "median", "75%", "max")] == [1, 1.75, 2, 4, 10]
    assert sizes.histogram.names == ["1", "2", "10", "missing"]
    assert sizes.histogram.rows == {"train": [1, 2, 0, 1], "test": [0, 0, 1, 0]}

    titles = profile_of(tmp_path / "t", ["a b c d e", "a", "", None, "a b new new"], "text", "text")
    assert titles.lengths == {"mean": 2.5, "max": 5, "empty": 1 / 4, "single": 1 / 4, "truncated": 2 / 4}
    assert (titles.missing, titles.distinct) == (1 / 5, 4)
    assert titles.coverage.unseen == {"test": 2 / 4}  # new, twice
    assert titles.coverage.out_of_vocabulary == {"test": 3 / 4}  # b occurs once in training

    tags = profile_of(
        tmp_path / "l", [["a", "b"], ["a"], [], ["a", "b", "c", "d"], ["z", "a"]], "categories", "multi_categorical"
    )
    assert (tags.missing, tags.distinct) == (1 / 5, 5)
    assert tags.top[0] == ("a", 4 / 9)
    assert tags.lengths == {"mean": 9 / 4, "max": 4, "empty": 0, "single": 1 / 4, "truncated": 1 / 4}
    assert tags.coverage.unseen == {"test": 1 / 2}


@examples(max_examples=40, deadline=None)
@given(
    st.lists(st.none() | st.sampled_from(["a", "b", "", "Ü", "\U0001f600"]) | st.text("xyz", max_size=3), min_size=2),
    st.lists(st.none() | st.integers(-5, 5) | st.floats(-1e6, 1e6).map(lambda number: round(number, 3)), min_size=2),
)
def test_figures_are_those_of_pandas(tmp_path_factory: Any, texts: list[Any], numbers: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("table")
    categories = profile_of(folder / "c", texts, "category", "categorical")
    column = pd.Series(texts, dtype="str")
    counts = column.value_counts()
    assert categories.missing == column.isna().mean()
    assert categories.distinct == column.nunique()
    assert categories.singletons == pytest.approx((counts == 1).sum() / max(counts.sum(), 1))
    assert dict(categories.top) == {value: counts[value] / len(column) for value, _ in categories.top}
    assert [share for _, share in categories.top] == (counts.head(8) / len(column)).tolist()

    numeric = profile_of(folder / "n", numbers, "number", "numeric")
    values = pd.Series(numbers, dtype="float64")
    assert numeric.missing == values.isna().mean()
    assert numeric.distinct == values.nunique()
    if values.notna().any():
        assert numeric.statistics["mean"] == pytest.approx(values.mean(), abs=1e-9)
        assert numeric.statistics["75%"] == pytest.approx(values.quantile(0.75), abs=1e-9)
        assert (numeric.statistics["min"], numeric.statistics["max"]) == (values.min(), values.max())
    for side in numeric.histogram.rows.values():
        assert len(side) == len(numeric.histogram.names)
    assert sum(map(sum, numeric.histogram.rows.values())) == len(values)


Make = Callable[[np.ndarray, np.random.Generator], Any]
FROM_THE_LABEL: dict[str, Make] = {
    "copy": lambda y, _: y,
    "square": lambda y, _: y**2,
    "falling": lambda y, _: -np.log(y + 0.01),
    "in steps": lambda y, _: y.round(1),
    "neither rising nor falling": lambda y, _: (y - 0.3) ** 2,
    "with a little noise": lambda y, rng: y + rng.normal(size=len(y)) * 0.005,
    "high or low": lambda y, _: pd.Categorical(np.where(y > np.median(y), "high", "low")).codes,
    "three classes": lambda y, _: np.digitize(y, np.quantile(y, [0.3, 0.8])),
    "as text": lambda y, _: pd.factorize(y.round(3).astype(str))[0],
    "missing when low": lambda y, _: np.where(y > np.median(y), y, np.nan),
}
HONEST: dict[str, Make] = {
    "noise": lambda y, rng: rng.normal(size=len(y)),
    "identifier": lambda y, _: np.arange(len(y)),
    "row number": lambda y, _: np.arange(len(y)).astype(float),
    "constant": lambda y, _: np.zeros(len(y)),
    "rare": lambda y, rng: (rng.random(len(y)) < 0.002).astype(int),
    "good": lambda y, rng: y + rng.normal(size=len(y)) * y.std() / 2,
    "good category": lambda y, rng: np.digitize(y + rng.normal(size=len(y)) * y.std() / 2, np.quantile(y, [0.3, 0.7])),
    "all missing": lambda y, _: np.full(len(y), np.nan),
}


@pytest.mark.parametrize("made", [*FROM_THE_LABEL, *HONEST])
@pytest.mark.parametrize("label", ["rate", "heavy-tailed number"])
def test_a_column_made_from_the_label_is_distinguished_from_one_that_is_merely_good(made: str, label: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.beta(2, 12, 3000) if label == "rate" else rng.lognormal(0, 2, 3000)
    column = (FROM_THE_LABEL | HONEST)[made](y, rng)
    measured = leakage(np.asarray(column), y, np.arange(2400), np.arange(2400, 3000))
    assert (max(measured.forward or 0, measured.backward or 0) >= SUSPICIOUS) == (made in FROM_THE_LABEL)


@pytest.mark.parametrize(("share", "flips"), [(0.5, 0.0), (0.1, 0.0), (0.5, 0.1), (0.1, 0.05)])
def test_a_copy_of_a_click_or_class_is_found_and_a_predictor_with_errors_is_none(share: float, flips: float) -> None:
    rng = np.random.default_rng(1)
    y = (rng.random(4000) < share).astype(float)
    copy = np.where(rng.random(4000) < flips, 1 - y, y)
    for column, label in ((copy, y), (copy.astype(int), y), (copy.astype(int), y.astype(int))):
        measured = leakage(column, label, np.arange(3000), np.arange(3000, 4000))
        assert ((measured.forward or 0) >= SUSPICIOUS) == (not flips)


def test_the_explained_share_is_that_of_the_truth() -> None:
    rng = np.random.default_rng(2)
    group = rng.integers(0, 20, 60_000)
    means, noise = rng.uniform(size=20), rng.uniform(-0.5, 0.5, 60_000)
    y = means[group] + noise
    ranks = pd.Series(y).rank().to_numpy()
    truth = 1 - np.var(ranks - pd.Series(ranks).groupby(group).transform("mean")) / np.var(ranks)
    measured = leakage(group, y, np.arange(50_000), np.arange(50_000, 60_000))
    assert measured.forward == pytest.approx(truth, abs=0.02)


def test_columns_are_twins_whatever_their_values_are_called() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 9, 500)
    renamed = rng.permutation(9)[codes]
    assert fingerprint(codes, 9) == fingerprint(renamed, 9) == fingerprint(renamed * 1.5, 9) != ""
    other = np.where(np.arange(500) == 100, (codes + 1) % 9, codes)
    assert fingerprint(other, 9) != fingerprint(codes, 9)
    assert fingerprint(np.arange(500), 500) == fingerprint(np.zeros(500), 1) == ""  # says nothing


def bad_rows(count: int = 2000) -> list[dict[str, Any]]:
    rng = np.random.default_rng(4)
    rows = []
    for number in range(count):
        rate, shown, code = float(rng.beta(2, 12)), int(rng.integers(20, 500)), int(rng.integers(0, 9))
        rows.append(
            {"y": rate, "w": shown, "number": number, "id": f"id{number}", "same": "x", "code": f"c{code}",
             "band": "hi" * (rate > 0.1) + "-", "root": rate**0.5, "clicks": rate * shown,
             "name": f"name {code * 7 % 9}", "gap": "none" if code == 3 else "a", "big": 2**60 + code * 4096,
             "good": rate + float(rng.normal()) / 10, "item": f"i{int(rng.integers(0, 40))}",
             "title": " ".join(["word"] * int(rng.integers(1, 9)))}
        )  # fmt: skip
    return rows


BAD_COLUMNS = {
    "categorical_columns": ("id", "same", "band", "code", "name", "gap", "item"),
    "numeric_columns": ("number", "root", "clicks", "big", "good"),
    "text_columns": ("title",), "weight_column": "w", "max_tokens": 3,
}  # fmt: skip


def test_each_bad_column_is_named_with_its_figure_and_no_other(tmp_path: Path) -> None:
    inspection = inspect(config(**BAD_COLUMNS), {"train": write(tmp_path, bad_rows())})
    wanted = {
        "id": "looks like an identifier: 100% of the rows",
        "same": "has the same value in all rows",
        "band": "seems to be derived from the label: 'y' explains",
        "root": "nearly equals the label: on its own it explains >99.9%",
        "clicks": "nearly equals 'y' times 'w'",
        "number": "looks like an identifier: 100% of the rows",
        "big": "has integers above 2^53",
        "gap": "of its values are empty or a word for a missing value",
        "title": "are longer than max_tokens = 3",
    }
    by_column = {
        name: [warning for warning in inspection.warnings if f"Column {name!r}" in warning]
        for name in by_name(inspection)
    }
    for name, words in wanted.items():
        assert len(by_column.pop(name)) == 1, name
        assert any(words in warning for warning in inspection.warnings if f"Column {name!r}" in warning)
    assert not any(by_column.values())
    # big is made from code, too
    assert [warning for warning in inspection.warnings if "hold the same information" in warning] == [
        "Columns 'code' and 'name' and 'big' hold the same information: each value of one goes with one value of "
        "the other. Keep one of them."
    ]
    assert len(inspection.warnings) == len(wanted) + 1


def test_the_sample_has_no_warnings() -> None:
    inspection = inspect(NetConfig(**SAMPLE_COLUMNS, cache_gb=0.0), {"train": str(SAMPLE)})
    assert inspection.warnings == []
    assert inspection.unused == {"row_id": "quoted number", "thumbnail": "string", "clicks": "quoted number"}
    frame = pd.read_json(SAMPLE, lines=True)
    profiles = by_name(inspection)
    for name in ("item", "country", "position", "age", "publisher"):
        assert profiles[name].missing == frame[name].isna().mean()
        assert profiles[name].distinct == frame[name].dropna().nunique()
    mean = np.average(frame["ctr"], weights=frame["impressions"])
    sides = inspection.labels.values()
    assert sum(side["mean"] * side["weight"] for side in sides) / sum(
        side["weight"] for side in sides
    ) == pytest.approx(mean)


def test_D47_a_constant_label_gives_a_warning(tmp_path: Path) -> None:
    rows = write(tmp_path, ({"y": 0, "x": number / 7} for number in range(300)))
    inspection = inspect(config(numeric_columns=("x",)), {"train": rows})
    assert (
        "Label 'y' has the same value in all rows: there is nothing to learn. Check the column." in inspection.warnings
    )


def test_D50_rows_that_stand_on_two_sides_are_counted(tmp_path: Path) -> None:
    rows = [{"y": number % 2, "x": number / 7, "k": f"k{number}"} for number in range(500)]
    train, test = write(tmp_path / "a", rows), write(tmp_path / "b", [*rows[:20], {"y": 1, "x": -1.0, "k": "new"}])
    inspection = inspect(config(numeric_columns=("x",), key_columns=("k",)), {"train": train, "test": test})
    shared = inspection.split["also_in_train"]["test"]
    assert 10 <= shared <= 20  # the others are in the validation set
    assert any(f"{shared} test rows have the same k as a training row" in warning for warning in inspection.warnings)


def test_a_column_that_can_be_the_key_is_named(tmp_path: Path) -> None:
    rows = [{"y": number % 2, "x": number / 7, "view_id": f"v{number}", "c": number % 5} for number in range(300)]
    data = {"train": write(tmp_path / "a", rows)}
    advice = inspect(config(numeric_columns=("x",)), data).key_advice
    assert "Column 'view_id' differs in every row looked at" in advice
    assert 'set key_columns to ["view_id"]' in advice
    assert inspect(config(numeric_columns=("x",), key_columns=("view_id",)), data).key_advice == ""
    without = write(tmp_path / "b", [{name: row[name] for name in ("y", "x", "c")} for row in rows])
    assert inspect(config(numeric_columns=("x",)), {"train": without}).key_advice == ""


def test_equal_rows_of_two_sets_are_counted_and_need_a_key_if_they_are_copies(tmp_path: Path) -> None:
    rows = [{"y": number % 2, "x": number / 7, "k": f"k{number}"} for number in range(1000)]
    doubled = {"train": write(tmp_path / "a", [*rows, *rows])}
    inspection = inspect(config(numeric_columns=("x",)), doubled)
    count = inspection.split["also_in_train"]["test"]
    assert 100 < count < 200  # most copies of the 200 test rows are in the training set
    (warning,) = (warning for warning in inspection.warnings if "equal a training row" in warning and "test" in warning)
    assert warning.startswith(f"{count} test rows equal a training row in all columns of the files.")
    assert "name key_columns" in warning
    keyed = inspect(config(numeric_columns=("x",), key_columns=("k",)), doubled)
    assert keyed.split["also_in_train"] == {"validation": 0, "test": 0}


def test_rows_of_a_later_time_are_compared_with_those_of_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = write(
        tmp_path,
        (
            {"y": float(rng.random() < (0.1 if number < 3200 else 0.6)), "t": number, "x": float(rng.normal()),
             "moves": float(rng.normal() + 3 * (number >= 3200)), "c": "new" if number >= 3200 else "old"}
            for number in range(4000)
        ),
    )  # fmt: skip
    inspection = inspect(
        config(numeric_columns=("x", "moves"), categorical_columns=("c",), split="time", time_column="t"),
        {"train": rows},
    )
    profiles = by_name(inspection)
    assert profiles["moves"].drift["test"][0] > 0.8
    assert profiles["x"].drift["test"][0] < 0.15
    assert profiles["c"].drift["test"][0] == 1
    assert profiles["c"].coverage.unseen == {"validation": 1, "test": 1}
    assert profiles["t"].histogram.rows["test"][-1] > 0 == profiles["t"].histogram.rows["train"][-1]
    warnings = " ".join(inspection.warnings)
    assert "Column 'moves' is distributed differently than in training" in warnings
    assert "Column 'x'" not in warnings
    assert "Column 'c': 100% of the validation and 100% of the test values are out of vocabulary." in warnings
    assert "The mean label of test rows is" in warnings


@pytest.mark.parametrize("objective", ["regression", "multiclass", "multilabel"])
def test_other_labels_are_looked_at_too(objective: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = []
    for _ in range(1500):
        group = int(rng.integers(0, 4))
        label = {
            "regression": group + float(rng.normal()),
            "multiclass": f"class {group}",
            "multilabel": ["a", f"b{group}"],
        }
        rows.append({"y": label[objective], "leak": f"L{group}", "noise": float(rng.normal())})
    inspection = inspect(
        config(objective=objective, numeric_columns=("noise",), categorical_columns=("leak",)),
        {"train": write(tmp_path, rows)},
    )
    profiles = by_name(inspection)
    assert any("'leak' nearly equals the label" in warning for warning in inspection.warnings) == (
        objective != "regression"
    )
    assert (profiles["noise"].explained or 0) < 0.05
    assert ("mean" in inspection.labels["train"]) == (objective == "regression")
    read(page(inspection, "v"))


def test_types_come_from_the_schema_else_from_the_first_lines(tmp_path: Path) -> None:
    rows = [
        {"y": 0.5, "x": "12", "n": 1.5, "l": ["a"], "o": {"a": 1}, "b": True},
        {"y": 0, "x": "a", "l": [], "n": None},
    ]
    bare = write(tmp_path / "bare", rows)
    assert json_types([Path(bare) / "rows.json"]) == {
        "y": "fraction or integer", "x": "quoted number or string", "n": "fraction", "l": "list of string",
        "o": "object", "b": "boolean",
    }  # fmt: skip
    rows = [row | {"y": number / 400} for number, row in enumerate(rows * 200)]
    schema = {"y": "FLOAT", "x": "STRING", "n": "NUMERIC", "l": "REPEATED STRING", "o": "RECORD", "b": "BOOLEAN"}
    typed = write(tmp_path / "typed", rows, schema)
    inspection = inspect(config(categorical_columns=("x",), numeric_columns=("n",)), {"train": typed})
    assert {name: profile.column.type for name, profile in by_name(inspection).items()} == {
        "x": "STRING",
        "n": "NUMERIC",
        "y": "FLOAT",
    }
    assert inspection.unused == {"l": "REPEATED STRING", "o": "RECORD", "b": "BOOLEAN"}
    assert by_name(inspection)["n"].missing == 1 / 2


def test_a_column_without_any_value_gives_a_warning(tmp_path: Path) -> None:
    rows = write(tmp_path, ({"y": n % 2, "x": n} for n in range(200)), {"y": "FLOAT", "x": "FLOAT", "gone": "STRING"})
    inspection = inspect(config(numeric_columns=("x",), categorical_columns=("gone",)), {"train": rows})
    assert "Column 'gone' is missing in all rows. Check the query, or leave it out." in inspection.warnings
    assert by_name(inspection)["gone"].top == []
    read(page(inspection, "v"))


def test_S19_hostile_names_and_values_stay_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    rows = [
        {"y": float(rng.random()), HOSTILE: [HOSTILE, "b", "\x1b[31m"][n % 3], "n": n % 5, "more" + HOSTILE: 1}
        for n in range(300)
    ]
    inspection = inspect(
        config(categorical_columns=(HOSTILE,), numeric_columns=("n",)), {"train": write(tmp_path, rows)}
    )
    shown = page(inspection, HOSTILE)
    reader = read(shown.replace("<br>", ""))
    assert not reader.seen & {"script", "link", "iframe", "object", "base", "form", "a", "img"}
    assert all(not name.startswith("on") and name not in ("href", "src") for name, _ in reader.attributes)
    assert "\x1b" not in shown
    assert "<img" not in shown
    assert reader.text.count("<script>alert") >= 4


@pytest.mark.parametrize(
    ("text", "clean"),
    [("plain", "plain"), ("\x1b[31mred", r"\x1b[31mred"), ("a\nb", r"a\nb"), ("x\u202ey", r"x\u202ey"), ("", "''"),
     (" a", "' a'"), ("y" * 50, "y" * 27 + "…")],
)  # fmt: skip
def test_no_value_moves_the_cursor(text: str, clean: str) -> None:
    assert printable(text) == clean


def test_the_command_looks_at_the_sample_and_writes_the_page(tmp_path: Path) -> None:
    done = trainer(tmp_path, f"--data={SAMPLE}", module="trainer.inspection.inspect")
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: " ".join(line.split()) for line in done.out.splitlines() if line.strip()}
    assert lines["data"] == f"data {SAMPLE}: 2,000 rows in 1 file"
    assert lines["publisher"].startswith("publisher categorical string 2.0% 26 ")
    assert lines["checks"] == "checks no warnings"
    assert "row_id (quoted number)" in lines["unused"]
    shown = read((tmp_path / "check.html").read_text(encoding="utf-8").replace("<br>", ""))
    assert "svg" in shown.seen
    for words in ("sample_2k.json", "2,000", "publisher", "mean label up to", "thumbnail"):
        assert words in shown.text
    assert "://" not in (tmp_path / "check.html").read_text(encoding="utf-8")


def test_the_command_imports_neither_tensorflow_nor_a_library_of_the_cloud(tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.inspection import inspect; inspect.main(sys.argv[1:]); "
        "print([name for name in sys.modules if name in ('tensorflow', 'keras', 'google.cloud', 'google.auth')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--data={SAMPLE}", f"--out={tmp_path / 'page.html'}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "page.html").is_file()


WRONG_ROLES = {
    "ctr": "FLOAT", "impressions": "INTEGER", "item": "RECORD", "publisher_id": "STRING", "campaign": "STRING",
    "country": "REPEATED STRING", "device": "STRING", "hour": "INTEGER", "title": "STRING", "position": "STRING",
    "positions": "INTEGER", "age": "FLOAT",
}  # fmt: skip


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that this process opens."""
    seen: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching[0]:
            seen.append(str(arguments[0]))

    sys.addaudithook(watch)  # for good: there is no way to remove one
    yield seen
    watching.clear()
    watching.append(False)


def test_no_shard_is_opened_where_the_schema_refuses_a_role(tmp_path: Path, opened: list[str]) -> None:
    data = write(tmp_path, [{"y": 1, "x": "a"}], {"y": "FLOAT", "x": "RECORD"})
    wrong = config(categorical_columns=("x",))
    for look in (inspect, lambda given_, sets: prepare(given_, sets, Timings())):
        opened.clear()
        with pytest.raises(DataError, match=r"Column 'x' is NULLABLE RECORD in schema\.json"):
            look(wrong, {"train": data})
        assert f"{data}/schema.json" in opened
        assert f"{data}/rows.json" not in opened


def test_all_wrong_roles_are_refused_at_once_and_as_a_run_refuses_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_schema(tmp_path / "data", WRONG_ROLES)
    (tmp_path / "data" / "rows.json").write_bytes(b"\x00 not read")
    given_ = f"--data={tmp_path / 'data'}"
    for done in (trainer(tmp_path, given_, module="trainer.inspection.inspect"), trainer(tmp_path, given_, "--run=r")):
        assert done.code == 3
        category = "a category must be NULLABLE or REQUIRED BOOLEAN, BYTES, DATE, DATETIME, INTEGER, STRING, TIME, "
        assert done.err.replace(category + "TIMESTAMP", "[category]").splitlines() == [
            "error: 4 columns do not fit schema.json:",
            "  Column 'item' is NULLABLE RECORD in schema.json, but [category]. Select its fields in the query, such "
            "as item.FIELD AS item_FIELD. Columns that can be a category: 'title', 'device', 'position'.",
            "  schema.json has no column 'publisher', used as a category. Did you mean 'publisher_id'?",
            "  Column 'country' is REPEATED STRING in schema.json, but [category]. Name it in "
            "multi_categorical_columns. Columns that can be a category: 'hour', 'campaign', 'position'.",
            "  Column 'position' is NULLABLE STRING in schema.json, but a number must be NULLABLE or REQUIRED "
            "BIGNUMERIC, FLOAT, INTEGER, NUMERIC. Give it another role, or cast it in the query. Columns that can be a "
            "number: 'positions', 'impressions', 'ctr'.",
        ]


def test_the_fields_of_a_record_are_named_in_the_advice() -> None:
    record = {"name": "geo", "type": "STRUCT", "fields": [{"name": "country", "type": "STRING"}]}
    fields = parse_schema(json.dumps([record]).encode(), "schema.json")
    with pytest.raises(DataError, match=r"such as geo\.country AS geo_country\. No column can be a category\."):
        plan_columns({"geo": "category"}, fields)


def test_a_fault_in_the_rows_ends_as_that_of_a_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('{"y": 1}\n{"y": 2}\n')
    given_ = {"NET_CATEGORICAL_COLUMNS": "[]", "NET_TEXT_COLUMNS": "[]", "NET_NUMERIC_COLUMNS": '["y2"]',
              "NET_LABEL_COLUMN": "y", "NET_WEIGHT_COLUMN": "null"}  # fmt: skip
    done = trainer(tmp_path, f"--data={rows}", module="trainer.inspection.inspect", **given_)
    assert done.code == 3
    assert done.err.startswith("error: rows.json, line 2: column 'y' is a binary label outside [0, 1]")
    assert not (tmp_path / "check.html").exists()


def test_rows_in_a_bucket_are_looked_at_as_those_in_a_folder(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"y": number / 300, "x": f"v{number % 7}"} for number in range(300)]
    folder = Path(write(tmp_path / "data", rows, {"y": "FLOAT", "x": "STRING", "z": "RECORD"}))
    for name in ("rows.json", "schema.json"):
        bucket.put(f"data/{name}", (folder / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    wanted = config(categorical_columns=("x",))
    here, there = (inspect(wanted, {"train": place}) for place in (str(folder), f"{bucket.uri}/data/"))
    assert there.profiles == here.profiles
    assert there.unused == here.unused == {"z": "RECORD"}
    assert there.datasets["train"] == here.datasets["train"] | {"path": f"{bucket.uri}/data/"}
    with pytest.raises(DataError, match="'z' is NULLABLE RECORD"):
        inspect(config(categorical_columns=("z",)), {"train": f"{bucket.uri}/data/"})


def test_counts_are_of_all_shards(tmp_path: Path) -> None:
    for shard in range(3):
        rows = [{"y": y, "x": x, "k": f"{shard} {n} {x}"} for n in range(100) for y, x in ((1, shard), (0, 5))]
        write(tmp_path / str(shard), rows)
        (tmp_path / str(shard) / "rows.json").rename(tmp_path / f"{shard}.json")
        (tmp_path / str(shard)).rmdir()
    inspection = inspect(config(numeric_columns=("x",), key_columns=("k",)), {"train": str(tmp_path)})
    sizes = sum(path.stat().st_size for path in tmp_path.glob("*.json"))
    facts = inspection.datasets["train"]
    assert (facts["files"], facts["bytes"], facts["rows"], facts["bad_rows"]) == (3, sizes, 600, 0)
    histogram = by_name(inspection)["x"].histogram
    totals = [sum(counts) for counts in zip(*histogram.rows.values(), strict=True)]
    assert dict(zip(histogram.names, totals, strict=True)) == Counter({"5": 300, "0": 100, "1": 100, "2": 100})
    assert histogram.mean_labels == [1, 1, 1, 0]
