"""`fab init`: a role for each column of rows that nobody has described, and what must never be a feature."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import SAMPLE, trainer
from tests.scale import many
from trainer.config import loading
from trainer.config.roles import column_kinds
from trainer.config.variant_text import with_variant
from trainer.data import dataset, sources
from trainer.data.schema import Field
from trainer.features.rules import row_rules
from trainer.inspection import init
from trainer.inspection.outcomes import outcomes
from trainer.inspection.proposal import propose
from trainer.inspection.raw_columns import raw_columns, sample_rows
from trainer.runtime.errors import ConfigError, DataError, StorageError

ROWS = 1200
WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "big",
    "small",
    "fast",
    "slow",
    "warm",
    "cold",
    "book",
    "lamp",
    "chair",
    "table",
    "phone",
]


def rows_of(seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a column of every kind; `y` follows from `shop`, `price` and `text`."""
    choose = random.Random(seed)
    rows = []
    for number in range(ROWS):
        price, shop = round(choose.lognormvariate(2, 1.5), 2), f"s{choose.randrange(9)}"
        text = " ".join(choose.choices(WORDS, k=6))
        signal = (shop < "s4") + (price > 8) + ("red" in text) + choose.gauss(0, 0.7)
        rows.append(
            {
                "row": f"{number:08x}", "counter": number, "shop": shop, "price": price, "text": text,
                "hour": str(number * 7 % 24), "age": choose.randrange(18, 90), "zip": 80331 + number % 77,
                "tags": choose.sample(WORDS, 2), "at": f"2026-01-{1 + number % 28:02} 10:00:00 UTC",
                "epoch_time": 1_767_225_600 + 60 * number, "ok": choose.random() < 0.5, "rate": choose.random(),
                "same": "x", "none": None, "inner": {"a": 1}, "mixed": choose.choice((1, "a")),
                "shop_name": f"Shop {shop}", "y": int(signal > 1.5),
            }
        )  # fmt: skip
    return rows


def proposed(rows: list[dict[str, Any]], label: str = "y", fields: dict[str, Field] | None = None) -> dict[str, str]:
    """Column -> the setting that names it."""
    proposal = propose(raw_columns(rows, fields), label)
    return {item.column.name: item.setting for item in proposal.columns}


def test_every_kind_of_column_gets_its_role() -> None:
    assert proposed(rows_of()) == {
        "row": "key_columns",
        "counter": "",
        "shop": "categorical_columns",
        "price": "log_numeric_columns",
        "text": "text_columns",
        "hour": "categorical_columns",
        "age": "numeric_columns",
        "zip": "categorical_columns",
        "tags": "multi_categorical_columns",
        "at": "",
        "epoch_time": "time_column",
        "ok": "categorical_columns",
        "rate": "numeric_columns",
        "same": "",
        "none": "",
        "inner": "",
        "mixed": "",
        "shop_name": "",
        "y": "label_column",
    }


def test_a_schema_decides_what_json_does_not() -> None:
    fields = {"hour": Field("STRING", ""), "age": Field("STRING", ""), "price": Field("NUMERIC", "")}
    rows = [
        {"hour": row["hour"], "age": str(row["age"]), "price": str(row["price"]), "y": row["y"]} for row in rows_of()
    ]
    with_schema, without = proposed(rows, fields=fields | {"y": Field("INTEGER", "")}), proposed(rows)
    assert (with_schema["age"], without["age"]) == ("categorical_columns", "numeric_columns")
    assert with_schema["price"] == without["price"] == "log_numeric_columns"


def test_text_in_a_script_without_spaces_is_text() -> None:
    choose = random.Random(1)
    signs = "新聞記者発表東京大阪経済市場株価上昇下落政府会議"
    rows = [{"headline": "".join(choose.choices(signs, k=12)), "y": number % 2} for number in range(400)]
    assert proposed(rows)["headline"] == "text_columns"


KINDS: list[Callable[[random.Random], Any]] = [
    lambda choose: choose.randint(0, 3),
    lambda choose: choose.random(),
    lambda choose: str(choose.randint(-5, 10 ** choose.randint(1, 18))),
    lambda choose: choose.choice(["a", "b", "c d e f", ""]),
    lambda choose: choose.sample("abc", choose.randint(0, 3)),
    lambda _: {"a": 1},
    lambda _: None,
    lambda choose: choose.random() < 0.5,
    lambda choose: 10.0 ** choose.randint(0, 300),
    lambda choose: f"2026-01-0{choose.randint(1, 9)} 00:00:00 UTC",
    lambda choose: choose.choice(["NaN", "Infinity", "1e400"]),
    lambda choose: 1.7e9 + choose.randint(0, 10**6),
    lambda _: [[1]],
    lambda choose: "x" * choose.randint(0, 500),
]
NAMES = ["id", "x", "ctr", "created_at", "größe", "a b", "__p", "weight", "impressions", '"q"', "\u202e", "epoch", ""]


@pytest.mark.parametrize("seed", range(many(40, 2000)))
def test_any_rows_are_a_variant_that_loads_and_reads_them_or_refused(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    kinds = {name: choose.choices(KINDS, k=choose.choice((1, 1, 2))) for name in choose.sample(NAMES, 6)}
    rows = [
        {name: choose.choice(kind)(choose) for name, kind in kinds.items() if choose.random() < 0.9}
        for _ in range(choose.choice((1, 49, 60, 300)))
    ]
    try:
        settings = propose(raw_columns(rows, None), choose.choice(list(kinds))).settings
        (tmp_path / "v.json").write_text(with_variant("{}", "v", {"network": "deep_v1"} | settings))
        config = loading.load_config("v", path=tmp_path / "v.json", environ={}).config
    except (ConfigError, DataError):
        return
    loaded = dataset.load(write(tmp_path / "rows.json", rows), column_kinds(config), rules=row_rules(config))
    assert loaded.bad_rows == 0


LEAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "copy": lambda row: "bought" if row["y"] else "left",
    "score": lambda row: row["y"] + random.Random(row["counter"]).random() / 2,
    "only_if": lambda row: f"order {row['counter'] % 100}" if row["y"] else None,
    "paid": lambda row: row["price"] * (1 + row["y"]),  # its ratio to price
    "after": lambda row: row["age"] + row["y"],  # its difference to age
    "dwell": lambda row: 40 * row["y"] + 45 * random.Random(row["counter"]).random(),  # more than all others tell
}


@pytest.mark.parametrize("name", LEAKS)
def test_an_outcome_is_never_a_feature(name: str) -> None:
    rows = [row | {name: LEAKS[name](row)} for row in rows_of()]
    proposal = propose(raw_columns(rows, None), "y")
    item = next(item for item in proposal.columns if item.column.name == name)
    assert item.setting == "", item
    assert item.reason.startswith("an outcome? ")
    others = {item.column.name for item in proposal.columns if item.reason.startswith("an outcome?")} - {name}
    assert not others


def test_a_strong_honest_feature_stays() -> None:
    choose = np.random.default_rng(0)
    strong, weak = choose.integers(0, 5, 4000), [choose.integers(0, 9, 4000) for _ in range(4)]
    number = choose.normal(size=4000)
    label = ((strong > 2) ^ (choose.random(4000) < 0.08)).astype(float)
    assert outcomes({"strong": strong, "number": number} | {f"w{n}": w for n, w in enumerate(weak)}, label) == {}
    together = 2 * sum((w % 3 == 0).astype(float) for w in weak) + number + choose.normal(size=4000) > 3
    assert outcomes({"number": number} | {f"w{n}": w for n, w in enumerate(weak)}, together.astype(float)) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], {}),
        ([True, False], {}),
        (["0", "1"], {}),
        (["true", "false"], {}),
        ([0.25, 0.5], {}),
        (["yes", "no"], {"positive_label": "yes"}),
        (["a", "b", "b"], {"positive_label": "a"}),
        ([1.5, -3, 8], {"objective": "regression"}),
        (["a", "b", "c"], {"objective": "multiclass"}),
        ([["a"], ["a", "b"], []], {"objective": "multilabel"}),
        ([0, 1, None], {"skip_unlabelled": True}),
    ],
)
def test_the_label_decides_the_objective(values: list[Any], expected: dict[str, Any]) -> None:
    rows = [{"x": f"c{number % 7}", "y": values[number % len(values)]} for number in range(300)]
    settings = propose(raw_columns(rows, None), "y").settings
    assert {name: value for name, value in settings.items() if not name.endswith(("columns", "column"))} == expected


@pytest.mark.parametrize("values", [[1], ["x"], [None], list(map(str, (f"t{number}" for number in range(300))))])
def test_a_label_that_nothing_can_be_learnt_from_is_refused(values: list[Any]) -> None:
    rows = [{"x": number % 7, "y": values[number % len(values)]} for number in range(300)]
    with pytest.raises(DataError, match="Label 'y'"):
        propose(raw_columns(rows, None), "y")


def test_a_weight_is_known_by_its_name_and_outcomes_by_it() -> None:
    rows = sample_rows([SAMPLE])
    proposal = propose(raw_columns(rows, None), "ctr")
    roles = {item.column.name: item.setting for item in proposal.columns}
    assert roles["impressions"] == "weight_column"
    assert roles["clicks"] == ""
    assert "its ratio to impressions" in next(i.reason for i in proposal.columns if i.column.name == "clicks")


@pytest.fixture
def variant_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "variant_config.json"
    file.write_text('{\n   "mine":   {"label_column": "é"}\n}')  # not as we would write it
    monkeypatch.setattr(loading, "VARIANT_FILE", file)
    monkeypatch.chdir(tmp_path)
    return file


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_adds_a_variant_that_trains(
    tmp_path: Path, variant_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "shop" / "day=1" / "rows.json", rows_of(0))
    write(tmp_path / "shop" / "day=2" / "rows.json", rows_of(1))
    before = variant_file.read_text()
    init.main(["--data=shop", "--label=y"])
    after = variant_file.read_text()
    assert after.startswith(before.removesuffix("\n}"))
    settings = json.loads(after)["shop"]
    assert settings["label_column"] == "y"
    assert "day" in settings["categorical_columns"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("shop ")] == [["shop", "categorical"]]
    assert lines[-1].strip() == "fab train --variant=shop --data=shop"
    environment = {f"NET_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
                   for name, value in settings.items()}  # fmt: skip
    done = trainer(tmp_path, "--data=shop", "--run=it", **environment, NET_EPOCHS="1", NET_WEIGHT_COLUMN="null")
    assert done.code == 0, done.err


def test_rows_of_another_dataset_are_told_from_rows_that_lack_a_column(tmp_path: Path) -> None:
    write(tmp_path / "shop.json", rows_of())
    for module in ("trainer.__main__", "trainer.inspection.inspect"):
        done = trainer(tmp_path, "--data=shop.json", module=module)
        assert done.code == DataError.exit_code
        assert done.err == (
            "error: shop.json lacks 9 of the 11 columns that the variant names: 'item', 'publisher', 'campaign' and "
            "more. Choose the --variant of these rows, or the --data of this variant. To write a variant: fab init "
            "--data=shop.json --label=COLUMN\n"
        )


def refused(variant_file: Path, error: type[Exception], message: str, *arguments: str) -> None:
    before = variant_file.read_bytes()
    with pytest.raises(error, match=message):
        init.main(list(arguments))
    assert variant_file.read_bytes() == before
    assert [path.name for path in variant_file.parent.iterdir() if path.suffix not in (".json", "")] == []


def test_what_cannot_be_done_changes_nothing(tmp_path: Path, variant_file: Path) -> None:
    rows = str(write(tmp_path / "rows.json", rows_of()))
    refused(variant_file, ConfigError, "variant mine .* already", f"--data={rows}", "--label=y", "--name=mine")
    refused(variant_file, ConfigError, "cannot be the name", f"--data={rows}", "--label=y", "--name=../x")
    refused(variant_file, DataError, "No row has the column 'Y' .*Did you mean 'y'", f"--data={rows}", "--label=Y")
    refused(variant_file, (DataError, StorageError), "nowhere", "--data=nowhere.json", "--label=y")  # type: ignore[arg-type]
    (tmp_path / "broken.json").write_text("no json\n" * 5)
    refused(variant_file, DataError, "line 1", "--data=broken.json", "--label=y")
    (tmp_path / "alone.json").write_text('{"y": 1, "same": 1}\n{"y": 0, "same": 1}\n' * 50)
    refused(
        variant_file, DataError, "No column can be a feature: .*same: the same value", "--data=alone.json", "--label=y"
    )
    variant_file.write_text("{")
    refused(variant_file, ConfigError, "line 1, column 2", f"--data={rows}", "--label=y")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("rows/shop.json.gz", "shop"),
        ("gs://bucket/Click Log/train/", "click_log"),
        ("gs://bucket/clicks/train-*.json.gz", "clicks"),
        ("ads/rows-000000000000.json", "ads"),
        ("ads/day=1/", "ads"),
        ("/", "rows"),
        ("..", "rows"),
    ],
)
def test_the_name_is_that_of_the_place(data: str, name: str) -> None:
    assert init.name_of(data) == name


def test_a_variant_is_added_to_any_text() -> None:
    settings = {"label_column": "ü", "categorical_columns": [f"column_{number}" for number in range(40)]}
    for text in ("{}", "{\n}\n", '{"a": {}}', '{\n  "a": {"seed": 1}\n}\n\n'):
        added = with_variant(text, "new", settings)
        assert json.loads(added) == json.loads(text) | {"new": settings}
        assert max(map(len, added.splitlines())) <= 120


REAL = Path(__file__).parents[2].parent / "shared" / "data"
NEVER = {
    "adult": ("label", {"row_id", "wage_class"}),
    "clickbait": ("label", {"row_id", "class"}),
    "chicago_taxi": ("label", {"row_id", "tips"}),
    "reddit": ("hot", {"id", "approval"}),
}


@pytest.mark.skipif(not REAL.exists(), reason="needs the real data beside the checkout")
@pytest.mark.parametrize("name", NEVER)
def test_outcomes_and_identifiers_of_real_data_are_no_features(name: str) -> None:
    label, never = NEVER[name]
    fields = sources.fields_of(sources.look_up(str(REAL / name / "train")))
    rows = sample_rows(sorted((REAL / name / "train").glob("*.gz")))
    settings = propose(raw_columns(rows, fields), label).settings
    features = {column for setting, value in settings.items() if setting.endswith("_columns") for column in value}
    features -= set(settings["key_columns"])
    assert features
    assert not features & (never | {label})
