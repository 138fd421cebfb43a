"""What the benchmark measures, a chapter of its table each. The work is done in processes of their own."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import fresh
from tests.benchmarks.fresh import Outcome, medians
from tests.benchmarks.options import Options, rows_file
from tests.benchmarks.search import search
from tests.benchmarks.table import Chapter, Row, side_by_side
from tests.benchmarks.transfer import transfer
from tests.benchmarks.whole import SHARE, limited_run, startup, whole_run

TITLES = 50_000  # that spaCy's own pipe is given
ORDERS = ("random", "by item", "by time", "by label")


def reading(options: Options) -> Chapter:
    """Readers of newline-delimited JSON."""
    path = rows_file(options, options.rows)
    names = {"trainer.data.dataset": "trainer", "pandas.read_json": "pandas", "DuckDB to Arrow": "duckdb"}
    missing = {} if importlib.util.find_spec("duckdb") else {"DuckDB to Arrow": Outcome({}, "not installed")}
    sides = medians(
        {
            side: partial(fresh.run, f"reading:{name}", folder=options.folder, path=str(path))
            for side, name in names.items()
            if side not in missing
        },
        options.rounds,
    )
    what = f"{options.rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB"
    note = (
        "flatfab (`trainer.data.dataset`) checks every row and hashes the file. pandas reads all columns, the others "
        "only the columns that the model needs. Peak memory includes the imported libraries."
    )
    return Chapter("Reading a file", side_by_side(what, sides | missing), note)


def preprocessing(options: Options) -> Chapter:
    """Split, vocabularies, encoding."""
    path = str(rows_file(options, options.rows))
    sides = medians(
        {
            "trainer.features.pipeline": lambda: fresh.run("encoding:trainer", folder=options.folder, path=path),
            "pandas, spaCy's pipe": lambda: fresh.run(
                "encoding:plain", folder=options.folder, path=path, most_titles=TITLES
            ),
        },
        options.rounds,
    )
    share = sides["pandas, spaCy's pipe"].figures.get("share", 1.0)
    remark = f"titles: {share:.0%} of them measured, times {1 / share:.3g}" if share < 1 else ""
    rows = side_by_side(f"{options.rows:,} rows", sides, remarks={"pandas, spaCy's pipe": remark})
    note = (
        "Split the rows, fit vocabularies and scales, and encode all sets. Reading counts for the memory, but not for "
        "the seconds."
    )
    return Chapter("Preprocessing", rows, note)


def training(options: Options) -> Chapter:
    """Epochs against Keras `fit`."""
    rows = []
    for network in options.networks:
        for data in options.data:
            outcome = fresh.run(
                "racing:train", folder=options.folder, network=network, data=data, rows=options.rows,
                rounds=options.training_rounds,
            )  # fmt: skip
            rows += side_by_side(f"{network}, {data}", nested(outcome))
    note = (
        "Each round trains every side for an epoch, with the same weights, batches and data. `catalogue`: 200,000 "
        "items, 30,000 words; `sample`: the generated rows. The loss is the best test loss after any epoch."
    )
    return Chapter("Training", rows, note)


def evaluation(options: Options) -> Chapter:
    """`evaluate` and `predict` against Keras."""
    rows = []
    for network in options.networks:
        outcome = fresh.run(
            "racing:score", folder=options.folder, network=network, data=options.data[0], rows=options.rows,
            rounds=options.rounds, least_seconds=0.2,
        )  # fmt: skip
        for what, sides in nested(outcome).items():
            rows += side_by_side(f"{network}, {what}", nested(sides))
    note = (
        f"Encoded rows of `{options.data[0]}`, untrained weights; the losses show that the sides do the same work. "
        "ops.predict packs its rows first."
    )
    return Chapter("Evaluation and scoring", rows, note)


def nested(outcome: Outcome) -> dict[str, Outcome]:
    """The outcomes that one process measured for several sides."""
    if outcome.fault:
        return {"": outcome}
    return {side: Outcome(figures) for side, figures in outcome.figures.items() if isinstance(figures, dict)}


def blocks(options: Options) -> Chapter:
    """Training from disk against training in memory."""
    rows = []
    for order in ORDERS:
        with TemporaryDirectory(dir=options.folder) as folder:
            outcome = fresh.run(
                "blocks:compare", folder=Path(folder), rows=options.rows, order=order, share=SHARE,
                epochs=options.training_rounds, seeds=options.rounds,
            )  # fmt: skip
        sides = nested(outcome)
        spread = {side: f"± {outcome.figures.get('deviation', 0.0):.5f}" for side, outcome in sides.items()}
        rows += side_by_side(f"rows in the file: {order}", sides, remarks=spread)
    note = (
        f"deep_v1 on {options.rows:,} rows of the catalogue, {SHARE:.0%} of them in memory (rows_in_memory). Test "
        f"loss: the best after any epoch, mean ± standard deviation over {options.rounds} seeds."
    )
    return Chapter("Training from disk", rows, note)


def limited(options: Options) -> Chapter:
    """Data that is three times as large as the memory that the process may hold."""
    title = "Memory limit"
    if not options.limited_rows:
        return Chapter(title, [Row("left out", "", remark="--limited-rows=30000000 asks for it")])
    rows = limited_epoch(options) + limited_run(options)
    note = (
        "The process may use a third of the data's bytes, limited by a control group or, where there is none, by the "
        "size of the data segment. Files are read from the disk, not from the operating system's cache."
    )
    return Chapter(title, rows, note)


def limited_epoch(options: Options) -> list[Row]:
    """An epoch on encoded arrays."""
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        written = fresh.run("blocks:write", folder=folder, rows=options.limited_rows, into=name)
        if written.fault:
            raise RuntimeError(f"{folder}: {written.fault}")
        limit = round(written.figures["bytes"] / 3)

        def epoch(share: float | None, most: int | None) -> Outcome:
            for path in folder.glob("*.npy"):
                fresh.forget(path)
            return fresh.run("blocks:epoch", folder=folder, limit=most, of=name, share=share)

        sides = {
            "in memory, no limit": partial(epoch, None, None),
            f"from disk, {limit / 1e9:.2f} GB": partial(epoch, SHARE, limit),
        }
        what = f"epoch, {options.limited_rows:,} encoded rows, {limit * 3 / 1e9:.2f} GB"
        return side_by_side(what, medians(sides, options.rounds))


def quality(options: Options) -> Chapter:
    """What the networks learn of what can be known."""
    path = rows_file(options, options.rows)
    outcome = fresh.run("quality:learn", folder=options.folder, path=str(path), names=list(options.networks))
    if outcome.fault:
        return Chapter("Quality", [Row("", "", remark=outcome.fault)])
    rows = []
    for side, measured in nested(outcome).items():
        figures = measured.figures
        epoch = f", epoch {figures['epoch']:.0f}" if "epoch" in figures else ""
        what = f"{figures['test rows']:,.0f} unseen of {options.rows:,} rows"
        remark = f"closes {figures['share']:.1%} of the gap{epoch}"
        rows.append(Row(what, side, loss=figures["loss"], remark=remark))
    note = "Weighted cross-entropy on generated rows. The gap is the difference between `constant` and `possible`."
    return Chapter("Quality", rows, note)


CHAPTERS: dict[str, Callable[[Options], Chapter]] = {
    "reading": reading,
    "preprocessing": preprocessing,
    "training": training,
    "evaluation": evaluation,
    "startup": startup,
    "whole_run": whole_run,
    "blocks": blocks,
    "limited": limited,
    "transfer": transfer,
    "quality": quality,
    "search": search,
}
