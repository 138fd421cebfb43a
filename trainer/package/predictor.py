"""Open a package and score rows with it.

The network is rebuilt from this project's code and the package's configuration, and gets the package's weights. No code
from a package is run.
"""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.runtime.command import import_tensorflow_quietly

import_tensorflow_quietly()

import numpy as np
import pandas as pd
import tensorflow as tf

from trainer.config import loading, record, roles
from trainer.config.net_config import NetConfig
from trainer.data import sources
from trainer.data.frames import typed_frame
from trainer.features.preprocessing import Preprocessing, transform
from trainer.features.rules import row_rules, text_rules, vocabulary_rules
from trainer.model.layers import embeddings_by_column
from trainer.model.ops_wrapper import EVALUATION_BATCH, OpsWrapper, build_model_graph, outline_of
from trainer.package import archive, saved_model
from trainer.package.weights import weights_from_bytes
from trainer.runtime.command import amount
from trainer.runtime.errors import ConfigError, ResourceError, StorageError, did_you_mean
from trainer.runtime.memory import available_memory

PARITY = 1e-6  # largest difference between two predictions of one row that counts as the same
RESERVED = ("(padding)", "(missing)", "(out of vocabulary)")  # the values of ids 0, 1 and 2, for people
PARTS = ("config.json", "preprocessing.json", "weights.npz")  # of a package, that a predictor is made from
MOST_VALUES, MOST_LISTS = 2_000_000, 100_000  # in a preprocessing.json, beside values that have weights of their own


class Predictor(NamedTuple):
    """A package that is ready to score rows."""

    settings: loading.Configuration
    preprocessing: Preprocessing
    ops: OpsWrapper
    row_bytes: int = 0  # that a row takes while it is scored, about

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Predictions for the rows of a DataFrame that has the feature columns: float32 [rows], or [rows, classes].

        Probabilities of a binary, multiclass or multilabel objective, the number of a regression. Raises DataError for
        values that training would refuse.
        """
        kinds = roles.column_kinds(self.settings.config, labelled=False)
        features = roles.feature_roles(self.settings.config)
        return self.scores(typed_frame(frame, {column: kinds[column] for column in features}))

    def evaluate(self, frame: pd.DataFrame) -> dict[str, float]:
        """The objective's metrics on the rows of a DataFrame that has the feature, label and weight columns."""
        config = self.settings.config
        return self.measure(typed_frame(frame, needed_columns(config, labelled=True), row_rules(config)))

    def embeddings(self, column: str) -> pd.DataFrame:
        """The embedding of each value of a categorical, multi-categorical or text column: float32 [values, width].

        The index holds the values, most frequent first, after "(padding)", "(missing)" and "(out of vocabulary)".
        """
        tables = embeddings_by_column(self.ops.model, self.preprocessing.shapes())
        if column not in tables:
            raise ConfigError(f"The network has no embedding of {column!r}. {did_you_mean(column, tables)}")
        return pd.DataFrame(tables[column], [*RESERVED, *self.preprocessing.vocabularies[column]])

    def scores(self, frame: pd.DataFrame) -> np.ndarray:
        """As `predict`, of rows that the loader has typed."""
        config = self.settings.config
        if frame.empty:
            single = config.objective in ("binary", "regression")
            return np.zeros((0,) if single else (0, self.ops.shapes.outputs), np.float32)
        features = frame[list(roles.feature_roles(config))]
        at_once = self.rows_at_once(len(features))
        parts = [features.iloc[start : start + at_once] for start in range(0, len(features), at_once)]
        return np.concatenate([self.ops.predict(self.ops.table(transform(self.preprocessing, part))) for part in parts])

    def rows_at_once(self, rows: int) -> int:
        """How many rows to score together: all, unless a batch of them does not fit in free memory. ResourceError if
        not even one row does."""
        if 2 * self.row_bytes * min(rows, EVALUATION_BATCH) <= available_memory():
            return rows
        check_memory(2 * self.row_bytes)
        return int(available_memory() // (2 * self.row_bytes))

    def measure(self, frame: pd.DataFrame) -> dict[str, float]:
        """As `evaluate`, of rows that the loader has typed."""
        check_memory(self.row_bytes * min(len(frame), EVALUATION_BATCH))
        return self.ops.evaluate(self.ops.table(transform(self.preprocessing, frame)))


def load_package(uri: str) -> Predictor:
    """The predictor of a package, a zip here or at gs://; StorageError for a missing or damaged package."""
    with sources.local_file(uri) as path:
        return load_predictor(archive.read_package(path, PARTS.__contains__))


def load_predictor(members: Mapping[str, bytes]) -> Predictor:
    """The predictor that a package's checked members describe; undamaged members may still come from elsewhere.

    Nothing is built before all parts fit each other: a small package must not be able to ask for a large network.
    """
    if missing := set(PARTS) - members.keys():
        raise StorageError(f"The package has no {', '.join(sorted(missing))}. Use one that a run has made.")
    settings = record.from_json(members["config.json"])
    weights = weights_from_bytes(members["weights.npz"])
    check_values(members["preprocessing.json"], sum(array.size for array in weights.values()))
    preprocessing = Preprocessing.from_json(members["preprocessing.json"])
    check_of_one_run(settings.config, preprocessing)
    shapes = preprocessing.shapes()
    outline = outline_of(settings.config, shapes)
    check_weights(outline.weights, weights)
    check_memory(outline.row_bytes + 2 * sum(array.nbytes for array in weights.values()))
    # Its optimizer, which prediction does not need, would take several times the memory of the weights.
    ops = build_model_graph(dataclasses.replace(settings.config, optimizer="sgd"), shapes)
    for weight in ops.model.weights:
        weight.assign(weights[weight.path])
    return Predictor(settings, preprocessing, ops, outline.row_bytes)


def check_values(text: bytes, weights: int) -> None:
    """StorageError for a preprocessing.json with more values than so many weights can be for, before it is parsed:
    a million empty lists are three bytes each in the file, and many times as many in memory."""
    limits = {b",": MOST_VALUES + 4 * weights, b"[": MOST_LISTS, b"{": MOST_LISTS}
    if all(text.count(sign) <= most for sign, most in limits.items()):
        return
    signs = np.frombuffer(text.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    signs = signs[~np.logical_xor.accumulate(signs == ord('"'))]  # those outside of strings
    for sign, most in limits.items():
        if np.count_nonzero(signs == ord(sign)) > most:
            raise StorageError(
                "The package's preprocessing.json has more values than weights can be for. Use an unchanged package."
            )


def check_memory(needed: int) -> None:
    """ResourceError if so many bytes cannot be allocated."""
    if needed > (free := available_memory()):
        raise ResourceError(
            f"The package's network needs about {amount(needed)} of memory; {amount(free)} are free. Use a machine "
            "with more memory."
        )


def check_of_one_run(config: NetConfig, preprocessing: Preprocessing) -> None:
    """StorageError unless the preprocessing was fitted with these columns and rules."""
    configured = (roles.feature_roles(config), config.objective, config.label_column, config.weight_column)
    rules = (text_rules(config), vocabulary_rules(config))
    columns = (preprocessing.features, preprocessing.label.objective, preprocessing.label.column, preprocessing.weight)
    if (configured, rules) != (columns, (preprocessing.text, preprocessing.vocabulary)):
        raise StorageError(
            "The package's config.json and preprocessing.json are from different runs. Use an unchanged package."
        )


def get_weights(ops: OpsWrapper) -> dict[str, np.ndarray]:
    """All weights of a model by their path: layer/weight."""
    return {weight.path: weight.numpy() for weight in ops.model.weights}


def check_weights(expected: Mapping[str, tuple[tuple[int, ...], str]], weights: Mapping[str, np.ndarray]) -> None:
    """StorageError unless weights are exactly those expected, by path, shape and dtype, and finite."""
    packaged = {path: (array.shape, str(array.dtype)) for path, array in weights.items()}
    if expected != packaged:
        wrong = sorted(path for path in expected.keys() | packaged.keys() if expected.get(path) != packaged.get(path))
        named = ", ".join(path[:80] for path in wrong[:5])
        raise StorageError(f"The package's weights do not fit its network: {named}. Use the code that made it.")
    broken = sorted(path for path, array in weights.items() if not np.isfinite(array).all())
    if broken:
        raise StorageError(f"The package's weights hold NaN or infinity: {', '.join(broken[:5])}. Train it again.")


def verify(package: Path, frame: pd.DataFrame, expected: np.ndarray) -> float:
    """Read a package back and score raw rows with it, as a predictor and as a SavedModel.

    Returns the largest difference to the expected predictions (for a regression in standard deviations of the label, or
    in millions of the steps of a float32 at its mean where these are longer); StorageError where it is more than 1e-6.
    """
    members = archive.read_package(package, lambda name: name in PARTS or name.startswith("saved_model/"))
    predictor = load_predictor(members)
    with tempfile.TemporaryDirectory() as folder:
        archive.extract({name: members[name] for name in members if name.startswith("saved_model/")}, Path(folder))
        served = tf.saved_model.load(f"{folder}/saved_model").signatures["serving_default"]
        answers = {
            "predictor": predictor.scores(frame),
            "SavedModel": served(**saved_model.raw_features(frame, predictor.preprocessing))["prediction"].numpy(),
        }
    shapes = predictor.preprocessing.shapes()
    # Labels such as years: the steps of a float32 there are longer than PARITY of their standard deviation.
    scale = max(shapes.label_std, abs(shapes.label_mean) * float(np.finfo(np.float32).eps) / PARITY)
    worst = {name: float(np.max(np.abs(answer - expected))) / scale for name, answer in answers.items()}
    for name, difference in worst.items():
        if not difference <= PARITY:
            raise StorageError(
                f"The {name} of {package} differs from the trained model by {difference:.2g}; at most {PARITY} is "
                "allowed. Do not use the package; please report this."
            )
    return max(worst.values())


def needed_columns(config: NetConfig, *, labelled: bool) -> dict[str, str]:
    """Column -> kind: features, with labels also label and weight, otherwise the keys."""
    needed = {*roles.feature_roles(config)}
    needed |= {config.label_column, config.weight_column or ""} if labelled else {*config.key_columns}
    kinds = roles.column_kinds(config, labelled=labelled)
    return {column: kind for column, kind in kinds.items() if column in needed}
