"""Scale numbers by their distribution in the training rows, in float64, so that outliers do no harm."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.runtime.errors import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)
NORMAL = 1.4826  # standard deviations of a normal distribution in the median distance from its median
SMALLEST, ENDLESS = 1e-200, 1e300  # spreads: the smallest one, and one beside which all numbers are equal

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """How numbers become a feature, after log(1 + x) for the role log_numeric.

    Their distance from `middle` in units of `spread` is squeezed into -limit to limit (None: left as it is) and then
    standardised with `mean` and `std`. A label has only these two.
    """

    mean: float
    std: float
    middle: float = 0.0
    spread: float = 1.0
    limit: float | None = None


def numbers_of(column: pd.Series, role: str) -> Array:
    """float64 [rows], NaN where missing; log(1 + x) for the role log_numeric. DataError for its negative numbers."""
    numbers = column.to_numpy(np.float64)
    if role == "numeric":
        return numbers
    if (numbers < 0).any():
        raise DataError(
            f"Column {column.name!r} is log_numeric, but holds negative numbers, such as {np.nanmin(numbers):g}. Only "
            "numbers >= 0 have log(1 + x): correct them, or make the column numeric."
        )
    return np.asarray(np.log1p(numbers))


def total_of(numbers: Array) -> float:
    """The sum, with the same bits for the same numbers in any order."""
    return float(np.sort(numbers).sum())


def scale_of(numbers: Array, weights: Array | None = None) -> Scale:
    """(Weighted) mean and population standard deviation of the numbers that are not NaN."""
    present = ~np.isnan(numbers)
    numbers = numbers[present]
    weights = np.ones(len(numbers)) if weights is None else weights[present]
    if not len(numbers):
        return Scale(0.0, 1.0)
    if numbers.min() == numbers.max():  # otherwise rounding errors look like a deviation
        return Scale(float(numbers[0]), 1.0)
    total = total_of(weights)
    mean = total_of(weights * numbers) / total
    return Scale(mean, math.sqrt(total_of(weights * (numbers - mean) ** 2) / total) or 1.0)


def feature_scale(numbers: Array, limit: float | None) -> Scale:
    """The scale of a feature, from the numbers of the training rows that are not NaN.

    Neither a few extreme numbers nor one that stands for "unknown" or "none" in many rows can hide the differences
    between the others. limit: see `Scale`; None: the mean and standard deviation of the numbers themselves. Where all
    rows have the same number, others tell nothing: they count as equal to it.
    """
    ascending = np.sort(numbers[~np.isnan(numbers)])
    if not len(ascending):
        return Scale(0.0, 1.0)
    if ascending[0] == ascending[-1]:
        return Scale(0.0, 1.0, float(ascending[0]), ENDLESS)
    if limit is None:
        return scale_of(ascending)
    middle, spread = spread_of(*np.unique(ascending, return_counts=True))
    squeezed = _squeezed(ascending, Scale(0.0, 1.0, middle, spread, limit))
    return Scale(**vars(scale_of(squeezed)) | {"middle": middle, "spread": spread, "limit": limit})


def spread_of(values: Array, counts: Array) -> tuple[float, float]:
    """The middle and the spread of numbers, of which the most frequent one is left out.

    The middle is their median. The spread is the median of their distances from it, without those of 0, times what
    makes it the standard deviation of a normal distribution. values: different numbers, ascending; counts: of each.
    """
    most = int(counts.argmax())
    others, rows = np.delete(values, most), np.delete(counts, most)
    middle = _median(others, rows)
    distances = np.abs(others - middle)
    order = np.argsort(distances, kind="stable")
    apart = order[distances[order] > 0]
    spread = NORMAL * _median(distances[apart], rows[apart]) if len(apart) else abs(middle - float(values[most]))
    return middle, max(spread, SMALLEST)


def _median(ascending: Array, counts: Array) -> float:
    """The (lower) median of sorted numbers, each of which occurs `counts` times."""
    reached = np.cumsum(counts)
    return float(ascending[np.searchsorted(reached, (reached[-1] + 1) // 2)])


def standardised(numbers: Array, scale: Scale) -> npt.NDArray[np.float32]:
    """float32 [rows, 2]: (scaled value or 0, 1 if missing else 0), computed in float64."""
    missing = np.isnan(numbers)
    with np.errstate(over="ignore"):  # infinite numbers are clipped
        standard = np.clip((_squeezed(numbers, scale) - scale.mean) / scale.std, -FLOAT32_MAX, FLOAT32_MAX)
    return np.stack([np.where(missing, 0.0, standard), missing], axis=1).astype(np.float32)


def _squeezed(numbers: Array, scale: Scale) -> Array:
    """Distances from the middle in units of the spread; the larger one is, the more it is squeezed."""
    distances = np.clip((numbers - scale.middle) / scale.spread, -FLOAT32_MAX, FLOAT32_MAX)
    return distances if scale.limit is None else distances / np.sqrt(1.0 + (distances / scale.limit) ** 2)
