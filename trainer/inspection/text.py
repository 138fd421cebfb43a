"""Print the facts about a dataset on a terminal or in a log."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.inspection.histogram import number_text
from trainer.inspection.profile import Inspection, Profile
from trainer.package.html import percent
from trainer.runtime.command import aligned, say
from trainer.runtime.command import printable as escaped

MAX_WIDTH = 28  # characters of a name or a value
HEADER = ("column", "role", "type", "missing", "distinct", "unseen", "explains", "values")
RIGHT_ALIGNED = range(3, 7)


def print_inspection(inspection: Inspection) -> None:
    """Print a table of the columns, the label of each set, and the warnings."""
    weight = weight_column(inspection.profiles)
    rows = [table_row(profile, weighted=bool(weight)) for profile in inspection.profiles]
    print()
    if sys.stdout.isatty():
        print_table(rows)
    else:
        print(aligned([HEADER, *rows], right=RIGHT_ALIGNED))
    side = list(inspection.labels)[-1]
    print(
        f"\nunseen: share of {side} values that no training row has; "
        "explains: share of the label's variance that the column explains alone, on held-out rows\n"
    )
    for side, facts in inspection.labels.items():
        mean = f", {'weighted ' * bool(weight)}mean label {facts['mean']:.5g}" if "mean" in facts else ""
        zero = f", {percent(facts['zero'])} of the labels are 0" if "zero" in facts else ""
        say(side, f"{facts['rows']:,.0f} rows, weight {number_text(facts['weight'])}{mean}{zero}")
    if inspection.unused:
        say("unused", ", ".join(f"{printable(name)} ({type_})" for name, type_ in inspection.unused.items()))
    if inspection.key_advice:
        say("key", inspection.key_advice)
    for warning in inspection.warnings:
        say("warning", warning)
    if not inspection.warnings:
        say("checks", "no warnings")


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the columns in a table as wide as the terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(HEADER):
        last = number == len(HEADER) - 1
        justify = "right" if number in RIGHT_ALIGNED else "left"
        table.add_column(name, justify=justify, no_wrap=not last, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def weight_column(profiles: Sequence[Profile]) -> str:
    """The column with the weights; "" for none."""
    return next((profile.column.name for profile in profiles if "weight" in profile.column.role), "")


def table_row(profile: Profile, *, weighted: bool) -> tuple[str, ...]:
    """The cells of a column's row, under `HEADER`. weighted: whether rows have weights."""
    unseen = list(profile.coverage.unseen.values())
    return (
        printable(profile.column.name),
        profile.column.role,
        profile.column.type,
        percent(profile.missing) if profile.missing else "–",
        f"{profile.distinct:,}",
        percent(unseen[-1]) if unseen else "–",
        "–" if profile.explained is None else percent(profile.explained),
        summary(profile, weighted=weighted),
    )


def summary(profile: Profile, *, weighted: bool) -> str:
    """The range of numbers, the lengths of texts and lists, the most frequent categories."""
    if profile.statistics:
        names = ("min", "25%", "median", "75%", "max")
        low, quarter, median, three_quarters, high = (
            number_text(profile.statistics[name], profile.column.kind) for name in names
        )
        kind = "unweighted mean" if weighted and "label" in profile.column.role else "mean"
        mean = f", {kind} {number_text(profile.statistics['mean'])}" if profile.column.kind != "time" else ""
        return f"{low} … {quarter} [{median}] {three_quarters} … {high}{mean}"
    parts, lengths = [], profile.lengths
    if lengths:
        unit = "tokens" if profile.column.kind == "text" else "values"
        parts.append(f"{lengths['mean']:.1f} {unit}, at most {lengths['max']:,.0f}")
        if lengths["truncated"] and "label" not in profile.column.role:  # all classes of a label are used
            parts.append(f"{percent(lengths['truncated'])} truncated to {profile.column.kept.width}")
        if lengths["empty"]:
            parts.append(f"{percent(lengths['empty'])} empty")
    if profile.singletons < 0.5:
        parts += [f"{printable(value)} {percent(share)}" for value, share in profile.top[:4]]
    return ", ".join(parts)


def printable(text: str, max_width: int = MAX_WIDTH) -> str:
    """A name or value with unprintable characters escaped, shortened to `max_width` characters."""
    clean = escaped(text)
    clean = clean if clean.strip() == clean and clean else repr(clean)
    return clean if len(clean) <= max_width else clean[: max_width - 1] + "…"
