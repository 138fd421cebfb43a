"""From a file to arrays of ids and numbers, by the trainer and as one writes it with pandas and spaCy."""

import time
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import spacy

from tests.sample import SAMPLE_COLUMNS
from trainer.config.net_config import NetConfig
from trainer.features.pipeline import prepare
from trainer.runtime.timing import Timings

CONFIG = NetConfig(**SAMPLE_COLUMNS, tokenizer="spacy", cache_gb=0.0)  # in memory, as the other side
SPACY = spacy.blank("en")  # imported and made before the clock runs, for both sides


def trainer(path: str) -> dict[str, float]:
    """`trainer.features.pipeline`: split, fit, encode."""
    timings = Timings()
    prepared = prepare(CONFIG, {"train": path}, timings)
    stages = timings.report()["stages"]
    rows = sum(len(side.weights) for side in prepared.encoded.values())
    return {"rows": rows, "seconds": stages["split"]["seconds"] + stages["preprocess"]["seconds"]}


def plain(path: str, most_titles: int) -> dict[str, float]:
    """The same by pandas and spaCy's own pipe. Of more titles than `most_titles` these are split, and their seconds
    count for all."""
    frame = pd.read_json(path, lines=True)
    began = time.perf_counter()
    side = np.random.default_rng(0).choice(["train", "validation", "test"], len(frame), p=[0.8, 0.1, 0.1])
    train = side == "train"
    arrays = [categories(frame[column], train) for column in CONFIG.categorical_columns]
    arrays += [numbers(frame[column], train) for column in CONFIG.numeric_columns]
    packed = {name: [array[side == name] for array in arrays] for name in ("train", "validation", "test")}
    seconds, began = time.perf_counter() - began, time.perf_counter()
    texts, kept = frame["title"].iloc[:most_titles], side[:most_titles]
    ids = titles(texts, kept == "train")
    for name, parts in packed.items():
        parts.append(ids[kept == name])
    share = len(texts) / len(frame)
    return {"rows": len(frame), "seconds": seconds + (time.perf_counter() - began) / share, "share": share}


def categories(column: pd.Series, train: np.ndarray) -> np.ndarray:
    """int32 [rows]: 1 missing, 2 unknown, from 3 on what occurs twice in the training rows."""
    counts = column[train].value_counts()
    known = counts.index[counts >= CONFIG.min_count]
    ids = column.map(pd.Series(np.arange(3, 3 + len(known)), known)).fillna(2)
    return ids.mask(column.isna(), 1).to_numpy(np.int32)


def numbers(column: pd.Series, train: np.ndarray) -> np.ndarray:
    """float32 [rows, 2]: standardised, or 0; 1 where missing."""
    scaled = (column - column[train].mean()) / column[train].std()
    return np.stack([scaled.fillna(0), column.isna()], axis=1).astype(np.float32)


def titles(texts: pd.Series, train: np.ndarray) -> np.ndarray:
    """int32 [rows, tokens]: ids of the tokens, padded with 0."""
    tokens = list(spacy_tokens(texts.fillna("")))
    counts = Counter(
        token
        for row, in_training in zip(tokens, train, strict=True)
        if in_training
        for token in row[: CONFIG.max_tokens]
    )
    known = [token for token, count in counts.most_common() if count >= CONFIG.min_count]
    id_of = {token: 3 + i for i, token in enumerate(known)}
    ids = np.zeros((len(tokens), CONFIG.max_tokens), np.int32)
    for i, row in enumerate(tokens):
        row_ids = [id_of.get(token, 2) for token in row[: CONFIG.max_tokens]]
        ids[i, : len(row_ids)] = row_ids
    ids[texts.isna().to_numpy(), 0] = 1
    return ids


def spacy_tokens(texts: Any) -> Any:
    """The tokens of each text in lower case, by spaCy's pipe over its tokenizer, the fastest it has."""
    for document in SPACY.tokenizer.pipe(texts, batch_size=1000):
        yield [token.lower_ for token in document if not token.is_space]
