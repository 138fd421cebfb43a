"""Splits: decided by what rows hold, never by where they stand; groups stay whole and have equal chances."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data.make_sample import make_rows
from trainer.data.column_hash import row_hashes
from trainer.data.draws import EqualRows
from trainer.data.split import Split, components_of, links_of, split_rows
from trainer.data.split_facts import describe_split, fingerprint
from trainer.runtime.errors import DataError

PROPERTY = hypothesis_settings(max_examples=50, deadline=None)
LISTS = pd.ArrowDtype(pa.list_(pa.string()))

VALUES = st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["a", "b", "c"]))
KEYS = st.one_of(st.none(), st.integers(0, 30).map(str))
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "key": VALUES,
            "category": VALUES,
            "number": st.one_of(st.none(), st.floats(allow_infinity=False, allow_nan=False), st.just(-0.0)),
            "list": st.one_of(st.none(), st.lists(st.text(max_size=2), max_size=3)),
            "time": st.one_of(st.none(), st.integers(-(2**62), 2**62)),
        }
    ),
    min_size=1,
    max_size=40,
)


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One column of each dtype that the loader makes."""
    frame = pd.DataFrame(rows, columns=["key", "category", "number", "list", "time"], dtype=object)
    dtypes = {"key": "str", "category": "category", "number": "float64", "list": LISTS, "time": "Int64"}
    return frame.assign(**{name: pd.Series(frame[name].tolist(), dtype=dtype) for name, dtype in dtypes.items()})


def cut(frame: pd.DataFrame, *, method: str, columns: Sequence[str], **arguments: Any) -> Split:
    """The split of rows that are identified by these columns, or none for all; a stored row is all of a frame here."""
    key = columns if method == "random" else ()
    hashes = row_hashes(frame, key)
    draws = hashes if key else EqualRows().draws(hashes)
    return split_rows(frame, method=method, columns=columns, draws=draws, **arguments)


def sides_of(frame: pd.DataFrame, split: Split) -> np.ndarray:
    """The number of the side of each row; each row is on exactly one."""
    sides = np.full(len(frame), -1)
    for number, rows in enumerate(split):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert (sides[rows] == -1).all()
        sides[rows] = number
    assert (sides >= 0).all()
    return sides


def sides_or_nothing(frame: pd.DataFrame, **arguments: Any) -> np.ndarray | None:
    """Small tables often leave a side empty, which is refused."""
    try:
        return sides_of(frame, cut(frame, test_fraction=0.3, validation_fraction=0.3, **arguments))
    except DataError:
        return None


def bag(frame: pd.DataFrame, sides: np.ndarray) -> list[tuple[int, int]]:
    """The rows of each side, whatever their order."""
    return sorted(zip(row_hashes(frame, ()).tolist(), sides.tolist(), strict=True))


# Random


@PROPERTY
@given(rows=ROWS, seed=st.integers(0, 2**31 - 1), data=st.data())
@pytest.mark.parametrize("columns", [(), ("key",), ("category", "key")])
def test_random_sides_depend_neither_on_order_nor_on_shards(
    rows: list[dict[str, Any]], seed: int, data: st.DataObject, columns: tuple[str, ...]
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    here = sides_or_nothing(table(rows), method="random", columns=columns, seed=seed)
    there = sides_or_nothing(table([rows[i] for i in order]), method="random", columns=columns, seed=seed)
    assert (here is None) == (there is None)
    if here is not None and there is not None:
        assert bag(table(rows), here) == bag(table([rows[i] for i in order]), there)


@PROPERTY
@given(rows=ROWS, more=ROWS, seed=st.integers(0, 2**31 - 1))
def test_adding_rows_moves_no_other_row(rows: list[dict[str, Any]], more: list[dict[str, Any]], seed: int) -> None:
    before = sides_or_nothing(table(rows), method="random", columns=(), seed=seed)
    after = sides_or_nothing(table(rows + more), method="random", columns=(), seed=seed)
    if before is not None:
        assert after is not None
        np.testing.assert_array_equal(after[: len(rows)], before)


@PROPERTY
@given(rows=ROWS, seed=st.integers(0, 2**31 - 1))
def test_D50_rows_of_one_key_land_on_one_side(rows: list[dict[str, Any]], seed: int) -> None:
    doubled = sides_or_nothing(table(rows + rows), method="random", columns=("key",), seed=seed)
    if doubled is not None:
        np.testing.assert_array_equal(doubled[: len(rows)], doubled[len(rows) :])


def test_larger_fractions_only_add_rows() -> None:
    frame = make_rows(2000)
    small, large = (
        cut(frame, method="random", columns=(), test_fraction=f, validation_fraction=0.1, seed=3).test
        for f in (0.1, 0.2)
    )
    assert set(small) < set(large)


def test_sides_depend_on_values_not_on_how_they_are_held() -> None:
    frame = make_rows(2000)[["row_id", "item", "publisher", "age"]]
    as_category = frame.assign(
        item=frame["item"].astype("category"),
        publisher=pd.Categorical(frame["publisher"], categories=sorted(frame["publisher"].dropna().unique())[::-1]),
        age=frame["age"].replace(0.0, -0.0),
    )[["publisher", "row_id", "age", "item"]]
    for columns in ((), ("item", "publisher"), ("publisher", "item")):
        arguments: dict[str, Any] = {"method": "random", "test_fraction": 0.2, "validation_fraction": 0.2, "seed": 0}
        here = cut(frame, columns=columns, **arguments)
        there = cut(as_category, columns=columns, **arguments)
        np.testing.assert_array_equal(sides_of(frame, here), sides_of(frame, there))


def test_sides_are_the_same_for_ever() -> None:
    """These figures may never change: a new version of a library must not move rows between sides."""
    frame = table(
        [
            {"key": "9007199254740993", "category": "ab", "number": 0.5, "list": ["x", "y"], "time": 2**53 + 1},
            {"key": "", "category": None, "number": None, "list": [], "time": None},
            {"key": "été 日本", "category": "ab", "number": -1e-300, "list": None, "time": -1},
        ]
    )
    frame["day"] = pd.to_datetime(["2024-02-29", None, "0001-01-01"], utc=True)
    hashes = row_hashes(frame, ())
    assert [int(number) for number in hashes] == [11742507869380298322, 1240412208912009455, 15937660766644313623]


def test_another_seed_is_another_independent_split() -> None:
    frame = make_rows(20_000)
    arguments: dict[str, Any] = {"method": "random", "columns": (), "test_fraction": 0.2, "validation_fraction": 0}
    first, second = (cut(frame, seed=seed, **arguments).test for seed in (0, 1))
    assert len(np.intersect1d(first, second)) == pytest.approx(20_000 * 0.04, abs=4 * np.sqrt(20_000 * 0.04))


@pytest.mark.parametrize("columns", [(), ("row_id",), ("row_id", "item")])
def test_random_fractions_hold_within_sampling_error(columns: tuple[str, ...]) -> None:
    frame = make_rows(20_000)
    for seed in range(5):
        split = cut(frame, method="random", columns=columns, test_fraction=0.1, validation_fraction=0.25, seed=seed)
        for rows, fraction in ((split.test, 0.1), (split.validation, 0.25)):
            assert abs(len(rows) / 20_000 - fraction) < 4.5 * np.sqrt(fraction * (1 - fraction) / 20_000)


def test_side_given_separately_is_empty() -> None:
    frame = make_rows(1000)
    for method, columns in (("random", ()), ("group", ("title",)), ("time", ("row_id",))):
        split = cut(frame, method=method, columns=columns, test_fraction=0, validation_fraction=0.2, seed=0)
        assert len(split.test) == 0 < len(split.validation) < len(split.train)
        split = cut(frame, method=method, columns=columns, test_fraction=0.2, validation_fraction=0, seed=0)
        assert len(split.validation) == 0 < len(split.test) < len(split.train)
        split = cut(frame, method=method, columns=columns, test_fraction=0, validation_fraction=0, seed=0)
        np.testing.assert_array_equal(split.train, np.arange(1000))


# Time


@PROPERTY
@given(times=st.lists(st.integers(-20, 20), min_size=1, max_size=60), seed=st.randoms())
def test_time_sides_follow_each_other_and_share_no_time(times: list[int], seed: Any) -> None:
    frame = pd.DataFrame({"time": pd.Series(times, dtype="Int64")})
    arguments: dict[str, Any] = {"method": "time", "columns": ("time",), "seed": 0}
    sides = sides_or_nothing(frame, **arguments)
    if sides is None:
        assert len(set(times)) < 3 or len(times) < 5 or max(times.count(time) for time in times) > 1
        return
    train, validation, test = (np.array(times)[sides == number] for number in range(3))
    assert train.max() < validation.min() <= validation.max() < test.min()
    # The later side is the first that reaches its share: without its earliest time it would fall short.
    assert len(test) >= round(0.3 * len(times)) > (test > test.min()).sum()
    seed.shuffle(times)
    shuffled = sides_or_nothing(pd.DataFrame({"time": pd.Series(times, dtype="Int64")}), **arguments)
    assert shuffled is not None
    assert sorted(np.array(times)[shuffled == 2]) == sorted(test)


@pytest.mark.parametrize("dtype", ["datetime64[us]", "datetime64[us, UTC]", "Int64"])
def test_time_of_each_dtype_splits_alike_and_exactly(dtype: str) -> None:
    microseconds = 2**53 + np.random.default_rng(0).permutation(1000)  # neighbours are one as float64
    times = pd.Series(microseconds, dtype="Int64")
    if dtype != "Int64":
        times = pd.to_datetime(pd.Series(microseconds), unit="us", utc="UTC" in dtype).astype(dtype)
    split = cut(
        pd.DataFrame({"at": times}), method="time", columns=("at",), test_fraction=0.1, validation_fraction=0.2, seed=0
    )
    assert set(microseconds[split.test]) == set(range(2**53 + 900, 2**53 + 1000))
    assert set(microseconds[split.validation]) == set(range(2**53 + 700, 2**53 + 900))


# Group


@PROPERTY
@given(st.lists(st.tuples(KEYS, KEYS, KEYS), min_size=1, max_size=60), st.integers(0, 2**31 - 1), st.data())
def test_no_group_value_is_on_two_sides_whatever_the_order(
    rows: list[tuple[str | None, ...]], seed: int, data: st.DataObject
) -> None:
    frame = pd.DataFrame(rows, columns=["a", "b", "c"], dtype="str")
    arguments: dict[str, Any] = {"method": "group", "columns": ("a", "b", "c"), "seed": seed}
    sides = sides_or_nothing(frame, **arguments)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = sides_or_nothing(frame.iloc[order], **arguments)
    assert (sides is None) == (shuffled is None)
    if sides is None or shuffled is None:
        return
    assert bag(frame, sides) == bag(frame.iloc[order], shuffled)
    for name in frame:
        known = frame[name].notna()
        assert pd.Series(sides[known]).groupby(frame.loc[known, name].to_numpy()).nunique().le(1).all()


@PROPERTY
@given(st.lists(st.tuples(KEYS, KEYS), min_size=1, max_size=60))
def test_components_agree_with_union_find(rows: list[tuple[str | None, ...]]) -> None:
    parent = list(range(len(rows)))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, row in enumerate(rows):
        for j in range(i):
            if any(x is not None and x == y for x, y in zip(row, rows[j], strict=True)):
                parent[find(i)] = find(j)
    expected = [find(i) for i in range(len(rows))]
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype="str")
    found = components_of(*links_of(frame, ("a", "b")), len(frame))
    assert len(set(zip(expected, found, strict=True))) == len(set(expected)) == len(set(found))


def test_missing_and_empty_values_link_nothing_and_columns_are_kept_apart() -> None:
    frame = pd.DataFrame({"a": [None, None, "", "", "x", "y"], "b": ["1", "2", "3", "4", "y", "x"]}, dtype="str")
    rows, links = links_of(frame, ("a", "b"))
    assert len(set(components_of(rows, links, 6))) == 6


def test_each_element_of_a_list_links() -> None:
    frame = pd.DataFrame({"topics": pd.Series([["a", "b"], ["b", "c"], ["c"], ["d"], [], None, []], dtype=LISTS)})
    component = components_of(*links_of(frame, ("topics",)), 7)
    assert component[0] == component[1] == component[2]
    assert len(set(component)) == 5


def test_components_are_drawn_uniformly_whatever_their_size() -> None:
    """One component with half of all rows, one of a tenth, hundreds of small ones: all are test equally often."""
    sizes = np.array([2000, 400, *([4] * 300), *([1] * 400)])
    group = np.repeat(np.arange(len(sizes)), sizes)
    row = np.arange(len(group))
    # Rows of a component hang together as a chain: each shares its title with one, its thumbnail with the other.
    frame = pd.DataFrame(
        {"title": [f"{g}-{r // 2}" for g, r in zip(group, row, strict=True)],
         "thumbnail": [f"{g}-{(r + 1) // 2}" for g, r in zip(group, row, strict=True)]},
        dtype="str",
    )  # fmt: skip
    drawn = np.zeros(len(sizes))
    seeds, columns = 300, ("title", "thumbnail")
    for seed in range(seeds):
        split = cut(frame, method="group", columns=columns, test_fraction=0.15, validation_fraction=0.1, seed=seed)
        sides = sides_of(frame, split)
        drawn += np.bincount(group[split.test], minlength=len(sizes)) > 0
        assert np.unique(group[sides == 2]).size + np.unique(group[sides != 2]).size == len(sizes)
    error = np.sqrt(0.15 * 0.85 / seeds)
    assert abs(drawn[0] / seeds - 0.15) < 4 * error
    assert abs(drawn[1] / seeds - 0.15) < 4 * error
    for part in (drawn[2:302], drawn[302:]):
        assert abs(part.mean() / seeds - 0.15) < 4 * error / np.sqrt(len(part))
        assert part.var() == pytest.approx(seeds * 0.15 * 0.85, rel=0.3)


def test_sample_has_many_small_groups_that_need_both_columns() -> None:
    frame = make_rows(20_000)
    groups = {}
    for columns in (("title",), ("thumbnail",), ("title", "thumbnail")):
        component = components_of(*links_of(frame, columns), len(frame))
        groups[columns] = len(set(component))
        assert np.bincount(component).max() < 0.1 * len(frame)
    assert 100 < groups[("title", "thumbnail")] < min(groups[("title",)], groups[("thumbnail",)]) / 1.3


# Refusals


@pytest.mark.parametrize(
    ("method", "columns", "units"),
    [
        ("random", (), "rows"),
        ("random", ("item",), "keys"),
        ("group", ("item",), "groups"),
        ("time", ("hour",), "times"),
    ],
)
def test_D51_empty_side_is_refused_with_figures_and_advice(method: str, columns: tuple[str, ...], units: str) -> None:
    frame = make_rows(400).assign(item="one", hour=7).head(400 if columns else 1)
    with pytest.raises(DataError) as caught:
        cut(frame, method=method, columns=columns, test_fraction=0.2, validation_fraction=0.1, seed=0)
    by = ", ".join(map(repr, columns)) or "all columns"
    assert f"split={method} by {by} of {len(frame)} rows with 1 distinct {units}" in str(caught.value)
    assert "test_fraction=0.2, validation_fraction=0.1" in str(caught.value)
    assert "use more rows, or name separate datasets with --validation-data and --test-data" in str(caught.value)


@pytest.mark.parametrize(("test", "validation", "side"), [(0.999, 0.001, "train"), (0.2, 1e-12, "validation")])
def test_C34_fractions_that_leave_a_side_empty_are_refused(test: float, validation: float, side: str) -> None:
    with pytest.raises(DataError, match=f"No rows are left for the {side} set: "):
        cut(make_rows(50), method="random", columns=(), test_fraction=test, validation_fraction=validation, seed=0)


# Description


def test_description_counts_rows_groups_duplicates_and_unseen_values() -> None:
    def side(keys: list[str], items: list[str | None], topics: list[list[str] | None]) -> pd.DataFrame:
        return pd.DataFrame(
            {"key": pd.Series(keys, dtype="str"), "item": pd.Series(items, dtype="category"),
             "topics": pd.Series(topics, dtype=LISTS)}
        )  # fmt: skip

    sides = {
        "train": side(["1", "2", "3"], ["a", "b", None], [["x"], ["y", "x"], []]),
        "validation": side(["4"], [None], [None]),
        "test": side(["2", "5", "6", "7"], ["a", "c", "c", None], [["y"], ["x", "z"], ["w"], []]),
    }
    report = describe_split(
        sides, categorical_columns=["item", "topics"], group_columns=["item", "topics"],
        hashes={name: row_hashes(frame, ["key"]) for name, frame in sides.items()},
        draws={name: row_hashes(frame, ["key"]) for name, frame in sides.items()},
    )  # fmt: skip
    assert json.loads(json.dumps(report)) == report
    assert report["rows"] == {"train": 3, "validation": 1, "test": 4}
    assert report["also_in_train"] == {"validation": 0, "test": 1}
    assert report["fingerprints"]["test"] == fingerprint(np.sort(row_hashes(sides["test"], ["key"])))
    assert len(set(report["fingerprints"].values())) == 3
    assert report["unseen"] == {"validation": {"item": 0.0, "topics": 0.0}, "test": {"item": 0.5, "topics": 0.5}}
    # One component holds the training rows a and b with the test rows a, c, c; three rows stand alone.
    spread = {"rows_min": 1.0, "rows_median": 3.0, "rows_mean": 3.0, "rows_max": 5.0}
    assert report["groups"]["train"] == {"groups": 2, "also_elsewhere": 1} | spread
    assert report["groups"]["test"] == {"groups": 2, "also_elsewhere": 1} | spread
    alone = {"rows_min": 1.0, "rows_median": 1.0, "rows_mean": 1.0, "rows_max": 1.0}
    assert report["groups"]["validation"] == {"groups": 1, "also_elsewhere": 0} | alone


def test_description_of_a_group_split_finds_no_group_elsewhere() -> None:
    frame = make_rows(5000)
    columns = ("title", "thumbnail")
    split = cut(frame, method="group", columns=columns, test_fraction=0.2, validation_fraction=0.2, seed=1)
    sides = {name: frame.iloc[rows] for name, rows in split._asdict().items()}
    hashes = {name: row_hashes(frame, ["row_id"]) for name, frame in sides.items()}
    report = describe_split(sides, categorical_columns=["item"], group_columns=columns, hashes=hashes, draws=hashes)
    assert sum(report["rows"].values()) == 5000
    assert {side["also_elsewhere"] for side in report["groups"].values()} == {0}
    assert 0 < report["unseen"]["test"]["item"] < 0.5
    known = set(sides["train"]["item"])
    assert report["unseen"]["test"]["item"] == pytest.approx((~sides["test"]["item"].isin(known)).mean())


def test_description_of_an_empty_side_is_all_zero() -> None:
    frame = make_rows(100)
    sides = {"train": frame, "test": frame.head(0)}
    hashes = {name: row_hashes(frame, ()) for name, frame in sides.items()}
    report = describe_split(sides, categorical_columns=["item"], group_columns=["title"], hashes=hashes, draws=hashes)
    assert report["rows"]["test"] == report["also_in_train"]["test"] == report["unseen"]["test"]["item"] == 0
    assert report["groups"]["test"] == {"groups": 0, "also_elsewhere": 0}


@pytest.mark.parametrize("method", ["random", "group", "stratified", "time"])
def test_validation_parts_are_disjoint_and_leave_the_test_rows(method: str) -> None:
    rows = [{"key": f"{number}", "category": "abc"[number % 3], "time": number} for number in range(1000)]
    frame = table(rows)
    columns = {"time": ["time"], "group": ["key"]}.get(method, [])
    strata = {"stratify_column": "category"} if method == "stratified" else {}
    parts = [
        cut(frame, method=method.replace("stratified", "random"), columns=columns, test_fraction=0.2,
            validation_fraction=0.1, seed=3, validation_part=part, **strata)
        for part in range(7)
    ]  # fmt: skip
    assert all((part.test == parts[0].test).all() for part in parts)
    validation = np.concatenate([part.validation for part in parts])
    assert len(np.unique(validation)) == len(validation)
    for part in parts:
        assert 60 <= len(part.validation) <= 140
        assert not set(part.train) & (set(part.validation) | set(part.test))
        if method == "time":  # trained on what is earlier alone
            assert part.train.max() < part.validation.min() <= part.validation.max() < part.test.min()
        else:
            assert len(part.train) + len(part.validation) + len(part.test) == len(frame)
