"""Export the SavedModel, which takes raw features: `trainer.features.preprocessing` inside a graph.

Signature "serving_default", one input per feature column, named as `input_names` says:

    categorical               string [batch]           missing: "__missing__"
    multi_categorical         string [batch, any]      right-padded with "__missing__"
    text, tokenizer "regex"   string [batch]           missing: "__missing__"
    text, tokenizer "spacy"   string [batch, any]      its tokens (lower-cased if that is a rule), right-padded with "";
                                                       missing: one token "__missing__"
    numeric, log_numeric      float64 [batch]          missing: NaN

Output "prediction": float32 [batch], or [batch, classes] for multiclass and multilabel.
"""

import contextlib
import errno
import keyword
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from trainer.features.preprocessing import NUMERIC_ROLES, Preprocessing
from trainer.features.scale import FLOAT32_MAX, Scale
from trainer.features.tokenizers import regex_tokens
from trainer.features.vocabulary import MISSING, MISSING_ID, OOV_ID, Kept, padded, spellings, values_of
from trainer.runtime import system

AUTOGRAPH_BYTES = 16_384  # more than AutoGraph writes during a save, less than any SavedModel has


def input_names(columns: Iterable[str]) -> dict[str, str]:
    """Column -> name of its input in the signature.

    The column's own name where TensorFlow takes it: ASCII letters, digits and underscores, a letter first, no keyword
    of Python. Otherwise each other character becomes an underscore and "column_" comes before what is still none; a
    name that is taken, in capitals or not, gets further underscores.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for column in sorted(columns, key=_is_input_name, reverse=True):  # names that can stay come first
        name = re.sub(r"[^A-Za-z0-9_]", "_", column)
        name = name if _is_input_name(name) else f"column_{name}"
        while name.lower() in taken:
            name += "_"
        names[column] = name
        taken.add(name.lower())
    return names


def _is_input_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)) and not keyword.iskeyword(name) and name != "self"


def export_saved_model(
    folder: Path,
    preprocessing: Preprocessing,
    predict: Callable[[dict[str, tf.Tensor]], tf.Tensor],
    variables: Sequence[tf.Variable],
) -> None:
    """Write a SavedModel to a folder. `predict`: features as in `Examples` -> what the signature answers, by way of
    the `variables`.

    A negative number in a log_numeric column, which preprocessing refuses, makes its row's answer NaN.
    """
    names = input_names(preprocessing.features)
    tables = {column: _table(values) for column, values in preprocessing.vocabularies.items()}

    def serve(raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        features = {
            column: _numeric(raw[names[column]], role, preprocessing.scales[column])
            if role in NUMERIC_ROLES
            else _ids(raw[names[column]], column, preprocessing, tables[column])
            for column, role in preprocessing.features.items()
        }
        return {"prediction": predict(features)}

    module = tf.Module()
    module.weights, module.tables = list(variables), list(tables.values())
    inputs = {name: _input(preprocessing, column, name) for column, name in names.items()}
    signature = tf.function(serve, autograph=False).get_concrete_function(inputs)
    with _quiet(), temporary_files_in(folder / ".temporary"):
        tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TensorFlow's notes of what it writes, which a notebook would show."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Put Python's temporary files into a new folder, and remove it at the end. ResourceError if the disk is full.

    `tf.saved_model.save` converts some of its own functions with AutoGraph; this cannot be turned off. AutoGraph writes
    their source to temporary files, which stay if the process is killed. Here the next save of the run removes them.
    """
    system.remove(folder)
    with system.disk_errors("writing", folder, AUTOGRAPH_BYTES):
        folder.mkdir(parents=True)
        if shutil.disk_usage(folder).free < AUTOGRAPH_BYTES:  # AutoGraph would warn and go on, and `save` fail later
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        system.remove(folder)


def raw_features(frame: pd.DataFrame, preprocessing: Preprocessing) -> dict[str, tf.Tensor]:
    """The signature's inputs, by name, for rows as the loader gives them."""
    names = input_names(preprocessing.features)
    return {names[column]: _raw(frame[column], column, preprocessing) for column in preprocessing.features}


def _raw(column: pd.Series, name: str, preprocessing: Preprocessing) -> tf.Tensor:
    role = preprocessing.features[name]
    if role in NUMERIC_ROLES:
        return tf.constant(column.to_numpy(np.float64))
    if not _is_list(role, preprocessing):
        return tf.constant(column.astype(object).where(column.notna(), MISSING).to_numpy(), tf.string)
    values = values_of(column, role, preprocessing.text)
    tokens = values.flat
    width, end = preprocessing.kept(name)
    width = min(int(np.diff(tokens.offsets).max(initial=1)), width + 1)  # one more than is kept: the graph has to cut
    texts = np.array([_padding(role), *tokens.values], dtype=object)
    raw = texts[padded(tokens, np.arange(1, len(texts)), Kept(width, end))]
    raw[values.cells < 0, 0] = MISSING
    return tf.constant(raw, tf.string)


def _is_list(role: str, preprocessing: Preprocessing) -> bool:
    return role == "multi_categorical" or (role == "text" and preprocessing.text.tokenizer == "spacy")


def _padding(role: str) -> str:
    return "" if role == "text" else MISSING


def _input(preprocessing: Preprocessing, column: str, name: str) -> tf.TensorSpec:
    role = preprocessing.features[column]
    shape = [None, None] if _is_list(role, preprocessing) else [None]
    return tf.TensorSpec(shape, tf.float64 if role in NUMERIC_ROLES else tf.string, name)


def _table(values: tuple[str, ...]) -> tf.lookup.StaticHashTable:
    texts, ids = spellings(values)
    keys, numbers = tf.constant([MISSING, *texts]), tf.constant([MISSING_ID, *ids.tolist()], tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, numbers), OOV_ID)


def _ids(raw: tf.Tensor, column: str, preprocessing: Preprocessing, table: tf.lookup.StaticHashTable) -> tf.Tensor:
    """int32 [batch], or [batch, width] right-padded with 0, as `trainer.features.preprocessing.transform`."""
    role, (width, end) = preprocessing.features[column], preprocessing.kept(column)
    if role == "categorical":
        return table.lookup(raw)
    if _is_list(role, preprocessing):
        tokens = tf.ragged.boolean_mask(raw, raw != _padding(role))
        missing = tf.logical_and(tokens.row_lengths() == 0, role == "multi_categorical")
    else:
        missing = raw == MISSING
        tokens = regex_tokens(tf.where(missing, "", raw), preprocessing.text)
    if end == "last":
        tokens = tokens[:, -width:]
    ids = tokens.with_flat_values(table.lookup(tokens.flat_values)).to_tensor(0, shape=[None, width])
    first = tf.where(missing, MISSING_ID, ids[:, 0])
    return tf.concat([first[:, tf.newaxis], ids[:, 1:]], axis=1)


def _numeric(raw: tf.Tensor, role: str, scale: Scale) -> tf.Tensor:
    """float32 [batch, 2], as `trainer.features.scale.standardised`."""
    missing = tf.math.is_nan(raw)
    numbers = tf.math.log1p(raw) if role == "log_numeric" else raw
    distances = tf.clip_by_value((numbers - scale.middle) / scale.spread, -FLOAT32_MAX, FLOAT32_MAX)
    if scale.limit is not None:
        distances /= tf.sqrt(1.0 + (distances / scale.limit) ** 2)
    standard = tf.clip_by_value((distances - scale.mean) / scale.std, -FLOAT32_MAX, FLOAT32_MAX)
    if role == "log_numeric":
        standard = tf.where(raw < 0, tf.constant(np.nan, tf.float64), standard)
    standard = tf.where(missing, tf.constant(0.0, tf.float64), standard)
    return tf.cast(tf.stack([standard, tf.cast(missing, tf.float64)], axis=1), tf.float32)
