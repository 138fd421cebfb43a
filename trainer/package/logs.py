"""What a run leaves for other tools to read: metrics.csv and TensorBoard's files."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.projector import ProjectorConfig
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from trainer.runtime.system import write_atomic

EpochRow = Mapping[str, float]

SIDES = ("train", "validation", "test")
MAX_HISTOGRAM_SIZE = 2**20  # weights; a larger table takes longer to count than its picture is worth
MAX_PROJECTOR_POINTS = 10_000  # what the projector in a browser can move


def write_metrics_csv(path: Path, history: Sequence[EpochRow]) -> None:
    """Write a row per epoch under a header; columns are the keys of all rows in the order of their first appearance.

    Numbers keep all their bits; nan is written as nan, an absent value as nothing. Names are quoted where CSV asks for
    it, and a text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_harmless(column) for column in columns])
    writer.writerows([_harmless(row.get(column, "")) for column in columns] for row in history)
    write_atomic(path, text.getvalue().encode())


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


class TensorBoardLog:
    """TensorBoard's view of a run, with a folder for each side under `folder`, so that the curves of a metric overlay.

    A context manager: what was logged is on disk when the block ends. rows: of the epochs so far; they are logged where
    nothing is, as that of a run which began on another machine.
    """

    def __init__(self, folder: Path, rows: Sequence[EpochRow] = ()) -> None:
        self.folder = folder
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        for row in () if folder.exists() else rows:
            self.epoch(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, side: str) -> tf.summary.SummaryWriter:
        if side not in self._writers:
            self._writers[side] = tf.summary.create_file_writer(str(self.folder / side))
        return self._writers[side]

    def epoch(self, row: EpochRow, weights: Mapping[str, ArrayLike] | None = None) -> None:
        """Log an epoch: its metrics by side, speed and learning rate, and histograms of the weights by name."""
        summaries: dict[str, list[Summary]] = defaultdict(list)
        for key, number in row.items():
            side, _, metric = key.partition("_")
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite
                value = np.float32(number)
            if side not in SIDES and key != "epoch":
                summaries["train"].append(scalar_pb(f"training/{key}", value))
            elif metric not in ("", "rows", "weight"):
                summaries[side].append(scalar_pb(f"metrics/{metric}", value))
        for name, weight in (weights or {}).items():
            values = np.asarray(weight)
            if 0 < values.size <= MAX_HISTOGRAM_SIZE and np.isfinite(values).all():
                summaries["train"].append(histogram_pb(name, values))
        for side, parts in summaries.items():  # in one record: an operation for each takes longer than all the rest
            together = Summary(value=[value for part in parts for value in part.value])
            with (writer := self._writer(side)).as_default(int(row["epoch"])):
                tf.summary.experimental.write_raw_pb(together.SerializeToString())
            writer.flush()

    def settings(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        """Log the configuration as a table; rows: name, value, source and meaning of each setting."""
        lines = ["| setting | value | source | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(map(_markdown, row))} |" for row in rows]
        with self._writer("train").as_default(step=0):
            tf.summary.text("configuration", "\n".join(lines))

    def graph(self, function: Any) -> None:
        """Log the graph of a concrete function, for instance the one that predicts."""
        with self._writer("train").as_default():
            tf.summary.graph(function.graph)


def _markdown(cell: str) -> str:
    """The text as itself in a cell of a Markdown table that is shown as HTML."""
    text = "".join(character if character.isprintable() else " " for character in cell)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]|#!~" else character for character in text)


def write_projector(folder: Path, embeddings: Mapping[str, tuple[NDArray[np.float32], Sequence[str]]]) -> None:
    """Write embeddings for TensorBoard's projector, with a name beside each point.

    folder: one that holds an event file, or TensorBoard does not see it. embeddings: by name, the vectors [n, width]
    and their n names, most important first: only so many are written as a browser can show.
    """
    config = ProjectorConfig()
    for number, (title, (vectors, names)) in enumerate(embeddings.items()):
        count = min(len(names), MAX_PROJECTOR_POINTS)
        # A title may be the name of a column, which is no safe name of a file.
        entry = config.embeddings.add(
            tensor_name=title, tensor_path=f"embedding_{number}.tsv", metadata_path=f"embedding_{number}_names.tsv"
        )
        lines = ["\t".join(f"{value:.6g}" for value in vector) for vector in vectors[:count]]
        write_atomic(folder / entry.tensor_path, "".join(f"{line}\n" for line in lines).encode())
        clean = [" ".join(name.split()) or repr(name) for name in names[:count]]
        write_atomic(folder / entry.metadata_path, "".join(f"{name}\n" for name in clean).encode())
    write_atomic(folder / "projector_config.pbtxt", str(config).encode())
