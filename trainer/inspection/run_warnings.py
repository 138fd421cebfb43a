"""Collect the warnings of a run before and after training, for the log and the report."""

from collections.abc import Mapping

from trainer.config.net_config import NetConfig
from trainer.features.encoded import constant_column_warnings, single_token_shares
from trainer.features.labels import unseen_classes_warning
from trainer.features.pipeline import Prepared
from trainer.inspection.warnings import (
    DISTINCT,
    SINGLE_TOKEN,
    empty_vocabulary_warning,
    single_token_warning,
    split_warnings,
    truncation_warnings,
)


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
            warnings.append(single_token_warning(column, share))
    for column, share in split["truncated"].items():
        is_list = preprocessing.features[column] == "multi_categorical"
        warnings += truncation_warnings(column, preprocessing.kept(column), share, is_list=is_list)
    label = preprocessing.label
    warnings += [unseen_classes_warning(label, side, facts) for side, facts in split["unseen_classes"].items()]
    rows = split["rows"]["train"]
    if config.batch_size > rows:
        warnings.append(
            f"batch_size {config.batch_size:,} is larger than the training set of {rows:,} rows. Choose a smaller "
            "batch_size."
        )
    return warnings + split_warnings(config, split, sources)


def after_training(side: str, metrics: Mapping[str, float], constant: Mapping[str, float]) -> list[str]:
    """A warning where the model's loss is no smaller than that of the best constant prediction."""
    if metrics["loss"] < constant["loss"]:
        return []
    return [
        f"The model is no better than the same prediction for every row: {side} loss {metrics['loss']:.5f} against "
        f"{constant['loss']:.5f}. Check learning_rate, the label and the columns."
    ]
