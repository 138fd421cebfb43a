"""The hash of a stored row: of what it means, not of how a file has it, whichever reader reads it."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.scale import many
from trainer.data import arrow_reader, dataset, shards
from trainer.data.dataset import load
from trainer.data.row_hash import of_rows

PROPERTY = hypothesis_settings(
    max_examples=many(60, 10_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = {"y": "probability"}  # a role; all other columns have none

NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-20, 20), st.sampled_from([2**53 + 1, -(2**53) - 1, 10**18 + 1]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1e15, 2.0**53, 1e300, 5e-324]),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        ["NaN", "null", "", "007", "1.", ".5", "+1", "1e400", "--1", "2024-01-01 10:00:00.5 UTC", "é\u0000"]
    ),
    st.sampled_from(["a", "ab" * 4, "x" * 17, "x" * 33, "x" * 65, "y" * 129, "y" * 300]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("pqr"), inner, max_size=2)),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c d", "é"]), VALUES, max_size=4), min_size=1, max_size=12)


def written(value: Any, choose: random.Random) -> str:
    """A value in one of the forms in which exporters write it."""
    if isinstance(value, bool):
        return json.dumps(choose.choice([value, str(value).lower()]))
    if isinstance(value, int):
        forms = [str(value), f'"{value}"']
        if abs(value) <= 2**53:
            forms += [f"{value}.0", f'"{value}.0"', repr(float(value)), f'"{value}0e-1"' if value else "0"]
        return choose.choice(forms)
    if isinstance(value, float):
        return choose.choice([repr(value), json.dumps(repr(value))])
    if isinstance(value, list):
        return f"[{', '.join(written(item, choose) for item in value)}]"
    if isinstance(value, dict):
        return fields(value, choose)
    return json.dumps(value, ensure_ascii=choose.random() < 0.5)


def fields(row: dict[str, Any], choose: random.Random) -> str:
    """An object: its keys in any order, with any white space; what is missing is null or left out."""
    names = choose.sample(list(row), len(row))
    parts = [
        f"{json.dumps(name, ensure_ascii=choose.random() < 0.5)}{choose.choice(['', ' '])}:{written(row[name], choose)}"
        for name in names
        if row[name] is not None or choose.random() < 0.5
    ]
    return "{" + choose.choice([",", ", "]).join(parts) + "}"


def stored(folder: Path, rows: list[dict[str, Any]], seed: int, *, compressed: bool = False) -> Path:
    choose = random.Random(seed)
    text = "".join(fields({"y": 0} | row, choose) + "\n" for row in rows).encode()
    path = folder / f"{seed}.json"
    path.write_bytes(gzip.compress(text) if compressed else text)
    return path


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """All but the first line of a shard goes to Arrow's reader first; whether it read each block."""
    taken: list[bool] = []

    def read_block(*arguments: Any) -> Any:
        block = arrow_reader.read_block(*arguments)
        taken.append(block is not None)
        return block

    monkeypatch.setattr(shards, "HEAD_BYTES", 1)
    monkeypatch.setattr(dataset, "read_block", read_block)
    return taken


@PROPERTY
@given(rows=ROWS, seed=st.integers(0, 1000))
def test_a_row_has_one_hash_in_whatever_form_it_is_stored(
    tmp_path: Path, in_blocks: list[bool], rows: list[dict[str, Any]], seed: int
) -> None:
    expected = of_rows([{"y": 0} | row for row in rows])
    for compressed in (False, True):
        path = stored(tmp_path, rows, seed + compressed, compressed=compressed)
        np.testing.assert_array_equal(load(path, KINDS, identity=()).hashes, expected)


@pytest.mark.parametrize("block_bytes", [1, 200, 10**6])
def test_both_readers_hash_alike_and_Arrow_reads_what_is_plain(
    tmp_path: Path, in_blocks: list[bool], monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(shards, "PIECE", 100)
    rows = [
        {"y": n % 2, "i": n, "q": str(n), "f": n / 8, "d": f"{n / 8}", "t": f"title {n} " * (n % 30), "b": n % 3 == 0,
         "l": [n, n + 1][: n % 3], "r": {"x": n, "z": [{"k": "v"}]}, "e": None, "n": "NaN" if n % 7 == 0 else n / 3}
        for n in range(1, 200)
    ]  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load(path, KINDS, identity=())
    np.testing.assert_array_equal(read.hashes, of_rows(rows))
    assert len(set(read.hashes.tolist())) == len(rows)
    assert all(in_blocks)  # all blocks but the head, which it is not asked for
    monkeypatch.setattr(dataset, "read_block", lambda *_: None)
    np.testing.assert_array_equal(load(path, KINDS, identity=()).hashes, read.hashes)


LATE: list[Any] = [
    "x",
    7,
    1.5,
    True,
    ["a"],
    {"k": [1]},
    "2024-01-01",
    "2024-01-01 10:00:00",
    {"at": "2024-02-29T01:02:03Z"},
]


@pytest.mark.parametrize("value", LATE)
def test_a_column_that_comes_late_is_read_by_Arrow_too(
    tmp_path: Path, in_blocks: list[bool], monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    """Exports leave out NULLs, so the first rows need not have all columns."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 100)
    monkeypatch.setattr(shards, "PIECE", 100)
    rows = [
        {"y": 1, "n": n, "r": {"old": n}} | ({"late": value, "r": {"new": value}} if n > 50 and n % 3 else {})
        for n in range(200)
    ]
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.testing.assert_array_equal(load(path, KINDS, identity=()).hashes, of_rows(rows))
    assert len(in_blocks) > 10
    assert all(in_blocks)


@pytest.mark.parametrize(
    ("same", "other"),
    [
        ([1, 1.0, "1", "1.0", "10e-1"], ["01", "+1", "1.", True, [1], {"x": 1}]),
        ([-0.0, 0, 0.0, "0", "-0.0"], ["", "00", False]),
        ([0.1, "0.1", "1e-1", "0.10"], ["0.1 ", ".1"]),
        ([9007199254740993, "9007199254740993"], [9007199254740992, 9007199254740994]),
        ([True, "true"], ["True", 1]),
        ([None, "NaN", [], {}, [None], {"x": None}], ["null", "", [""]]),
        (["é", "\u00e9"], ["e\u0301", "É"]),
        ([[1, "2"], ["1", 2.0]], [[2, 1], [[1, 2]], [1, 2, 3], {"1": 2}]),
        ([{"a": 1, "b": None}, {"a": "1"}], [{"b": 1}, {"a": {"a": 1}}, [{"a": 1}]]),
        ([1e300, "1e300", "1E+300"], [1e299]),
        (["1e400"], ["1e401", 1e300]),
    ],
)
def test_values_that_mean_the_same_are_one_and_others_are_not(same: list[Any], other: list[Any]) -> None:
    assert len(set(of_rows([{"x": value} for value in same]).tolist())) == 1
    values = of_rows([{"x": value} for value in [same[0], *other]])
    assert len(set(values.tolist())) == 1 + len(other)


def test_a_value_counts_with_the_name_of_its_column() -> None:
    rows = [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}, {"b": 1}, {}, {"a": 1, "c": 2}]
    assert len(set(of_rows(rows).tolist())) == len(rows)


def test_texts_of_every_length_are_told_apart_by_each_of_their_bytes() -> None:
    for length in [*range(1, 70), 127, 128, 129, 130, 255, 256, 257, 400]:
        text = bytearray(b"a" * length)
        variants = [bytes(text), b"a" * (length + 1)]
        for at in range(length):
            text[at] ^= 1
            variants.append(bytes(text))
            text[at] ^= 1
        hashes = of_rows([{"x": variant.decode()} for variant in variants])
        assert len(set(hashes.tolist())) == len(variants)


def test_hashes_are_the_same_for_ever() -> None:
    """These figures may never change: a new version must not move rows between sides."""
    rows: list[dict[str, Any]] = [
        {"id": "12", "t": "été 日本", "f": 0.5, "b": True, "l": ["x", 3], "r": {"k": "v"}, "n": None},
        {"t": "Sixteen letters.", "long": "A text of more than 128 bytes. " * 5, "i": 2**53 + 1},
        {},
    ]
    assert [int(number) for number in of_rows(rows)] == [190164913842022600, 17589929727696838821, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"id": n},
        lambda n: {"id": f"user_{n:09}"},
        lambda n: {"x": n / 7},
        lambda n: {"a": n % 100, "b": n // 100},
        lambda n: {"t": "the same beginning of a long text " * 4 + str(n)},
        lambda n: {"l": [n % 10, n // 10]},
    ],
)
def test_bits_of_hashes_are_even_and_independent(make: Callable[[int], dict[str, Any]]) -> None:
    """Rows that count up: every bit is set in half of them, every pair of bits agrees in half of them."""
    hashes = of_rows([make(n) for n in range(10_000)])
    assert len(set(hashes.tolist())) == 10_000
    bits = ((hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).astype(np.float64) - 0.5
    correlation = 4 * bits.T @ bits / 10_000
    assert np.abs(4 * bits.mean(axis=0)).max() < 2 * 4.5 / np.sqrt(10_000) * 1.01
    assert np.abs(correlation - np.eye(64)).max() < 5.5 / np.sqrt(10_000)
