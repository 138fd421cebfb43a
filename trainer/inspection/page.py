"""check.html: what was found of a dataset on one self-contained page, in the style of report.html.

The pictures are SVG within the page, so that they follow its colours on light and on dark screens.
"""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainer.inspection.findings import percent
from trainer.inspection.profile import Inspection, Profile, shown
from trainer.inspection.text import printable
from trainer.package.report import Html, bar, document, fact_list, section, table

WIDTH, HEIGHT, BASE = 480, 150, 126  # of a histogram, and where its bars stand
LEAST_ROWS = 10  # in a bar, for its mean label to be drawn
LONGEST = 60  # characters of a value
SIDES = {"train": "--blue", "validation": "--warn", "test": "--green"}


def page(found: Inspection, variant: str) -> str:
    """The page of a dataset: no script, nothing from elsewhere, every name and value escaped."""
    label = next(told for told in found.profiles if "label" in told.column.role)
    features = [told for told in found.profiles if told.leak]
    others = [told for told in found.profiles if not told.leak and told is not label]
    title = f"{Path(found.sets['train']['path']).name}"
    parts = [
        _header(title, found, label, variant),
        section("Columns", [_overview(found.profiles)]),
        section("Label", [_card(label, found)]),
        section("Features", [_card(told, found) for told in features]),
        section("Other columns", [*(_card(told, found) for told in others), _without_role(found)]),
        section("Split", _split(found)),
    ]
    return document(title, parts, MORE_CSS)


def _header(title: str, found: Inspection, label: Profile, variant: str) -> str:
    data, doubts = found.sets["train"], found.doubts
    tiles = {
        "Rows": f"{data['rows']:,}",
        "Columns with a role": str(len(found.profiles)),
        "Mean label" if "mean" in found.labels["train"] else "Classes": shown(found.labels["train"]["mean"])
        if "mean" in found.labels["train"]
        else f"{label.distinct:,}",
        "To look at": str(len(doubts)),
    }
    facts = {
        side if len(found.sets) > 1 else "data": Html(
            f"{escape(told['path'])}<br>{told['files']:,} file{'s' * (told['files'] != 1)}, "
            f"{told['bytes'] / 1e6:,.1f} MB" + (f", {told['bad_rows']:,} bad rows left out" if told["bad_rows"] else "")
        )
        for side, told in found.sets.items()
    }
    boxes = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{value}</b></div>' for name, value in tiles.items()
    )
    sentences = "".join(f"<li>{escape(doubt)}</li>" for doubt in doubts)
    aside = f"<aside><strong>Look at this</strong><ul>{sentences}</ul></aside>\n" if doubts else ""
    summary = (
        f"What variant {escape(variant)} would train on. Shares are of all rows; <i>alone</i> is how much of the "
        "label's variance a column explains by itself on rows it was not learnt from."
    )
    return (
        f'<header><h1>{escape(title)}</h1>\n<p>{summary}</p>\n<div class="tiles">{boxes}</div>\n'
        f"{fact_list(facts)}</header>\n{aside}"
    )


def _overview(profiles: Sequence[Profile]) -> str:
    rows = [
        [
            _text(told.column.name), told.column.role, told.column.type, _share(told.missing), f"{told.distinct:,}",
            _share(list(told.unseen.values())[-1]) if told.unseen else None,
            None if told.alone is None else bar(told.alone, percent(told.alone)),
        ]
        for told in profiles
    ]  # fmt: skip
    return table(["", "Role", "Type", "Missing", "Distinct", "Unseen", "Alone"], rows, "columns")


def _card(told: Profile, found: Inspection) -> str:
    """A column: its distribution, with the label by value, and its figures."""
    what = escape(f"{told.column.role}, {told.column.type}")
    name = f"<h3>{escape(_text(told.column.name))} <small>{what}</small></h3>"
    picture = _histogram(told, stacked=told.column.kind == "time") if told.bars.ordered else ""
    listed = _values(told) if told.top else ""
    return f'<article>{name}<div class="card"><div>{picture}{listed}</div>{_figures(told)}</div></article>\n'


def _figures(told: Profile) -> str:
    """The figures of a column as a list."""
    facts: dict[str, object] = {"missing": _share(told.missing), "distinct": f"{told.distinct:,}"}
    if told.alone is not None:
        facts["alone explains"] = percent(told.alone)
    if told.vocabulary is not None:
        facts["vocabulary"] = f"{told.vocabulary:,}"
    if any(told.unknown.values()):
        facts["out of vocabulary"] = _by_side(told.unknown)
    if any(told.unseen.values()):
        facts["unseen in training"] = _by_side(told.unseen)
    facts |= {name: shown(number, told.column.kind) for name, number in told.numbers.items() if _is_told(told, name)}
    if told.lengths:
        what = "tokens" if told.column.kind == "text" else "values"
        facts |= {f"{what}, mean": f"{told.lengths['mean']:.1f}", f"{what}, most": f"{told.lengths['most']:,.0f}"}
        facts |= {f"cut at {told.column.width}": _share(told.lengths["cut"]), "empty": _share(told.lengths["empty"])}
    if told.drift:
        facts["unlike training"] = _by_side({side: difference for side, (difference, _) in told.drift.items()})
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{pairs}</dl>"


def _is_told(told: Profile, statistic: str) -> bool:
    return told.column.kind != "time" or statistic in ("least", "median", "most")


def _by_side(shares: dict[str, float]) -> str:
    return "\n".join(f"{side} {percent(share)}" for side, share in shares.items())


def _histogram(told: Profile, *, stacked: bool) -> str:
    """Bars of rows, and over them the mean label of each bar as a line of dots."""
    bars, shown_bars = told.bars, len(told.bars.names) - told.bars.missing
    totals = [sum(counts) for counts in zip(*bars.rows.values(), strict=True)][:shown_bars]
    if not totals or not max(totals):
        return ""
    step, scale = WIDTH / shown_bars, (BASE - 14) / max(totals)
    parts = []
    for number, total in enumerate(totals):
        bottom, drawn = float(BASE), []
        by_side = bars.rows.items() if stacked else [("train", [0] * number + [total])]
        for side, counts in by_side:
            height = counts[number] * scale
            bottom -= height
            drawn.append(
                f'<rect x="{number * step + 1:.1f}" y="{bottom:.1f}" width="{max(step - 2, 1):.1f}" '
                f'height="{height:.1f}" style="fill:var({SIDES.get(side, "--blue")})"/>'
            )
        label = f", mean label {shown(bars.labels[number])}" if math.isfinite(bars.labels[number]) else ""
        tip = escape(f"{bars.names[number]}: {total:,} rows{label}")
        parts.append(f"<g><title>{tip}</title>{''.join(drawn)}</g>")
    dots = [
        (number * step + step / 2, mean)
        for number, mean in enumerate(bars.labels[:shown_bars])
        if math.isfinite(mean) and totals[number] >= LEAST_ROWS and (told.leak or stacked)
    ]
    low, high = escape(bars.names[0].split(" to ")[0]), escape(bars.names[shown_bars - 1].split(" to ")[-1])
    named = "".join(
        f'<tspan style="fill:var({SIDES.get(side, "--blue")})">{escape(side)} </tspan>' for side in bars.rows
    )
    legend = f'<text x="0" y="10">{named}</text>' if stacked else ""
    unit = {"text": " tokens", "categories": " values", "classes": " values"}.get(told.column.kind, "")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}{_line(dots)}{legend}'
        f'<line x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/><text x="0" y="{BASE + 17}">{low}</text>'
        f'<text x="{WIDTH}" y="{BASE + 17}" text-anchor="end">{high}{unit}</text></svg>'
    )


def _line(dots: Sequence[tuple[float, float]]) -> str:
    """Mean labels over the bars, from 0, or from below where some are negative, to the highest one."""
    if len(dots) < 2:
        return ""
    low, high = min(0.0, *(mean for _, mean in dots)), max(mean for _, mean in dots)
    scale = (BASE - 24) / ((high - low) or 1.0)
    points = [(x, BASE - (mean - low) * scale) for x, mean in dots]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    told = f'<text class="label" x="{WIDTH}" y="10" text-anchor="end">mean label up to {shown(high)}</text>'
    return f'<polyline points="{line}"/>{circles}{told}'


def _values(told: Profile) -> str:
    """The most frequent values with their shares, and of categories the mean label beside them."""
    bars = told.bars
    if bars.ordered:
        rows: list[list[object]] = [[_text(value), bar(share)] for value, share in told.top]
        return table(["Most frequent", "Share of values"], rows, "values")
    totals = [sum(counts) for counts in zip(*bars.rows.values(), strict=True)]
    total = max(sum(totals), 1)
    highest = max((mean for mean in bars.labels if math.isfinite(mean)), default=0.0)
    labelled = highest > 0 and told.leak is not None and min(mean for mean in bars.labels if math.isfinite(mean)) >= 0
    rows = [
        [_text(name), bar(count / total), *([_mean(mean, highest)] if labelled else [])]
        for name, count, mean in zip(bars.names, totals, bars.labels, strict=True)
    ]
    return table(["", "Share of rows", *(["Mean label"] if labelled else [])], rows, "values")


def _mean(mean: float, highest: float) -> Html:
    if not math.isfinite(mean):
        return Html("–")
    return Html(f'<i class="bar label"><i style="width:{100 * mean / highest:.1f}%"></i></i>{shown(mean)}')


def _split(found: Inspection) -> list[str]:
    rows, known = found.split["rows"], found.split["also_in_train"]
    total = sum(rows.values())
    header = ["", "Rows", "Share", "Weight", "Mean label", "Also in train"]
    sides = table(
        header,
        [
            [side, count, _share(count / total), shown(found.labels[side]["weight"]),
             shown(found.labels[side]["mean"]) if "mean" in found.labels[side] else None, known.get(side)]
            for side, count in rows.items()
        ],
    )  # fmt: skip
    groups: dict[str, Any] = found.split.get("groups", {})
    facts = list(dict.fromkeys(fact for counted in groups.values() for fact in counted))
    names = [fact.replace("_", " ").capitalize() for fact in facts]
    grouped = [
        [side, *(shown(counted[fact]) if fact in counted else None for fact in facts)]
        for side, counted in groups.items()
    ]
    return [sides, *([table(["Groups", *names], grouped)] if groups else [])]


def _without_role(found: Inspection) -> str:
    if not found.without_role:
        return ""
    rows = [[_text(name), type_] for name, type_ in found.without_role.items()]
    return "<p>These columns have no role and are not read.</p>\n" + table(["", "Type"], rows, "text")


def _share(share: float) -> str:
    return percent(share) if share else "–"


def _text(value: str) -> str:
    return printable(value, LONGEST)


MORE_CSS = """
:root { --green: #009e73 }
h3 { margin: 0 0 .75rem; font-size: 1rem; overflow-wrap: anywhere }
h3 small { font-weight: 400; color: var(--soft); margin-left: .4rem }
article { padding: 1.25rem 0; border-top: 1px solid var(--line) }
.card { display: grid; grid-template-columns: minmax(0, 1fr) 16rem; gap: 2rem }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: 0; align-content: start;
  font-size: .88rem; font-variant-numeric: tabular-nums }
.card dl dd { text-align: right; white-space: pre-line }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg rect { opacity: .55 }
svg g:hover rect { opacity: .8 }
svg line { stroke: var(--line) }
svg text { fill: var(--soft); font-size: 12px }
svg polyline { fill: none; stroke: var(--warn); stroke-width: 1.6 }
svg circle, svg .label { fill: var(--warn) }
.values { font-size: .88rem; margin: 0 }
.values th, .values td { padding: .2rem 0 .2rem .8rem }
.values th:first-child { overflow-wrap: anywhere; text-align: left }
.values td { min-width: 9.5rem }
.values .bar, .columns .bar { float: left; margin: .5rem .5rem 0 0 }
.columns td:last-child { padding-left: 2rem; min-width: 12rem }
.bar.label i { background: var(--warn) }
.columns td:nth-child(-n+3), .columns th:nth-child(-n+3) { text-align: left }
@media (max-width: 44rem) { .card { grid-template-columns: minmax(0, 1fr) } }
"""
