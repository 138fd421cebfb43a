"""Find numbers that stand for something else: 9999, -1 or 2147483647 where a value is unknown.

Such a number is far outside all others, or it is the only negative one. How far is measured by the reach of the others:
from their median to the last one before the gap, and at least a spread (see `scale.spread_of`).
"""

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.features.scale import spread_of

# The gap, in reaches, before a number that counts as a sentinel: before any, a repeated one, a familiar one.
FAR_ANYWAY, FAR_REPEATED, FAR_FAMILIAR = 1000.0, 10.0, 0.5
FEW = 3  # different numbers in one place outside
MOST_ROWS = 0.05  # of all, where there are more different ones
MIN_OTHERS = 10  # different numbers beside the only negative one
FAMILIAR = re.compile(r"-?(99+|9\.9+|999+\.9+)")
LARGEST = [float(2**bits - 1) for bits in (15, 16, 31, 32, 53, 63, 64)]  # as float64 holds them

Array = npt.NDArray[Any]


class Sentinel(NamedTuple):
    """Rows with numbers outside all others."""

    low: float
    high: float  # the same where all rows have one number
    rows: int
    least: float  # of all other numbers
    most: float


def sentinels(numbers: Array) -> list[Sentinel]:
    """The numbers of a column that seem to stand for a missing value or for an error. numbers: [rows], may have NaN."""
    values, counts = np.unique(numbers[~np.isnan(numbers)], return_counts=True)
    if len(values) < FEW:
        is_apart = len(values) > 1 and _is_largest(values[1])
        return _grouped(values[1:], counts[1:], (float(values[0]), float(values[0]))) if is_apart else []
    middle, spread = spread_of(values, counts)
    centre = min(int(np.searchsorted(values, middle)), len(values) - 1)
    first, last = 0, len(values)  # of the others
    groups = []
    if (after := _above(values[centre:] - middle, values[centre:], counts[centre:], spread, counts.sum())) is not None:
        last = centre + after
        groups.append(slice(last, len(values)))
    below = slice(centre, None, -1)
    if (after := _above(middle - values[below], values[below], counts[below], spread, counts.sum())) is not None:
        first = centre - after + 1
        groups.append(slice(0, first))
    elif _is_only_negative(values[:last], int(counts[0])):
        first = 1
        groups.append(slice(0, 1))
    others = (float(values[first]), float(values[last - 1]))
    return [sentinel for group in groups for sentinel in _grouped(values[group], counts[group], others)]


def _above(distances: Array, values: Array, counts: Array, spread: float, rows: int) -> int | None:
    """Where the numbers begin that are far from the middle: an index; None if there are none.

    distances: of the values from the middle, ascending.
    """
    gaps = np.diff(distances) / np.maximum(np.maximum(distances[:-1], spread), 1e-300)
    for at in np.flatnonzero(gaps > FAR_FAMILIAR) + 1:
        outside, outside_counts = values[at:], counts[at:]
        if len(outside) > FEW:
            if gaps[at - 1] > FAR_ANYWAY and outside_counts.sum() <= MOST_ROWS * rows:
                return int(at)
            continue
        if gaps[at - 1] > FAR_ANYWAY or (gaps[at - 1] > FAR_REPEATED and outside_counts.min() > 1):
            return int(at)
        if all(map(_is_familiar, outside)):
            return int(at)
    return None


def _is_only_negative(values: Array, rows: int) -> bool:
    """Whether the first of some numbers is -1 or a familiar one, in several rows, and all others are 0 or more."""
    usual = values[0] == -1 or _is_familiar(values[0])
    return bool(usual and values[0] < 0 <= values[1] and len(values) > MIN_OTHERS and rows > 1)


def _is_familiar(number: float) -> bool:
    """Whether this is nines, or the largest or smallest number of a type, as programs and people write "unknown"."""
    text = np.format_float_positional(number, trim="-")
    return _is_largest(number) or -number - 1 in LARGEST or bool(FAMILIAR.fullmatch(text))


def _is_largest(number: float) -> bool:
    return abs(number) in LARGEST


def _grouped(values: Array, counts: Array, others: tuple[float, float]) -> list[Sentinel]:
    """A sentinel for each of a few numbers, or one for all of them."""
    if len(values) > FEW:
        return [Sentinel(float(values[0]), float(values[-1]), int(counts.sum()), *others)]
    return [
        Sentinel(float(value), float(value), int(count), *others) for value, count in zip(values, counts, strict=True)
    ]
