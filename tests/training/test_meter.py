"""The speed of a training and the time that it still takes."""

import math

import pytest

from trainer.runtime.progress import RunProgress
from trainer.training.meter import Meter


def meter(**settings: int) -> Meter:
    return Meter(RunProgress(lambda: 0.0), **({"epochs": 5, "rows": 1000} | settings))


def test_the_first_steps_are_not_counted_because_they_are_compiled() -> None:
    counted = meter()
    assert math.isnan(counted.rate)
    counted.count(100, 30.0)
    assert math.isnan(counted.rate)
    counted.count(200, 1.0)
    counted.count(200, 3.0)
    assert counted.rate == 100


def test_rows_before_a_resume_are_not_counted() -> None:
    counted = meter()
    counted.count(50, 9.0)
    counted.count(50, 0.5)
    counted.show_steps(2, 900, 0.25)  # 800 of the 900 rows were trained on before the run was stopped
    assert counted.progress.place() == ["epoch 2/5 90%", "0:00 elapsed", "0:31 left"]  # (100 + 3 * 1000) / 100
    assert list(counted.progress.state.figures) == ["loss 0.2500", "100 rows/s"]


def test_the_time_left_includes_the_evaluations() -> None:
    counted = meter(evaluated=500)
    counted.count(1, 1.0)
    counted.count(100, 1.0)
    assert counted.seconds_left(1, 600) == pytest.approx(6 + 5 + 4 * (10 + 5))  # evaluating is taken to be as fast
    counted.between = 2.0
    assert counted.seconds_left(2, 600) == pytest.approx(6 + 2 + 3 * (10 + 2))
    assert counted.seconds_left(5, 0) == pytest.approx(2)


def test_an_evaluation_shows_its_rows_and_the_best_epoch() -> None:
    counted = meter()
    counted.best = "best auc 0.7 in epoch 3"
    advance = counted.show_evaluation(4, "validation", 200)
    assert counted.progress.place()[0] == "epoch 4/5, validation metrics 0%"
    advance(150)
    assert counted.progress.place()[0] == "epoch 4/5, validation metrics 75%"
    assert list(counted.progress.state.figures) == ["best auc 0.7 in epoch 3"]
