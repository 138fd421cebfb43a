"""Chapters about `python -m trainer` as a whole: until its first step, from a file to a package, under a limit."""

import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks import fresh
from tests.benchmarks.fresh import Outcome, medians
from tests.benchmarks.options import Options, rows_file
from tests.benchmarks.table import Chapter, Row, side_by_side

EPOCHS = {"NET_EPOCHS": "3", "NET_PATIENCE": "null"}  # the same work for every size
FIXED_ROWS = 2_000  # a run of so few rows is all fixed costs
FIT_FROM = 200_000  # rows from which on growth is shown
LEAST_SECONDS = 0.1  # of a stage whose growth is shown
PASSED_ONCE = ("read", "split", "preprocess")  # by every row, so that there are rows per second
SHARE = 0.05  # of the rows in memory at a time, under a limit


def trainer_run(folder: Path, data: Path, **how: Any) -> Outcome:
    """`python -m trainer` in a folder, which may hold the cache of an earlier run; how: see `fresh.run`."""
    for left in ("runs", "packages"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return fresh.run("watched:train", folder=folder, began=0.0, data=str(data), run="run", **how)


def run_to_package(options: Options, data: Path, settings: Mapping[str, str], limit: int | None = None) -> Outcome:
    """A whole run in a new folder, without a cache."""
    with TemporaryDirectory(dir=options.folder) as folder:
        return trainer_run(Path(folder), data, settings=settings, limit=limit)


def startup(options: Options) -> Chapter:
    """How long until the first step."""
    path = rows_file(options, options.rows)
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)

        def first() -> Outcome:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return trainer_run(folder, path, first_step_only=True)

        second = partial(trainer_run, folder, path, first_step_only=True)
        runs = medians({"first run": first, "second run": second}, options.rounds)
    rows = []
    for what, moment in (("TensorFlow imported", "imported"), (f"first step, {options.rows:,} rows", "first step")):
        sides = {side: Outcome({"seconds": figures.get(moment)}, fault) for side, (figures, fault) in runs.items()}
        rows += side_by_side(what, sides)
    note = (
        "Seconds since the start of the process. The second run on the same file takes the encoded rows from the cache."
    )
    return Chapter("Start-up", rows, note)


def whole_run(options: Options) -> Chapter:
    """From a file to a package, by stage, and how that grows."""
    sizes = sorted({FIXED_ROWS, *options.sizes})
    paths = {size: rows_file(options, size) for size in sizes}

    sides = {f"{size:,} rows": partial(run_to_package, options, paths[size], EPOCHS) for size in sizes}
    runs = medians(sides, options.rounds)
    outcomes = {size: runs[f"{size:,} rows"] for size in sizes}
    rows = []
    for size, (figures, fault) in outcomes.items():
        what = f"{size:,} rows, {paths[size].stat().st_size / 1e6:,.0f} MB"
        rows.append(Row(what, "TensorFlow imported", seconds=figures.get("imported")))
        for stage in stages_of(figures):
            passed = size if stage in PASSED_ONCE else None
            rows.append(Row(what, stage, passed, figures[f"{stage}.seconds"], figures[f"{stage}.memory"]))
        rows.append(
            Row(what, "in all", None if fault else size, figures.get("seconds"), figures.get("memory"), remark=fault)
        )
    note = (
        f"`python -m trainer` with deep_v1 for {EPOCHS['NET_EPOCHS']} epochs. Peaks are per stage and include mapped "
        f"files. The run of {FIXED_ROWS:,} rows shows the fixed costs: imports, tracing, "
        "SavedModel, plots, verification."
    )
    return Chapter("Whole run", rows + growth(outcomes), note)


def stages_of(figures: Mapping[str, float]) -> list[str]:
    return [name.removesuffix(".seconds") for name in figures if name.endswith(".seconds")]


def growth(outcomes: Mapping[int, Outcome]) -> list[Row]:
    """The exponents b of seconds ~ rows^b and memory ~ rows^b, of the larger sizes; as they are, and less what the
    smallest run takes."""
    small = min(outcomes)
    sizes = [size for size in outcomes if size >= FIT_FROM and not outcomes[size].fault]
    if len(sizes) < 2 or outcomes[small].fault:
        return []
    rows = []
    figures = {size: outcomes[size].figures for size in sizes}
    largest = figures[sizes[-1]]
    stages = [stage for stage in stages_of(largest) if largest[f"{stage}.seconds"] >= LEAST_SECONDS]
    for name in [*(f"{stage}." for stage in stages), ""]:
        exponents = []
        for kind in ("seconds", "memory"):
            fixed = outcomes[small].figures.get(f"{name}{kind}", 0.0)
            values = [each[f"{name}{kind}"] for each in figures.values()]
            exponents.append(
                f"{kind} {exponent(sizes, values)}, less fixed {exponent(sizes, [v - fixed for v in values])}"
            )
        what = f"b of rows^b, {sizes[0]:,} to {sizes[-1]:,} rows"
        rows.append(Row(what, name.rstrip(".") or "in all", remark="; ".join(exponents)))
    return rows


def exponent(sizes: list[int], values: list[float]) -> str:
    """The slope of a line through the logarithms."""
    if min(values) <= 0:
        return "-"
    return f"{statistics.linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope:.2f}"


def limited_run(options: Options) -> list[Row]:
    """From the largest file to a package."""
    rows = max(options.sizes)
    path = rows_file(options, rows)
    size = path.stat().st_size
    limit = round(size / 3)
    in_blocks = EPOCHS | {"NET_ROWS_IN_MEMORY": str(round(rows * SHARE))}

    def run(settings: Mapping[str, str], most: int | None) -> Outcome:
        fresh.forget(path)
        return run_to_package(options, path, settings, most)

    sides: dict[str, Callable[[], Outcome]] = {
        "in memory, no limit": partial(run, EPOCHS, None),
        f"from disk, {limit / 1e9:.2f} GB": partial(run, in_blocks, limit),
    }
    return side_by_side(f"file to package, {rows:,} rows, {size / 1e9:.2f} GB", medians(sides, options.rounds), rows)
