"""Warnings after training name the cause that the losses point to."""

import pytest

from trainer.config.net_config import NetConfig
from trainer.features.sentinels import Sentinel
from trainer.inspection.run_warnings import after_training
from trainer.inspection.warnings import sentinel_warning, single_token_warning
from trainer.model.ops_wrapper import Gain


@pytest.mark.parametrize(
    ("train", "loss", "advice"),
    [
        (0.95, 0.80, "lower learning_rate"),
        (0.40, 0.75, "it memorises them"),
        (0.6925, 0.6930, "nothing was learned"),
        (0.6500, 0.6700, "210 rows are too few to tell"),
    ],
)
def test_a_model_no_better_than_a_constant_gets_the_advice_that_fits(train: float, loss: float, advice: str) -> None:
    metrics, gain = {"loss": loss, "rows": 210}, Gain(0.6931 - loss, 0.02)
    (warning,) = after_training("test", {"loss": train}, metrics, {"loss": 0.6931}, gain)
    assert advice in warning
    assert f"test loss {loss:.5f} against 0.69310" in warning


@pytest.mark.parametrize(("mean", "warnings"), [(0.0021, 0), (0.0019, 1), (-0.5, 1), (0.0, 1)])
def test_a_gain_within_two_standard_errors_may_be_chance(mean: float, warnings: int) -> None:
    loss = {"loss": 0.69 - mean, "rows": 1000}
    assert len(after_training("test", loss, loss, {"loss": 0.69}, Gain(mean, 0.001))) == warnings


def test_an_extreme_number_gets_the_advice_that_its_column_can_follow() -> None:
    apart = Sentinel(2.0**31 - 1, 2.0**31 - 1, 1, 1.0, 1.0)
    feature, label, weight = (sentinel_warning("x", apart, kind) for kind in ("number", "target", "weight"))
    assert feature.startswith("Column 'x': 1 row has 2,147,483,647, while all other values are 1. If")
    assert feature.endswith("make it NULL in the query.")
    assert label == weight
    assert label.endswith("correct it or leave these rows out in the query.")


@pytest.mark.parametrize("split_characters", [True, False])
def test_a_setting_is_advised_where_it_is_not_set(split_characters: bool) -> None:
    warning = single_token_warning(NetConfig(split_characters=split_characters), "x", 0.95)
    assert ("split_characters=true" in warning) is not split_characters
