"""The generated rows: in export form, the same bytes each time, and the truth stated about them holds."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import hstack
from scipy.special import expit, logit
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.preprocessing import OneHotEncoder

from data.make_sample import (
    BLOCK_ROWS,
    ODD_TITLES,
    PROMISES,
    QUESTIONS,
    known_losses,
    make_rows,
    truth_of,
    truth_path,
    write_sample,
)
from trainer.data import dataset

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample_2k.json"
INTEGERS = ("row_id", "hour", "position", "impressions", "clicks")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return make_rows(50_000)


def test_sample_is_what_the_script_writes(tmp_path: Path) -> None:
    truth = write_sample(tmp_path / "sample_2k.json", 2000)
    assert (tmp_path / "sample_2k.json").read_bytes() == SAMPLE.read_bytes()
    stored = json.loads(truth_path(SAMPLE).read_text())
    for name in ("rows", "seed", "mean_ctr", "order_share", "cross_entropy", "mse"):
        assert stored[name] == pytest.approx(truth[name], rel=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sample_2k.json", "sample_2k.truth.json"]


def test_command_writes_the_same_rows_as_the_function_and_refuses_none(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "data" / "make_sample.py"), "--seed=7", f"--out={tmp_path / 'command.json'}"]
    subprocess.run([*command, "--rows=50"], check=True, capture_output=True, cwd=tmp_path)
    write_sample(tmp_path / "function.json", 50, seed=7)
    assert (tmp_path / "command.json").read_bytes() == (tmp_path / "function.json").read_bytes()
    refused = subprocess.run([*command, "--rows=0"], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--rows=0: at least 1" in refused.stderr


def test_sample_has_the_form_of_an_export() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    assert SAMPLE.stat().st_size < 1_000_000
    assert not set("<>&") & set(text)
    assert r"\u003cb\u003e" in text
    lines = text.removesuffix("\n").split("\n")
    rows = [json.loads(line) for line in lines]
    assert [row["row_id"] for row in rows] == [str(i) for i in range(2000)]
    for row in rows:
        assert all(re.fullmatch("[0-9]+", row[name]) for name in INTEGERS)
        assert isinstance(row["ctr"], float)
        assert row["ctr"] == int(row["clicks"]) / int(row["impressions"])
        assert isinstance(row.get("age", 0.0), float)
        assert None not in row.values()
        assert 20 <= int(row["impressions"]) <= 2000
    missing = {name for row in rows for name in rows[0].keys() - row.keys()}
    assert missing == {"publisher", "title", "thumbnail", "age"}


def test_sample_has_each_kind_of_odd_row() -> None:
    titles = [json.loads(line).get("title") for line in SAMPLE.read_text(encoding="utf-8").split("\n")[:-1]]
    for odd in ODD_TITLES:
        pattern = re.escape(odd).replace(r"\{\}", "([a-z ]+)", 1).replace(r"\{\}", r"\1")
        assert any(re.fullmatch(pattern, title) for title in titles if title is not None), odd
    items = pd.Series(json.loads(line)["item"] for line in SAMPLE.open(encoding="utf-8"))
    assert (items[items.str.contains("rare")].value_counts() == 1).all()
    assert items.str.contains("rare").any()


def test_truth_is_the_same_from_what_the_trainer_loads() -> None:
    columns = dict.fromkeys(("item", "publisher", "campaign", "country", "device", "hour"), "category")
    columns |= {"title": "text", "position": "number", "age": "number", "ctr": "probability", "impressions": "weight"}
    loaded = dataset.load(SAMPLE, columns).frame
    np.testing.assert_array_equal(truth_of(loaded).chance, truth_of(make_rows(2000)).chance)
    np.testing.assert_array_equal(truth_of(loaded).blind, truth_of(make_rows(2000)).blind)
    stored = json.loads(truth_path(SAMPLE).read_text())
    assert known_losses(loaded)["cross_entropy"] == pytest.approx(stored["cross_entropy"], rel=1e-9)


def test_truth_of_a_row_depends_on_that_row_alone(frame: pd.DataFrame) -> None:
    some = frame.sample(500, random_state=1)
    np.testing.assert_array_equal(truth_of(some).chance, truth_of(frame).chance[some.index])
    np.testing.assert_array_equal(truth_of(some.iloc[[3]]).blind, truth_of(some).blind[[3]])
    assert not np.isclose(truth_of(some, seed=1).chance, truth_of(some).chance).all()


def test_clicks_are_binomial_with_the_true_chance(frame: pd.DataFrame) -> None:
    chance = truth_of(frame).chance
    surprise = (frame["ctr"] - chance) / np.sqrt(chance * (1 - chance) / frame["impressions"])
    # Rows with few and with many impressions, with a low and a high chance: mean 0 and variance 1 in each.
    for part in (frame["impressions"], chance, frame["position"], frame["age"].fillna(-1)):
        for _, group in surprise.groupby(pd.qcut(part, 4, duplicates="drop")):
            assert abs(group.mean()) < 4.5 / np.sqrt(len(group))
            assert group.var() == pytest.approx(1, abs=0.1)


def test_noise_falls_with_impressions(frame: pd.DataFrame) -> None:
    error = (frame["ctr"] - truth_of(frame).chance).abs()
    few, many = frame["impressions"] < 60, frame["impressions"] > 500
    assert error[few].mean() > 2.5 * error[many].mean()


def test_other_order_of_the_same_words_has_the_other_effect(frame: pd.DataFrame) -> None:
    words = frame["title"].fillna("").str.findall("[a-z]+")
    plain = frame[words.map(lambda line: sum(word in QUESTIONS + PROMISES for word in line) == 2)]
    plain = plain[plain["title"].str.fullmatch("[a-z ]+")].head(5000)
    markers = "|".join(QUESTIONS + PROMISES)
    exchanged = plain["title"].str.replace(rf"\b({markers})\b(.*)\b({markers})\b", r"\3\2\1", regex=True)
    swapped = plain.assign(title=exchanged)
    assert (swapped["title"].str.split().map(sorted) == plain["title"].str.split().map(sorted)).all()
    here, there = truth_of(plain), truth_of(swapped)
    np.testing.assert_allclose(np.abs(logit(here.chance) - logit(there.chance)), 0.8)
    np.testing.assert_allclose((here.chance + there.chance) / 2, here.blind)
    np.testing.assert_allclose(here.blind, there.blind)


def test_order_is_a_fair_coin_in_more_than_half_of_the_rows(frame: pd.DataFrame) -> None:
    truth = truth_of(frame)
    paired = truth.chance != truth.blind
    assert paired.mean() > 0.5
    above = (truth.chance > truth.blind)[paired]
    assert abs(above.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(above))
    # Also for each item and bag of words: no feature but the order tells the sign.
    bags = frame["title"][paired].str.split().map(lambda words: " ".join(sorted(words)))
    by_bag = pd.Series(above, index=bags).groupby(level=0).agg(["mean", "size"])
    z = (by_bag["mean"] - 0.5) / (0.5 / np.sqrt(by_bag["size"]))
    assert z.var() == pytest.approx(1, abs=0.15)


def test_known_losses_agree_with_scikit_learn(frame: pd.DataFrame) -> None:
    some = frame.iloc[:3000]
    truth, known = truth_of(some), known_losses(some)
    clicks, views = some["clicks"], some["impressions"]
    constant = np.full(len(some), clicks.sum() / views.sum())
    both = np.repeat([1, 0], len(some))
    for name, chance in (("constant", constant), ("order_blind", truth.blind), ("possible", truth.chance)):
        expected = log_loss(both, np.tile(chance, 2), sample_weight=np.concatenate([clicks, views - clicks]))
        assert known["cross_entropy"][name] == pytest.approx(expected, rel=1e-9)
        expected = mean_squared_error(some["ctr"], chance, sample_weight=views)
        assert known["mse"][name] == pytest.approx(expected, rel=1e-9)
    assert known["mean_ctr"] == pytest.approx(constant[0])


def test_order_is_worth_a_tenth_of_the_gap(frame: pd.DataFrame) -> None:
    for losses in (known_losses(frame)["cross_entropy"], known_losses(frame)["mse"]):
        assert losses["possible"] < losses["order_blind"] < losses["constant"]
    assert 0.06 < known_losses(frame)["order_share"] < 0.14


def test_plain_linear_model_without_order_learns_most_of_the_gap(frame: pd.DataFrame) -> None:
    """What a simple reference can learn, a network can: ridge regression of the empirical logit."""
    test = np.arange(len(frame)) % 10 == 0
    columns = ["item", "publisher", "campaign", "country", "device", "hour", "position", "bin"]
    categories = frame.assign(bin=pd.qcut(frame["age"], 20))[columns].astype(str)
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=2).fit(categories[~test])
    titles, counter = frame["title"].fillna(""), CountVectorizer()
    words = counter.fit(titles[~test]).transform(titles)
    means = words.multiply(10 / np.maximum(words.sum(axis=1), 1)).tocsr()
    features = hstack([one_hot.transform(categories), means]).tocsr()
    rate = (frame["clicks"] + 0.5) / (frame["impressions"] + 1)
    weight = frame["impressions"] * rate * (1 - rate)
    model = Ridge(alpha=10, solver="sparse_cg", tol=1e-3)
    model.fit(features[~test], logit(rate[~test]), sample_weight=weight[~test])
    chance, held_out = expit(model.predict(features[test])), frame[test]
    both = np.repeat([1, 0], len(held_out))
    clicks, views = held_out["clicks"], held_out["impressions"]
    loss = log_loss(both, np.tile(chance, 2), sample_weight=np.concatenate([clicks, views - clicks]))
    known = known_losses(held_out)["cross_entropy"]
    closed = (known["constant"] - loss) / (known["constant"] - known["possible"])
    assert 0.8 < closed < 1 - known_losses(held_out)["order_share"]


def test_age_has_no_linear_effect_to_speak_of(frame: pd.DataFrame) -> None:
    young, middle, old = (truth_of(frame.head(2000).assign(age=age)).chance.mean() for age in (0.0, 20.0, 60.0))
    assert middle > 1.5 * young
    assert middle > 1.5 * old


def test_gzip_holds_the_same_rows_and_has_no_clock_in_it(tmp_path: Path) -> None:
    write_sample(tmp_path / "plain.json", 300)
    write_sample(tmp_path / "packed.json.gz", 300)
    write_sample(tmp_path / "again.json.gz", 300)
    assert gzip.decompress((tmp_path / "packed.json.gz").read_bytes()) == (tmp_path / "plain.json").read_bytes()
    assert (tmp_path / "packed.json.gz").read_bytes() == (tmp_path / "again.json.gz").read_bytes()
    assert (tmp_path / "packed.truth.json").read_text() == (tmp_path / "plain.truth.json").read_text()


def test_rows_beyond_a_block_go_on_and_differ() -> None:
    frame = make_rows(BLOCK_ROWS + 1000)
    assert (frame["row_id"] == np.arange(len(frame))).all()
    head, tail = frame.iloc[:1000], frame.iloc[BLOCK_ROWS:].reset_index(drop=True)
    assert (head["impressions"] == tail["impressions"]).mean() < 0.1
    assert set(tail["publisher"].dropna()) <= set(frame["publisher"].iloc[:BLOCK_ROWS])


def test_padding_fills_rows_and_changes_no_other_column(tmp_path: Path) -> None:
    write_sample(tmp_path / "plain.json", 100)
    write_sample(tmp_path / "padded.json", 100, pad_bytes=3000)
    files = (tmp_path / "plain.json", tmp_path / "padded.json")
    for short, line in zip(*(path.read_text(encoding="utf-8").split("\n")[:-1] for path in files), strict=True):
        assert len(line) == pytest.approx(3000, abs=20) or len(short) > 2980
        row = json.loads(line)
        row.pop("padding")
        assert row == json.loads(short)
