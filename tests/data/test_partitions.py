"""Folders such as day=2026-01-31/ give their rows a column, patterns match folders, and what is not read is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.servers.bucket import Bucket
from trainer.data import partitions, sources
from trainer.data.dataset import load
from trainer.data.loaded import Dataset
from trainer.data.partitions import with_members
from trainer.data.selection import find_shards
from trainer.inspection.inspect import json_types
from trainer.runtime.errors import DataError, TrainerError

pytestmark = pytest.mark.usefixtures("way")

KINDS = {"x": "number", "day": "category", "country": "category"}


def write(path: Path, *rows: Any, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows).encode())


def plain(dataset: Dataset, column: str) -> list[Any]:
    values = dataset.frame[column]
    return [None if gone else value for gone, value in zip(values.isna(), values.tolist(), strict=True)]


def events(folder: Path) -> Path:
    """Two days in two countries, one of them without a name."""
    number = 0
    for day in ("2026-01-01", "2026-01-02"):
        for country in ("DE", "C%C3%B4te%20d%27Ivoire", partitions.NULL):
            for _ in range(2):
                write(folder / f"day={day}" / f"country={country}" / f"part-{number:05}", {"x": number}, {"x": number})
                number += 1
    return folder


FLAT = [
    {"x": number, "day": f"2026-01-0{1 + number // 6}", "country": ("DE", "Côte d'Ivoire", None)[number // 2 % 3]}
    for number in range(12)
    for _ in range(2)
]


def test_folders_of_a_column_and_its_value_are_read_as_if_the_rows_had_the_column(tmp_path: Path) -> None:
    read = load(events(tmp_path / "events"), KINDS, identity=())
    write(tmp_path / "flat.json", *FLAT)
    flat = load(tmp_path / "flat.json", KINDS, identity=())
    for column in KINDS:
        assert sorted(map(str, plain(read, column))) == sorted(map(str, plain(flat, column)))
    order = np.argsort(read.frame["x"], kind="stable")
    assert [plain(read, "country")[row] for row in order] == plain(flat, "country")
    np.testing.assert_array_equal(np.sort(read.draws), np.sort(flat.draws))  # so that each row is on the same side
    assert read.shards[0].name == "day=2026-01-01/country=C%C3%B4te%20d%27Ivoire/part-00002"


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("events/day=2026-01-01", 12),
        ("events/day=2026-01-01/country=DE", 4),
        ("events/day=2026-01-01/country=DE/part-00000", 2),
        ("events/day=*", 24),
        ("events/day=*/country=DE", 8),
        ("events/*/country=DE/part-0000[01]", 4),
        ("*", 24),
    ],
)
def test_a_part_of_them_has_the_same_columns(tmp_path: Path, path: str, rows: int) -> None:
    events(tmp_path / "events")
    read = load(tmp_path / path, KINDS)
    assert read.rows == rows
    assert "2026-01-01" in plain(read, "day")
    assert "DE" in plain(read, "country")
    assert sources.look_up(str(tmp_path / path)).unread == ()


def test_a_bucket_is_read_like_folders(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = events(tmp_path / "events")
    for file in folder.rglob("part-*"):
        bucket.put(f"events/{file.relative_to(folder)}", gzip.compress(file.read_bytes()))
    bucket.put("events/more/part-00000", b"{}\n")
    bucket.put("events/notes.txt", b"{}\n")
    bucket.put("events/_SUCCESS", b"")
    bucket.put("schema.json", json.dumps({"type": "object"}).encode())
    for path in (
        "",
        "day=2026-01-01/",
        "day=2026-01-01/country=DE/part-00000",
        "day=*/country=DE",
        "*/*/part-0000[1-5]",
    ):
        source = sources.look_up(f"{bucket.uri}/events/{path}")
        assert source.unread == (() if path else ("more/", "notes.txt"))
        assert sources.fields_of(source) is None
        here = load(folder / path, KINDS, identity=())
        with sources.local(source, Path("cache"), 10**9) as copy:
            read = load(copy, KINDS, identity=())
        sources.check_rows(source, read)
        assert [shard.name for shard in read.shards] == [shard.name for shard in here.shards]
        np.testing.assert_array_equal(read.draws, here.draws)


def test_what_the_rows_say_themselves_counts(tmp_path: Path) -> None:
    write(
        tmp_path / "day=1" / "a.json", {"x": 1, "day": "own"}, {"x": 2}, {"x": 3, "day": None}, {"x": 4, "t": '"day":'}
    )
    write(tmp_path / "day=1" / "b.json", {"x": 5})
    read = load(tmp_path, {"x": "number", "day": "category"})
    assert plain(read, "day") == ["own", "1", None, "1", "1"]


def test_other_ways_to_write_lines(tmp_path: Path) -> None:
    rows = ["{}", "{ }", '{"x": 1}', '{"x": 2} ', "", '{"x": {"a": {}}}', '{"x": "}"}']
    for end in ("\n", "\r\n"):
        write(tmp_path / "day=1" / "a.json", *rows, end=end)
        lines = (tmp_path / "day=1" / "a.json").read_bytes()
        for text in (lines, lines.removesuffix(b"\n")):
            added = with_members(text, partitions.members_of(tmp_path / "day=1"))
            parsed = [json.loads(line) for line in added.split(b"\n") if line.strip()]
            assert parsed == [json.loads(row) | {"day": "1"} for row in rows if row]
            assert added.count(b"\n") == len(rows)
    write(tmp_path / "day=1" / "a.json", '{"x": 1}', "{broken", '{"x": 2')
    with pytest.raises(DataError, match=r"a\.json, line 2: not a JSON object"):
        load(tmp_path, {"x": "number", "day": "category"})


@pytest.mark.parametrize(("kind", "value"), [("number", "5"), ("time", "2026-01-01"), ("key", "5"), ("class", "5")])
def test_the_value_means_what_it_means_as_text(tmp_path: Path, kind: str, value: str) -> None:
    write(tmp_path / f"p={value}" / "a.json", {"x": 1}, {"x": 2})
    write(tmp_path / "flat" / "a.json", {"x": 1, "p": value}, {"x": 2, "p": value})
    kinds = {"x": "number", "p": kind}
    assert load(tmp_path / f"p={value}", kinds).frame.equals(load(tmp_path / "flat", kinds).frame)


def test_a_schema_may_lie_above_the_folders_and_lack_their_column(tmp_path: Path) -> None:
    events(tmp_path / "events")
    for place in ("events", "events/day=2026-01-01"):
        file = tmp_path / place / "schema.json"
        file.write_text(json.dumps([{"name": "x", "type": "FLOAT"}]))
        assert load(tmp_path / "events" / "day=2026-01-01", KINDS).rows == 12
        with pytest.raises(DataError, match=r"schema\.json has no column 'y'"):
            load(tmp_path / "events" / "day=2026-01-01", {"y": "number"})
        file.unlink()


def test_a_foreign_schema_above_is_left_out_and_one_beside_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "a.json", {"x": 1})
    foreign = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"})
    (tmp_path / "schema.json").write_text(foreign)
    assert load(tmp_path / "rows", {"x": "number"}).rows == 1
    assert sources.fields_of(sources.look_up(str(tmp_path / "rows"))) is None
    (tmp_path / "schema.json").write_text(foreign[:-1])
    with pytest.raises(DataError, match="is not the list of fields"):
        load(tmp_path / "rows", {"x": "number"})
    (tmp_path / "schema.json").unlink()
    (tmp_path / "rows" / "schema.json").write_text(foreign)
    with pytest.raises(DataError, match="remove it"):
        load(tmp_path / "rows", {"x": "number"})


@pytest.mark.parametrize("name", ["dataset.json", "schema.json", "rows[1].json", "rows", "it.truth.json", ".hidden"])
def test_a_file_that_is_named_holds_rows_whatever_its_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, {"x": 1}, {"x": 2})
    source = sources.look_up(str(tmp_path / name))
    assert (source.unread, source.inventories, sources.fields_of(source)) == ((), (), None)
    assert load(tmp_path / name, {"x": "number"}).rows == 2


def test_a_folder_of_nothing_but_such_a_file_says_how_to_read_it(tmp_path: Path) -> None:
    write(tmp_path / "dataset.json", {"x": 1})
    with pytest.raises(DataError, match=r"If dataset\.json holds rows, name the file itself"):
        sources.look_up(str(tmp_path))


def test_what_a_folder_holds_and_is_not_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "a.json",
        "part-00001",
        "day=1/b.json.gz",
        "more/c.json",
        "d.JSON",
        "e.txt",
        "f.json.zst",
        "day=1/g.csv",
    ):
        write(tmp_path / name, {"x": 1})
    for name in ("_SUCCESS", ".a.json.crc", "README.md", "a.truth.json", "make.py", ".cache/x.json", "empty/.keep"):
        write(tmp_path / name, "")
    source = sources.look_up(str(tmp_path))
    assert [Path(stored.uri).name for stored in source.shards] == ["a.json", "b.json.gz", "part-00001"]
    assert source.unread == ("d.JSON", "day=1/g.csv", "e.txt", "f.json.zst", "more/")
    line = capsys.readouterr().out
    assert line.startswith(
        f"warning  Not read in {tmp_path}: d.JSON, day=1/g.csv, e.txt, f.json.zst, more/. Rows are *.json"
    )
    assert sources.look_up(str(tmp_path / "*.json")).unread == ()


def test_a_pattern_of_folders_reads_what_lies_in_them(tmp_path: Path) -> None:
    for folder in ("a1", "a2", "b1"):
        write(tmp_path / folder / "rows.json", {"x": folder})
    write(tmp_path / "a3.json", {"x": "a3"})
    kinds = {"x": "key"}
    assert plain(load(tmp_path / "a?", kinds), "x") == ["a1", "a2"]
    assert plain(load(tmp_path / "a*", kinds), "x") == ["a3"]  # a file: folders are not meant
    with pytest.raises(TrainerError):
        load(tmp_path / "c*", kinds)


def test_a_file_is_read_once_in_however_many_ways_a_path_leads_to_it(tmp_path: Path) -> None:
    """`**` matches a folder and those in it, and links lead to files and folders again."""
    write(tmp_path / "rows" / "day=1" / "country=DE" / "part-00000", {"x": 1})
    write(tmp_path / "rows" / "day=2" / "rows-01.gz", {"x": 2})
    write(tmp_path / "rows" / "a.json", {"x": 3})
    (tmp_path / "rows" / "z.json").symlink_to("a.json")
    (tmp_path / "rows" / "day=3").symlink_to(".")
    (tmp_path / "rows-latest").symlink_to("rows")
    for path in ("rows", "rows/**", "rows*", "**"):
        assert sorted(plain(load(tmp_path / path, {"x": "number"}), "x")) == [1, 2, 3]
        assert len(sources.look_up(str(tmp_path / path)).shards) == 3


def test_a_column_in_two_folders_and_a_name_that_is_no_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "day=2" / "a.json", {"x": 1})
    with pytest.raises(DataError, match="'day' twice"):
        load(tmp_path, {"x": "number"})
    with pytest.raises(DataError, match="not UTF-8"):
        partitions.members_of(Path("day=\udcff"))


def test_renaming_a_folder_changes_the_dataset(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "a.json", {"x": 1})
    before = sources.look_up(str(tmp_path)).identity
    (tmp_path / "day=1").rename(tmp_path / "day=2")
    assert sources.look_up(str(tmp_path)).identity != before


def test_check_data_names_the_type_of_the_column(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "a.json", {"x": 1})
    assert json_types(find_shards(tmp_path)) == {"day": "string", "x": "integer"}
