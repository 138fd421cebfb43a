"""The sets of a run are a part of the dataset: the same stored rows, whatever a variant makes of their columns."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from networks.deep_v1 import Config
from tests.commands import trainer
from trainer.data.dataset import load
from trainer.features import pipeline
from trainer.features.sides import split_and_describe, split_sides
from trainer.runtime.errors import DataError

Row = dict[str, Any]
Sides = dict[str, Counter[str]]


def row(choose: random.Random, number: int) -> Row:
    """A row as a shop may store it; every fifth is equal to others."""
    item, day = choose.randrange(50), choose.randrange(1, 29)
    row: Row = {
        "item": f"item_{item}", "shop": str(choose.randrange(5)), "day": f"2026-01-{day:02}", "price": item * 0.75,
        "title": choose.choice(["Red shoes", "Été, bleu", "01234"]), "tags": ["a", "b"][: choose.randrange(3)],
        "seller": {"id": item % 7, "new": item % 2 == 0}, "bought": int(choose.random() < 0.3), "weight": 1,
    }  # fmt: skip
    return row if number % 5 else {"item": "item_1", "bought": number % 2, "weight": 2}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    choose = random.Random(1)
    return [row(choose, number) for number in range(3000)]


BASE: Row = {
    "categorical_columns": ("item", "shop"), "text_columns": (), "numeric_columns": ("price",),
    "label_column": "bought", "weight_column": None, "test_fraction": 0.2,
}  # fmt: skip


def sides_of(folder: Path, rows: Sequence[Row], form: Row, **settings: Any) -> Sides:
    """The rows of each set, from files of a form: order, shards, compressed, leaves out what is null."""
    order = list(range(len(rows)))
    random.Random(form.get("order")).shuffle(order) if form.get("order") else None
    folder.mkdir()
    lines = np.array([json.dumps(rows[number], separators=form.get("separators")) for number in order], dtype=object)
    for shard, part in enumerate(np.array_split(lines, form.get("shards", 1))):
        text = "".join(f"{line}\n" for line in part).encode()
        data = gzip.compress(text) if form.get("compressed") else text
        (folder / f"rows-{shard:05}.json{'.gz' if form.get('compressed') else ''}").write_bytes(data)
    config = Config(**BASE | settings)
    read = pipeline.read(config, str(folder), "rows")
    kept = np.arange(len(rows))
    if config.subsample < 1:  # stored rows have draws of their own
        kept = np.flatnonzero(np.isin(load(folder, {}, identity=()).draws, read.draws))
    cut = split_sides(config, {"train": read})
    return {
        side: Counter(json.dumps(rows[order[kept[at]]]) for at in positions) for side, (_, positions) in cut.items()
    }


CHANGES: dict[str, tuple[Any, ...]] = {
    "categorical_columns": (("item",), ("item", "shop", "day"), ("shop",), ("item", "bought"), ("day", "weight")),
    "multi_categorical_columns": ((), ("tags",)),
    "text_columns": ((), ("title",)),
    "numeric_columns": ((), ("price",)),
    "log_numeric_columns": ((), ("price",)),
    "label_column": ("bought", "weight"),
    "objective": ("binary", "regression"),
    "weight_column": (None, "weight"),
    "min_count": (1, 5),
}


def changes(choose: random.Random) -> Row:
    """Settings that differ in some columns, each of which has one role."""
    settings = {name: choose.choice(values) for name, values in CHANGES.items()}
    settings["label_column"] = "weight" if settings["objective"] == "regression" else "bought"
    settings["weight_column"] = None if settings["label_column"] == "weight" else settings["weight_column"]
    taken = {settings["label_column"], settings["weight_column"]}
    settings["categorical_columns"] = tuple(name for name in settings["categorical_columns"] if name not in taken)
    if settings["numeric_columns"]:
        settings["log_numeric_columns"] = ()
    return settings


def form(choose: random.Random) -> Row:
    return {
        "order": choose.randrange(1, 100), "shards": choose.randrange(1, 4), "compressed": choose.random() < 0.5,
        "separators": choose.choice([None, (",", ":")]),
    }  # fmt: skip


def test_20_changes_of_columns_label_weight_and_order_move_no_row(tmp_path: Path, rows: list[Row]) -> None:
    expected = sides_of(tmp_path / "base", rows, {})
    assert {side: sum(lines.values()) for side, lines in expected.items()}.keys() == {"train", "validation", "test"}
    choose = random.Random(7)
    for number in range(20):
        assert sides_of(tmp_path / str(number), rows, form(choose), **changes(choose)) == expected


def test_a_subsample_holds_the_same_rows_after_such_changes(tmp_path: Path, rows: list[Row]) -> None:
    whole = sides_of(tmp_path / "whole", rows, {})
    choose = random.Random(8)
    samples = [
        sides_of(tmp_path / str(number), rows, form(choose), subsample=0.3, **changes(choose)) for number in range(4)
    ]
    assert samples[1:] == samples[:-1]
    for side, lines in samples[0].items():
        assert lines <= whole[side]
    assert sum(map(Counter.total, samples[0].values())) == pytest.approx(900, abs=4 * np.sqrt(3000 * 0.3 * 0.7))


def test_rows_of_another_form_stay_on_their_side(tmp_path: Path) -> None:
    """Numbers in quotes or not, fractions of whole numbers, NULL left out or not: exporters differ."""
    forms: list[Row] = [
        {"id": n, "score": n / 8, "flag": n % 2 == 0, "note": None, "y": n % 2, "c": "x"} for n in range(1000)
    ]
    other = [
        {"c": "x", "y": f"{row['y']}", "flag": str(row["flag"]).lower(), "score": f"{row['score']:.6f}",
         "id": float(row["id"])} for row in forms
    ]  # fmt: skip
    settings: Row = {"categorical_columns": ("c",), "numeric_columns": (), "label_column": "y"}
    here = sides_of(tmp_path / "here", forms, {}, **settings)
    there = sides_of(tmp_path / "there", other, {}, **settings)
    assert {side: sorted(json.loads(line)["id"] for line in lines) for side, lines in here.items()} == {
        side: sorted(int(json.loads(line)["id"]) for line in lines) for side, lines in there.items()
    }


def test_rows_of_partition_folders_stay_on_their_side(tmp_path: Path) -> None:
    """The value of a folder is a column of its rows, whether a variant uses it or not."""
    rows: list[Row] = [{"id": n, "y": n % 2, "c": "x", "day": f"2026-01-0{n // 100 + 1}"} for n in range(400)]
    flat = tmp_path / "flat.json"
    flat.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for day in {row["day"] for row in rows}:
        (tmp_path / "parts" / f"day={day}").mkdir(parents=True)
        lines = [json.dumps({"id": row["id"], "y": row["y"], "c": "x"}) + "\n" for row in rows if row["day"] == day]
        (tmp_path / "parts" / f"day={day}" / "rows.json").write_text("".join(lines))
    expected = load(flat, {"y": "probability"}, identity=()).draws
    for kinds in ({"y": "probability"}, {"y": "probability", "day": "category"}):
        np.testing.assert_array_equal(load(tmp_path / "parts", kinds, identity=()).draws, expected)


def views(count: int) -> list[Row]:
    """Rows with 120 distinct contents, and a click that depends on them."""
    choose = np.random.default_rng(3)
    columns = {"country": ["DE", "US", "FR", "IN", "BR"], "device": ["phone", "desk", "tab"], "hour": list("abcd")}
    tastes = {
        name: dict(zip(values, choose.normal(0, 0.6, len(values)), strict=True)) for name, values in columns.items()
    }
    rows = []
    for _ in range(count):
        view = {name: str(choose.choice(values)) for name, values in columns.items()}
        logit = -1 + sum(tastes[name][value] for name, value in view.items())
        rows.append(view | {"clicked": int(choose.random() < 1 / (1 + np.exp(-logit)))})
    return rows


VIEWS: Row = {
    "categorical_columns": ("country", "device", "hour"), "numeric_columns": (), "label_column": "clicked",
    "test_fraction": 0.3, "validation_fraction": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def few_contents() -> list[Row]:
    return views(20_000)


@pytest.mark.parametrize("subsample", [1.0, 0.5])
def test_sides_of_few_contents_are_independent_of_label_and_features(
    tmp_path: Path, few_contents: list[Row], subsample: float
) -> None:
    sides = sides_of(tmp_path / "rows", few_contents, {}, **VIEWS, subsample=subsample)
    assert sum(lines.total() for lines in sides.values()) == pytest.approx(20_000 * subsample, abs=300)
    for columns in (["clicked"], ["country"], ["device"], ["hour"], ["country", "device", "hour", "clicked"]):
        counts: dict[str, Counter[tuple[Any, ...]]] = {}
        for side, lines in sides.items():
            counts[side] = Counter()
            for line, times in lines.items():
                counts[side][tuple(json.loads(line)[column] for column in columns)] += times
        values = sorted(set().union(*counts.values()))
        table = np.array([[counts[side][value] for value in values] for side in sides])
        assert chi2_contingency(table).pvalue > 1e-3, columns


def test_equal_rows_are_drawn_one_by_one(tmp_path: Path) -> None:
    rows = [{"item": "x", "bought": 1}] * 1000 + [{"item": "y", "bought": 0}] * 1000
    sides = sides_of(tmp_path / "rows", rows, {}, categorical_columns=("item",), numeric_columns=())
    for lines in (sides["test"], sides["train"]):
        shares = np.array(list(lines.values())) / 1000
        assert np.abs(shares - (0.2 if lines is sides["test"] else 0.7)).max() < 4 * np.sqrt(0.2 * 0.8 / 1000)


def test_few_contents_give_the_AUC_that_a_key_gives(tmp_path: Path, few_contents: list[Row]) -> None:
    """The real command; without a key, labels and rows once decided the sides, and the AUC was 0.33."""
    lines = [json.dumps({"view": f"v{number}"} | row) for number, row in enumerate(few_contents)]
    (tmp_path / "rows.json").write_text("".join(f"{line}\n" for line in lines))
    settings = {f"NET_{name.upper()}": json.dumps(value) for name, value in VIEWS.items()} | {
        "NET_LABEL_COLUMN": "clicked", "NET_TEXT_COLUMNS": "[]", "NET_WEIGHT_COLUMN": "null", "NET_EPOCHS": "2",
    }  # fmt: skip
    metrics = {}
    for name, key in (("key", '["view"]'), ("rows", "[]")):
        done = trainer(tmp_path, "--data=rows.json", f"--run={name}", "--no-package", **settings, NET_KEY_COLUMNS=key)
        assert done.code == 0, done.err
        epochs = pd.read_csv(tmp_path / "runs" / name / "metrics.csv")
        metrics[name] = epochs["test_auc"][epochs["validation_loss"].idxmin()]
    assert metrics["key"] > 0.6
    assert metrics["rows"] == pytest.approx(metrics["key"], abs=0.02)


def test_a_row_without_a_time_is_a_bad_row_of_a_split_by_time(tmp_path: Path, rows: list[Row]) -> None:
    """In rows to test on, a time is not needed."""
    path = tmp_path / "rows.json"
    timed = [row for row in rows if "day" in row]
    gone = [rows[0], rows[1] | {"day": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*timed[:198], *gone]))
    config = Config(**BASE, split="time", time_column="day", max_bad_rows=1)
    with pytest.raises(DataError, match=r"line 200: column 'day' is missing"):
        pipeline.read(config, str(path), "rows")
    read = pipeline.read(replace(config, max_bad_rows=2), str(path), "rows")
    assert [row.line for row in read.left_out] == [199, 200]
    sides = split_sides(config, {"train": read})
    days = [read.frame["day"].iloc[sides[side][1]] for side in ("train", "validation", "test")]
    assert days[0].max() < days[1].min() <= days[1].max() < days[2].min()
    assert pipeline.read(config, str(path), "rows", side="test").rows == 200


# What the package says about the split


def described(folder: Path, rows: Sequence[Row], **settings: Any) -> dict[str, Any]:
    folder.mkdir()
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config(**BASE | settings)
    return split_and_describe(config, {"train": pipeline.read(config, str(folder / "rows.json"), "rows")})[1]


def test_fingerprints_name_the_rows_of_a_set_whatever_the_variant(tmp_path: Path, rows: list[Row]) -> None:
    first = described(tmp_path / "first", rows)
    second = described(tmp_path / "second", rows[::-1], categorical_columns=("shop",), weight_column="weight")
    assert first["fingerprints"] == second["fingerprints"]
    assert len(set(first["fingerprints"].values())) == 3
    other = described(tmp_path / "other", rows, split_seed=1)["fingerprints"]
    assert all(other[side] != first["fingerprints"][side] for side in other)
    for number, change in enumerate(({"bought": 1 - rows[1]["bought"]}, {"shop": "none"}, {"new": 1})):
        changed = described(tmp_path / str(number), [rows[0], rows[1] | change, *rows[2:]])
        assert changed["fingerprints"] != first["fingerprints"]


def test_a_corrected_label_moves_a_row_only_where_there_is_no_key(tmp_path: Path) -> None:
    rows: list[Row] = [{"id": n, "item": "x", "bought": 0} for n in range(500)]
    corrected = [row | {"bought": 1} for row in rows]
    settings: Row = {"categorical_columns": ("item",), "numeric_columns": (), "key_columns": ("id",)}
    here = described(tmp_path / "here", rows, **settings)
    assert described(tmp_path / "there", corrected, **settings) == here
    assert here["rule"] == {"version": 2, "split": "random by id", "seed": 0}
    settings["key_columns"] = ()
    moved = described(tmp_path / "moved", corrected, **settings)
    assert moved["fingerprints"] != described(tmp_path / "bare", rows, **settings)["fingerprints"]
    assert moved["rule"]["split"] == "random by all columns of the files"


# Stratified sets


def stratified(folder: Path, rows: Sequence[Row], **settings: Any) -> Sides:
    topics: Row = {
        "categorical_columns": ("item",), "numeric_columns": (), "label_column": "topic", "objective": "multiclass",
        "stratify_column": "topic", "test_fraction": 0.1, "validation_fraction": 0.1,
    }  # fmt: skip
    sides = sides_of(folder, rows, {}, **topics | settings)
    column = settings.get("stratify_column", "topic")
    counts: Sides = {side: Counter() for side in sides}
    for side, lines in sides.items():
        for line, times in lines.items():
            counts[side][json.loads(line).get(column)] += times
    return counts


def topics(sizes: Sequence[int]) -> list[Row]:
    """Classes of these sizes, mixed."""
    rows = [
        {"id": f"{topic}-{n}", "item": str(n % 9), "topic": f"t{topic}"}
        for topic, size in enumerate(sizes)
        for n in range(size)
    ]
    random.Random(2).shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_stratified_sets_have_their_share_of_every_class(tmp_path: Path, seed: int) -> None:
    sizes = [1] * 20 + [2, 3, 4, 5, 9, 10, 11, 30, 99, 1000, 2500] + [7] * 30
    rows = topics(sizes)
    sides = stratified(tmp_path / "rows", rows, split_seed=seed)
    for topic, size in enumerate(sizes):
        counts = [sides[side][f"t{topic}"] for side in ("train", "validation", "test")]
        assert sum(counts) == size
        assert counts[0] >= 1
        for count in counts[1:]:
            assert int(0.1 * size) <= count <= min(np.ceil(0.1 * size), size - 1)
    for side in ("validation", "test"):
        assert sides[side].total() == pytest.approx(0.1 * (len(rows) - 20), abs=10)


def test_stratified_sets_do_not_depend_on_order_or_variant_and_keep_keys_together(tmp_path: Path) -> None:
    rows = topics([5, 40, 300, 1])
    for number, row in enumerate(rows):
        row["user"] = f"u{number // 3}"
    settings: Row = {
        "numeric_columns": (), "label_column": "id", "objective": "multiclass", "stratify_column": "topic",
        "key_columns": ("user",),
    }  # fmt: skip
    sides = [
        sides_of(tmp_path / str(order), rows, {"order": order}, categorical_columns=columns, **settings)
        for order, columns in enumerate((("item",), ("item", "topic"), ("topic",)))
    ]
    assert sides[0] == sides[1] == sides[2]
    users = [{json.loads(line)["user"] for line in lines} for lines in sides[0].values()]
    assert sum(map(len, users)) == len(set().union(*users))
    missing = stratified(tmp_path / "missing", [*rows, {"item": "x", "topic": "t1"}], stratify_column="user")
    assert missing["train"][None] == 1


def test_strata_of_nothing_but_single_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No rows are left for the validation set: .*stratify_column='id'"):
        stratified(tmp_path / "rows", topics([50, 50]), stratify_column="id")
