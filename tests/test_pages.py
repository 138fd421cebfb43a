"""Pages in a real browser, at the widths of a screen, a tablet and phones: nothing is cut, and no number breaks."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inspection.test_inspect import config, write
from tests.package.test_report import SIDES, history, of_loss
from tests.search.events import end, new_plan, searched, start, state_of
from trainer.inspection.inspect import inspect
from trainer.inspection.page import page as check_page
from trainer.package import plots
from trainer.package.report import Report, write_report
from trainer.search.page import page as search_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 800, 500, 375)
LONG = "a_very_long_name_of_a_column_that_goes_on_and_on_without_an_end_" * 2

# What reaches over its box or the screen, outside of boxes that scroll; numbers of tiles on more than one line; first
# columns of tables that hide the others.
LOOK = """
const wrong = [];
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument;
  for (const part of page.querySelectorAll("details")) part.open = true;
  for (const part of page.querySelectorAll("body *")) {
    const name = frame.title + " " + part.tagName + " " + part.textContent.slice(0, 40);
    if (!part.closest(".scroll") && part.clientWidth && part.scrollWidth > part.clientWidth + 1) wrong.push(name);
    if (!part.closest(".scroll") && part.getBoundingClientRect().right > frame.clientWidth + 1) wrong.push(name);
    const line = parseFloat(page.defaultView.getComputedStyle(part).lineHeight);
    if (part.matches(".tile b") && part.clientHeight > 1.5 * line) wrong.push(name);
    const box = part.closest(".scroll");  // its first column stays, and must not hide the others
    const stays = box && box.scrollWidth > box.clientWidth + 1 && part.matches("table:not(.text) th:first-child");
    if (stays && part.clientWidth > box.clientWidth / 2) wrong.push(name);
  }
}
document.body.textContent = "seen" + JSON.stringify(wrong) + "seen";
"""


def write_pages(folder: Path) -> list[Path]:
    """A report, a page of `fab check-data`, and pages of searches, with long names and large numbers."""
    rng = np.random.default_rng(0)
    rows = [
        {"y": float(rng.normal() * 1e7), LONG: f"{LONG} {number % 5}", "w": 10**9 + number, "x": rng.lognormal() * 1e12}
        for number in range(300)
    ]
    columns: dict[str, Any] = {"categorical_columns": (LONG,), "numeric_columns": ("x",), "weight_column": "w"}
    inspection = inspect(config(objective="regression", **columns), {"train": write(folder / "rows", rows)})
    check, report, picture = folder / "check.html", folder / "report.html", folder / "metrics.png"
    check.write_text(check_page(inspection, LONG))
    plots.plot_metrics(picture, history("regression"), best_epoch=3)
    metrics = of_loss("regression", 0.37) | {"rmse": 1_962_034.0, "mae": 987_654_321.0, "mse": 4e12}
    write_report(
        report,
        Report(
            title=LONG, facts={"Data": LONG, "Features": f"{LONG}, {LONG}", "Weight": LONG},
            metrics=dict.fromkeys(SIDES, metrics), constant=metrics, objective="regression", hidden=(),
            history=history("regression"), best_epoch=3, plots={"Metrics": picture},
            settings=[(LONG, LONG, "variant it", LONG)],
            split={"rows": dict.fromkeys(SIDES, 10 ** 9), "also_in_train": {},
                   "unseen": {side: {LONG: 0.06} for side in SIDES[1:]}},
            timings={"stages": {"train": {"seconds": 1e6, "rows": 10**9, "rows_per_second": 1e6}}},
            environment={"packages": {LONG: "1.0"}}, warnings=[LONG],
        ),
    )  # fmt: skip
    return [check, report, *write_searches(folder)]


def write_searches(folder: Path) -> list[Path]:
    """A search of 27 trials, and one of two, of which one failed."""
    long = new_plan(name=LONG, data={"train": LONG, "test": LONG}, folds=1)
    short = new_plan(trials=2, space={"text_columns": [["title"], ["title", "item"]]}, seeds=1)
    settings = {"variant": "deep_v1", "text_columns": ["title"]}
    trials: list[Any] = [{"event": "trial", "trial": number, "settings": settings} for number in (0, 1)]
    few = [trials[0], start(0), end(0, 18, 1.2e15), trials[1], start(1), end(1, 0, 0.0, code=1, reason=LONG)]
    pages = {"search": (long, searched(long)), "short": (short, few)}
    paths = []
    for name, (plan, events) in pages.items():
        paths.append(folder / f"{name}.html")
        paths[-1].write_text(search_page(state_of(plan, events), events, finished=False))
    return paths


@pytest.mark.skipif(BROWSER is None, reason="this needs Chromium: Debian's package chromium")
def test_nothing_is_cut_and_no_number_breaks_at_any_width(tmp_path: Path) -> None:
    assert BROWSER
    pages = write_pages(tmp_path)
    frames = "".join(
        f'<iframe title="{path.name} {width}" src="{path.name}" style="width: {width}px; height: 900px"></iframe>'
        for path in pages
        for width in WIDTHS
    )
    (tmp_path / "all.html").write_text(f"<body>{frames}<script>onload = () => {{ {LOOK} }}</script>")
    shown = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / "all.html").as_uri(),
        ],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    seen = re.search(r"seen(\[.*\])seen", shown)
    assert seen, shown[-2000:]
    assert json.loads(seen[1]) == []
