"""Split texts into tokens, by spaCy's English rules or by a regular expression.

Both split at white space first and tokenize each distinct piece once, so a million texts cost as much as their distinct
words. The regular expression also runs inside a SavedModel, as TensorFlow string operations: `regex_tokens` splits any
text into the same tokens as `tokenize` does.
"""

import functools
import itertools
import os
import re
import typing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

if typing.TYPE_CHECKING:
    import tensorflow as tf
    from spacy.tokenizer import Tokenizer

TOKENIZERS = ("spacy", "regex")

# RE2 classes. A word is a run of letters, marks and digits; any other visible character is a token of its own, with the
# marks that follow it (variation selectors of emoji); separators and control characters only separate.
# Han characters of Unicode 15.1 count as symbols: TensorFlow's tables do not have them yet.
SYMBOL = r"([^\pL\pM\pN\pZ\pC]|[\x{2EBF0}-\x{2EE5D}])\pM*"
SEPARATORS = r"[\pZ\pC]+"

# A character of a script that writes no spaces between words, with its marks. The long vowel of Katakana belongs to no
# script in Unicode.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\x{30FC}]\pM*"

# The letters whose lower case depends on the machine's language, which ICU asks for: Turkish, Azeri, Lithuanian.
LANGUAGE_DEPENDENT = "IİJÌÍĨĮ"

# Capital letters of Unicode 14 and later, which TensorFlow's ICU leaves as they are; which ones Python knows depends on
# its version.
NEWEST_LETTERS = re.compile(
    r"([\u2c2f\ua7c0\ua7d0\ua7d6\ua7d8\U00010570-\U00010595\u1c89\ua7cb\ua7cc\ua7da\ua7dc\U00010d50-\U00010d65])"
)

# spaCy's time for a run of symbols grows with the square of its length (20,000 brackets: 40 s), so that longer runs are
# cut here; no word is that long.
LONG_RUN = re.compile(r"\S{1000}")

BLOCK_TEXTS = 2**17  # split at a time


@dataclass(frozen=True)
class TextRules:
    """How texts become tokens; `max_tokens` of them are kept per text, the "first" or the "last".

    split_characters: each character of a script without spaces between words is a token.
    """

    tokenizer: str
    lowercase: bool
    max_tokens: int
    keep: str = "first"
    split_characters: bool = False


@dataclass(frozen=True)
class Tokens:
    """The tokens of text t are `values[i] for i in ids[offsets[t]:offsets[t + 1]]`."""

    values: list[str]  # distinct
    ids: npt.NDArray[np.int32]  # [tokens]
    offsets: npt.NDArray[np.int64]  # [texts + 1]


def tokenize(texts: pd.Index | list[str], rules: TextRules) -> Tokens:
    """All tokens of texts, none of them missing.

    Each distinct piece between white space is tokenized once; the texts are joined from the pieces' tokens. Texts are
    split in blocks, on all cores, which bounds the memory too.
    """
    column = pa.array(pd.Series(texts, dtype="str").array, type=pa.large_string())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = [column.slice(start, BLOCK_TEXTS) for start in range(0, max(len(column), 1), BLOCK_TEXTS)]
        split = list(pool.map(functools.partial(_pieces, rules=rules), blocks))
        unified = pa.chunked_array([pieces for pieces, _ in split]).unify_dictionaries()
        pieces = unified.chunk(0).dictionary
        tokens = _spacy_tokens(pieces, rules) if rules.tokenizer == "spacy" else _regex_tokens(pieces, rules)
        words = tokens.values.dictionary_encode()
        of_piece = pa.ListArray.from_arrays(tokens.offsets, words.indices)
        joined = list(pool.map(of_piece.take, [chunk.indices for chunk in unified.chunks]))
    ends = [block.offsets.to_numpy()[offsets] for block, (_, offsets) in zip(joined, split, strict=True)]
    return Tokens(
        values=words.dictionary.to_pylist(),
        ids=np.concatenate([block.values.to_numpy()[block.offsets[0].as_py() :] for block in joined]),
        offsets=np.append(0, np.cumsum(np.concatenate([np.diff(end) for end in ends]), dtype=np.int64)),
    )


def load_tokenizer(tokenizer: str) -> None:
    """Load a tokenizer now rather than at the first call of `tokenize`; takes a second for spaCy."""
    if tokenizer == "spacy":
        _spacy()


def regex_tokens(strings: "tf.Tensor", rules: TextRules) -> "tf.RaggedTensor":
    """The words and symbols of each text: strings, UTF-8 [n] -> [n, (tokens)]. Runs eagerly and inside a graph."""
    import tensorflow as tf  # noqa: PLC0415 - takes seconds, and only the SavedModel needs it

    spaced = tf.strings.regex_replace(strings, _alone(rules), r" \1 ")
    tokens = tf.strings.split(tf.strings.regex_replace(spaced, SEPARATORS, " "))
    if not rules.lowercase:
        return tokens
    flat = tokens.flat_values
    for letter in LANGUAGE_DEPENDENT:
        flat = tf.strings.regex_replace(flat, letter, letter.lower())
    return tokens.with_flat_values(tf.strings.lower(flat, encoding="utf-8"))


def _alone(rules: TextRules) -> str:
    """The pattern of a character that is a token of its own."""
    return f"({SYMBOL}|{UNSPACED})" if rules.split_characters else f"({SYMBOL})"


def _pieces(texts: pa.LargeStringArray, rules: TextRules) -> tuple[pa.DictionaryArray, npt.NDArray[np.int32]]:
    """The pieces of all texts that can be tokenized alone, one after the other, and the offsets of each text's pieces.

    spaCy splits at white space (`str.isspace`, as Arrow does) and works on each piece alone, except for its last step:
    it looks for special cases, such as ":)", in the tokens of the full text. It also finds them across a space, ": )";
    it keeps these apart, and with them any other special case that overlaps. A text where that could happen stays one
    piece.
    """
    if rules.split_characters and rules.tokenizer == "spacy" and not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.replace_substring_regex(texts, f"({UNSPACED})", r" \1 ")
    split = pc.utf8_split_whitespace(texts)
    if rules.tokenizer == "spacy":
        stays_whole = pc.match_substring_regex(texts, _spacy()[1])
        if pc.any(stays_whole).as_py():
            alone = pa.LargeListArray.from_arrays(np.arange(len(texts) + 1), texts)
            split = pc.if_else(stays_whole, alone, split.cast(alone.type))
    return split.flatten().dictionary_encode(), split.offsets.to_numpy().astype(np.int32)


def _regex_tokens(pieces: pa.LargeStringArray, rules: TextRules) -> pa.ListArray:
    """The tokens of each piece, as by `regex_tokens`: Arrow has the same regular expressions (RE2) as TensorFlow."""
    spaced = pc.replace_substring_regex(pieces, _alone(rules), r" \1 ")
    split = pc.split_pattern(pc.replace_substring_regex(spaced, SEPARATORS, " "), " ")
    values = split.flatten()
    is_token = pc.greater(pc.binary_length(values), 0)
    ends = np.append(0, np.cumsum(is_token.to_numpy(zero_copy_only=False)))
    offsets = ends[split.offsets.to_numpy() - split.offsets[0].as_py()].astype(np.int32)
    tokens = values.filter(is_token).dictionary_encode()
    if rules.lowercase:
        lowered = pa.array([lower(token) for token in tokens.dictionary.to_pylist()], pa.large_string())
        return pa.ListArray.from_arrays(offsets, lowered.take(tokens.indices))
    return pa.ListArray.from_arrays(offsets, tokens.dictionary.take(tokens.indices))


def lower(text: str) -> str:
    """Text in lower case as TensorFlow converts it, which does not know the newest letters."""
    if text.isascii() or not NEWEST_LETTERS.search(text):
        return text.lower()
    return "".join(part if number % 2 else part.lower() for number, part in enumerate(NEWEST_LETTERS.split(text)))


def _spacy_tokens(pieces: pa.LargeStringArray, rules: TextRules) -> pa.ListArray:
    """The tokens of each piece, without white space."""
    tokenizer, _ = _spacy()
    tokens: typing.Iterable[list[str]] = (
        [token.text for token in tokenizer(LONG_RUN.sub(r"\g<0> ", piece)) if not token.is_space]
        for piece in pieces.to_pylist()
    )
    if rules.lowercase:
        tokens = ([token.lower() for token in row] for row in tokens)
    return pa.array(tokens, pa.list_(pa.large_string()))


@functools.cache
def _spacy() -> tuple["Tokenizer", str]:
    """spaCy's English tokenizer, and a pattern of two neighbours in a special case with a space between them."""
    import spacy  # noqa: PLC0415 - takes a second, and regex does not need it
    from spacy.tokenizer import Tokenizer  # noqa: PLC0415

    tokenizer = spacy.blank("en").tokenizer
    plain = Tokenizer(
        tokenizer.vocab,
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        token_match=tokenizer.token_match,
        url_match=tokenizer.url_match,
    )
    parts = [[token.text for token in plain(case)] for case in tokenizer.rules]
    pairs = {f"{left} {right}" for case in parts for left, right in itertools.pairwise(case)}
    return tokenizer, "|".join(re.escape(pair) for pair in sorted(pairs))
