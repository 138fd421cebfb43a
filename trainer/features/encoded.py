"""Encode rows as four arrays, in memory or in files, which training reads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.features import DatasetShapes
from trainer.features.preprocessing import LABEL, WEIGHT, Columns, Examples, Preprocessing, feature_encoder, label_of
from trainer.features.vocabulary import OOV_ID, PADDING_ID

CHUNK_ROWS = 2**17  # encoded at a time: decides memory and speed, never the result

Array = npt.NDArray[Any]


class EncodedRows(NamedTuple):
    """Encoded rows in four arrays, so that a batch needs only four gathers, however many features there are."""

    ids: Array  # int32 [rows, all id columns], see `DatasetShapes.id_widths`
    numbers: Array  # float32 [rows, 2 * numeric columns]
    labels: Array  # as in Examples; zeros where there are none
    weights: Array  # float32 [rows]


def to_encoded_rows(examples: Examples, shapes: DatasetShapes) -> EncodedRows:
    """Join the arrays of `Examples`; without a label, as for prediction, all labels are 0 and all weights 1."""
    rows = len(next(iter(examples.values())))
    ids = [examples[column].reshape(rows, -1) for column in shapes.id_widths]
    numbers = [examples[column] for column in shapes.numeric]
    return EncodedRows(
        np.concatenate(ids, axis=1) if ids else np.zeros((rows, 0), np.int32),
        np.concatenate(numbers, axis=1) if numbers else np.zeros((rows, 0), np.float32),
        examples.get(LABEL, np.zeros(rows, np.float32)),
        examples.get(WEIGHT, np.ones(rows, np.float32)),
    )


def encode_rows(
    preprocessing: Preprocessing, frame: Columns, rows: Array, empty: Callable[..., Array], prefix: str
) -> EncodedRows:
    """Encode some rows of a labelled frame on all cores, CHUNK_ROWS at a time.

    rows: positions, int64. empty: makes an array to fill, in memory or in a file, from (name, shape, dtype); the names
    begin with the prefix.
    """
    shapes, labels = preprocessing.shapes(), label_of(preprocessing, frame, rows)
    encoded = EncodedRows(
        empty(f"{prefix}ids", (len(rows), sum(shapes.id_widths.values())), np.int32),
        empty(f"{prefix}numbers", (len(rows), 2 * len(shapes.numeric)), np.float32),
        empty(f"{prefix}labels", labels[LABEL].shape, labels[LABEL].dtype),
        empty(f"{prefix}weights", (len(rows),), np.float32),
    )
    encoded.labels[:], encoded.weights[:] = labels[LABEL], labels[WEIGHT]
    encode = feature_encoder(preprocessing, frame)

    def fill(start: int) -> None:
        chunk = slice(start, start + CHUNK_ROWS)
        encoded.ids[chunk], encoded.numbers[chunk], *_ = to_encoded_rows(encode(rows[chunk]), shapes)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, len(rows), CHUNK_ROWS)))
    return encoded


def constant_column_warnings(train: EncodedRows, shapes: DatasetShapes) -> list[str]:
    """Warnings about features, and a label, that are the same in all training rows."""
    borders = np.cumsum(list(shapes.id_widths.values()))[:-1]
    same = dict(zip(shapes.id_widths, np.split(_constant(train.ids), borders), strict=False))
    same |= dict(zip(shapes.numeric, _constant(train.numbers).reshape(-1, 2), strict=True))
    warnings = [
        f"Column {column!r} has the same value in all training rows (values below min_count count as one). "
        "Leave it out."
        for column, constant in same.items()
        if constant.all()
    ]
    if _constant(train.labels.reshape(len(train.labels), -1)).all():
        warnings.append(
            "All training rows have the same label, so there is nothing to learn. Check the label column and the split."
        )
    return warnings


def single_token_shares(train: EncodedRows, preprocessing: Preprocessing) -> dict[str, tuple[float, float]]:
    """By text column, the share of the training texts that are a single token, and of these the share out of
    vocabulary."""
    shapes = preprocessing.shapes()
    first = dict(zip(shapes.id_widths, np.cumsum([0, *shapes.id_widths.values()]), strict=False))
    shares = {}
    for column in shapes.text:
        ids = train.ids[:, first[column] : first[column] + 2]
        texts = ids[:, 0] >= OOV_ID
        single = texts & (ids[:, 1] == PADDING_ID) if shapes.id_widths[column] > 1 else texts
        count = max(int(single.sum()), 1)
        shares[column] = (count / max(int(texts.sum()), 1), float((ids[single, 0] == OOV_ID).sum()) / count)
    return shares


def _constant(values: Array) -> npt.NDArray[np.bool_]:
    """Which columns hold the same value in all rows: bool [columns]."""
    same = np.ones(values.shape[1], bool)
    for start in range(0, len(values), CHUNK_ROWS):
        same &= (values[start : start + CHUNK_ROWS] == values[:1]).all(axis=0)
        if not same.any():
            break
    return same
