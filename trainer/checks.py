"""What is allowed but rarely meant: a sentence for each, which the run prints and its report shows."""

from collections.abc import Mapping
from typing import Any

from trainer.config import NetConfig
from trainer.examples import Packed, warnings_of
from trainer.preprocessing import Preprocessing

FAR_OFF = 0.5  # a side with less than half, or more than twice, the share that is asked for


def before_training(
    config: NetConfig, facts: Mapping[str, Any], learnt: Preprocessing, train: Packed, given: Mapping[str, Any]
) -> list[str]:
    """What the rows and their split make doubtful.

    facts: see `split.describe_split`; given: the sides that have a dataset of their own, and "train".
    """
    rows = facts["rows"]
    found = warnings_of(train, learnt.shapes())
    found += [
        f"Column {column!r}: no value occurs min_count = {config.min_count} times in training; it teaches nothing."
        for column, values in learnt.vocabularies.items()
        if not values
    ]
    if config.batch_size > rows["train"]:
        found.append(f"batch_size {config.batch_size:,} is more than all {rows['train']:,} training rows.")
    same = f"the {', '.join(config.key_columns)}" if config.key_columns else "all values"
    hint = "" if config.key_columns else " Name key_columns if they are different rows."
    found += [
        f"{count:,} {side} rows have {same} of a training row: {side} metrics may be too good.{hint}"
        for side, count in facts["also_in_train"].items()
        if count
    ]
    found += [
        f"{groups['also_elsewhere']:,} of {groups['groups']:,} {side} groups ({', '.join(config.group_columns)}) have "
        f"rows on another side as well: {side} metrics may be too good."
        for side, groups in facts.get("groups", {}).items()
        if groups["also_elsewhere"] and side != "train"
    ]
    asked = {"validation": config.validation_fraction, "test": config.test_fraction}
    for side in [side for side in asked if side not in given]:
        share = rows.get(side, 0) / sum(count for name, count in rows.items() if name not in given or name == "train")
        if not FAR_OFF * asked[side] <= share <= asked[side] / FAR_OFF:
            why = "they are few, or groups or times differ in size"
            found.append(f"{side} has {share:.1%} of the rows, not {asked[side]:.0%}: {why}.")
    return found


def after_training(side: str, metrics: Mapping[str, float], constant: Mapping[str, float]) -> list[str]:
    """What the result makes doubtful."""
    if metrics["loss"] < constant["loss"]:
        return []
    return [
        f"The model is no better than a constant: {side} loss {metrics['loss']:.5f} against {constant['loss']:.5f}. "
        "Look at learning_rate, the label and the columns."
    ]
