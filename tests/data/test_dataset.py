"""The loader gives back exactly what a table held, however it was exported, and refuses all else by shard and line.

The numbers D1 to D57 in the names are the cases of bad data that a loader must not let pass.
"""

import base64
import gzip
import json
import math
import random
import struct
import tempfile
import tracemalloc
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.data.conftest import read_nothing_at_once
from tests.scale import MEMORY, many
from trainer.data import arrow_reader, dataset, draws, shards
from trainer.data.columns import to_arrow
from trainer.data.dataset import load
from trainer.data.schema import Column, RowRules
from trainer.data.selection import find_shards
from trainer.data.strict_reader import parse_row
from trainer.features.pipeline import duplicate_keys
from trainer.runtime.errors import DataError, StorageError, TrainerError

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"
INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)

pytestmark = pytest.mark.usefixtures("way")  # every test runs on both readers


def write(folder, *rows, name="rows.json", schema=None):
    """A shard of rows, given as dicts or as the bytes of a line, and the table's schema as {name: type[ MODE]}."""
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    data = b"".join(line + b"\n" for line in lines)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    if schema is not None:
        fields = [
            dict(zip(("name", "type", "mode"), (key, *kind.split()), strict=False)) for key, kind in schema.items()
        ]
        (folder / "schema.json").write_text(json.dumps(fields))
    return folder


def refusal(path, kinds, error=DataError, **options):
    """The message with which a dataset is refused; it is one paragraph and not endless."""
    with pytest.raises(error) as caught:
        load(path, kinds, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def column(folder, values, kind, *, schema=None):
    """What becomes of the values of one column, None for NULL."""
    rows = [{} if value is None else {"x": value} for value in values]
    write(folder, *rows, schema=schema and {"x": schema})
    return load(folder, {"x": kind}).frame["x"]


def plain(series):
    """A column as Python values, None for missing."""
    return [None if gone else value for gone, value in zip(series.isna(), series.tolist(), strict=True)]


# Integers, floats, strings and booleans are exact.


@pytest.mark.parametrize("schema", [None, "INTEGER"])
@pytest.mark.parametrize("bare", [False, True])
def test_D1_D2_D4_INT64_is_exact_also_beside_NULL(tmp_path, bare, schema):
    numbers = [9007199254740993, None, INT64_MAX, INT64_MIN, 0]
    written = [None if n is None else n if bare else str(n) for n in numbers]
    as_text = [None if n is None else str(n) for n in numbers]
    assert plain(column(tmp_path, written, "key", schema=schema)) == as_text
    assert plain(column(tmp_path, written, "category", schema=schema)) == as_text
    times = column(tmp_path, written, "time", schema=schema)
    assert times.dtype == "Int64"
    assert plain(times) == numbers
    rounded = plain(column(tmp_path, written, "number", schema=schema))
    assert rounded == [None if n is None else float(n) for n in numbers]


@pytest.mark.parametrize("beyond", [INT64_MAX + 1, INT64_MIN - 1, 2**64, 10**30])
@pytest.mark.parametrize(
    ("kind", "bare", "schema"),
    [("time", False, None), ("key", False, "INT64"), ("number", False, "INT64"), ("key", True, None),
     ("category", True, None), ("number", True, "INT64")],
)  # fmt: skip
def test_D3_an_INT64_beyond_64_bits_is_refused(tmp_path, kind, bare, schema, beyond):
    write(tmp_path, {"x": 1 if bare else "1"}, {"x": beyond if bare else str(beyond)}, schema=schema and {"x": schema})
    assert "rows.json, line 2: " in refusal(tmp_path, {"x": kind})


ODD_STRINGS = ["01234", "1e5", "007", "NaN", "Infinity", "null", "", "true", " ", "-", "1970-01-01", "0"]


@pytest.mark.parametrize("kind", ["category", "key", "text"])
@pytest.mark.parametrize("schema", [None, "STRING"])
def test_D5_D6_strings_that_look_like_something_else_stay_strings(tmp_path, kind, schema):
    read = column(tmp_path, [*ODD_STRINGS, None], kind, schema=schema)
    assert plain(read) == [*ODD_STRINGS, None]
    assert (read.dtype if kind == "key" else read.cat.categories.dtype) == "str"


@pytest.mark.parametrize("name", ["viewed_at", "timestamps_x", "date", "modified"])
def test_D7_numbers_in_columns_named_like_dates_stay_numbers(tmp_path, name):
    write(tmp_path, {name: "1400269500"})
    assert load(tmp_path, {name: "category"}).frame[name].tolist() == ["1400269500"]
    assert load(tmp_path, {name: "number"}).frame[name].tolist() == [1400269500.0]


def test_D8_floats_are_bit_exact(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    floats = bits.view(np.float64)
    with np.errstate(invalid="ignore"):
        floats = floats[np.abs(floats) <= 3.4028234663852886e38]  # NaN is not; most of the others are tiny
    floats = np.concatenate(
        [floats, np.random.default_rng(1).normal(size=50_000), [5e-324, -0.0, 2.2250738585072014e-308]]
    )
    assert len(floats) > 100_000
    (tmp_path / "rows.json").write_text("".join(f'{{"x":{value!r},"q":"{value!r}"}}\n' for value in floats.tolist()))
    frame = load(tmp_path, {"x": "number", "q": "number"}).frame
    assert frame["x"].to_numpy().tobytes() == floats.tobytes()
    assert frame["q"].to_numpy().tobytes() == floats.tobytes()


def test_D9_NaN_is_missing_and_minus_zero_is_kept(tmp_path):
    read = column(tmp_path, ["NaN", -0.0, "-0.0", None, 1.5, "1.5"], "number", schema="FLOAT64").to_numpy()
    assert read.tobytes() == np.array([math.nan, -0.0, -0.0, math.nan, 1.5, 1.5]).tobytes()


@pytest.mark.parametrize(
    "token", ["NaN", "Infinity", "-Infinity", "nan", "1e400", "+1", "01", "1.", ".5", "0x10", "1_000"]
)
def test_D10_tokens_that_are_no_JSON_numbers_are_refused(tmp_path, token):
    write(tmp_path, {"x": 1}, b'{"x":' + token.encode() + b"}")
    assert "rows.json, line 2: not a JSON object: " in refusal(tmp_path, {"x": "number"})


@pytest.mark.parametrize(
    "text",
    ["1_000", " 5", "5 ", "5\n", "", "٣", "１２", "0x10", "007", "+1", "1.", ".5", "inf", "nan", "1e", "1,5", "--1"],
)
@pytest.mark.parametrize("schema", [None, "FLOAT", "NUMERIC", "INTEGER"])
def test_a_number_in_quotes_has_to_be_written_as_BigQuery_writes_it(tmp_path, text, schema):
    write(tmp_path, {"x": "1"}, {"x": text}, schema=schema and {"x": schema})
    message = refusal(tmp_path, {"x": "number"})
    assert "rows.json, line 2: column 'x' is not a" in message
    assert repr(text) in message


def test_numbers_in_quotes_and_bare_ones_may_share_a_column(tmp_path):
    written = ["12", 12, "-1.5", -1.5, "1e5", "1E+5", "2.5e-3", None, "NaN", 2**53 + 1, "9007199254740993"]
    expected = [12.0, 12.0, -1.5, -1.5, 1e5, 1e5, 0.0025, None, None, 2.0**53, 2.0**53]
    assert plain(column(tmp_path, written, "number")) == expected


@pytest.mark.parametrize("schema", [None, "BOOL"])
def test_D11_booleans_beside_NULL(tmp_path, schema):
    for kind in ("category", "key"):
        assert plain(column(tmp_path, [True, None, False], kind, schema=schema)) == ["true", None, "false"]
    assert column(tmp_path, [True, False], "probability", schema=schema).tolist() == [1.0, 0.0]


# Times.


@pytest.mark.parametrize("schema", [None, "TIMESTAMP"])
def test_D12_time_stamps_with_and_without_fraction(tmp_path, schema):
    written = {
        "0001-01-01 00:00:00 UTC": datetime(1, 1, 1),
        "9999-12-31 23:59:59.999999 UTC": datetime(9999, 12, 31, 23, 59, 59, 999999),
        "2024-02-29 12:34:56.789 UTC": datetime(2024, 2, 29, 12, 34, 56, 789000),
        "2024-01-01T12:34:56Z": datetime(2024, 1, 1, 12, 34, 56),
        "2024-01-01 12:34:56.7+00:00": datetime(2024, 1, 1, 12, 34, 56, 700000),
    }
    read = column(tmp_path, [*written, None], "time", schema=schema)
    assert read.dtype == "datetime64[us, UTC]"
    epoch = datetime(1970, 1, 1)
    micros = [(value - epoch) // timedelta(microseconds=1) for value in written.values()]
    assert read.dropna().astype("int64").tolist() == micros
    assert read.isna().tolist() == [False] * 5 + [True]


def test_D13_no_zone_is_invented(tmp_path):
    days = column(tmp_path, ["2024-01-31", None, "0001-01-01"], "time")
    assert days.dtype == "datetime64[us]"
    assert str(days[0]) == "2024-01-31 00:00:00"
    moments = column(tmp_path, ["2024-01-31T01:02:03", "2024-01-31T01:02:03.5"], "time", schema="DATETIME")
    assert moments.dtype == "datetime64[us]"
    assert str(moments[1]) == "2024-01-31 01:02:03.500000"
    assert plain(column(tmp_path, ["01:02:03", None], "category", schema="TIME")) == ["01:02:03", None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2024-01-31", "2024-02-30"),
        ("2024-01-31T00:00:00", "2024-01-31 00:00:00 UTC"),
        ("2024-01-31 00:00:00 UTC", "2024-01-31"),
        ("2024-01-31 00:00:00 UTC", "2024-01-31 24:00:00 UTC"),
        ("1400269500", "2024-01-31"),
        ("2024-01-31", 1400269500),
        ("1400269500", "01400269500"),
        ("1400269500", "soon"),
        ("1400269500", True),
    ],
)
def test_times_of_two_forms_and_moments_that_are_none_are_refused(tmp_path, first, second):
    write(tmp_path, {}, {"x": first}, {"x": second})
    assert "rows.json, line 3: column 'x' " in refusal(tmp_path, {"x": "time"})


# Types of the table.


def test_D14_NUMERIC_rounds_to_float64_as_a_number_and_is_nothing_else(tmp_path):
    digits = "12345678901234567890123456789.012345678"
    assert column(tmp_path, [digits, "0.1", "-3"], "number", schema="NUMERIC").tolist() == [float(digits), 0.1, -3.0]
    message = refusal(tmp_path, {"x": "key"})
    assert "Column 'x' is NULLABLE NUMERIC" in message
    assert "cast it in the query" in message


def test_D15_BYTES_have_to_be_base64(tmp_path):
    good = [base64.b64encode(bytes(range(n))).decode() for n in range(5)]
    assert column(tmp_path, good, "category", schema="BYTES").tolist() == good
    for bad in ("A", "AA", "AAA", "AA==A", "AA=A", "A-__", "AAAA\n", "é==="):
        write(tmp_path, {"x": "AAAA"}, {"x": bad})
        assert "line 2: column 'x' is not base64" in refusal(tmp_path, {"x": "key"})


def test_D16_lists_and_records_follow_the_schema(tmp_path):
    schema = {
        "tags": "INTEGER REPEATED",
        "topics": "STRING REPEATED",
        "r": "RECORD",
        "rs": "RECORD REPEATED",
        "s": "STRING",
    }
    nested = {"r": {"a": {"b": None}}, "rs": [{"a": "x:y"}, {}], "s": "s"}
    write(
        tmp_path,
        {"tags": ["1", "2"], "topics": ["a"], **nested},
        {"r": None},
        {"tags": []},
        {"tags": None},
        schema=schema,
    )
    frame = load(tmp_path, {"tags": "categories", "topics": "classes", "s": "category"}).frame
    assert str(frame["tags"].dtype) == "list<item: string>[pyarrow]"
    assert [list(tags) if isinstance(tags, list) else None for tags in plain(frame["tags"])] == [
        ["1", "2"],
        None,
        [],
        None,
    ]
    assert [topics or None for topics in plain(frame["topics"])] == [["a"], None, None, None]
    assert "Column 'r' is NULLABLE RECORD" in refusal(tmp_path, {"r": "category"})
    assert "Column 'rs' is REPEATED RECORD" in refusal(tmp_path, {"rs": "categories"})
    assert "Column 'tags' is REPEATED INTEGER" in refusal(tmp_path, {"tags": "category"})
    assert "must be REPEATED" in refusal(tmp_path, {"s": "categories"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a", "JSON string"),
        (["a", None], "null"),
        ([["a"]], "JSON list"),
        ([1.5], "fraction"),
        (["a", 1], "integer"),
        ({}, "object"),
    ],
)
def test_lists_hold_categories_and_nothing_else(tmp_path, value, reason):
    write(tmp_path, {"x": ["a", "b"]}, {"x": value})
    message = refusal(tmp_path, {"x": "categories"})
    assert "rows.json, line 2: column 'x' " in message
    assert reason in message


@pytest.mark.parametrize(
    ("kind", "type_"),
    [("number", "STRING"), ("weight", "BOOL"), ("text", "INTEGER"), ("category", "NUMERIC"), ("key", "JSON"),
     ("time", "STRING"), ("time", "TIME"), ("probability", "STRING"), ("class", "RECORD"), ("target", "TIMESTAMP")],
)  # fmt: skip
def test_a_kind_that_the_tables_type_cannot_be_is_refused_before_any_row_is_read(tmp_path, kind, type_):
    write(tmp_path, b"not read", schema={"x": type_})
    assert f"Column 'x' is NULLABLE {type_.replace('BOOL', 'BOOLEAN')} in schema.json" in refusal(tmp_path, {"x": kind})


@pytest.mark.parametrize(
    ("type_", "value"),
    [("STRING", 5), ("INTEGER", "a"), ("INTEGER", "05"), ("INTEGER", "-0"), ("INTEGER", 5.5), ("BOOLEAN", "true")],
)
def test_values_have_to_be_of_the_tables_type(tmp_path, type_, value):
    write(tmp_path, {}, {"x": value}, schema={"x": type_})
    assert "rows.json, line 2: column 'x' " in refusal(tmp_path, {"x": "category"})


def test_D17_a_field_that_the_schema_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "HEAD_BYTES", 20)
    write(tmp_path, {"x": "1"}, name="a.json")
    write(tmp_path, b"{", {"x": "1", "new": 1}, {"y": 1}, schema={"x": "STRING"}, name="b.json")
    message = refusal(tmp_path, {"x": "category"}, rules=RowRules(9))
    assert "b.json, line 2: field 'new' is not in schema.json" in message
    write(tmp_path, {"x": "1" * 20}, {"x": "1", "new": 1}, name="b.json")  # no longer among the first lines
    assert load(tmp_path, {"x": "category"}).rows == 3


@pytest.mark.parametrize("kind", ["probability", "target", "class", "classes", "weight"])
def test_D18_labels_and_weights_are_required_in_every_row(tmp_path, kind):
    good = {"probability": 0.5, "target": -1, "class": "a", "classes": [], "weight": 0}[kind]
    write(tmp_path, {"x": good}, {"x": None})
    assert "rows.json, line 2: column 'x' is missing" in refusal(tmp_path, {"x": kind})


def test_D18_a_REQUIRED_field_is_required(tmp_path):
    write(tmp_path, {"x": "a"}, {}, schema={"x": "STRING REQUIRED"})
    assert "rows.json, line 2: column 'x' is missing" in refusal(tmp_path, {"x": "category"})


def test_D19_a_column_of_NULLs_is_there_with_its_type(tmp_path):
    kinds = {
        "c": "category",
        "l": "categories",
        "t": "text",
        "n": "number",
        "k": "key",
        "i": "time",
        "d": "time",
        "s": "time",
    }
    schema = {
        "c": "STRING",
        "l": "STRING REPEATED",
        "t": "STRING",
        "n": "FLOAT",
        "k": "INTEGER",
        "i": "INTEGER",
        "d": "DATE",
        "s": "TIMESTAMP",
    }
    write(tmp_path, {}, {}, schema=schema)
    frame = load(tmp_path, kinds).frame
    assert frame.isna().all(axis=None)
    assert frame.dtypes.astype(str).to_dict() == {
        "c": "category", "l": "list<item: string>[pyarrow]", "t": "category", "n": "float64", "k": "str", "i": "Int64",
        "d": "datetime64[us]", "s": "datetime64[us, UTC]",
    }  # fmt: skip
    assert frame["c"].cat.categories.dtype == "str"


def test_D19_without_a_schema_it_cannot_be_told_from_a_wrong_name(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "HEAD_BYTES", 100)
    write(tmp_path, {"title": "a"}, {"title": "b", "empty": None})
    assert "has the column 'titel'. Did you mean 'title'?" in refusal(tmp_path, {"titel": "text"})
    assert load(tmp_path, {"empty": "category"}).frame["empty"].isna().all()
    assert "column 'titel' is missing (Did you mean 'title'?)" in refusal(tmp_path, {"titel": "class"})
    write(tmp_path, schema={"title": "STRING"})
    assert "no column 'titel', used as a text. Did you mean 'title'?" in refusal(tmp_path, {"titel": "text"})


@pytest.mark.parametrize("kind", ["category", "key", "text", "class"])
@pytest.mark.parametrize(("first", "second"), [("1", 1), (1, "1"), ("true", True), (1, True), (True, 0)])
def test_D20_a_field_of_two_types_is_refused(tmp_path, kind, first, second):
    write(tmp_path, {"x": first})
    write(tmp_path, {"x": second}, name="rows2.json")
    message = refusal(tmp_path, {"x": kind})
    assert "rows" in message
    assert "column 'x' holds a JSON " in message


# Lines.


@pytest.mark.parametrize(
    ("number", "line", "reason"),
    [
        ("D21", b'{"x":"cut in mid-tok', "not a JSON object: "),
        ("D30", b'{"x":"x\\ud800y"}', "surrogate"),
        ("D31", b'{"x":"raw \x00 byte"}', "control character"),
        ("D34", b'{"x":"a","x":"b"}', "key 'x' occurs 2 times"),
        ("D34", b'{"x":"a","\\u0078":"a:b"}', "key 'x' occurs 2 times"),
        ("D34", b'{"x":"a", "y" : {"z":"1","z":1}, "x" : null}', "key 'x' occurs 2 times"),
        ("D35", b'{"x":"a",}', "trailing comma"),
        ("D36", b'["x"]', "a JSON list, not one object on each line"),
        ("D36", b"null", "not an object"),
        ("D36", b"5", "not an object"),
        ("D36", b'"x"', "not an object"),
        ("D37", b'{"x":"a"}{"x":"b"}', "unexpected content after"),
        ("D37", b'{"x":"a"}\r{"x":"b"}', "unexpected content after"),
        ("D38", b"{'x':'a'}", "not a JSON object: "),
        ("D39", b'{"x":' * 2000 + b"1" + b"}" * 2000, "depth"),
        ("D39", b'{"y":":","x":' * 1010 + b"1" + b"}" * 1010, "deep"),
        ("D41", b"\x00" * 100, "binary data"),
        ("D44", b'{"x":"a"} // comment', "unexpected content after"),
        ("D53", json.dumps({"x": "é" * 1_000_001}).encode(), "more than 1,000,000 characters"),
    ],
)
def test_D21_to_D53_a_line_that_is_no_row_is_refused_by_shard_and_line(tmp_path, number, line, reason):
    write(tmp_path, {"x": "a"}, b"", line, name="part-7.json")
    message = refusal(tmp_path, {"x": "text"})
    assert message.startswith("part-7.json, line 3: ")
    assert reason in message
    assert load(tmp_path, {"x": "text"}, rules=RowRules(1)).frame["x"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("bad", "byte"),
    [(b'{"x":"\xff"}', 7), (b'{"x":"caf\xc3"}', 10), (b'{"x":"\xc0\x80"}', 7), (b'{"x":"\xed\xa0\x80"}', 7)],
)
def test_D29_invalid_UTF_8_is_refused_by_shard_line_and_byte(tmp_path, bad, byte):
    write(tmp_path, {"x": "a"}, bad)
    assert f"rows.json, line 2: invalid UTF-8 at byte {byte}" in refusal(tmp_path, {"x": "text"})


def test_D24_an_empty_shard_is_fine_where_others_have_rows(tmp_path):
    write(tmp_path, name="a.json")
    write(tmp_path, name="b.json.gz")
    write(tmp_path, {"x": "1"}, name="c.json")
    read = load(tmp_path, {"x": "key"})
    assert [(shard.name, shard.rows) for shard in read.shards] == [("a.json", 0), ("b.json.gz", 0), ("c.json", 1)]


@pytest.mark.parametrize("rows", [(), (b"", b" \t\r"), ({"x": 5},)])
def test_D25_no_row_at_all_is_refused(tmp_path, rows):
    write(tmp_path, *rows, schema={"x": "STRING"})
    assert "0 rows" in refusal(tmp_path, {"x": "key"}, rules=RowRules(1))


WAYS = {
    "D26-blank-lines": b'{"x":"a"}\n\n \t\n{"x":"b"}\n\n',
    "D27-CRLF": b'{"x":"a"}\r\n\r\n{"x":"b"}\r\n',
    "D28-byte-order-mark": b'\xef\xbb\xbf{"x":"a"}\n{"x":"b"}\n',
    "D28-mark-alone": b'\xef\xbb\xbf\n{"x":"a"}\n{"x":"b"}',
    "no-newline-at-the-end": b'{"x":"a"}\n{"x":"b"}',
    "white-space": b' {\t"x" : "a" } \n{"x":"b"}',
}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_D26_D27_D28_lines_may_be_written_in_other_ways(tmp_path, text, pack):
    (tmp_path / "rows.json").write_bytes(pack(text))
    assert load(tmp_path, {"x": "category"}).frame["x"].tolist() == ["a", "b"]


def test_D31_D32_D33_escapes_and_separators_are_read_as_JSON_has_them(tmp_path):
    write(
        tmp_path,
        b'{"x":"\\u0000"}',
        '{"x":"a\u2028b\u2029c\x85d"}'.encode(),
        b'{"x":"\\u003cb\\u003e \\u0026"}',
        b'{"x":"\\ud83d\\ude00"}',
    )
    assert load(tmp_path, {"x": "text"}).frame["x"].tolist() == ["\0", "a\u2028b\u2029c\x85d", "<b> &", "😀"]


def test_D34_a_key_of_a_column_that_is_not_read_may_occur_twice(tmp_path):
    write(tmp_path, b'{"x":"a","y":1,"y":2}', b'{"x":"b","y":{"x":1,"x":{"x":2}},"z":":","\\u0079":[]}')
    assert load(tmp_path, {"x": "text"}).frame["x"].tolist() == ["a", "b"]


def test_D34_colons_in_values_and_nested_objects_are_no_double_keys(tmp_path):
    rows = [{"x": 'a":":b', "y": {"x": "1"}, "z": [{"x": ":"}, {"x": ":"}]}, {"x": 'https://x.example/?q=":'}]
    write(tmp_path, *rows)
    assert load(tmp_path, {"x": "text"}).frame["x"].tolist() == [row["x"] for row in rows]


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1)], ids=["plain", "gzip"])
def test_D40_an_endless_line_is_refused_in_bounded_memory(tmp_path, pack):
    (tmp_path / "rows.json").write_bytes(
        pack(b'{"x":"a"}\n{"x":"' + random.Random(0).randbytes(100_000).hex().encode() * 100)
    )
    tracemalloc.start()
    try:
        assert "rows.json, line 2: longer than 16 MiB" in refusal(tmp_path, {"x": "text"})
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_D40_a_line_of_16_MiB_is_read(tmp_path):
    frame = b'{"x":"a","y":""}'
    for extra, fits in ((0, True), (1, False)):
        filler = b"b" * (shards.MAX_LINE - len(frame) + extra)
        write(tmp_path, b'{"x":"a","y":"' + filler + b'"}')
        if fits:
            assert load(tmp_path, {"x": "key"}).rows == 1
        else:
            assert "longer than" in refusal(tmp_path, {"x": "key"})


# Files.

ROWS = [{"x": str(number)} for number in range(2_000)]
PACKED = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in ROWS), mtime=0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PACKED[:-1], "cut off"),
        (PACKED[: len(PACKED) // 2], "cut off"),
        (PACKED[:-8], "cut off"),
        (PACKED[:1], "cut off"),
        (PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:], "damaged"),
        (PACKED[:-1] + b"\x01", "damaged"),
        (PACKED + b"extra", "damaged"),
        (PACKED + b"\0" * 512, "damaged"),
        (PACKED + PACKED[:5], "cut off"),
        (b"", "is empty"),
        (gzip.compress(PACKED), "gzip inside gzip"),
    ],
    ids=[
        "one-byte",
        "half",
        "no-trailer",
        "one-byte-left",
        "CRC",
        "length",
        "extra",
        "zeros",
        "half-member",
        "empty",
        "twice",
    ],
)
def test_D41_damaged_gzip_is_refused_by_name(tmp_path, data, reason):
    (tmp_path / "part-3.json.gz").write_bytes(data)
    message = refusal(tmp_path, {"x": "key"}, rules=RowRules(10**6))
    assert message.startswith("part-3.json.gz")
    assert reason in message


def test_D41_several_gzip_members_are_one_text(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(
        PACKED + gzip.compress(b"") + gzip.compress(b'{"x":"la') + gzip.compress(b'st"}')
    )
    assert load(tmp_path, {"x": "key"}).frame["x"].tolist() == [*(row["x"] for row in ROWS), "last"]


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_D42_gzip_is_known_by_its_bytes_and_not_by_the_name(tmp_path, name, packed):
    data = PACKED if packed else gzip.decompress(PACKED)
    (tmp_path / name).write_bytes(data)
    read = load(tmp_path, {"x": "key"})
    assert read.rows == len(ROWS)
    assert read.shards[0].bytes == len(data)


def test_D43_a_gzip_bomb_is_refused(tmp_path):
    packer = gzip.zlib.compressobj(9, wbits=31)
    rows = (b" " * 99_999 + b"\n") * 100
    (tmp_path / "rows.json.gz").write_bytes(b"".join(packer.compress(rows) for _ in range(10)) + packer.flush())
    assert "unpacks to more than" in refusal(tmp_path, {"x": "key"})


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"Obj\x01\x04\x14avro.codec", "Avro"),
        (b"PAR1\x15\x04\x15", "Parquet"),
        (b"PK\x03\x04\x14\x00", "zip"),
        ("a,b\n".encode("utf-16"), "UTF-16"),
        (b"x,y\n1,2\n", "CSV"),
        (b"x\ty\n1\t2\n", "CSV"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"<?xml version='1.0'?><Error>", "HTML or XML"),
        (b'[\n{"x":"1"}\n]', "JSON list"),
        (b'{\n  "x": "1"\n}\n', "not a JSON object"),
        (bytes(random.Random(1).choices([*range(1, 9), *range(14, 256)], k=500)), "encrypted"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_D44_another_format_is_named(tmp_path, data, what, pack):
    (tmp_path / "rows.json").write_bytes(pack(data))
    message = refusal(tmp_path, {"x": "key"})
    assert message.startswith("rows.json")
    assert what in message


# Bad rows and values.


def test_D45_bad_rows_are_left_out_counted_and_listed_up_to_a_limit(tmp_path):
    secret = "secret-value"
    bad = {
        2: b'{"x":"' + secret.encode(),
        3: {"x": secret, "n": secret},
        6: {"x": 5, "n": 1},
        7: {"n": 1e39},
        9: [secret],
    }
    data = write(tmp_path / "data", *[bad.get(line, {"x": str(line), "n": line}) for line in range(1, 11)])
    kinds = {"x": "category", "n": "number"}
    read = load(data, kinds, rules=RowRules(5))
    good = [1, 4, 5, 8, 10]
    assert read.frame["n"].tolist() == good
    assert read.frame["x"].cat.categories.tolist() == sorted(str(line) for line in good)
    assert (read.rows, read.bad_rows, read.shards[0].rows) == (5, 5, 5)
    assert [(row.shard, row.line) for row in read.left_out] == [("rows.json", line) for line in bad]
    assert all(row.reason for row in read.left_out)
    assert secret not in str(read.left_out)
    message = refusal(data, kinds, rules=RowRules(4))
    assert message.startswith("rows.json, line 9: ")
    assert "max_bad_rows = 4" in message
    assert refusal(data, kinds).startswith("rows.json, line 2: ")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("probability", [0, 1, 0.25, "0.5", True], [-0.1, 1.0001, 2, "NaN", "Infinity", "yes"]),
     ("target", [-5, "1e3", 0.0], ["NaN", "-Infinity", True, "high", 1e39]),
     ("weight", [0, "7", 1.5], [-1, "-0.5", "NaN", "Infinity", [1]]),
     ("class", ["a", ""], [1.5, 1, ["a"], {}]),
     ("classes", [["a"], []], ["a", [1.5], [None]])],
)  # fmt: skip
def test_D46_labels_and_weights_that_cannot_be_are_refused(tmp_path, kind, good, bad):
    for value in bad:
        write(tmp_path, *[{"x": each} for each in good], {"x": value})
        assert f"rows.json, line {len(good) + 1}: column 'x' " in refusal(tmp_path, {"x": kind})
    write(tmp_path, *[{"x": each} for each in good])
    assert load(tmp_path, {"x": kind}).frame["x"].notna().all()


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", 1e39, "-1e39", "1e400", 3.4028236e38, "9" * 400])
def test_D48_D49_infinite_numbers_and_those_beyond_float32_are_refused(tmp_path, value):
    write(tmp_path, {"x": 1.5}, {"x": 3.4028234663852886e38}, {"x": value})
    message = refusal(tmp_path, {"x": "number"})
    assert "rows.json, line 3: column 'x' is " in message
    assert len(message) < 200


def test_D50_rows_that_share_a_key_are_counted(tmp_path):
    write(tmp_path, *({"a": a, "b": b} for a, b in ["11", "12", "11", "21", "11"]), {"a": "1"}, {"a": "1"})
    frame = load(tmp_path, {"a": "key", "b": "key"}).frame
    assert duplicate_keys(frame, ["a", "b"]) == 5
    assert duplicate_keys(frame.drop_duplicates(), ["a", "b"]) == 0


def test_D53_texts_may_be_empty_or_very_long(tmp_path):
    texts = ["", "   ", "😀" * 1_000_000, None]
    assert plain(column(tmp_path, texts, "text")) == texts


def test_D54_the_order_of_columns_in_a_row_does_not_matter(tmp_path):
    write(tmp_path, {"a": "1", "b": "2"}, name="1.json")
    write(tmp_path, {"b": "4", "other": 1, "a": "3"}, name="2.json")
    assert load(tmp_path, {"b": "key", "a": "key"}).frame.to_dict("list") == {"b": ["2", "4"], "a": ["1", "3"]}


@pytest.mark.parametrize(("block_bytes", "piece"), [(1, 1), (20, 7), (60, 100)])
def test_D55_where_the_text_is_cut_changes_neither_rows_nor_refusals(tmp_path, monkeypatch, block_bytes, piece):
    kinds = {"c": "category", "l": "categories", "n": "number", "t": "time", "k": "key"}
    rows = [
        {},
        {"c": None},
        {"l": [], "n": "NaN"},
        {"c": "é", "l": ["b", "a"], "t": "2024-01-01", "n": 1},
        {"k": 1, "n": "2"},
        {"c": "a"},
    ]
    bad = [{"c": 1.5}, {"c": "a", "n": "x"}, b"{", {"k": "1", "c": 5}, {"l": [[]]}, {"t": "2024-01-01 00:00:00 UTC"}]
    data = write(tmp_path / "data", *rows, *bad, *rows, name="a.json.gz")
    write(data, b"", *rows, *bad[::-1], name="b.json")

    def outcome():
        read = load(data, kinds, rules=RowRules(12))
        refusals = [refusal(data, kinds, rules=RowRules(limit)) for limit in range(12)]
        return read.frame, read.fingerprint, read.left_out, refusals

    monkeypatch.setattr(shards, "HEAD_BYTES", 40)
    frame, *rest = outcome()
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(shards, "PIECE", piece)
    other_frame, *other_rest = outcome()
    pd.testing.assert_frame_equal(frame, other_frame)
    assert rest == other_rest


def test_D56_the_first_bad_row_is_reported_before_the_rest_is_read(tmp_path):
    write(tmp_path, *[{"x": "1"}] * 9, {"x": "one"}, name="a.json")
    (tmp_path / "b.json.gz").write_bytes(PACKED[:-1])
    assert refusal(tmp_path, {"x": "number"}).startswith("a.json, line 10: ")


def test_D56_a_bad_row_is_reported_before_damage_that_comes_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 2**8)
    monkeypatch.setattr(shards, "HEAD_BYTES", 12)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 2**10)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"x":"1"}\n{"x":"one"}\n' + b'{"x":"1"}\n' * 4_000)[:-1])
    assert refusal(tmp_path, {"x": "number"}).startswith("a.json.gz, line 2: ")
    assert "cut off" in refusal(tmp_path, {"x": "number"}, rules=RowRules(1))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"x":"1"}\n{"x":"one"}\n' + b" " * (shards.MAX_LINE + 1)))
    assert refusal(tmp_path, {"x": "number"}).startswith("a.json.gz, line 2: ")
    assert "line 3: longer" in refusal(tmp_path, {"x": "number"}, rules=RowRules(1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        '{"fields": 1}',
        "[1]",
        '["x"]',
        '[{"name": "x"}]',
        '[{"name": "x", "type": 1}]',
        "null",
        '[{"name":"x","type":"STRING"},{"name":"x","type":"STRING"}]',
    ],
)
def test_D57_a_schema_that_is_none_is_refused(tmp_path, text):
    write(tmp_path, {"x": "1"})
    (tmp_path / "schema.json").write_text(text)
    message = refusal(tmp_path, {"x": "key"})
    assert "schema.json" in message


def test_the_frame_can_be_changed(tmp_path):
    write(tmp_path, {"n": 1.5, "i": 5, "c": "a", "t": "x", "d": "2024-01-01"}, {"c": "b"})
    frame = load(tmp_path, {"n": "number", "i": "time", "c": "category", "t": "text", "d": "time"}).frame
    frame.loc[1] = {"n": 2.5, "i": 6, "c": "a", "t": "x", "d": pd.Timestamp("2024-01-02")}
    assert frame.loc[1].tolist() == [2.5, 6, "a", "x", pd.Timestamp("2024-01-02")]


def test_values_and_names_in_messages_are_short_and_escaped(tmp_path):
    write(tmp_path, {"x": "\x1b[31m\n" + "a" * 10_000, "y" * 10_000: 1})
    message = refusal(tmp_path, {"x": "number"})
    assert "\\x1b[31m\\naaa" in message
    assert len(message) < 300


# Two readers, one result.

ALL_KINDS = {
    "c": "category", "l": "categories", "t": "text", "n": "number", "k": "key", "d": "time", "p": "probability",
    "w": "weight",
}  # fmt: skip
PLAIN = {
    "c": '"a"', "l": '["x","y"]', "t": '"NaN, \u00e9"', "n": "1.5", "k": '"12"', "d": '"2024-01-01"', "p": "0.5",
    "w": '"3"', "other": '{"a":[1,null]}',
}  # fmt: skip
ODD_VALUES = [
    "0", "-0", "-0.0", "1", "-1", "1e2", "1.0", "1e400", "1.0000000000e315", "1.7976931348623159e308", "-1e-400",
    "0e999", "5e-324", "9" * 320, "9223372036854775807", "9223372036854775808", "18446744073709551616", "3.4028236e38",
    "NaN", "-NaN", "Infinity", "-Infinity", "Inf", "-Inf", "01", "1.", ".5", "+1", "-", "0x1", "true", "null", "nul",
    '""', '"b"', '"NaN"', '"-NaN"', '"Infinity"', '"-0"', '"12"', '"007"', '"1e5"', '"\\u0041"', '"\\ud800"',
    '"\\ud83d\\ude00"', '"\\u0000"', '"\x00"', '"\t"', '"\\x"', '"\\\\"', '"\\"NaN"', '"x"NaN"y"', '"a, NaN, b"',
    '", Inf,"', '"}\\n{"', '"[[{{"', "[]", "[1]", '["a"]', "[null]", '["a",null]', '[["a"]]', '["a",]', "[,]", "{}",
    '{"a":NaN}', '{"n":1,"n":2}', "[1e999]", "[" * 600 + "]" * 600, "[" * 1100 + "]" * 1100, '"2023-12-31"',
    '"2024-02-30"', "1 2", "1//", "/**/1", '"\xff"', '"\udcff"', '"n":NaN',
]  # fmt: skip
ODD_KEYS = ["\\u006e", "n\\u0000", "", "N", "\\ud800", 'n"', "n"]
ODD_LINES = [
    "", " \t", "null", "5", "[]", '"x"', "{}", "\ufeff{}", "\x00", "{},", "{}{}", "{} {}", "{} null", "{}\r{}", "{}x",
    "{} ", " {}", "{}\r", '{"c":"a",}', "{,}", "{'c':'a'}", '{"c":', "}", '{"c":"a"} // c', '{"a":{"b":1}',
    '{"a":\n{}}', '{"a":{}\n,"b":{}}', '{"a":\n{}}\n{"p":1,"w":"1"}{"p":1,"w":"1"}',
]  # fmt: skip


def row_of(values):
    return "{" + ",".join(f'"{name}":{value}' for name, value in values) + "}"


@st.composite
def odd_shards(draw):
    """The text of a shard: rows like PLAIN, some with a value, a key or a line that is not."""
    lines = [row_of(PLAIN.items())]
    for _ in range(draw(st.integers(1, 12))):
        values = list(PLAIN.items())
        odd = draw(st.sampled_from(["no", "no", "no", "value", "value", "key", "twice", "left out", "line"]))
        at = draw(st.integers(0, len(values) - 1))
        name, value = values[at]
        if odd == "value":
            values[at] = (name, draw(st.sampled_from(ODD_VALUES)))
        elif odd == "key":
            values[at] = (draw(st.sampled_from(ODD_KEYS)), value)
        elif odd == "twice":
            values.append((name, draw(st.sampled_from([value, "null"]))))
        elif odd == "left out":
            del values[at]
        lines.append(draw(st.sampled_from(ODD_LINES)) if odd == "line" else row_of(values))
    end = draw(st.sampled_from(["\n", "\n", "\n", "\r\n"]))
    text = end.join(lines) + draw(st.sampled_from([end, end, "", end * 2, " "]))
    return text.encode(errors="surrogateescape")


def outcome(path, kinds, **options):
    """All that can be seen of a dataset, or the refusal."""
    try:
        read = load(path, kinds, **options)
    except TrainerError as error:
        return type(error), str(error)
    columns = {
        name: (str(values.dtype), values.to_numpy().tobytes() if values.dtype == "float64" else plain(values))
        for name, values in read.frame.items()
    }
    categories = {name: list(read.frame[name].cat.categories) for name in ("c", "t") if name in kinds}
    return str(columns), categories, read.shards, read.left_out


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(odd_shards(), st.integers(1, 700), st.sampled_from([0, 0, 2, 20]), st.sampled_from([ALL_KINDS, {"n": "number"}]))
def test_both_readers_give_the_same(tmp_path_factory, text, block_bytes, max_bad_rows, kinds):
    path = tmp_path_factory.mktemp("odd") / "rows.json"
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "HEAD_BYTES", 1)
        patch.setattr(shards, "BLOCK_BYTES", block_bytes)
        patch.setattr(dataset, "read_block", arrow_reader.read_block)
        at_once = outcome(path, kinds, rules=RowRules(max_bad_rows))
        patch.setattr(dataset, "read_block", read_nothing_at_once)
        assert at_once == outcome(path, kinds, rules=RowRules(max_bad_rows))


def settled_columns():
    columns = [Column(name, kind) for name, kind in ALL_KINDS.items()]
    row = json.loads(row_of(PLAIN.items()))
    for column in columns:
        to_arrow([row[column.name]], column)
    return columns


@pytest.mark.parametrize("name", ALL_KINDS)
def test_a_block_is_read_at_once_as_line_by_line_or_not_at_all(name):
    at_once = 0
    for value in ODD_VALUES:
        columns = settled_columns()
        lines = [row_of((PLAIN | {name: each}).items()) for each in (PLAIN[name], value)]
        read = arrow_reader.read_block("".join(line + "\n" for line in lines).encode(errors="surrogateescape"), columns)
        if read is None:
            continue
        at_once += 1
        rows = [parse_row(line.encode(), ALL_KINDS) for line in lines]
        assert read[0] == len(rows)
        for column in columns:
            strict = to_arrow([row.get(column.name) for row in rows], column)
            if strict.type == "double":
                assert read[1][column.name].to_numpy().tobytes() == strict.to_numpy().tobytes(), value
            else:
                assert read[1][column.name].equals(strict), value
    assert at_once > 1


def test_a_line_that_is_no_object_is_not_read_at_once():
    for line in ODD_LINES:
        read = arrow_reader.read_block(
            ('{"c":"a"}\n' + line + '\n{"c":"b"}\n').encode(), [Column("c", "category", form="string")]
        )
        if line in ("{}", "{}\r"):
            assert (read[0], read[1]["c"].to_pylist()) == (3, ["a", None, "b"])
        else:
            assert read is None, line


def test_what_is_plain_is_read_at_once():
    columns = settled_columns()
    values = [PLAIN, PLAIN | {"n": '"NaN"', "t": '"In \u00e9"', "l": "[]"}, PLAIN | {"n": "null", "c": '"\\u0041"'}]
    count, arrays, *_ = arrow_reader.read_block(
        "".join(row_of(each.items()) + "\r\n" for each in values).encode(), columns
    )
    assert count == 3
    assert arrays["c"].to_pylist() == ["a", "a", "A"]
    assert arrays["n"].to_numpy().tobytes() == np.array([1.5, np.nan, np.nan]).tobytes()
    assert arrays["l"].to_pylist() == [["x", "y"], [], ["x", "y"]]


def test_all_but_the_first_lines_of_a_long_shard_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.undo()
    write(tmp_path, *[{"n": str(n), "other": "x" * 400} for n in range(30_000)])
    read, looked_at = [], []

    def observed(text, columns, others=None):
        looked_at.append(len(text))
        found = arrow_reader.read_block(text, columns, others)
        read.append(found[0])
        return found

    monkeypatch.setattr(dataset, "read_block", observed)
    assert load(tmp_path, {"n": "number"}).frame["n"].tolist() == list(range(30_000))
    assert len(looked_at) >= 2
    assert sum(read) > 29_800


@pytest.mark.parametrize("number", ["1e400", "-1.0000000000e315", "9" * 400, "[1.7976931348623159e308]"])
def test_numbers_beyond_float64_are_refused_only_where_they_are_read(tmp_path, number):
    write(tmp_path, {"n": 1, "x": "1e400"}, f'{{"n":2,"x":"1e400\\"","y":{number}}}'.encode())
    assert load(tmp_path, {"n": "number", "x": "text"}).frame["n"].tolist() == [1, 2]
    assert "rows.json, line 2: " in refusal(tmp_path, {"n": "number", "y": "number"})


def test_a_text_is_a_category_in_the_order_of_the_rows(tmp_path):
    titles = column(tmp_path, ["b", None, "a", "b", "c" * 5_000, "a", ""], "text")
    assert titles.cat.categories.tolist() == ["b", "a", "c" * 5_000, ""]
    assert titles.cat.codes.tolist() == [0, -1, 1, 0, 2, 1, 3]


# Rows that are kept.


@pytest.mark.parametrize("key", [(), ("n",), ("c", "d")])
@pytest.mark.parametrize("block_bytes", [1, 50, 333, 10**6])
def test_a_share_is_the_same_rows_however_the_text_is_cut(tmp_path, monkeypatch, block_bytes, key):
    rows = [
        {"n": n, "c": str(n % 7), "t": f"title {n}", "l": [str(n)], "d": f"2024-01-0{n % 5 + 1}"} for n in range(60)
    ]
    data = write(tmp_path / "data", *rows[:20], b"{", *rows[20:], name="a.json")
    write(data, {"n": 61, "c": "x", "d": "2024-01-01", "t": "z", "l": []}, name="b.json")
    kinds = {"n": "number", "c": "category", "t": "text", "l": "categories", "d": "time"}
    whole = load(data, kinds, rules=RowRules(1), identity=key)
    expected = np.flatnonzero(draws.uniform(whole.draws, draws.SUBSAMPLE) < 0.5)
    assert 0 < len(expected) < 61
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(dataset, "JOIN", 3)
    read = load(data, kinds, rules=RowRules(1), identity=key, share=0.5)
    assert (read.rows, read.rows_read, read.bad_rows) == (len(expected), 61, 1)
    assert [shard.rows for shard in read.shards] == [60, 1]
    np.testing.assert_array_equal(read.draws, whole.draws[expected])
    np.testing.assert_array_equal(read.hashes, whole.hashes[expected])
    for name in kinds:
        assert plain(read.frame[name]) == plain(whole.frame[name].iloc[expected])
    assert len(read.frame["t"].cat.categories) == len(expected)


def test_no_row_in_the_share_is_refused(tmp_path):
    write(tmp_path, {"n": 1}, {"n": 3})
    assert "subsample keeps 0 of 2 rows" in refusal(tmp_path, {"n": "number"}, identity=(), share=1e-9)


# Where the shards are.


def test_a_folder_a_glob_and_a_file_are_a_dataset(tmp_path):
    for name in (
        "b.json",
        "a.ndjson.gz",
        "c.jsonl",
        "schema.json",
        "dataset.json",
        "c.truth.json",
        ".d.json",
        "notes.txt",
        "sub/e.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.json").mkdir()

    def names(path):
        return [shard.relative_to(tmp_path).as_posix() for shard in find_shards(path)]

    assert names(tmp_path) == names(str(tmp_path)) == ["a.ndjson.gz", "b.json", "c.jsonl"]
    assert names(tmp_path / "*.json*") == ["b.json", "c.jsonl"]
    assert names(tmp_path / "*" / "*.json") == ["sub/e.json"]
    assert names(tmp_path / "notes.txt") == ["notes.txt"]


def test_what_is_there_is_named_where_no_shard_is(tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    (tmp_path / "notes.txt").write_text("")
    assert "notes.txt, train/" in refusal(tmp_path, {})
    assert "train/" in refusal(tmp_path / "trian", {}, StorageError)
    assert "train/" in refusal(tmp_path / "*.json", {}, StorageError)
    assert "holds nothing" in refusal(tmp_path / "train", {})
    assert "no folder" in refusal(tmp_path / "a" / "b.json", {}, StorageError)
    monkeypatch.chdir(tmp_path)
    for path in ("train.json", "*.json", "", "a\0b", "x" * 300, "gs://bucket/rows.json", "[", "**.json"):
        refusal(path, {}, TrainerError)


def test_a_schema_lies_beside_the_shards_or_above_the_folders_of_a_split(tmp_path):
    data = write(tmp_path / "data", schema={"x": "STRING"}, name="schema.json")
    write(data / "train", {"x": 5})
    write(data / "test", {"x": 6})
    for path in (data / "train", data / "train" / "rows.json", data / "*" / "rows.json"):
        assert "needs a JSON string" in refusal(path, {"x": "key"})


def test_shards_of_several_folders_keep_their_folder_in_the_name(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, {"x": "1"}, {"x": name})
    assert [shard.name for shard in load(tmp_path / "*" / "*.json", {"x": "key"}).shards] == [
        "a/rows.json",
        "b/rows.json",
    ]
    assert "b/rows.json" not in refusal(tmp_path / "*" / "*.json", {"x": "number"})


# Properties.

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
INT64 = st.integers(INT64_MIN, INT64_MAX)
FLOAT = st.floats(width=32, allow_infinity=False, allow_nan=False) | st.floats(-1e30, 1e30)


def identity(value):
    return value


def category_text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def each(function):
    return lambda values: [function(value) for value in values]


def stamp(value):
    return pd.Timestamp(value).as_unit("us")


# (kind, type of the table): values, how an export writes one, what is to be read
DISCRETE = {"STRING": (TEXT, identity), "INTEGER": (INT64, str), "BOOLEAN": (st.booleans(), identity)}
COLUMNS = {
    ("text", "STRING"): (TEXT, identity, identity),
    ("number", "INTEGER"): (INT64, str, float),
    ("number", "FLOAT"): (FLOAT, identity, float),
    ("number", "NUMERIC"): (st.decimals(-(10**20), 10**20, places=9), "{:f}".format, float),
    ("target", "FLOAT"): (FLOAT, identity, float),
    ("weight", "INTEGER"): (st.integers(0, 2**53), str, float),
    ("probability", "FLOAT"): (st.floats(0, 1), identity, float),
    ("probability", "BOOLEAN"): (st.booleans(), identity, float),
    ("time", "INTEGER"): (INT64, str, identity),
    ("time", "DATE"): (st.dates(), str, stamp),
    ("time", "DATETIME"): (st.datetimes(), datetime.isoformat, stamp),
    ("time", "TIMESTAMP"): (st.datetimes(), "{} UTC".format, lambda value: stamp(value).tz_localize("UTC")),
}
for type_, (values, written) in DISCRETE.items():
    COLUMNS |= {(kind, type_): (values, written, category_text) for kind in ("category", "key", "class")}
    lists = (st.lists(values, max_size=4), each(written), each(category_text))
    COLUMNS |= {(kind, type_): lists for kind in ("categories", "classes")}
REQUIRED = {"probability", "target", "class", "classes", "weight"}


@st.composite
def tables(draw):
    """Columns (kind, type) by name and rows of values, None for NULL."""
    columns = draw(st.dictionaries(TEXT.filter(bool), st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=6))
    values = {
        name: COLUMNS[column][0] if column[0] in REQUIRED else st.none() | COLUMNS[column][0]
        for name, column in columns.items()
    }
    return columns, draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=10))


def export(folder, columns, rows, chance, *, with_schema=True):
    """Shards as BigQuery writes them: integers in quotes, no NULL, <>& escaped, columns in any order, gzip or not."""
    folder.mkdir()
    cuts = sorted(chance.choices(range(len(rows) + 1), k=2))
    for number, part in enumerate((rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :])):
        lines = []
        for row in part:
            written = [(name, COLUMNS[columns[name]][1](value)) for name, value in row.items() if value is not None]
            chance.shuffle(written)
            line = json.dumps(dict(written), separators=(",", ":"), ensure_ascii=chance.random() < 0.5)
            for letter in "<>&":
                line = line.replace(letter, f"\\u{ord(letter):04x}")
            lines.append(line + "\n")
        data = "".join(lines).encode()
        packed = chance.random() < 0.5
        (folder / f"part-{number:012}.json{'.gz' * packed}").write_bytes(gzip.compress(data, 1) if packed else data)
    if with_schema:
        fields = [
            {"name": name, "type": type_, "mode": "REPEATED" if kind in ("categories", "classes") else "NULLABLE"}
            for name, (kind, type_) in columns.items()
        ]
        (folder / "schema.json").write_text(json.dumps(fields))


def same(read, expected):
    if isinstance(expected, float):
        return struct.pack("d", read) == struct.pack("d", expected)
    return read == expected and type(read) is type(expected)


@pytest.mark.parametrize("part", range(many(1, 2)))
def test_any_table_that_is_exported_reads_back_exactly(part, record_property):
    read_back = Counter()

    @seed(part)
    @settings(max_examples=many(100, 2500), deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(tables(), st.randoms(use_true_random=False), st.booleans())
    def reads_back(table, chance, with_schema):
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            assert_reads_back(Path(folder) / "data", *table, chance, with_schema)
        read_back["tables, all read back exactly"] += 1

    reads_back()
    for name, count in read_back.items():
        record_property(name, count)


def assert_reads_back(folder, columns, rows, chance, with_schema):
    if not with_schema:  # a column that is nowhere is refused then: D19
        columns = {name: column for name, column in columns.items() if any(row[name] is not None for row in rows)}
        rows = [{name: row[name] for name in columns} for row in rows]
    export(folder, columns, rows, chance, with_schema=with_schema)
    read = load(folder, {name: kind for name, (kind, _) in columns.items()})
    assert list(read.frame.columns) == list(columns)
    assert sum(shard.rows for shard in read.shards) == read.rows == len(rows)
    for name, column_ in columns.items():
        expected = [None if row[name] is None else COLUMNS[column_][2](row[name]) for row in rows]
        values = plain(read.frame[name])
        assert all(same(value, wanted) for value, wanted in zip(values, expected, strict=True)), (
            column_,
            values,
            expected,
        )


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(tables(), st.randoms(use_true_random=False))
def test_order_and_sharding_change_nothing_but_the_order_of_rows(tmp_path_factory, table, chance):
    columns, rows = table
    folder = tmp_path_factory.mktemp("orders")
    order = chance.sample(range(len(rows)), len(rows))
    export(folder / "a", columns, rows, chance)
    export(folder / "b", columns, [rows[index] for index in order], chance)
    kinds = {name: kind for name, (kind, _) in columns.items()}
    one, other = (load(folder / name, kinds) for name in "ab")
    texts = dict.fromkeys((name for name, kind in kinds.items() if kind == "text"), "str")  # categories are in order
    pd.testing.assert_frame_equal(one.frame.iloc[order].reset_index(drop=True).astype(texts), other.frame.astype(texts))
    for number, shard in enumerate(find_shards(folder / "a")):
        shard.rename(shard.with_name(f"{9 - number}.json"))
    assert load(folder / "a", kinds).fingerprint == one.fingerprint


def test_the_fingerprint_tells_contents_apart(tmp_path):
    prints = set()
    for number, rows in enumerate(([{"x": "1"}], [{"x": "2"}], [{"x": "1"}, {"x": "1"}])):
        prints.add(load(write(tmp_path / str(number), *rows), {"x": "key"}).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("name", ["adult", "chicago_taxi", "clickbait"])
def test_real_exports_agree_with_a_plain_reading(name, part):
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    fields = {field["name"]: field["type"] for field in json.loads((folder / "schema.json").read_text())}
    kinds = {
        field: {"STRING": "category", "INTEGER": "key", "FLOAT": "number"}[type_] for field, type_ in fields.items()
    }
    kinds["label"] = "probability"
    read = load(folder / part, kinds)
    rows = [
        json.loads(line)
        for shard in find_shards(folder / part)
        for line in gzip.decompress(shard.read_bytes()).splitlines()
    ]
    for field, kind in kinds.items():
        expected = [row.get(field) for row in rows]
        if kind == "probability":
            expected = [float(value) for value in expected]
        assert plain(read.frame[field]) == expected


# What nobody would write.

FUZZ_KINDS = {
    "c": "category",
    "l": "categories",
    "t": "text",
    "n": "number",
    "k": "key",
    "d": "time",
    "p": "probability",
    "w": "weight",
}
FUZZ_ROW = {
    "c": "a<b",
    "l": ["x", "y"],
    "t": 'ein Wört: "ja"',
    "n": "1.5",
    "k": "12",
    "d": "2024-01-01 12:34:56.789 UTC",
    "p": 0.5,
    "w": "3",
}
INTERESTING = b'"{}[]:,\\\n\r \x00\xff\xed\x1f0159-+.eEuN'


def with_changed_bytes(data, chance):
    """The bytes with some of them replaced, removed, or others put between them, at one to three places."""
    bad = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(bad))
        new = bytes(chance.choices(INTERESTING if chance.random() < 0.7 else range(256), k=chance.randint(0, 3)))
        bad[at : at + chance.choice([0, 1, 1, 1, 20])] = new
    return bytes(bad)


@pytest.fixture
def file_in_memory():
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "rows.json"


@pytest.mark.parametrize("packed", [False, True])
def test_whatever_bytes_change_there_is_a_result_or_a_clear_refusal(file_in_memory, packed, record_property):
    data = "".join(json.dumps(FUZZ_ROW | {"k": str(n)}, ensure_ascii=False) + "\n" for n in range(3)).encode()
    data = gzip.compress(data, mtime=0) if packed else data
    chance, refusals, inputs = random.Random(packed), set(), many(500, 50_000)
    for _ in range(inputs):
        file_in_memory.write_bytes(with_changed_bytes(data, chance))
        try:
            load(file_in_memory, FUZZ_KINDS, rules=RowRules(chance.choice([0, 0, 2])))
        except TrainerError as error:
            refusals.add(str(error))
    assert refusals
    assert max(map(len, refusals)) < 600
    record_property("files with changed bytes, read or refused", inputs)


@pytest.mark.parametrize("part", range(many(1, 4)))
def test_whatever_bytes_change_in_a_row_the_others_are_read(file_in_memory, part, record_property):
    chance, inputs = random.Random(part), 0
    lines = [json.dumps(FUZZ_ROW | {"k": str(n)}, ensure_ascii=False).encode() for n in range(100)]
    while inputs < many(5_000, 50_000):
        changed = [line if n % 5 == 0 else with_changed_bytes(line, chance) for n, line in enumerate(lines)]
        file_in_memory.write_bytes(b"\n".join(changed) + b"\n")
        read = load(file_in_memory, FUZZ_KINDS, rules=RowRules(10**6))
        assert 10 <= read.rows <= read.rows + read.bad_rows <= file_in_memory.read_bytes().count(b"\n")
        keys = set(plain(read.frame["k"]))
        assert {str(n) for n in range(0, 100, 5)} <= keys
        inputs += 80
    record_property("rows with changed bytes, read or left out", inputs)
