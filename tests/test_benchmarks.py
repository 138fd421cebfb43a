"""The benchmark runs to its end and tells every figure; its sides do the same work."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.benchmarks import encoding, fresh, whole
from tests.benchmarks.fresh import Outcome, medians
from tests.benchmarks.table import Chapter, as_markdown, as_text, side_by_side
from tests.commands import SAMPLE
from trainer.features.tokenizers import TextRules, tokenize
from trainer.runtime import warm

ROOT = Path(__file__).parent.parent


def called(folder: Path, function: str, settings: dict[str, str] | None = None, **arguments: Any) -> dict[str, Any]:
    """What a side measures, as `fresh.run` calls it, but in a process in which TensorFlow is imported already."""
    folder.mkdir(exist_ok=True)
    process = warm.start(_call, folder, function, settings or {}, arguments)
    process.join(timeout=120)
    assert process.exitcode == 0, (folder / "log").read_text()
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _call(folder: Path, function: str, settings: dict[str, str], arguments: dict[str, Any]) -> None:
    os.chdir(folder)
    os.environ.update(settings)
    for stream in (1, 2):
        os.dup2(os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["fresh", function, "result.json", json.dumps(arguments)]
    fresh.main()


def table_rows(markdown: str) -> list[dict[str, str]]:
    """The rows of all Markdown tables, by column."""
    rows: list[dict[str, str]] = []
    head: list[str] = []
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif not set(line) <= set("|-: "):
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_command_prints_a_whole_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--rows=2000", "--rounds=1", "--markdown"]
    only = ["--only=reading", "--only=preprocessing", "--only=limited"]
    done = subprocess.run(
        [*command, *only, f"--folder={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.findall(r"^### (.*)", done.stdout, re.MULTILINE) == ["Reading a file", "Preprocessing", "Memory limit"]
    assert re.search(r"^\d{4}-\d\d-\d\d, \d+ cores of .*, \d+ GiB, .*; Python 3.*, keras 3", done.stdout, re.MULTILINE)
    rows = {row["side"]: row for row in table_rows(done.stdout) if row.get("side")}
    sides = {
        "trainer.data.dataset",
        "pandas.read_json",
        "DuckDB to Arrow",
        "trainer.features.pipeline",
        "pandas, spaCy's pipe",
    }
    assert rows.keys() == sides
    for side, row in rows.items():
        if row.get("remark") == "not installed":
            assert side == "DuckDB to Arrow"
            continue
        assert number(row["rows/s"]) == pytest.approx(2000 / number(row["seconds"]), rel=0.1)
        assert number(row["peak MB"]) > 50
        assert bool(row["we are faster by"]) == (not side.startswith("trainer"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json" and "truth" not in path.name] == [
        "rows_2000.json"
    ]


def test_a_watched_run_tells_each_stage_and_its_first_step(tmp_path: Path) -> None:
    settings, data = {"NET_EPOCHS": "1"}, str(SAMPLE)
    first = called(tmp_path, "watched:train", settings, began=0.0, data=data, run="first")
    stages = {name.removesuffix(".seconds") for name in first if name.endswith(".seconds")}
    assert stages >= {"read", "split", "preprocess", "build graph", "train", "report", "package"}
    assert first["imported"] < first["first step"] < first["seconds"]
    assert sum(first[f"{stage}.seconds"] for stage in stages) < first["seconds"] - first["imported"]
    assert all(0 < first[f"{stage}.memory"] <= first["memory"] for stage in stages)
    assert (tmp_path / "packages" / "first.zip").exists()
    second = called(
        tmp_path, "watched:train", settings, began=0.0, data=data, run="second", first_step_only=True
    )  # fmt: skip
    assert "read.seconds" not in second, "the encoded rows are in the cache"
    assert second["imported"] < second["first step"]
    assert not (tmp_path / "packages" / "second.zip").exists()


def test_training_from_disk_and_in_memory_is_measured_on_the_same_rows(tmp_path: Path) -> None:
    result = called(tmp_path, "blocks:compare", rows=6000, order="by label", share=0.4, epochs=1, seeds=1)
    assert result.keys() == {"in memory", "from disk"}
    assert all(side["rows"] == 6000 and side["seconds"] > 0 for side in result.values())
    assert all(0.2 < side["loss"] < 0.7 for side in result.values())
    written = called(tmp_path, "blocks:write", into=str(tmp_path), rows=6000)
    assert written["bytes"] == 6000 * 4 * (5 + 16 + 2 * 4 + 2)
    epochs = [called(tmp_path, "blocks:epoch", of=str(tmp_path), share=share) for share in (None, 0.4)]
    assert [epoch["rows"] for epoch in epochs] == [6000, 6000]


def test_evaluation_agrees_with_keras_and_every_side_is_timed(tmp_path: Path) -> None:
    result = called(tmp_path, "racing:score", network="deep_v1", data="sample", rows=2000, rounds=1, least_seconds=0.01)
    evaluation = next(sides for what, sides in result.items() if what.startswith("evaluate"))
    losses = [side["loss"] for side in evaluation.values()]
    assert len(losses) == 3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
    assert all(side["seconds"] > 0 and side["rows"] > 0 for sides in result.values() for side in sides.values())
    raced = called(tmp_path, "racing:train", network="deep_v1", data="sample", rows=2000, rounds=1)
    assert list(raced) == ["this trainer", "fit, shuffled tf.data", "fit, arrays"]
    assert all(side["seconds"] > 0 and 0.3 < side["loss"] < 0.7 for side in raced.values())


def test_quality_lies_between_the_known_losses(tmp_path: Path) -> None:
    result = called(tmp_path, "quality:learn", {"NET_EPOCHS": "3"}, path=str(SAMPLE), names=["deep_v1"])
    assert list(result) == ["constant", "order blind", "possible", "deep_v1"]
    assert [result[name]["share"] for name in ("constant", "possible")] == [0, 1]
    assert 0 < result["deep_v1"]["share"] < 1


def test_both_sides_of_preprocessing_find_the_same_tokens() -> None:
    titles = pd.read_json(SAMPLE, lines=True)["title"].dropna()
    tokens = tokenize(titles.tolist(), TextRules("spacy", True, 16))
    ours = [
        [tokens.values[i] for i in tokens.ids[a:b]] for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
    assert list(encoding.spacy_tokens(titles)) == ours


def test_a_limit_of_memory_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    how: dict[str, Any] = {"folder": tmp_path, "path": str(tmp_path / "rows.json"), "rows": 20_000, "pad_bytes": 800}
    assert fresh.run("reading:write", limit=40_000_000, **how).fault
    with fresh.limited_to(2**30) as start:
        group = re.search(r'> "(.*)/cgroup.procs"', " ".join(start))
        assert not group or Path(group[1]).is_dir()
    assert not group or not Path(group[1]).exists()
    outcome = fresh.run("reading:write", limit=2**30, **how)
    assert outcome.fault == ""
    assert outcome.figures["memory"] > 20_000 * 800


def test_growth_is_told_with_and_without_the_fixed_costs() -> None:
    runs = {
        rows: Outcome(
            {"read.seconds": 1e-6 * rows**2, "read.memory": 7.0, "seconds": 9 + 1e-6 * rows, "memory": 1e9 + rows}
        )
        for rows in (2000, 200_000, 1_000_000, 5_000_000)
    }
    read, in_all = whole.growth(runs)
    assert (read.side, read.remark) == ("read", "seconds 2.00, less fixed 2.00; memory 0.00, less fixed -")
    assert in_all.side == "in all"
    assert re.search(r"^seconds 0\.[0-4]\d, less fixed 1\.00; memory 0\.\d\d, less fixed 1\.00$", in_all.remark)
    assert whole.growth({2000: runs[2000], 200_000: runs[200_000]}) == []


def test_medians_are_taken_in_turn_and_faults_are_told() -> None:
    order: list[str] = []

    def side(name: str, seconds: list[float], fault: str = "") -> Outcome:
        order.append(name)
        return Outcome({} if fault else {"seconds": seconds.pop()}, fault)

    figures = {"a": [1.0, 9.0, 2.0], "b": [5.0, 4.0, 6.0]}
    sides = {name: lambda name=name: side(name, figures[name]) for name in figures}
    result = medians({**sides, "c": lambda: side("c", [], "broken")}, rounds=3)
    assert "".join(order) == "abcabab"
    assert result == {"a": Outcome({"seconds": 2.0}), "b": Outcome({"seconds": 5.0}), "c": Outcome({}, "broken")}
    rows = side_by_side("x", result, rows=10)
    assert [row.ratio for row in rows] == [None, 2.5, None]
    for text in (as_text("title", [Chapter("[Chapter]", rows)]), as_markdown("title", [Chapter("[Chapter]", rows)])):
        assert "[Chapter]" in text
        assert "broken" in text
        assert "2.5" in text
