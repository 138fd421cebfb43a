"""All views of a search together, on a search whose runs take no time."""

import csv
import math
from pathlib import Path

import pytest

from tests.search import simulated
from trainer.search import journal, tune
from trainer.search.proposals import proposer
from trainer.search.state import replayed, run_name
from trainer.search.view import viewed


def test_a_search_writes_its_table_its_logs_and_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = simulated.new_plan(trials=9, keep=2, seeds=2)
    state = replayed(plan, [])
    engine = simulated.SimulatedEngine(2)
    monkeypatch.setattr(engine, "stop", lambda: None)
    with viewed(state, 2) as view:
        view.finished = tune.search(state, engine, proposer(plan), -math.inf, view)  # the time is up
    assert "is not finished" in (plan.folder / "search.html").read_text()
    state = replayed(plan, journal.read(plan.folder / journal.FILE))
    with viewed(state, 2) as view:
        view.finished = tune.search(state, engine, proposer(plan), math.inf, view)
    assert "is not finished" not in (plan.folder / "search.html").read_text()
    names = {run_name(plan, key) for key in state.runs}
    with (plan.folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == names
    assert {row["state"] for row in rows} == {"done", "paused"}
    assert {path.name for path in (plan.folder / "tensorboard").iterdir() if path.is_dir()} == names
    lines = capsys.readouterr().out.splitlines()
    ends = [event for event in simulated.events(plan) if event["event"] == "end"]
    assert sum(line.startswith("trial ") for line in lines) == len(ends)
    assert lines[-1] == "page     searches/sim/search.html"
