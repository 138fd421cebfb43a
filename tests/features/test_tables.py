"""Rows in memory and rows in files: the same rows, each once an epoch, in an order that repeats."""

import os
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.features import tables
from trainer.features.encoded import EncodedRows
from trainer.features.tables import FileTable, Table, rows_of
from trainer.runtime.errors import StorageError


def encoded_rows(rows: int) -> EncodedRows:
    """Rows that tell their number in each column."""
    numbers = np.arange(rows)
    return EncodedRows(
        np.stack([numbers, numbers + 1], axis=1).astype(np.int32),
        numbers[:, None].astype(np.float32) * [[1, -1]],
        numbers.astype(np.float32),
        np.ones(rows, np.float32) + numbers.astype(np.float32) % 2,
    )


def in_files(folder: Path, rows: EncodedRows) -> EncodedRows:
    """The same in .npy files."""
    files = []
    for name, column in rows._asdict().items():
        np.save(folder / f"{name}.npy", column)
        files.append(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
    return EncodedRows(*files)


def epoch_rows(rows: tables.Rows, epoch: int, batch_size: int, seed: int = 3) -> list[list[int]]:
    """The rows of each part of an epoch in the order of training."""
    return [
        tf.gather(part.table.labels, part.order).numpy().astype(int).tolist()
        for part in rows.shuffled(seed, epoch, batch_size)
    ]


@given(st.integers(1, 200), st.integers(1, 100), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_an_epoch_of_rows_in_files_has_every_row_once_in_parts_of_whole_batches(
    rows: int, rows_in_memory: int, batch_size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(tables, "BLOCK_ROWS", 7)
        parts = epoch_rows(FileTable(in_files(Path(folder), encoded_rows(rows)), rows_in_memory), 1, batch_size)
    assert sorted(chain.from_iterable(parts)) == list(range(rows))
    assert all(len(part) % batch_size == 0 for part in parts[:-1])
    assert all(len(part) <= max(rows_in_memory // 2, batch_size) for part in parts)


def test_the_order_is_a_function_of_seed_and_epoch_and_mixes_rows_that_lie_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tables, "BLOCK_ROWS", 10)
    table = FileTable(in_files(tmp_path, encoded_rows(1000)), 400)
    first = epoch_rows(table, 1, 8)
    assert first == epoch_rows(table, 1, 8)
    assert first != epoch_rows(table, 2, 8)
    assert first != epoch_rows(table, 1, 8, seed=4)
    for part in first[:-1]:
        assert max(part) - min(part) > 700
        assert np.abs(np.diff(part)).mean() > 200


def test_all_columns_of_a_row_stay_together(tmp_path: Path) -> None:
    table = FileTable(in_files(tmp_path, encoded_rows(3000)), 2500)
    assert table.weight_scale == pytest.approx(1 / 1.5)
    for part in table.shuffled(0, 1, 100):
        numbers = part.table.labels.numpy()
        np.testing.assert_array_equal(part.table.ids.numpy(), np.stack([numbers, numbers + 1], axis=1))
        np.testing.assert_array_equal(part.table.numbers.numpy(), np.stack([numbers, -numbers], axis=1))
        np.testing.assert_allclose(part.table.weights.numpy(), 1 + numbers % 2, rtol=1e-6)


def test_rows_in_order_are_the_same_from_files_and_from_memory(tmp_path: Path) -> None:
    whole = rows_of(encoded_rows(1000))
    assert isinstance(whole, Table)
    parts = rows_of(in_files(tmp_path, encoded_rows(1000)), rows_in_memory=300)
    assert isinstance(parts, FileTable)
    assert [table.rows for table in parts.in_order()] == [300, 300, 300, 100]
    for column, together in zip(zip(*parts.in_order(), strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(column), together)
    for column, together in zip(parts.evenly_spaced(10), whole.evenly_spaced(10), strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(column, together)


def test_rows_that_fit_are_in_memory(tmp_path: Path) -> None:
    rows = in_files(tmp_path, encoded_rows(11))
    assert isinstance(rows_of(rows, rows_in_memory=11), Table)
    assert isinstance(rows_of(rows, rows_in_memory=10), FileTable)


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    table = FileTable(in_files(tmp_path, encoded_rows(1000)), 100)
    os.truncate(tmp_path / "labels.npy", 2000)
    with pytest.raises(StorageError, match=r"labels\.npy was cut short during the run"):
        list(table.in_order())


def test_rows_in_files_last_to_the_end_of_a_run_whose_cache_is_emptied(tmp_path: Path) -> None:
    rows = encoded_rows(1000)
    table = FileTable(in_files(tmp_path, rows), 300)
    lost = in_files(tmp_path, rows)
    for path in tmp_path.iterdir():
        path.unlink()
    assert np.concatenate([part.labels for part in table.in_order()]).tolist() == rows.labels.tolist()
    with pytest.raises(StorageError, match=r"Reading .*ids\.npy failed: No such file"):
        FileTable(lost, 300)
