"""What is doubtful about a dataset: a sentence for each column, and for the split, with the figure that tells it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.net_config import NetConfig
from trainer.data.schema import LIST_KINDS, NUMERIC_KINDS
from trainer.inspection.leakage import SUSPICIOUS
from trainer.inspection.profile import Profile

MISSING = 0.95  # share of the rows
OWN = 0.9  # share of the rows whose value no other row has
CUT = 0.5  # share of the texts, or lists, that are longer than what is kept
UNKNOWN = 0.5  # share of the values of other rows that are out of vocabulary
DRIFT, CHANCE = 0.1, 3.0  # a difference worth a word, and how many times that of chance
ERRORS = 4.0  # standard errors between the mean labels of two sides
FAR_OFF = 0.5  # a side with less than half, or more than twice, the share that is asked for
DENSE = 10  # times as many as there are: the range of whole numbers that count something, as row numbers do
EXACT = 2.0**53  # beyond it float64 has no longer every whole number


def doubts_of(
    config: NetConfig,
    profiles: Sequence[Profile],
    labels: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, Any],
    given: Mapping[str, Any],
) -> list[str]:
    """All of it, the worst first.

    labels: by side, as `inspection.label_facts` has them; facts: see `split.describe_split`; given: the sides that have
    a dataset of their own, and "train".
    """
    features = [told for told in profiles if told.leak]
    found = [sentence for told in features for sentence in of_leak(config, told)]
    found += of_label(config, next(told for told in profiles if told.column.name == config.label_column), labels)
    found += [sentence for told in features for sentence in of_values(config, told)]
    found += of_twins(features)
    found += of_split(config, facts, given)
    return found + [sentence for told in features for sentence in of_sides(config, told)]


def of_leak(config: NetConfig, told: Profile) -> list[str]:
    """A column that is almost the label itself."""
    leak, name = told.leak, told.column.name
    if leak is None:
        return []
    label = repr(config.label_column)
    advice = "Leave it out, unless it is known when the model is asked."
    if (leak.alone or 0) >= SUSPICIOUS:
        return [
            f"Column {name!r} is almost the label itself: alone it explains {percent(leak.alone)} of {label} on rows "
            f"that it was not learnt from. {advice} If rows that share it share their label, too, split=group by it."
        ]
    if (leak.backward or 0) >= SUSPICIOUS:
        return [f"Column {name!r} seems made from the label: {label} explains {percent(leak.backward)} of it. {advice}"]
    if (leak.product or 0) >= SUSPICIOUS:
        return [
            f"Column {name!r} is almost {label} times {config.weight_column!r}: it explains {percent(leak.product)} of "
            f"that. {advice}"
        ]
    return []


def of_label(config: NetConfig, told: Profile, labels: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A label that teaches nothing, or is another on another side."""
    name, found = told.column.name, []
    if told.distinct < 2:
        found.append(f"Label {name!r} is the same in all rows: there is nothing to learn. Check the column.")
    single = round(told.once * told.distinct)
    if config.objective == "multiclass" and single > 1:
        found.append(f"Label {name!r}: {single:,} of {told.distinct:,} classes occur in one row only.")
    train = labels["train"]
    for side, facts in labels.items():
        if "mean" in facts and "mean" in train:
            difference = facts["mean"] - train["mean"]
            error = (facts["error"] ** 2 + train["error"] ** 2) ** 0.5
            if error and abs(difference) > max(ERRORS * error, DRIFT * abs(train["mean"])):
                found.append(
                    f"The mean label of {side} rows is {facts['mean']:.4g}, that of training rows {train['mean']:.4g}: "
                    f"{abs(difference) / error:.0f} standard errors apart."
                )
    return found


def of_values(config: NetConfig, told: Profile) -> list[str]:
    """A column that teaches nothing, or has another role than it seems to have."""
    column = f"Column {told.column.name!r}"
    if told.missing == 1:
        return [f"{column} is missing in all rows: it teaches nothing."]
    if told.distinct == 1 and not told.missing:
        return [f"{column} is the same in all rows: it teaches nothing."]
    found = []
    if told.missing >= MISSING:
        found.append(f"{column} is missing in {percent(told.missing)} of the rows.")
    if is_identifier(told):
        found.append(
            f"{column} looks like an identifier: {percent(told.once)} of the rows have a value that no other row has. "
            "It cannot be learnt from; make it a key, or leave it out."
        )
    elif told.whole and told.column.kind in NUMERIC_KINDS and max(map(abs, told.numbers.values())) > EXACT:
        found.append(f"{column} has whole numbers beyond 2^53, as identifiers are: they are rounded. Is it a category?")
    elif told.vocabulary == 0:
        found.append(f"{column}: no value occurs min_count = {config.min_count} times in training; it teaches nothing.")
    if told.placeholder:
        found.append(
            f"{column}: {percent(told.placeholder)} of its values are empty or a word for no value, such as NULL. They "
            "are taken as a category; make them NULL in the query."
        )
    if told.lengths.get("empty", 0) >= MISSING:
        found.append(f"{column}: {percent(told.lengths['empty'])} of its texts have no token.")
    if told.lengths.get("cut", 0) >= CUT:
        limit = "max_values" if told.column.kind in LIST_KINDS else "max_tokens"
        found.append(
            f"{column}: {percent(told.lengths['cut'])} are longer than {limit} = {told.column.width} and cut there; "
            f"the longest has {told.lengths['most']:,.0f}."
        )
    return found


def is_identifier(told: Profile) -> bool:
    """Whether almost each row has a category, or a whole number from a range of about so many, of its own."""
    if told.once < OWN:
        return False
    numbered = told.whole and told.numbers["most"] - told.numbers["least"] <= DENSE * told.distinct
    return told.column.kind == "category" or (told.column.kind in NUMERIC_KINDS and numbered)


def of_twins(profiles: Sequence[Profile]) -> list[str]:
    """Columns of which each tells all of the other."""
    twins = defaultdict(list)
    for told in profiles:
        twins[told.content].append(repr(told.column.name))
    return [
        f"Columns {' and '.join(names)} say the same: each value of one goes with one value of the other."
        for content, names in twins.items()
        if content and len(names) > 1
    ]


def of_sides(config: NetConfig, told: Profile) -> list[str]:
    """A column that is another on another side."""
    if is_identifier(told):
        return []
    column, found = f"Column {told.column.name!r}", []
    unknown = {side: share for side, share in told.unknown.items() if share >= UNKNOWN}
    if unknown:
        found.append(f"{column}: out of vocabulary (min_count = {config.min_count}) are {by_side(unknown)}.")
    far = {
        side: difference
        for side, (difference, chance) in told.drift.items()
        if difference > max(DRIFT, CHANCE * chance)
    }
    if far:
        chance = max(told.drift[side][1] for side in far)
        found.append(
            f"{column} is distributed otherwise than in training: {by_side(far)} of the rows would have to change; "
            f"chance alone makes it {percent(chance)}."
        )
    return found


def of_split(config: NetConfig, facts: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Rows that stand on two sides, sides that are too small."""
    rows = facts["rows"]
    same = f"the {', '.join(config.key_columns)}" if config.key_columns else "all values"
    hint = "" if config.key_columns else " Name key_columns if they are different rows."
    found = [
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


def by_side(shares: Mapping[str, float]) -> str:
    """A share of each side."""
    return " and ".join(f"{percent(share)} on {side}" for side, share in shares.items())


def percent(share: float | None) -> str:
    """A share of 1 in per cent, never 100% or 0% where it is not quite that."""
    share = share or 0.0
    if share in (0, 1):
        return f"{share:.0%}"
    return "<0.1%" if share < 0.0005 else ">99.9%" if share >= 0.9995 else f"{share:.1%}"
