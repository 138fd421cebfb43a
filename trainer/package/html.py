"""Render HTML pages from Jinja templates; every value is escaped."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

MANY = 1e9  # numbers with fractions are not written in full from here on
TEMPLATES = Path(__file__).parent / "templates"


def render(template: Path, **content: Any) -> str:
    """The page that a template makes of its content.

    A template extends `page.html` and imports `macros.html`; both are in the `templates` folder next to this file.
    Raises jinja2.UndefinedError for a name that the content does not have.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"figure": figure, "number": number, "percent": percent}
    page = environment.get_template(template.name).render(content)
    return page.encode(errors="backslashreplace").decode()  # file names may hold bytes that are not UTF-8


def figure(value: object) -> str:
    """A value as text: four significant digits, all digits of thousands to billions, a dash for None and NaN."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if not math.isfinite(value):
            return "–" if math.isnan(value) else str(value)
        case float() if 1000 <= abs(value) < MANY:
            return f"{value:,.0f}"
        case float():
            return f"{value:#.4g}"
        case Mapping():
            return ", ".join(f"{key} {figure(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(map(figure, value))
    return str(value)


def number(value: float | None) -> str:
    """A count or statistic as text: at most four significant digits, all digits of integers and of thousands to
    billions."""
    if value is None or math.isnan(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < MANY else f"{value:.4g}"


def percent(share: float) -> str:
    """A share of 1 as a percentage; 0% and 100% only where it is exactly that."""
    if share in (0, 1):
        return f"{share:.0%}"
    return "<0.1%" if 0 < share < 0.0005 else ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"
