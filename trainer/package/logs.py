"""Write metrics.csv and the logs for TensorBoard."""

import csv
import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from trainer.package.csv_text import table_cell
from trainer.runtime.system import write_atomic

EpochRow = Mapping[str, float]

SIDES = ("train", "validation", "test")
MAX_HISTOGRAM_SIZE = 2**20  # weights; larger tables take too long to count
MAX_PROJECTOR_POINTS = 10_000  # more are too slow in a browser


def write_metrics_csv(path: Path, history: Sequence[EpochRow]) -> None:
    """Write a row per epoch under a header with the keys of all rows, in order of first appearance.

    Numbers are written exactly; NaN as nan, a missing value as nothing; text as `table_cell` makes it.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([table_cell(column) for column in columns])
    writer.writerows([table_cell(row[column]) if column in row else "" for column in columns] for row in history)
    write_atomic(path, text.getvalue().encode())


class TensorBoardLog:
    """TensorBoard's log of a run: a folder for each set under `folder`, so that the curves of a metric share a chart.

    A context manager, at whose end everything is on disk. rows: of the epochs so far, which are logged if there is no
    log yet, as for a run that began on another machine.
    """

    def __init__(self, folder: Path, rows: Sequence[EpochRow] = ()) -> None:
        self.folder = folder
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        for row in () if folder.exists() else rows:
            self.epoch(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, side: str) -> tf.summary.SummaryWriter:
        if side not in self._writers:
            self._writers[side] = tf.summary.create_file_writer(str(self.folder / side))
        return self._writers[side]

    def epoch(
        self, row: EpochRow, weights: Mapping[str, ArrayLike] | None = None, hidden: Collection[str] = ()
    ) -> None:
        """Log an epoch: metrics of each set but the hidden ones, learning rate, and histograms of the weights."""
        summaries: dict[str, list[Summary]] = defaultdict(list)
        for key, number in row.items():
            side, _, metric = key.partition("_")
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
                value = np.float32(number)
            if side not in SIDES and key != "epoch":
                summaries["train"].append(scalar_pb(f"training/{key}", value))
            elif metric not in ("", "rows", "weight", *hidden):
                summaries[side].append(scalar_pb(f"metrics/{metric}", value))
        for name, weight in (weights or {}).items():
            values = np.asarray(weight)
            if 0 < values.size <= MAX_HISTOGRAM_SIZE and np.isfinite(values).all():
                summaries["train"].append(histogram_pb(name, values))
        for side, parts in summaries.items():  # one record per set: writing is slower than everything else here
            record = Summary(value=[value for part in parts for value in part.value])
            with (writer := self._writer(side)).as_default(int(row["epoch"])):
                tf.summary.experimental.write_raw_pb(record.SerializeToString())
            writer.flush()

    def settings(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """Log the settings as a table; rows: name, value, source and meaning."""
        lines = ["| setting | value | source | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(map(_escape_markdown, row))} |" for row in rows]
        with self._writer("train").as_default(step=0):
            tf.summary.text("configuration", "\n".join(lines))

    def graph(self, function: Any) -> None:
        """Log the graph of a concrete function, such as the one that predicts."""
        with self._writer("train").as_default():
            tf.summary.graph(function.graph)


def _escape_markdown(cell: str) -> str:
    """Text escaped for a cell of a Markdown table that is shown as HTML."""
    text = "".join(character if character.isprintable() else " " for character in cell)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]|#!~" else character for character in text)


def write_projector(folder: Path, embeddings: Mapping[str, tuple[NDArray[np.float32], Sequence[str]]]) -> None:
    """Write embeddings for TensorBoard's projector, with a name for each point.

    folder: must hold an event file, or TensorBoard ignores it. embeddings: by title, vectors [n, width] and their n
    names, the most important first; only the first MAX_PROJECTOR_POINTS are written.
    """
    config = ProjectorConfig()
    for number, (title, (vectors, names)) in enumerate(embeddings.items()):
        count = min(len(names), MAX_PROJECTOR_POINTS)
        # A title may be a column's name, which is not safe as a file name.
        entry = config.embeddings.add(
            tensor_name=title, tensor_path=f"embedding_{number}.tsv", metadata_path=f"embedding_{number}_names.tsv"
        )
        lines = ["\t".join(f"{value:.6g}" for value in vector) for vector in vectors[:count]]
        write_atomic(folder / entry.tensor_path, "".join(f"{line}\n" for line in lines).encode())
        cells = [table_cell(name) for name in names[:count]]
        write_atomic(folder / entry.metadata_path, "".join(f"{cell}\n" for cell in cells).encode())
    write_atomic(folder / "projector_config.pbtxt", str(config).encode())
