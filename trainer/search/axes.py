"""The axis of a setting or a metric in a picture: the place of each value, and the ticks."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import MaxNLocator

from trainer.search.space import Range
from trainer.search.table import value_text

LABEL = 14  # letters of a tick
TICKS = 6  # on an axis of numbers
LISTED = 12  # values of a list that get a tick each
SHOWN = 0.75  # quantile of a metric, from the best on, that is drawn to scale


class Axis(NamedTuple):
    """From low to high, in places: the logarithm of a value, the value, or its number in a list."""

    name: str
    low: float
    high: float
    values: Sequence[Any] | None = None  # the list; None: numbers
    log: bool = False

    def place(self, value: Any) -> float | None:
        """The place of a value; None if it has none."""
        if self.values is not None:
            return float(self.values.index(value)) if value in self.values else None
        if value is None:
            return None
        return math.log10(value) if self.log else float(value)

    def share(self, value: Any) -> float | None:
        """The place of a value as a share of the axis, within its ends."""
        place = self.place(value)
        return None if place is None else min(max((place - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self, most: int = TICKS) -> list[tuple[float, str]]:
        """Places and their labels."""
        if self.values is not None:
            step = math.ceil(len(self.values) / LISTED)
            return [(float(at), label(value)) for at, value in list(enumerate(self.values))[::step]]
        if self.log:
            return [(math.log10(value), f"{value:g}") for value in log_ticks(10**self.low, 10**self.high, most)]
        values = MaxNLocator(nbins=most - 1).tick_values(self.low, self.high)
        return [(float(value), f"{value:.6g}") for value in values if self.low <= value <= self.high]


def axis_of(name: str, values: list[Any] | Range) -> Axis:
    """The axis of a setting. A list of numbers is in the order of their size."""
    if isinstance(values, Range):
        low, high = (math.log10(values.low), math.log10(values.high)) if values.log else (values.low, values.high)
        return Axis(name, low, high, None, values.log)
    ordered = sorted(values, key=lambda value: (not isinstance(value, int | float), value if
                     isinstance(value, int | float) else 0))  # fmt: skip
    return Axis(name, -0.5, len(values) - 0.5, ordered)


def metric_axis(name: str, values: Sequence[float], *, higher_is_better: bool) -> Axis:
    """The axis of a metric: bad trials, which would press the others together, are beyond its end."""
    sign = -1.0 if higher_is_better else 1.0
    ordered = sorted(sign * value for value in values)
    best, worst = ordered[0], ordered[-1]
    typical = ordered[math.ceil(SHOWN * (len(ordered) - 1))]
    end = min(worst, typical + 0.5 * (typical - best))
    margin = 0.06 * (end - best) or 0.01 * abs(best) or 1e-3
    low, high = sorted((sign * (best - margin), sign * (end + margin)))
    return Axis(name, low, high)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two others."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [
        [digit * 10.0**power for power in powers for digit in digits] for digits in ((1, 2, 5), (1, 3), (1,))
    ] + [[10.0**power for power in powers[::step]] for step in (2, 3)]  # fmt: skip
    inside = [[value for value in values if low * 0.999 <= value <= high * 1.001] for values in choices]
    found = next((values for values in inside if 2 <= len(values) <= most), [])
    return found or [low, high]


def label(value: Any) -> str:
    """The label of a value of a list."""
    text = value_text(value)
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"
