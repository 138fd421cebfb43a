"""What is allowed but rarely meant: a sentence for each, which the run prints and its report shows."""

from collections.abc import Mapping
from typing import Any

from trainer.config.net_config import NetConfig
from trainer.features.encoded import Packed, warnings_of
from trainer.features.preprocessing import Preprocessing
from trainer.inspection.findings import of_split


def before_training(
    config: NetConfig, facts: Mapping[str, Any], learnt: Preprocessing, train: Packed, given: Mapping[str, Any]
) -> list[str]:
    """What the rows and their split make doubtful.

    facts: see `split.describe_split`; given: the sides that have a dataset of their own, and "train".
    """
    found = warnings_of(train, learnt.shapes())
    found += [
        f"Column {column!r}: no value occurs min_count = {config.min_count} times in training; it teaches nothing."
        for column, values in learnt.vocabularies.items()
        if not values
    ]
    if config.batch_size > facts["rows"]["train"]:
        found.append(f"batch_size {config.batch_size:,} is more than all {facts['rows']['train']:,} training rows.")
    return found + of_split(config, facts, given)


def after_training(side: str, metrics: Mapping[str, float], constant: Mapping[str, float]) -> list[str]:
    """What the result makes doubtful."""
    if metrics["loss"] < constant["loss"]:
        return []
    return [
        f"The model is no better than a constant: {side} loss {metrics['loss']:.5f} against {constant['loss']:.5f}. "
        "Look at learning_rate, the label and the columns."
    ]
