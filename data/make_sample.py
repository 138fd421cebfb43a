"""Makes rows with a known truth, in the form in which BigQuery exports them.

    python data/make_sample.py --rows=2000 --out=data/sample_2k.json

A row is a title with a thumbnail that was shown `impressions` times at one place; `ctr` is the share that was clicked.
The chance of a click is a function of the visible columns and the seed alone (`truth_of`), so the best possible loss
is known for any rows. In six of ten titles two marker words stand in an order that is tossed for each row and decides
the sign of an effect: what a model that averages words can never know.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, ndtri, xlog1py, xlogy

Floats = NDArray[np.float64]

COUNTRIES = ("US", "GB", "DE", "FR", "JP", "BR", "IN", "IL", "MX", "NA", "NO", "ZA")
DEVICES = ("mobile", "desktop", "tablet")
QUESTIONS = ("how", "why", "what", "when", "where", "which")
PROMISES = ("best", "free", "new", "secret", "simple", "quick")
FIRST = ("sun", "moon", "sea", "wind", "rain", "snow", "fire", "stone", "gold", "river", "star", "night", "day", "hill")
SECOND = ("light", "boat", "bird", "road", "field", "song", "walk", "gate", "garden", "ship", "fall", "town", "path")
WORDS = tuple(first + second for first in FIRST for second in SECOND)
ODD_TITLES = (
    "",
    "  {}  ",
    "<b>{}</b> & more",
    'they said: "{}"',
    "it's 100% \\ {} / C:\\new",
    "новости: {}",
    "{} 日本語のニュース",
    "שלום {}",
    "😀 {} 👩‍👩‍👧",
    "{}\u2028{}",
    "{}\n\t{}",
    " ".join(["{}"] * 40),
)
MIN_WORDS, MAX_WORDS = 4, 16
BLOCK_ROWS = 2**16  # rows in memory at a time

# Standard deviations and heights of the effects on the logit.
BIAS = -2.3
TASTES = {"item": 0.55, "publisher": 0.45, "campaign": 0.25, "country": 0.15, "device": 0.15}
WORD_TASTE, ORDER, AGE_BUMP, HOUR_WAVE, POSITION_SLOPE = 1.1, 0.4, 0.9, 0.25, 0.3


class Truth(NamedTuple):
    """The chance of a click of each row, float64 [rows]; blind: the best guess for who does not know the word order."""

    chance: Floats
    blind: Floats


class World(NamedTuple):
    """What can be shown. An item has three creatives; the creatives i, i + items, i + 2 * items belong to item i."""

    item_shares: Floats
    publisher_shares: Floats
    campaigns: NDArray[np.object_]  # [items]
    titles: NDArray[np.object_]  # [creatives, 2]: a question before a promise, the promise before the question
    thumbnails: NDArray[np.object_]  # [creatives, 2]: shared with some other creatives, its own


def truth_of(frame: pd.DataFrame, seed: int = 0) -> Truth:
    """The truth about any rows, from their own columns.

    Takes the columns as `make_rows` gives them or as the trainer loads them (hour and position as number or text,
    category or str); a missing value has no effect. The blind guess averages both orders, since each row tossed a
    fair coin for its order.
    """
    logit = np.full(len(frame), BIAS)
    for column, scale in TASTES.items():
        logit += scale * _taste(frame[column], column, seed)
    age, hour, position = (frame[column].astype("float64").to_numpy() for column in ("age", "hour", "position"))
    logit += AGE_BUMP * np.nan_to_num(np.exp(-(((age - 20) / 8) ** 2)))
    logit += HOUR_WAVE * np.nan_to_num(np.cos((hour - 20) * np.pi / 12))
    logit -= POSITION_SLOPE * np.nan_to_num(np.log(position))
    words, order = _title_effects(frame["title"], seed)
    chance, other = (expit(logit + WORD_TASTE * words + ORDER * sign) for sign in (order, -order))
    return Truth(chance, (chance + other) / 2)


def _taste(values: pd.Series, name: str, seed: int) -> Floats:
    """A standard normal number for each value, drawn by its hash; 0 where missing."""
    codes, uniques = pd.factorize(values)
    hashes = pd.util.hash_array(np.asarray(uniques, dtype=object), hash_key=f"{name:8.8}{seed:08x}", categorize=False)
    return np.append(ndtri(((hashes >> np.uint64(11)) + 0.5) * 2.0**-53), 0.0)[codes]


def _title_effects(titles: pd.Series, seed: int) -> tuple[Floats, Floats]:
    """Mean taste of the words of each title, and the sign of its order: 0.0 without a pair of markers."""
    codes, uniques = pd.factorize(titles)
    words = [re.findall("[a-z]+", title.lower()) for title in uniques]
    counts = np.array([len(line) for line in words], dtype=np.int64)
    tastes = _taste(pd.Series([word for line in words for word in line], dtype=object), "word", seed)
    sums = np.bincount(np.repeat(np.arange(len(words)), counts), weights=tastes, minlength=len(words))
    means = sums / np.maximum(counts, 1)
    signs = np.array([_order_sign(line) for line in words], dtype=np.float64)
    return np.append(means, 0.0)[codes], np.append(signs, 0.0)[codes]


def _order_sign(words: list[str]) -> float:
    question = next((i for i, word in enumerate(words) if word in QUESTIONS), None)
    promise = next((i for i, word in enumerate(words) if word in PROMISES), None)
    if question is None or promise is None:
        return 0.0
    return 1.0 if question < promise else -1.0


def known_losses(frame: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """What the best constant, the best order-blind and the best possible prediction lose on these rows.

    Means over the rows, weighted by impressions, in nats (cross_entropy) and squared ctr (mse). The constant is the
    weighted mean of these rows. order_share: the part of the gap constant - possible that only word order can close.
    """
    return _as_losses(_loss_sums(frame, truth_of(frame, seed)))


def _loss_sums(frame: pd.DataFrame, truth: Truth) -> Floats:
    label, weight = frame["ctr"].to_numpy("float64"), frame["impressions"].to_numpy("float64")
    terms = [np.ones_like(label), label, label**2]
    for chance in (truth.blind, truth.chance):
        terms += [-xlogy(label, chance) - xlog1py(1 - label, -chance), (label - chance) ** 2]
    return np.array([float(weight @ term) for term in terms])


def _as_losses(sums: Floats) -> dict[str, Any]:
    mean, square, blind, blind_mse, possible, possible_mse = (float(term) for term in sums[1:] / sums[0])
    constant = float(-xlogy(mean, mean) - xlog1py(1 - mean, -mean))
    return {
        "mean_ctr": mean,
        "cross_entropy": {"constant": constant, "order_blind": blind, "possible": possible},
        "mse": {"constant": square - mean**2, "order_blind": blind_mse, "possible": possible_mse},
        "order_share": (blind - possible) / (constant - possible),
    }


def make_rows(rows: int, seed: int = 0) -> pd.DataFrame:
    """The rows as a frame.

    int64: row_id, hour, position, impressions, clicks; float64: age (missing: NaN), ctr; all else str (missing: NaN).
    """
    return pd.concat((frame for frame, _ in _blocks(rows, seed)), ignore_index=True)


def _blocks(rows: int, seed: int) -> Iterator[tuple[pd.DataFrame, Truth]]:
    world = _make_world(rows, np.random.default_rng([0, seed]))
    for start in range(0, rows, BLOCK_ROWS):
        row_ids = np.arange(start, min(rows, start + BLOCK_ROWS))
        yield _draw_rows(world, row_ids, np.random.default_rng([1 + start, seed]), seed)


def _make_world(rows: int, rng: np.random.Generator) -> World:
    # Of 2,000, 200,000 and 5,000,000 rows: 111, 1,936, 14,239 items; 26, 190, 760 publishers; 11, 50, 139 campaigns.
    items, publishers, campaigns = (round(rows**growth) for growth in (0.62, 0.43, 0.32))
    titles = _make_titles(3 * items, rng)
    shared = np.empty(len(titles), dtype=np.int64)
    shared[rng.permutation(len(titles))] = np.cumsum(rng.random(len(titles)) < 0.4)
    thumbnails = [[f"thumb_{group}.jpg", f"thumb_{i}_own.jpg"] for i, group in enumerate(shared)]
    return World(
        item_shares=_zipf(items, 0.8),
        publisher_shares=_zipf(publishers, 0.8),
        campaigns=_names("campaign", campaigns)[rng.integers(campaigns, size=items)],
        titles=titles,
        thumbnails=np.array(thumbnails, dtype=object),
    )


def _make_titles(count: int, rng: np.random.Generator) -> NDArray[np.object_]:
    vocabulary = rng.permutation(np.array(WORDS, dtype=object))
    words = vocabulary[rng.choice(len(WORDS), (count, MAX_WORDS), p=_zipf(len(WORDS)))]
    lengths = rng.integers(MIN_WORDS, MAX_WORDS, size=count, endpoint=True)
    has_pair = rng.random(count) < 0.6
    markers = np.stack([rng.choice(QUESTIONS, count), rng.choice(PROMISES, count)], axis=1)
    titles = np.empty((count, 2), dtype=object)
    for i, length in enumerate(lengths):
        slots = np.sort(rng.choice(length, 2, replace=False))
        for order, pair in enumerate((markers[i], markers[i, ::-1])):
            if has_pair[i]:
                words[i, slots] = pair
            titles[i, order] = " ".join(words[i, :length])
    return titles


def _draw_rows(
    world: World, row_ids: NDArray[np.int64], rng: np.random.Generator, seed: int
) -> tuple[pd.DataFrame, Truth]:
    count, items = len(row_ids), len(world.item_shares)
    item = rng.choice(items, count, p=world.item_shares)
    creative = item + items * rng.integers(3, size=count)
    names = _names("item", items)[item]
    rare = np.flatnonzero(rng.random(count) < 0.003)
    names[rare] = [f"item_rare_{row_id}" for row_id in row_ids[rare]]
    title = world.titles[creative, rng.integers(2, size=count)]
    odd = np.flatnonzero(rng.random(count) < 0.015)
    title[odd] = [ODD_TITLES[i % len(ODD_TITLES)].replace("{}", text) for i, text in enumerate(title[odd])]
    publishers = len(world.publisher_shares)
    frame = pd.DataFrame(
        {
            "row_id": row_ids,
            "item": names,
            "publisher": _names("publisher", publishers)[rng.choice(publishers, count, p=world.publisher_shares)],
            "campaign": world.campaigns[item],
            "country": np.array(COUNTRIES, dtype=object)[rng.choice(len(COUNTRIES), count, p=_zipf(len(COUNTRIES)))],
            "device": np.array(DEVICES, dtype=object)[rng.choice(len(DEVICES), count, p=(0.6, 0.3, 0.1))],
            "title": title,
            "thumbnail": world.thumbnails[creative, (rng.random(count) < 0.3).astype(np.int64)],
            "hour": rng.integers(24, size=count),
            "position": rng.integers(1, 9, size=count),
            "age": np.round(rng.gamma(1.5, 18.0, size=count), 1),
            "impressions": np.clip(rng.lognormal(5.0, 1.0, size=count), 20, 2000).astype(np.int64),
        }
    )
    for column, share in (("publisher", 0.02), ("title", 0.005), ("thumbnail", 0.01), ("age", 0.03)):
        frame[column] = frame[column].mask(rng.random(count) < share)
    truth = truth_of(frame, seed)
    frame["clicks"] = rng.binomial(frame["impressions"], truth.chance)
    frame["ctr"] = frame["clicks"] / frame["impressions"]
    return frame, truth


def _names(kind: str, count: int) -> NDArray[np.object_]:
    return np.array([f"{kind}_{i}" for i in range(count)], dtype=object)


def _zipf(count: int, exponent: float = 1.0) -> Floats:
    shares = np.power(np.arange(1.0, count + 1), -exponent)
    return np.asarray(shares / shares.sum())


def write_sample(path: Path, rows: int, *, seed: int = 0, pad_bytes: int = 0) -> dict[str, Any]:
    """Writes the rows to path (gzip if it ends in .gz) and the truth beside it, and returns the truth.

    `x.json` and `x.json.gz` get `x.truth.json`: `known_losses` of all rows, their number and the seed. pad_bytes: an
    unused column fills each row up to about so many bytes.
    """
    sums = np.zeros(7)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as raw:
        # No file name and no time inside: the same rows are the same bytes.
        out = gzip.GzipFile("", "wb", 1, raw, mtime=0) if path.suffix == ".gz" else raw
        with out:
            for frame, truth in _blocks(rows, seed):
                out.write(to_export_form(frame, pad_bytes))
                sums += _loss_sums(frame, truth)
    part.replace(path)
    known = {"rows": rows, "seed": seed} | _as_losses(sums)
    truth_path(path).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return known


def truth_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".json") + ".truth.json")


def to_export_form(frame: pd.DataFrame, pad_bytes: int = 0) -> bytes:
    """Newline-delimited JSON as BigQuery writes it: INT64 as strings, NULL fields left out, <, > and & escaped."""
    fields = [_json_fields(frame[name]).tolist() for name in frame]
    lines = ["{" + "".join(values)[1:] + "}\n" for values in zip(*fields, strict=True)]
    if pad_bytes:
        lines = [f'{line[:-2]},"padding":"{"x" * (pad_bytes - len(line))}"}}\n' for line in lines]
    return "".join(lines).encode().replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def _json_fields(column: pd.Series) -> NDArray[np.object_]:
    """`,"name":value` for each row, nothing where missing. Each distinct value is written once, for speed."""
    codes, uniques = pd.factorize(column)
    values = uniques.tolist() if column.dtype != np.int64 else map(str, uniques)
    texts = [f',"{column.name}":{orjson.dumps(value).decode()}' for value in values]
    return np.array([*texts, ""], dtype=object)[codes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample_2k.json", help="*.gz: gzip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pad-bytes", type=int, default=0, help="fill rows up to so many bytes")
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f"--rows={args.rows}: at least 1")
    print(json.dumps(write_sample(args.out, args.rows, seed=args.seed, pad_bytes=args.pad_bytes), indent=2))


if __name__ == "__main__":
    main()
