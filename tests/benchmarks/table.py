"""The table of all measurements, for a terminal and as Markdown."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.benchmarks.fresh import Outcome

HEAD = ("what", "side", "rows/s", "seconds", "peak MB", "loss", "we are faster by", "remark")


WORDS = ("what", "side", "remark")


class Row(NamedTuple):
    """One side of a measurement. ratio: how many times faster the first side is; None: there is nothing to compare."""

    what: str
    side: str
    rows: float | None = None
    seconds: float | None = None
    memory: float | None = None  # bytes
    loss: float | None = None
    ratio: float | None = None
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """What the columns show."""
        rate = self.rows / self.seconds if self.rows and self.seconds else None
        figures = (
            "" if rate is None else f"{rate:,.0f}",
            "" if self.seconds is None else f"{self.seconds:.{2 if self.seconds >= 0.1 else 5}f}",
            "" if self.memory is None else f"{self.memory / 1e6:,.0f}",
            "" if self.loss is None else f"{self.loss:.5f}",
            "" if self.ratio is None else f"{self.ratio:.1f}",
        )
        return (self.what, self.side, *figures, self.remark)


class Chapter(NamedTuple):
    """What was measured about one thing."""

    title: str
    rows: list[Row]
    note: str = ""


def side_by_side(
    what: str, sides: Mapping[str, Outcome], rows: float | None = None, remarks: Mapping[str, str] | None = None
) -> list[Row]:
    """The sides of one measurement, each compared with the first by seconds per row."""
    table: list[Row] = []
    costs = [seconds_per_row(outcome, rows) for outcome in sides.values()]
    for (side, outcome), cost in zip(sides.items(), costs, strict=True):
        figures = outcome.figures
        ratio = cost / costs[0] if cost and costs[0] and table else None
        remark = outcome.fault or (remarks or {}).get(side, "")
        row_count = figures.get("rows", rows)
        table.append(
            Row(
                what, side, row_count, figures.get("seconds"), figures.get("memory"), figures.get("loss"), ratio, remark
            )
        )
    return table


def seconds_per_row(outcome: Outcome, rows: float | None) -> float | None:
    seconds, count = outcome.figures.get("seconds"), outcome.figures.get("rows", rows)
    return seconds / count if seconds and count else None


def as_text(title: str, chapters: Sequence[Chapter], width: int | None = None) -> str:
    """One table for a terminal of this many columns, in colours; None: plain."""
    out = io.StringIO()
    console = Console(file=out, width=width or 150, force_terminal=width is not None, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in HEAD:
        table.add_column(name, justify="left" if name in WORDS else "right", no_wrap=name in HEAD[:2])
    for chapter in chapters:
        table.add_section()
        table.add_row(f"[bold]{chapter.title}[/bold]")
        for cells in cells_of(chapter):
            table.add_row(*map(escape, cells))
    console.print(escape(title), table)
    for chapter in chapters:
        if chapter.note:
            console.print(f"[bold]{chapter.title}:[/bold] {escape(chapter.note)}")
    return out.getvalue()


def as_markdown(title: str, chapters: Sequence[Chapter]) -> str:
    """The same, a table for each chapter without the columns that it does not fill."""
    lines = [*title.splitlines(), ""]
    for chapter in chapters:
        cells = cells_of(chapter)
        filled = [i for i in range(len(HEAD)) if any(row[i] for row in cells)]
        lines += [f"### {chapter.title}", "", *([chapter.note, ""] if chapter.note else [])]
        lines.append("| " + " | ".join(HEAD[i] for i in filled) + " |")
        lines.append("| " + " | ".join("---" if HEAD[i] in WORDS else "---:" for i in filled) + " |")
        lines += ["| " + " | ".join(row[i].replace("|", r"\|") for i in filled) + " |" for row in cells]
        lines.append("")
    return "\n".join(lines)


def cells_of(chapter: Chapter) -> list[tuple[str, ...]]:
    """What the columns show; what is measured stands once, in the first of its rows."""
    before = ["", *(row.what for row in chapter.rows)]
    return [
        row._replace(what="" if row.what == last else row.what).cells()
        for row, last in zip(chapter.rows, before, strict=False)
    ]
