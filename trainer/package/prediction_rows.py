"""Write predictions as newline-delimited JSON."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd

from trainer.data.loaded import BadRow
from trainer.features.labels import Label
from trainer.package.kept_columns import as_json

if TYPE_CHECKING:
    from trainer.package.predictor import Predictor

BLOCK = 65_536  # rows turned into JSON at a time


def prediction_rows(
    predictor: "Predictor", frame: pd.DataFrame, kept: Sequence[str], left_out: Sequence[BadRow] = ()
) -> Iterator[bytes]:
    """One JSON line per row: its kept columns, then its prediction. left_out: bad rows, by `BadRow.before`.

    binary and regression: `prediction`, a number. multiclass: `prediction`, the likeliest class, and `probabilities`
    by class. multilabel: `prediction`, the classes above 0.5, and `probabilities` by class. A bad row, which keeps its
    place: `prediction`, null, and `reason`.
    """
    keys = list(kept)
    bad = deque(left_out)
    for start in range(0, len(frame), BLOCK):
        block = frame.iloc[start : start + BLOCK]
        key_values = block[keys].itertuples(index=False, name=None)
        scores = predictor.scores(block).astype(np.float64)
        for number, (key, score) in enumerate(zip(key_values, scores, strict=True), start):
            while bad and bad[0].before <= number:
                yield refused(bad.popleft())
            named = {name: as_json(value) for name, value in zip(keys, key, strict=True)}
            line = named | described(predictor.preprocessing.label, score)
            yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    yield from map(refused, bad)


def refused(row: BadRow) -> bytes:
    """The line of a bad row."""
    reason = f"{row.shard}, line {row.line}: {row.reason}"
    return orjson.dumps({**row.keys, "prediction": None, "reason": reason}, option=orjson.OPT_APPEND_NEWLINE)


def described(label: Label, score: Any) -> dict[str, Any]:
    """The fields of a prediction."""
    if label.objective in ("binary", "regression"):
        return {"prediction": float(score)}
    probabilities = dict(zip(label.classes, score.tolist(), strict=True))
    likely = [name for name, probability in probabilities.items() if probability > 0.5]
    best = max(probabilities, key=probabilities.__getitem__)
    return {"prediction": best if label.objective == "multiclass" else likely, "probabilities": probabilities}
