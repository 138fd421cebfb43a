"""What a search prints while it goes on."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.search.events import EPOCHS, RUNG, SPACE, end, goal, new_plan, searched, start, state_of
from trainer.search import progress
from trainer.search.console import LINE_WIDTH, Lines, LiveTable, epoch_in_log, trial_line
from trainer.search.state import Key, apply

FIRST = {"event": "trial", "trial": 0, "settings": {"variant": "deep_v1", "learning_rate": 0.004, "dropout": 0.25}}
SECOND = {"event": "trial", "trial": 1, "settings": {"variant": "deep_v1", "learning_rate": 0.02, "dropout": 0.1}}
SKIP = {"event": "rungs", "skipped": 1}


def test_a_line_says_what_a_trial_came_to() -> None:
    events = [SKIP, FIRST, start(0), end(0, RUNG, 0.34097, seconds=3.4), SECOND, start(1), end(1, RUNG, 0.34512)]
    state = state_of(new_plan(trials=30), events)
    assert trial_line(state, Key(0)) == (
        "trial     2/30  lr-0000  loss 0.34097 (best)  paused after 6 epochs, 3 s  learning_rate 0.004, dropout 0.25"
    )
    assert trial_line(state, Key(1)).startswith(
        "trial     2/30  lr-0001  loss 0.34512 (best 0.34097 of lr-0000)  paused after 6 epochs, 4 s  learning_rate 0.0"
    )


def test_a_line_of_a_failed_trial_gives_the_reason_and_every_line_fits(capsys: pytest.CaptureFixture[str]) -> None:
    events = [FIRST, start(0), end(0, 0, 0.0, code=6, reason="Out of memory. \x1b[31mUse fewer rows" + 99 * " or so")]
    state = state_of(new_plan(), events)
    Lines(state).ended(Key(0))
    line = capsys.readouterr().out
    assert line.startswith(
        "trial     1/27  lr-0000  failed after 0 epochs, 2 s: Out of memory. \\x1b[31mUse fewer rows"
    )
    assert len(line) == LINE_WIDTH + 1
    state = state_of(plan := new_plan(), searched(plan))
    assert max(len(trial_line(state, key)) for key in state.runs) <= LINE_WIDTH


def test_the_time_left_is_that_of_the_epochs_which_are_expected() -> None:
    plan = new_plan(trials=9, seeds=1)
    state = state_of(plan, [SKIP, FIRST])
    assert progress.seconds_left(state, 1) is None  # nothing is known yet
    for event in (start(0), end(0, RUNG, 0.35, seconds=12.0)):
        apply(state, event)
    # 9 trials of 6 epochs, a third of them 12 further ones: 90 epochs of 2 seconds, of which 6 are done
    assert progress.seconds_left(state, 1) == pytest.approx(168)
    assert progress.seconds_left(state, 2, elapsed=8.0) == pytest.approx(80)
    every = state_of(plan._replace(seeds=3), [SKIP, FIRST, start(0), end(0, RUNG, 0.35, seconds=12.0)])
    # and 2 further seeds of 3 trials, and 3 of the default
    assert progress.seconds_left(every, 1) == pytest.approx(168 + 9 * 18 * 2)


def test_nothing_is_left_of_a_search_that_has_ended() -> None:
    state = state_of(plan := new_plan(), searched(plan))
    left = progress.seconds_left(state, 1)
    assert left is not None
    assert left < 60  # the estimate is not exact: trials that failed have fewer epochs
    assert [progress.about(seconds) for seconds in (7, 90, 3600 * 3.51, 86400 * 30)] == [
        "less than a minute", "about 2 min", "about 3.5 h", "about 30 days",
    ]  # fmt: skip


def test_the_table_of_a_terminal_shows_the_best_and_what_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = new_plan(trials=30)
    state = state_of(plan, searched(plan, finish=False)[:-1])
    (plan.folder / "logs").mkdir(parents=True)
    running = state.running()[0]
    (plan.folder / f"logs/lr-{running.trial:04}.log").write_text("epoch     9  loss train 0.3  validation 0.4\n")
    now, out = [100.0], io.StringIO()
    table = LiveTable(state, 2, 1e9, Console(file=out, width=100, force_terminal=True), lambda: now[0])
    now[0] = 175.0
    table.tick()
    now[0] = 190.0
    state.runs[running].running = False
    table.close()
    text = out.getvalue()
    assert f"lr-{running.trial:04}  epoch 9 of 18  0:00" in text
    assert "30 of 30 trials" in text
    assert "1:15 elapsed" in text
    assert "left" in text
    last = text[text.rindex("validation loss") :]
    assert last.count("done") + last.count("paused") >= 10
    assert list(map(last.index, SPACE)) == sorted(map(last.index, SPACE))
    assert "running" not in last
    assert "left" not in last


def test_the_last_epoch_of_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert epoch_in_log(log) == 0
    log.write_text("epoch     1  loss\nprogress train\n" + "epoch    12  loss\n" + "progress 5%\n" * 9 + "epoch ")
    assert epoch_in_log(log) == 12
    log.write_text(json.dumps("x" * 9999))
    assert epoch_in_log(log) == 0


def test_a_goal_of_all_epochs_is_shown_by_its_number() -> None:
    state = state_of(new_plan(), [FIRST, start(0), end(0, 2, 0.4), goal(0), goal(None, seed=0), start(None)])
    state.runs[Key(0)].running = True
    table = LiveTable(state, 2, 1e9, Console(file=(out := io.StringIO()), width=100, force_terminal=True))
    table.tick()
    table.close()
    assert f"lr-default  epoch 0 of {EPOCHS}" in out.getvalue()
    assert f"lr-0000  epoch 2 of {EPOCHS}" in out.getvalue()


def test_settings_that_do_not_fit_the_terminal_are_left_out_of_the_table() -> None:
    state = state_of(plan := new_plan(), searched(plan))
    table = LiveTable(state, 2, 1e9, Console(file=(out := io.StringIO()), width=60, force_terminal=True))
    table.close()
    assert "learning_rate" in out.getvalue()
    assert "hidden_units" not in out.getvalue()
    assert "…" not in out.getvalue()
