"""trials.csv: what it says of each run, that it hides test rows, and that thousands of trials cost milliseconds."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.search.events import EPOCHS, RUNG, end, goal, new_plan, searched, start, state_of
from trainer.search import table
from trainer.search.state import Key, State, apply
from trainer.search.table import TrialsCsv


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(state: State, writer: TrialsCsv | None = None) -> dict[str, dict[str, str]]:
    (writer or TrialsCsv(state)).write()
    with (state.plan.folder / table.FILE).open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def trial(number: int, **settings: Any) -> dict[str, Any]:
    return {"event": "trial", "trial": number, "settings": {"variant": "deep_v1"} | settings}


def test_each_run_has_its_state() -> None:
    events = [
        {"event": "rungs", "skipped": 1},
        trial(0, learning_rate=0.004, embedding_dim=8), start(0), end(0, RUNG, 0.35),
        goal(0), start(0), end(0, EPOCHS, 0.34),
        trial(1, learning_rate=0.1), start(1), end(1, 2, 0.9, code=5, reason="The loss is not a number."),
        trial(2, learning_rate=0.01), start(2), end(2, RUNG, 0.36),
        trial(3, learning_rate=0.02), start(3), end(3, 3, 0.37),
        trial(4, learning_rate=0.03), start(4),
        trial(5, learning_rate=0.03),
    ]  # fmt: skip
    rows = written(state_of(new_plan(), events))
    assert {name: row["state"] for name, row in rows.items()} == {
        "lr-0000": "done", "lr-0001": "failed", "lr-0002": "paused", "lr-0003": "stopped", "lr-0004": "running",
    }  # fmt: skip
    first = rows["lr-0000"]
    assert (first["metric"], first["epochs"], first["seconds"], first["machine"]) == ("0.34", "18", "15.0", "here")
    assert (first["learning_rate"], first["embedding_dim"], first["dropout"]) == ("0.004", "8", "")
    assert rows["lr-0001"]["reason"] == "The loss is not a number."
    assert rows["lr-0004"]["metric"] == ""


def test_the_default_and_further_seeds_are_rows_too() -> None:
    rows = written(state_of(plan := new_plan(), searched(plan)))
    assert len(rows) == plan.trials + plan.seeds + plan.keep * (plan.seeds - 1)
    assert list(rows)[:3] == ["lr-default", "lr-default-seed1", "lr-default-seed2"]
    default = rows["lr-default-seed1"]
    assert (default["trial"], default["seed"], default["learning_rate"]) == ("default", "1", "0.002")
    assert default["hidden_units"] == "[128, 64]"
    assert sum(bool(row["package"]) for row in rows.values()) == plan.keep


def test_test_rows_are_not_in_it() -> None:
    state = state_of(plan := new_plan(), searched(plan))
    assert "validation_auc" in next(iter(written(state).values()))
    text = (plan.folder / table.FILE).read_text()
    assert "test" not in text
    assert "0.77777" not in text


def test_formulas_are_disarmed_and_settings_that_are_called_like_columns_are_told_apart() -> None:
    plan = new_plan(space={"epochs": [5, 9], "activation": ["relu", "gelu"]}, halving=False)
    reason = "=cmd|' /C calc'!A0 <b>"
    events = [trial(0, epochs=5, activation="relu"), start(0), end(0, 0, 0.0, code=3, reason=reason)]
    row = written(state_of(plan, events))["lr-0000"]
    assert row["reason"] == "'=cmd|' /C calc'!A0 &lt;b>"
    assert (row["epochs"], row["setting_epochs"], row["activation"]) == ("0", "5", "relu")


def test_a_row_that_has_not_changed_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Key] = []
    make = table.row
    monkeypatch.setattr(table, "row", lambda state, key, metrics: made.append(key) or make(state, key, metrics))
    events = searched(plan := new_plan(), finish=False)
    state = state_of(plan, events)
    writer = TrialsCsv(state)
    before = written(state, writer)
    assert len(made) == plan.trials
    made.clear()
    apply(state, goal(3))
    apply(state, start(3))
    apply(state, end(3, EPOCHS, 0.1))
    after = written(state, writer)
    assert made == [Key(3)]
    assert {name for name in after if after[name] != before[name]} == {"lr-0003"}
    assert after == written(state)
