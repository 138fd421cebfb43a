"""The files of a search in a bucket: copied while it goes on and at its end; a bucket that is away stops nothing."""

from pathlib import Path

import pytest

from tests.search.events import new_plan, searched, state_of
from tests.servers.bucket import Bucket
from trainer.runtime.errors import StorageError
from trainer.search import copies, journal, plan, table


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_bucket_has_the_files_at_the_end(bucket: Bucket) -> None:
    search = new_plan(output=f"{bucket.uri}/out")
    state = state_of(search, searched(search))
    sent = copies.copies_of(search)
    assert sent
    plan.write_plan(search)
    table.TrialsCsv(state).write()
    sent.send()
    (search.folder / journal.FILE).write_text("{}\n")
    sent.close()
    for name in (plan.FILE, table.FILE, journal.FILE):
        assert bucket.get(f"out/lr.search/{name}") == (search.folder / name).read_bytes()
    assert copies.copies_of(new_plan()) is None


def test_a_bucket_that_is_away_is_a_warning_and_only_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def put(*_: object, **__: object) -> None:
        raise StorageError("gs://bucket/out does not answer.")

    monkeypatch.setattr("trainer.search.copies.storage.put", put)
    search = new_plan(output="gs://bucket/out")
    plan.write_plan(search)
    sent = copies.copies_of(search)
    assert sent
    sent.send_changed()
    sent.send()
    sent.close()
    said = capsys.readouterr().out
    assert said.count("warning") == 1
    assert "The search goes on, but its files cannot be copied to gs://bucket/out/lr.search: gs://bucket" in said
