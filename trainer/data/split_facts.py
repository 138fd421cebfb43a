"""Facts about the sets of a split, for the report and the package."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainer.data.column_hash import coded_values
from trainer.data.row_hash import Hashes
from trainer.data.split import components_of, links_of

RULE = 2  # how the stored rows are hashed and drawn; rule 1 hashed the columns with a role


def fingerprint(draws: Hashes) -> str:
    """SHA-256 of the sorted draws of some rows: equal for two sets if they hold the same rows, in whatever order."""
    return hashlib.sha256(draws.astype("<u8").tobytes()).hexdigest()


def describe_split(
    sides: Mapping[str, pd.DataFrame],
    *,
    categorical_columns: Sequence[str],
    group_columns: Sequence[str],
    hashes: Mapping[str, Hashes],
    draws: Mapping[str, Hashes],
) -> dict[str, Any]:
    """Facts about the sets of a split for the report, ready for JSON.

    sides: the frame of each set by name, "train" among them; from one split or from separate datasets. hashes: of what
    identifies the rows of each set; draws: see `Dataset.draws`.

    rows: of each set.
    fingerprints: the `fingerprint` of each set.
    also_in_train: rows of each other set that have the hash of a training row.
    unseen: for each other set and column, the share of rows with a value that no training row has.
    groups: with group columns, the number of components in each set, how many of them also have rows in another set,
        and the least, median, mean and most rows of a component.
    """
    train, others = sides["train"], {name: frame for name, frame in sides.items() if name != "train"}
    numbers = {id(array): array for array in (*hashes.values(), *draws.values())}  # often the same
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ascending = dict(zip(numbers, pool.map(np.sort, numbers.values()), strict=True))
        fingerprints = pool.map(fingerprint, [ascending[id(array)] for array in draws.values()])
        seen = list(pool.map(_distinct, [train[column] for column in categorical_columns]))
        unseen = {
            name: list(pool.map(_unseen_share, [frame[column] for column in categorical_columns], seen))
            for name, frame in others.items()
        }
    keys = ascending[id(hashes["train"])]
    report: dict[str, Any] = {
        "rows": {name: len(frame) for name, frame in sides.items()},
        "fingerprints": dict(zip(draws, fingerprints, strict=True)),
        "also_in_train": {name: int(_among(ascending[id(hashes[name])], keys).sum()) for name in others},
        "unseen": {name: dict(zip(categorical_columns, shares, strict=True)) for name, shares in unseen.items()},
    }
    if group_columns:
        report["groups"] = _describe_groups(sides, group_columns)
    return report


def _among(values: Hashes, others: Hashes) -> NDArray[np.bool_]:
    """Which values are among the others, both sorted: bool [values]."""
    return others[np.minimum(np.searchsorted(others, values), len(others) - 1)] == values


def _distinct(column: pd.Series) -> Hashes:
    """The hashes of the values that some row has, sorted."""
    _, codes, hashes = coded_values(column)
    return np.sort(hashes[np.bincount(codes, minlength=len(hashes)) > 0])


def _unseen_share(column: pd.Series, seen: Hashes) -> float:
    rows, codes, hashes = coded_values(column)
    unseen = ~np.isin(hashes, seen)
    return len(np.unique(rows[unseen[codes]])) / max(len(column), 1)


def _describe_groups(sides: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> dict[str, dict[str, float]]:
    offsets = np.cumsum([0, *(len(frame) for frame in sides.values())])
    links = [links_of(frame, columns) for frame in sides.values()]
    rows = np.concatenate([row + offset for (row, _), offset in zip(links, offsets[:-1], strict=True)])
    component = components_of(rows, np.concatenate([link for _, link in links]), int(offsets[-1]))
    groups = {name: np.unique(part) for name, part in zip(sides, np.split(component, offsets[1:-1]), strict=True)}
    rows_of, sides_of = np.bincount(component), np.bincount(np.concatenate(list(groups.values())))
    report: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        report[name] = {"groups": len(group), "also_elsewhere": int((sides_of[group] > 1).sum())}
        if len(group):
            sizes = rows_of[group]
            spread = {"min": sizes.min(), "median": np.median(sizes), "mean": sizes.mean(), "max": sizes.max()}
            report[name] |= {f"rows_{statistic}": float(size) for statistic, size in spread.items()}
    return report
