"""Checkpoints reach the bucket completely or not at all, while training goes on, and another machine resumes them."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.servers.bucket import Bucket
from trainer.cloud import storage
from trainer.runtime.errors import StorageError
from trainer.training import checkpoint, checkpoint_mirror
from trainer.training.checkpoint import Checkpoint
from trainer.training.checkpoint_mirror import Mirror, mirrored

STATE = {"weights": np.arange(1000, dtype=np.float32)}


def save(folder: Path, step: int) -> None:
    checkpoint.save(folder / "checkpoints", Checkpoint({"step": step}, STATE, {}))


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """Folders of one run on two machines."""
    folders = [tmp_path / machine / "it" for machine in ("first", "second")]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


@pytest.fixture
def sending(bucket: Bucket, machines: list[Path]) -> Iterator[Mirror]:
    with mirrored(f"{bucket.uri}/models", machines[0]) as mirror:
        assert mirror
        yield mirror


def test_a_folder_needs_no_mirror(tmp_path: Path) -> None:
    with mirrored("packages", tmp_path) as mirror:
        assert mirror is None


def test_R3_another_machine_resumes_a_run_from_the_bucket(bucket: Bucket, machines: list[Path]) -> None:
    for machine, other in (machines, reversed(machines)):
        with mirrored(f"{bucket.uri}/models/", machine) as first:
            assert first
            first.fetch()
            loaded, _ = checkpoint.load(machine / "checkpoints")
            step = loaded.progress["step"] if loaded else 0
            save(machine, step + 1)
            first.send()
            assert first.wait(10) == ""
        with mirrored(f"{bucket.uri}/models/", other) as second:
            assert second
            second.fetch()
        resumed, damaged = checkpoint.load(other / "checkpoints")
        assert resumed
        assert (resumed.progress["step"], damaged) == (step + 1, [])
        np.testing.assert_array_equal(resumed.state["weights"], STATE["weights"])


def test_a_newer_local_checkpoint_is_not_replaced(sending: Mirror, machines: list[Path]) -> None:
    save(machines[0], 1)
    sending.send()
    assert sending.wait(10) == ""
    save(machines[0], 2)
    sending.fetch()
    loaded, _ = checkpoint.load(machines[0] / "checkpoints")
    assert loaded
    assert loaded.progress["step"] == 2


def test_two_generations_stay_in_the_bucket(bucket: Bucket, sending: Mirror, machines: list[Path]) -> None:
    for step in range(5):
        save(machines[0], step)
        sending.send()
        assert sending.wait(10) == ""
    folders = {name.split("/")[3] for name in bucket.names("models/it/checkpoints/")}
    assert folders == {"00000004.0001", "00000005.0001"}


def test_R9_a_checkpoint_without_its_manifest_is_ignored(bucket: Bucket, sending: Mirror, machines: list[Path]) -> None:
    save(machines[0], 1)
    sending.send()
    assert sending.wait(10) == ""
    for name in checkpoint.FILES:
        bucket.put(f"models/it/checkpoints/00000002.0001/{name}", b"half of it")
    other = Mirror(machines[1], f"{bucket.uri}/models/it", sending.lease)
    other.fetch()
    assert checkpoint.numbers_in(machines[1] / "checkpoints") == [1]


def test_a_restart_deletes_all_checkpoints_in_the_bucket(bucket: Bucket, sending: Mirror, machines: list[Path]) -> None:
    save(machines[0], 1)
    sending.send()
    assert sending.wait(10) == ""
    sending.clear()
    assert bucket.names("models/it/checkpoints/") == []


def test_training_goes_on_while_the_bucket_is_out_of_reach(
    bucket: Bucket, sending: Mirror, machines: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_mirror, "RETRY_SECONDS", 0.1)

    def unreachable(*_: object) -> None:
        raise StorageError("no network")

    with monkeypatch.context() as outage:
        outage.setattr(storage, "put", unreachable)
        for step in range(4):  # the third replaces the first, which was not sent yet
            save(machines[0], step)
            began = time.monotonic()
            sending.send()
            assert time.monotonic() - began < 1
        assert sending.wait(0.3) == "no network"
    assert sending.wait(10) == ""
    assert {name.split("/")[3] for name in bucket.names("models/it/checkpoints/")} == {"00000004.0001"}


def test_a_process_that_lost_its_lease_sends_nothing(bucket: Bucket, sending: Mirror, machines: list[Path]) -> None:
    bucket.put("models/it/holders/00000002.json", b'{"host": "other", "pid": 7}')
    sending.lease.renew()
    save(machines[0], 1)
    sending.send()
    assert "Process 7 on other is using this run" in sending.wait(0.5)
    assert bucket.names("models/it/checkpoints/") == []
    with pytest.raises(StorageError, match="This process has stopped writing"):
        sending.check()
