"""Collect the warnings of a run before and after training, for the log and the report."""

from collections.abc import Mapping

from trainer.config.net_config import STOPPING_METRICS, NetConfig
from trainer.config.roles import column_kinds
from trainer.features.encoded import constant_column_warnings, single_token_shares
from trainer.features.labels import unseen_classes_warning
from trainer.features.pipeline import Prepared
from trainer.features.sentinels import Sentinel
from trainer.inspection.warnings import (
    DISTINCT,
    SINGLE_TOKEN,
    empty_vocabulary_warning,
    sentinel_warning,
    single_token_warning,
    split_warnings,
    truncation_warnings,
)
from trainer.model.ops_wrapper import Gain
from trainer.runtime.errors import DivergedError

STANDARD_ERRORS = 2.0  # a smaller gain over the baseline is chance in one of 40 runs
FAR_WORSE = 2.0  # a loss so many times that of the baseline is no model
LEAST_WORSE = 0.01  # where the baseline's loss is almost 0, the loss must be higher by this
SHARED = 0.25  # a gain that is at least this share of the gain on training rows would show with more rows
MEMORISED = 0.05  # a loss on training rows that is lower than the baseline by this share


def before_training(config: NetConfig, prepared: Prepared, sources: Mapping[str, str]) -> list[str]:
    """Warnings about the training rows and the split; sources: has a key for each set with data of its own."""
    preprocessing, split = prepared.preprocessing, prepared.split
    warnings = constant_column_warnings(prepared.encoded["train"], preprocessing.shapes())
    warnings += [
        empty_vocabulary_warning(config, column)
        for column, vocabulary in preprocessing.vocabularies.items()
        if not vocabulary
    ]
    for column, (share, rare) in single_token_shares(prepared.encoded["train"], preprocessing).items():
        if share >= SINGLE_TOKEN and rare >= DISTINCT:
            warnings.append(single_token_warning(config, column, share))
    for column, share in split["truncated"].items():
        is_list = preprocessing.features[column] == "multi_categorical"
        warnings += truncation_warnings(column, preprocessing.kept(column), share, is_list=is_list)
    kinds = column_kinds(config)
    for column, facts in split["sentinels"].items():
        warnings += [sentinel_warning(column, Sentinel(**apart), kinds[column]) for apart in facts]
    label = preprocessing.label
    warnings += [unseen_classes_warning(label, side, facts) for side, facts in split["unseen_classes"].items()]
    rows = split["rows"]["train"]
    if config.batch_size > rows:
        warnings.append(
            f"batch_size {config.batch_size:,} is larger than the training set of {rows:,} rows. Choose a smaller "
            "batch_size."
        )
    return warnings + split_warnings(config, split, sources)


def after_training(
    side: str, train: Mapping[str, float], metrics: Mapping[str, float], constant: Mapping[str, float], gain: Gain
) -> list[str]:
    """A warning where the model's gain over the best constant prediction may be chance.

    train, metrics: of the best epoch, on the training set and the last set; constant, gain: on the last set.
    """
    if gain.mean > STANDARD_ERRORS * gain.error:
        return []
    loss, baseline = metrics["loss"], constant["loss"]
    if train["loss"] > baseline + abs(loss - baseline):
        advice = (
            f"Its loss on training rows, {train['loss']:#.5g}, is higher still: lower learning_rate, or look for "
            "extreme numbers with `fab check-data`."
        )
    elif gain.mean > SHARED * (baseline - train["loss"]) > 0:
        advice = f"{metrics['rows']:,.0f} rows are too few to tell: use more {side} rows."
    elif train["loss"] < (1 - MEMORISED) * baseline:
        advice = (
            f"Its loss on training rows, {train['loss']:#.5g}, is much lower: it memorises them. Use more rows, leave "
            "out columns whose values hardly repeat, or raise dropout."
        )
    else:
        advice = (
            f"Its loss on training rows, {train['loss']:#.5g}, is no better: nothing was learned. See with `fab "
            "check-data` whether the columns explain the label, or train longer with a higher learning_rate."
        )
    return [
        f"The model may be no better than the same prediction for every row: {side} loss {loss:#.5g} against "
        f"{baseline:#.5g}, a gain of {gain.mean:.2g} with a standard error of {gain.error:.2g}. {advice}"
    ]


def check_worth(
    config: NetConfig, best: Mapping[str, Mapping[str, float]], constants: Mapping[str, Mapping[str, float]]
) -> None:
    """DivergedError if the best epoch is far worse than the best constant prediction, which training began with.

    best, constants: metrics by set. Far worse means: on every set, the training set included, the loss is more than
    FAR_WORSE times that of the constant, and the stopping metric is no better either. An overfitted model has a low
    loss on training rows, and a model chosen by its ranking may rank well.
    """
    metric, last = config.stopping_metric, list(best)[-1]
    higher_is_better = STOPPING_METRICS[config.objective][metric] == "max"
    better = best[last][metric] > constants[last][metric] if higher_is_better else False
    far = [
        best[side]["loss"] > max(FAR_WORSE * constants[side]["loss"], constants[side]["loss"] + LEAST_WORSE)
        for side in best
    ]
    if config.allow_worse or better or not all(far):
        return
    losses = ", ".join(f"{side} {best[side]['loss']:.4g} against {constants[side]['loss']:.4g}" for side in best)
    raise DivergedError(
        f"Training diverged: the best epoch is far worse than the same prediction for every row. Loss: {losses}. Lower "
        f"learning_rate, which is {config.learning_rate:g}, and start again with --restart; or set allow_worse=true to "
        "package the model as it is."
    )
