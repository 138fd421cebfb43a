"""Fitting and transforming rows: by hand on small tables, and by properties."""

import json
import math
import statistics
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from trainer.features import DatasetShapes
from trainer.features.encoded import constant_column_warnings, to_encoded_rows
from trainer.features.labels import (
    OBJECTIVES,
    Label,
    encode_label,
    unseen_by_set,
    unseen_classes,
    unseen_classes_warning,
)
from trainer.features.preprocessing import LABEL, WEIGHT, Preprocessing, Rules, fit, transform, truncated_shares
from trainer.features.scale import Scale, scale_of, standardised
from trainer.features.tokenizers import TextRules
from trainer.features.vocabulary import MISSING, VocabularyRules
from trainer.runtime.errors import DataError

LISTS = pd.ArrowDtype(pa.list_(pa.string()))
DTYPES = {"item": "category", "tags": LISTS, "title": "str", "class": "category", "classes": LISTS}
FEATURES = {
    "item": "categorical",
    "tags": "multi_categorical",
    "title": "text",
    "age": "numeric",
    "views": "log_numeric",
}
RULES = VocabularyRules(min_count=1, max_size=100, max_values=2)
TEXT = TextRules("regex", lowercase=True, max_tokens=4)


def typed(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """A frame as the loader makes it."""
    return pd.DataFrame(
        {name: pd.Series(values, dtype=DTYPES.get(name, "float64")) for name, values in columns.items()}
    )


def fitted(
    frame: pd.DataFrame, label: str = "y", objective: str = "binary", weight: str | None = None, **rules: Any
) -> Preprocessing:
    features = {name: role for name, role in FEATURES.items() if name in frame}
    chosen = Rules(rules.get("vocabulary", RULES), rules.get("text", TEXT), rules.get("outlier_limit"))
    return fit(frame, features, label=label, weight=weight, objective=objective, rules=chosen)


TRAIN = typed(
    {
        "item": ["b", "a", "b", "c", "a", None],
        "tags": [["x", "y", "z"], [], None, ["y"], ["z", "y"], ["x"]],
        "title": ["Big dog", "big cat", "", None, "a big, big dog runs", "CAT"],
        "age": [1, 2, math.nan, 3, 4, 5],
        "views": [0, 1, 3, 7, math.nan, 15],
        "y": [1, 0, 0, 1, 0, 0],
    }
)
TEST = typed(
    {
        "item": ["a", "new", None, "c"],
        "tags": [["new", "x", "y"], [None, "z"], [], ["y", "y"]],
        "title": ["the dog's cat", "", None, "BIG big dog, big cat"],
        "age": [3, math.nan, 6, 0],
        "views": [0, math.nan, 3, 1],
    }
)


# Vocabularies


def test_vocabularies_of_a_small_table_by_falling_count_then_value() -> None:
    assert fitted(TRAIN).vocabularies == {
        "item": ("a", "b", "c"),  # 2, 2, 1
        "tags": ("y", "x", "z"),  # 3, 2, 1: a third value is cut off, and not counted
        "title": ("big", "cat", ",", "a", "dog"),  # 4, 2, 1, 1, 1: "dog runs" is cut off
    }


def test_ids_of_a_small_table() -> None:
    examples = transform(fitted(TRAIN), TEST)
    assert list(examples) == list(FEATURES)
    assert examples["item"].tolist() == [3, 2, 1, 5]
    assert examples["tags"].tolist() == [[2, 4], [5, 0], [1, 0], [3, 3]]
    assert examples["title"].tolist() == [[2, 7, 2, 2], [0, 0, 0, 0], [1, 0, 0, 0], [3, 3, 7, 5]]
    assert {examples[name].dtype for name in ("item", "tags", "title")} == {np.dtype(np.int32)}


def test_nothing_is_learnt_from_held_out_rows() -> None:
    before = fitted(TRAIN).to_json()
    transform(fitted(TRAIN), TEST)
    assert fitted(TRAIN).to_json() == before
    assert not {"new", "the", "'"} & {value for values in fitted(TRAIN).vocabularies.values() for value in values}


def test_min_count_and_max_size() -> None:
    rules = VocabularyRules(min_count=2, max_size=1, max_values=3)
    assert fitted(TRAIN, vocabulary=rules).vocabularies == {"item": ("a",), "tags": ("y",), "title": ("big",)}
    rules = VocabularyRules(min_count=2, max_size=9, max_values=3)
    vocabularies = fitted(TRAIN, vocabulary=rules).vocabularies
    assert vocabularies == {"item": ("a", "b"), "tags": ("y", "x", "z"), "title": ("big", "cat")}


def test_ties_are_in_the_order_of_code_points() -> None:
    values = ["\U0001f600", "\uffff", "é", "z", "Z", "", "a", "aa"]
    frame = typed({"item": values, "tags": [[value] for value in values], "y": [0] * 8})
    assert fitted(frame).vocabularies == {"item": tuple(sorted(values)), "tags": tuple(sorted(values))}


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_pandas_categories_and_unused_ones_make_no_difference(values: list[str | None], rng: Any) -> None:
    categories = ["a", "b", "c", "d", "unused"]
    plain = typed({"item": values, "y": [1] * len(values)})
    rng.shuffle(categories)
    other = plain.assign(item=pd.Categorical(values, categories=categories))
    assert fitted(other) == fitted(plain)
    np.testing.assert_equal(transform(fitted(plain), other), transform(fitted(plain), plain))


def test_the_marker_of_a_missing_value_is_a_missing_value() -> None:
    frame = typed({"item": ["a", MISSING], "tags": [[MISSING, "a"], [MISSING]], "title": ["a", MISSING], "y": [0, 1]})
    for tokenizer in ("spacy", "regex"):
        state = fitted(frame, text=TextRules(tokenizer, lowercase=True, max_tokens=2))
        assert state.vocabularies == {"item": ("a",), "tags": ("a",), "title": ("a",)}
        examples = transform(state, frame)
        assert examples["item"].tolist() == [3, 1]
        assert examples["tags"].tolist() == examples["title"].tolist() == [[3], [1]]


def test_rows_cut_out_of_a_frame_keep_their_own_lists() -> None:
    state = fitted(TRAIN)
    whole = transform(state, TRAIN)
    for rows in (slice(2, 5), [4, 0, 5], slice(None, None, -1), slice(0, 0)):
        part = transform(state, TRAIN.iloc[rows])
        np.testing.assert_equal(part, {name: values[rows] for name, values in whole.items()})


# Numbers


def test_numbers_of_a_small_table() -> None:
    examples = transform(fitted(TRAIN), TEST)
    deviation = math.sqrt(2)  # of 1, 2, 3, 4, 5, and of log 1, 2, 4, 8, 16 in base 2
    np.testing.assert_allclose(examples["age"], [[0, 0], [0, 1], [3 / deviation, 0], [-3 / deviation, 0]], rtol=1e-6)
    np.testing.assert_allclose(examples["views"], [[-2 / deviation, 0], [0, 1], [0, 0], [-1 / deviation, 0]], atol=1e-7)
    assert examples["age"].dtype == np.float32


numbers = st.one_of(st.floats(-1e6, 1e6), st.integers(-3, 3).map(float))


@given(st.lists(numbers, min_size=2, max_size=50), st.lists(numbers, min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_standardisation_is_that_of_scikit_learn(train: list[float], test: list[float]) -> None:
    scaler = StandardScaler().fit(np.array(train)[:, np.newaxis])
    if scaler.var_[0] < 1e-9 * max(1.0, scaler.mean_[0] ** 2):  # where rounding decides what is constant
        return
    state = fitted(typed({"age": [*train, math.nan], "y": [0.0] * (len(train) + 1)}))
    expected = scaler.transform(np.array(test)[:, np.newaxis])[:, 0]
    np.testing.assert_allclose(transform(state, typed({"age": test}))["age"][:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("values", [[0.1] * 3, [1e15 + 0.3] * 7, [5.0], [math.nan, 3.0]])
def test_where_all_numbers_are_equal_others_count_as_equal_too(values: list[float]) -> None:
    frame = typed({"age": values, "y": [0.0] * len(values)})
    for limit in (None, 5.0):
        state = fitted(frame, outlier_limit=limit)
        assert not transform(state, frame)["age"][:, 0].any()
        others = typed({"age": [9999.0, -1.0, 3e38, math.nan]})
        assert transform(state, others)["age"].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_a_column_without_any_number_is_missing_everywhere() -> None:
    frame = typed({"age": [math.nan] * 2, "views": [math.nan] * 2, "y": [0, 1]})
    assert transform(fitted(frame), frame)["views"].tolist() == [[0, 1], [0, 1]]


def test_a_number_far_from_all_training_rows_stays_finite() -> None:
    state = fitted(typed({"age": [0, 1e-30], "y": [0, 1]}))
    assert np.isfinite(transform(state, typed({"age": [3e38, -3e38]}))["age"]).all()
    for tiny in (Scale(0.0, 1e-320), Scale(0.0, 1.0, 0.0, 1e-320, 5.0)):  # of a package that someone changed
        assert np.isfinite(standardised(np.array([3e38, 1.0]), tiny)).all()


def test_negative_numbers_under_a_logarithm_are_refused_with_column_and_smallest_value() -> None:
    bad = typed({"views": [1, -2.5, -0.5, math.nan], "y": [0, 1, 0, 1]})
    message = r"'views' is log_numeric, but holds negative numbers, such as -2\.5\."
    with pytest.raises(DataError, match=message):
        fitted(bad)
    with pytest.raises(DataError, match=message):
        transform(fitted(bad.iloc[[0, 3]]), bad)


def squeezed_by_hand(train: list[float], test: list[float], limit: float) -> Any:
    """The definition, word for word, on numbers repeated as often as they occur."""
    numbers, counts = np.unique(train, return_counts=True)
    others = [number for number in sorted(train) if number != numbers[np.argmax(counts)]]
    middle = statistics.median_low(others)
    distances = sorted(abs(number - middle) for number in others if number != middle)
    spread = 1.4826 * statistics.median_low(distances) if distances else abs(middle - numbers[np.argmax(counts)])

    def squeezed(values: list[float]) -> Any:
        far = (np.array(values) - middle) / spread
        return far / np.sqrt(1 + (far / limit) ** 2)

    scaler = StandardScaler().fit(squeezed(train)[:, np.newaxis])
    return scaler.transform(squeezed(test)[:, np.newaxis])[:, 0]


short = numbers.map(lambda number: round(number, 3))  # and so no distance is lost in rounding


@given(st.lists(short, min_size=2, max_size=50), st.lists(short, min_size=1, max_size=50), st.randoms())
@settings(max_examples=100, deadline=None)
def test_outliers_are_squeezed_as_defined_in_any_order(train: list[float], test: list[float], rng: Any) -> None:
    if np.ptp(train) == 0:
        return
    state = fitted(typed({"age": [*train, math.nan], "y": [0.0] * (len(train) + 1)}), outlier_limit=3.0)
    expected = squeezed_by_hand(train, test, 3.0)
    np.testing.assert_allclose(transform(state, typed({"age": test}))["age"][:, 0], expected, rtol=1e-5, atol=1e-5)
    rng.shuffle(train)
    assert fitted(typed({"age": [math.nan, *train], "y": [0.0] * (len(train) + 1)}), outlier_limit=3.0) == state


@pytest.mark.parametrize("sentinel", [-1.0, -9999.0, 9999.0, 99999999.0, 2.0**31 - 1, 1.7e15, 1e38])
@pytest.mark.parametrize("share", [0.0002, 0.05, 0.2, 0.6])
def test_sentinels_do_not_hide_the_differences_between_other_numbers(sentinel: float, share: float) -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(40, 12, 5000)
    planted = np.where(rng.random(5000) < share, sentinel, clean)
    planted[7] = sentinel
    quartiles = typed({"age": [32.0, 48.0]})
    apart = []
    for column in (clean, planted):
        state = fitted(typed({"age": column.tolist(), "y": [0.0] * 5000}), outlier_limit=5.0)
        apart.append(float(np.ptp(transform(state, quartiles)["age"][:, 0])))
    assert apart[1] > 0.35 * apart[0] > 0.4
    assert np.abs(transform(state, typed({"age": planted.tolist()}))["age"]).max() < 10


def test_two_numbers_are_scaled_as_ever() -> None:
    frame = typed({"age": [0, 0, 0, 1, 1, 0, 0], "y": [0] * 7})
    plain, squeezed = (transform(fitted(frame, outlier_limit=limit), frame)["age"] for limit in (None, 5.0))
    np.testing.assert_allclose(squeezed, plain, rtol=1e-6)


def test_scales_of_older_packages_stay_linear() -> None:
    older = json.loads(fitted(TRAIN[["age", "y"]]).to_json())
    older["scales"] = {"age": {"mean": 3.0, "std": 2.0}}
    state = Preprocessing.from_json(json.dumps(older))
    numbers = [3.0, 5.0, -1e6, 3e38, math.nan]
    expected = [[0, 0], [1, 0], [(-1e6 - 3) / 2, 0], [3e38 / 2, 0], [0, 1]]
    np.testing.assert_array_equal(transform(state, typed({"age": numbers}))["age"], np.array(expected, np.float32))


# Labels


def test_binary_label_and_weights() -> None:
    frame = typed({"y": [0, 1, 0.25], "impressions": [1, 2, 4]})
    state = fitted(frame, weight="impressions")
    examples = transform(state, frame)
    assert examples[LABEL].tolist() == [0, 1, 0.25]
    assert examples[WEIGHT].tolist() == [1, 2, 4]
    rate = 3 / 7
    assert state.label.output_bias == pytest.approx((math.log(rate / (1 - rate)),))
    assert transform(fitted(frame), frame)[WEIGHT].tolist() == [1, 1, 1]
    assert {examples[LABEL].dtype, examples[WEIGHT].dtype} == {np.dtype(np.float32)}


def test_regression_label_is_standardised_by_weighted_statistics() -> None:
    frame = typed({"y": [10, 20, 40], "w": [1, 2, 1]})
    state = fitted(frame, objective="regression", weight="w")
    repeated = np.array([10, 20, 20, 40])
    assert (state.label.mean, state.label.std) == pytest.approx((repeated.mean(), repeated.std()))
    assert state.label.output_bias == (0.0,)
    np.testing.assert_allclose(transform(state, frame)[LABEL], (frame["y"] - 22.5) / repeated.std(), rtol=1e-6)
    constant = fitted(typed({"y": [7, 7]}), objective="regression")
    assert (constant.label.mean, constant.label.std) == (7, 1)


def test_multiclass_labels_are_numbered_by_value() -> None:
    frame = typed({"class": ["b", "a", "b", "10"], "w": [1, 2, 3, 4]})
    state = fitted(frame, "class", "multiclass", "w")
    assert state.label.classes == ("10", "a", "b")
    assert state.label.output_bias == pytest.approx(np.log([0.4, 0.2, 0.4]))
    examples = transform(state, frame)
    assert examples[LABEL].tolist() == [2, 1, 2, 0]
    assert examples[LABEL].dtype == np.int32


def test_D46_a_class_that_no_training_row_has_is_counted_and_named() -> None:
    label = fitted(typed({"class": ["a", "b"]}), "class", "multiclass").label
    column = typed({"class": ["a", "z", "c", "z"]})["class"]
    assert encode_label(label, column).tolist() == [0, -1, -1, -1]
    assert unseen_classes(label, column) == {"classes": 2, "labels": 3, "most_frequent": {"z": 2, "c": 1}}
    many = unseen_classes(label, typed({"class": [f"{i}\n" + "x" * 99 for i in range(9)]})["class"])
    warning = unseen_classes_warning(label, "test", many)
    assert warning.startswith(
        "Label column 'class': no training row has the class of 9 labels of the test set (counted"
    )
    assert "wrong): '0\\nx" in warning
    assert warning.endswith("and 4 more.")

    topics = fitted(typed({"classes": [["a"], ["b"]]}), "classes", "multilabel").label
    unseen = unseen_classes(topics, typed({"classes": [["a", "z"], [], ["z", "b"]]})["classes"])
    assert unseen == {"classes": 1, "labels": 2, "most_frequent": {"z": 2}}
    assert "the class of 2 labels of the test set (left out)" in unseen_classes_warning(topics, "test", unseen)
    for fitted_label, seen in ((label, {"class": ["a"]}), (topics, {"classes": [["b"], []]})):
        assert unseen_classes(fitted_label, typed(seen)[fitted_label.column]) == {}


def test_a_set_in_which_every_class_is_unseen_is_refused() -> None:
    train, test = typed({"class": ["a", "b"]}), typed({"class": ["y", "z"]})
    label = fitted(train, "class", "multiclass").label
    with pytest.raises(DataError, match="no row of the test set has a class of the training rows"):
        unseen_by_set(label, {"train": (train, np.arange(2)), "test": (test, np.arange(2))})
    half = {"test": (pd.concat([train, test], ignore_index=True).astype("category"), np.arange(4))}
    assert unseen_by_set(label, half)["test"]["labels"] == 2


@pytest.mark.parametrize(("keep", "kept", "vocabulary"), [("first", [3, 4], ("a", "b")), ("last", [5, 3], ("c", "a"))])
def test_the_first_or_the_last_values_of_a_long_row_are_kept(
    keep: str, kept: list[int], vocabulary: tuple[str, ...]
) -> None:
    rules = {"vocabulary": VocabularyRules(1, 10, 2, keep), "text": TextRules("regex", True, 2, keep)}
    frame = typed({"tags": [["a", "b", "c"], ["a"], ["c"]], "title": ["a b c", "a", "c"], "y": [0, 1, 1]})
    state = fitted(frame, **rules)
    for column in ("tags", "title"):
        assert transform(state, frame)[column][0].tolist() == kept
        assert state.vocabularies[column][:2] == vocabulary
        assert truncated_shares(state, frame, slice(None))[column] == pytest.approx(1 / 3)


def test_a_row_keeps_no_more_values_than_the_longest_training_row_has() -> None:
    train = typed({"tags": [["a", "b"], ["a"]], "title": ["a", ""], "item": ["x", "x"], "y": [0, 1]})
    state = fitted(train)
    assert (state.kept("tags").width, state.kept("title").width, state.kept("item").width) == (2, 1, 1)
    test = transform(state, typed({"tags": [["b", "a", "b"]], "title": ["a a a"], "item": ["x"], "y": [0]}))
    assert test["tags"].shape == (1, 2)
    assert test["title"].shape == (1, 1)
    assert state.shapes().text["title"][1] == 1
    assert truncated_shares(state, train, slice(None)) == {}


def test_a_file_from_before_settings_were_added_means_what_it_meant() -> None:
    older = json.loads(fitted(TRAIN).to_json())
    del older["longest"], older["vocabulary"]["keep"], older["text"]["keep"], older["text"]["split_characters"]
    state = Preprocessing.from_json(json.dumps(older))
    assert (state.text.keep, state.text.split_characters, state.vocabulary.keep) == ("first", False, "first")
    assert state.kept("title").width == state.text.max_tokens


def test_multilabel_rows_keep_each_known_class_once() -> None:
    train = typed({"classes": [["b", "a", "b"], [], ["c"], ["a"]], "w": [1, 1, 2, 4]})
    state = fitted(train, "classes", "multilabel", "w")
    assert state.label.classes == ("a", "b", "c")
    odds = np.array([5 / 3, 1 / 7, 2 / 6])
    assert state.label.output_bias == pytest.approx(np.log(odds))
    assert transform(state, train)[LABEL].tolist() == [[1, 2], [0, 0], [3, 0], [1, 0]]
    test = transform(state, typed({"classes": [["new"], ["c", "new", "a"], []], "w": [1, 1, 1]}))
    assert test[LABEL].tolist() == [[0, 0], [1, 3], [0, 0]]
    assert test[LABEL].dtype == np.int32
    assert transform(state, typed({"classes": [[]], "w": [1]}))[LABEL].tolist() == [[0]]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=20), st.floats(-1, 1))
@settings(max_examples=50, deadline=None)
def test_no_constant_logit_is_better_than_the_output_bias(rows: list[tuple[float, float]], step: float) -> None:
    labels, weights = map(np.array, zip(*rows, strict=True))
    (bias,) = fitted(typed({"y": list(labels), "w": list(weights)}), weight="w").label.output_bias

    def loss(logit: float) -> float:
        return float(np.sum(weights * (np.logaddexp(0, logit) - labels * logit)) / weights.sum())

    assert loss(bias) <= loss(bias + step) + 2e-6


def test_output_biases_are_finite_where_all_labels_are_equal() -> None:
    assert fitted(typed({"y": [1, 1]})).label.output_bias == pytest.approx((math.log(1e6),), rel=1e-5)
    assert fitted(typed({"class": ["a"]}), "class", "multiclass").label.output_bias == (0.0,)
    frame = typed({"class": ["a", "b"], "w": [0, 1]})
    assert fitted(frame, "class", "multiclass", "w").label.output_bias == pytest.approx((math.log(1e-6), 0))


def test_weights_that_add_up_to_0_and_labels_without_a_class_are_refused() -> None:
    with pytest.raises(DataError, match="weights of the 2 training rows add up to 0"):
        fitted(typed({"y": [0, 1], "w": [0, 0]}), weight="w")
    with pytest.raises(DataError, match="'classes': no training row has a class"):
        fitted(typed({"classes": [[], []]}), "classes", "multilabel")


def test_rows_without_a_label_column_have_features_only() -> None:
    frame = TRAIN.assign(w=1.0)
    assert set(transform(fitted(frame, weight="w"), TEST)) == set(FEATURES)


@pytest.mark.parametrize("name", [LABEL, WEIGHT])
def test_reserved_names_are_refused(name: str) -> None:
    frame = typed({name: [1, 2], "y": [0, 1]})
    with pytest.raises(DataError, match=f"'{name}': this name is reserved"):
        fit(frame, {name: "numeric"}, label="y", weight=None, objective="binary", rules=Rules(RULES, TEXT))


def test_D47_constant_features_and_labels_are_warned_of() -> None:
    frame = typed({"item": ["a", "b", "c"], "title": ["x", "x", "x"], "age": [1, 2, 3], "y": [0, 0, 0], "w": [1, 1, 1]})
    rare = VocabularyRules(min_count=2, max_size=9, max_values=2)
    state = fitted(frame, weight="w", vocabulary=rare)
    warnings = constant_column_warnings(to_encoded_rows(transform(state, frame), state.shapes()), state.shapes())
    assert len(warnings) == 3
    assert "'item' has the same value in all training rows" in warnings[0]
    assert "'title' has the same value" in warnings[1]
    assert "same label" in warnings[2]
    state = fitted(TRAIN)
    assert constant_column_warnings(to_encoded_rows(transform(state, TRAIN), state.shapes()), state.shapes()) == []


# Shapes, order, storage


def test_shapes_tell_a_graph_what_it_needs() -> None:
    state = fitted(TRAIN)
    assert state.shapes() == DatasetShapes(
        categorical={"item": 6},
        multi_categorical={"tags": (6, 2)},
        text={"title": (8, 4)},
        numeric=("age", "views"),
        outputs=1,
        output_bias=state.label.output_bias,
        label_mean=0.0,
        label_std=1.0,
    )
    assert fitted(typed({"class": ["a", "b"]}), "class", "multiclass").shapes().outputs == 2


def some_rows(count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    words = ["red", "Blue", "green,", "don't", "naïve", "你好", ":)", ""]
    labels = rng.choice(["a", "b", "c"], count)
    return typed(
        {
            "item": rng.choice(["i1", "i2", "i3", None], count).tolist(),
            "tags": [rng.choice(["t1", "t2", "t3"], rng.integers(4)).tolist() for _ in range(count)],
            "title": [
                " ".join(rng.choice(words, rng.integers(6))) if rng.random() < 0.9 else None for _ in range(count)
            ],
            "age": rng.normal(1e6, 1e-3, count).tolist(),
            "views": np.where(rng.random(count) < 0.2, np.nan, rng.pareto(1, count)).tolist(),
            "y": rng.random(count).tolist(),
            "w": rng.exponential(1, count).tolist(),
            "class": labels.tolist(),
            "classes": [[label, "b"] for label in labels],
        }
    )


@pytest.mark.parametrize(("objective", "label"), list(zip(OBJECTIVES, ["y", "y", "class", "classes"], strict=True)))
@pytest.mark.parametrize("tokenizer", ["spacy", "regex"])
def test_rows_in_another_order_teach_the_same_to_the_last_bit(objective: str, label: str, tokenizer: str) -> None:
    text = TextRules(tokenizer, lowercase=True, max_tokens=4)
    for seed in range(5):
        frame = some_rows(300, seed)
        order = np.random.default_rng(seed).permutation(len(frame))
        state = fitted(frame, label, objective, "w", text=text)
        assert fitted(frame.iloc[order], label, objective, "w", text=text) == state
        expected = {name: values[order] for name, values in transform(state, frame).items()}
        np.testing.assert_equal(transform(state, frame.iloc[order]), expected)


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
words = st.lists(st.text().filter(lambda word: word != MISSING), unique=True, max_size=5).map(tuple)
columns = st.text().filter(lambda name: name not in (LABEL, WEIGHT))


@st.composite
def states(draw: st.DrawFn) -> Preprocessing:
    features = draw(st.dictionaries(columns, st.sampled_from(list(FEATURES.values())), max_size=5))
    numeric = {name: role in ("numeric", "log_numeric") for name, role in features.items()}
    objective = draw(st.sampled_from(OBJECTIVES))
    classes = draw(words.filter(bool)) if objective in ("multiclass", "multilabel") else ()
    biases = st.tuples(*[finite] * (len(classes) or 1))
    counts = st.integers(1, 10**9)
    return Preprocessing(
        features=features,
        vocabularies={name: draw(words) for name in features if not numeric[name]},
        scales={
            name: Scale(draw(finite), draw(positive), draw(finite), draw(positive), draw(st.none() | positive))
            for name in features
            if numeric[name]
        },
        label=Label(draw(st.text()), objective, classes, draw(finite), draw(positive), draw(biases)),
        weight=draw(st.none() | st.text()),
        vocabulary=VocabularyRules(draw(counts), draw(counts), draw(counts)),
        text=TextRules(draw(st.sampled_from(["spacy", "regex"])), draw(st.booleans()), draw(counts)),
    )


@given(states())
@settings(max_examples=100, deadline=None)
def test_what_is_stored_is_restored_exactly(state: Preprocessing) -> None:
    restored = Preprocessing.from_json(state.to_json().encode())
    assert restored == state
    assert list(restored.features) == list(state.features)  # the order of the inputs
    assert restored.to_json() == state.to_json()


def test_a_restored_state_makes_the_same_examples() -> None:
    state = fitted(TRAIN)
    np.testing.assert_equal(transform(Preprocessing.from_json(state.to_json()), TEST), transform(state, TEST))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("features", ["item"]),
        ("features.item", "picture"),
        ("features.extra", "numeric"),
        ("features.__label__", "numeric"),
        ("vocabularies.item", "abc"),
        ("vocabularies.item", ["a", "a"]),
        ("vocabularies.item", ["a", 1]),
        ("vocabularies.item", [MISSING]),
        ("vocabularies.extra", []),
        ("scales.age", None),
        ("scales.age.std", 0),
        ("scales.age.spread", 0.0),
        ("scales.age.limit", 0.0),
        ("scales.age.limit", math.nan),
        ("scales.age.middle", math.inf),
        ("scales.age.std", -1.0),
        ("scales.age.std", math.nan),
        ("scales.age.mean", 10**400),
        ("scales.age.mean", "1"),
        ("scales.age.mean", True),
        ("scales.age.more", 1),
        ("label.objective", "ranking"),
        ("label.objective", "multiclass"),
        ("label.classes", ["a"]),
        ("label.output_bias", []),
        ("label.output_bias", [0.0, 0.0]),
        ("label.std", 0.0),
        ("weight", 1),
        ("vocabulary.max_values", 0),
        ("vocabulary.min_count", 1.0),
        ("vocabulary.max_size", True),
        ("text.tokenizer", "regexp"),
        ("text.lowercase", 1),
        ("text.max_tokens", 0),
        ("text", {}),
        ("more", 1),
    ],
)
def test_a_state_that_learn_cannot_have_made_is_refused(path: str, value: Any) -> None:
    stored = json.loads(fitted(TRAIN).to_json())
    *parents, last = path.split(".")
    part = stored
    for name in parents:
        part = part[name]
    part[last] = value
    with pytest.raises(DataError, match=r"preprocessing\.json is damaged"):
        Preprocessing.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "1", "{", '"x"', "[" * 100_000, b"\xff\xfe\xfa", "1" * 5000])
def test_what_is_no_state_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(DataError, match=r"preprocessing\.json is damaged"):
        Preprocessing.from_json(text)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_file_is_refused_or_still_a_state(data: st.DataObject) -> None:
    stored = bytearray(fitted(TRAIN).to_json().encode())
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    try:
        state = Preprocessing.from_json(bytes(stored))
    except DataError:
        return
    assert state.shapes().outputs >= 1


def test_scale_of_weights_is_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.normal(5, 2, 1000), rng.integers(0, 5, 1000)
    repeated = np.repeat(values, counts)
    scale = scale_of(values, counts.astype(float))
    assert (scale.mean, scale.std) == pytest.approx((repeated.mean(), repeated.std()), rel=1e-12)
