"""Files and objects have one interface, and no fault of a network or a service leaves wrong content under a name."""

import fcntl
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError

from tests.cloud.storage_command import ROOT, Commands, commands
from tests.scale import MEMORY, many
from tests.servers.bucket import Bucket
from tests.servers.fault_proxy import Proxy, faults
from trainer.cloud import download, retries, storage, transfer, upload
from trainer.cloud import gcs as cloud
from trainer.cloud.storage import ConflictError, Stored
from trainer.runtime import system
from trainer.runtime.errors import ConfigError, DataError, ResourceError, StorageError, TrainerError

BLOCK = 2**14
SIZES = (0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 3, 20 * BLOCK)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ranges and chunks, short pauses and deadlines."""
    monkeypatch.setattr(download, "RANGE", 4 * BLOCK)
    monkeypatch.setattr(upload, "CHUNK", 2**21)
    monkeypatch.setattr(cloud, "TIMEOUT", (2.0, 0.5))
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(retries, "DEADLINE", 20.0)


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    with faults(bucket.host) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with commands(tmp_path_factory.mktemp("commands") / "log") as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty prefix in a folder or a bucket."""
    if request.param == "folder":
        return str(tmp_path / "place")
    return request.getfixturevalue("bucket").uri + "/place"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


# One interface


def test_put_find_entries_read_get_and_delete(place: str, tmp_path: Path) -> None:
    assert storage.entries(place) == []
    for size in SIZES:
        uri, data = storage.join(place, f"deep/er/{size}.bin"), noise(size)
        (tmp_path / "source").write_bytes(data)
        assert storage.find(uri) is None
        stored = storage.put(tmp_path / "source", uri)
        assert stored == storage.find(uri)
        assert (stored.uri, stored.size) == (uri, size)
        assert abs(stored.time - time.time()) < 60
        assert storage.read(uri) == data
        assert storage.get(uri, tmp_path / "brought" / "target") == stored
        assert (tmp_path / "brought" / "target").read_bytes() == data
    listed = storage.entries(f"{place}/")
    assert listed == storage.entries(place) == sorted(listed)
    assert [stored.size for stored in listed] == sorted(SIZES, key=lambda size: f"{size}.bin")
    for stored in listed:
        storage.delete(stored.uri)
        storage.delete(stored.uri)
        assert storage.find(stored.uri) is None
    assert storage.entries(place) == []
    assert [path.name for path in (tmp_path / "brought").iterdir()] == ["target"]


def test_putting_creates_and_never_replaces_unless_asked(place: str) -> None:
    uri = storage.join(place, "name")
    first = storage.put(b"first", uri)
    assert storage.put(b"first", uri) == first, "an equal object is success, and is not written again"
    with pytest.raises(ConflictError, match="exists with different content"):
        storage.put(b"other", uri)
    assert storage.read(uri) == b"first"
    second = storage.put(b"second", uri, replace=True)
    assert storage.put(b"third", uri, replace=second).generation > second.generation
    with pytest.raises(ConflictError, match="another writer"):
        storage.put(b"fourth", uri, replace=second)
    assert storage.read(uri) == b"third"
    assert storage.put(b"new", storage.join(place, "other"), replace=True) == storage.find(f"{place}/other")


def test_many_files_are_fetched_in_parallel(place: str, tmp_path: Path) -> None:
    sources = [tmp_path / f"{number}.bin" for number in range(25)]
    for number, source in enumerate(sources):
        source.write_bytes(noise(number * 5_000, number))
        storage.put(source, storage.join(place, source.name))
    wanted = [(stored, tmp_path / "brought" / Path(stored.uri).name) for stored in storage.entries(place)]
    storage.fetch(wanted)
    assert all((tmp_path / "brought" / source.name).read_bytes() == source.read_bytes() for source in sources)
    assert sorted(path.name for path in (tmp_path / "brought").iterdir()) == sorted(path.name for path in sources)


def test_a_name_is_not_a_prefix_of_another(place: str) -> None:
    for name in ("models/a", "models2/b", "models.txt"):
        storage.put(b"x", storage.join(place, name))
    assert [stored.uri for stored in storage.entries(storage.join(place, "models"))] == [f"{place}/models/a"]
    assert [stored.uri for stored in storage.entries(storage.join(place, "models.txt"))] == [f"{place}/models.txt"]


@pytest.mark.parametrize(
    "name", ["a b.json", "é€ß.json", "100%.json", "a#b?c=d&e.json", "x+y.json", "(1),[2].json", "日本.gz"]
)
def test_names_that_need_quoting_arrive(place: str, tmp_path: Path, name: str) -> None:
    uri = storage.join(place, name)
    stored = storage.put(name.encode(), uri)
    assert [stored] == storage.entries(place)
    storage.get(uri, tmp_path / name)
    assert (tmp_path / name).read_bytes() == storage.read(uri) == name.encode()


def test_the_error_for_a_missing_object_names_its_uri(place: str, tmp_path: Path) -> None:
    uri = storage.join(place, "nothing")
    storage.put(b"x", storage.join(place, "something"))
    for work in (lambda: storage.get(uri, tmp_path / "target"), lambda: storage.read(uri)):
        with pytest.raises(StorageError) as error:
            work()
        assert uri in str(error.value)
    assert not (tmp_path / "target").exists()


def test_a_probe_leaves_nothing(place: str) -> None:
    assert abs(storage.probe(place).time - time.time()) < 60
    assert storage.entries(place) == []


@pytest.mark.parametrize("size", [100, 300_000])
def test_one_of_many_writers_wins(place: str, tmp_path: Path, size: int) -> None:
    uri, outcomes = storage.join(place, "name"), list[int]()

    def create(number: int) -> None:
        with pytest.raises(ConflictError) if number not in outcomes else pytest.raises(ZeroDivisionError):
            storage.put(noise(size, number), uri)
            outcomes.append(number)
            raise ConflictError

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert storage.read(uri) == noise(size, outcomes[0])


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    with system.temporary_file(tmp_path / "name") as at_work:
        for name in (".name.0123456789abcdef.new", ".other.0123456789abcdef.new", ".name.0123.new", ".kept.part"):
            (tmp_path / name).write_bytes(b"")
        storage.put(b"data", str(tmp_path / "name"))
        kept = [".kept.part", ".name.0123.new", at_work.name, "name"]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_part_that_is_no_file_is_neither_followed_nor_waited_for(bucket: Bucket, tmp_path: Path, kind: str) -> None:
    bucket.put("name", b"data")
    stored = storage.find(f"{bucket.uri}/name")
    assert stored
    planted = download.part_of(stored, tmp_path / "target")
    planted.symlink_to(tmp_path / "victim") if kind == "link" else os.mkfifo(planted)
    (tmp_path / "victim").write_bytes(b"mine")
    storage.get(stored.uri, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"data"
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_local_path_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for work in (
        lambda: storage.put(b"x", str(tmp_path / "file" / "name")),
        lambda: storage.probe(str(tmp_path / "file")),
        lambda: storage.read(str(tmp_path)),
    ):
        with pytest.raises(StorageError):
            work()


def test_local_files_need_no_google_library() -> None:
    code = (
        "import sys, pathlib; from trainer.cloud import storage; storage.put(b'x', 'a/b'); storage.get('a/b', "
        "pathlib.Path('c')); storage.entries('a'); storage.probe('a'); storage.check('gs://bucket/x'); "
        "sys.exit(any(name.startswith(('google.', 'requests', 'urllib3')) for name in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with pytest.MonkeyPatch.context():
        done = subprocess.run([sys.executable, "-c", code], cwd=MEMORY or "/tmp", env=environment, check=False)
    assert done.returncode == 0


# Names


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("gs://", "no bucket"), ("gs:///x", "no bucket"), ("gs://x y", "not a bucket name"),
        ("gs://x y/z", "not a bucket name"), ("gs://UPPER/x", "not a bucket name"),
        ("gs://ab", "not a bucket name"), ("gs://bucket//x", "//"), ("gs://bucket/a//b", "//"),
        ("gs://bucket/a/../b", r"\.\."), ("gs://bucket/./b", r"\."), ("gs://bucket/a\nb", "control"),
        ("gs://bucket/a\x00b", "control"), ("gs://bucket/a\x7fb", "control"), ("gs://bucket/-rf", "begins with -"),
        ("gs://bucket/a ", "space"), ("gs://bucket/a /b", "space"), ("gs://bucket/" + "x" * 1025, "1,024 bytes"),
        ("gs://bucket/" + "é" * 513, "1,024 bytes"), ("gs://bucket/\u202egpj", "control"),
        ("gs://bucket/models\U0001f600", "symbol"),
    ],
)  # fmt: skip
def test_C40_an_invalid_uri_is_refused_before_any_request(uri: str, why: str) -> None:
    for work in (storage.check, storage.entries, storage.find, storage.probe, lambda uri: storage.put(b"", uri)):
        with pytest.raises(ConfigError, match=why) as error:
            work(uri)
        assert "gs://bucket/folder/" in str(error.value)


@pytest.mark.parametrize(
    "uri", ["gs://bucket", "gs://bucket/", "gs://b-1_x.y/a/b.json", "gs://bucket/größe/", "folder"]
)
def test_C40_a_valid_uri_is_accepted(uri: str) -> None:
    storage.check(uri)


# Downloads

PASSING = [
    "503", "429", "408", "500", "502", "504", "reset", "stall", "truncate", "flip", "short", "long", "empty", "html",
    "unhashed",
]  # fmt: skip
FATAL = ["403", "404", "401", "400"]


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("match", ["alt=media", "prettyPrint"])
def test_R12_a_download_survives_a_fault(proxy: Proxy, bucket: Bucket, tmp_path: Path, fault: str, match: str) -> None:
    data = noise(10 * BLOCK + 5)
    bucket.put("name", data)
    proxy.stall_seconds = 2.0
    proxy.next(fault, match=match)
    storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]
    proxy.next(fault, match=match)
    assert storage.read(f"{bucket.uri}/name") == data
    assert sum(bool(request.fault) for request in proxy.requests) == 2


@pytest.mark.parametrize("seed", range(many(1, 4)))
def test_R12_no_fault_leaves_a_wrong_file(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Download some objects with random faults, then again without."""
    chance, counts = random.Random(seed), Counter[str]()
    proxy.stall_seconds = 1.0
    while counts["faults"] < many(15, 100):
        sizes = [chance.choice(SIZES) for _ in range(chance.randint(1, 4))]
        contents = {f"{seed}-{counts['tries']}-{number}": noise(size, size) for number, size in enumerate(sizes)}
        for name, data in contents.items():
            bucket.put(name, data)
        objects = [(storage.find(f"{bucket.uri}/{name}"), tmp_path / name) for name in contents]
        replaced = chance.choice(list(contents))
        kinds = chance.choices(
            [*PASSING, *FATAL, lambda name=replaced: bucket.put(name, b"another")],
            [3.0] * len(PASSING) + [1.0] * len(FATAL) + [3.0], k=chance.randint(1, 6),
        )  # fmt: skip
        proxy.next(*kinds, match="alt=media")
        before = proxy.count()
        try:
            storage.fetch([(stored, path) for stored, path in objects if stored])
        except TrainerError:
            counts["refused"] += 1
        counts["faults"] += sum(bool(request.fault) for request in proxy.requests[before:])
        for name, data in contents.items():
            assert not (tmp_path / name).exists() or (tmp_path / name).read_bytes() == data
        proxy.clear()
        for name in contents:
            now = bucket.get(name)
            storage.get(f"{bucket.uri}/{name}", tmp_path / name)
            assert (tmp_path / name).read_bytes() == now
            counts["files"] += 1
        assert not [path for path in tmp_path.iterdir() if path.name not in contents and path.name.endswith(".part")]
        for path in tmp_path.iterdir():
            path.unlink()
        counts["tries"] += 1
    assert counts["refused"]
    for name in ("faults", "files"):
        record_property(name, counts[name])


def test_R12_complete_ranges_are_not_downloaded_again(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "WORKERS", 1)
    data = noise(40 * BLOCK)
    bucket.put("name", data)
    uri, target = f"{bucket.uri}/name", tmp_path / "target"
    for _ in range(3):
        proxy.always("403", match="alt=media", message="not now")
        proxy.rules[:0] = [proxy.rules[0]._replace(fault="unhashed", once=True)] * 3
        with pytest.raises(StorageError, match="not now"):
            storage.get(uri, target)
        assert not target.exists()
        proxy.clear()
    passed = sum(request.fault == "unhashed" for request in proxy.requests)
    before = proxy.count(match="alt=media")
    storage.get(uri, target)
    assert passed + proxy.count(match="alt=media") - before == 10
    assert target.read_bytes() == data


def test_R12_a_download_completes_over_a_connection_that_always_breaks(
    proxy: Proxy, bucket: Bucket, tmp_path: Path
) -> None:
    """No response arrives completely, but what arrives of a range is not requested again."""
    data = noise(8 * BLOCK)
    bucket.put("name", data)
    proxy.always("cut", match="alt=media")
    storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    assert proxy.count(match="alt=media") == 2 * 3, "for each range: nothing in a single read, one half, the other half"


def test_R12_bytes_that_are_always_damaged_are_refused_and_leave_nothing(
    proxy: Proxy, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("name", noise(3 * BLOCK))
    proxy.always("flip", match="alt=media")
    with pytest.raises(StorageError, match="checksum"):
        storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


def test_R12_a_damaged_part_is_discarded(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(6 * BLOCK)
    bucket.put("name", data)
    stored = storage.find(f"{bucket.uri}/name")
    assert stored
    part = download.part_of(stored, tmp_path / "target")
    for content in (
        b"",
        b"x",
        noise(len(data), 1),
        noise(len(data), 1) + b"\x01" * 2,
        noise(7 * BLOCK),
        data + bytes(2),
    ):
        part.write_bytes(content)
        storage.get(stored.uri, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data
        assert not part.exists()


@pytest.mark.parametrize("work", ["get", "put"])
def test_R12_a_stall_is_noticed(proxy: Proxy, bucket: Bucket, tmp_path: Path, work: str) -> None:
    bucket.put("name", b"data")
    (tmp_path / "source").write_bytes(b"data")
    proxy.next("stall", match="alt=media" if work == "get" else "upload")
    began = time.monotonic()
    if work == "get":
        storage.get(f"{bucket.uri}/name", tmp_path / "target")
    else:
        storage.put(tmp_path / "source", f"{bucket.uri}/other")
    assert 0.5 <= time.monotonic() - began < 30


@pytest.mark.parametrize("work", ["get", "put"])
def test_R12_an_outage_is_survived(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str,
    capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    data, seconds = noise(30 * BLOCK), many(1, 180)
    monkeypatch.setattr(retries, "DEADLINE", many(20.0, 900.0))
    monkeypatch.setattr(retries, "LONGEST_PAUSE", many(0.1, 30.0))
    monkeypatch.setattr(retries, "QUIET_SECONDS", 0.5)
    monkeypatch.setattr(retries, "_last_warning", [-100.0])
    bucket.put("name", data)
    (tmp_path / "source").write_bytes(data)
    began = time.monotonic()
    with proxy.outage(seconds):
        if work == "get":
            storage.get(f"{bucket.uri}/name", tmp_path / "target")
            assert (tmp_path / "target").read_bytes() == data
        else:
            storage.put(tmp_path / "source", f"{bucket.uri}/other")
            assert bucket.get("other") == data
    assert seconds <= time.monotonic() - began
    assert "the connection breaks; retrying for another" in capsys.readouterr().out
    record_property("seconds", seconds)


def test_D59_an_object_that_is_replaced_during_its_download_is_refused(
    proxy: Proxy, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.put("name", noise(12 * BLOCK))
    proxy.next("unhashed", lambda: bucket.put("name", noise(12 * BLOCK, 1)), match="alt=media")
    with pytest.raises(DataError, match="replaced or deleted while it was read") as error:
        storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert f"{bucket.uri}/name" in str(error.value)
    assert not (tmp_path / "target").exists()
    storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == noise(12 * BLOCK, 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "target"], "the part of the replaced generation is removed"


def test_D59_a_small_object_that_is_replaced_is_read_again(proxy: Proxy, bucket: Bucket) -> None:
    bucket.put("name", b"old")
    proxy.next(lambda: bucket.put("name", b"new"), match="alt=media")
    assert storage.read(f"{bucket.uri}/name") == b"new"


def test_a_disk_that_is_too_small_is_refused_before_the_download(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("name", noise(5000))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4000}))
    with pytest.raises(ResourceError, match="5,000 bytes are needed, 4,000 are free"):
        storage.get(f"{bucket.uri}/name", tmp_path / "target")


def test_the_same_file_is_downloaded_several_times_at_once(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(20 * BLOCK)
    bucket.put("name", data)
    for _ in range(many(5, 50)):
        threads = [
            threading.Thread(target=storage.get, args=(f"{bucket.uri}/name", tmp_path / "target")) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "target").read_bytes() == data
    storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


def test_a_part_that_is_renamed_while_it_is_opened_is_not_used(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, lock = noise(5 * BLOCK), fcntl.flock
    bucket.put("name", data)

    def late(file: int, how: int) -> None:
        part = Path(f"/proc/self/fd/{file}").readlink()
        if not (tmp_path / "target").exists():
            part.write_bytes(data)
            part.replace(tmp_path / "target")
        lock(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(download.fcntl, "flock", late)
        storage.get(f"{bucket.uri}/name", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


def test_a_file_and_its_name_survive_a_loss_of_power(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of the file before the rename, fsync of the folder after it."""
    storage.put(noise(3 * BLOCK), storage.join(place, "name"))
    synced: list[tuple[str, bool]] = []
    fsync, target = system.fsync, tmp_path / "brought" / "target"

    def watched(path: Path) -> None:
        synced.append(("folder" if path.is_dir() else "file", target.exists()))
        fsync(path)

    monkeypatch.setattr(system, "fsync", watched)
    storage.get(storage.join(place, "name"), target)
    assert synced == [("file", False), ("folder", True)]


def test_a_part_of_another_running_download_is_not_used(bucket: Bucket, tmp_path: Path) -> None:
    data = noise(5 * BLOCK)
    bucket.put("name", data)
    stored = storage.find(f"{bucket.uri}/name")
    assert stored
    other = download.Part(stored, tmp_path / "target", threading.Event())
    jobs = other.open()
    storage.get(stored.uri, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data
    assert other.part.exists()
    transfer.run_jobs(jobs, 2, other.stop)
    assert (tmp_path / "target").read_bytes() == data
    assert list(tmp_path.iterdir()) == [tmp_path / "target"]


@pytest.mark.parametrize("fault", ["kill", "term", "enospc", "eio"])
def test_R12_a_download_that_is_stopped_at_any_point_leaves_nothing_wrong(
    proxy: Proxy, bucket: Bucket, command: Commands, tmp_path: Path, fault: str,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    data = noise(11 * BLOCK)
    bucket.put("name", data)
    code = {"kill": -signal.SIGKILL, "term": 75, "enospc": 6, "eio": 4}[fault]
    point, stops = 0, 0
    while True:
        point += many(1 if fault == "kill" else 3, 1)
        target = tmp_path / f"{point}" / "target"
        ended_with = command.run("get", f"{bucket.uri}/name", target, FLATFAB_FAULT=f"{fault}:{point}")
        assert ended_with in (code, 0), command.log.read_text()
        assert ended_with or target.read_bytes() == data
        assert not target.exists() or target.read_bytes() == data
        assert "Traceback" not in command.log.read_text()
        assert command.run("get", f"{bucket.uri}/name", target) == 0, command.log.read_text()
        assert target.read_bytes() == data
        assert list(target.parent.iterdir()) == [target]
        if ended_with == 0:
            break
        stops += 1
    assert stops >= 3
    record_property("stops", stops)


# Uploads

UPLOAD_FAULTS = ["503", "429", "408", "500", "reset", "stall", "lost", "flip", "flip_sent", "truncate", "html", "empty"]


@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
@pytest.mark.parametrize(("size", "method"), [(1000, "POST"), (9_000_000, "POST"), (9_000_000, "PUT")])
def test_R9_an_upload_survives_a_fault(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, size: int, method: str, fault: str
) -> None:
    data = noise(size)
    (tmp_path / "source").write_bytes(data)
    proxy.stall_seconds = 2.0
    proxy.next(fault, method=method)
    stored = storage.put(tmp_path / "source", f"{bucket.uri}/name")
    assert bucket.get("name") == data
    assert stored == storage.find(f"{bucket.uri}/name")


@pytest.mark.parametrize("seed", range(many(1, 4)))
def test_R9_no_fault_leaves_a_wrong_or_incomplete_result(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Upload files and then their manifest with random faults, then again without."""
    chance, counts = random.Random(seed), Counter[str]()
    proxy.stall_seconds = 1.0
    while counts["faults"] < many(10, 100):
        prefix = f"{bucket.uri}/{seed}-{counts['tries']}"
        contents = {f"{number}.bin": noise(chance.choice([0, 10, 100_000]), number) for number in range(3)}
        contents["large.bin"] = noise(many(8_500_000, 9_000_000), 9)
        for name, data in contents.items():
            (tmp_path / name).write_bytes(data)
        proxy.next(*chance.choices([*UPLOAD_FAULTS, *FATAL], k=chance.randint(1, 8)), match="upload")
        before = proxy.count()
        try:
            publish(prefix, tmp_path, contents)
        except TrainerError:
            counts["refused"] += 1
        counts["faults"] += sum(bool(request.fault) for request in proxy.requests[before:])
        proxy.clear()
        verify(bucket, prefix, contents)
        generations = {stored.uri: stored.generation for stored in storage.entries(prefix)}
        publish(prefix, tmp_path, contents)
        assert generations.items() <= {each.uri: each.generation for each in storage.entries(prefix)}.items()
        assert verify(bucket, prefix, contents), "the result is complete, and existing objects were not sent again"
        counts["tries"] += 1
    record_property("faults", counts["faults"])
    record_property("results", counts["tries"])


def publish(prefix: str, folder: Path, contents: dict[str, bytes]) -> None:
    for name in contents:
        storage.put(folder / name, storage.join(prefix, name))
    manifest = {name: transfer.crc32c_of(data) for name, data in contents.items()}
    storage.put(json.dumps(manifest).encode(), storage.join(prefix, "manifest.json"))


def verify(bucket: Bucket, prefix: str, contents: dict[str, bytes]) -> bool:
    """Whether there is a manifest. Asserts that no content is wrong, and that all files in the manifest exist."""
    folder = prefix.removeprefix(f"{bucket.uri}/")
    existing = {name.removeprefix(f"{folder}/"): bucket.get(name) for name in bucket.names(f"{folder}/")}
    manifest = json.loads(existing.pop("manifest.json", b"{}"))
    assert existing.items() <= contents.items()
    assert not manifest or (manifest.keys() == contents.keys() == existing.keys())
    assert all(transfer.crc32c_of(existing[name]) == crc for name, crc in manifest.items())
    return bool(manifest)


def test_R9_an_upload_killed_between_any_two_requests_is_completed_by_the_next(
    proxy: Proxy, bucket: Bucket, command: Commands, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    contents = {"a.bin": noise(1000), "b.bin": b"", "large.bin": noise(9_000_000)}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    kills = 0
    for point in range(1, 100):
        prefix = f"{bucket.uri}/{point}"
        code = command.run("publish", tmp_path, prefix, FLATFAB_FAULT=f"kill:{point}")
        complete = verify(bucket, prefix, contents)
        assert complete or code == -signal.SIGKILL, command.log.read_text()
        assert command.run("publish", tmp_path, prefix) == 0, command.log.read_text()
        assert verify(bucket, prefix, contents)
        if code == 0:
            break
        kills += 1
    assert kills >= 8, "three files, one of them in several chunks, and the manifest"
    record_property("kills", kills)


@pytest.mark.parametrize("how", ["create", "replace", "replace this one", "in chunks", "delete", "probe"])
def test_R10_a_lost_response_is_recognised(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    times = many(3, 50)
    for number in range(times):
        uri, data = f"{bucket.uri}/{number}", noise(9_000_000 if how == "in chunks" else 1000, number)
        if how.startswith("replace") or how == "delete":
            bucket.put(str(number), b"before")
        before = storage.find(uri)
        proxy.next("lost", method={"in chunks": "PUT", "delete": "DELETE"}.get(how, "POST"))
        if how == "delete":
            storage.delete(uri)
            assert storage.find(uri) is None
        elif how == "probe":
            storage.probe(bucket.uri)
        else:
            replace = {"replace": True, "replace this one": before or False}.get(how, False)
            assert storage.put(data, uri, replace=replace) == storage.find(uri)
            assert bucket.get(str(number)) == data
    assert sum(request.fault == "lost" for request in proxy.requests) == times
    record_property("lost answers", times)


def test_R10_the_last_response_of_a_large_upload_may_be_lost(
    proxy: Proxy, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE", 1.0)
    data = noise(9_000_000)
    for number in (1, 3, 5):
        proxy.next(*["unhashed"] * (number - 1), "lost", method="PUT")
        assert storage.put(data, f"{bucket.uri}/{number}") == storage.find(f"{bucket.uri}/{number}")
        assert bucket.get(str(number)) == data


def test_an_upload_completes_over_a_line_that_is_too_slow_for_its_chunks(
    proxy: Proxy, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "TIMEOUT", (0.2, 2.0))
    proxy.receiving_rate = 4e6
    data = noise(4_000_000)
    assert storage.put(data, f"{bucket.uri}/name") == storage.find(f"{bucket.uri}/name")
    assert bucket.get("name") == data
    assert proxy.count("PUT") > 1, "in chunks, though the client would send so few bytes at once"


def test_a_file_that_changes_while_it_is_sent_is_refused(proxy: Proxy, bucket: Bucket, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(noise(9_000_000))
    proxy.next(lambda: source.write_bytes(noise(9_000_000, 1)), method="PUT")
    with pytest.raises(StorageError, match="changed while it was sent"):
        storage.put(source, f"{bucket.uri}/name")
    assert bucket.names() == []


def test_S16_permission_to_create_and_read_is_enough(proxy: Proxy, bucket: Bucket, tmp_path: Path) -> None:
    denied = "trainer@project.iam.gserviceaccount.com does not have storage.objects.delete access to the object."
    proxy.always("403", method="DELETE", message=denied)
    proxy.always("403", method="POST", match="ifGenerationMatch=1", message=denied)
    contents = {"a.bin": noise(1000), "large.bin": noise(9_000_000)}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    storage.probe(bucket.uri)
    (left,) = bucket.names()
    assert left.startswith(".probe-")
    bucket.bucket.delete_blob(left)
    proxy.next("lost", method="POST")
    publish(f"{bucket.uri}/out", tmp_path, contents)
    assert verify(bucket, f"{bucket.uri}/out", contents)
    with pytest.raises(StorageError, match=r"trainer@project\S+ lacks the permission storage\.objects\.delete"):
        storage.put(b"x", f"{bucket.uri}/out/a.bin", replace=True)
    with pytest.raises(StorageError, match=r"storage\.objects\.delete"):
        storage.delete(f"{bucket.uri}/out/a.bin")


# Permanent failures

NO_ACCESS = (
    "someone@project.iam.gserviceaccount.com does not have storage.objects.create access to the Google Cloud Storage "
    "object. Permission 'storage.objects.create' denied on resource (or it may not exist)."
)
PERMANENT = {
    "403": (NO_ACCESS, ["someone@project.iam.gserviceaccount.com lacks the permission storage.objects.create", "Ask"]),
    "401": ("Invalid Credentials", ["credentials are expired or refused", "gcloud auth application-default login"]),
    "400": ("Bucket is a requester pays bucket but no user project provided.", ["requester-pays"]),
    "404": ("The specified bucket does not exist.", ["there is no bucket"]),
    "412": ("conditionNotMet", ["exists with different content"]),
}


@pytest.mark.parametrize("status", ["400", "401", "403", "404"])
@pytest.mark.parametrize("work", ["entries", "find", "read", "put", "probe", "delete"])
def test_D58_a_permanent_failure_is_raised_at_once(proxy: Proxy, bucket: Bucket, status: str, work: str) -> None:
    message, parts = PERMANENT[status]
    proxy.always(status, message=message)
    began = time.monotonic()
    if (status, work) == ("404", "delete"):
        return storage.delete(f"{bucket.uri}/name")  # a missing object need not be deleted
    uri = bucket.uri if work in ("entries", "probe") else f"{bucket.uri}/name"
    with pytest.raises(StorageError) as error:
        storage.put(b"x", uri) if work == "put" else getattr(storage, work)(uri)
    text = str(error.value)
    assert all(part in text for part in parts), text
    assert bucket.name in text
    assert "\n" not in text
    assert time.monotonic() - began < 10
    assert proxy.count() == 1, "there is one request"


def test_D58_a_missing_object_and_a_missing_bucket_have_different_errors(bucket: Bucket) -> None:
    assert storage.find(f"{bucket.uri}/name") is None
    assert storage.entries(f"{bucket.uri}/name") == []
    with pytest.raises(StorageError, match="There is no object gs://"):
        storage.read(f"{bucket.uri}/name")
    for work in (storage.find, storage.entries, storage.probe, storage.read):
        with pytest.raises(StorageError, match="there is no bucket 'no-such-bucket'"):
            work("gs://no-such-bucket/name")


def test_D58_the_error_for_missing_credentials_says_what_to_do(tmp_path: Path, bucket: Bucket) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        for name, value in {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}.items():
            monkeypatch.setenv(name, value)
        for path in (None, tmp_path / "missing.json"):
            if path:
                monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
            else:
                monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
            began = time.monotonic()
            with pytest.raises(StorageError) as error:
                storage.entries(bucket.uri)
            for part in ("credentials are missing", "gcloud auth application-default login", "service account"):
                assert part in str(error.value)
            assert path is None or str(path) in str(error.value)
            assert time.monotonic() - began < 30


def test_R22_a_wrong_clock_is_named_when_credentials_are_refused(
    proxy: Proxy, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.always("401", message="Invalid Credentials")
    monkeypatch.setattr(
        AnonymousCredentials, "refresh", lambda self, request: None
    )  # the credentials of tests cannot be refreshed
    for hours, message in ((-3, "180 minutes ahead of"), (3, "180 minutes behind"), (0, "expired or refused. Run")):
        proxy.clock_seconds = hours * 3600
        with pytest.raises(StorageError, match=message):
            storage.entries(bucket.uri)
    skew = RefreshError(
        "('invalid_grant: Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
        "Check your iat and exp values in the JWT claim.')"
    )
    assert "clock" in str(retries.permanent_error(skew, "reading x"))


def test_R23_a_lasting_failure_is_given_up_after_the_deadline(
    bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE", 0.2)
    monkeypatch.setattr(upload, "PROBE_DEADLINE", 0.2)
    monkeypatch.setattr(cloud, "TIMEOUT", (0.3, 0.3))
    for fault, message in (
        ("429", "429: too many requests"), ("503", r"answers 503 \(busy\)"), ("reset", "the connection breaks"),
        ("html", "log-in page"), ("stall", "does not answer in time"), ("empty", "log-in page"),
    ):  # fmt: skip
        proxy.clear()
        proxy.stall_seconds = 1.0
        proxy.always(fault, message="busy")
        for work in (storage.entries, storage.probe):
            with pytest.raises(StorageError, match=f"failed for 0 s: .*{message}") as error:
                work(bucket.uri)
            assert "Traceback" not in str(error.value)
            assert "upload_id" not in str(error.value)
    for host, message in (
        ("http://127.0.0.1:9", "cannot be reached"),
        ("http://nowhere.invalid", "host name cannot be resolved"),
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
        with pytest.raises(StorageError, match=message):
            storage.probe(bucket.uri)


def test_the_client_sends_no_other_requests(proxy: Proxy, bucket: Bucket, tmp_path: Path) -> None:
    storage.put(noise(5 * BLOCK), f"{bucket.uri}/name")
    storage.get(f"{bucket.uri}/name", tmp_path / "target")
    storage.delete(f"{bucket.uri}/name")
    sent = [(request.method, request.path.split("?")[0]) for request in proxy.requests]
    name = f"/storage/v1/b/{bucket.name}/o/name"
    assert sent == [
        ("POST", f"/upload/storage/v1/b/{bucket.name}/o"), ("GET", name),
        ("GET", f"/download{name}"), ("GET", f"/download{name}"), ("DELETE", name),
    ]  # fmt: skip


def test_each_process_has_its_own_client(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = cloud.client()
    assert cloud.client() is ours
    monkeypatch.setattr(cloud.os, "getpid", lambda: 1)
    assert cloud.client() is not ours


@pytest.mark.parametrize("work", ["get", "put", "publish"])
def test_a_stop_request_is_obeyed_while_a_request_waits(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, work: str
) -> None:
    bucket.put("name", noise(20 * BLOCK))
    source = tmp_path / "folder" / "source"
    source.parent.mkdir()
    source.write_bytes(b"data")
    proxy.always("stall", match="alt=media" if work == "get" else "upload")
    arguments = {
        "get": [f"{bucket.uri}/name", tmp_path / "target"],
        "put": [source, f"{bucket.uri}/other"],
        "publish": [source.parent, f"{bucket.uri}/out"],
    }[work]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.storage_command", work, *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    ) as process:
        while not proxy.count(match="alt=media" if work == "get" else "upload"):
            time.sleep(0.02)
        began = time.monotonic()
        process.terminate()
        assert process.wait() == 75
        assert time.monotonic() - began < 10
        assert process.stderr
        assert b"Stopped by SIGTERM" in process.stderr.read()
    assert not (tmp_path / "target").exists()
    assert bucket.names() == ["name"]


# Compressed content and encoding


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_D42_objects_arrive_byte_for_byte_with_any_name_and_encoding(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, name: str, compressed: bool, encoded: bool
) -> None:
    text = b'{"a": "1"}\n' * 10_000
    data = gzip.compress(text) if compressed else text
    blob = bucket.bucket.blob(name)
    if encoded:
        blob.content_encoding = "gzip"
        proxy.always("encoded", match="alt=media")
    blob.upload_from_string(data)
    storage.get(f"{bucket.uri}/{name}", tmp_path / name)
    assert (tmp_path / name).read_bytes() == data
    assert storage.read(f"{bucket.uri}/{name}") == data
    for _ in range(2):  # also in small pieces
        proxy.rules.insert(0, proxy.rules[0]._replace(fault="reset", once=True)) if proxy.rules else proxy.next(
            "reset", match="alt=media"
        )
    storage.get(f"{bucket.uri}/{name}", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data


def test_metadata_without_a_checksum_is_refused(bucket: Bucket) -> None:
    class Handle:
        crc32c, generation, size, time_created = None, 1, 2, None

    with pytest.raises(retries.BadResponseError):
        cloud.stored_object(Handle())


def test_the_checksum_is_that_of_google() -> None:
    assert transfer.crc32c_of(b"123456789") == "4waSgw=="  # the check value of CRC-32C, e3069283
    assert Stored("x", 1, "", 2) == Stored("x", 1, "", 2, 0.0)
