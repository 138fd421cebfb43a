"""The page of `fab check-data`: what it says about means, tails, drift and keys."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inspection.test_inspect import by_name, config, write
from tests.package.test_report import read
from trainer.inspection.inspect import inspect
from trainer.inspection.page import card, page, tails
from trainer.inspection.profile import Inspection
from trainer.inspection.text import print_inspection


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"r{number}", "y": float(rng.beta(2, 12)), "shown": int(rng.integers(1, 500)),
         "size": float(rng.lognormal(0, 2)), "count": int(rng.geometric(0.01))}
        for number in range(2000)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("rates")
    columns: dict[str, Any] = {"numeric_columns": ("size", "count"), "weight_column": "shown"}
    return inspect(config(**columns), {"train": write(folder, rows)})


def text_of(inspection: Inspection) -> str:
    return " ".join(read(page(inspection, "it")).text.split())


def test_every_mean_label_is_called_weighted_or_not(
    rates: Inspection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = text_of(rates)
    assert "training rows, weighted by shown" in shown
    assert "mean, unweighted" in shown
    assert "Mean label, weighted" in shown
    assert "Mean labels are weighted by shown, unless they are called unweighted." in shown
    print_inspection(rates)
    printed = capsys.readouterr().out
    assert "unweighted mean 0.1" in printed
    assert printed.count("weighted mean label") == 3
    without = inspect(
        config(numeric_columns=("x",)), {"train": write(tmp_path, ({"y": n % 2, "x": n / 7} for n in range(200)))}
    )
    assert "weighted" not in text_of(without)


def test_the_page_shows_the_advice_about_a_key(rates: Inspection) -> None:
    assert rates.key_advice
    assert rates.key_advice in text_of(rates)


@pytest.mark.parametrize("name", ["size", "count"])
def test_the_tails_of_a_histogram_are_named(rates: Inspection, name: str) -> None:
    profile = by_name(rates)[name]
    (below, _), (above, highest) = profile.histogram.beyond
    assert above >= 8  # half a percent of 2,000 rows, less those between the quantile and the bin's end
    assert (name, bool(below)) in {("size", True), ("count", False)}
    assert tails(profile.histogram).endswith(f"{above} rows above, up to {highest}.")
    assert tails(profile.histogram) in text_of(rates)
    assert sum(profile.histogram.totals) == 2000


def test_a_histogram_without_tails_names_none(tmp_path: Path) -> None:
    rows = ({"y": n % 2, "x": n % 5, "z": 1 + n % 40} for n in range(400))
    profiles = by_name(inspect(config(numeric_columns=("x", "z")), {"train": write(tmp_path, rows)}))
    assert [tails(profiles[name].histogram) for name in ("x", "z")] == ["", ""]


def test_drift_stands_beside_its_level_of_chance_and_is_explained(rates: Inspection) -> None:
    distance, chance = by_name(rates)["size"].drift["test"]
    assert card(by_name(rates)["size"])["figures"]["drift, test"] == f"{distance:.1%} (chance {chance:.1%})"
    assert "chance: as far as two random samples of these sizes differ." in text_of(rates)


def test_the_classes_of_a_label_are_not_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"y": ["a", "b", "c"][: 1 + n % 3], "x": n / 7} for n in range(300)]
    inspection = inspect(config(objective="multilabel", numeric_columns=("x",)), {"train": write(tmp_path, rows)})
    print_inspection(inspection)
    assert "truncated" not in capsys.readouterr().out
    assert not any(name.startswith("over ") for name in card(by_name(inspection)["y"])["figures"])
