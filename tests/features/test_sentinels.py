"""Numbers that stand for something else are named, and ordinary ones are not."""

from typing import Any

import numpy as np
import pytest

from trainer.features.sentinels import Sentinel, sentinels

RNG = np.random.default_rng(3)
AGES = np.clip(RNG.normal(40, 12, 5000).round(2), 1, 99)
HEIGHTS = RNG.normal(0, 1, 5000)
PLANTED = [
    (AGES, 2.0**31 - 1, 1), (AGES, 1e8 - 1, 10), (AGES, 9999.0, 1), (AGES, 9999.0, 3000), (AGES, 1.7e15, 20),
    (AGES, -1.0, 5), (AGES, -1.0, 9000), (AGES, -9999.0, 2), (AGES, -(2.0**63), 1), (AGES, 1e5, 1), (AGES, 2e3, 2),
    (HEIGHTS, -99.0, 3), (HEIGHTS, 999.9, 1), (RNG.pareto(1, 5000).round(3), 2.0**63 - 1, 4),
    (RNG.integers(1.4e9, 1.5e9, 5000).astype(float), 0.0, 8), (RNG.poisson(3, 5000).astype(float), -1.0, 40),
    (np.ones(5000), 2.0**31 - 1, 1),
]  # fmt: skip
ORDINARY: dict[str, Any] = {
    "bounded": AGES,
    "normal": HEIGHTS,
    "heavy tails": np.random.default_rng(0).pareto(1, 20_000),
    "counts": np.random.default_rng(0).zipf(1.6, 20_000).astype(float).clip(max=1e6),
    "prices": np.exp(np.random.default_rng(0).normal(3, 2, 20_000)).round(2),
    "mostly zero": np.where(RNG.random(5000) < 0.95, 0.0, RNG.exponential(2000, 5000).round()),
    "hours, 99 and more as 99": np.minimum(RNG.poisson(60, 5000) * 1.4, 99).round(),
    "-1, 0 and 1": RNG.integers(-1, 2, 5000).astype(float),
    "differences, few of them negative": np.append(RNG.poisson(9, 4990), [-1, -1, -2, -3] * 5).astype(float),
    "epochs": RNG.integers(1.4e9, 1.5e9, 5000).astype(float),
    "two": np.repeat([0.0, 1e6], [4990, 10]),
    "constant": np.full(9, 2.0**31 - 1),
    "two groups": np.append(RNG.normal(10, 1, 4000), RNG.normal(5000, 300, 1000)),
    "none": np.array([np.nan]),
    "empty": np.array([]),
}


@pytest.mark.parametrize(("column", "number", "rows"), PLANTED)
def test_a_number_apart_is_named_with_its_rows_and_the_reach_of_the_others(
    column: Any, number: float, rows: int
) -> None:
    planted = np.random.default_rng(0).permutation(np.concatenate([column, np.full(rows, number), [np.nan] * 3]))
    assert sentinels(planted) == [Sentinel(number, number, rows, float(column.min()), float(column.max()))]


def test_several_at_once_are_named_each_and_many_together() -> None:
    both = np.concatenate([AGES, [-9999.0] * 2, [99999.0] * 3, [2.0**31 - 1]])
    named = [(one.low, one.rows, one.least, one.most) for one in sentinels(both)]
    reach = (AGES.min(), AGES.max())
    assert named == [(99999.0, 3, *reach), (2.0**31 - 1, 1, *reach), (-9999.0, 2, *reach)]
    microseconds = np.linspace(1.6e15, 1.7e15, 20)
    assert sentinels(np.append(AGES, microseconds)) == [Sentinel(1.6e15, 1.7e15, 20, *reach)]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_columns_give_no_alarm(name: str) -> None:
    assert sentinels(ORDINARY[name]) == []
