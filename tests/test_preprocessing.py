"""What is learnt from training rows and what becomes of any row: by hand on small tables, and by properties."""

import copy
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from trainer.errors import DataError
from trainer.labels import OBJECTIVES, Label
from trainer.preprocessing import LABEL, WEIGHT, DatasetShapes, Preprocessing, apply, learn, warnings_of
from trainer.scale import Scale
from trainer.text import TextRules
from trainer.vocabulary import MISSING, VocabularyRules

LISTS = pd.ArrowDtype(pa.list_(pa.string()))
FEATURES = {"item": "categorical", "tags": "multi_categorical", "title": "text", "age": "numeric", "views": "log_numeric"}


def typed(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """A frame as the loader makes it."""
    dtypes = {"item": "category", "tags": LISTS, "title": "str", "class": "category", "classes": LISTS}
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes.get(name, "float64")) for name, values in columns.items()})


def learnt(
    frame: pd.DataFrame,
    features: dict[str, str] | None = None,
    *,
    label: str = "y",
    weight: str | None = None,
    objective: str = "binary",
    vocabulary: VocabularyRules = VocabularyRules(min_count=1, max_size=100, max_values=2),
    text: TextRules = TextRules("regex", lowercase=True, max_tokens=4),
) -> Preprocessing:
    features = {name: role for name, role in FEATURES.items() if name in frame} if features is None else features
    return learn(
        frame, features, label=label, weight=weight, objective=objective, vocabulary=vocabulary, text=text
    )  # fmt: skip


def small_train() -> pd.DataFrame:
    return typed(
        {
            "item": ["b", "a", "b", "c", "a", None],
            "tags": [["x", "y", "z"], [], None, ["y"], ["z", "y"], ["x"]],
            "title": ["Big dog", "big cat", "", None, "a big, big dog runs", "CAT"],
            "age": [1.0, 2.0, np.nan, 3.0, 4.0, 5.0],
            "views": [0.0, 1.0, 3.0, 7.0, np.nan, 15.0],
            "y": [1, 0, 0, 1, 0, 0],
        }
    )


def small_test() -> pd.DataFrame:
    return typed(
        {
            "item": ["a", "new", None, "c"],
            "tags": [["new", "x", "y"], [None, "z"], [], ["y", "y"]],
            "title": ["the dog's cat", "", None, "BIG big dog, big cat"],
            "age": [3.0, np.nan, 6.0, 0.0],
            "views": [0.0, np.nan, 3.0, 1.0],
        }
    )


def test_ids_of_a_small_table_by_hand() -> None:
    state = learnt(small_train())
    assert state.vocabularies == {
        "item": ("a", "b", "c"),  # 2, 2, 1 rows
        "tags": ("y", "x", "z"),  # 3, 2, 1: the third of the first row is cut off
        "title": ("big", "cat", "dog", ",", "a"),  # 4, 2, 1+0, 1, 1: "big dog runs" of the fifth row is cut off
    } or state.vocabularies["title"] == ("big", "cat", ",", "a", "dog")
    examples = apply(state, small_test())
    assert examples["item"].tolist() == [3, 2, 1, 5]
    assert examples["tags"].tolist() == [[2, 4], [5, 0], [1, 0], [3, 3]]


def test_a_value_seen_only_in_held_out_rows_is_unknown() -> None:
    state = learnt(small_train())
    everything = json.dumps(state.to_json())
    assert "new" not in everything
    assert "the" not in state.vocabularies["title"]
    assert apply(state, small_test())["item"][1] == 2
    assert apply(state, small_test())["title"][0].tolist()[0] == 2
