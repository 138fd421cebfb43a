"""Hash the stored rows of a dataset: all their columns, whatever their roles.

The hash of a row is that of its canonical values, so it depends neither on the form of the file nor on the variant:

    null, a missing key, NaN, [] and {}   nothing, as if the column were not there
    a number, or a text that is one       an integer by its digits: 12, 12.0, "12" and "12.0" are one value; other
                                          numbers by their float64
    a boolean                             the text true or false
    another text                          its UTF-8 bytes
    a list, an object                     its elements by position, its fields by name

Rows are hashed either as parsed by Arrow, a block at a time, or as Python values; both give the same hashes. Numbers
are mixed by the finaliser of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SIZES = (8, 16, 32, 64, 128)  # bytes of a text that are read at once
FIRST_BYTES = np.array([2 ** (8 * length) - 1 for length in range(8)], dtype=np.uint64)  # of a little-endian word
DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$"
SCANNED = 16  # bytes of a text, up to which it is faster to look at all of them than at the first one


def mix(hashes: Hashes) -> Hashes:
    """The finaliser of splitmix64: a bijection in which each bit of the input moves half of the output; 0 stays 0."""
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def of_batch(batch: pa.RecordBatch) -> Hashes:
    """uint64 [rows]: the hashes of rows as Arrow's JSON parser makes them."""
    fields = zip(batch.schema.names, map(of_array, batch.columns), strict=True)
    return _of_fields(fields, batch.num_rows)


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Hashes:
    """uint64 [rows]: the hashes of rows as parsed JSON objects."""
    return _of_fields(((name, of_values(values)) for name, values in fields_of(rows)), len(rows))


def types_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """The types by which Arrow's JSON parser can read the fields of parsed JSON objects; none for mixed types."""
    types = {}
    for name, values in fields_of(rows):
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            types[name] = pa.infer_type(values)
    return types


def json_type(kind: pa.DataType) -> pa.DataType:
    """A type as Arrow infers it, but texts that look like times are texts."""
    if pa.types.is_struct(kind):
        return pa.struct(
            [(kind.field(number).name, json_type(kind.field(number).type)) for number in range(kind.num_fields)]
        )
    if pa.types.is_list(kind):
        return pa.list_(json_type(kind.value_type))
    return pa.string() if pa.types.is_temporal(kind) else kind


def fields_of(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """Each field of some JSON objects with its values, None where it is missing."""
    for name in dict.fromkeys(chain.from_iterable(rows)):
        yield name, [row.get(name) for row in rows]


def of_values(values: Sequence[Any]) -> Hashes:
    """uint64 [values]: the hashes of JSON values, of one type or of several; 0: nothing."""
    types = set(map(type, values)) - {type(None)}
    if len(types) == 1 and not types & {list, dict, int}:
        return of_array(pa.array(values))
    hashes = np.zeros(len(values), dtype=np.uint64)
    for type_ in types:
        at = [number for number, value in enumerate(values) if type(value) is type_]
        hashes[at] = _of_one_type([values[number] for number in at], type_)
    return hashes


def of_array(array: pa.Array) -> Hashes:
    """uint64 [values]: the hashes of the values of an Arrow array as its JSON parser makes them; 0: nothing."""
    kind = array.type
    if pa.types.is_struct(kind):
        fields = zip((kind.field(number).name for number in range(kind.num_fields)), array.flatten(), strict=True)
        return _of_fields(((name, of_array(values)) for name, values in fields), len(array))
    if pa.types.is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy()
        return _of_lists(of_array(array.flatten()), lengths)
    if pa.types.is_string(kind):
        return _of_texts(array)
    if pa.types.is_floating(kind):
        return _of_fractions(array.fill_null(np.nan).to_numpy())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return _of_plain_texts(array.cast(pa.string()))
    return np.zeros(len(array), dtype=np.uint64)


def fractions_in(data: pa.RecordBatch | pa.Array) -> Iterator[NDArray[np.float64]]:
    """All numbers with a fraction, also those in lists and objects, without missing ones."""
    if isinstance(data, pa.RecordBatch):
        arrays = data.columns
    elif pa.types.is_struct(data.type):
        arrays = data.flatten()
    elif pa.types.is_list(data.type):
        arrays = [data.flatten()]
    else:
        if pa.types.is_floating(data.type):
            yield data.drop_null().to_numpy()
        return
    for array in arrays:
        yield from fractions_in(array)


def _of_one_type(values: list[Any], type_: type) -> Hashes:
    """As `of_values`, of values of one type."""
    if type_ is dict:
        return of_rows(values)
    if type_ is list:
        lengths = np.array([len(value) for value in values])
        return _of_lists(of_values(list(chain.from_iterable(values))), lengths)
    if type_ is int and not -(2**63) <= min(values) <= max(values) < 2**63:  # float64, as Arrow's parser has them
        small = [-(2**63) <= value < 2**63 for value in values]
        digits = pa.array([str(value) if fits else "" for value, fits in zip(values, small, strict=True)])
        return np.where(small, _of_plain_texts(digits), _of_fractions(np.array(values, dtype=np.float64)))
    return of_array(pa.array(values))


def _of_fields(fields: Iterable[tuple[str, Hashes]], rows: int) -> Hashes:
    total = np.zeros(rows, dtype=np.uint64)
    for name, hashes in fields:
        total += hashes * (_name_hash(name) | np.uint64(1))  # of nothing: 0
    return mix(total)


@functools.cache
def _name_hash(name: str) -> np.uint64:
    return np.uint64(_of_plain_texts(pa.array([name], pa.string()))[0])


def _of_lists(hashes: Hashes, lengths: Integers) -> Hashes:
    """The hashes of lists: hashes of all their elements one after the other, and the number of elements of each."""
    ends = np.cumsum(lengths)
    position = (np.arange(len(hashes)) - np.repeat(ends - lengths, lengths)).astype(np.uint64)
    sums = np.zeros(len(hashes) + 1, dtype=np.uint64)
    np.cumsum(hashes * (mix(position + GOLDEN) | np.uint64(1)), out=sums[1:])
    return mix(sums[ends] - sums[ends - lengths])


def _of_fractions(numbers: NDArray[np.float64]) -> Hashes:
    """Integers within int64 as their digits, other numbers as their bits; NaN: nothing."""
    integral = (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**63)
    hashes = np.zeros(len(numbers), dtype=np.uint64)
    other = ~(integral | np.isnan(numbers))
    hashes[other] = mix(mix(numbers[other].view(np.uint64)) + GOLDEN)
    hashes[integral] = _of_plain_texts(pa.array(numbers[integral].astype(np.int64)).cast(pa.string()))
    return hashes


def _of_texts(texts: pa.StringArray) -> Hashes:
    """As `_of_plain_texts`, but a fraction in quotes is the number, and "NaN" is nothing."""
    hashes = _of_plain_texts(texts)
    hashes[hashes == _name_hash("NaN")] = 0
    starts, lengths, codes = _parts(texts)
    if not len(codes) or (len(codes) < SCANNED * len(texts) and not _has_decimal_signs(codes)):
        return hashes
    first = codes[np.minimum(starts, len(codes) - 1)]
    like_numbers = np.flatnonzero(((first - ord("0") < 10) | (first == ord("-"))) & (lengths > 2))
    if not len(like_numbers) or not _has_decimal_signs(codes):
        return hashes
    candidates = texts.take(pa.array(like_numbers))
    is_number = pc.match_substring_regex(candidates, DECIMAL).fill_null(False)
    numbers = candidates.filter(is_number).cast(pa.float64()).to_numpy()
    rows, finite = like_numbers[is_number.to_numpy(zero_copy_only=False)], np.isfinite(numbers)
    hashes[rows[finite]] = _of_fractions(numbers[finite])
    return hashes


def _has_decimal_signs(codes: Bytes) -> bool:
    return any((codes == ord(sign)).any() for sign in ".eE")


def _of_plain_texts(texts: pa.StringArray) -> Hashes:
    """The hashes of texts by their bytes; null: nothing."""
    starts, lengths, codes = _parts(texts)
    hashes = (lengths.astype(np.uint64) + np.uint64(1)) * GOLDEN
    shortest, longest = int(lengths.min(initial=0)), int(lengths.max(initial=0))
    for size, most in zip((0, *SIZES), (7, *(2 * size for size in SIZES[:-1]), 2**62), strict=True):
        least = size + (size > 8)
        if shortest > most or longest < least:
            continue
        rows: Integers | slice = slice(None)
        if shortest < least or longest > most:
            rows = np.flatnonzero((lengths >= least) & (lengths <= most))
        hashes[rows] ^= _of_one_size(codes, starts[rows], lengths[rows], size)
    hashes = mix(hashes)
    if texts.null_count:
        hashes[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def _of_one_size(codes: Bytes, starts: Integers, lengths: Integers, size: int) -> Hashes:
    """Hashes of texts of at most twice `size` bytes, from their first and their last bytes, which may overlap.

    Size 0 is for texts of less than 8 bytes, the largest one for all longer texts.
    """
    if not size:
        return _first_bytes(codes, starts, lengths)
    if size == SIZES[-1]:
        return _of_chunks(codes, starts, lengths)
    words = size // 8
    return _sums(codes, starts, size, FACTORS[:words]) + _sums(codes, starts + lengths - size, size, FACTORS[words:])


def _first_bytes(codes: Bytes, starts: Integers, lengths: Integers) -> Hashes:
    """Less than 8 bytes as a number."""
    if len(codes) < 8:
        codes = np.concatenate([codes, np.zeros(8, np.uint8)])
    words: Hashes = np.ndarray((len(codes) - 7,), "<u8", codes, strides=(1,))
    at = np.minimum(starts, len(codes) - 8)
    return (words[at] >> (8 * (starts - at)).astype(np.uint64)) & FIRST_BYTES.take(lengths)


def _of_chunks(codes: Bytes, starts: Integers, lengths: Integers) -> Hashes:
    """Hashes of long texts, chunk by chunk; the last chunk ends where the text does and overlaps the one before it."""
    size = SIZES[-1]
    counts = -(-lengths // size)
    order = np.argsort(counts.astype(np.min_scalar_type(counts.max())), kind="stable")  # fast for small types
    at, last = starts[order], (starts + lengths - size)[order]
    state = np.zeros(len(counts), dtype=np.uint64)
    for begin in np.cumsum(np.bincount(counts))[:-1].tolist():  # where the texts with one chunk more begin
        state[begin:] = mix(state[begin:] ^ _sums(codes, np.minimum(at[begin:], last[begin:]), size, FACTORS))
        at[begin:] += size
    hashes = np.empty_like(state)
    hashes[order] = state
    return hashes


def _sums(codes: Bytes, at: Integers, size: int, factors: Hashes) -> Hashes:
    """The sum of the words in the `size` bytes at each position, times a factor for each word."""
    halves = np.ndarray((len(codes) - size + 1,), f"V{size}", codes, strides=(1,))[at].view("<u4")
    halves[::2] ^= halves[1::2]  # so that the highest bits of a word count, too; without large temporary arrays
    words = halves.view("<u8")
    factors = factors[: size // 8]
    return words * factors if size == 8 else words.reshape(len(at), size // 8) @ factors


def _parts(texts: pa.StringArray) -> tuple[Integers, Integers, Bytes]:
    """The start and the length of each text, int64, and the bytes of all, at least one."""
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    codes = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return offsets[:-1] - offsets[0], np.diff(offsets), codes[offsets[0] : offsets[-1]]


FACTORS = mix(np.arange(1, SIZES[-1] // 8 + 1, dtype=np.uint64) * GOLDEN) | np.uint64(1)  # of words, all odd
