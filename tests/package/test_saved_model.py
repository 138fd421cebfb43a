"""The SavedModel on raw rows gives what the model gives on preprocessed ones."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.features.test_preprocessing import FEATURES, LISTS, typed
from trainer.features.preprocessing import Preprocessing, Rules, fit, transform
from trainer.features.tokenizers import TextRules, Tokens, tokenize
from trainer.features.vocabulary import FIRST_ID, MISSING, OOV_ID, Kept, VocabularyRules, ids_of_cells
from trainer.package.saved_model import _table, export_saved_model, input_names, raw_features

TRAIN = typed(
    {
        "item": ["b", "a", "b", "", "日本", None, "a"],
        "tags": [["x", "y", "z"], [], None, ["y"], ["z", ""], ["x"], ["日本", "y"]],
        "title": ["Big dog", "big cat's tail", "", None, "a big, big dog runs: ΟΔΟΣ", "CAT İ I", "привет, мир! 你好"],
        "age": [1, 2, math.nan, 3.3, 4, 5, 1e9],
        "views": [0, 1, 3, 7.5, math.nan, 15, 1e12],
        "y": [1, 0, 0, 1, 0, 0, 1],
    }
)
TEST = typed(
    {
        "item": ["a", "new", None, "", MISSING, "日本", "B"],
        "tags": [["new", "x", "y"], [None, "z"], [], None, [MISSING, "y", MISSING, "x"], [""], ["日本"] * 9],
        "title": [
            "the dog's CAT \u3000 ПРИВЕТ",
            "",
            None,
            "\0 big\u2028dog\0cat\0",
            MISSING,
            "ΟΔΟΣ ΟΔΟΣ, 你好 👍🏽 " * 50,
            f"; -): {MISSING} I\u00a0a\u200bb",
        ],
        "age": [3, math.nan, 6, 0, -1e30, 1e-30, 7],
        "views": [0, math.nan, 3, 1, 1e-9, 3e38, 123.456],
    }
)


def fitted(train: pd.DataFrame, tokenizer: str = "regex", **changes: Any) -> Preprocessing:
    vocabulary = VocabularyRules(min_count=1, max_size=200_000, max_values=3)
    text = TextRules(tokenizer, lowercase=True, max_tokens=6)
    arguments: dict[str, Any] = {
        "features": {name: role for name, role in FEATURES.items() if name in train},
        "label": "y",
        "weight": None,
        "objective": "binary",
        "rules": Rules(changes.pop("vocabulary", vocabulary), changes.pop("text", text), outlier_limit=5.0),
    }
    return fit(train, **(arguments | changes))


def small_model(state: Preprocessing, outputs: int = 1) -> keras.Model:
    """Random weights; the order of the ids in a row counts."""
    keras.utils.set_random_seed(1)
    shapes, inputs, parts = state.shapes(), {}, []
    for name, role in state.features.items():
        if role in ("numeric", "log_numeric"):
            inputs[name] = keras.Input((2,), name=name)
            parts.append(keras.layers.Dense(2, activation="tanh")(inputs[name]))
            continue
        ids, width = {
            **{c: (n, None) for c, n in shapes.categorical.items()},
            **shapes.multi_categorical,
            **shapes.text,
        }[name]
        inputs[name] = keras.Input(() if width is None else (width,), dtype="int32", name=name)
        embedding = keras.layers.Embedding(ids, 3, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))
        parts.append(embedding(inputs[name]) if width is None else keras.layers.Flatten()(embedding(inputs[name])))
    output = keras.layers.Dense(outputs, activation="sigmoid")(keras.layers.Concatenate()(parts))
    return keras.Model(inputs, output)


def predicted(model: keras.Model, features: dict[str, Any]) -> tf.Tensor:
    predictions = model(features)
    return predictions[:, 0] if predictions.shape[1] == 1 else predictions


def exported(folder: Path, state: Preprocessing, model: keras.Model) -> Callable[..., dict[str, tf.Tensor]]:
    export_saved_model(
        folder, state, lambda features: predicted(model, features), [weight.value for weight in model.weights]
    )
    signature: Callable[..., dict[str, tf.Tensor]] = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return signature


def expected(state: Preprocessing, model: keras.Model, frame: pd.DataFrame) -> np.ndarray:
    examples = transform(state, frame)
    return predicted(model, {name: tf.constant(examples[name]) for name in state.features}).numpy()


@pytest.mark.parametrize(
    ("tokenizer", "keep", "split_characters"),
    [("regex", "first", False), ("regex", "last", True), ("spacy", "first", True), ("spacy", "last", False)],
)
def test_raw_rows_are_scored_like_preprocessed_ones(
    tokenizer: str, keep: str, split_characters: bool, tmp_path: Path
) -> None:
    """Unknown, missing, empty, repeated and non-Latin values; also one row, no rows, rows without any list."""
    text = TextRules(tokenizer, True, 6, keep, split_characters)
    state = fitted(TRAIN, text=text, vocabulary=VocabularyRules(1, 200_000, 3, keep))
    model = small_model(state)
    serve = exported(tmp_path, state, model)
    no_tags = TEST.assign(
        tags=pd.Series([None] * len(TEST), dtype=LISTS), title=pd.Series([""] * len(TEST), dtype="str")
    )
    for frame in (TRAIN.drop(columns="y"), TEST, no_tags, TEST.iloc[[3]], TEST.iloc[:0], pd.concat([TEST] * 30)):
        scores = serve(**raw_features(frame, state))["prediction"].numpy()
        assert scores.dtype == np.float32
        assert scores.shape == (len(frame),)
        np.testing.assert_allclose(scores, expected(state, model, frame), rtol=0, atol=1e-6)
    assert len(set(expected(state, model, TEST).tolist())) == len(TEST)  # the rows do differ


@pytest.mark.parametrize("tokenizer", ["regex", "spacy"])
def test_the_inputs_are_what_the_module_says(tokenizer: str, tmp_path: Path) -> None:
    state = fitted(TRAIN, tokenizer)
    model = small_model(state)
    serve = exported(tmp_path, state, model)
    texts = ["big dog", "", None, "new cat's"]
    frame = typed({"item": ["a", None, "", "x"], "tags": [["x", "y"], [], None, ["new"]], "title": texts})
    frame = frame.assign(age=[1.0, np.nan, 0.0, 5.0], views=[np.nan, 0.0, 1.0, 2.0])
    tokens = [["big", "dog", ""], ["", "", ""], [MISSING, "", ""], ["new", "cat", "'s"]]
    raw = {
        "item": tf.constant(["a", MISSING, "", "x"]),
        "tags": tf.constant([["x", "y"], [MISSING, MISSING], [MISSING, MISSING], ["new", MISSING]]),
        "title": tf.constant(tokens if tokenizer == "spacy" else ["big dog", "", MISSING, "new cat's"]),
        "age": tf.constant(frame["age"].to_numpy()),
        "views": tf.constant(frame["views"].to_numpy()),
    }
    np.testing.assert_allclose(serve(**raw)["prediction"], expected(state, model, frame), rtol=0, atol=1e-6)
    kinds = {name: (spec.dtype.name, spec.shape.rank) for name, spec in serve.structured_input_signature[1].items()}
    assert kinds == {
        "item": ("string", 1),
        "tags": ("string", 2),
        "title": ("string", 2 if tokenizer == "spacy" else 1),
        "age": ("float64", 1),
        "views": ("float64", 1),
    }


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_text_gets_the_same_ids_in_the_graph(lowercase: bool, tmp_path: Path) -> None:
    """All code points, in words and alone, through the regex rule of the graph."""
    texts = ["".join(map(chr, range(start, start + 17))) for start in range(0, 0xD7F0, 17)]
    texts += [f"a{chr(code)}B" for code in range(0, 0x3000, 7)]
    frame = pd.DataFrame({"title": pd.Series(texts, dtype="str"), "y": 0.0})
    state = fitted(frame, text=TextRules("regex", lowercase, max_tokens=30, split_characters=lowercase))
    assert len(state.vocabularies["title"]) > 5000
    export_saved_model(tmp_path, state, lambda features: tf.cast(features["title"], tf.float32), [])
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    ids = serve(**raw_features(frame, state))["prediction"].numpy()
    np.testing.assert_array_equal(ids, transform(state, frame)["title"])


def test_a_row_has_one_answer_per_class(tmp_path: Path) -> None:
    frame = typed({"item": ["a", "b", None], "class": ["x", "y", "z"]})
    state = fitted(frame, label="class", objective="multiclass")
    model = small_model(state, outputs=3)
    scores = exported(tmp_path, state, model)(**raw_features(frame, state))["prediction"]
    assert scores.shape == (3, 3)
    np.testing.assert_allclose(scores, expected(state, model, frame), rtol=0, atol=1e-6)


def test_a_negative_number_under_a_logarithm_makes_its_own_row_nan(tmp_path: Path) -> None:
    state = fitted(TRAIN[["views", "y"]])
    model = small_model(state)
    scores = exported(tmp_path, state, model)(views=tf.constant([1.0, -0.5, -2.0, np.nan], tf.float64))["prediction"]
    assert np.isnan(scores).tolist() == [False, True, True, False]


def test_columns_of_any_name_can_be_served(tmp_path: Path) -> None:
    names = [
        "odd name",
        "odd.name",
        "odd_name",
        "1st",
        "class",
        "self",
        "naïve",
        "日本",
        "A",
        "a",
        "_x",
        "",
        "x\n",
        "C:\\x",
    ]
    names += ["x", "x_1", "raw", "name", "args", "kwargs", "inputs", "prediction", "training", "x" * 300]
    frame = pd.DataFrame({name: np.arange(3.0) * i for i, name in enumerate(names)} | {"y": [0.0, 1.0, 1.0]})
    state = fitted(frame, features=dict.fromkeys(names, "numeric"))
    weights = tf.random.stateless_normal([len(names)], [1, 2])

    def weighted(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.add_n(
            [features[name][:, 0] * weight for name, weight in zip(names, tf.unstack(weights), strict=True)]
        )

    export_saved_model(tmp_path, state, weighted, [])
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    raw = raw_features(frame, state)
    assert raw.keys() == serve.structured_input_signature[1].keys()
    np.testing.assert_allclose(serve(**raw)["prediction"], weighted(transform(state, frame)), rtol=0, atol=1e-6)


def test_names_of_inputs_stay_where_they_can_and_are_distinct() -> None:
    names = ["item", "Item", "a b", "a.b", "a_b", "class", "1st", "_x"]
    assert input_names(names) == {
        "item": "item",
        "Item": "Item_",
        "a_b": "a_b",
        "a b": "a_b_",
        "a.b": "a_b__",
        "class": "column_class",
        "1st": "column_1st",
        "_x": "column__x",
    }


def test_a_large_vocabulary_is_served(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item": pd.Categorical([f"item-{i}" for i in range(100_000)]), "y": 0.0})
    state = fitted(frame)
    export_saved_model(tmp_path, state, lambda features: tf.cast(features["item"], tf.float32), [])
    serve = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    ids = serve(**raw_features(frame.iloc[::-7], state))["prediction"].numpy()
    np.testing.assert_array_equal(ids, transform(state, frame.iloc[::-7])["item"])


def test_tokens_beyond_those_kept_are_not_needed_but_harmless(tmp_path: Path) -> None:
    state = fitted(TRAIN[["title", "y"]], "spacy")
    model = small_model(state)
    serve = exported(tmp_path, state, model)
    text = "big dog cat a runs tail big big big"
    words = tokenize(pd.Series([text], dtype="str"), TextRules("spacy", True, 16))
    raw = tf.constant([[words.values[i] for i in words.ids]])
    short, long = serve(title=raw[:, :6])["prediction"], serve(title=raw)["prediction"]
    np.testing.assert_array_equal(short, long)
    np.testing.assert_allclose(long, expected(state, model, typed({"title": [text]})), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("vocabulary", "same"),
    [
        (("1021", "7", "-3"), {"1021.0": "1021", "7.0": "7", "-3.0": "-3"}),
        (("false", "true"), {"0": "false", "1.0": "true", "True": "true", "FALSE": "false"}),
        (("1", "0"), {"1.0": "1", "true": "1", "False": "0", "0.0": "0"}),
        (("1021", "a"), {}),  # not a column of whole numbers: texts are exact
        (("1.0", "1.1"), {}),
        ((), {}),
    ],
)
def test_whole_numbers_and_booleans_may_be_written_as_pandas_writes_them(
    vocabulary: tuple[str, ...], same: dict[str, str]
) -> None:
    ids = dict(zip(vocabulary, range(FIRST_ID, FIRST_ID + len(vocabulary)), strict=True))
    texts = [*vocabulary, *same, "1021.00", "7.5", "yes", "01"]
    expected = [ids.get(same.get(text, text), OOV_ID) for text in texts]
    tokens = Tokens(texts, np.arange(len(texts), dtype=np.int32), np.arange(len(texts) + 1))
    assert ids_of_cells(tokens, vocabulary, Kept(1, "first"))[:-1, 0].tolist() == expected
    assert _table(vocabulary).lookup(tf.constant(texts)).numpy().tolist() == expected
