"""Spaces: what is refused, and what is drawn from the others."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.runtime.errors import ConfigError
from trainer.search import space
from trainer.search.space import Range, automatic_space, check_space, grid, grid_size, read_space, samples

NETWORKS = {"deep_v1": "deep_v1", "rnn_v1": "rnn_v1", "rnn_v1_lstm": "rnn_v1"}


def checked(**content: Any) -> space.Space:
    return check_space(content, "space.json", "deep_v1", NETWORKS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "space.json holds no settings."),
        ({"learning_rat": [0.1]}, "there is no setting \"learning_rat\". Did you mean 'learning_rate'?"),
        ({"cell": ["gru", "lstm"]}, 'there is no setting "cell".'),
        ({"learning_rate": []}, "learning_rate = [] must be [value, ...] or"),
        ({"learning_rate": 0.1}, "learning_rate = 0.1 must be [value, ...] or"),
        ({"learning_rate": [0.1, 0.1]}, "has a value twice"),
        ({"learning_rate": [0.1, -1]}, "learning_rate = -1 is out of range. Allowed: number, 0 < x <= 100."),
        ({"learning_rate": ["fast"]}, 'learning_rate = "fast" has the wrong type'),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low must be below high"),
        ({"learning_rate": {"low": 0.1, "high": 0.1}}, "low must be below high"),
        ({"learning_rate": {"low": 0.1}}, 'a range is {"low": 0.001, "high": 0.1}'),
        ({"learning_rate": {"low": 0.1, "high": 1, "logg": True}}, "a range has no \"logg\". Did you mean 'log'?"),
        ({"learning_rate": {"low": 0.1, "high": 1, "log": 1}}, 'a range is {"low": 0.001, "high": 0.1}'),
        ({"learning_rate": {"low": 0, "high": 1}}, "learning_rate = 0 is out of range"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "with log, low must be above 0"),
        ({"dropout": {"low": 0, "high": 1}}, "dropout = 1 is out of range"),
        ({"epochs": {"low": 1.5, "high": 3}}, "epochs = 1.5 has the wrong type"),
        ({"optimizer": {"low": 1, "high": 3}}, "optimizer is not a number. Write a list of values."),
        ({"hidden_units": {"low": 1, "high": 3}}, "hidden_units is not a number"),
        ({"optimizer": ["adam", "adamw"]}, 'optimizer = "adamw" is not one of the choices'),
        ({"test_fraction": [0.1, 0.2]}, "test_fraction cannot be in a space: it decides which rows"),
        ({"network": ["deep_v1", "rnn_v1"]}, "network cannot be in a space: it has settings of its own"),
        ({"threads": [1, 2]}, "threads cannot be in a space: it is divided among the workers"),
        ({"stopping_metric": ["auc"]}, "choose it with --metric"),
        ({"variant": []}, "variant = [] must be a list of variants"),
        ({"variant": ["deep_v1", "rnn_v2"]}, "there is no variant \"rnn_v2\". Did you mean 'rnn_v1'?"),
        ({"variant": ["deep_v1", "deep_v1"]}, "must be a list of variants"),
        ({"variant": ["deep_v1"]}, "space.json holds no settings."),
    ],
)
def test_a_wrong_space_is_refused_with_the_place_and_what_is_allowed(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(**content)
    assert str(refused.value).startswith("space.json")
    assert message in str(refused.value)


def test_the_space_of_the_docs_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```jsonc\n(.*?)```", page, re.DOTALL)
    assert set(checked(**json.loads(text)).settings) == {"learning_rate", "dropout", "hidden_units"}


def test_a_file_that_holds_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match=r"space.json must hold an object"):
        read_space(path)
    with pytest.raises(ConfigError, match=r"missing\.json"):
        read_space(tmp_path / "missing.json")


def test_number_n_is_the_same_whatever_the_count_and_seeds_differ() -> None:
    of = checked(learning_rate={"low": 1e-4, "high": 1e-1, "log": True}, embedding_dim=[8, 16, 32])
    assert samples(of, 1, 5) == samples(of, 1, 50)[:5]
    assert samples(of, 1, 5) != samples(of, 2, 5)


def test_the_order_of_the_settings_in_the_file_changes_no_trial() -> None:
    content: dict[str, Any] = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "dropout": [0.1, 0.2, 0.3]}
    turned = dict(reversed(content.items()))
    assert [dict(sorted(one.items())) for one in samples(checked(**content), 3, 20)] == [
        dict(sorted(one.items())) for one in samples(checked(**turned), 3, 20)
    ]


def test_numbers_are_uniform_in_their_range_or_in_its_logarithm() -> None:
    rng = np.random.default_rng(0)
    for low, high, log in ((1e-5, 1e-1, True), (-3.0, 5.0, False)):
        drawn = np.array([Range(low, high, log, whole=False).sample(rng) for _ in range(4000)])
        assert low <= drawn.min() <= drawn.max() <= high
        place = (np.log(drawn / low) / math.log(high / low)) if log else (drawn - low) / (high - low)
        assert (np.abs(np.histogram(place, 10, (0, 1))[0] - 400) < 90).all()  # 4.7 standard deviations


def test_whole_numbers_are_as_likely_as_one_another_up_to_both_ends() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(Range(1, 5, log=False, whole=True).sample(rng) for _ in range(5000))
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert all(abs(count - 1000) < 150 for count in counts.values())
    of_log = Counter(Range(1, 8, log=True, whole=True).sample(rng) for _ in range(5000))
    assert sorted(of_log) == list(range(1, 9))
    assert abs(of_log[1] / 5000 - math.log(2) / math.log(9)) < 0.035


def test_few_different_choices_are_drawn_once_each() -> None:
    drawn = samples(checked(embedding_dim=[8, 16, 32], dropout=[0.1, 0.2]), 0, 100)
    assert len(drawn) == 6
    assert len({json.dumps(one) for one in drawn}) == 6


def test_settings_that_a_variant_lacks_are_left_out_for_it() -> None:
    of = checked(variant=["deep_v1", "rnn_v1"], cell=["gru", "lstm"], dropout=[0.1, 0.2])
    drawn = samples(of, 0, 100)
    assert {("cell" in one) for one in drawn if one["variant"] == "rnn_v1"} == {True}
    assert {("cell" in one) for one in drawn if one["variant"] == "deep_v1"} == {False}
    assert len(drawn) == 2 + 4


def test_a_grid_is_every_combination_once() -> None:
    of = checked(variant=["deep_v1", "rnn_v1"], cell=["gru", "lstm"], hidden_units=[[64], [128, 64], [32]])
    combinations = list(grid(of, "space.json"))
    assert len(combinations) == grid_size(of, "space.json") == 3 + 6
    assert len({json.dumps(one) for one in combinations}) == 9
    with pytest.raises(ConfigError, match="dropout is a range, which a grid cannot hold"):
        grid_size(checked(dropout={"low": 0, "high": 0.5}), "space.json")


@pytest.mark.parametrize("network", ["deep_v1", "rnn_v1"])
def test_the_ranges_beside_the_defaults_are_a_space_that_holds_the_defaults(network: str) -> None:
    content = automatic_space(network)
    of = check_space(content, "auto", network, {network: network})
    assert {"learning_rate", "hidden_units", "dropout"} <= set(of.settings)
    for name, values in of.settings.items():
        default = space.config_class(network).__dataclass_fields__[name].default
        if isinstance(values, Range):
            assert values.low <= default <= values.high
        else:
            assert json.loads(json.dumps(default)) in values
