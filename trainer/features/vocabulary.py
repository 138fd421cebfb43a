"""Build vocabularies and map values to ids.

A row of a column with a vocabulary holds values: one category, a list of categories, or the tokens of a text. Each
distinct cell is processed once, however many rows have it.

Ids: 0 padding, 1 missing, 2 out of vocabulary, from 3 on the vocabulary, most frequent first, ties sorted by value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.features.tokenizers import TextRules, Tokens, tokenize

ENDS = ("first", "last")  # which values of a long row are kept
PADDING_ID, MISSING_ID, OOV_ID, FIRST_ID = range(4)

# Stands for a missing value among the raw strings that a SavedModel takes. Preprocessing therefore reads this string as
# missing, too.
MISSING = "__missing__"

WHOLE = r"^(0|-?[1-9][0-9]*)$"
BOOLEANS = (("true", "1", "1.0", "True", "TRUE"), ("false", "0", "0.0", "False", "FALSE"))  # texts that mean the same

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class VocabularyRules:
    """Limits: a value is out of vocabulary if it occurs fewer than `min_count` times in the training rows or is not
    among the `max_size` most frequent ones. A row of a multi-categorical column keeps `max_values` values, the "first"
    or the "last"."""

    min_count: int
    max_size: int
    max_values: int
    keep: str = "first"


class Kept(NamedTuple):
    """Which values of a row are kept: at most `width`, the "first" or the "last"."""

    width: int
    end: str


class Values(NamedTuple):
    """The values of a column's rows, each distinct cell stored once: row r has the tokens of cell `cells[r]`."""

    tokens: Tokens  # of the distinct cells
    cells: npt.NDArray[np.int32]  # [rows]; -1: the row has none

    def of(self, rows: Array | slice) -> "Values":
        """The values of some rows."""
        return Values(self.tokens, self.cells[rows])

    @property
    def lengths(self) -> Array:
        """How many values each row has: int64 [rows]."""
        return np.append(np.diff(self.tokens.offsets), 0)[self.cells]

    @property
    def flat(self) -> Tokens:
        """The cell of each row, in order; a row without a cell has no tokens."""
        lengths = self.lengths
        offsets = np.append(0, np.cumsum(lengths))
        first = np.append(self.tokens.offsets[:-1], 0)[self.cells]
        ids = self.tokens.ids[np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])]
        return Tokens(self.tokens.values, ids, offsets)


def values_of(column: "pd.Series | Values", role: str, text: TextRules) -> Values:
    """The values of each row of a column; role: "categorical", "multi_categorical" or "text"."""
    if isinstance(column, Values):
        return column
    if role == "multi_categorical":
        return list_values(column)
    return category_values(column) if role == "categorical" else text_values(column, text)


def category_values(column: pd.Series) -> Values:
    """One value per row, of dtype `category`."""
    column = _without_unused_categories(column)
    categories = column.cat.categories.tolist()
    one_each = Tokens(categories, np.arange(len(categories), dtype=np.int32), np.arange(len(categories) + 1))
    return Values(one_each, column.cat.codes.to_numpy().astype(np.int32, copy=False))


def text_values(column: pd.Series, rules: TextRules) -> Values:
    """The tokens of a text per row, of dtype `category` or `str`."""
    distinct = _without_unused_categories(column.astype("category")).cat
    tokens = tokenize(distinct.categories, rules)
    cells = distinct.codes.to_numpy().astype(np.int32, copy=False)
    return Values(tokens, np.where(cells == distinct.categories.get_indexer(pd.Index([MISSING])), np.int32(-1), cells))


def _without_unused_categories(column: pd.Series) -> pd.Series:
    """Drop unused categories if there are more categories than rows, as in a small part of a large frame."""
    return column if len(column.cat.categories) <= len(column) else column.cat.remove_unused_categories()


def list_values(column: pd.Series) -> Values:
    """A list of values per row, of dtype list<string>; a missing list is null or empty."""
    lists = pa.array(column.array)
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    rows = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).fill_null(0).to_numpy())
    flat = lists.flatten()
    present = pc.not_equal(flat, MISSING).fill_null(False)
    encoded = flat.filter(present).dictionary_encode()
    lengths = np.bincount(rows[present.to_numpy(zero_copy_only=False)], minlength=len(lists))
    tokens = Tokens(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), np.append(0, np.cumsum(lengths)))
    return Values(tokens, np.where(lengths > 0, np.arange(len(lists), dtype=np.int32), np.int32(-1)))


def most_frequent(values: Values, kept: Kept, rules: VocabularyRules) -> tuple[str, ...]:
    """The vocabulary of a column: the values with ids from 3 on.

    Counts occurrences among the kept values of each row, since training never sees the rest.
    """
    tokens = values.tokens
    rows_of_cell = np.bincount(values.cells + 1, minlength=len(tokens.offsets))[1:]
    counts = np.zeros(len(tokens.values), np.int64)
    for cells, numbers in _by_position(tokens, kept):
        # As weights, counts are floats: exact below 2**53.
        counts += np.bincount(numbers, rows_of_cell[cells], minlength=len(counts)).astype(np.int64)
    table = pa.table({"value": pa.array(tokens.values, pa.large_string()), "count": counts})
    frequent = table.filter((pc.field("count") >= rules.min_count) & (pc.field("value") != MISSING))
    ranked = frequent.sort_by([("count", "descending"), ("value", "ascending")])  # Arrow's order is that of code points
    return tuple(ranked["value"].slice(0, rules.max_size).to_pylist())


def ids_of_cells(tokens: Tokens, vocabulary: tuple[str, ...], kept: Kept) -> npt.NDArray[np.int32]:
    """The ids of the kept values of each cell, int32 [cells + 1, width], right-padded with 0.

    The last row, which index -1 of a row without a cell selects, is [1, 0, ...].
    """
    texts, ids_of_texts = spellings(vocabulary)
    id_of = np.append(ids_of_texts, np.int32(OOV_ID))[indices_of(tokens.values, texts)]
    id_of[[value == MISSING for value in tokens.values]] = MISSING_ID
    ids = np.zeros((len(tokens.offsets), kept.width), np.int32)
    ids[:-1] = padded(tokens, id_of, kept)
    ids[-1, 0] = MISSING_ID
    return ids


def spellings(vocabulary: tuple[str, ...]) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    """The texts that mean a value of a vocabulary, and the ids of these values.

    Whole numbers may be written as pandas makes them of a column with a missing value: 1021.0 for 1021. Booleans may be
    numbers or words: "1", "1.0" or "True" for "true", and the other way round.
    """
    texts = pa.array(vocabulary, pa.string())
    ids = np.arange(FIRST_ID, FIRST_ID + len(vocabulary), dtype=np.int32)
    others: dict[str, int] = {}
    if vocabulary and pc.all(pc.match_substring_regex(texts, WHOLE)).as_py():
        others = {f"{value}.0": number for value, number in zip(vocabulary, ids.tolist(), strict=True)}
    if vocabulary and (set(vocabulary) <= {"0", "1"} or set(vocabulary) <= {"false", "true"}):
        known = dict(zip(vocabulary, ids.tolist(), strict=True))
        for same in BOOLEANS:
            others |= {text: known[value] for value in same if value in known for text in same if text not in known}
    return (*vocabulary, *others), np.append(ids, np.array([*others.values()], np.int32))


def indices_of(values: list[str], vocabulary: tuple[str, ...]) -> Array:
    """The index of each value in the vocabulary, or -1: int32 [values]."""
    text = pa.large_string()
    indices = pc.index_in(pa.array(values, text), value_set=pa.array(vocabulary, text))
    return np.asarray(indices.fill_null(-1))


def padded(tokens: Tokens, id_of: Array, kept: Kept) -> npt.NDArray[np.int32]:
    """int32 [cells, width]: `id_of[i]` for the kept values i of each cell, right-padded with 0."""
    ids = np.zeros((len(tokens.offsets) - 1, kept.width), np.int32)
    for position, (cells, values) in enumerate(_by_position(tokens, kept)):
        ids[cells, position] = id_of[values]
    return ids


def _by_position(tokens: Tokens, kept: Kept) -> Iterator[tuple[Array, Array]]:
    """For the first, second, ... kept value of a cell: the cells that have it, and which value it is."""
    lengths = np.diff(tokens.offsets)
    first = tokens.offsets[:-1] + (np.maximum(lengths - kept.width, 0) if kept.end == "last" else 0)
    for position in range(min(kept.width, int(lengths.max(initial=0)))):
        cells = np.flatnonzero(lengths > position)
        yield cells, tokens.ids[first[cells] + position]
