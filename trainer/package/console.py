"""The lines that a run prints: its epochs, warnings, results and where they are."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.net_config import NetConfig
from trainer.package.report import BASELINES
from trainer.package.shown import main_metrics
from trainer.runtime.command import count, say, say_file
from trainer.training import loop

if TYPE_CHECKING:
    from trainer.package.artefacts import TrainedRun

LINE_WIDTH = 100  # columns of the last lines of a run


def warn(warnings: list[str]) -> list[str]:
    """Print warnings; returns them."""
    for warning in warnings:
        say("warning", warning)
    return warnings


def summary(metrics: Mapping[str, float]) -> str:
    """The main metrics: `loss 0.3633, auc 0.7104`."""
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in main_metrics(list(metrics)))


def say_end(run: "TrainedRun", folder: Path, package: str, difference: float) -> None:
    """Print the metrics of the last set, those of the best constant prediction, and where the results are."""
    side, rows = list(run.tables)[-1], len(run.prepared.held_out)
    say_lines("best", f"epoch {run.history.best_epoch}: {side} {summary(run.history.best_metrics(side))}")
    say_lines("baseline", f"{BASELINES[run.settings.config.objective]}: {side} {summary(run.constant)}")
    say("verified", f"{rows:,} rows, package against model: largest difference {difference:.1g}")
    say_file("report", folder / "report.html")
    say("package", package)


def say_finished(config: NetConfig, history: loop.History, folder: Path, package: str | None) -> None:
    """Print the metrics of a run that is finished, and how to go on. package: None if it has none yet."""
    side = "test" if "test_loss" in history.best else "validation"
    epochs = count(len(history.rows), "epoch")
    say_lines("finished", f"{epochs}, best epoch {history.best_epoch}: {side} {summary(history.best_metrics(side))}")
    if package is None:
        return say_lines("next", f"--run={folder.name} without --no-package writes the package")
    if (report := folder / "report.html").exists():  # not on another machine
        say_file("report", report)
    say("package", package)
    early = len(history.rows) < config.epochs
    more = f"a patience above {config.patience}" if early else f"epochs above {config.epochs}"
    possible = early or config.decay == "none"  # with a decay, the learning rate depends on the number of epochs
    say_lines("next", f"--restart trains again{f', --set with {more} goes on' * possible}")


def say_lines(stage: str, text: str) -> None:
    """Print text as `say` does, on as many lines of 100 columns as it needs."""
    for line in textwrap.wrap(text, LINE_WIDTH - 9, break_long_words=False, break_on_hyphens=False):
        say(stage, line)
        stage = ""


def say_epoch(config: NetConfig, history: loop.History) -> None:
    """Print the loss of each set after the last epoch and the speed of training; below, another stopping metric."""
    row = history.rows[-1]
    sides = [side for side in ("train", "validation", "test") if f"{side}_loss" in row]
    metrics = dict.fromkeys(("loss", config.stopping_metric))
    metrics.pop("log_loss", None)  # is the loss
    figures = {metric: [f"{side} {compact(row[f'{side}_{metric}'])}" for side in sides] for metric in metrics}
    lines = [f"{metric} {'  '.join(of_sides)}" for metric, of_sides in figures.items()]
    if not math.isnan(history.rows_per_second):
        lines[0] += f"  training {history.rows_per_second:,.0f} rows/s"
    say("epoch", f"{row['epoch']:>3}  {lines[0]}")
    for line in lines[1:]:
        say("", f"     {line}")


def compact(value: float) -> str:
    """A metric with five decimals; one that needs more digits with four significant ones."""
    return f"{value:.5f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"
