"""An export has exactly the rows of its table or query and is made once, whatever goes wrong meanwhile.

The numbers R13 to D58 in test names are those of the faults and of the bad data that an export must survive.
"""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests import commands
from tests.scale import many
from tests.servers.bigquery import Service, export_line, parsed
from tests.servers.bigquery import translated as to_duckdb
from tests.servers.bucket import Bucket
from trainer.bigquery import client as client_of_bigquery
from trainer.bigquery import export
from trainer.bigquery.request import sample_query
from trainer.cloud import retries, storage
from trainer.data import dataset_manifest
from trainer.data.dataset import load
from trainer.runtime import system
from trainer.runtime.errors import ConfigError, DataError, Interrupted, StorageError, TrainerError

STANDARD = Path(__file__).parent / "standard_export"
CLICKS = "CREATE TABLE web.clicks (row_id INT64 NOT NULL, item STRING, day DATE, clicked BOOL, price NUMERIC)"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_of_bigquery, "FIRST_POLL", 0.001)
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


@pytest.fixture
def clicks(bigquery: Service) -> Service:
    """A service with a table of 100 rows."""
    bigquery.execute(CLICKS)
    bigquery.insert("web.clicks", [click(number) for number in range(100)])
    return bigquery


def click(number: int) -> dict[str, Any]:
    item = None if number % 7 == 0 else f"item <{number % 5}>"
    day, price = date(2026, 11, 1 + number % 20), Decimal(number).scaleb(-2)
    return {"row_id": number, "item": item, "day": day, "clicked": number % 3 == 0, "price": price}


def dataset_json(place: str) -> dict[str, Any]:
    """The content of dataset.json."""
    content: dict[str, Any] = json.loads(storage.read(storage.join(place, "dataset.json")))
    return content


def lines_of(place: str) -> list[bytes]:
    """The lines of an export, sorted, after its shards were checked against its dataset.json."""
    shards = [stored for stored in storage.entries(place) if export.SHARD.fullmatch(export.name_of(stored))]
    dataset_manifest.check_shards(dataset_manifest.inventories(shards), shards, complete=True)
    return sorted(line for shard in shards for line in gzip.decompress(storage.read(shard.uri)).splitlines(True))


def expected(service: Service, table: str = "web.clicks") -> list[bytes]:
    return sorted(export_line(row, service.fields(table)) for row in service.rows(table))


def row_ids(place: str) -> list[int]:
    return sorted(int(json.loads(line)["row_id"]) for line in lines_of(place))


def error_of(error: type[TrainerError], *arguments: str) -> str:
    with pytest.raises(error) as caught:
        export.main(list(arguments))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def sql_file(folder: Path, text: str) -> str:
    (folder / "query.sql").write_text(text)
    return f"--sql={folder / 'query.sql'}"


# What is exported


def test_a_table_is_exported_completely_and_without_a_query(clicks: Service, bucket: Bucket) -> None:
    to = f"{bucket.uri}/november/"
    export.main(["--table=test.web.clicks", f"--to={to}"])
    assert lines_of(to) == expected(clicks)
    record = dataset_json(to)
    assert (record["rows"], record["bytes_billed"], record["jobs"]["query"]) == (100, 0, None)
    assert [shard["name"] for shard in record["shards"]] == [f"rows-{number:012}.json.gz" for number in range(3)]
    assert record["export"]["table"] == "test.web.clicks"
    assert json.loads(storage.read(f"{to}schema.json")) == clicks.fields("web.clicks")
    assert (clicks.started("query"), len(clicks.started("extract"))) == ([], 1)


def test_a_query_is_exported_with_its_parameters_and_dates(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    sql = """
        -- what the model trains on
        SELECT row_id, item, IF(clicked, 1, 0) AS label FROM `test.web.clicks`
        WHERE day >= @since AND day < @until AND price < @dear AND item != @not_this
          AND row_id > @first AND clicked = @yes
    """
    to = f"{bucket.uri}/chosen"
    values = ("dear:NUMERIC=0.9", "not_this=item <2>", "first=10", "yes=true")
    days = ("--since=2026-11-03", "--until=2026-11-15")
    export.main([sql_file(tmp_path, sql), f"--to={to}", *days, *(f"--param={value}" for value in values)])
    rows = [click(number) for number in range(100)]
    wanted = [
        row["row_id"]
        for row in rows
        if date(2026, 11, 3) <= row["day"] < date(2026, 11, 15) and row["price"] < Decimal("0.9")
        if row["item"] not in (None, "item <2>") and row["row_id"] > 10 and row["clicked"]
    ]
    assert row_ids(to) == wanted
    assert wanted
    record = dataset_json(to)
    parameters = record["export"]["request"]["parameters"]
    assert parameters["since"] == ["DATE", "2026-11-03"]
    assert {name: kind for name, (kind, _) in parameters.items()} == {
        "dear": "NUMERIC", "not_this": "STRING", "first": "INT64", "yes": "BOOL", "since": "DATE", "until": "DATE",
    }  # fmt: skip
    assert (record["rows"], record["export"]["request"]["sql"]) == (len(wanted), sql)
    assert record["bytes_billed"] >= record["bytes_processed"] > 0
    assert clicks.started("query") == [record["jobs"]["query"]]


def test_a_view_and_a_table_with_a_streaming_buffer_need_a_query(clicks: Service, bucket: Bucket) -> None:
    clicks.execute("CREATE VIEW web.some AS SELECT row_id FROM web.clicks WHERE clicked")
    clicks.streaming.add("web.clicks")
    for table, rows in (("some", 34), ("clicks", 100)):
        export.main([f"--table=test.web.{table}", f"--to={bucket.uri}/{table}"])
        assert len(row_ids(f"{bucket.uri}/{table}")) == rows == dataset_json(f"{bucket.uri}/{table}")["rows"]
    assert len(clicks.started("query")) == 2


@pytest.mark.parametrize("narrow", [["--limit=20"], ["--sample=0.3"], ["--sample=0.5", "--limit=10"]])
def test_limit_and_sample_choose_the_same_rows_every_time(clicks: Service, bucket: Bucket, narrow: list[str]) -> None:
    for to in ("first", "second"):
        export.main(["--table=test.web.clicks", f"--to={bucket.uri}/{to}", *narrow])
    chosen = row_ids(f"{bucket.uri}/first")
    assert chosen == row_ids(f"{bucket.uri}/second")
    assert set(chosen) < set(range(100))
    assert len(chosen) == int(narrow[-1].partition("=")[2]) if "--limit" in narrow[-1] else 15 < len(chosen) < 45


def test_a_sample_has_the_right_size_and_is_part_of_every_larger_sample(clicks: Service) -> None:
    numbers = "SELECT x FROM UNNEST(GENERATE_ARRAY(1, 20000)) AS x"
    tenth, half = (
        {x for (x,) in clicks.database.execute(to_duckdb(parsed(sample_query(numbers, 0, share)))).fetchall()}
        for share in (0.1, 0.5)
    )
    assert abs(len(tenth) - 2000) < 200
    assert abs(len(half) - 10_000) < 400
    assert tenth < half


@pytest.mark.parametrize(("limit", "sample"), [(3000, 0.0), (0, 0.3), (3000, 0.5)])
def test_equal_rows_are_chosen_one_by_one(clicks: Service, limit: int, sample: float) -> None:
    """Few contents: their shares in the sample are those of the table."""
    rows = "SELECT MOD(x, 4) AS device, MOD(x, 10) < 3 AS clicked FROM UNNEST(GENERATE_ARRAY(1, 10000)) AS x"
    sql = sample_query(rows, limit, sample)
    chosen = clicks.database.execute(to_duckdb(parsed(sql))).fetchall()
    assert {len(row) for row in chosen} == {2}
    assert len(chosen) == limit or abs(len(chosen) - 3000) < 4 * np.sqrt(10_000 * 0.3 * 0.7)
    assert abs(sum(clicked for _, clicked in chosen) / len(chosen) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 3000)
    for device in range(4):
        assert abs(sum(row[0] == device for row in chosen) / len(chosen) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 3000)


def test_a_folder_gets_the_same_files_as_a_bucket_and_the_staging_is_emptied(
    clicks: Service, bucket: Bucket, tmp_path: Path
) -> None:
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/remote"])
    local = tmp_path / "rows"
    export.main(["--table=test.web.clicks", f"--to={local}/", f"--staging={bucket.uri}/staging"])
    assert bucket.names("staging") == []
    files = {path.name: path.read_bytes() for path in local.iterdir()}
    assert files.keys() == {*(f"rows-{number:012}.json.gz" for number in range(3)), *OTHERS}
    assert lines_of(str(local)) == lines_of(f"{bucket.uri}/remote") == expected(clicks)
    assert files["schema.json"] == storage.read(f"{bucket.uri}/remote/schema.json")
    assert load(local, {"row_id": "key"}).rows == 100


OTHERS = {".export.json", "dataset.json", "schema.json"}


def test_a_dry_run_prints_what_would_be_read_and_changes_nothing(
    clicks: Service, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bytes_read = f"{int(clicks.table('web.clicks')['numBytes']):,} bytes"
    everything = sql_file(tmp_path, "SELECT * FROM web.clicks")
    for what, answer in (
        (["--table=web.clicks"], "no query, nothing billed, 100 rows in the table"),
        (["--table=web.clicks", "--limit=5"], f"a query that reads {bytes_read}"),
        ([everything], f"a query that reads {bytes_read}"),
    ):
        for to in ([f"--to={bucket.uri}/a"], [f"--to={tmp_path / 'rows'}", f"--staging={bucket.uri}/b"]):
            export.main([*what, *to, "--dry-run"])
            assert answer in capsys.readouterr().out
    assert (bucket.names(), sorted(path.name for path in tmp_path.iterdir())) == ([], ["query.sql"])
    assert clicks.jobs == {}


# Any rows of any types

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
ANY_ROW = st.fixed_dictionaries(
    {"k": st.integers(-(2**63), 2**63 - 1)},
    optional={
        "s": TEXTS,
        "f": st.floats(allow_infinity=False, width=32),
        "n": st.decimals(-(10**12), 10**12, places=9),
        "b": st.booleans(),
        "y": st.binary(max_size=9),
        "d": st.dates(),
        "t": st.times(),
        "dt": MOMENTS,
        "ts": MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
        "l": st.lists(TEXTS, max_size=3),
    },
)
ANY_TABLE = (
    "CREATE TABLE any.rows_{} (k INT64 NOT NULL, s STRING, f FLOAT64, n NUMERIC, b BOOL, y BYTES, d DATE, t TIME, "
    "dt DATETIME, ts TIMESTAMP, l ARRAY<STRING>)"
)
KINDS = {
    "k": "key", "s": "text", "f": "number", "n": "number", "b": "category", "y": "category", "d": "time",
    "t": "category", "dt": "time", "ts": "time", "l": "categories",
}  # fmt: skip


@seed(0)
@settings(max_examples=many(12, 300), deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(rows=st.lists(ANY_ROW, min_size=1, max_size=20, unique_by=lambda row: row["k"]))
def test_any_rows_are_read_exactly_as_they_are_in_the_table(
    bigquery: Service, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    name = uuid.uuid4().hex
    bigquery.execute(ANY_TABLE.format(name))
    bigquery.insert(f"any.rows_{name}", rows)
    folder = tmp_path_factory.mktemp("rows")
    export.main([f"--table=any.rows_{name}", f"--to={folder}", f"--staging={bucket.uri}/staging"])
    frame = load(folder, KINDS).frame.set_index("k")
    assert sorted(frame.index) == sorted(str(row["k"]) for row in rows)
    for row in rows:
        for column, read in frame.loc[str(row["k"])].items():
            assert same(read, row.get(str(column)), str(column)), (column, read, row.get(str(column)))


def same(read: Any, value: Any, column: str) -> bool:
    """Whether a value that was read equals the value in the table."""
    if column == "l":
        return list(read) == list(value or [])
    if value is None or value != value:
        return bool(pd.isna(read))
    if column in ("f", "n"):
        return np.float64(read).tobytes() == np.float64(value).tobytes()
    if column in ("d", "dt", "ts"):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time_of_day())
        return bool(read == pd.Timestamp(moment).as_unit("us"))
    written = json.loads(export_line({"x": value}, [{"name": "x", "type": "", "mode": ""}]))["x"]
    return bool(read == (str(written).lower() if column == "b" else written))


# The formats of a real export, as in the files of standard_export


def standard_rows() -> list[dict[str, Any]]:
    """The values behind the rows in tests/bigquery/standard_export."""
    moment = datetime(2024, 2, 29, 12, 34, 56, 789000)
    place = {"country": "IS", "point": {"lat": 64.15, "lon": -21.95}}
    event = {"name": "seen", "at": moment.replace(tzinfo=UTC), "shares": [0.5, 1.0]}
    full = {
        "whole": 9007199254740993, "fraction": 0.1, "decimal": Decimal("12.5"), "flag": True,
        "big_decimal": Decimal("0.000000000000000001"), "title": "<b>Fish & \"chips\"</b> \\ 日本 😀\n\u2028'=",
        "raw": b"\x00\xff\x10abc", "day": date(2024, 2, 29),
        "hour": time_of_day(12, 34, 56, 789000), "local": moment, "at": moment.replace(tzinfo=UTC),
        "tags": ["a&b", ""], "numbers": [1, -2], "place": place,
        "events": [event, {"name": "left", "at": None, "shares": []}],
    }  # fmt: skip
    least = {
        "whole": -(2**63), "fraction": -0.0, "flag": False, "title": "",
        "decimal": Decimal("-99999999999999999999999999999.999999999"), "raw": b"",
        "day": date(1, 1, 1), "hour": time_of_day(0, 0), "local": datetime(1, 1, 1),
        "at": datetime(1, 1, 1, tzinfo=UTC), "place": {"country": None, "point": None},
    }  # fmt: skip
    most = {
        "whole": 2**63 - 1, "fraction": float("nan"), "decimal": Decimal("1000"), "title": "NaN",
        "day": date(9999, 12, 31), "hour": time_of_day(23, 59, 59, 999999),
        "local": datetime(9999, 12, 31, 23, 59, 59, 999999),
        "at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "numbers": [2**63 - 1],
    }  # fmt: skip
    rows = [{}, full, least, most, {"infinite": float("inf")}, {"infinite": float("-inf")}]
    return [{"id": number, **row} for number, row in enumerate(rows)]


STANDARD_TABLE = """
    CREATE TABLE standard.types (
      id INT64 NOT NULL, whole INT64, fraction FLOAT64, infinite FLOAT64, decimal NUMERIC, big_decimal BIGNUMERIC,
      flag BOOL, title STRING, raw BYTES, day DATE, hour TIME, local DATETIME, at TIMESTAMP, tags ARRAY<STRING>,
      numbers ARRAY<INT64>, place STRUCT<country STRING, point STRUCT<lat FLOAT64, lon FLOAT64>>,
      events ARRAY<STRUCT<name STRING, at TIMESTAMP, shares ARRAY<FLOAT64>>>)
"""


def test_the_service_writes_the_standard_export_byte_for_byte(bigquery: Service, bucket: Bucket) -> None:
    bigquery.execute(STANDARD_TABLE)
    bigquery.insert("standard.types", standard_rows())
    to = f"{bucket.uri}/standard"
    export.main(["--table=standard.types", f"--to={to}"])
    (standard,) = STANDARD.glob("rows-*.json")
    assert lines_of(to) == sorted(standard.read_bytes().splitlines(True))
    assert json.loads(storage.read(f"{to}/schema.json")) == json.loads((STANDARD / "schema.json").read_bytes())


def test_the_standard_export_is_read_as_the_values_behind_it() -> None:
    kinds = {
        "id": "key", "whole": "key", "fraction": "number", "decimal": "number", "flag": "category", "title": "text",
        "raw": "category", "day": "time", "hour": "category", "local": "time", "at": "time", "tags": "categories",
        "numbers": "categories", "big_decimal": "number",
    }  # fmt: skip
    dataset = load(STANDARD, kinds)
    frame = dataset.frame.set_index("id")
    utc = "UTC"

    def column(name: str) -> list[Any]:
        return [None if missing else value for missing, value in zip(frame[name].isna(), frame[name], strict=True)]

    assert list(frame.index) == ["0", "1", "2", "3", "4", "5"]
    assert column("whole") == [None, "9007199254740993", str(-(2**63)), str(2**63 - 1), None, None]
    assert column("fraction") == [None, 0.1, -0.0, None, None, None]
    assert np.signbit(frame["fraction"].iloc[2])
    assert column("decimal") == [None, 12.5, -1e29, 1000.0, None, None]
    assert column("big_decimal")[1] == 1e-18
    assert column("flag") == [None, "true", "false", None, None, None]
    assert column("title") == [None, '<b>Fish & "chips"</b> \\ 日本 😀\n\u2028\'=', "", "NaN", None, None]
    assert column("raw") == [None, "AP8QYWJj", "", None, None, None]
    assert column("hour") == [None, "12:34:56.789", "00:00:00", "23:59:59.999999", None, None]
    moments = ["2024-02-29 12:34:56.789", "0001-01-01", "9999-12-31 23:59:59.999999"]
    assert column("day")[1:4] == [pd.Timestamp(moment).normalize().as_unit("us") for moment in moments]
    assert column("local")[1:4] == [pd.Timestamp(moment).as_unit("us") for moment in moments]
    assert column("at")[1:4] == [pd.Timestamp(moment, tz=utc).as_unit("us") for moment in moments]
    assert [list(tags) for tags in frame["tags"]] == [[], ["a&b", ""], [], [], [], []]
    assert [list(numbers) for numbers in frame["numbers"]] == [[], ["1", "-2"], [], [str(2**63 - 1)], [], []]
    shards = [stored for stored in storage.entries(str(STANDARD)) if stored.uri.endswith("0.json")]
    inventories = dataset_manifest.inventories(shards)
    dataset_manifest.check_shards(inventories, shards, complete=True)
    dataset_manifest.check_rows(inventories, shards, dataset.shards, dataset.rows_read, complete=True)
    with pytest.raises(DataError, match="line 5: column 'infinite' is infinite"):
        load(STANDARD, {"infinite": "number"})
    with pytest.raises(DataError, match="'place' is NULLABLE RECORD"):
        load(STANDARD, {"place": "category"})


# Each export has its own place


def test_R13_the_same_command_again_changes_nothing_and_sends_no_request(
    clicks: Service, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--table=test.web.clicks", f"--to={bucket.uri}/rows"]
    export.main(command)
    before = [(stored.uri, stored.generation) for stored in storage.entries(f"{bucket.uri}/rows")]
    clicks.insert("web.clicks", [click(100)])
    clicks.requests.clear()
    export.main(command)
    assert clicks.requests == []
    assert "100 rows, exported 20" in capsys.readouterr().out
    assert [(stored.uri, stored.generation) for stored in storage.entries(f"{bucket.uri}/rows")] == before
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/newer"])
    assert dataset_json(f"{bucket.uri}/newer")["rows"] == 101


def test_R13_another_export_never_goes_to_the_same_place(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/rows"])
    names = bucket.names()
    assert "holds another export" in error_of(
        StorageError, "--table=web.clicks", "--limit=9", f"--to={bucket.uri}/rows"
    )
    bucket.put("mixed/rows-000000000007.json.gz", b"old")
    assert "'rows-000000000007.json.gz'" in error_of(
        StorageError, "--table=test.web.clicks", f"--to={bucket.uri}/mixed"
    )
    (tmp_path / "notes.txt").write_text("mine")
    message = error_of(StorageError, "--table=web.clicks", f"--to={tmp_path}", f"--staging={bucket.uri}/s")
    assert "holds 'notes.txt'" in message
    assert bucket.names() == sorted([*names, "mixed/rows-000000000007.json.gz"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_R13_a_table_that_changes_during_its_extraction_is_refused_and_then_extracted_again(
    clicks: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clicks.polls = 0
    extract = clicks.extract

    def changed_meanwhile(resource: dict[str, Any]) -> None:
        extract(resource)
        clicks.insert("web.clicks", [click(100)])

    monkeypatch.setattr(clicks, "extract", changed_meanwhile)
    command = ["--table=test.web.clicks", f"--to={bucket.uri}/rows"]
    assert "test.web.clicks changed after its extraction began" in error_of(DataError, *command)
    assert "rows/dataset.json" not in bucket.names()
    monkeypatch.setattr(clicks, "extract", extract)
    clicks.shards = 2
    export.main(command)
    assert "of an earlier command cannot be used" in capsys.readouterr().out
    assert row_ids(f"{bucket.uri}/rows") == list(range(101))
    assert [shard["name"] for shard in dataset_json(f"{bucket.uri}/rows")["shards"]] == [
        "rows-2-000000000000.json.gz", "rows-2-000000000001.json.gz",
    ]  # fmt: skip
    assert len(bucket.names("rows/rows-")) == 2


def test_D24_an_empty_shard_is_not_kept(
    clicks: Service, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = clicks.extract

    def one_more(resource: dict[str, Any]) -> None:
        extract(resource)
        bucket.put("rows/rows-000000000003.json.gz", b"")
        resource["statistics"]["extract"]["destinationUriFileCounts"] = ["4"]

    monkeypatch.setattr(clicks, "extract", one_more)
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/rows"])
    assert len(dataset_json(f"{bucket.uri}/rows")["shards"]) == len(bucket.names("rows/rows-")) == 3
    assert lines_of(f"{bucket.uri}/rows") == expected(clicks)


def test_a_shard_that_is_missing_in_the_bucket_is_noticed(
    clicks: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = clicks.extract

    def lost(resource: dict[str, Any]) -> None:
        extract(resource)
        storage.delete(f"{bucket.uri}/rows/rows-000000000001.json.gz")

    monkeypatch.setattr(clicks, "extract", lost)
    message = error_of(StorageError, "--table=test.web.clicks", f"--to={bucket.uri}/rows")
    assert "wrote 3 shards, but 2 exist" in message
    monkeypatch.setattr(clicks, "extract", extract)
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/rows"])
    assert lines_of(f"{bucket.uri}/rows") == expected(clicks)


def test_D25_zero_rows_are_refused_and_leave_the_place_free(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    clicks.execute("CREATE TABLE web.empty (x INT64)")
    to = f"--to={bucket.uri}/rows"
    assert "test.web.empty has 0 rows" in error_of(DataError, "--table=web.empty", to)
    query = sql_file(tmp_path, "SELECT row_id FROM web.clicks WHERE row_id > 1000")
    assert "The query gives 0 rows" in error_of(DataError, query, to)
    assert (bucket.names(), clicks.started("extract")) == ([], [])
    export.main([sql_file(tmp_path, "SELECT row_id FROM web.clicks WHERE row_id > 90"), to])
    assert row_ids(f"{bucket.uri}/rows") == list(range(91, 100))


def test_a_copy_of_an_export_does_not_change_the_original(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    export.main(["--table=test.web.clicks", f"--to={bucket.uri}/rows"])
    names = bucket.names()
    for name in names:
        (tmp_path / name.partition("/")[2]).write_bytes(bucket.get(name))
    export.main(["--table=test.web.clicks", f"--to={tmp_path}", f"--staging={bucket.uri}/staging"])
    (tmp_path / "dataset.json").unlink()
    message = error_of(StorageError, "--table=test.web.clicks", f"--to={tmp_path}", f"--staging={bucket.uri}/staging")
    assert "a copy of an export" in message
    assert bucket.names() == names


def test_sql_that_others_wrote_into_the_place_is_never_run(clicks: Service, bucket: Bucket) -> None:
    command = ["--table=web.clicks", "--limit=40", f"--to={bucket.uri}/rows"]
    clicks.failures.append(("query", "backendError", "Error"))
    error_of(StorageError, *command)
    claim = json.loads(bucket.get("rows/.export.json"))
    storage.put(
        json.dumps(claim | {"sql": "SELECT 1 AS row_id"}).encode(), f"{bucket.uri}/rows/.export.json", replace=True
    )
    export.main(command)
    assert len(row_ids(f"{bucket.uri}/rows")) == 40


@pytest.mark.parametrize("name", [".export.json", "dataset.json"])
@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"format_version": 1, "export": 1}'])
def test_a_place_with_a_damaged_record_is_not_changed(clicks: Service, bucket: Bucket, name: str, text: bytes) -> None:
    bucket.put(f"rows/{name}", text)
    message = error_of(DataError, "--table=web.clicks", f"--to={bucket.uri}/rows")
    assert f"{bucket.uri}/rows/{name} is damaged, or not from an export" in message
    assert (bucket.names(), clicks.jobs) == ([f"rows/{name}"], {})


# Faults during an export

FAULTS = [
    (what, method, path)
    for what in ("lost", "503", "reset", "429")
    for method, path in (("", ""), ("POST", "/jobs"), ("GET", "query_1"), ("GET", "extract_1"), ("GET", "/tables/"))
]


def test_R14_lost_responses_and_faults_give_one_export(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    query = sql_file(tmp_path, "SELECT * FROM web.clicks WHERE row_id < 50")
    assert len(FAULTS) == 20
    for number, (what, method, path) in enumerate(FAULTS):
        clicks.jobs.clear()
        clicks.faults.next(what, what, method=method, path=path)  # for the request of the dry run, too
        export.main([query, f"--to={bucket.uri}/{number}"])
        assert clicks.faults.waiting == []
        assert row_ids(f"{bucket.uri}/{number}") == list(range(50))
        assert (len(clicks.started("query")), len(clicks.started("extract"))) == (1, 1)


def test_R14_every_response_to_the_start_of_a_job_may_be_lost(clicks: Service, bucket: Bucket) -> None:
    clicks.faults.next(*["lost"] * 5, path="/jobs")
    export.main(["--table=web.clicks", "--limit=30", f"--to={bucket.uri}/rows"])
    assert len(row_ids(f"{bucket.uri}/rows")) == 30
    assert (len(clicks.started("query")), len(clicks.started("extract"))) == (1, 1)


def test_two_commands_at_once_make_one_export(clicks: Service, bucket: Bucket) -> None:
    command = ["--table=web.clicks", "--sample=0.5", f"--to={bucket.uri}/rows"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(export.main, [command] * 4))
    assert lines_of(f"{bucket.uri}/rows")
    assert (len(clicks.started("query")), len(clicks.started("extract"))) == (1, 1)


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that makes the n-th change from now on raise KilledError; 0: none does."""

    def die(*_: object) -> None:
        raise KilledError

    def at(change: int) -> None:
        monkeypatch.setattr(system, "_changes", itertools.count(1))
        monkeypatch.setenv(system.FAULT, f"die:{change}")

    before = signal.signal(signal.SIGUSR1, die)
    monkeypatch.setitem(system.FAULTS, "die", signal.SIGUSR1)
    yield at
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("local", [False, True], ids=["bucket", "folder"])
def test_an_export_that_dies_at_any_change_is_completed_by_the_next_command(
    clicks: Service, bucket: Bucket, tmp_path: Path, mortal: Callable[[int], None], local: bool
) -> None:
    for change in itertools.count(1, many(5, 1) if local else 1):
        to = str(tmp_path / f"rows{change}") if local else f"{bucket.uri}/rows{change}"
        staging = [f"--staging={bucket.uri}/staging"] if local else []
        command = ["--table=web.clicks", "--limit=40", f"--to={to}", *staging]
        clicks.jobs.clear()
        mortal(change)
        try:
            export.main(command)
            break
        except KilledError:
            mortal(0)
        if storage.find(f"{to}/dataset.json"):
            assert len(row_ids(to)) == 40
        elif storage.find(f"{to}/.export.json"):
            with pytest.raises(DataError, match="unfinished export"):
                dataset_manifest.inventory_of(to)
        export.main(command)
        assert len(row_ids(to)) == 40
        assert (len(clicks.started("query")), len(clicks.started("extract"))) == (1, 1)
        assert [name for name in bucket.names("staging") if ".probe" not in name] == []
    assert change >= 8


def cloud_environment() -> dict[str, str]:
    """The environment variables for a process that was forked before they were set."""
    names = (
        "STORAGE_EMULATOR_HOST",
        "BIGQUERY_EMULATOR_HOST",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_CLOUD_PROJECT",
    )
    return {name: os.environ[name] for name in names}


def test_a_killed_export_is_completed_by_the_next_command(
    clicks: Service, bucket: Bucket, tmp_path: Path, record_property: Any
) -> None:
    kills = many([5], list(range(1, 16)))
    for number in kills:
        command = ["--table=web.clicks", "--limit=40", f"--to={bucket.uri}/rows{number}"]
        variables = cloud_environment() | {system.FAULT: f"kill:{number}"}
        done = commands.trainer(tmp_path, *command, module="trainer.bigquery.export", **variables)
        assert done.code in (-signal.SIGKILL, 0)
        done = commands.trainer(tmp_path, *command, module="trainer.bigquery.export", **cloud_environment())
        assert (done.code, done.err) == (0, "")
        assert len(row_ids(f"{bucket.uri}/rows{number}")) == 40
    assert (len(clicks.started("query")), len(clicks.started("extract"))) == (len(kills), len(kills))
    record_property("kills", len(kills))


def test_a_stop_request_leaves_the_job_running_for_the_next_command(
    clicks: Service, bucket: Bucket, tmp_path: Path
) -> None:
    clicks.polls = 10**6
    command = ["--table=web.clicks", "--limit=40", f"--to={bucket.uri}/rows"]
    process = commands.start(tmp_path, *command, module="trainer.bigquery.export", **cloud_environment())
    for _ in range(600):
        if clicks.jobs:
            break
        time.sleep(0.05)
    time.sleep(0.2)
    assert process.pid
    os.kill(process.pid, signal.SIGINT)
    done = commands.finished(tmp_path, process)
    assert done.code == Interrupted.exit_code
    assert "Its job continues in BigQuery. Run the same command again to resume" in done.err
    (job,) = clicks.jobs.values()
    job.polls = clicks.polls = 0
    export.main(command)
    assert len(row_ids(f"{bucket.uri}/rows")) == 40
    assert (len(clicks.started("query")), len(clicks.started("extract"))) == (1, 1)


@pytest.mark.parametrize("kind", ["query", "extract"])
def test_a_failed_job_is_reported_and_started_again_by_the_next_command(
    clicks: Service, bucket: Bucket, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--table=web.clicks", "--limit=40", f"--to={bucket.uri}/rows"]
    clicks.failures.append((kind, "backendError", "Error encountered during execution.\nRetrying may solve it."))
    message = error_of(StorageError, *command)
    assert message.startswith(
        "BigQuery says: Error encountered during execution. Retrying may solve it. Start the same"
    )
    export.main(command)
    (first, second) = clicks.started(kind)
    assert (first[-2:], second[-2:]) == ("_1", "_2")
    assert f"job {first} of an earlier command cannot be used. BigQuery says: Error" in capsys.readouterr().out
    assert len(row_ids(f"{bucket.uri}/rows")) == 40


def test_a_result_that_bigquery_has_deleted_is_made_again(clicks: Service, bucket: Bucket) -> None:
    command = ["--table=web.clicks", "--limit=40", f"--to={bucket.uri}/rows"]
    clicks.failures.append(("extract", "backendError", "Error"))
    error_of(StorageError, *command)
    clicks.database.execute("DROP TABLE _hidden.anon2")
    export.main(command)
    assert len(clicks.started("query")) == 2
    assert len(row_ids(f"{bucket.uri}/rows")) == 40


# Refusals, each with one line


def test_an_sql_error_is_quoted_from_bigquery(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    to = f"--to={bucket.uri}/rows"
    for sql, message in {
        "SELECT row_id\nFROM WHERE x": "Syntax error: Unexpected",
        "SELECT\n  colour FROM web.clicks": "Unrecognized name: colour at [2:3]",
        "SELECT row_id FROM web.clicks WHERE day > @first": "Query parameter 'first' not found at [1:43]",
        "DELETE FROM web.clicks WHERE row_id > 1": "The query must be one SELECT, and is DELETE",
    }.items():
        assert message in error_of(ConfigError, sql_file(tmp_path, sql), to)
    assert "Not found: Table test:web.cliks" in error_of(
        StorageError, sql_file(tmp_path, "SELECT 1 FROM web.cliks"), to
    )
    assert (bucket.names(), clicks.jobs) == ([], {})
    message = error_of(ConfigError, sql_file(tmp_path, "SELECT CAST(item AS INT64) AS x FROM web.clicks"), to)
    assert message.startswith("BigQuery says: ")
    assert bucket.names() == []
    assert len(clicks.rows("web.clicks")) == 100


def test_D58_a_missing_table_is_refused_with_the_most_similar_name(clicks: Service, bucket: Bucket) -> None:
    to = f"--to={bucket.uri}/rows"
    message = error_of(StorageError, "--table=test.web.cliks", to)
    assert message == "There is no table test.web.cliks. Did you mean 'clicks'?"
    assert "There is no table test.wbe.clicks" in error_of(StorageError, "--table=test.wbe.clicks", to)


def test_D58_missing_permissions_and_buckets_are_refused_before_a_job_starts(clicks: Service, bucket: Bucket) -> None:
    clicks.forbidden.add("web.clicks")
    message = error_of(StorageError, "--table=web.clicks", f"--to={bucket.uri}/rows")
    assert "lacks the permission bigquery.tables.get" in message
    clicks.forbidden.clear()
    assert "no-such-bucket" in error_of(StorageError, "--table=web.clicks", "--to=gs://no-such-bucket/rows")
    assert clicks.jobs == {}
    clicks.failures.append(("extract", "accessDenied", "Access Denied: File gs://b/r: Permission denied"))
    message = error_of(StorageError, "--table=web.clicks", f"--to={bucket.uri}/rows")
    assert (
        message == "BigQuery says: Access Denied: File gs://b/r: Permission denied. Ask the owner for the permission."
    )


@pytest.mark.parametrize(
    ("reason", "error", "advice"),
    [
        ("quotaExceeded", StorageError, "later"),
        ("responseTooLarge", ConfigError, "CREATE TABLE"),
        ("resourcesExceeded", ConfigError, "simpler"),
        ("stopped", StorageError, "Start the same command again"),
    ],
)
def test_D58_the_error_of_a_job_says_what_to_do(
    clicks: Service, bucket: Bucket, reason: str, error: type[TrainerError], advice: str
) -> None:
    clicks.failures.append(("query", reason, "Why it is so"))
    message = error_of(error, "--table=web.clicks", "--limit=3", f"--to={bucket.uri}/rows")
    assert message.startswith("BigQuery says: Why it is so. ")
    assert advice in message


def test_missing_credentials_give_one_line_that_says_what_to_do(
    clicks: Service, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    message = error_of(StorageError, "--table=web.clicks", f"--to={bucket.uri}/rows")
    assert "credentials are missing" in message
    assert "gcloud auth application-default login" in message


def test_a_missing_project_is_asked_for(
    clicks: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "GOOGLE_CLOUD_PROJECT" in error_of(ConfigError, "--table=web.clicks", f"--to={bucket.uri}/rows")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")
    export.main(["--table=web.clicks", f"--to={bucket.uri}/rows"])


BUCKET = "--to=gs://bucket/rows"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([BUCKET], "either --table"),
        (["--table=d.t", "--sql=q.sql", BUCKET], "either --table"),
        (["--table=t", BUCKET], "not project.dataset.table"),
        (["--table=d.t$20261101", BUCKET], "not project.dataset.table"),
        (["--table=d.events_*", BUCKET], "wildcards"),
        (["--table=d.`t`; DROP TABLE x", BUCKET], "not project.dataset.table"),
        (["--table=d.t", "--param=a=1", BUCKET], "a table has no parameters"),
        (["--table=d.t", "--since=2026-11-01", BUCKET], "a table has no parameters"),
        (["--table=d.t", "--limit=0", BUCKET], "--limit is 0"),
        (["--table=d.t", "--sample=1.5", BUCKET], "--sample is 1.5"),
        (["--table=d.t", "--sample=nan", BUCKET], "--sample is nan"),
        (["--table=d.t", "--to=rows"], "Add --staging=gs://"),
        (["--table=d.t", "--to=rows", "--staging=other"], "Add --staging=gs://"),
        (["--table=d.t", BUCKET, "--staging=gs://bucket/s"], "BigQuery writes to a bucket directly"),
        (["--table=d.t", "--to=gs://"], "names no bucket"),
        (["--table=d.t", "--to=gs://bucket//rows"], "//"),
        (["--table=d.t", "--to="], "--to is empty"),
        (["--sql=q.sql", "--param=a", BUCKET], "name=value"),
        (["--sql=q.sql", "--param=a:INT=1", BUCKET], "Did you mean 'INT64'?"),
        (["--sql=q.sql", "--param=a:INT64=x", BUCKET], "not a valid INT64"),
        (["--sql=q.sql", "--param=a:BOOL=yes", BUCKET], "not a valid BOOL"),
        (["--sql=q.sql", "--param=a=1", "--param=a=2", BUCKET], "@a is set twice"),
        (["--sql=q.sql", "--param=othr=1", BUCKET], "Did you mean 'other'?"),
        (["--sql=q.sql", "--since=1 November", BUCKET], "not a valid DATE"),
        (["--sql=q.sql", "--since=2026-02-30", BUCKET], "not a valid DATE"),
        (["--sql=q.sql", "--since=2026-11-09", "--until=2026-11-01", BUCKET], "after --until"),
        (["--sql=empty.sql", BUCKET], "is empty"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_any_request(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.sql").write_text("SELECT @a, @since, @until, @other")
    Path("empty.sql").write_text(" \n")
    assert message in error_of(ConfigError, *arguments)


def test_a_missing_sql_file_is_named(tmp_path: Path) -> None:
    assert f"'{tmp_path}/q.sql': No such file" in error_of(StorageError, f"--sql={tmp_path}/q.sql", BUCKET)


def test_the_task_passes_all_options_on(clicks: Service, bucket: Bucket, tmp_path: Path) -> None:
    query = sql_file(tmp_path, "SELECT row_id FROM web.clicks WHERE item = @item AND row_id < @most AND day < @until")
    fab = [Path(sys.executable).with_name("fab"), "-r", Path(export.__file__).parents[2], "dataset"]
    options = ["--param=item=item <1>", "--param=most=50", "--until=2026-11-10", "--limit=3"]
    done = subprocess.run(
        [*fab, query, *options, f"--to={bucket.uri}/rows"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert dataset_json(f"{bucket.uri}/rows")["rows"] == 3


def test_google_libraries_are_imported_only_when_needed() -> None:
    code = "import sys, trainer.bigquery.export; print([name for name in sys.modules if name.startswith('google.') "
    code += "and name.split('.')[1] in ('cloud', 'auth', 'api_core')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.cloud
@pytest.mark.skipif("FLATFAB_CLOUD_BUCKET" not in os.environ, reason="needs a real project, see its docstring")
def test_the_real_service_writes_the_standard_export(tmp_path: Path) -> None:
    """Needs FLATFAB_CLOUD_PROJECT, in which jobs may run, and FLATFAB_CLOUD_BUCKET, which may be written to. It reads
    no table; it writes below its own prefix, which is deleted."""
    os.environ["GOOGLE_CLOUD_PROJECT"] = os.environ["FLATFAB_CLOUD_PROJECT"]
    prefix = f"gs://{os.environ['FLATFAB_CLOUD_BUCKET']}/flatfab-test-{uuid.uuid4().hex}"
    (tmp_path / "query.sql").write_text((STANDARD / "query.sql").read_text())
    try:
        export.main([f"--sql={tmp_path / 'query.sql'}", f"--to={prefix}/rows"])
        (standard,) = STANDARD.glob("rows-*.json")
        rows = [json.loads(line) for line in lines_of(f"{prefix}/rows")]
        assert sorted(rows, key=lambda row: row["id"]) == [
            json.loads(line) for line in standard.read_bytes().splitlines()
        ]
        export.main([f"--sql={tmp_path / 'query.sql'}", f"--to={tmp_path / 'rows'}", f"--staging={prefix}/staging"])
        assert load(tmp_path / "rows", {"id": "key", "whole": "key"}).rows == len(rows)
    finally:
        for stored in storage.entries(f"{prefix}/"):
            storage.delete(stored.uri)
