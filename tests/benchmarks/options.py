"""What the user asked for, and the files that are made for it."""

from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import fresh

PAD_BYTES = 800  # about the bytes of a row


class Options(NamedTuple):
    """What the user asked for."""

    folder: Path
    rows: int
    sizes: tuple[int, ...]
    rounds: int
    training_rounds: int
    limited_rows: int | None
    networks: tuple[str, ...]
    data: tuple[str, ...]


def rows_file(options: Options, rows: int) -> Path:
    """A file of generated rows, made where it is not there yet."""
    path = options.folder / f"rows_{rows}.json"
    if not path.exists():
        outcome = fresh.run("reading:write", folder=options.folder, path=str(path), rows=rows, pad_bytes=PAD_BYTES)
        if outcome.fault:
            raise RuntimeError(f"{path}: {outcome.fault}")
    return path
