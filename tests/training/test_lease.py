"""One process at a time writes a run's results, also when two start at once, one has died, or one wakes up late."""

import threading
import time
from pathlib import Path

import pytest

from tests.servers.bucket import Bucket
from trainer.runtime.errors import StorageError
from trainer.training import lease
from trainer.training.lease import Lease


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """Folders that a lease takes for homes on different machines."""
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.fixture
def prefix(bucket: Bucket) -> str:
    return f"{bucket.uri}/models/it/holders/"


def test_a_second_process_is_refused_with_the_name_of_the_holder(prefix: str, homes: list[Path]) -> None:
    with (
        lease.held(prefix, homes[0]),
        pytest.raises(
            StorageError, match=r"Process \d+ on .* is using this run \(lease gs://.*00000001\.json, renewed"
        ),
    ):
        Lease(prefix, homes[1])


def test_a_released_lease_can_be_taken_at_once(prefix: str, homes: list[Path]) -> None:
    with lease.held(prefix, homes[0]) as first:
        pass
    with lease.held(prefix, homes[1]) as second:
        assert second.claim > first.claim


def test_a_process_with_the_same_folder_takes_the_lease_of_the_dead_one_at_once(prefix: str, homes: list[Path]) -> None:
    dead = Lease(prefix, homes[0])  # has not released it
    with lease.held(prefix, homes[0]) as second:
        assert second.claim == dead.claim + 1
    dead.ended.set()


def test_an_expired_lease_is_taken_and_its_old_holder_writes_nothing_when_it_wakes(
    prefix: str, homes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = Lease(prefix, homes[0])
    monkeypatch.setattr(lease, "EXPIRY", 1.0)
    time.sleep(1.1)
    with lease.held(prefix, homes[1]):
        with pytest.raises(StorageError, match=r"is using this run \(lease .*\)\. This process has stopped writing"):
            asleep.check()
        with pytest.raises(StorageError):
            asleep.check()
    objects = sorted(stored.uri for stored in lease.storage.entries(prefix))
    asleep.release()
    assert sorted(stored.uri for stored in lease.storage.entries(prefix)) == objects


def test_a_holder_renews_its_lease_and_deletes_old_objects(
    bucket: Bucket, prefix: str, homes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.05)
    monkeypatch.setattr(lease, "EXPIRY", 1.0)
    with lease.held(prefix, homes[0]) as held:
        time.sleep(1.5)
        assert held.number > 5
        held.check()
        with pytest.raises(StorageError, match="is using this run"):
            Lease(prefix, homes[1])
    assert len(bucket.names()) == lease.KEPT
    assert b'"released": true' in bucket.get(bucket.names()[-1])


@pytest.mark.parametrize("content", [b"", b"[]", b'{"host": 1}', b"\xff"])
def test_an_object_that_cannot_be_read_counts_as_a_renewal(
    bucket: Bucket, prefix: str, homes: list[Path], content: bytes
) -> None:
    bucket.put("models/it/holders/00000041.json", content)
    with pytest.raises(StorageError, match=r"is using this run \(lease .*00000041\.json"):
        Lease(prefix, homes[0])


def race(prefix: str, homes: list[Path]) -> list[str]:
    """The outcomes of processes that start at once."""
    outcomes: list[str] = []
    holders: list[Lease] = []
    all_ready = threading.Barrier(len(homes))

    def start(home: Path) -> None:
        all_ready.wait()
        try:
            holders.append(Lease(prefix, home))
            outcomes.append("holds")
        except StorageError as error:
            outcomes.append("is refused" if "is using this run" in str(error) else str(error))

    threads = [threading.Thread(target=start, args=(home,)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for holder in holders:
        holder.release()
    return sorted(outcomes)


def test_R11_of_two_that_start_at_once_exactly_one_holds(bucket: Bucket, homes: list[Path]) -> None:
    for number in range(20):
        assert race(f"{bucket.uri}/{number}/holders/", homes[:2]) == ["holds", "is refused"]
