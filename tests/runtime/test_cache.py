"""The cache of encoded rows returns exactly what was saved, or nothing, whatever happened to its files."""

import fcntl
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.data import sources
from trainer.runtime import cache, system
from trainer.runtime.errors import ResourceError, StorageError

FACTS = {"a fact": [1, "two", None]}


def saved(folder: Path, key: str, rows: int = 100) -> Path:
    entry = cache.Entry(folder, key)
    entry.empty("train.ids", (rows, 3), np.int32)[:] = np.arange(rows)[:, None]
    entry.empty("train.numbers", (rows, 0), np.float32)
    entry.empty("none", (0,), np.float32)
    entry.save(FACTS)
    entry.discard()
    return entry.path


def test_a_saved_entry_is_found_bit_for_bit(tmp_path: Path) -> None:
    saved(tmp_path, "key")
    facts, arrays, damaged = cache.find(tmp_path, "key")
    assert (facts, damaged) == (FACTS, "")
    np.testing.assert_array_equal(arrays["train.ids"], np.repeat(np.arange(100)[:, None], 3, axis=1))
    assert {name: (array.shape, array.dtype.name) for name, array in arrays.items()} == {
        "train.ids": ((100, 3), "int32"), "train.numbers": ((100, 0), "float32"), "none": ((0,), "float32"),
    }  # fmt: skip
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert cache.find(tmp_path, "other") == ({}, {}, "")
    assert cache.find(tmp_path / "nowhere", "key") == ({}, {}, "")


def test_arrays_stay_readable_when_their_entry_gets_its_name(tmp_path: Path) -> None:
    entry = cache.Entry(tmp_path, "key")
    array = entry.empty("a", (5,), np.int32)
    array[:] = 7
    entry.save(FACTS)
    assert array.tolist() == [7] * 5


@pytest.mark.parametrize("name", ["train.ids.npy", "train.numbers.npy", "entry.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "longer"])
def test_a_damaged_entry_is_named_and_removed(tmp_path: Path, name: str, damage: str) -> None:
    path = saved(tmp_path, "key") / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes({"flip": bytes(data), "cut": content[:-1], "empty": b"", "longer": content + b"x"}[damage])
    facts, arrays, damaged = cache.find(tmp_path, "key")
    assert not facts
    assert not arrays
    if (name, damage) == ("entry.json", "gone"):
        return  # an entry without its last file was never complete
    assert str(tmp_path / "key") in damaged
    assert not (tmp_path / "key").exists()


def test_an_entry_that_was_not_finished_is_never_found_and_goes_in_time(tmp_path: Path) -> None:
    entry = cache.Entry(tmp_path, "key")
    entry.empty("a", (5,), np.int32)
    assert cache.find(tmp_path, "key") == ({}, {}, "")
    assert cache.make_room(tmp_path, 1, 10**6) == ""
    assert entry.part.exists()
    os.utime(entry.part, (time.time() - 2 * cache.PART_SECONDS,) * 2)
    os.close(entry.handle or 0)  # as at the end of its process
    assert cache.make_room(tmp_path, 1, 10**6) == ""
    assert not entry.part.exists()


def test_of_two_runs_that_save_one_key_one_entry_stays_complete(tmp_path: Path) -> None:
    first, second = cache.Entry(tmp_path, "key"), cache.Entry(tmp_path, "key")
    for entry in (first, second):
        entry.empty("a", (5,), np.int32)[:] = 7
    second.save(FACTS)
    first.save(FACTS)
    assert cache.find(tmp_path, "key")[1]["a"].tolist() == [7] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_entries_that_were_not_used_for_longest_make_room(tmp_path: Path) -> None:
    for age, key in enumerate(("new", "old", "oldest")):
        facts = saved(tmp_path, key, rows=1000) / cache.FACTS
        os.utime(facts, (time.time() - 100 - age,) * 2)
    size = cache.size_of(tmp_path / "old")
    assert cache.find(tmp_path, "oldest")[0] == FACTS  # now it is the newest
    assert cache.make_room(tmp_path, size, 3 * size + 10) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "oldest"]


def test_an_entry_in_use_is_not_removed_by_another_process(tmp_path: Path) -> None:
    saved(tmp_path, "used")
    arrays = cache.find(tmp_path, "used")[1]
    rows = arrays.pop("train.ids")
    arrays.clear()
    size = cache.size_of(tmp_path / "used")
    if not (child := os.fork()):
        reason = cache.make_room(tmp_path, size, size + 10)
        os._exit(0 if "other runs are using" in reason and (tmp_path / "used").exists() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert "other runs are using" in cache.make_room(tmp_path, size, size + 10)
    assert rows.sum() == 3 * sum(range(100))
    del rows
    assert cache.make_room(tmp_path, size, size + 10) == ""
    assert not (tmp_path / "used").exists()


def test_an_entry_that_is_being_removed_counts_as_missing(tmp_path: Path) -> None:
    handle = os.open(saved(tmp_path, "key"), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert cache.find(tmp_path, "key") == ({}, {}, "")
    os.close(handle)
    assert cache.find(tmp_path, "key")[0] == FACTS


def test_an_entry_whose_part_is_removed_or_emptied_meanwhile_is_an_error_with_a_message(tmp_path: Path) -> None:
    for name, words in (("whole", "failed: No such file"), ("written anew", "was removed from the cache")):
        entry = cache.Entry(tmp_path / "cache", "key")
        entry.empty("a", (5,), np.int32)
        shutil.rmtree(tmp_path / "cache")
        if name == "written anew":
            system.write_atomic(entry.part / "more", b"")
        with pytest.raises(StorageError, match=words):
            entry.save(FACTS)
        entry.discard()


def test_an_entry_at_work_is_not_taken_for_an_abandoned_one(tmp_path: Path) -> None:
    entry = cache.Entry(tmp_path, "key")
    os.utime(entry.part, (0, 0))
    assert cache.make_room(tmp_path, 1, 10**6) == ""
    assert entry.part.exists()
    entry.discard()


def test_data_that_never_fits_is_refused_and_nothing_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, "key")
    assert "take 5,000 bytes, and cache_gb is 1e-06" in cache.make_room(tmp_path, 5000, 1000)
    assert "has " in cache.make_room(tmp_path / "not" / "there", 10**18, 10**19)
    assert (tmp_path / "key").exists()


def test_a_full_disk_is_refused_before_a_byte_is_written_by_way_of_memory(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"No space left while writing .*a\.npy"):
        cache.Entry(tmp_path, "key").empty("a", (10**15,), np.int8)


def test_the_key_tells_settings_files_and_code_apart(tmp_path: Path) -> None:
    data, code = tmp_path / "rows.json", {"data/a.py": "1"}
    data.write_text("{}")

    def key(**settings: object) -> str:
        return cache.key_of(settings, {"train": sources.look_up(str(data)).identity}, code)

    first = key(split="random", fraction=0.1)
    assert first == key(fraction=0.1, split="random")
    keys = [first, key(split="random", fraction=0.2), cache.key_of({}, {"test": []}, code)]
    stamp = data.stat()
    data.write_text("[]")  # as long, and made to look as old
    os.utime(data, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    keys.append(key(split="random", fraction=0.1))
    code = {"data/a.py": "2"}
    keys.append(key(split="random", fraction=0.1))
    assert len(set(keys)) == len(keys)
