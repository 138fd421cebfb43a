"""Weighted metrics of any number of rows in constant memory: sums, counts by class and a histogram of the logits.

Batches are added inside a `tf.function`; the sums are float64, so that neither the order nor the size of the batches
shows in the result. A metric that its rows do not determine (AUC of one class, calibration without a positive label,
anything of no rows) is nan.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trainer.model.objectives import multi_hot, predictions, row_loss

Floats = NDArray[np.float64]

# AUC and the reliability diagram come from a histogram of the logits whose bins grow with the distance d from the best
# constant prediction: uniform in log(1 + d / FINEST). A bin is 7e-7 wide in the middle and 7e-5 at a distance of 1.
# Against the exact AUC of 200,000 rows that leaves 1e-7 in common cases and 1e-6 where all logits lie within 0.01;
# 65,536 uniform bins on [-16, 16] leave 1e-3 there, and 2e-2 where a model is sure of itself (logits around 30).
BINS = 2**18
FINEST = 0.01
FARTHEST = 100.0  # the probability is 0 or 1 for any use
SCALE = BINS / (2 * np.log1p(FARTHEST / FINEST))

WEIGHTED_SUMS = {
    "binary": ("loss", "squared_error", "absolute_error", "correct", "label", "prediction", "fraction"),
    "regression": ("loss", "absolute_error", "label", "prediction", "squared_label"),
    "multiclass": ("loss", "correct", "in_top_5", "in_vocabulary"),
    "multilabel": ("loss", "squared_error"),
}


class Metrics(tf.Module):
    """The metrics of one objective over the rows since the last `reset`.

    outputs: width of the logits. label_mean, label_std: of a regression label, whose metrics are in its own units
    (but for loss). center: the logit around which AUC resolves best, that of the best constant prediction.

    Rows of a class that no training row has (multiclass, label -1) count as wrong. They have no log loss, which is the
    mean over the other rows, and macro F1 counts them only as wrong predictions of other classes.
    """

    def __init__(
        self, objective: str, outputs: int, label_mean: float = 0.0, label_std: float = 1.0, center: float = 0.0
    ) -> None:
        super().__init__()
        self.objective, self.outputs = objective, outputs
        self.label_mean, self.label_std, self.center = label_mean, label_std, center
        self._columns, self._metrics = {
            "binary": (self._add_binary, self._binary_metrics),
            "regression": (self._add_regression, self._regression_metrics),
            "multiclass": (self._add_multiclass, self._multiclass_metrics),
            "multilabel": (self._add_multilabel, self._multilabel_metrics),
        }[objective]
        self._state = {"sums": _zeros(2 + len(WEIGHTED_SUMS[objective]))}  # rows, weight, then weighted sums
        if objective in ("binary", "multilabel"):
            self._state["histogram"] = _zeros(BINS, 2)  # weight of negative and of positive labels
        if objective in ("multiclass", "multilabel"):
            self._state["classes"] = _zeros(outputs, 3)  # weight of hits, of predictions, of labels

    def reset(self) -> None:
        """Forget all rows."""
        for variable in self._state.values():
            variable.assign(tf.zeros_like(variable))

    def update(self, logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> None:
        """Add a batch. logits: float [batch, outputs]; labels: as in `Examples`; weights: float [batch]."""
        # float64 throughout: vectorised and scalar float32 kernels round differently, so the place of a row in its
        # batch would show.
        logits, weights = tf.cast(logits, tf.float64), tf.cast(weights, tf.float64)
        columns = self._columns(logits, labels, weights)
        loss = row_loss(self.objective, logits, labels)
        rows = tf.ones_like(weights)
        terms = tf.stack([rows, weights, *(weights * column for column in [loss, *columns])])
        self._state["sums"].assign_add(tf.reduce_sum(terms, axis=1))

    def result(self) -> dict[str, float]:
        """The metrics by name, beginning with loss; `rows` and `weight` come last."""
        rows, weight, *sums = self._state["sums"].numpy()
        means = {name: _ratio(value, weight) for name, value in zip(WEIGHTED_SUMS[self.objective], sums, strict=True)}
        metrics = {name: float(value) for name, value in self._metrics(means).items()}
        return metrics | {"rows": int(rows), "weight": float(weight)}

    @property
    def rates(self) -> bool:
        """Whether some binary label is a rate: neither 0 nor 1."""
        name, names = "fraction", WEIGHTED_SUMS[self.objective]
        return name in names and float(self._state["sums"][2 + names.index(name)]) > 0

    def reliability(self) -> dict[str, list[float]]:
        """The reliability diagram of a binary objective: groups of about equal weight by rising prediction.

        Returns equally long lists under "prediction" and "label" (weighted means) and "weight", of at most 20 groups:
        about 20 rows make one, and equal predictions stay together.
        """
        rows = float(self._state["sums"][0])
        bins = int(np.clip(rows / 20, 5, 20))
        histogram = self._state["histogram"].numpy()
        histogram, middles = histogram[(used := histogram.any(axis=1))], self._bin_middles()[used]
        weight = histogram.sum(axis=1)
        middle_of_weight = (np.cumsum(weight) - weight / 2) / weight.sum()
        group = (middle_of_weight * bins).astype(np.int64)
        probabilities = np.exp(-np.logaddexp(0.0, -middles))  # the sigmoid
        total, positive, predicted = (
            np.bincount(group, values, bins) for values in (weight, histogram[:, 1], weight * probabilities)
        )
        total, positive, predicted = (values[total > 0] for values in (total, positive, predicted))
        return {
            "prediction": (predicted / total).tolist(),
            "label": (positive / total).tolist(),
            "weight": total.tolist(),
        }

    def distribution(self) -> dict[str, list[float]]:
        """The distribution of binary predictions, without the outermost 0.1% of the weight at each end.

        Returns equally long lists: "logit", middles of at most 40 bins of equal width, and the weight of "negative" and
        "positive" labels in them.
        """
        rows = float(self._state["sums"][0])
        bins = int(np.clip(np.sqrt(rows), 10, 40))
        histogram = self._state["histogram"].numpy()
        reached = np.cumsum(histogram.sum(axis=1))
        if reached[-1] == 0:
            return {"logit": [], "negative": [], "positive": []}
        first, last = np.searchsorted(reached, [0.001 * reached[-1], 0.999 * reached[-1]], side="right")
        middles, histogram = self._bin_middles()[first : last + 1], histogram[first : last + 1]
        edges = np.linspace(middles[0], middles[-1] + 1e-6, bins + 1)
        negative, positive = (np.histogram(middles, edges, weights=side)[0] for side in histogram.T)
        return {
            "logit": ((edges[1:] + edges[:-1]) / 2).tolist(),
            "negative": negative.tolist(),
            "positive": positive.tolist(),
        }

    def _add_binary(self, logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        labels = tf.cast(labels, tf.float64)
        probability = predictions("binary", logits, 0.0, 1.0)
        error = probability - labels
        correct = tf.cast(tf.equal(probability > 0.5, labels > 0.5), tf.float64)
        sides = tf.stack([weights * (1 - labels), weights * labels], axis=1)
        self._state["histogram"].scatter_add(tf.IndexedSlices(sides, self._bin(logits[:, 0])))
        return [tf.square(error), tf.abs(error), correct, labels, probability, labels * (1 - labels)]

    def _add_regression(self, logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        output, labels = logits[:, 0], tf.cast(labels, tf.float64)
        return [tf.abs(output - labels), labels, output, tf.square(labels)]

    def _add_multiclass(self, logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
        in_vocabulary = tf.cast(labels >= 0, tf.float64)
        classes = tf.maximum(labels, 0)
        own = tf.gather(logits, classes, axis=1, batch_dims=1)[:, None]
        # Ties go to the lower class, as in argmax: a constant model must not have every class in its top 5.
        earlier = tf.range(self.outputs) < classes[:, None]
        rank = tf.math.count_nonzero((logits > own) | ((logits == own) & earlier), axis=1)
        correct = tf.cast(tf.equal(predicted, labels), tf.float64)
        nothing, actual = tf.zeros_like(weights), weights * in_vocabulary
        for ids, columns in ((classes, [weights * correct, nothing, actual]), (predicted, [nothing, weights, nothing])):
            self._state["classes"].scatter_add(tf.IndexedSlices(tf.stack(columns, axis=1), ids))
        return [correct, in_vocabulary * tf.cast(rank < 5, tf.float64), in_vocabulary]

    def _add_multilabel(self, logits: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> list[tf.Tensor]:
        targets = tf.cast(multi_hot(labels, self.outputs), tf.float64)
        predicted = tf.cast(logits > 0, tf.float64)
        self._state["classes"].assign_add(
            tf.stack(
                [tf.linalg.matvec(x, weights, transpose_a=True) for x in (predicted * targets, predicted, targets)],
                axis=1,
            )
        )
        bins = self._bin(tf.reshape(logits, [-1]))
        negative, positive = (tf.reshape(weights[:, None] * x, [-1]) for x in (1 - targets, targets))
        # Many more cells than bins: a dense histogram of the batch costs a tenth of a scatter. Only its CPU kernel is
        # deterministic.
        with tf.device("CPU:0"):
            sides = [tf.raw_ops.Bincount(arr=bins, size=BINS, weights=side) for side in (negative, positive)]
        self._state["histogram"].assign_add(tf.stack(sides, axis=1))
        return [tf.reduce_mean(tf.math.squared_difference(tf.sigmoid(logits), targets), axis=1)]

    def _bin(self, logits: tf.Tensor) -> tf.Tensor:
        distance = logits - self.center
        far = tf.minimum(tf.abs(distance), FARTHEST)
        place = BINS / 2 + SCALE * tf.sign(distance) * tf.math.log1p(far / FINEST)
        return tf.clip_by_value(tf.cast(place, tf.int32), 0, BINS - 1)  # nan falls somewhere, but the loss tells

    def _bin_middles(self) -> Floats:
        place: Floats = (np.arange(BINS) + 0.5 - BINS / 2) / SCALE
        middles: Floats = self.center + np.sign(place) * FINEST * np.expm1(np.abs(place))
        return middles

    def _auc(self) -> float:
        """Area under the ROC curve, pairs within a bin counted half; nan without both classes or with a nan logit."""
        negative, positive = self._state["histogram"].numpy().T
        below = np.cumsum(negative) - negative / 2
        return _ratio(float(positive @ below), float(positive.sum() * negative.sum()))

    def _binary_metrics(self, means: dict[str, float]) -> dict[str, float]:
        loss, label, prediction = means["loss"], means["label"], means["prediction"]
        return {
            "loss": loss,
            "log_loss": loss,
            "normalised_entropy": _ratio(loss, _entropy(label)),
            "auc": self._auc() if np.isfinite(loss) else np.nan,
            "calibration": _ratio(prediction, label),
            "mse": means["squared_error"],
            "mae": means["absolute_error"],
            "accuracy": means["correct"],
            "mean_label": label,
            "mean_prediction": prediction,
        }

    def _regression_metrics(self, means: dict[str, float]) -> dict[str, float]:
        mse = self.label_std**2 * means["loss"]
        variance = means["squared_label"] - means["label"] ** 2
        return {
            "loss": means["loss"],
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": self.label_std * means["absolute_error"],
            "r2": 1 - _ratio(means["loss"], variance),
            "mean_label": self.label_mean + self.label_std * means["label"],
            "mean_prediction": self.label_mean + self.label_std * means["prediction"],
        }

    def _multiclass_metrics(self, means: dict[str, float]) -> dict[str, float]:
        top_5 = {"top_5_accuracy": means["in_top_5"]} if self.outputs > 5 else {}
        _, macro = self._f1()
        loss = _ratio(means["loss"], means["in_vocabulary"])
        return {
            "loss": loss,
            "log_loss": loss,
            "accuracy": means["correct"],
            **top_5,
            "macro_f1": macro,
        }

    def _multilabel_metrics(self, means: dict[str, float]) -> dict[str, float]:
        micro, macro = self._f1()
        auc = self._auc() if np.isfinite(means["loss"]) else np.nan
        return {"loss": means["loss"], "auc": auc, "micro_f1": micro, "macro_f1": macro, "mse": means["squared_error"]}

    def _f1(self) -> tuple[float, float]:
        """Micro and macro F1, the latter over the classes that occur among labels or predictions."""
        hits, predicted, actual = self._state["classes"].numpy().T
        occurs = predicted + actual > 0
        by_class = 2 * hits[occurs] / (predicted + actual)[occurs]
        micro = _ratio(2 * hits.sum(), (predicted + actual).sum())
        return micro, float(by_class.mean()) if occurs.any() else np.nan


def _zeros(*shape: int) -> tf.Variable:
    return tf.Variable(tf.zeros(shape, tf.float64), trainable=False)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else np.nan


def _entropy(probability: float) -> float:
    """The entropy of a Bernoulli distribution in nats; 0 at 0 and 1."""
    if not 0 < probability < 1:
        return 0.0
    return float(-probability * np.log(probability) - (1 - probability) * np.log1p(-probability))
