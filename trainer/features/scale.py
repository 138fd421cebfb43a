"""Standardise numbers: subtract the mean of the training rows and divide by their standard deviation, in float64."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainer.runtime.errors import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of values, after log(1 + x) for the role log_numeric; `std` is 1 if all are equal."""

    mean: float
    std: float


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


def standardised(numbers: Array, scale: Scale) -> npt.NDArray[np.float32]:
    """float32 [rows, 2]: (standardised value or 0, 1 if missing else 0), computed in float64."""
    missing = np.isnan(numbers)
    standard = np.clip((numbers - scale.mean) / scale.std, -FLOAT32_MAX, FLOAT32_MAX)
    return np.stack([np.where(missing, 0.0, standard), missing], axis=1).astype(np.float32)
