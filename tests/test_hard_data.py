"""Legitimate data that is hard to get right: rare classes, languages without spaces."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import trainer as flatfab
from tests.commands import trainer

NO_COLUMNS = {
    "NET_CATEGORICAL_COLUMNS": "[]", "NET_TEXT_COLUMNS": "[]", "NET_NUMERIC_COLUMNS": "[]", "NET_WEIGHT_COLUMN": "null"
}  # fmt: skip
TOPICS = NO_COLUMNS | {
    "NET_CATEGORICAL_COLUMNS": '["word"]', "NET_LABEL_COLUMN": "topic", "NET_OBJECTIVE": "multiclass",
    "NET_KEY_COLUMNS": '["id"]', "NET_EPOCHS": "2",
}  # fmt: skip
TITLES = NO_COLUMNS | {
    "NET_TEXT_COLUMNS": '["title"]', "NET_LABEL_COLUMN": "click", "NET_KEY_COLUMNS": '["id"]', "NET_EPOCHS": "4",
    "NET_TOKENIZER": "regex", "NET_LEARNING_RATE": "0.01",
}  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_classes_that_no_training_row_has_count_as_wrong(tmp_path: Path) -> None:
    """A long tail: some classes have a single row, which may be in any set."""
    rows = [{"id": str(i), "word": f"w{i % 7}", "topic": f"t{i % 7}"} for i in range(600)]
    rows += [{"id": f"x{i}", "word": "rare", "topic": f"rare{i}"} for i in range(60)]
    write_rows(tmp_path / "rows.json", rows)
    done = trainer(tmp_path, "--data=rows.json", "--run=it", **TOPICS)
    assert (done.code, done.err) == (0, "")
    assert "labels of the test set (counted as wrong): 'rare" in done.out

    new = [{"word": "w1", "topic": "t1"}, {"word": "w2", "topic": "new"}]
    write_rows(tmp_path / "new.json", new)
    arguments = ("evaluate", "--package=packages/it.zip", "--data=new.json")
    done = trainer(tmp_path, *arguments, module="trainer.package.score")
    assert done.code == 0
    assert "no training row has the class of 1 label of the evaluation set (counted as wrong): 'new' (1)." in done.err
    metrics = json.loads(done.out)
    alone = flatfab.load_package(str(tmp_path / "packages" / "it.zip")).evaluate(pd.DataFrame(new[:1]))
    assert (metrics["rows"], metrics["accuracy"]) == (2, alone["accuracy"] / 2)
    assert metrics["log_loss"] == pytest.approx(alone["log_loss"])


LANGUAGES = ("chinese", "thai")


def title_rows(language: str, seed: int) -> list[dict[str, Any]]:
    """Titles of eight words, two of which tell a click from none in nine of ten rows."""
    words = {
        "chinese": ["免费", "优惠", "限时", "通知", "会议", "公告", "今天", "我们", "商品", "手机", "北京", "周末"],
        "thai": ["ฟรี", "ลดราคา", "ด่วน", "ประกาศ", "ประชุม", "รายงาน", "วันนี้", "เรา", "สินค้า", "มือถือ", "กรุงเทพ", "เสาร์"],
    }[language]
    chance, rows = random.Random(seed), []
    for number in range(3000):
        click = chance.random() < 0.5
        chosen = chance.choices(words[6:], k=6) + chance.choices(words[:3] if click else words[3:6], k=2)
        chance.shuffle(chosen)
        rows.append({"id": f"{language}{number}", "title": chosen, "click": int(click != (chance.random() < 0.1))})
    return rows


def test_titles_without_spaces_are_learnt_as_well_as_with_spaces(tmp_path: Path) -> None:
    """Of both languages in one file, each measured by itself."""
    auc: dict[str, dict[str, float]] = {}
    for name, space in (("spaced", " "), ("plain", "")):
        rows = {
            language: [row | {"title": space.join(row["title"])} for row in title_rows(language, seed=1)]
            for language in LANGUAGES
        }
        write_rows(tmp_path / f"{name}.json", [row for some in rows.values() for row in some[:2400]])
        environment = TITLES | {"NET_SPLIT_CHARACTERS": "false" if space else "true", "NET_MAX_TOKENS": "64"}
        done = trainer(tmp_path, f"--data={name}.json", f"--run={name}", **environment)
        assert (done.code, done.err) == (0, "")
        package = flatfab.load_package(str(tmp_path / "packages" / f"{name}.zip"))

        frames = {language: pd.DataFrame(some[2400:]) for language, some in rows.items()}
        auc[name] = {
            language: roc_auc_score(frame["click"], package.predict(frame)) for language, frame in frames.items()
        }
    unsplit = TITLES | {"NET_SPLIT_CHARACTERS": "false"}
    done = trainer(tmp_path, "--data=plain.json", module="trainer.inspection.inspect", **unsplit)
    assert "100% of its texts are a single token" in done.out
    assert "split_characters=true" in done.out
    for language in LANGUAGES:
        assert auc["plain"][language] > auc["spaced"][language] - 0.02
        assert auc["spaced"][language] > 0.85
