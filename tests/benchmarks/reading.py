"""Readers of newline-delimited JSON, each to be run in a process of its own: seconds and rows."""

import time
from pathlib import Path

from data.make_sample import write_sample


def write(path: str, rows: int, pad_bytes: int) -> dict[str, float]:
    """Generated rows, the same at every call."""
    began = time.perf_counter()
    write_sample(Path(path), rows, pad_bytes=pad_bytes)
    return {"rows": rows, "seconds": time.perf_counter() - began}


def trainer(path: str) -> dict[str, float]:
    """`trainer.data.dataset.load`: the columns that the variant needs, strict, hashed, as dictionaries."""
    from tests.sample import SAMPLE_COLUMNS  # noqa: PLC0415
    from trainer.config.net_config import NetConfig  # noqa: PLC0415
    from trainer.config.roles import column_kinds  # noqa: PLC0415
    from trainer.data import dataset  # noqa: PLC0415 - each process loads its own side only

    kinds = column_kinds(NetConfig(**SAMPLE_COLUMNS))
    began = time.perf_counter()
    loaded = dataset.load(path, kinds)
    return {"rows": loaded.rows, "seconds": time.perf_counter() - began}


def pandas(path: str) -> dict[str, float]:
    """`pandas.read_json` as it is; it has no choice of columns."""
    import pandas as pd  # noqa: PLC0415

    began = time.perf_counter()
    frame = pd.read_json(path, lines=True)
    return {"rows": len(frame), "seconds": time.perf_counter() - began}


def duckdb(path: str) -> dict[str, float]:
    """DuckDB's scan of the same columns into an Arrow table: no check, no hash, no dictionary."""
    import duckdb as duck  # type: ignore[import-not-found]  # noqa: PLC0415

    from tests.sample import SAMPLE_COLUMNS  # noqa: PLC0415
    from trainer.config.net_config import NetConfig  # noqa: PLC0415
    from trainer.config.roles import column_kinds  # noqa: PLC0415

    numbers = ("number", "probability", "weight")
    kinds = {
        name: "DOUBLE" if kind in numbers else "VARCHAR"
        for name, kind in column_kinds(NetConfig(**SAMPLE_COLUMNS)).items()
    }
    columns = ", ".join(f"'{name}': '{kind}'" for name, kind in kinds.items())
    began = time.perf_counter()
    query = f"select * from read_json('{path}', format='newline_delimited', columns={{{columns}}})"
    table = duck.connect().execute(query).to_arrow_table()
    return {"rows": table.num_rows, "seconds": time.perf_counter() - began}
