"""Write check.html, a self-contained page with the facts about a dataset."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.inspection.histogram import Histogram, number_text
from trainer.inspection.profile import Inspection, Profile
from trainer.inspection.text import printable, weight_column
from trainer.package.html import percent, render

TEMPLATE = Path(__file__).parent / "templates" / "check.html"
WIDTH, HEIGHT = 480, 126  # of a histogram
LABEL_HEIGHT = 112  # of the highest mean label; the tallest bar is as high
MIN_LABEL_ROWS = 10  # in a bin, for its mean label to be drawn
MAX_WIDTH = 60  # characters of a name or a value
UNITS = {"text": "tokens", "categories": "values", "classes": "values"}


def page(inspection: Inspection, variant: str) -> str:
    """The page as HTML, without scripts and outside resources."""
    label = next(profile for profile in inspection.profiles if "label" in profile.column.role)
    features = [profile for profile in inspection.profiles if profile.leakage]
    others = [profile for profile in inspection.profiles if not profile.leakage and profile is not label]
    weight = weight_column(inspection.profiles)
    return render(
        TEMPLATE,
        title=Path(inspection.datasets["train"]["path"]).name,
        variant=variant,
        inspection=inspection,
        label=label,
        sections={
            "Label": [card(label, weighted=bool(weight))],
            "Features": [card(profile) for profile in features],
            "Other columns": [card(profile) for profile in others],
        },
        weight=weight,
        name=_name,
        share=_share,
    )


def card(profile: Profile, *, weighted: bool = False) -> dict[str, Any]:
    """A column in detail: its histogram, its most frequent values, its figures.

    weighted: other means of the column are weighted, so that its own must be called unweighted.
    """
    ordered = profile.histogram.ordered and any(profile.histogram.totals)
    return {
        "profile": profile,
        "chart": chart(profile) if ordered else None,
        "top": value_rows(profile),
        "figures": {
            f"{name}, unweighted" if weighted and name == "mean" else name: value
            for name, value in figures(profile).items()
        },
    }


def figures(profile: Profile) -> dict[str, str]:
    """The figures of a column by name."""
    kind, coverage, lengths = profile.column.kind, profile.coverage, profile.lengths
    result = {"missing": _share(profile.missing), "distinct": f"{profile.distinct:,}"}
    if profile.explained is not None:
        result["explains"] = percent(profile.explained)
    if coverage.vocabulary is not None:
        result["vocabulary"] = f"{coverage.vocabulary:,}"
    if any(coverage.out_of_vocabulary.values()):
        result |= _by_set("out of vocabulary", coverage.out_of_vocabulary)
    if any(coverage.unseen.values()):
        result |= _by_set("unseen in training", coverage.unseen)
    shown = ("min", "median", "max") if kind == "time" else profile.statistics
    result |= {name: number_text(profile.statistics[name], kind) for name in shown if name in profile.statistics}
    if lengths:
        unit = UNITS[kind]
        result |= {f"{unit}, mean": f"{lengths['mean']:.1f}", f"{unit}, max": f"{lengths['max']:,.0f}"}
        if "label" not in profile.column.role:  # all its classes are used
            result[f"over {profile.column.kept.width} {unit}"] = _share(lengths["truncated"])
        result["empty"] = _share(lengths["empty"])
    for side, (distance, by_chance) in profile.drift.items():
        result[f"drift, {side}"] = f"{percent(distance)} (chance {percent(by_chance)})"
    return result


def chart(profile: Profile) -> dict[str, Any]:
    """The histogram of an ordered column: bars, and a line with the mean label of each bin.

    A part of a bar is (set, x, y, width, height), in units of the picture. Of times the bars are stacked by set, so
    that the page shows how the sets follow each other.
    """
    histogram, stacked = profile.histogram, profile.column.kind == "time"
    count = len(histogram.names) - histogram.missing
    totals = histogram.totals[:count]
    step, scale = WIDTH / count, LABEL_HEIGHT / max(totals, default=1)
    bins = []
    for number, total in enumerate(totals):
        parts = {side: rows[number] for side, rows in histogram.rows.items()} if stacked else {"train": total}
        bars, top = [], float(HEIGHT)
        for side, rows in parts.items():
            top -= rows * scale
            bars.append((side, number * step + 1, top, max(step - 2, 1), rows * scale))
        label = histogram.mean_labels[number]
        tip = f"{histogram.names[number]}: {total:,} rows"
        bins.append((tip + (f", mean label {number_text(label)}" if math.isfinite(label) else ""), bars))
    line = label_line(histogram, totals, step) if profile.leakage or stacked else []
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "bins": bins,
        "line": line,
        "label_max": number_text(max(histogram.mean_labels[number] for number, _, _ in line)) if line else "",
        "legend": list(histogram.rows) if stacked else [],
        "low": histogram.names[0].split(" to ")[0],
        "tails": tails(histogram),
        "high": f"{histogram.names[count - 1].split(' to ')[-1]} {UNITS.get(profile.column.kind, '')}",
    }


def tails(histogram: Histogram) -> str:
    """What the outer bars hold beyond the range that is drawn; "" for nothing."""
    (below, lowest), (above, highest) = histogram.beyond
    parts = [
        f"{rows:,} {'row' if rows == 1 else 'rows'} {text}"
        for rows, text in ((below, f"below, down to {lowest}"), (above, f"above, up to {highest}"))
        if rows
    ]
    return f"The outer bars include {' and '.join(parts)}." if parts else ""


def label_line(histogram: Histogram, totals: list[int], step: float) -> list[tuple[int, float, float]]:
    """(bin, x, y) of the mean labels, scaled from 0, or a negative minimum, to the largest; none for a single bin."""
    labels = [
        (number, histogram.mean_labels[number])
        for number, total in enumerate(totals)
        if math.isfinite(histogram.mean_labels[number]) and total >= MIN_LABEL_ROWS
    ]
    if len(labels) < 2:
        return []
    low, high = min(0.0, *(label for _, label in labels)), max(label for _, label in labels)
    scale = LABEL_HEIGHT / ((high - low) or 1.0)
    return [(number, number * step + step / 2, HEIGHT - (label - low) * scale) for number, label in labels]


def value_rows(profile: Profile) -> list[dict[str, Any]]:
    """The most frequent values: name, share, and of categories the mean label ("–" for none) and its share of the
    largest mean label."""
    histogram = profile.histogram
    if not profile.top:
        return []
    if histogram.ordered:
        return [{"name": _name(value), "share": share, "label": None} for value, share in profile.top]
    total = max(sum(histogram.totals), 1)
    labels = [label for label in histogram.mean_labels if math.isfinite(label)]
    labelled = profile.leakage is not None and max(labels, default=0) > 0 and min(labels) >= 0
    return [
        {
            "name": _name(name),
            "share": rows / total,
            "label": (number_text(label) if math.isfinite(label) else "–") if labelled else None,
            "of_max": label / max(labels) if labelled and math.isfinite(label) else 0.0,
        }
        for name, rows, label in zip(histogram.names, histogram.totals, histogram.mean_labels, strict=True)
    ]


def _by_set(name: str, shares: Mapping[str, float]) -> dict[str, str]:
    return {f"{name}, {side}": percent(share) for side, share in shares.items()}


def _share(share: float) -> str:
    return percent(share) if share else "–"


def _name(text: str) -> str:
    return printable(text, MAX_WIDTH)
