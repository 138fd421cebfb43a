"""Pictures of a search, in the style of those of a run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.package.plots import DOTS, FAINT, INK, SIDES, Layout, png
from trainer.search.axes import Axis
from trainer.search.history import Step

BLUE, RED, PALE_BLUE = SIDES["train"], SIDES["validation"], "#9cc4de"
COLUMNS = 3  # panels side by side
AXIS_WIDTH = 1.3  # inches between two parallel axes
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it are far from each other
BAND = 0.3  # of a value of a list
NAME = 24  # letters of a name in a picture
GOOD_TO_BAD = LinearSegmentedColormap.from_list("rank", ["#0072B2", "#86b9d8", "#dcd8cd"])
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class Point(NamedTuple):
    """A trial in a picture."""

    number: int
    settings: Mapping[str, Any]
    value: float | None  # its metric; None: it has failed
    complete: bool  # trained to its end

    @property
    def aside(self) -> float:
        """Where it stands among others with the same value of a list, from -0.5 to 0.5."""
        return self.number * GOLDEN % 1 - 0.5


def plot_progress(steps: Sequence[Step], axis: Axis, default: float | None) -> bytes:
    """A PNG with the best metric so far: over the trials, and over the time that they have taken."""
    size, unit = next((pair for pair in UNITS if steps[-1].seconds >= pair[0]), UNITS[-1])
    panels = {
        "trials begun": [float(step.trials) for step in steps],
        f"{unit} of training, all workers together": [step.seconds / size for step in steps],
    }

    def draw(figure: Figure) -> None:
        for panel, (name, places) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            draw_metric_axis(panel, axis, default)
            values = [inside(axis, step.value) for step in steps]
            panel.scatter(places, values, s=9, color=PALE_BLUE, linewidths=0, clip_on=False)
            best = [step.best for step in steps]
            panel.step([*places, max(places)], [*best, best[-1]], where="post", color=BLUE, label="best so far")
            panel.set_xlabel(name)
            panel.set_xlim(0, max(places) * 1.03)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=name.startswith("trials")))
        add_legend(figure, axis.name)

    return png(draw, Layout(8, 3, left=0.7, top=0.45, columns=2, column_gap=0.6))


def add_legend(figure: Figure, title: str) -> None:
    """A title and a legend above all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), handletextpad=0.4, columnspacing=1.2)
    height = figure.get_size_inches()[1]
    figure.text(0.02, 1 - 0.17 / height, title, weight="bold", fontsize=10.5, va="center")


def draw_metric_axis(panel: Axes, axis: Axis, default: float | None) -> None:
    """The limits of the metric, and a line where the default is."""
    panel.set_ylim(axis.low, axis.high)
    panel.yaxis.set_major_locator(MaxNLocator(nbins=5))
    if default is not None:
        panel.axhline(inside(axis, default), color=RED, linewidth=1, linestyle=DOTS, label="default")


def inside(axis: Axis, value: float) -> float:
    """A metric, or the end of the axis that it is beyond."""
    return min(max(value, axis.low), axis.high)


def plot_parallel(
    points: Sequence[Point], settings: Sequence[Axis], metric: Axis, winner: int | None, *, higher_is_better: bool
) -> bytes:
    """A PNG with a line for each trial through its settings to its metric; that of the winner is red.

    points: the best first.
    """
    axes = [*settings, metric]
    drawn = [point for point in points if point.value is not None]

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        panel.set(xlim=(-0.02, len(axes) - 0.98), ylim=(-0.02, 1.02))
        panel.axis("off")
        lines, colours = [], []
        for point in reversed(drawn):
            lines.append(line_of(point, axes))
            good = metric.share(point.value) or 0.0
            colours.append(GOOD_TO_BAD(1 - good if higher_is_better else good))
        width = 1.4 if len(drawn) < 60 else 0.9
        panel.add_collection(LineCollection(lines, colors=colours, linewidths=width, alpha=0.85))
        best = [line_of(point, axes) for point in drawn if point.number == winner]
        panel.add_collection(LineCollection(best, colors=[RED], linewidths=2.4, zorder=3))
        for number, axis in enumerate(axes):
            draw_parallel_axis(panel, number, axis)

    width = max(8.0, AXIS_WIDTH * len(axes))
    return png(draw, Layout(width, 3.9, left=0.75, right=0.85, top=0.55, bottom=0.2))


def line_of(point: Point, axes: Sequence[Axis]) -> list[tuple[float, float]]:
    """The line of a trial; where it does not have a setting, it goes straight on."""
    line = []
    for number, axis in enumerate(axes):
        place = axis.share(point.value if number == len(axes) - 1 else point.settings.get(axis.name))
        if place is not None:
            aside = BAND * point.aside / (axis.high - axis.low) if axis.values is not None else 0.0
            line.append((float(number), place + aside))
    return line


def draw_parallel_axis(panel: Axes, number: int, axis: Axis) -> None:
    """A vertical axis with its ticks and its name."""
    panel.plot([number, number], [0, 1], color=FAINT, linewidth=1, zorder=4)
    for place, text in axis.ticks():
        height = (place - axis.low) / (axis.high - axis.low)
        panel.plot([number - 0.02, number], [height, height], color=FAINT, linewidth=1, zorder=4)
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
        panel.text(number - 0.035, height, text, ha="right", va="center", fontsize=8, zorder=5, bbox=box)
    panel.text(
        number, 1.05 + 0.07 * (number % 2), short(axis.name), ha="center", va="bottom", fontsize=9, weight="bold"
    )


def short(name: str) -> str:
    """A name that fits a picture."""
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def plot_slices(
    points: Sequence[Point], settings: Sequence[Axis], metric: Axis, default: float | None, *, higher_is_better: bool
) -> bytes:
    """A PNG with a panel for each setting: the metric of each trial over its value. Failed trials stand at the edge
    where bad values are."""
    rows = math.ceil(len(settings) / COLUMNS)
    worst = metric.low if higher_is_better else metric.high

    def draw(figure: Figure) -> None:
        panels = list(figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flat)
        for panel, axis in zip(panels, settings, strict=False):
            draw_metric_axis(panel, metric, default)
            draw_slice(panel, points, axis, metric, worst)
        for panel in panels[len(settings) :]:
            panel.remove()
        add_legend(figure, metric.name)

    return png(draw, Layout(8, 2.3 * rows + 0.4, left=0.7, top=0.45, columns=COLUMNS, rows=rows, column_gap=0.3,
                            row_gap=0.62))  # fmt: skip


def draw_slice(panel: Axes, points: Sequence[Point], axis: Axis, metric: Axis, worst: float) -> None:
    """The trials over one setting."""
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("paused early", {"facecolors": "none", "edgecolors": PALE_BLUE, "s": 14}),
        ("complete", {"color": BLUE, "s": 14, "linewidths": 0}),
        ("failed", {"color": RED, "s": 18, "marker": "x", "linewidths": 1.2}),
    )
    for name, look in kinds:
        places = []
        for point in points:
            kind = "failed" if point.value is None else "complete" if point.complete else "paused early"
            place = axis.place(point.settings[axis.name]) if axis.name in point.settings else None
            if kind == name and place is not None:
                place += BAND * point.aside if axis.values is not None else 0.0
                places.append((place, worst if point.value is None else point.value))
        panel.scatter([place for place, _ in places], [inside(metric, value) for _, value in places], clip_on=False,
                      label=name, zorder=3, **look)  # fmt: skip
    ticks = axis.ticks(4)
    panel.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    if axis.values is not None and sum(len(text) for _, text in ticks) > 26:
        panel.tick_params(axis="x", labelrotation=20, labelsize=7)
    margin = 0.03 * (axis.high - axis.low)
    panel.set_xlim(axis.low - margin, axis.high + margin)
    panel.set_xlabel(short(axis.name), color=INK)


def plot_importance(shares: Mapping[str, tuple[float, float]]) -> bytes:
    """A PNG with a bar for each setting: its importance and the standard deviation of that. shares: largest first."""
    names = list(shares)[::-1]

    def draw(figure: Figure) -> None:
        panel = figure.subplots()
        panel.barh([short(name) for name in names], [shares[name][0] for name in names],
                   xerr=[shares[name][1] for name in names], color=PALE_BLUE, ecolor=INK, height=0.6,
                   error_kw={"elinewidth": 1.2, "capsize": 3})  # fmt: skip
        panel.set_xlim(0, None)
        panel.grid(visible=False, axis="y")
        panel.set_xlabel("share of the importance of all settings")

    return png(draw, Layout(8, 0.34 * len(names) + 0.65, left=0.4 + 0.08 * max(map(len, map(short, names))), top=0.1))
