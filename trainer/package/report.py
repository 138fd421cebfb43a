"""report.html: a run on one self-contained page, for light and dark screens, large and small."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from trainer.package.plots import main_metrics, metric_name
from trainer.runtime.system import write_atomic

PLOT_DPI, SCREEN_DPI = 160, 96


class Report(NamedTuple):
    """What the page shows, as plain values."""

    title: str  # the name of the run
    facts: Mapping[str, object]  # in a few words: variant, network, dataset, objective, ...
    metrics: Mapping[str, Mapping[str, float]]  # of the best epoch, by side; the last side is the one that counts
    constant: Mapping[str, float]  # those of the best constant prediction on the last side's rows
    history: Sequence[Mapping[str, float]]  # a row per epoch
    best_epoch: int
    plots: Mapping[str, Path]  # caption -> PNG
    settings: Sequence[tuple[str, str, str, str]]  # name, value, source, meaning
    split: Mapping[str, Any]  # as `trainer.split.describe_split` returns it
    timings: Mapping[str, Any]  # as `trainer.timing.Timings.report` returns it
    environment: Mapping[str, Any]
    warnings: Sequence[str]


class Html(str):
    """Text that is HTML already; every other text is escaped."""

    __slots__ = ()


def write_report(path: Path, report: Report) -> None:
    """Write the page whole or not at all."""
    write_atomic(path, page(report).encode())


def page(report: Report) -> str:
    """The page of a run: no script, nothing from elsewhere, every text escaped."""
    parts = [
        _header(report),
        section("Curves", [_plot(caption, path) for caption, path in report.plots.items()]),
        section("Metrics of the best epoch", [_metrics(report), _epochs(report)]),
        section("Rows", _split(report.split)),
        section("Settings", _settings(report.settings)),
        section("Time", [_timings(report.timings)]),
        section("Environment", [_environment(report.environment)]),
    ]
    return document(report.title, parts)


def document(title: str, parts: Sequence[str], css: str = "") -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Belt and braces: even if a name slipped through unescaped, nothing on the page could run or load.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{css}</style>\n</head>\n<body>\n"
        f"{''.join(parts)}</body>\n</html>\n"
    )


def figure(value: object) -> str:
    """A value for people: four significant digits, thousands apart, a dash for nothing."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if not math.isfinite(value):
            return "–" if math.isnan(value) else str(value)
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"
        case Mapping():
            return ", ".join(f"{key} {figure(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(map(figure, value))
    return str(value)


def _cell(value: object) -> str:
    return value if isinstance(value, Html) else escape(figure(value))


def table(header: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "") -> Html:
    """A table whose first column names its rows; numbers stand to the right."""
    head = "".join(f'<th scope="col">{_cell(value)}</th>' for value in header)
    body = "".join(
        f'<tr><th scope="row">{_cell(name)}</th>{"".join(f"<td>{_cell(value)}</td>" for value in values)}</tr>\n'
        for name, *values in rows
    )
    parts = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
    return Html(f'<div class="scroll"><table class="{kind}">{parts}</table></div>\n')


def fact_list(facts: Mapping[str, object]) -> Html:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{_cell(value)}</dd></div>" for name, value in facts.items())
    return Html(f'<dl class="facts">{pairs}</dl>\n')


def section(title: str, parts: Sequence[str]) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n" if any(parts) else ""


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>\n"


def _header(report: Report) -> str:
    side, metrics = list(report.metrics.items())[-1]
    tiles = "".join(_tile(name, metrics[name], report.constant.get(name)) for name in main_metrics(list(metrics)))
    warnings = "".join(f"<li>{escape(text)}</li>" for text in report.warnings)
    return (
        f"<header><h1>{escape(report.title)}</h1>\n<p>{escape(_summary(report, side, metrics))}</p>\n"
        f'<div class="tiles">{tiles}</div>\n{fact_list(report.facts)}</header>\n'
        + (f"<aside><strong>Look at this</strong><ul>{warnings}</ul></aside>\n" if warnings else "")
    )


def _summary(report: Report, side: str, metrics: Mapping[str, float]) -> str:
    text = f"Epoch {report.best_epoch} of {len(report.history)} was best on the validation rows."
    loss, constant = metrics["loss"], report.constant.get("loss", math.nan)
    if constant > 0 and math.isfinite(loss):
        share = loss / constant - 1
        text += (
            f" On {figure(int(metrics['rows']))} {side} rows its loss is {_share(abs(share))} "
            f"{'above' if share > 0 else 'below'} that of the best constant prediction."
        )
    return text


def _tile(metric: str, value: float, constant: float | None) -> str:
    beside = "" if constant is None or math.isnan(constant) else f"<small>constant {figure(constant)}</small>"
    return f'<div class="tile"><span>{escape(metric_name(metric))}</span><b>{figure(value)}</b>{beside}</div>'


def _plot(caption: str, path: Path) -> str:
    data = path.read_bytes()
    width, height = (int.from_bytes(data[at : at + 4]) * SCREEN_DPI // PLOT_DPI for at in (16, 20))  # of the PNG header
    image = base64.b64encode(data).decode()
    return (
        f'<figure class="scroll"><img alt="{escape(caption)}" width="{width}" height="{height}" '
        f'style="--width: {width}px" src="data:image/png;base64,{image}"></figure>\n'
    )


def _metrics(report: Report) -> str:
    columns = dict(report.metrics) | ({"best constant": report.constant} if report.constant else {})
    names = [name for name in report.metrics["validation"] if name not in ("rows", "weight")]
    rows = [[metric_name(name), *(values.get(name) for values in columns.values())] for name in names]
    rows.append(["Rows", *(_count(values.get("rows")) for values in columns.values())])
    return table(["", *columns], rows)


def _epochs(report: Report) -> str:
    """The loss of every epoch and side, the main metrics of the last side; metrics.csv has the rest."""
    names = main_metrics(list(report.metrics["validation"]))
    keys = [(side, "loss") for side in report.metrics] + [(list(report.metrics)[-1], name) for name in names[1:]]
    columns = {f"{side}_{name}": f"{metric_name(name)}, {side}" for side, name in keys}
    columns |= {"learning_rate": "Learning rate"}
    rows = ([int(row["epoch"]), *(row.get(key, math.nan) for key in columns)] for row in report.history)
    return _details(f"All {len(report.history)} epochs", table(["Epoch", *columns.values()], rows))


def _split(split: Mapping[str, Any]) -> list[str]:
    if not split:
        return []
    total = sum(split["rows"].values())
    known = split.get("also_in_train", {})
    sides = ([side, rows, _share(rows / max(total, 1)), known.get(side)] for side, rows in split["rows"].items())
    parts: list[str] = [table(["", "Rows", "Share", "Also in train"], sides)]
    others = split.get("unseen", {})
    columns = list(next(iter(others.values()), {}))
    if columns:
        unseen = ([column, *(bar(shares[column]) for shares in others.values())] for column in columns)
        header = ["Rows with a value that no training row has", *others]
        parts.append(table(header, unseen))
    if "groups" in split:
        facts = list(dict.fromkeys(fact for groups in split["groups"].values() for fact in groups))
        rows = ([side, *(_count(groups.get(fact)) for fact in facts)] for side, groups in split["groups"].items())
        parts.append(table(["Groups", *(metric_name(fact) for fact in facts)], rows))
    return parts


def _settings(settings: Sequence[tuple[str, str, str, str]]) -> list[str]:
    rows = [(name, Html(f"<code>{escape(value)}</code>"), *rest) for name, value, *rest in settings]
    changed = [row[:3] for row in rows if not row[2].startswith("default")]
    if changed:
        first: str = table(["Differs from the default", "Value", "Source"], changed, "text")
    else:
        first = "<p>All settings are the defaults.</p>\n"
    return [
        first,
        _details(f"All {len(rows)} settings", table(["Setting", "Value", "Source", "Meaning"], rows, "text")),
    ]


def _timings(timings: Mapping[str, Any]) -> str:
    stages = timings.get("stages", {})
    longest = max((stage["seconds"] for stage in stages.values()), default=0) or 1
    rows = [
        [name, f"{stage['seconds']:.2f}", bar(stage["seconds"] / longest, text=""), stage.get("rows_per_second")]
        for name, stage in sorted(stages.items(), key=lambda item: -item[1]["seconds"])
    ]
    memory = timings.get("peak_memory_bytes")
    note = f"<p>Peak memory {memory / 2**30:.2f} GiB.</p>\n" if memory else ""
    return table(["Stage", "Seconds", "", "Rows/s"], rows) + note if stages else note


def _environment(environment: Mapping[str, Any]) -> str:
    return fact_list({name.replace("_", " "): value for name, value in environment.items()}) if environment else ""


def _count(value: float | None) -> float | None:
    return int(value) if value is not None and float(value).is_integer() else value


def _share(share: float) -> str:
    return f"{100 * share:.1f}%"


def bar(share: float, text: str | None = None) -> Html:
    label = _share(share) if text is None else text
    return Html(f'<i class="bar"><i style="width:{100 * share:.1f}%"></i></i>{escape(label)}')


CSS = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #22262b; --soft: #6b7178; --line: #e5e2db; --tint: #f2f0ea;
  --blue: #0072b2; --warn: #d55e00; --blend: multiply; --filter: none }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e4e4e0; --soft: #989ea6; --line: #2d3137;
  --tint: #1f2226; --blue: #56b4e9; --warn: #e69f00; --blend: screen; --filter: invert(1) hue-rotate(180deg) } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3.5rem 1.25rem 5rem; max-width: 51rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: break-word }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.015em }
h2 { margin: 0 0 1rem; font-size: 1.15rem; letter-spacing: -.005em }
header p { margin: .6rem 0 0; color: var(--soft); font-size: 1.05rem; max-width: 40rem }
section { margin-top: 3.25rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 2rem 0 }
.tile { background: var(--tint); border-radius: .6rem; padding: .9rem 1.1rem 1rem; min-height: 6.6rem }
.tile span, .tile small { display: block; color: var(--soft); font-size: .85rem }
.tile b { display: block; font-size: 1.75rem; font-weight: 600; line-height: 1.35; letter-spacing: -.01em }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem 1.5rem; margin: 0 }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; overflow-wrap: anywhere }
aside { margin-top: 2rem; padding: .9rem 1.2rem; border-left: .25rem solid var(--warn); background: var(--tint);
  border-radius: 0 .6rem .6rem 0 }
aside ul { margin: .3rem 0 0; padding-left: 1.1rem }
figure { margin: 0 0 1.75rem }
img { display: block; width: min(100%, var(--width)); height: auto; mix-blend-mode: var(--blend);
  filter: var(--filter) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem; font-size: .92rem }
th, td { padding: .42rem 0 .42rem 1rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; font-weight: 400 }
th:first-child { padding-left: 0; text-align: left; white-space: normal; min-width: 4.5rem }
thead th { color: var(--soft); font-size: .85rem; vertical-align: bottom; white-space: normal }
.text th, .text td { text-align: left; white-space: normal; vertical-align: top }
.text th { white-space: nowrap }
.text td { overflow-wrap: anywhere }
code { font: .9em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace }
details { margin-top: 1rem }
summary { cursor: pointer; color: var(--blue); margin-bottom: .75rem }
.bar { display: inline-block; width: 6rem; height: .5rem; margin-right: .75rem; border-radius: .25rem;
  background: var(--line); overflow: hidden }
.bar i { display: block; height: 100%; background: var(--blue) }
@media (max-width: 36rem) { body { padding-top: 2rem } .tiles { grid-template-columns: 1fr 1fr }
  .facts { grid-template-columns: 1fr 1fr } .bar { width: 3rem }
  img { width: max(100%, .62 * var(--width)); max-width: none } }
"""
