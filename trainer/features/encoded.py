"""Encoded rows as four arrays, in memory or in files: what training reads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.features import DatasetShapes
from trainer.features.preprocessing import (
    LABEL,
    WEIGHT,
    Columns,
    Examples,
    Preprocessing,
    feature_encoder,
    label_of,
)

CHUNK_ROWS = 2**17  # encoded at a time: decides memory and speed, never the result

Array = npt.NDArray[Any]


class Packed(NamedTuple):
    """Examples as four arrays, so that a batch is four gathers however many features there are."""

    ids: Array  # int32 [rows, all id columns], see `DatasetShapes.id_widths`
    numbers: Array  # float32 [rows, 2 * numeric columns]
    labels: Array  # as in Examples; zeros where there are none
    weights: Array  # float32 [rows]


def pack(examples: Examples, shapes: DatasetShapes) -> Packed:
    """Examples as four arrays; without labels they are zeros, for prediction, and all weights 1."""
    rows = len(next(iter(examples.values())))
    ids = [examples[column].reshape(rows, -1) for column in shapes.id_widths]
    numbers = [examples[column] for column in shapes.numeric]
    return Packed(
        np.concatenate(ids, axis=1) if ids else np.zeros((rows, 0), np.int32),
        np.concatenate(numbers, axis=1) if numbers else np.zeros((rows, 0), np.float32),
        examples.get(LABEL, np.zeros(rows, np.float32)),
        examples.get(WEIGHT, np.ones(rows, np.float32)),
    )


def pack_rows(
    preprocessing: Preprocessing, frame: Columns, rows: Array, empty: Callable[..., Array], prefix: str
) -> Packed:
    """The packed examples of some rows of a labelled frame, on all cores and in bounded memory.

    empty: makes the arrays to fill, from (prefix and name, shape, dtype): in memory, or in a file.
    """
    shapes, labels = preprocessing.shapes(), label_of(preprocessing, frame, rows)
    packed = Packed(
        empty(f"{prefix}ids", (len(rows), sum(shapes.id_widths.values())), np.int32),
        empty(f"{prefix}numbers", (len(rows), 2 * len(shapes.numeric)), np.float32),
        empty(f"{prefix}labels", labels[LABEL].shape, labels[LABEL].dtype),
        empty(f"{prefix}weights", (len(rows),), np.float32),
    )
    packed.labels[:], packed.weights[:] = labels[LABEL], labels[WEIGHT]
    encode = feature_encoder(preprocessing, frame)

    def fill(start: int) -> None:
        chunk = slice(start, start + CHUNK_ROWS)
        packed.ids[chunk], packed.numbers[chunk], *_ = pack(encode(rows[chunk]), shapes)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(rows), CHUNK_ROWS)))
    return packed


def warnings_of(train: Packed, shapes: DatasetShapes) -> list[str]:
    """A sentence for each feature, and for the label, that is the same in all training rows."""
    borders = np.cumsum(list(shapes.id_widths.values()))[:-1]
    same = dict(zip(shapes.id_widths, np.split(_constant(train.ids), borders), strict=False))
    same |= dict(zip(shapes.numeric, _constant(train.numbers).reshape(-1, 2), strict=True))
    found = [
        f"Column {column!r} is the same in all training rows, rare values counted as one: it teaches nothing."
        for column, constant in same.items()
        if constant.all()
    ]
    if _constant(train.labels.reshape(len(train.labels), -1)).all():
        found.append(
            "All training rows have the same label: there is nothing else to learn. Check the label column and the "
            "split."
        )
    return found


def _constant(values: Array) -> npt.NDArray[np.bool_]:
    """bool [columns]: which columns hold one value in all rows."""
    same = np.ones(values.shape[1], bool)
    for start in range(0, len(values), CHUNK_ROWS):
        same &= (values[start : start + CHUNK_ROWS] == values[:1]).all(axis=0)
        if not same.any():
            break
    return same
