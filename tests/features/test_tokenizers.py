"""Both tokenizers against their references: spaCy itself, and the regex rule written with `unicodedata`."""

import functools
import gzip
import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spacy
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import many
from trainer.features.tokenizers import TOKENIZERS, TextRules, Tokens, regex_tokens, tokenize

ROOT = Path(__file__).parents[2]
CLICKBAIT = ROOT.parent / "shared" / "data" / "clickbait"

WHITE_SPACE = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
KINDS_OF_WORDS = (
    "the The Man's don't won't it's It’s U.S. Mr. Dr. e.g. i.e. 10a.m. 3:00p.m. 5km 10km/h $5.99 €7 50% #1 @home C++ "
    "can't gonna http://example.com/a?b=c&d=1 www.example.org a.b@example.com snake_case kebab-case 1,234.5 -17 "
    '(brackets) [1] {x} "quoted" ‘typographic’ “quotes” … -- — naïve café Straße ΟΔΟΣ İstanbul ǅ привет мир '
    "你好世界 日本語テキスト 한국어 مرحبا שלום ไทย हिन्दी 👍 👍🏽 ❤️ 👨\u200d👩\u200d👧 🇩🇪 :) :-( <3 ¯\\_(ツ)_/¯ o.O ^_^ "
    "a\u200bb a\u180eb a\u00adb \ufeffx e\u0301 \u0301 \0 x\0y"
)
WORDS = KINDS_OF_WORDS.split(" ")
SPACY = spacy.blank("en").tokenizer


def rows(tokens: Tokens) -> list[list[str]]:
    words = [tokens.values[i] for i in tokens.ids]
    return [words[start:end] for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)]


def tokenized(texts: list[str], tokenizer: str, lowercase: bool = False) -> list[list[str]]:
    return rows(tokenize(texts, TextRules(tokenizer, lowercase, 16)))


def spacy_tokens(texts: list[str]) -> list[list[str]]:
    return [[token.text for token in SPACY(text) if not token.text.isspace()] for text in texts]


def title(rng: random.Random, special_cases: list[str]) -> str:
    """One text: words of many kinds, special cases torn apart, random characters, white space of every kind."""

    def word() -> str:
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(WORDS)
        if kind < 0.7:
            return "".join(c + rng.choice(("", "", "", " ", ".", ":", "\n")) for c in rng.choice(special_cases))
        if kind < 0.9:
            return (
                rng.choice(WORDS)
                + rng.choice((",", ".", "!", "?!", "...", ":", "'s", ")", "-", "/"))
                + rng.choice(WORDS)
            )
        return "".join(chr(rng.choice((rng.randrange(33, 0x3000), rng.randrange(0xE000, 0x11000)))) for _ in range(3))

    space = (" ",) * 20 + ("  ", "", *WHITE_SPACE)
    return "".join(word() + rng.choice(space) for _ in range(rng.randrange(9)))


def test_spacy_tokens_are_those_of_spacy_in_titles_of_every_kind(record_property: Callable[[str, int], None]) -> None:
    rng, number = random.Random(1), many(6_000, 200_000)
    cases = sorted(SPACY.rules)
    titles = [title(rng, cases) for _ in range(number)]
    expected = spacy_tokens(titles)
    assert tokenized(titles, "spacy") == expected
    assert tokenized(titles, "spacy", lowercase=True) == [[token.lower() for token in row] for row in expected]
    record_property("titles with the tokens of spaCy", number)


@given(st.lists(st.text(), max_size=20))
@settings(max_examples=200, deadline=None)
def test_spacy_tokens_are_those_of_spacy_in_any_text(texts: list[str]) -> None:
    assert tokenized(texts, "spacy") == spacy_tokens(texts)


def test_spacy_tokens_are_those_of_spacy_in_real_titles() -> None:
    shards = sorted(CLICKBAIT.glob("*/*.json.gz"))
    if not shards:
        pytest.skip(f"needs the titles in {CLICKBAIT}")
    titles = [
        json.loads(line)["title"] for shard in shards for line in gzip.decompress(shard.read_bytes()).splitlines()
    ]
    assert tokenized(titles, "spacy") == spacy_tokens(titles)


def test_a_special_case_across_a_space_hides_the_one_it_overlaps_as_in_spacy() -> None:
    texts = ["; -): 0", "-): 0", "° k.L", "k.L"]
    assert tokenized(texts, "spacy") == spacy_tokens(texts)
    assert tokenized(["; -):"], "spacy") != [[";"] + tokenized(["-):"], "spacy")[0]]


def test_every_white_space_character_separates_and_none_other() -> None:
    others = ["\u180e", "\u200b", "\u2060", "\ufeff", "\0", "\u200d"]
    assert len(WHITE_SPACE) == 29
    texts = [f"a{character}b" for character in WHITE_SPACE + others]
    assert tokenized(texts, "spacy") == [["a", "b"]] * 29 + [[text] for text in texts[29:]]


def test_a_run_of_10_000_symbols_is_cut_before_its_time_explodes() -> None:
    assert tokenized(["(" * 5000 + "!" * 5000], "spacy") == [["("] * 5000 + ["!"] * 5000]


def regex_reference(text: str) -> list[str]:
    tokens: list[str] = []
    open_kind = ""  # of the token at the end that marks, or word characters, may still join
    for character in text:
        kind = unicodedata.category(character)[0]
        if kind in "ZC":
            open_kind = ""
            continue
        kind = "word" if kind in "LN" else "mark" if kind == "M" else "symbol"
        if (kind == "mark" and open_kind) or (kind == "word" and open_kind == "word"):
            tokens[-1] += character
        else:
            tokens.append(character)
            open_kind = "symbol" if kind == "symbol" else "word"
    return tokens


assigned = st.characters(exclude_categories=("Cs", "Cn"))


@given(st.lists(st.text(assigned | st.sampled_from(" .-'\t\u00a0\u0301\ufe0f\0aZ9")), max_size=20))
@settings(max_examples=200, deadline=None)
def test_regex_tokens_are_words_and_single_symbols_with_their_marks(texts: list[str]) -> None:
    assert tokenized(texts, "regex") == [regex_reference(text) for text in texts]


def test_regex_tokens_of_known_texts() -> None:
    texts = [
        "It's 5km—don't!",
        "❤️👍🏽 naïve e\u0301tude",
        "你好，世界",
        "a\u00a0b\u2028c\x85d\0e",
        "ΟΔΟΣ İI ẞ",
        " \t\n",
        "snake_case",
    ]
    assert tokenized(texts, "regex", lowercase=True) == [
        ["it", "'", "s", "5km", "—", "don", "'", "t", "!"],
        ["❤️", "👍", "🏽", "naïve", "e\u0301tude"],
        ["你好", "，", "世界"],
        ["a", "b", "c", "d", "e"],
        ["οδος", "i\u0307i", "ß"],
        [],
        ["snake", "_", "case"],
    ]


def test_regex_tokens_are_equal_in_a_graph_on_whole_texts_and_in_pieces() -> None:
    rng = random.Random(2)
    titles = [title(rng, [":)", "a.m."]) for _ in range(5000)]
    for lowercase in (False, True):
        rules = TextRules("regex", lowercase, 16)
        graph = tf.function(functools.partial(regex_tokens, rules=rules))
        in_graph = [[token.decode() for token in row] for row in graph(tf.constant(titles)).to_list()]
        assert in_graph == tokenized(titles, "regex", lowercase)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_characters_of_scripts_without_spaces_are_tokens(tokenizer: str) -> None:
    texts = ["今天免费 abc的def", "カメラの日本語。", "ไม่มี", "한국어 naïve", "人々 㐀𠮷 25年"]
    rules = TextRules(tokenizer, True, 16, split_characters=True)
    assert rows(tokenize(texts, rules)) == [
        ["今", "天", "免", "费", "abc", "的", "def"],
        ["カ", "メ", "ラ", "の", "日", "本", "語", "。"],
        ["ไ", "ม่", "มี"],
        ["한국어", "naïve"],
        ["人", "々", "㐀", "𠮷", "25", "年"],
    ]
    assert tokenized(["今天 免费", "カメラ hello!"], tokenizer) == [["今天", "免费"], ["カメラ", "hello", "!"]]


@pytest.mark.parametrize("split_characters", [True, False])
def test_every_character_gives_the_same_tokens_in_a_graph(split_characters: bool) -> None:
    rules = TextRules("regex", True, 16, split_characters=split_characters)
    used = 0x33480  # above, Unicode has few characters
    codes = [*range(used), *range(used, sys.maxunicode + 1, many(101, 1))]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 2**16):  # of a TensorFlow operation
        texts = [f"a{character}B {character}{character}" for character in characters[start : start + 2**16]]
        expected = regex_tokens(tf.constant([text.encode() for text in texts]), rules)
        tokens = tokenize(texts, rules)
        assert [tokens.values[i].encode() for i in tokens.ids] == expected.flat_values.numpy().tolist()
        np.testing.assert_array_equal(tokens.offsets, expected.row_splits.numpy())


@given(st.lists(st.text(), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_the_same_tokens_in_a_graph(texts: list[str]) -> None:
    texts = [text.encode(errors="replace").decode() for text in (*texts, "ΟΔΟΣ ΣΑΣ'Σ")]
    rules = TextRules("regex", True, 16, split_characters=True)
    expected = regex_tokens(tf.constant([text.encode() for text in texts]), rules).to_list()
    assert rows(tokenize(texts, rules)) == [[token.decode() for token in row] for row in expected]


def test_lower_case_is_the_same_in_every_language_and_regex_needs_no_spacy() -> None:
    code = (
        "import sys; from trainer.features.tokenizers import TextRules, tokenize;"
        "texts = ['I İ J\\u0301 Į\\u0301 Ì Í Ĩ I\\u0307'];"
        "print(ascii(tokenize(texts, TextRules('regex', True, 16)).values));"
        "print({'spacy', 'tensorflow'} & sys.modules.keys())"
    )
    env = {**os.environ, "LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "1"}
    env.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    expected = ["i", "i\u0307", "j\u0301", "į\u0301", "ì", "í", "ĩ"]
    assert done.stdout.strip() == f"{expected!a}\nset()"
    assert done.stderr == ""


@pytest.mark.parametrize("tokenizer", ["spacy", "regex"])
def test_empty_and_blank_texts_have_no_tokens(tokenizer: str) -> None:
    tokens = tokenize(["a b", "", " \u3000", "b"], TextRules(tokenizer, True, 16))
    assert rows(tokens) == [["a", "b"], [], [], ["b"]]
    assert tokens.ids.dtype == np.int32
    assert tokens.offsets.dtype == np.int64


@pytest.mark.parametrize("tokenizer", ["spacy", "regex"])
@pytest.mark.parametrize("texts", [[], [""]])
def test_texts_without_any_token(tokenizer: str, texts: list[str]) -> None:
    assert tokenized(texts, tokenizer) == [[]] * len(texts)


@pytest.mark.parametrize("tokenizer", ["spacy", "regex"])
def test_values_are_distinct_in_order_of_the_texts_wherever_these_are_cut(
    monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    rng = random.Random(3)
    texts = [*(title(rng, [":)", "a.m."]) for _ in range(200)), "; -): 0", "", "a"]
    whole = tokenize(texts, TextRules(tokenizer, True, 16))
    assert len(set(whole.values)) == len(whole.values)
    monkeypatch.setattr("trainer.features.tokenizers.BLOCK_TEXTS", 7)
    cut = tokenize(pd.Index(texts, dtype="str"), TextRules(tokenizer, True, 16))
    assert cut.values == whole.values
    assert rows(cut) == rows(whole)
