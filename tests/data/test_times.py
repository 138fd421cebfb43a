"""Times of any unambiguous form mean the moments that the standard library reads in them; others are refused."""

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import times
from trainer.data.columns import to_arrow, to_pandas
from trainer.data.dataset import load
from trainer.data.frames import typed_frame
from trainer.data.schema import Column
from trainer.data.split import split_rows
from trainer.runtime.errors import DataError

pytestmark = pytest.mark.usefixtures("way")

BASE = datetime(2026, 3, 1, tzinfo=UTC)
ZONES = [timezone(timedelta(hours=hours)) for hours in (0, 1, 2, -5.5)]


def read(folder: Path, values: list[Any], **options: Any) -> pd.Series:
    """The column of time that some JSON values give."""
    (folder / "rows.json").write_text("".join(json.dumps({"at": value}) + "\n" for value in values))
    return load(folder / "rows.json", {"at": "time"}, **options).frame["at"]


def refusal(folder: Path, *values: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, list(values))
    return str(caught.value)


def moments(column: pd.Series) -> list[datetime]:
    return [stamp.to_pydatetime(warn=False) for stamp in column]


FORMS = {
    "offsets": lambda at, i: at.astimezone(ZONES[i % 4]).isoformat(),
    "one offset": lambda at, i: at.astimezone(ZONES[1]).isoformat(),
    "compact offsets": lambda at, i: at.astimezone(ZONES[3]).strftime("%Y-%m-%d %H:%M:%S %z"),
    "hours": lambda at, i: at.astimezone(ZONES[2]).strftime("%Y-%m-%dT%H:%M:%S.%f+02"),
    "nanoseconds": lambda at, i: at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z",
    "comma": lambda at, i: at.strftime("%Y-%m-%dT%H:%M:%S,%f+00:00"),
    "basic": lambda at, i: at.strftime("%Y%m%dT%H%M%S.%f") + "Z",
    "basic with offset": lambda at, i: at.astimezone(ZONES[3]).strftime("%Y%m%dT%H%M%S.%f%z"),
    "lower case": lambda at, i: at.strftime("%Y-%m-%dt%H:%M:%S.%fz"),
    "minutes": lambda at, i: at.strftime("%Y-%m-%d %H:%MZ"),
    "GMT": lambda at, i: at.strftime("%Y-%m-%d %H:%M:%S GMT"),
    "in turns": lambda at, i: [at.isoformat(), at.strftime("%Y-%m-%d %H:%M:%S UTC"), at.strftime("%Y%m%dT%H%MZ")][
        i % 3
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_time_with_an_offset_is_its_moment(tmp_path: Path, form: str) -> None:
    wanted = [BASE + timedelta(minutes=7 * i) for i in range(40)]
    column = read(tmp_path, [None, *[FORMS[form](at, i) for i, at in enumerate(wanted)]])
    assert column.dtype == "datetime64[us, UTC]"
    assert column.isna().tolist() == [True] + [False] * 40
    assert moments(column[1:]) == wanted


def test_digits_beyond_microseconds_are_cut_off(tmp_path: Path) -> None:
    column = read(
        tmp_path, ["2026-03-01T00:00:00.1Z", "2026-03-01T00:00:00.123456999Z", "2026-03-01T00:00:00.1234567Z"]
    )
    assert [at.microsecond for at in moments(column)] == [100_000, 123_456, 123_456]


@pytest.mark.parametrize(
    "values",
    [
        ["2026-03-01T10:30:00.000", "2026-03-02", "2026-03-02 00:01", "20260303T0000", "2026-03-03t00:00:00.5"],
        ["2026-03-01", "2026-03-01 00:00:01", "20260301T000002"],
        ["2026-03-01 05", "2026-03-01T06", "20260301T07"],
    ],
)
def test_times_without_offset_may_be_of_several_forms(tmp_path: Path, values: list[str]) -> None:
    column = read(tmp_path, values)
    assert column.dtype == "datetime64[us]"
    assert moments(column) == [datetime.fromisoformat(value.upper()) for value in values]


def test_fractions_are_seconds_and_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    seconds = [1772323200.25, 1772323201, 1772323202.0, "1772323203.5", "1772323204"]
    column = read(tmp_path, seconds)
    assert column.dtype == "datetime64[us, UTC]"
    assert [at.timestamp() for at in moments(column)] == [float(value) for value in seconds]
    whole = read(tmp_path, [1772323200.0, None, 1772323201, "1772323202"])  # as pandas writes them beside a NULL
    assert (str(whole.dtype), whole.tolist()) == ("Int64", [1772323200, pd.NA, 1772323201, 1772323202])
    milliseconds = read(tmp_path, [1772323200000, 2**60, None])
    assert milliseconds.tolist() == [1772323200000, 2**60, pd.NA]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["2026-03-01", "03/01/2026"], "line 2: column 'at' is ambiguous (is the day or the month first?)"),
        (["1.3.2026 10:00"], "is ambiguous (is the day or the month first?)"),
        (["03-01-26"], "is ambiguous (is the day or the month first?)"),
        (["2026-03-01 10:00:00 CET"], "names a time zone"),
        (["2026-03-01 10:00:00 Europe/Berlin"], "names a time zone"),
        (["2026-03-01 10:00:00 UTC", "2026-03-01"], "is a time without an offset to UTC, but the rows before hold"),
        (
            ["2026-03-01", "2026-03-01T10:00:00+01:00"],
            "is a time with an offset, but the rows before hold a",
        ),
        (["2026-03-01", 1772323200], "is a number, but the rows before hold a time without"),
        ([1772323200, "2026-03-01"], "is a time without an offset to UTC, but the rows before hold a number"),
        (["2026-02-30T10:00:00+01:00"], "is a moment that does not exist"),
        (["2026-03-01T10:00:00+24:00"], "is a moment that does not exist"),
        (["9999-12-31T23:59:59-01:00"], "is before the year 1 or after 9999"),
        (["yesterday"], "is no time: write it as 2026-03-31 23:59:59"),
        ([True], "holds a JSON boolean"),
        ([1772323200000.5], "has a fraction, but is no time in seconds"),
        ([1772323200000, 1772323200.5], "Write all times in one unit"),
    ],
)
def test_what_is_ambiguous_or_no_time_is_refused(tmp_path: Path, values: list[Any], reason: str) -> None:
    assert reason in refusal(tmp_path, *values)


@pytest.mark.parametrize("form", ["offsets", "nanoseconds", "fractions"])
def test_a_split_by_time_puts_the_latest_rows_into_the_test_set(tmp_path: Path, form: str) -> None:
    write = FORMS.get(form, lambda at, i: at.timestamp() + 0.25)
    at = [write(BASE + timedelta(hours=i), i) for i in range(200)]
    order = random.Random(5).sample(range(200), 200)
    frame = pd.DataFrame({"at": read(tmp_path, [at[i] for i in order])})
    draws = np.arange(200, dtype=np.uint64)
    cut = split_rows(
        frame, method="time", columns=["at"], draws=draws, test_fraction=0.1, validation_fraction=0.1, seed=0
    )
    assert sorted(order[row] for row in cut.test) == list(range(180, 200))
    assert sorted(order[row] for row in cut.validation) == list(range(160, 180))


def test_a_schema_settles_the_form(tmp_path: Path) -> None:
    def with_type(type_: str, *values: Any) -> pd.Series:
        (tmp_path / "schema.json").write_text(json.dumps([{"name": "at", "type": type_}]))
        return read(tmp_path, list(values))

    assert with_type("TIMESTAMP", "2026-03-01T01:00:00+01:00").tolist() == [pd.Timestamp(BASE)]
    assert with_type("FLOAT64", 1772323200.5).dtype == "datetime64[us, UTC]"
    assert with_type("NUMERIC", "1772323200.5", "1772323200").dtype == "datetime64[us, UTC]"
    assert with_type("INTEGER", 5.0, "6", 7).tolist() == [5, 6, 7]
    for type_, value in [
        ("DATE", "2026-03-01 10:00"),
        ("TIMESTAMP", "2026-03-01"),
        ("INTEGER", 5.5),
        ("INTEGER", "5.5"),
    ]:
        with pytest.raises(DataError, match="column 'at'"):
            with_type(type_, value)


def test_a_DataFrame_has_the_same_times(tmp_path: Path) -> None:
    zoned = pd.Series([at.astimezone(ZONES[1]) for at in (BASE, BASE + timedelta(microseconds=1))])
    assert typed_frame(zoned.to_frame("at"), {"at": "time"})["at"].tolist() == zoned.tolist()
    texts = pd.DataFrame({"at": zoned.map(datetime.isoformat)})
    assert typed_frame(texts, {"at": "time"})["at"].tolist() == zoned.tolist()
    objects = pd.DataFrame({"at": pd.Series([zoned[0].to_pydatetime(), None], dtype=object)})
    assert typed_frame(objects, {"at": "time"})["at"][0] == zoned[0]
    days = pd.DataFrame({"at": pd.Series([BASE.date()], dtype=object)})
    assert typed_frame(days, {"at": "time"})["at"].tolist() == [pd.Timestamp("2026-03-01")]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(lambda offset: offset // timedelta(minutes=1)),
    st.sampled_from(["auto", "hours", "minutes", "seconds", "milliseconds", "microseconds"]),
    st.sampled_from("T "),
)
def test_any_isoformat_is_read_as_the_standard_library_reads_it(at: datetime, offset: int, spec: str, sep: str) -> None:
    for zone in (None, timezone(timedelta(minutes=offset))):
        text = at.replace(tzinfo=zone).isoformat(sep, spec)
        column = Column("at", "time")
        (moment,) = to_pandas([to_arrow([text], column)], column)
        assert moment.to_pydatetime() == datetime.fromisoformat(text)


def test_the_forms_of_BigQuery_are_read_without_rewriting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "REWRITES", None)
    for text in ("2026-03-01 23:59:59.5 UTC", "2026-03-01", "2026-03-01T23:59:59"):
        column = Column("at", "time")
        assert to_arrow([text if text != "2026-03-01" else "2026-03-01T00:00:00"], column).null_count == 0
