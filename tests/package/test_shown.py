"""Which metrics people see, and the ticks of plots."""

import math

import numpy as np
import pytest
from matplotlib.ticker import MaxNLocator

from trainer.package import plots
from trainer.package.html import figure, number
from trainer.package.shown import explanations, hidden_metrics, main_metrics

BINARY = {"loss": 0.3, "log_loss": 0.3, "calibration": 1.0, "accuracy": 0.8, "mean_label": 0.24}


@pytest.mark.parametrize(
    ("metrics", "rates", "hidden"),
    [
        (BINARY, False, {"log_loss"}),
        (BINARY, True, {"log_loss", "accuracy"}),  # a rate is neither right nor wrong
        (BINARY | {"mean_label": 0.01}, False, {"log_loss", "accuracy"}),
        (BINARY | {"mean_label": 0.97}, False, {"log_loss", "accuracy"}),
        (BINARY | {"log_loss": 0.4}, False, set()),
        ({"loss": 1.0, "log_loss": 1.0, "accuracy": 0.6}, False, {"log_loss"}),  # of classes
        ({"loss": 1.0, "rmse": 2.0}, False, set()),
    ],
)
def test_metrics_that_say_nothing_are_hidden(metrics: dict[str, float], rates: bool, hidden: set[str]) -> None:
    assert hidden_metrics(metrics, rates=rates) == hidden
    assert hidden_metrics(metrics, rates=rates, stopping_metric="accuracy") == hidden - {"accuracy"}
    assert not hidden & set(main_metrics(list(BINARY)))


def test_a_loss_is_explained_for_its_objective() -> None:
    assert explanations("binary", BINARY)["Loss"] == "log loss (cross-entropy)"
    assert explanations("binary", BINARY)["Calibration"].startswith("mean prediction, divided by the mean label")
    assert list(explanations("regression", ["loss", "rmse"])) == ["Loss"]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.175), (0.1, 0.2), (0.12, 0.13), (0.5, 0.5001), (0.99, 1), (0, 1), (0, 1e-6), (0.999998, 1)]
)
@pytest.mark.parametrize("bins", [5, 6, 9])
def test_the_ticks_of_percentages_are_what_they_say(low: float, high: float, bins: int) -> None:
    ticks = [tick for tick in MaxNLocator(nbins=bins).tick_values(low, high) if 0 <= tick <= 1]
    labels = [plots._percent(tick, None) for tick in ticks]
    assert [float(label.removesuffix("%")) / 100 for label in labels] == pytest.approx(ticks, rel=1e-8, abs=1e-15)
    assert not any("e" in label for label in labels)


def test_steps_of_two_and_a_half_percent_are_printed_as_such() -> None:
    steps = np.arange(0, 0.2, 0.025)
    assert [plots._percent(rate, None) for rate in steps] == [
        "0%", "2.5%", "5%", "7.5%", "10%", "12.5%", "15%", "17.5%",
    ]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.9), (0.4, 0.6), (0.12, 0.13), (1e-5, 1.01e-5), (0.5, 0.5 + 1e-9)])
def test_rates_on_the_axis_of_log_odds_lie_on_it_and_differ(low: float, high: float) -> None:
    rates = plots._round_rates(low, high)
    assert 2 <= len(rates) <= 8
    assert all(low <= rate <= high for rate in rates)
    assert len(set(rates)) == len(rates)


def test_numbers_are_as_short_as_a_tile_or_a_cell() -> None:
    assert [figure(value) for value in (0.12345, 1234.5, 1_962_034.4, 4.0267e12, -2.03e-5, 29_334, math.nan)] == [
        "0.1235", "1,234", "1,962,034", "4.027e+12", "-2.030e-05", "29,334", "–",
    ]  # fmt: skip
    assert [number(value) for value in (0.5, 2.0, 123_456.7, 5.4215e9 + 0.5, 1e20)] == [
        "0.5", "2", "123,457", "5.422e+09", "1e+20",
    ]  # fmt: skip
