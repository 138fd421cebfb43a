"""The real commands with datasets and packages in a bucket: the bits of a run at home, whatever happens on the way."""

import json
import os
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests import commands
from tests.commands import SAMPLE, Done, finished, start, trainer
from tests.scale import many
from tests.servers.bigquery import Service
from tests.servers.bucket import Bucket
from tests.servers.fault_proxy import faults
from trainer.cloud import storage
from trainer.package.archive import read_package
from trainer.runtime import warm
from trainer.training import lease

# A tiny model on few rows that is checkpointed whenever the graph returns: several times within each epoch.
TINY = {
    "NET_EPOCHS": "2", "NET_HIDDEN_UNITS": "[8]", "NET_EMBEDDING_DIM": "2", "NET_TEXT_EMBEDDING_DIM": "2",
    "NET_DROPOUT": "0.3", "NET_CHECKPOINT_MINUTES": "0", "NET_BATCH_SIZE": "128", "NET_TOKENIZER": "regex",
    "NET_CATEGORICAL_COLUMNS": '["item"]', "NET_NUMERIC_COLUMNS": '["position"]',
}  # fmt: skip
LONG = {"NET_EPOCHS": "100000", "NET_PATIENCE": "null"}
ROWS = b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:300])


def run(folder: Path, bucket: Bucket, **environment: str) -> Done:
    """A run whose rows and package are in the bucket, on a machine whose disk is `folder`."""
    return finished(folder, begin(folder, bucket, **environment))


def begin(folder: Path, bucket: Bucket, **environment: str) -> BaseProcess:
    folder.mkdir(exist_ok=True)
    if "data/rows.json" not in bucket.names():
        bucket.put("data/rows.json", ROWS)
    service = {"STORAGE_EMULATOR_HOST": bucket.host}
    arguments = (f"--data={bucket.uri}/data/", f"--output={bucket.uri}/models", "--run=it")
    return start(folder, *arguments, **(TINY | service | environment))


def begin_to_save(folder: Path, bucket: Bucket, **environment: str) -> BaseProcess:
    """A run that has just sent a checkpoint of its own."""
    before = set(bucket.names("models/"))
    process = begin(folder, bucket, **environment)
    while not any(name.endswith("manifest.json") for name in {*bucket.names("models/")} - before):
        assert process.is_alive(), (folder / "stderr").read_text()
        time.sleep(0.05)
    return process


def in_the_cloud() -> dict[str, str]:
    """What a process has to know that was forked from one which does not."""
    names = (
        "STORAGE_EMULATOR_HOST",
        "BIGQUERY_EMULATOR_HOST",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_PROJECT",
    )
    return {name: os.environ[name] for name in names}


def package(folder: Path, bucket: Bucket) -> dict[str, bytes]:
    path = folder / "fetched.zip"
    path.write_bytes(bucket.get("models/it.zip"))
    return read_package(path)


def bits(members: dict[str, bytes]) -> tuple[bytes, bytes]:
    return members["weights.npz"], members["metrics.csv"]


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The weights and metrics of the same run without a bucket."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "rows.json").write_bytes(ROWS)
    done = trainer(folder, "--data=rows.json", "--run=it", **TINY)
    assert (done.code, done.err) == (0, "")
    return bits(read_package(folder / "packages" / "it.zip"))


def test_a_run_from_bucket_to_bucket_has_the_bits_of_one_at_home(
    tmp_path: Path, bucket: Bucket, at_home: tuple[bytes, bytes]
) -> None:
    done = run(tmp_path, bucket)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"package  {bucket.uri}/models/it.zip"
    assert bits(package(tmp_path, bucket)) == at_home
    again = run(tmp_path / "elsewhere", bucket)
    assert (again.code, "finished" in again.out) == (0, True), again


def test_a_machine_that_is_taken_away_is_followed_by_another(
    tmp_path: Path, bucket: Bucket, at_home: tuple[bytes, bytes]
) -> None:
    for machine in ("first", "second"):
        process = begin_to_save(tmp_path / machine, bucket)
        os.kill(process.pid or 0, signal.SIGTERM)
        done = finished(tmp_path / machine, process)
        assert done.code == 75, done.err
        assert "Use this machine" not in done.err
        shutil.rmtree(tmp_path / machine)
    done = run(tmp_path / "third", bucket)
    assert (done.code, done.err) == (0, "")
    assert "is fetched from" in done.out
    assert bits(package(tmp_path, bucket)) == at_home


def _impatient(folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    lease.EXPIRY, lease.RENEWAL = 2.0, 0.5
    commands.become_trainer(folder, arguments, environment)


def test_a_machine_that_dies_without_a_word_is_followed_once_it_is_silent_for_long(
    tmp_path: Path, bucket: Bucket, at_home: tuple[bytes, bytes]
) -> None:
    process = begin_to_save(tmp_path / "dead", bucket)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    done = run(tmp_path / "heir", bucket)
    assert done.code == 4
    assert "is using this run" in done.err
    (tmp_path / "heir").mkdir(exist_ok=True)
    time.sleep(2)
    arguments = (f"--data={bucket.uri}/data/", f"--output={bucket.uri}/models", "--run=it")
    heir = warm.start(_impatient, tmp_path / "heir", arguments, TINY | {"STORAGE_EMULATOR_HOST": bucket.host})
    done = finished(tmp_path / "heir", heir)
    assert (done.code, done.err) == (0, "")
    assert bits(package(tmp_path, bucket)) == at_home


@pytest.mark.parametrize("race", range(many(1, 20)))
def test_R11_of_two_runs_with_one_name_exactly_one_trains(
    tmp_path: Path, bucket: Bucket, at_home: tuple[bytes, bytes], race: int, record_property: object
) -> None:
    processes = [(tmp_path / machine, begin(tmp_path / machine, bucket)) for machine in ("one", "other")]
    first, second = sorted(finished(folder, process) for folder, process in processes)
    assert (first.code, first.err) == (0, "")
    assert second.code == 4, second.out
    assert "is using this run" in second.err
    assert "epoch" not in second.out
    assert bits(package(tmp_path, bucket)) == at_home
    record_property("races", 1)  # type: ignore[operator]


def test_R24_a_package_that_cannot_be_sent_stays_and_is_sent_later(tmp_path: Path, bucket: Bucket) -> None:
    process = begin_to_save(tmp_path, bucket)
    bucket.put("models/it.zip", b"of somebody else")
    done = finished(tmp_path, process)
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "runs/it/it.zip; upload it with `fab publish --run=it`" in done.err
    assert bucket.get("models/it.zip") == b"of somebody else"
    bucket.bucket.blob("models/it.zip").delete()
    for _ in range(many(2, 20)):  # what is there already is no failure
        sent = trainer(tmp_path, "--run=it", module="trainer.package.publish", STORAGE_EMULATOR_HOST=bucket.host)
        assert (sent.code, sent.err, sent.out) == (0, "", f"package  {bucket.uri}/models/it.zip\n")
        assert bucket.get("models/it.zip") == (tmp_path / "runs" / "it" / "it.zip").read_bytes()


def test_what_is_not_finished_cannot_be_sent(tmp_path: Path) -> None:
    done = trainer(tmp_path, "--run=it", module="trainer.package.publish")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "the run has not finished. Continue it with `fab train --run=it`" in done.err


@pytest.mark.parametrize("status", ["401", "403"])
def test_R23_missing_rights_are_found_before_anything_is_trained(
    tmp_path: Path, bucket: Bucket, bucket_server: str, status: str
) -> None:
    with faults(bucket_server) as proxy:
        proxy.always(status, method="POST", message="storage.objects.create denied")
        began = time.monotonic()
        done = run(tmp_path, bucket, STORAGE_EMULATOR_HOST=proxy.host)
    assert time.monotonic() - began < 60
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "data" not in done.out


def test_R23_training_goes_on_while_there_is_no_network(
    tmp_path: Path, bucket: Bucket, bucket_server: str, at_home: tuple[bytes, bytes]
) -> None:
    with faults(bucket_server) as proxy:
        process = begin_to_save(tmp_path, bucket, STORAGE_EMULATOR_HOST=proxy.host)
        with proxy.outage(many(4, 180)):
            process.join(timeout=many(4, 180))
            assert "epoch      2" in (tmp_path / "stdout").read_text()
            assert "models/it.zip" not in bucket.names()
        done = finished(tmp_path, process)
    assert done.code == 0, done.err
    assert bits(package(tmp_path, bucket)) == at_home


def test_all_the_way_from_a_query_to_predictions(tmp_path: Path, bucket: Bucket, bigquery: Service) -> None:
    rows = [json.loads(line) for line in ROWS.splitlines()]
    bigquery.execute(
        "CREATE TABLE web.shown "
        "(row_id INT64, item STRING, title STRING, position INT64, impressions INT64, ctr FLOAT64)"
    )
    columns = {"row_id": int, "item": str, "title": str, "position": int, "impressions": int, "ctr": float}
    bigquery.insert(
        "web.shown", [{name: kind(row[name]) for name, kind in columns.items() if name in row} for row in rows]
    )
    (tmp_path / "shown.sql").write_text("SELECT * FROM web.shown WHERE row_id >= @first")
    service = in_the_cloud()
    place = f"{bucket.uri}/shown"

    arguments = ("--sql=shown.sql", "--param=first:INT64=0", f"--to={place}")
    exported = trainer(tmp_path, *arguments, module="trainer.bigquery.export", **service)
    assert (exported.code, exported.err) == (0, "")

    done = trainer(tmp_path, f"--data={place}", f"--output={bucket.uri}/models", "--run=it", **(TINY | service))
    assert (done.code, done.err) == (0, "")
    sets = json.loads(package(tmp_path, bucket)["dataset.json"])["sets"]["train"]
    assert (sets["path"], sets["rows"]) == (place, len(rows))

    scores = f"{bucket.uri}/scores/day.json"
    arguments = ("predict", f"--package={bucket.uri}/models/it.zip", f"--data={place}", f"--out={scores}")
    there = trainer(tmp_path, *arguments, module="trainer.package.score", **service)
    assert (there.code, there.err) == (0, "")
    assert there.out.startswith(f"{len(rows)} predictions in {scores}, in the order of the rows")
    (tmp_path / "here").mkdir()
    for stored in storage.entries(place):
        (tmp_path / "here" / stored.uri.rpartition("/")[2]).write_bytes(storage.read(stored.uri))
    arguments = ("predict", "--package=fetched.zip", "--data=here", "--out=scores.json")
    home = trainer(tmp_path, *arguments, module="trainer.package.score")
    assert (home.code, home.err) == (0, "")
    assert bucket.get("scores/day.json") == (tmp_path / "scores.json").read_bytes()


def test_no_google_library_is_imported_where_all_is_local(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(ROWS)
    done = trainer(tmp_path, module="tests.cloud.local_commands", **TINY)
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1]) == []
