"""Write warnings about a dataset: what is wrong, with a figure, and what to do."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.net_config import NetConfig
from trainer.data.schema import LABEL_KINDS, LIST_KINDS, NUMERIC_KINDS
from trainer.features.sentinels import Sentinel
from trainer.features.vocabulary import Kept
from trainer.inspection.histogram import number_text
from trainer.inspection.leakage import SUSPICIOUS
from trainer.inspection.profile import Profile
from trainer.package.html import percent

MISSING = 0.95  # share of the rows
IDENTIFIER = 0.9  # share of the rows with a value that no other row has
SINGLE_TOKEN, DISTINCT = 0.9, 0.5  # share of the texts with one token, and of those that no other row has
TRUNCATED = 0.5  # share of the texts or lists that are longer than what is kept
OUT_OF_VOCABULARY = 0.5  # share of the values of a set
DRIFT, DRIFT_BY_CHANCE = 0.1, 3.0  # distance worth a warning, and how many times that of chance it must be
STANDARD_ERRORS = 4.0  # between the mean labels of two sets
SPLIT_FACTOR = 0.5  # a set with less than half, or more than twice, its configured share
DENSE = 10  # row numbers and other counters: integers from a range of at most so many times their count
MAX_EXACT = 2.0**53  # float64 does not hold every integer above it


def dataset_warnings(
    config: NetConfig,
    profiles: Sequence[Profile],
    labels: Mapping[str, Mapping[str, float]],
    split: Mapping[str, Any],
    sources: Mapping[str, Any],
) -> list[str]:
    """All warnings, the most serious first.

    labels: see `Inspection.labels`; split: see `trainer.data.split.describe_split`; sources: has a key for each set
    with data of its own, "train" among them.
    """
    features = [profile for profile in profiles if profile.leakage]
    label = next(profile for profile in profiles if profile.column.name == config.label_column)
    warnings = [warning for profile in features for warning in leakage_warnings(config, profile)]
    warnings += label_warnings(config, label, labels)
    warnings += [warning for profile in features for warning in value_warnings(config, profile)]
    warnings += [
        sentinel_warning(profile.column.name, apart, profile.column.kind)
        for profile in profiles
        for apart in profile.sentinels
    ]
    warnings += duplicate_warnings(features)
    warnings += split_warnings(config, split, sources)
    return warnings + [warning for profile in features for warning in shift_warnings(config, profile)]


def leakage_warnings(config: NetConfig, profile: Profile) -> list[str]:
    """A column that gives the label away."""
    if profile.leakage is None:
        return []
    forward, backward, product = (share or 0.0 for share in profile.leakage)
    name, label = f"Column {profile.column.name!r}", repr(config.label_column)
    advice = "Leave it out unless its value is available at prediction time."
    if forward >= SUSPICIOUS:
        return [
            f"{name} nearly equals the label: on its own it explains {percent(forward)} of {label} on held-out rows. "
            f"{advice} If rows with the same value also share their label, set split=group and name it in "
            "group_columns."
        ]
    if backward >= SUSPICIOUS:
        return [f"{name} seems to be derived from the label: {label} explains {percent(backward)} of it. {advice}"]
    if product >= SUSPICIOUS:
        share = percent(product)
        return [f"{name} nearly equals {label} times {config.weight_column!r}: it explains {share} of that. {advice}"]
    return []


def label_warnings(config: NetConfig, profile: Profile, labels: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A label with nothing to learn, or one that differs between sets."""
    name, warnings, train = profile.column.name, [], labels["train"]
    if profile.distinct < 2:
        warnings.append(f"Label {name!r} has the same value in all rows: there is nothing to learn. Check the column.")
    rare = round(profile.singletons * profile.distinct)
    if config.objective == "multiclass" and rare > 1:
        warnings.append(
            f"Label {name!r}: {rare:,} of {profile.distinct:,} classes occur in only one row. Merge or remove them."
        )
    for side, facts in labels.items():
        if "mean" not in facts or "mean" not in train:
            continue
        difference = abs(facts["mean"] - train["mean"])
        error = (facts["error"] ** 2 + train["error"] ** 2) ** 0.5
        if error and difference > max(STANDARD_ERRORS * error, DRIFT * abs(train["mean"])):
            warnings.append(
                f"The mean label of {side} rows is {facts['mean']:.4g}, that of training rows {train['mean']:.4g}: "
                f"{difference / error:.0f} standard errors apart. Check the split, and whether labels changed over "
                "time."
            )
    return warnings


def value_warnings(config: NetConfig, profile: Profile) -> list[str]:
    """A column without information, or one whose role does not fit its values."""
    column = f"Column {profile.column.name!r}"
    if profile.missing == 1:
        return [f"{column} is missing in all rows. Check the query, or leave it out."]
    if profile.distinct == 1 and not profile.missing:
        return [f"{column} has the same value in all rows. Leave it out."]
    warnings = []
    if profile.missing >= MISSING:
        warnings.append(f"{column} is missing in {percent(profile.missing)} of the rows. Check the query.")
    if is_identifier(profile):
        warnings.append(
            f"{column} looks like an identifier: {percent(profile.singletons)} of the rows have a value that no other "
            "row has. A model cannot learn from it: name it in key_columns, or leave it out."
        )
    elif profile.integers and profile.column.kind in NUMERIC_KINDS and _largest(profile) > MAX_EXACT:
        warnings.append(
            f"{column} has integers above 2^53, which are rounded. If it is an identifier, name it in "
            "categorical_columns."
        )
    elif profile.coverage.vocabulary == 0:
        warnings.append(empty_vocabulary_warning(config, profile.column.name))
    if profile.placeholders:
        warnings.append(
            f"{column}: {percent(profile.placeholders)} of its values are empty or a word for a missing value such as "
            "NULL, and count as a category. Make them NULL in the query."
        )
    return warnings + length_warnings(config, profile)


def sentinel_warning(column: str, apart: Sentinel, kind: str = "") -> str:
    """Numbers that stand apart from all others of a column. kind: as in `trainer.data.columns`."""
    low, high, first, last = (number_text(value, kind) for value in (apart.low, apart.high, apart.least, apart.most))
    rows = "1 row has" if apart.rows == 1 else f"{apart.rows:,} rows have"
    what = low if apart.low == apart.high else f"numbers from {low} to {high}"
    others = first if apart.least == apart.most else f"from {first} to {last}"
    advice = "correct it or leave these rows out" if kind in LABEL_KINDS else "make it NULL"
    return (
        f"Column {column!r}: {rows} {what}, while all other values are {others}. If this stands for a missing value "
        f"or an error, {advice} in the query."
    )


def length_warnings(config: NetConfig, profile: Profile) -> list[str]:
    """Texts without tokens; texts and lists that are mostly truncated."""
    column, lengths, warnings = f"Column {profile.column.name!r}", profile.lengths, []
    if lengths.get("empty", 0) >= MISSING:
        warnings.append(f"{column}: {percent(lengths['empty'])} of its texts have no token. Check the query.")
    if profile.column.kind == "text" and lengths.get("single", 0) >= SINGLE_TOKEN and profile.singletons >= DISTINCT:
        warnings.append(single_token_warning(config, profile.column.name, lengths["single"]))
    warnings += truncation_warnings(
        profile.column.name, profile.column.kept, lengths.get("truncated", 0), is_list=profile.column.kind in LIST_KINDS
    )
    return warnings


def single_token_warning(config: NetConfig, column: str, share: float) -> str:
    """A column of texts that are mostly one token each, and mostly distinct."""
    way = "put spaces" if config.split_characters else "set split_characters=true or put spaces"
    return (
        f"Column {column!r}: {percent(share)} of its texts are a single token, and most of these are rare, so there is "
        f"little to learn from them. If the words have no spaces between them, {way} between them; if the texts are "
        "categories or codes, name the column in categorical_columns."
    )


def truncation_warnings(column: str, kept: Kept, share: float, *, is_list: bool) -> list[str]:
    """A column of which many texts or lists are cut. share: of its rows that have more values than are kept."""
    if share < TRUNCATED:
        return []
    limit, what, end = ("max_values", "lists", "keep_values") if is_list else ("max_tokens", "texts", "keep_tokens")
    other = "last" if kept.end == "first" else "first"
    return [
        f"Column {column!r}: {percent(share)} of its {what} are longer than {limit} = {kept.width}, and only the "
        f"{kept.end} values are kept. Raise {limit} if the rest matters, or set {end}={other}."
    ]


def empty_vocabulary_warning(config: NetConfig, column: str) -> str:
    """A column of which no value is frequent enough for the vocabulary."""
    return (
        f"Column {column!r}: no value occurs min_count = {config.min_count} times in the training set. Lower "
        "min_count, or leave the column out."
    )


def is_identifier(profile: Profile) -> bool:
    """Whether almost every row has a distinct category, or a distinct integer from a dense range."""
    if profile.singletons < IDENTIFIER:
        return False
    if profile.column.kind in NUMERIC_KINDS and profile.integers:
        return profile.statistics["max"] - profile.statistics["min"] <= DENSE * profile.distinct
    return profile.column.kind == "category"


def _largest(profile: Profile) -> float:
    return max(abs(profile.statistics["min"]), abs(profile.statistics["max"]))


def duplicate_warnings(profiles: Sequence[Profile]) -> list[str]:
    """Columns that determine each other."""
    columns = defaultdict(list)
    for profile in profiles:
        columns[profile.fingerprint].append(repr(profile.column.name))
    return [
        f"Columns {' and '.join(names)} hold the same information: each value of one goes with one value of the other. "
        "Keep one of them."
        for fingerprint, names in columns.items()
        if fingerprint and len(names) > 1
    ]


def shift_warnings(config: NetConfig, profile: Profile) -> list[str]:
    """A column whose values differ between the training set and another set."""
    if is_identifier(profile):
        return []
    column, warnings = f"Column {profile.column.name!r}", []
    shares = profile.coverage.out_of_vocabulary
    unknown = {side: share for side, share in shares.items() if share >= OUT_OF_VOCABULARY}
    if unknown:
        warnings.append(
            f"{column}: {by_set(unknown)} values are out of vocabulary. Lower min_count = {config.min_count}, or train "
            "on more rows."
        )
    shifted = {
        side: distance
        for side, (distance, by_chance) in profile.drift.items()
        if distance > max(DRIFT, DRIFT_BY_CHANCE * by_chance)
    }
    if shifted:
        by_chance = max(profile.drift[side][1] for side in shifted)
        warnings.append(
            f"{column} is distributed differently than in training: {by_set(shifted)} rows would have to change "
            f"to match it; chance alone gives {percent(by_chance)}. Check the split, and whether the column changed "
            "over time."
        )
    return warnings


def split_warnings(config: NetConfig, split: Mapping[str, Any], sources: Mapping[str, Any]) -> list[str]:
    """Rows and groups that are in several sets, and sets whose size is far from its configured share.

    split, sources: as in `dataset_warnings`.
    """
    rows = split["rows"]
    warnings = [
        f"{count:,} {side} rows {same_row(config, separate=len(sources) > 1).format(side=side)}"
        for side, count in split["also_in_train"].items()
        if count
    ]
    warnings += [
        f"{groups['also_elsewhere']:,} of {groups['groups']:,} {side} groups ({', '.join(config.group_columns)}) have "
        f"rows in another set too, so {side} metrics may be too good. Set split=group, or remove these groups from one "
        "of the sets."
        for side, groups in split.get("groups", {}).items()
        if groups["also_elsewhere"] and side != "train"
    ]
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    total = sum(count for side, count in rows.items() if side not in sources or side == "train")
    for side, fraction in fractions.items():
        share = rows.get(side, 0) / total
        if side not in sources and not SPLIT_FACTOR * fraction <= share <= fraction / SPLIT_FACTOR:
            warnings.append(
                f"The {side} set has {share:.1%} of the rows instead of {fraction:.0%}: too few rows, or groups "
                f"or times of uneven size. Use more rows, or change {side}_fraction."
            )
    return warnings


def same_row(config: NetConfig, *, separate: bool) -> str:
    """What is wrong with rows of a side that are in the training set, too. separate: sets have data of their own."""
    good = "so {side} metrics may be too good."
    if config.key_columns:
        return f"have the same {', '.join(config.key_columns)} as a training row, {good} Remove them."
    if separate:
        return f"have the same values as a training row, {good} Remove them, or name key_columns if they are others."
    return (
        f"equal a training row in all columns of the files. If they are the same row, stored twice, {good} Then remove "
        "them, or name key_columns, which keeps rows with the same key in one set."
    )


def by_set(shares: Mapping[str, float]) -> str:
    """The share of each set, to be followed by a noun."""
    return " and ".join(f"{percent(share)} of the {side}" for side, share in shares.items())
