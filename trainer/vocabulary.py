"""Ids for values. Every column with a vocabulary is rows of values: one category, a list of them, the tokens of a text.

Ids: 0 padding, 1 missing, 2 out of vocabulary, from 3 on the known values by falling count, ties by value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from trainer.text import TextRules, Tokens, tokenize

PADDING_ID, MISSING_ID, OOV_ID, FIRST_ID = range(4)

# How a missing value looks among the raw strings that a SavedModel takes. A row that really holds this value is, here
# too, a row without one.
MISSING = "__missing__"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class VocabularyRules:
    """A value that occurs fewer than `min_count` times in the training rows is out of vocabulary, as are all beyond the
    `max_size` most frequent; `max_values` are kept per row of a multi-categorical column."""

    min_count: int
    max_size: int
    max_values: int


def tokens_of(column: pd.Series, role: str, text: TextRules) -> Tokens:
    """The values of each row of a column; role: "categorical", "multi_categorical" or "text"."""
    if role == "text":
        return tokenize(column.mask(column == MISSING), tokenizer=text.tokenizer, lowercase=text.lowercase)
    return category_tokens(column) if role == "categorical" else list_tokens(column)


def category_tokens(column: pd.Series) -> Tokens:
    """One value per row, of dtype `category`."""
    codes = column.cat.codes.to_numpy()
    offsets = np.append(0, np.cumsum(codes >= 0))
    return Tokens(column.cat.categories.tolist(), codes[codes >= 0].astype(np.int32), offsets, codes < 0)


def list_tokens(column: pd.Series) -> Tokens:
    """A list of values per row, of dtype list<string>; a row without any is missing, null or empty."""
    lists = pa.array(column.array)
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    rows = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).fill_null(0).to_numpy())
    flat = lists.flatten()
    present = pc.not_equal(flat, MISSING).fill_null(False)
    encoded = flat.filter(present).dictionary_encode()
    lengths = np.bincount(rows[present.to_numpy(zero_copy_only=False)], minlength=len(lists))
    offsets = np.append(0, np.cumsum(lengths))
    return Tokens(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), offsets, lengths == 0)


def most_frequent(tokens: Tokens, width: int, rules: VocabularyRules) -> tuple[str, ...]:
    """The vocabulary: values from id 3 on. Counts occurrences among the first `width` values of each row, for what is
    cut off is never learnt from."""
    seen = np.concatenate([np.zeros(0, np.int32), *(ids for _, ids in _by_position(tokens, width))])
    counts = np.bincount(seen, minlength=len(tokens.values))
    table = pa.table({"value": pa.array(tokens.values, pa.large_string()), "count": counts})
    known = table.filter((pc.field("count") >= rules.min_count) & (pc.field("value") != MISSING))
    ranked = known.sort_by([("count", "descending"), ("value", "ascending")])  # Arrow's order is that of code points
    return tuple(ranked["value"].slice(0, rules.max_size).to_pylist())


def ids_of(tokens: Tokens, vocabulary: tuple[str, ...], width: int) -> npt.NDArray[np.int32]:
    """int32 [rows, width]: the ids of the first values of each row, right-padded with 0; [1, 0, ...] if missing."""
    known = indices_of(tokens.values, vocabulary)
    id_of = np.where(known < 0, OOV_ID, FIRST_ID + known)
    id_of[[value == MISSING for value in tokens.values]] = MISSING_ID
    ids = padded(tokens, id_of, width)
    ids[tokens.missing, 0] = MISSING_ID
    return ids


def indices_of(values: list[str], known: tuple[str, ...]) -> Array:
    """The index of each value among the known ones, or -1: int32 [values]."""
    text = pa.large_string()
    found = pc.index_in(pa.array(values, text), value_set=pa.array(known, text))
    return np.asarray(found.fill_null(-1))


def padded(tokens: Tokens, id_of: Array, width: int) -> npt.NDArray[np.int32]:
    """int32 [rows, width]: `id_of[i]` for the first values i of each row, right-padded with 0."""
    ids = np.zeros((len(tokens.missing), width), np.int32)
    for position, (rows, values) in enumerate(_by_position(tokens, width)):
        ids[rows, position] = id_of[values]
    return ids


def _by_position(tokens: Tokens, width: int) -> Iterator[tuple[Array, Array]]:
    """For the first, second, ... value of a row, at most `width`: the rows that have it, and which value it is."""
    lengths = np.diff(tokens.offsets)
    for position in range(min(width, int(lengths.max(initial=0)))):
        rows = np.flatnonzero(lengths > position)
        yield rows, tokens.ids[tokens.offsets[rows] + position]
