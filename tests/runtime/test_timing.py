"""Stages are timed, rows are counted, and the report is plain JSON."""

import json
import resource
import time

import pytest

from trainer.runtime.timing import Timings, peak_memory


def test_a_stage_has_its_time_its_rows_and_their_rate() -> None:
    timings = Timings()
    with timings.stage("read"):
        time.sleep(0.05)
    timings.count_rows("read", 1000)
    report = timings.report()["stages"]["read"]
    assert 0.05 <= report["seconds"] < 5
    assert (report["passes"], report["rows"]) == (1, 1000)
    assert report["rows_per_second"] == pytest.approx(1000 / report["seconds"])


def test_passes_add_up() -> None:
    timings = Timings()
    for rows in (1, 20, 300):
        with timings.stage("train"):
            time.sleep(0.01)
        timings.count_rows("train", rows)
    stage = timings.report()["stages"]["train"]
    assert stage["seconds"] >= 0.03
    assert (stage["passes"], stage["rows"]) == (3, 321)


def test_a_stage_that_fails_is_timed_and_one_without_rows_has_none() -> None:
    timings = Timings()
    with pytest.raises(ZeroDivisionError), timings.stage("broken"):  # noqa: PT012
        time.sleep(0.01)
        _ = 1 / 0
    stage = timings.report()["stages"]["broken"]
    assert stage.keys() == {"seconds", "passes"}
    assert stage["seconds"] >= 0.01


def test_a_stage_that_is_still_under_way_is_not_reported() -> None:
    timings = Timings()
    with timings.stage("read"):
        pass
    with timings.stage("report"):
        assert list(timings.report()["stages"]) == ["read"]


def test_two_runs_in_one_process_do_not_share_their_times() -> None:
    one, other = Timings(), Timings()
    with one.stage("read"):
        pass
    assert other.report()["stages"] == {}


def test_report_is_json_with_the_peak_memory_in_bytes() -> None:
    timings = Timings()
    with timings.stage("a stage of any name: ü"):
        pass
    report = json.loads(json.dumps(timings.report(), allow_nan=False))
    assert report == timings.report() | {"peak_memory_bytes": report["peak_memory_bytes"]}
    assert 10e6 < report["peak_memory_bytes"] <= peak_memory() < 1e12
    assert peak_memory() >= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
