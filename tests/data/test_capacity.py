"""Whether rows fit into memory: estimates against files whose rows are known, refusals by the real command."""

import gzip
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from data.make_sample import write_sample
from tests.commands import SAMPLE, trainer
from tests.sample import sample_config
from trainer.data import capacity
from trainer.runtime.errors import ResourceError
from trainer.runtime.memory import available_memory

GIGABYTE = 10**9


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_rows_and_lengths_are_estimated_from_the_head_of_each_file(tmp_path: Path, name: str) -> None:
    write_sample(tmp_path / name, 30_000)
    rows, heads = capacity.estimate_rows([tmp_path / name, tmp_path / name], ["title", "age", "nothing"])
    assert rows == pytest.approx(60_000, rel=0.05)
    assert len(heads["title"].hashes) > 5000
    assert heads["nothing"].length == len("null")
    assert 4 < capacity.cell_bytes("text", heads["title"], 60_000) < 80
    assert capacity.cell_bytes("number", heads["age"], 60_000) == 8


def test_how_many_texts_are_different_is_told_from_how_their_number_grows() -> None:
    different = list(range(1000))
    assert capacity.distinct_share(different, 10**6) == 1
    assert capacity.distinct_share(different[:10] * 100, 10**6) == pytest.approx(1e-5)
    assert capacity.distinct_share([], 10**6) == 1
    drawn = np.random.default_rng(0).zipf(1.5, 1_000_000).tolist()
    share = len(set(drawn)) / len(drawn)
    assert share / 3 < capacity.distinct_share(drawn[:1000], len(drawn)) < 10 * share


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"no json\n" * 10, b"[1]\n2\n", b"\x1f\x8b damaged", b'{"a": 1}', gzip.compress(b"", mtime=0)],
)
def test_what_is_no_row_is_left_to_the_reader(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(data)
    assert capacity.estimate_rows([tmp_path / "rows.json"], ["a"])[0] < 20


def huge(path: Path, size: int) -> None:
    """A file of which all but the first rows is a hole: it is large, and takes no space."""
    path.write_bytes(SAMPLE.read_bytes())
    os.truncate(path, size)


def test_rows_that_never_fit_are_refused_within_seconds_with_figures_and_a_way_out(tmp_path: Path) -> None:
    huge(tmp_path / "rows.json", 5000 * GIGABYTE)
    done = trainer(tmp_path, "--data=rows.json")
    assert done.code == ResourceError.exit_code
    assert "rows need about" in done.err
    assert "GB of memory are free. Set " in done.err
    assert "subsample=0." in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] in ([], ["packages"], ["packages", "runs"])


def test_the_advice_fits(tmp_path: Path) -> None:
    huge(tmp_path / "rows.json", 5000 * GIGABYTE)
    with pytest.raises(ResourceError) as caught:
        capacity.check_before_reading(sample_config(), [str(tmp_path / "rows.json")])
    share = float(str(caught.value).split("subsample=")[1].split()[0])
    assert 0 < share < 1
    capacity.check_before_reading(sample_config(subsample=share), [str(tmp_path / "rows.json")])
    with pytest.raises(ResourceError):
        capacity.check_before_reading(sample_config(subsample=min(1.5 * share, 1.0)), [str(tmp_path / "rows.json")])


def test_encoded_rows_that_do_not_fit_can_stay_on_disk() -> None:
    rows = 100 * available_memory() // capacity.row_bytes(sample_config())
    with pytest.raises(ResourceError, match="rows_in_memory=") as caught:
        capacity.check_memory(sample_config(), rows)
    on_disk = int(str(caught.value).split("rows_in_memory=")[1].split()[0])
    assert on_disk > 100_000
    capacity.check_memory(sample_config(rows_in_memory=on_disk), rows)


def test_free_memory_is_that_of_the_machine_and_within_the_limits_of_the_process() -> None:
    free = available_memory()
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert 0 < free <= total
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (50 * GIGABYTE, before[1]))
        assert available_memory() <= 50 * GIGABYTE
        used = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + GIGABYTE, before[1]))
        assert available_memory() == pytest.approx(GIGABYTE, rel=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
