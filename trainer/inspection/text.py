"""What was found of a dataset, as lines for a terminal or a log."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.inspection.findings import percent
from trainer.inspection.profile import Inspection, Profile, shown
from trainer.runtime.command import say

WIDEST = 28  # characters of a name or a value
NARROWEST = 30  # of the last column
HEADER = ("column", "role", "type", "missing", "distinct", "unseen", "alone", "what it holds")
NUMBERS = range(3, 7)  # columns of the table that stand to the right


def print_inspection(found: Inspection) -> None:
    """Columns, label, and all doubts: a table on a terminal, aligned text elsewhere."""
    rows = [cells_of_row(told) for told in found.profiles]
    print()
    if sys.stdout.isatty():
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, name in enumerate(HEADER):
            last = number == len(HEADER) - 1
            table.add_column(name, justify="right" if number in NUMBERS else "left", no_wrap=not last, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        print(aligned([HEADER, *rows]))
    side = list(found.labels)[-1]
    print(f"\nunseen: of the values of {side} rows; alone: of the label, explained by this column on held-out rows\n")
    for side, facts in found.labels.items():
        mean = f", mean label {facts['mean']:.5g}" if "mean" in facts else ""
        zero = f", {percent(facts['zero'])} of the labels are 0" if "zero" in facts else ""
        say(side, f"{facts['rows']:,.0f} rows, weight {shown(facts['weight'])}{mean}{zero}")
    if found.without_role:
        others = ", ".join(f"{printable(name)} ({type_})" for name, type_ in found.without_role.items())
        say("no role", others)
    for doubt in found.doubts:
        say("warning", doubt)
    if not found.doubts:
        say("checks", "nothing is doubtful")


def cells_of_row(told: Profile) -> tuple[str, ...]:
    """The row of a column in the table."""
    unseen = list(told.unseen.values())
    return (
        printable(told.column.name),
        told.column.role,
        told.column.type,
        percent(told.missing) if told.missing else "–",
        f"{told.distinct:,}",
        percent(unseen[-1]) if unseen else "–",
        "–" if told.alone is None else percent(told.alone),
        summary(told),
    )


def summary(told: Profile) -> str:
    """What a column holds, in a few words."""
    if told.numbers:
        least, low, median, high, most = (
            shown(told.numbers[name], told.column.kind) for name in ("least", "25%", "median", "75%", "most")
        )
        mean = f", mean {shown(told.numbers['mean'])}" if told.column.kind != "time" else ""
        return f"{least} … {low} [{median}] {high} … {most}{mean}"
    parts = []
    if told.lengths and told.lengths["counted"]:
        what = "tokens" if told.column.kind == "text" else "values"
        parts.append(f"{told.lengths['mean']:.1f} {what}, at most {told.lengths['most']:,.0f}")
        if told.lengths["cut"]:
            parts.append(f"{percent(told.lengths['cut'])} cut at {told.column.width}")
        if told.lengths["empty"]:
            parts.append(f"{percent(told.lengths['empty'])} empty")
    if told.once < 0.5:
        parts += [f"{printable(value)} {percent(share)}" for value, share in told.top[:4]]
    return ", ".join(parts)


def printable(text: str, longest: int = WIDEST) -> str:
    """A name or value that may hold anything, as text that moves no cursor and is not endless."""
    clean = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    clean = clean if clean.strip() == clean and clean else repr(clean)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as lines of text, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in NUMBERS else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
