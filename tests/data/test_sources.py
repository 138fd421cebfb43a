"""Datasets in buckets become paths: each version of an object is fetched once, and nothing wrong is ever read."""

import gzip
import shutil
from pathlib import Path

import pytest

from tests.commands import SAMPLE
from tests.sample import sample_config
from tests.servers.bucket import Bucket
from trainer.cloud import storage
from trainer.data import dataset, sources
from trainer.features.pipeline import prepare
from trainer.runtime import cache
from trainer.runtime.errors import DataError, StorageError
from trainer.runtime.timing import Timings

ROWS = SAMPLE.read_bytes().splitlines(keepends=True)
SCHEMA = b'[{"name": "item", "type": "STRING"}, {"name": "ctr", "type": "FLOAT64"}]'
LIMIT = 10**9


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def export(bucket: Bucket) -> str:
    """Three shards as an export leaves them, beside other things."""
    for number in range(3):
        bucket.put(f"day/rows-{number}.json.gz", gzip.compress(b"".join(ROWS[number::3])))
    bucket.put("day/schema.json", SCHEMA)
    bucket.put("day/notes.txt", b"none of the data")
    bucket.put("day/older/rows-0.json.gz", b"none of the data either")
    return f"{bucket.uri}/day"


def names(given: str) -> list[str]:
    source = sources.look_up(given)
    return [stored.uri.rpartition("/")[2] for stored in (*source.shards, *source.descriptions)]


def read(given: str, limit: int = LIMIT) -> dict[str, bytes]:
    """The files at the path that stands for a dataset."""
    with sources.local(sources.look_up(given), cache.FOLDER, limit) as path:
        place = Path(path)
        files = [place] if place.is_file() else place.iterdir() if place.is_dir() else place.parent.glob(place.name)
        return {file.name: file.read_bytes() for file in files}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that are asked for, as they are."""
    asked: list[str] = []
    fetch = storage.fetch

    def counting(objects: list[tuple[storage.Stored, Path]]) -> None:
        asked.extend(stored.uri.rpartition("/")[2] for stored, _ in objects)
        fetch(objects)

    monkeypatch.setattr(storage, "fetch", counting)
    return asked


def test_a_prefix_is_a_folder_of_shards_and_what_describes_them(export: str) -> None:
    expected = ["rows-0.json.gz", "rows-1.json.gz", "rows-2.json.gz", "schema.json"]
    assert names(export) == names(f"{export}/") == expected


def test_one_object_and_a_glob_are_datasets_as_well(export: str) -> None:
    assert names(f"{export}/rows-1.json.gz") == ["rows-1.json.gz", "schema.json"]
    assert names(f"{export}/rows-[12]*") == ["rows-1.json.gz", "rows-2.json.gz", "schema.json"]
    assert read(f"{export}/rows-1.json.gz").keys() == {"rows-1.json.gz"}
    assert read(f"{export}/rows-[12]*").keys() == {"rows-1.json.gz", "rows-2.json.gz"}


def test_a_schema_may_lie_above_the_shards(bucket: Bucket) -> None:
    bucket.put("table/shards/rows.json", b"".join(ROWS[:5]))
    bucket.put("table/schema.json", SCHEMA)
    with sources.local(sources.look_up(f"{bucket.uri}/table/shards"), cache.FOLDER, LIMIT) as path:
        assert (Path(path).parent / "schema.json").read_bytes() == SCHEMA
        with pytest.raises(DataError, match=r"schema\.json has no column 'publisher'"):
            dataset.load(path, {"publisher": "category"})


def test_what_arrives_is_what_lies_there(bucket: Bucket, export: str) -> None:
    assert read(export) == {
        name.removeprefix("day/"): bucket.get(name)
        for name in bucket.names("day/")
        if name.count("/") == 1 and ".json" in name
    }


def test_each_version_of_an_object_is_fetched_once(bucket: Bucket, export: str, fetched: list[str]) -> None:
    read(export)
    assert len(fetched) == 4
    read(export)
    read(f"{export}/rows-2.json.gz")
    assert len(fetched) == 4
    bucket.put("day/rows-1.json.gz", gzip.compress(ROWS[0]))
    assert gzip.decompress(read(export)["rows-1.json.gz"]) == ROWS[0]
    assert fetched[4:] == ["rows-1.json.gz"]


def test_a_copy_that_is_damaged_is_told_and_fetched_again(
    export: str, fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(export)
    (damaged,) = cache.FOLDER.glob("*/data/rows-1.json.gz")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert read(export) == before
    assert "rows-1.json.gz in the cache is damaged. The files are downloaded again." in capsys.readouterr().out
    assert len(fetched) == 8


def test_copies_share_the_room_of_the_cache(bucket: Bucket, export: str) -> None:
    read(export)
    size = sum(cache.size_of(entry) for entry in cache.FOLDER.iterdir())
    bucket.put("other/rows.json", b"".join(ROWS[:100]))
    read(f"{bucket.uri}/other", limit=size + 10)
    assert [entry.name for entry in cache.FOLDER.glob("*/data/*")] == ["rows.json"]


def test_a_copy_in_use_stays_whatever_another_run_does(export: str) -> None:
    source = sources.look_up(export)
    with sources.local(source, cache.FOLDER, LIMIT) as path:
        assert "other runs are using" in cache.make_room(cache.FOLDER, 10, 20)
        with sources.local(source, cache.FOLDER, 20):
            pass  # which removes what does not fit into its cache
        assert len(list(Path(path).glob("rows-*"))) == 3
    assert cache.make_room(cache.FOLDER, 10, 20) == ""
    assert not list(cache.FOLDER.glob("*/data"))


def test_a_copy_that_is_removed_while_it_is_read_is_an_error_with_a_message(export: str) -> None:
    with sources.local(sources.look_up(export), cache.FOLDER, LIMIT) as path:
        shutil.rmtree(cache.FOLDER)
        with pytest.raises(StorageError, match="There is no file or folder"):
            dataset.load(path, {"item": "category"})


def test_without_a_cache_a_copy_lasts_as_long_as_it_is_read(export: str) -> None:
    assert len(read(export, limit=0)) == 4
    assert list(cache.FOLDER.iterdir()) == []


def test_a_break_goes_on_with_what_is_missing(
    bucket: Bucket, export: str, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def one_only(objects: list[tuple[storage.Stored, Path]]) -> None:
            objects[0][1].write_bytes(storage.read(objects[0][0].uri))
            raise StorageError("the network is gone")

        broken.setattr(storage, "fetch", one_only)
        with pytest.raises(StorageError, match="the network is gone"):
            read(export)
    assert list(cache.FOLDER.glob("[!.]*")) == []
    assert len(read(export)) == 4
    assert len(fetched) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nothing", "holds nothing"),
        ("/day/older/x.json", r"has no \*\.json"),
        ("/day/none*", "holds notes.txt, older/, rows-0"),
    ],
)
def test_D58_what_is_not_there_is_told_with_what_is(bucket: Bucket, export: str, given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sources.look_up(bucket.uri + given)


def test_rows_from_a_bucket_are_those_of_a_folder_bit_for_bit(export: str, bucket: Bucket, tmp_path: Path) -> None:
    for name in ("rows-0.json.gz", "rows-1.json.gz", "rows-2.json.gz"):
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / name).write_bytes(bucket.get(f"day/{name}"))
    bucket.bucket.blob("day/schema.json").delete()
    config = sample_config()
    here = prepare(config, {"train": "rows"}, Timings())
    there = prepare(config, {"train": export}, Timings())
    assert here.preprocessing == there.preprocessing
    for side, encoded in here.encoded.items():
        for array, other in zip(encoded, there.encoded[side], strict=True):
            assert array.tobytes() == other.tobytes()
    assert here.sets["train"]["fingerprint"] == there.sets["train"]["fingerprint"]
    assert there.sets["train"]["path"] == export
    assert all(int(shard["generation"]) > 0 for shard in there.sets["train"]["shards"])


def test_encoded_rows_of_a_bucket_need_no_download_the_next_time(
    export: str, bucket: Bucket, fetched: list[str]
) -> None:
    bucket.bucket.blob("day/schema.json").delete()
    prepare(sample_config(), {"train": export}, Timings())
    for copy in cache.FOLDER.glob("*/data"):
        cache.system.remove(copy.parent)
    count, timings = len(fetched), Timings()
    prepare(sample_config(), {"train": export}, timings)
    assert len(fetched) == count
    assert set(timings.report()["stages"]) == {"cache"}
