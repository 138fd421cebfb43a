"""What a run shows while it works: the time, what is being done, and nothing once it has ended."""

import os
import re
import sys
from collections.abc import Callable

import pytest

from trainer.runtime import progress
from trainer.runtime.progress import RunProgress, duration, fitting
from trainer.runtime.timing import Timings


def at(*times: float) -> Callable[[], float]:
    """A clock that shows these times one after the other, then the last one."""
    waiting = list(times)
    return lambda: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def test_the_time_left_counts_down_while_nothing_is_reported() -> None:
    shown = RunProgress(at(100, 130, 135, 150, 240))
    shown.show("epoch 2/9", 0.25, ["loss 0.3"])
    shown.expect(100, at_most=True)
    assert shown.place() == ["epoch 2/9 25%", "0:35 elapsed", "at most 1:35 left"]
    assert shown.place() == ["epoch 2/9 25%", "0:50 elapsed", "at most 1:20 left"]
    assert shown.place() == ["epoch 2/9 25%", "2:20 elapsed"]  # it takes longer than expected
    shown.stage("report")
    assert shown.place() == ["report", "2:20 elapsed"]
    assert list(shown.state.figures) == []


def test_no_end_is_expected_where_it_is_unknown() -> None:
    shown = RunProgress(at(0))
    shown.show("epoch 1/2", 0.5, [])
    shown.expect(float("nan"), at_most=False)
    assert shown.place() == ["epoch 1/2 50%", "0:00 elapsed"]


def test_durations_and_lines_that_fit() -> None:
    assert [duration(seconds) for seconds in (0, 65.4, 3599.6, 7265)] == ["0:00", "1:05", "1:00:00", "2:01:05"]
    assert fitting(["one", "two", "three"], 13) == "one, two"
    assert fitting(["a part that is too long"], 5) == "a part that is too long"


def test_without_a_terminal_lines_are_printed_by_themselves(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    text = ""
    with RunProgress() as shown, Timings(shown).stage("package"):
        while text.count("\n") < 2:  # nobody reports anything meanwhile
            text += capfd.readouterr().err
    text += capfd.readouterr().err
    assert any(re.fullmatch(r"progress package, \d+:\d\d elapsed", line) for line in text.splitlines())
    assert "\x1b" not in text


def test_a_short_run_without_a_terminal_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with RunProgress() as shown:
        shown.stage("read")
    assert capfd.readouterr().err == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    outside, inside = os.openpty()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.001)
    with open(inside, "w") as stderr:  # noqa: PTH123 - a descriptor, not a path
        monkeypatch.setattr(sys, "stderr", stderr)
        with RunProgress():
            assert os.read(outside, 100).startswith(b"progress start, 0:00 elapsed")
    os.close(outside)


def test_a_stream_that_is_closed_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with RunProgress() as shown:
        shown.stage("read")


def test_on_a_terminal_there_is_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    outside, inside = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    text = ""
    with open(inside, "w") as stderr:  # noqa: PTH123 - a descriptor, not a path
        monkeypatch.setattr(sys, "stderr", stderr)
        with RunProgress() as shown:
            shown.show("epoch 2/3", 0.5, ["loss 0.2500", "best loss 0.2000 in epoch 1", "1,000,000 rows/s", "x" * 50])
            while "epoch 2/3" not in text:
                text += os.read(outside, 100_000).decode()
            shown.close()
            print("the end", file=stderr, flush=True)
        while "the end" not in text:
            text += os.read(outside, 100_000).decode()
    os.close(outside)
    assert "epoch 2/3 50%, 0:00 elapsed" in text
    assert "loss 0.2500, best loss 0.2000 in epoch 1, 1,000,000 rows/s" in text
    assert "xxx" not in text  # does not fit
    assert text.rindex("\x1b[2K") > text.rindex("epoch")  # the lines are erased
