"""What an export says of itself is held against what is there: nothing that is cut off, missing, doubled or strange is
taken for the dataset. The numbers in the names are those of the cases of bad data.
"""

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import pytest

from tests.servers.bucket import Bucket
from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.data.dataset import load
from trainer.data.dataset_manifest import (
    CLAIM,
    DATASET,
    FORMAT_VERSION,
    check_rows,
    check_shards,
    inventories,
    parse,
    text_of,
)
from trainer.data.loaded import Dataset
from trainer.runtime.errors import DataError

ROWS = 30


class Place(NamedTuple):
    """Where an export is, in a folder or in a bucket; and what can be done to it."""

    uri: str
    write: Callable[[str, bytes], Stored]

    def shards(self) -> list[Stored]:
        return [stored for stored in storage.entries(self.uri) if stored.uri.endswith(".gz")]

    def read(self, name: str) -> bytes:
        return storage.read(storage.join(self.uri, name))

    def remove(self, name: str) -> None:
        storage.delete(storage.join(self.uri, name))


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An export of 30 rows in three shards."""
    uri = str(tmp_path / "rows")
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        uri = f"{bucket.uri}/rows"

    def write(name: str, data: bytes) -> Stored:
        return storage.put(data, storage.join(uri, name), replace=True)

    place = Place(uri, write)
    fill(place)
    return place


def fill(place: Place, first: int = 0) -> None:
    shards = []
    for number in range(3):
        lines = b"".join(b'{"x":"%d"}\n' % (first + row) for row in range(10 * number, 10 * number + 10))
        data = gzip.compress(lines, mtime=0)
        shards.append(place.write(name(number), data)._replace(crc32c=crc32c(data)))
    place.write(DATASET, text_of(ROWS, shards, created="2026-11-21"))


def name(number: int) -> str:
    return f"rows-{number:012}.json.gz"


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4)).decode()


def check(place: Place, tmp_path: Path) -> Dataset:
    """All checks of a whole dataset, as a run makes them."""
    shards = place.shards()
    listed = inventories(shards)
    check_shards(listed, shards, complete=True)
    copy = tmp_path / "copy"
    storage.fetch([(shard, copy / Path(shard.uri).name) for shard in shards])
    loaded = load(copy, {"x": "key"})
    check_rows(listed, shards, loaded.shards, loaded.rows_read + loaded.bad_rows, complete=True)
    return loaded


def refusal(place: Place, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        check(place, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_a_whole_export_is_what_it_says(place: Place, tmp_path: Path) -> None:
    assert check(place, tmp_path).rows == ROWS
    (listed,) = inventories(place.shards())
    assert (listed.folder, listed.rows, sorted(listed.shards)) == (
        place.uri,
        ROWS,
        [name(number) for number in range(3)],
    )
    record = json.loads(place.read(DATASET))
    assert (record["format_version"], record["created"]) == (FORMAT_VERSION, "2026-11-21")


def test_a_folder_of_shards_without_dataset_json_is_not_checked(place: Place, tmp_path: Path) -> None:
    place.remove(DATASET)
    place.remove(name(1))
    assert inventories(place.shards()) == []
    assert check(place, tmp_path).rows == 20


def test_D22_a_shard_that_is_cut_at_the_end_of_a_line_is_refused(place: Place, tmp_path: Path) -> None:
    lines = gzip.decompress(place.read(name(1))).splitlines(True)
    place.write(name(1), gzip.compress(b"".join(lines[:-1]), mtime=0))
    message = refusal(place, tmp_path)
    assert f"{name(1)} has " in message
    assert "it is cut off, or from another export" in message


def test_D22_a_shard_of_the_same_size_with_other_bytes_is_refused(place: Place, tmp_path: Path) -> None:
    lines = gzip.decompress(place.read(name(1)))
    stored = place.read(name(1))
    for change in range(100):
        changed = gzip.compress(lines.replace(b'"10"', b'"%02d"' % change), mtime=0)
        if len(changed) == len(stored) and changed != stored:
            break
    place.write(name(1), changed)
    assert f"{name(1)} does not have the checksum" in refusal(place, tmp_path)


def test_D22_a_row_too_few_is_refused_after_reading(place: Place, tmp_path: Path) -> None:
    record = json.loads(place.read(DATASET))
    place.write(DATASET, json.dumps(record | {"rows": ROWS + 1}).encode())
    assert "gives 30 rows, but its dataset.json says 31" in refusal(place, tmp_path)


def test_D22_bad_rows_count_as_rows(place: Place) -> None:
    (listed,) = inventories(place.shards())
    check_rows([listed], [], [], ROWS, complete=True)
    with pytest.raises(DataError):
        check_rows([listed], [], [], ROWS - 1, complete=True)


def test_D23_a_missing_shard_is_refused(place: Place, tmp_path: Path) -> None:
    place.remove(name(2))
    assert f"1 of the 3 files that {storage.join(place.uri, DATASET)} lists are missing: '{name(2)}'" in refusal(
        place, tmp_path
    )


@pytest.mark.parametrize("extra", ["rows-000000000003.json.gz", "rows-000000000001 (1).json.gz", "old.json.gz"])
def test_D23_a_doubled_or_stale_shard_is_refused(place: Place, tmp_path: Path, extra: str) -> None:
    place.write(extra, place.read(name(1)))
    message = refusal(place, tmp_path)
    assert f"holds 1 files that its dataset.json does not list: '{extra}'" in message


def test_D23_a_shard_of_another_export_under_the_same_name_is_refused(place: Place, tmp_path: Path) -> None:
    place.write(name(0), gzip.compress(b'{"x":"from another export"}\n' * 20, mtime=0))
    assert f"{name(0)} has " in refusal(place, tmp_path)


def test_D24_a_shard_without_rows_is_fine_where_it_is_listed(place: Place, tmp_path: Path) -> None:
    empty = gzip.compress(b"", mtime=0)
    shards = [*place.shards(), place.write(name(3), empty)]
    listed = [shard._replace(crc32c=crc32c(place.read(Path(shard.uri).name))) for shard in shards]
    place.write(DATASET, text_of(ROWS, listed))
    assert check(place, tmp_path).rows == ROWS


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"format_version":1}', b'{"format_version":1,"rows":1,"shards":{}}'[:-2],
        b'{"format_version":"1","rows":1,"shards":[]}', b'{"format_version":1,"rows":-1,"shards":[]}',
        b'{"format_version":1,"rows":true,"shards":[]}', b'{"format_version":1,"rows":1,"shards":[{"name":"a"}]}',
        b'{"format_version":1,"rows":1,"shards":[{"name":"a","bytes":"1","crc32c":""}]}',
        b'{"format_version":1,"rows":1,"shards":[{"name":"a","bytes":1,"crc32c":""},{"name":"a","bytes":1,"crc32c":""}]}',
        b"\xff\xfe", b"[" * 100_000,
    ],
)  # fmt: skip
def test_D57_a_damaged_dataset_json_is_refused(text: bytes) -> None:
    with pytest.raises(DataError, match=r"rows/dataset.json is damaged, or not from an export"):
        parse(text, "rows")


def test_D57_a_dataset_json_of_a_newer_version_is_refused_with_what_to_do(place: Place, tmp_path: Path) -> None:
    record: dict[str, Any] = json.loads(place.read(DATASET))
    place.write(DATASET, json.dumps({"format_version": FORMAT_VERSION + 1, "contents": record}).encode())
    message = refusal(place, tmp_path)
    assert f"has format {FORMAT_VERSION + 1}; this version of flatfab reads up to {FORMAT_VERSION}" in message
    assert message.endswith("Update flatfab.")


def test_D57_the_dataset_json_of_another_dataset_is_refused(place: Place, tmp_path: Path) -> None:
    record = json.loads(place.read(DATASET))
    for shard in record["shards"]:
        shard["name"] = f"other-{shard['name']}"
    place.write(DATASET, json.dumps(record).encode())
    assert "none of the 3 files" in refusal(place, tmp_path)
    record = json.loads(place.read(DATASET).replace(b"other-", b""))
    for shard in record["shards"]:
        shard["bytes"] += 1
    place.write(DATASET, json.dumps(record).encode())
    assert "from another export" in refusal(place, tmp_path)


def test_D57_an_export_that_has_not_ended_is_refused(place: Place, tmp_path: Path) -> None:
    place.write(CLAIM, b"{}")
    assert check(place, tmp_path).rows == ROWS
    place.remove(DATASET)
    assert "holds an unfinished export" in refusal(place, tmp_path)


def test_one_shard_that_was_chosen_is_checked_alone(place: Place, tmp_path: Path) -> None:
    chosen = place.shards()[1:2]
    listed = inventories(chosen)
    check_shards(listed, chosen, complete=False)
    storage.fetch([(chosen[0], tmp_path / "one.json.gz")])
    loaded = load(tmp_path / "one.json.gz", {"x": "key"})
    check_rows(listed, chosen, loaded.shards, loaded.rows_read, complete=False)
    place.write(name(1), b"cut")
    with pytest.raises(DataError, match="has 3 bytes"):
        check_shards(listed, place.shards()[1:2], complete=False)


def test_a_file_of_ones_own_beside_an_export_may_be_chosen(place: Place) -> None:
    mine = place.write("mine.json.gz", gzip.compress(b'{"x":"1"}\n'))
    check_shards(inventories([mine]), [mine], complete=False)


def test_equal_facts_give_equal_bytes_and_are_read_back(tmp_path: Path) -> None:
    shards = [Stored("gs://b/rows/a.json.gz", 2**40, "AAAAAA==", 2**53 + 1)]
    text = text_of(3, shards, jobs={"query": None})
    assert text == text_of(3, shards, jobs={"query": None})
    assert parse(text, "gs://b/rows").shards == {"a.json.gz": (2**40, "AAAAAA==")}
    assert json.loads(text)["shards"][0]["generation"] == str(2**53 + 1)
    assert inventories([Stored(str(tmp_path / "a.json"), 1, "", 1)]) == []
