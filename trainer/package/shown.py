"""Choose the metrics that people are shown, and name and explain them."""

from collections.abc import Collection, Mapping, Sequence

# The metrics that tell most, for each objective.
MAIN_METRICS = (
    ("loss", "auc", "calibration", "mse"),
    ("loss", "r2", "rmse", "mae"),
    ("loss", "accuracy", "macro_f1", "top_5_accuracy"),
    ("loss", "auc", "micro_f1", "macro_f1"),
)
NAMES = {"auc": "AUC", "mse": "MSE", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}
LOSSES = {
    "binary": "log loss (cross-entropy)",
    "regression": "squared error of the label, scaled to a standard deviation of 1",
    "multiclass": "log loss (cross-entropy)",
    "multilabel": "log loss (cross-entropy), the mean over all classes",
}
MEANINGS = {
    "normalised_entropy": "loss, divided by that of predicting the set's own mean label for every row",
    "calibration": "mean prediction, divided by the mean label; 1 is right",
    "top_5_accuracy": "share of rows whose class is among the five that are most likely",
}
BALANCED = (0.1, 0.9)  # mean labels between which the accuracy of a binary label says something


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return NAMES.get(metric) or metric.replace("_", " ").capitalize().replace("f1", "F1")


def main_metrics(names: Sequence[str]) -> list[str]:
    """The most important of some metrics, at most four."""
    best = max(MAIN_METRICS, key=lambda group: len(set(group) & set(names)))
    return [name for name in best if name in names] or list(names[:4])


def hidden_metrics(metrics: Mapping[str, float], *, rates: bool, stopping_metric: str = "") -> set[str]:
    """Metrics of a set that would tell people nothing; files keep them.

    These are `log_loss` where `loss` is the same, and the accuracy of a binary label that is a rate or nearly always
    the same: a rate is neither right nor wrong, and hardly a prediction of a rare label is above one half. The stopping
    metric is never one of them, because somebody chose it. rates: whether binary labels are not only 0 and 1.
    """
    hidden = {"log_loss"} if metrics.get("log_loss") == metrics.get("loss") else set()
    low, high = BALANCED
    if "calibration" in metrics and (rates or not low <= metrics.get("mean_label", 0.5) <= high):
        hidden.add("accuracy")
    return hidden - {stopping_metric}


def explanations(objective: str, names: Collection[str]) -> dict[str, str]:
    """What metrics mean that do not explain themselves: name as shown -> meaning."""
    meanings = {"loss": LOSSES[objective], **MEANINGS} if objective in LOSSES else {}
    return {metric_name(name): meaning for name, meaning in meanings.items() if name in names}
