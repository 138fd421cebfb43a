"""Find what features can say at prediction, but hardly any training row says: unknown, missing, empty.

Weights that only such states use would stay at their random start. `trainer.model.hiding` trains them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.features.encoded import CHUNK_ROWS, EncodedRows
from trainer.features.shapes import DatasetShapes
from trainer.features.vocabulary import MISSING_ID, OOV_ID, PADDING_ID

ENOUGH = 20  # training rows that a state needs
KEEP_ID, KEEP_NUMBER = -1, np.nan

Array = npt.NDArray[Any]


class States(NamedTuple):
    """What each state replaces in the encoded row that it is put into; an array has a row for each state."""

    ids: Array  # int32 [states, all id columns]: an id, or KEEP_ID; OOV_ID replaces only ids of values
    numbers: Array  # float32 [states, 2 * numeric columns]: a number, or KEEP_NUMBER


def untrained_states(train: EncodedRows, shapes: DatasetShapes) -> States:
    """The states that fewer than `ENOUGH` training rows have."""
    ids, numbers, start = [], [], 0
    for column, width in shapes.id_widths.items():
        part = slice(start, start + width)
        start += width
        missing = (MISSING_ID, *[PADDING_ID] * (width - 1))
        rare = {
            missing: _is_rare(rows.ids[:, part.start] == MISSING_ID for rows in _chunks(train)),
            (OOV_ID,) * width: _is_rare((rows.ids[:, part] == OOV_ID).any(axis=1) for rows in _chunks(train)),
        }
        if column in shapes.text:  # may be empty
            rare[(PADDING_ID,) * width] = _is_rare(rows.ids[:, part.start] == PADDING_ID for rows in _chunks(train))
        for state in (state for state, is_rare in rare.items() if is_rare):
            ids.append(np.full(train.ids.shape[1], KEEP_ID, np.int32))
            ids[-1][part] = state
    for at in range(1, train.numbers.shape[1], 2):
        for indicator in (0, 1):
            if _is_rare(rows.numbers[:, at] == indicator for rows in _chunks(train)):
                numbers.append(np.full(train.numbers.shape[1], KEEP_NUMBER, np.float32))
                numbers[-1][at - 1 : at + 1] = 0, indicator
    keep_ids = np.full((len(numbers), train.ids.shape[1]), KEEP_ID, np.int32)
    keep_numbers = np.full((len(ids), train.numbers.shape[1]), KEEP_NUMBER, np.float32)
    return States(np.array([*ids, *keep_ids], np.int32), np.array([*keep_numbers, *numbers], np.float32))


def _chunks(rows: EncodedRows) -> Iterator[EncodedRows]:
    for start in range(0, len(rows.weights), CHUNK_ROWS):
        yield EncodedRows(*(column[start : start + CHUNK_ROWS] for column in rows))


def _is_rare(chunks: Iterator[npt.NDArray[np.bool_]]) -> bool:
    """Whether fewer than `ENOUGH` rows are true; reads no more chunks than it needs."""
    count = 0
    for chunk in chunks:
        count += int(chunk.sum())
        if count >= ENOUGH:
            return False
    return True
