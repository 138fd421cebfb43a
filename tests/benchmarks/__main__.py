"""The benchmark table: `python -m tests.benchmarks`, or `fab bench`.

Speed and memory of every part of the trainer beside those of what one would use instead, measured in turn in one run.
"""

import argparse
import os
import platform
import re
import sys
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import networks
from tests.benchmarks.chapters import CHAPTERS
from tests.benchmarks.options import Options
from tests.benchmarks.table import Chapter, Row, as_markdown, as_text
from trainer.runtime.command import run_command

SIZES = (50_000, 200_000, 1_000_000, 5_000_000)
DATA = ("catalogue", "sample")  # of tests.benchmarks.speed
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "pyarrow", "spacy", "duckdb")


def machine() -> str:
    """Cores, memory, processor, system and versions, in a line."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cpu = name[1] if name else platform.processor()
    return f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {platform.system()}; {', '.join(versions)}"


def positive(text: str) -> int:
    """A number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def several(text: str) -> tuple[int, ...]:
    """Numbers with commas between them."""
    return tuple(map(positive, text.split(",")))


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, str]:
    """The options, and a command that gives them again; its folder is the user's own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=positive, default=200_000, help="of every measurement but that of sizes")
    parser.add_argument("--sizes", type=several, help="rows of whole runs, such as 50000,200000; default: up to --rows")
    parser.add_argument("--rounds", type=positive, default=3, help="of which each figure is the median")
    parser.add_argument("--training-rounds", type=positive, default=5, help="the same, of training")
    parser.add_argument("--limited-rows", type=positive, help="encoded rows to train on under a memory limit")
    parser.add_argument("--only", choices=CHAPTERS, action="append", help="this part, may be repeated")
    parser.add_argument("--network", choices=networks.names(), action="append", help="default: all")
    parser.add_argument("--data", choices=DATA, action="append", help="to train on; default: both")
    parser.add_argument("--folder", type=Path, help="keeps the generated files for the next time")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    given = parser.parse_args(argv)
    words = []
    for name, value in vars(given).items():
        if name != "folder" and value != parser.get_default(name):
            texts = value if isinstance(value, list) else [re.sub(r"[() ]|,\)", "", str(value))]
            words += [f"--{name.replace('_', '-')}" + ("" if value is True else f"={text}") for text in texts]
    return given, " ".join(["python -m tests.benchmarks", *words])


def measure(name: str, options: Options) -> Chapter:
    """A chapter; what fails is a line in it, so that the others are not lost."""
    print(f"{datetime.now(UTC):%H:%M:%S} {name}", file=sys.stderr, flush=True)
    try:
        return CHAPTERS[name](options)
    except (RuntimeError, OSError) as error:
        return Chapter(name, [Row("failed", "", remark=str(error))])


def main(argv: list[str] | None = None) -> None:
    """Measure and print the table."""
    given, command = parse(argv)
    sizes = given.sizes or tuple(size for size in SIZES if size <= given.rows) or (given.rows,)
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        options = Options(
            Path(folder).resolve(), given.rows, sizes, given.rounds, given.training_rounds,
            given.limited_rows, tuple(given.network or networks.names()), tuple(given.data or DATA),
        )  # fmt: skip
        chapters = [measure(name, options) for name in CHAPTERS if name in (given.only or CHAPTERS)]
    title = f"{command}\n{datetime.now(UTC):%Y-%m-%d}, {machine()}"
    print(as_markdown(title, chapters) if given.markdown else as_text(title, chapters, terminal_width()))


def terminal_width() -> int | None:
    """Columns of the terminal that the table goes to; None where it goes elsewhere."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else None


if __name__ == "__main__":
    run_command(main)
