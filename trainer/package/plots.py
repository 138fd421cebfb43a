"""Plot the metrics of a run, its predictions, and how they agree with the labels.

Drawn through matplotlib's objects, without pyplot and its global state; equal values give equal bytes. Colours are
those of Okabe and Ito (Color Universal Design, 2008), which every kind of colour vision tells apart.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from trainer.package.shown import main_metrics, metric_name
from trainer.runtime.system import write_atomic

EpochRow = Mapping[str, float]
Curve = Mapping[str, Sequence[float]]

SIDES = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
DASHES: dict[str, str | tuple[int, tuple[float, ...]]] = {"train": "-", "validation": "-", "test": (0, (4, 2))}
CERTAIN = 21.0  # log-odds of a billion to one
DOTS = (0, (1, 2))
SMALL_RATE = 0.05  # below it, rates are compared by their ratio
INK, FAINT, PALE = "#30353b", "#8b929a", "#dfe3e7"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures do not depend on the machine's fonts
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),  # so that no label is wider than its margin
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


def plot_metrics(path: Path, history: Sequence[EpochRow], best_epoch: int) -> None:
    """A PNG with a panel for each main metric: its curve over the epochs for each side, the best epoch marked.

    history: a row per epoch, with `epoch` and metrics named SIDE_METRIC.
    """
    names = [key.removeprefix("validation_") for key in history[0] if key.startswith("validation_")]

    panels = main_metrics(names)

    def draw(figure: Figure) -> None:
        axes = list(figure.subplots(math.ceil(len(panels) / 2), 2, squeeze=False).flat)
        for axis, metric in zip(axes, panels, strict=False):
            _draw_curves(axis, history, metric, best_epoch)
        for axis in axes[len(panels) :]:
            axis.remove()
        for axis in axes[max(len(panels) - 2, 0) : len(panels)]:
            axis.set_xlabel("epoch")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper right", ncols=len(labels))

    rows = math.ceil(len(panels) / 2)
    _save(path, draw, Layout(8, 2.6 * rows + 0.4, left=0.65, top=0.65, columns=2, rows=rows))


def _draw_curves(axis: Axes, history: Sequence[EpochRow], metric: str, best_epoch: int) -> None:
    epochs = [row["epoch"] for row in history]
    if metric == "calibration":
        axis.axhline(1, color=FAINT, linewidth=1)
    for side, colour in SIDES.items():
        values = [row.get(f"{side}_{metric}", math.nan) for row in history]
        marker = "o" if len(history) <= 12 else ""
        if any(map(math.isfinite, values)):
            axis.plot(epochs, values, color=colour, linestyle=DASHES[side], marker=marker, markersize=3.5, label=side)
    axis.axvline(best_epoch, color=FAINT, linewidth=1, linestyle=DOTS, label=f"best epoch {best_epoch}")
    axis.set_title(metric_name(metric), pad=8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.set_xlim(0.5, max(epochs) + 0.5)


def plot_reliability(path: Path, curves: Mapping[str, Curve]) -> None:
    """A PNG with the reliability diagram of each side, and below it the distribution of the last set's weight.

    curves: by side, as `Metrics.reliability` returns them. Axes are logarithmic where rates are small.
    """
    values = np.concatenate([np.concatenate([curve["prediction"], curve["label"]]) for curve in curves.values()])
    rates = values[values > 0] if (values > 0).any() else np.array([0.01, 1.0])
    scale = "log" if rates.min() < SMALL_RATE else "linear"

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
        above.axline((0.1, 0.1), (0.9, 0.9), color=FAINT, linewidth=1, linestyle=DOTS)
        for side, curve in curves.items():
            above.plot(
                curve["prediction"], curve["label"], color=SIDES[side], linestyle=DASHES[side], marker="o",
                markersize=3.5, linewidth=1.2, label=side,
            )  # fmt: skip
        limits = _with_margin(rates, scale)
        above.set(xscale=scale, yscale=scale, xlim=limits, ylim=limits, title="Observed rate by predicted rate")
        subs = (1, 2, 5) if limits[1] < 1000 * limits[0] else (1,)
        for axis in (above.xaxis, above.yaxis):
            axis.set_major_locator(LogLocator(subs=subs) if scale == "log" else MaxNLocator(nbins=6))
            axis.set_major_formatter(FuncFormatter(_percent))
            axis.set_minor_formatter(NullFormatter())
        above.legend(loc="upper left")
        side, curve = list(curves.items())[-1]
        _draw_density(below, np.array(curve["prediction"]), np.array(curve["weight"]), scale, SIDES[side])
        below.set(xlabel="predicted rate", ylabel=f"{side}\nweight")

    _save(path, draw, Layout(5.6, 5.8, right=0.4, rows=2, row_gap=0.15))


def _with_margin(rates: NDArray[np.float64], scale: str) -> tuple[float, float]:
    low, high = float(rates.min()), float(rates.max())
    if scale == "log":
        margin = max((high / low) ** 0.05, 1.1)
        return low / margin, high * margin
    margin = max(0.05 * (high - low), 0.01)
    return low - margin, high + margin


def _draw_density(
    axis: Axes, predictions: NDArray[np.float64], weights: NDArray[np.float64], scale: str, colour: str
) -> None:
    """Bars from half-way to half-way between predictions, whose areas are the weights."""
    if len(predictions) > 1:
        places = np.log(predictions) if scale == "log" else predictions
        middles = (places[1:] + places[:-1]) / 2
        edges = np.concatenate([[2 * places[0] - middles[0]], middles, [2 * places[-1] - middles[-1]]])
        heights = weights / np.maximum(np.diff(edges), 1e-12)
        axis.stairs(heights, np.exp(edges) if scale == "log" else edges, fill=True, color=colour, alpha=0.45)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)


def plot_predictions(path: Path, distribution: Curve, side: str) -> None:
    """A PNG with the distribution of the predictions for positive and for negative labels, on the scale of log-odds.

    distribution: "logit" (middles of bins of equal width), "negative" and "positive" (weights), as
    `Metrics.distribution` returns them. side: whose rows they are.
    """
    logits = np.array(distribution["logit"])
    low, high = (max(logits[0], -CERTAIN), min(logits[-1], CERTAIN)) if len(logits) else (-CERTAIN, CERTAIN)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for name, colour in (("negative", FAINT), ("positive", SIDES["validation"])):
            share = np.array(distribution[name]) / max(sum(distribution[name]), 1e-300)
            axis.fill_between(logits, share, step="mid", color=colour, alpha=0.25, linewidth=0)
            axis.step(logits, share, where="mid", color=colour, linewidth=1.4, label=name)
        title = f"Predictions for negative and for positive labels, {side} rows: share of each label"
        axis.set(title=title, xlabel="predicted rate", ylim=(0, None))
        axis.set_xlim(low, high)
        rates = _round_rates(1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-high)))
        axis.set_xticks([math.log(rate / (1 - rate)) for rate in rates], [_percent(rate, None) for rate in rates])
        axis.yaxis.set_major_formatter(FuncFormatter(_percent))
        axis.legend(loc="upper right")

    _save(path, draw, Layout(8, 3.2, right=0.4))


def _round_rates(low: float, high: float) -> list[float]:
    """Round probabilities between two others, at most eight."""
    for digits, step in (((1, 2, 5), 1), ((1,), 1), ((1,), 3)):
        small = [digit * 10.0**power for power in range(-9, 0, step) for digit in digits if digit * 10.0**power < 0.5]
        rates = [rate for rate in (*small, 0.5, *(1 - rate for rate in reversed(small))) if low <= rate <= high]
        if 2 <= len(rates) <= 8:
            return rates
    rates = [float(rate) for rate in MaxNLocator(nbins=5).tick_values(low, high) if low <= rate <= high]
    return rates or [low, high]


def _percent(rate: float, _: object) -> str:
    """A tick as it is, without rounding: ticks are 2.5% or 0.25% apart as well as 5%."""
    return f"{Decimal(f'{100 * rate:.9g}'):f}%"


class Layout(NamedTuple):
    """The size of a picture, its margins, and the gaps between its panels, in inches.

    Fixed: matplotlib's own layouts draw everything twice, which takes longer than all the rest of a plot.
    """

    width: float
    height: float
    left: float = 0.8
    top: float = 0.35
    right: float = 0.15
    bottom: float = 0.5
    columns: int = 1
    rows: int = 1
    column_gap: float = 0.75
    row_gap: float = 0.6

    def adjust(self, figure: Figure) -> None:
        """Place the panels of a figure."""
        panel_width = (self.width - self.left - self.right - self.column_gap * (self.columns - 1)) / self.columns
        panel_height = (self.height - self.top - self.bottom - self.row_gap * (self.rows - 1)) / self.rows
        figure.subplots_adjust(
            left=self.left / self.width, right=1 - self.right / self.width, wspace=self.column_gap / panel_width,
            bottom=self.bottom / self.height, top=1 - self.top / self.height, hspace=self.row_gap / panel_height,
        )  # fmt: skip


def _save(path: Path, draw: Callable[[Figure], None], layout: Layout) -> None:
    write_atomic(path, png(draw, layout))


def png(draw: Callable[[Figure], None], layout: Layout) -> bytes:
    """A figure as a PNG."""
    with style.context(STYLE, after_reset=True):
        figure = Figure((layout.width, layout.height), dpi=160)
        draw(figure)
        layout.adjust(figure)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi="figure", metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return data.getvalue()
