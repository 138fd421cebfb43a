"""The page of a search: what it says, for searches of any size, finished, stopped or failed."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.package.test_report import HOSTILE, read
from tests.search.events import EPOCHS, RUNG, end, new_plan, searched, start, state_of
from trainer.search import axes, history, journal, page
from trainer.search.plan import Plan
from trainer.search.space import Range


def page_of(plan: Plan, events: list[journal.Event], *, finished: bool = True) -> str:
    return page.page(state_of(plan, events), events, finished=finished)


def words(text: str) -> str:
    return " ".join(read(text).text.split())


@pytest.fixture(scope="module")
def finished() -> str:
    return page_of(plan := new_plan(), searched(plan))


def test_the_page_says_what_was_searched_and_what_came_out(finished: str) -> None:
    shown = words(finished)
    for text in (
        "Search lr",
        "The best of 8 finished trials is lr-0002.", "loss, mean of 3 seeds", "8 done, 16 paused, 3 failed",
        "validation loss, lower is better", "random, seed 0", "trials pause after 6 of 18 epochs",
        "1,400 train, 200 validation, 400 test", "data/sample_2k.json", "3 trials failed: The loss is not a number",
        "0.0005 to 0.05, log", "8, 16, 32", "[64], [128,64], [256,128]", "Trial 0002 is the run lr-0002.",
    ):  # fmt: skip
        assert text in shown
    assert "not finished" not in shown
    entry = re.search(r"<code>(&#34;lr-best.*?)</code>", finished, re.DOTALL)
    assert entry
    assert "&#34;learning_rate&#34;: 0.007972" in entry[1]
    assert finished.count("<img") >= 3


def test_it_is_self_contained_and_runs_nothing(finished: str) -> None:
    reader = read(finished)
    assert not reader.seen & {"script", "link", "iframe", "object", "base", "form", "a"}
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    sources = [value for name, value in reader.attributes if name in ("src", "href")]
    assert all(value and value.startswith("data:image/png;base64,") for value in sources)


def test_trials_are_in_order_and_can_be_sorted_by_each_column(finished: str) -> None:
    body = finished[finished.index('name="sort"') :]
    names = re.findall(r'<th scope="row">(\d{4})</th>', body)
    values = re.findall(r'<th scope="row">\d{4}</th><td>([^<]*)</td>', body)
    assert len(names) == 27
    assert values[:24] == sorted(values[:24])
    assert values[24:] == ["–"] * 3
    orders = [list(map(int, re.findall(r"--o\d+:(\d+)", row))) for row in re.findall(r'<tr style="([^"]*)"', body)]
    for column in zip(*orders, strict=True):
        assert sorted(column) == list(range(27))
    assert [name for _, name in sorted((row[0], name) for row, name in zip(orders, names, strict=True))] == sorted(
        names
    )
    assert len(orders[0]) == finished.count('name="sort"') == 9


def test_importance_needs_optuna_and_enough_trials(finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = new_plan(trials=3, seeds=1)
    monkeypatch.setattr(page, "importance", lambda _: None)
    assert "The importance of settings needs Optuna: `pip install optuna`" in words(page_of(few, searched(few)))
    monkeypatch.undo()
    pytest.importorskip("optuna")
    assert "so few trials" in words(page_of(few, searched(few)))
    assert 'alt="The importance of each setting"' in finished


def test_a_search_that_was_stopped_says_how_to_go_on() -> None:
    plan = new_plan()
    shown = words(page_of(plan, searched(plan)[:5], finished=False))
    assert "The search is not finished: the same command with --name=lr goes on." in shown
    assert "No trial was trained to its end." in shown


def test_a_search_without_any_result_has_a_page() -> None:
    plan = new_plan(metric="auc", halving=False)
    assert "Search lr" in words(page_of(plan, [], finished=False))
    trial: dict[str, Any] = {"event": "trial", "trial": 0, "settings": {"variant": "deep_v1", "dropout": 0.1}}
    shown = words(page_of(plan, [trial, start(0), end(0, 0, 0.0, code=3, reason=HOSTILE)]))
    assert f"1 trial failed: {' '.join(HOSTILE.split())}" in shown
    assert "validation AUC, higher is better" in shown


def test_hostile_text_is_shown_as_text() -> None:
    plan = new_plan(data={"train": HOSTILE}, space={"optimizer": ["adam"]}, halving=False)
    trial = {"event": "trial", "trial": 0, "settings": {"variant": "deep_v1", "optimizer": "adam"}}
    events = [
        trial,
        start(0),
        end(0, EPOCHS, 0.3),
        *[trial | {"trial": 1}, start(1), end(1, 0, 0, code=1, reason=HOSTILE)],
    ]
    text = page_of(plan, events)
    assert "<script" not in text
    assert "onerror=alert" in text
    assert "<img src=http" not in text


def test_the_best_comes_down_over_trials_and_over_time() -> None:
    plan = new_plan(seeds=2)
    events = [
        start(0), end(0, RUNG, 0.36, seconds=5.0), end(1, RUNG, 0.35, seconds=5.0), end(2, 0, 0.0, code=5, seconds=2.0),
        end(None, EPOCHS, 0.2, seconds=9.0), end(3, RUNG, 0.37, seconds=5.0), end(1, EPOCHS, 0.34, seconds=4.0),
        end(1, EPOCHS, 0.1, seed=1, seconds=9.0),
    ]  # fmt: skip
    assert history.steps(plan, events) == [
        (1, 5.0, 0.36, 0.36), (2, 10.0, 0.35, 0.35), (4, 26.0, 0.37, 0.35), (4, 30.0, 0.34, 0.34),
    ]  # fmt: skip
    by_fold = [end(0, RUNG, 0.3), end(0, RUNG, 0.4, fold=1)]
    assert [step.value for step in history.steps(plan._replace(folds=2), by_fold)] == [pytest.approx(0.35)]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (5e-4, 0.05, ["0.001", "0.003", "0.01", "0.03"]), (1e-8, 10.0, ["1e-08", "1e-06", "0.0001", "0.01", "1"]),
        (0.1, 0.9, ["0.1", "0.2", "0.5"]), (0.011, 0.012, ["0.011", "0.012"]),
    ],
)  # fmt: skip
def test_ticks_of_a_range_of_several_magnitudes_are_round(low: float, high: float, ticks: list[str]) -> None:
    axis = axes.axis_of("x", Range(low, high, log=True, whole=False))
    assert [text for _, text in axis.ticks()] == ticks
    assert axis.share(low) == 0
    assert axis.share(high) == 1


def test_a_metric_is_drawn_to_scale_where_trials_are_good() -> None:
    axis = axes.metric_axis("loss", [*(0.34 + n / 1000 for n in range(30)), 7.0, 900.0], higher_is_better=False)
    assert 0.33 < axis.low < 0.34
    assert 0.36 < axis.high < 0.40
    axis = axes.metric_axis("auc", [0.7, 0.69, 0.68, 0.1, 0.69], higher_is_better=True)
    assert 0.7 < axis.high < 0.71
    assert 0.66 < axis.low < 0.68
    axis = axes.metric_axis("loss", [0.5], higher_is_better=False)
    assert axis.low < 0.5 < axis.high


def test_the_page_is_written_beside_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = new_plan(trials=3, seeds=1)
    events = searched(plan)
    plan.folder.mkdir(parents=True)
    for event in events:
        journal.append(plan.folder / journal.FILE, event)
    path = page.write_page(state_of(plan, events), finished=True)
    assert path == plan.folder / "search.html"
    assert path.read_text() == page_of(plan, events)
