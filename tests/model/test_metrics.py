"""The metrics agree with scikit-learn on the same predictions, whatever the sizes of the batches."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as sk

from trainer.model.metrics import Metrics
from trainer.model.objectives import multi_hot, predictions, row_loss

ROWS = 5_000
CLASSES = 7
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def measure(metrics: Metrics, rows: Batch, sizes: list[int] | None = None) -> dict[str, float]:
    """The metrics of the rows, added in batches of the given sizes inside a graph."""

    @tf.function
    def add(logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> None:
        metrics.update(logits, labels, weights)

    metrics.reset()
    start = 0
    for size in sizes or [len(rows[2])]:
        add(*(tf.constant(array[start : start + size]) for array in rows))
        start += size
    return metrics.result()


def draw(objective: str, seed: int = 0, rows: int = ROWS) -> Batch:
    """Logits that know something of the labels, and uneven weights."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=rows).astype(np.float32)
    outputs = CLASSES if objective.startswith("multi") else 1
    logits = rng.normal(size=(rows, outputs)).astype(np.float32)
    if objective == "binary":
        logits -= 2
        labels: np.ndarray = (rng.random(rows) < expit(logits[:, 0])).astype(np.float32)
    elif objective == "regression":
        labels = (logits[:, 0] + rng.normal(size=rows)).astype(np.float32)
    elif objective == "multiclass":
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    else:
        present = rng.random(logits.shape) < expit(logits - 1)
        labels = pad([np.flatnonzero(row) + 1 for row in present])
    return logits, labels, weights


def pad(sets: list[np.ndarray]) -> np.ndarray:
    padded = np.zeros((len(sets), max(map(len, sets))), np.int32)
    for row, ids in zip(padded, sets, strict=True):
        row[: len(ids)] = ids
    return padded


def labels_to_hot(labels: np.ndarray) -> np.ndarray:
    return np.stack([np.isin(np.arange(1, CLASSES + 1), row) for row in labels])


def test_binary_agrees_with_scikit_learn() -> None:
    logits, labels, weights = draw("binary")
    metrics = measure(Metrics("binary", 1, center=-2.0), (logits, labels, weights))
    score = expit(logits[:, 0].astype(np.float64))
    mean = np.average(labels, weights=weights.astype(np.float64))
    entropy = sk.log_loss(labels, np.full(ROWS, mean), sample_weight=weights)
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(labels, score, sample_weight=weights), abs=1e-5)
    expected = {
        "loss": sk.log_loss(labels, score, sample_weight=weights),
        "log_loss": sk.log_loss(labels, score, sample_weight=weights),
        "normalised_entropy": sk.log_loss(labels, score, sample_weight=weights) / entropy,
        "calibration": np.average(score, weights=weights) / mean,
        "mse": sk.brier_score_loss(labels, score, sample_weight=weights),
        "mae": sk.mean_absolute_error(labels, score, sample_weight=weights),
        "accuracy": sk.accuracy_score(labels, score > 0.5, sample_weight=weights),
        "mean_label": mean,
        "mean_prediction": np.average(score, weights=weights),
        "rows": ROWS,
        "weight": weights.sum(dtype=np.float64),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert set(metrics) == {*expected, "auc"}


def test_a_rate_counts_as_that_many_positive_and_negative_rows() -> None:
    logits, _, weights = draw("binary")
    rates = np.random.default_rng(1).beta(1, 9, size=ROWS).astype(np.float32)
    metrics = measure(Metrics("binary", 1), (logits, rates, weights))
    score = np.tile(expit(logits[:, 0].astype(np.float64)), 2)
    both = np.repeat([1, 0], ROWS)
    both_weights = np.concatenate([weights * rates.astype(np.float64), weights * (1 - rates.astype(np.float64))])
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(both, score, sample_weight=both_weights), abs=1e-5)
    assert metrics["log_loss"] == pytest.approx(sk.log_loss(both, score, sample_weight=both_weights), rel=1e-9)


@pytest.mark.parametrize(
    ("middle", "spread", "center", "bar"),
    [
        (-3, 1.0, 0.0, 1e-5),
        (-7, 0.7, 0.0, 1e-5),
        (0, 30.0, -3.0, 1e-5),
        (-40, 10.0, 0.0, 1e-5),
        (-4, 0.003, -4.1, 1e-5),  # all logits within 0.01 or so: a model that has hardly moved from the best constant
        (-4, 0.0003, -4.01, 1e-5),
        (-4, 0.003, 0.0, 1e-3),  # the same, not told where
    ],
)
def test_auc_by_histogram_is_close_to_the_exact_one(middle: float, spread: float, center: float, bar: float) -> None:
    rng = np.random.default_rng(2)
    skill = rng.normal(size=50_000)
    logits = (middle + spread * skill).astype(np.float32)[:, None]
    labels = (rng.random(50_000) < expit(2 * skill - 1)).astype(np.float32)
    weights = rng.exponential(size=50_000).astype(np.float32)
    metrics = measure(Metrics("binary", 1, center=center), (logits, labels, weights))
    assert metrics["auc"] == pytest.approx(sk.roc_auc_score(labels, logits[:, 0], sample_weight=weights), abs=bar)


def test_equal_logits_have_an_auc_of_one_half() -> None:
    rows = (np.full((10, 1), 0.3, np.float32), np.arange(10, dtype=np.float32) % 2, np.ones(10, np.float32))
    assert measure(Metrics("binary", 1), rows)["auc"] == 0.5


def test_regression_agrees_with_scikit_learn_in_the_labels_units() -> None:
    logits, labels, weights = draw("regression")
    mean, std = 1e6, 3.0
    metrics = measure(Metrics("regression", 1, mean, std), (logits, labels, weights))
    truth, guess = (mean + std * values.astype(np.float64) for values in (labels, logits[:, 0]))
    expected = {
        "loss": sk.mean_squared_error(truth, guess, sample_weight=weights) / std**2,
        "mse": sk.mean_squared_error(truth, guess, sample_weight=weights),
        "rmse": sk.root_mean_squared_error(truth, guess, sample_weight=weights),
        "mae": sk.mean_absolute_error(truth, guess, sample_weight=weights),
        "r2": sk.r2_score(truth, guess, sample_weight=weights),
        "mean_label": np.average(truth, weights=weights),
        "mean_prediction": np.average(guess, weights=weights),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-8)


def test_multiclass_agrees_with_scikit_learn() -> None:
    logits, labels, weights = draw("multiclass")
    labels[labels == 3] = 2  # a class that is predicted but never right
    metrics = measure(Metrics("multiclass", CLASSES), (logits, labels, weights))
    scores, predicted = softmax(logits.astype(np.float64), axis=1), logits.argmax(axis=1)
    every = np.arange(CLASSES)
    expected = {
        "log_loss": sk.log_loss(labels, scores, sample_weight=weights, labels=every),
        "accuracy": sk.accuracy_score(labels, predicted, sample_weight=weights),
        "top_5_accuracy": sk.top_k_accuracy_score(labels, scores, k=5, sample_weight=weights, labels=every),
        "macro_f1": sk.f1_score(labels, predicted, average="macro", sample_weight=weights),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert metrics["loss"] == metrics["log_loss"]


def test_rows_of_a_class_that_no_training_row_has_are_wrong_and_have_no_log_loss() -> None:
    logits, labels, weights = draw("multiclass")
    unseen = np.arange(len(labels)) % 7 == 0
    marked = np.where(unseen, -1, labels).astype(np.int32)
    metrics = measure(Metrics("multiclass", CLASSES), (logits, marked, weights))
    scores, predicted = softmax(logits.astype(np.float64), axis=1), logits.argmax(axis=1)
    rest = (labels[~unseen], scores[~unseen])
    expected = {
        "log_loss": sk.log_loss(*rest, sample_weight=weights[~unseen], labels=np.arange(CLASSES)),
        "accuracy": sk.accuracy_score(marked, predicted, sample_weight=weights),
        "macro_f1": sk.f1_score(
            marked, predicted, average="macro", sample_weight=weights, labels=np.unique([*labels[~unseen], *predicted])
        ),
        "weight": weights.sum(dtype=np.float64),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    nothing = measure(Metrics("multiclass", CLASSES), (logits, np.full_like(labels, -1), weights))
    assert (nothing["accuracy"], nothing["top_5_accuracy"]) == (0, 0)
    assert np.isnan(nothing["log_loss"])


def test_top_5_accuracy_is_left_out_of_five_classes_and_not_won_by_a_constant() -> None:
    labels, weights = np.arange(10, dtype=np.int32) % 5, np.ones(10, np.float32)
    assert "top_5_accuracy" not in measure(Metrics("multiclass", 5), (np.zeros((10, 5), np.float32), labels, weights))
    rows = (np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32), weights)
    assert measure(Metrics("multiclass", 10), rows)["top_5_accuracy"] == 0.5


def test_multilabel_agrees_with_scikit_learn() -> None:
    logits, labels, weights = draw("multilabel")
    logits[:, 2] = -9.0  # a class that is never predicted
    metrics = measure(Metrics("multilabel", CLASSES), (logits, labels, weights))
    hot, scores = labels_to_hot(labels), expit(logits.astype(np.float64))
    flat_weights = np.repeat(weights, CLASSES)
    expected = {
        "loss": sk.log_loss(hot.ravel(), scores.ravel(), sample_weight=flat_weights),
        "micro_f1": sk.f1_score(hot, logits > 0, average="micro", sample_weight=weights),
        "macro_f1": sk.f1_score(hot, logits > 0, average="macro", sample_weight=weights),
        "mse": np.average(((scores - hot) ** 2).mean(axis=1), weights=weights),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    auc = sk.roc_auc_score(hot.ravel(), scores.ravel(), sample_weight=flat_weights)
    assert metrics["auc"] == pytest.approx(auc, abs=1e-5)


def test_a_class_that_does_not_occur_has_no_part_in_macro_f1() -> None:
    logits = np.float32([[5, -5, -5], [5, -5, -5]])
    labels = np.int32([[1], [0]])
    metrics = measure(Metrics("multilabel", 3), (logits, labels, np.ones(2, np.float32)))
    assert metrics["macro_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multilabel"])
def test_sizes_of_batches_do_not_show(objective: str) -> None:
    rows = draw(objective)
    metrics = Metrics(objective, rows[0].shape[1], 5.0, 2.0)
    whole = measure(metrics, rows)
    for sizes in ([1, 2, 3, 994, 4000], [ROWS - 1, 1], [170] * 29 + [70]):
        assert measure(metrics, rows, sizes) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multilabel"])
def test_rows_of_weight_0_do_not_show_and_a_reset_forgets(objective: str) -> None:
    logits, labels, weights = draw(objective)
    metrics = Metrics(objective, logits.shape[1])
    half = ROWS // 2
    first = measure(metrics, (logits[:half], labels[:half], weights[:half]))
    weights[half:] = 0
    again = measure(metrics, (logits, labels, weights))
    assert again.pop("rows") == 2 * first.pop("rows")
    assert again == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multilabel"])
def test_of_no_rows_every_metric_is_nan_without_a_warning(objective: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = Metrics(objective, 1 if objective in ("binary", "regression") else CLASSES).result()
    assert metrics.pop("rows") == metrics.pop("weight") == 0
    assert np.isnan(list(metrics.values())).all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_of_one_class_what_is_not_defined_is_nan_without_a_warning(label: float) -> None:
    logits, _, weights = draw("binary")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = measure(Metrics("binary", 1), (logits, np.full(ROWS, label, np.float32), weights))
    undefined = {name for name, value in metrics.items() if np.isnan(value)}
    assert undefined == {"auc", "normalised_entropy"} | ({"calibration"} if label == 0 else set())


@pytest.mark.parametrize("objective", ["binary", "multilabel"])
def test_extreme_logits_give_finite_metrics(objective: str) -> None:
    outputs = 1 if objective == "binary" else 2
    logits = np.repeat(np.float32([[1e4], [-1e4], [1e4], [-1e4]]), outputs, axis=1)
    labels = np.float32([1, 0, 0, 1]) if objective == "binary" else np.int32([[1, 2], [0, 0], [0, 0], [1, 2]])
    metrics = measure(Metrics(objective, outputs), (logits, labels, np.ones(4, np.float32)))
    assert np.isfinite(list(metrics.values())).all()
    assert metrics["loss"] == pytest.approx(5e3)
    assert metrics["auc"] == 0.5


@pytest.mark.parametrize("objective", ["binary", "regression", "multiclass", "multilabel"])
def test_a_logit_that_is_nan_shows_in_loss_and_auc(objective: str) -> None:
    logits, labels, weights = draw(objective)
    logits[123, 0] = np.nan
    metrics = measure(Metrics(objective, logits.shape[1]), (logits, labels, weights))
    assert np.isnan(metrics["loss"])
    assert np.isnan(metrics.get("auc", np.nan))


def test_reliability_diagram_has_groups_of_equal_weight_and_the_totals_of_the_rows() -> None:
    logits, labels, weights = draw("binary", rows=50_000)
    accumulated = Metrics("binary", 1)
    metrics = measure(accumulated, (logits, labels, weights))
    curve = {name: np.array(values) for name, values in accumulated.reliability().items()}
    assert len(curve["weight"]) == 20
    assert curve["weight"] == pytest.approx(np.full(20, metrics["weight"] / 20), rel=0.01)
    assert np.average(curve["label"], weights=curve["weight"]) == pytest.approx(metrics["mean_label"])
    assert np.average(curve["prediction"], weights=curve["weight"]) == pytest.approx(
        metrics["mean_prediction"], rel=1e-4
    )
    assert (np.diff(curve["prediction"]) > 0).all()
    noise = np.sqrt(curve["label"] / curve["weight"])
    assert (np.abs(curve["label"] - curve["prediction"]) < 6 * noise).all()  # labels were drawn from the logits


def test_reliability_diagram_of_few_rows_has_few_groups() -> None:
    metrics = Metrics("binary", 1)
    measure(metrics, draw("binary", rows=210))
    assert len(metrics.reliability()["weight"]) == 10


def test_distribution_holds_the_weight_of_both_labels_where_the_logits_lie() -> None:
    logits, labels, weights = draw("binary", rows=50_000)
    metrics = Metrics("binary", 1, center=-2.0)
    assert metrics.distribution() == {"logit": [], "negative": [], "positive": []}
    measure(metrics, (logits, labels, weights))
    shown = {name: np.array(values) for name, values in metrics.distribution().items()}
    low, high = np.quantile(logits, [0.001, 0.999])
    assert (shown["logit"][0], shown["logit"][-1]) == pytest.approx((low, high), abs=0.5)
    assert shown["positive"].sum() == pytest.approx(weights @ labels, rel=0.01)
    assert shown["negative"].sum() == pytest.approx(weights @ (1 - labels), rel=0.01)
    for name, side in (("negative", labels == 0), ("positive", labels == 1)):
        mean = np.average(shown["logit"], weights=shown[name])
        assert mean == pytest.approx(np.average(logits[side, 0], weights=weights[side]), abs=0.03)


def test_reliability_diagram_of_equal_predictions_is_one_point_and_of_no_rows_none() -> None:
    metrics = Metrics("binary", 1)
    assert metrics.reliability() == {"prediction": [], "label": [], "weight": []}
    measure(metrics, (np.full((8, 1), -2, np.float32), np.float32([1, 0, 0, 0] * 2), np.full(8, 0.5, np.float32)))
    assert metrics.reliability() == {
        "prediction": [pytest.approx(expit(-2), rel=1e-4)],
        "label": [0.25],
        "weight": [4.0],
    }


EXTREMES = np.float32([0, 1e-8, -1e-8, 1, -1, 17, -17, 88, -88, 104, -104, 1e4, -1e4, 3e38, -3e38])


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def test_binary_loss_is_stable_for_every_logit() -> None:
    for label in (0.0, 0.25, 1.0):
        exact = label * softplus(-EXTREMES.astype(np.float64)) + (1 - label) * softplus(EXTREMES.astype(np.float64))
        values = row_loss("binary", tf.constant(EXTREMES[:, None]), tf.fill([len(EXTREMES)], label))
        assert values.dtype == tf.float32
        np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-30)


def test_losses_are_those_of_a_float64_reference() -> None:
    def check(objective: str, exact: Callable[..., Any]) -> None:
        logits, labels, _ = draw(objective, rows=500)
        logits *= 100
        values = row_loss(objective, tf.constant(logits), tf.constant(labels))
        np.testing.assert_allclose(values, exact(logits.astype(np.float64), labels), rtol=1e-5, atol=2e-7)

    check("regression", lambda z, y: (z[:, 0] - y) ** 2)
    check("multiclass", lambda z, y: -log_softmax(z, axis=1)[np.arange(len(y)), y])
    check("multilabel", lambda z, y: (softplus(z) - z * labels_to_hot(y)).mean(axis=1))


def test_predictions_are_probabilities_or_the_number_in_its_units() -> None:
    for objective, exact in {"binary": lambda z: expit(z[:, 0]), "regression": lambda z: 5 + 2 * z[:, 0],
                             "multiclass": lambda z: softmax(z, axis=1), "multilabel": expit}.items():  # fmt: skip
        logits = draw(objective, rows=500)[0]
        values = predictions(objective, tf.constant(logits), 5.0, 2.0)
        assert values.dtype == tf.float32
        np.testing.assert_allclose(values, exact(logits.astype(np.float64)), rtol=1e-5)


def test_multi_hot_counts_a_repeated_id_once_and_padding_never() -> None:
    values = multi_hot(tf.constant([[2, 2, 0], [0, 0, 0], [3, 1, 2]]), 3)
    assert values.numpy().tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 1]]


def test_binary_labels_between_0_and_1_are_rates() -> None:
    metrics, (logits, labels, weights) = Metrics("binary", 1), draw("binary", rows=100)
    measure(metrics, (logits, labels, weights))
    assert not metrics.rates
    labels[17] = 0.999
    measure(metrics, (logits, labels, weights))
    assert metrics.rates
    assert not Metrics("regression", 1).rates
