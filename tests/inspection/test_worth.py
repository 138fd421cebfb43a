"""A model that is far worse than the best constant prediction is no package; one that is merely bad is."""

from pathlib import Path

import pytest

from networks.deep_v1 import Config
from tests.commands import SAMPLE, trainer
from trainer.inspection.run_warnings import check_worth
from trainer.package.archive import read_package
from trainer.runtime.errors import DivergedError

BASELINE = {"train": 0.40, "validation": 0.42, "test": 0.42}
FAR = {"train": 21.0, "validation": 20.0, "test": 21.7}


def check(losses: dict[str, float], *, auc: float = 0.4, scale: float = 1.0, **more: object) -> None:
    best = {side: {"loss": loss * scale, "auc": auc} for side, loss in losses.items()}
    constants = {side: {"loss": BASELINE[side] * scale, "auc": 0.5} for side in losses}
    check_worth(Config(**more), best, constants)  # type: ignore[arg-type]


def test_a_loss_far_above_that_of_the_constant_on_every_set_is_refused() -> None:
    message = r"far worse than .* test 21\.7 against 0\.42\. Lower learning_rate, which is 100, .* allow_worse=true"
    with pytest.raises(DivergedError, match=message):
        check(FAR, learning_rate=100.0)
    with pytest.raises(DivergedError):
        check(FAR, stopping_metric="auc")
    check(FAR, allow_worse=True)


def test_what_is_bad_or_bad_by_chance_or_ranks_well_is_packaged() -> None:
    check(BASELINE)
    check({side: 1.9 * loss for side, loss in BASELINE.items()})
    check(FAR | {"train": 0.1})  # it memorises the training rows
    check(FAR | {"test": 0.5})
    check(FAR, stopping_metric="auc", auc=0.8)
    check({side: 5 * loss for side, loss in BASELINE.items()}, scale=1e-4)  # all labels are the same


def test_a_run_that_diverged_is_no_package_unless_it_may_be(tmp_path: Path) -> None:
    settings = {"NET_LEARNING_RATE": "100", "NET_EPOCHS": "2", "NET_TOKENIZER": "regex", "NET_HIDDEN_UNITS": "[8]"}
    done = trainer(tmp_path, f"--data={SAMPLE}", "--run=it", **settings)
    assert done.code == 5
    assert done.err.startswith("error: Training diverged: the best epoch is far worse than the same prediction")
    assert not (tmp_path / "packages" / "it.zip").exists()
    done = trainer(tmp_path, f"--data={SAMPLE}", "--run=it", **settings, NET_ALLOW_WORSE="true")
    assert (done.code, done.err) == (0, "")
    assert "resume" in done.out
    assert read_package(tmp_path / "packages" / "it.zip")
