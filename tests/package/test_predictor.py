"""Scores from a package alone are those of the model that it was made of, and a foreign package is refused."""

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest

from networks import deep_v1, rnn_v1
from trainer.config import record
from trainer.config.loading import Configuration
from trainer.config.net_config import NetConfig
from trainer.data import dataset
from trainer.features import preprocessing
from trainer.features.rules import fit_preprocessing
from trainer.model.ops_wrapper import build_model_graph
from trainer.package import archive as packaging
from trainer.package import prediction_rows
from trainer.package import predictor as prediction
from trainer.package import saved_model as serving
from trainer.package.predictor import get_weights, load_predictor, needed_columns
from trainer.package.weights import weights_from_bytes, weights_to_bytes
from trainer.runtime.errors import ConfigError, DataError, StorageError, TrainerError

TITLES = ["Red fox runs", "The red hen", "Blue whale, sings!", "red blue green", "Night owl's song"]
LABELS: dict[str, list[Any]] = {
    "binary": [0.0, 1.0, 0.25, 0.5, 1.0],
    "regression": [1990.0, 2001.0, 2010.0, 1985.0, 2020.0],
    "multiclass": ["news", "sport", "arts", "news", "sport"],
    "multilabel": [["a"], ["a", "b"], [], ["c"], ["b", "c"]],
}


def config_of(objective: str = "binary", network: str = "deep_v1", **settings: Any) -> NetConfig:
    """A small network over one column of each role."""
    columns = {
        "categorical_columns": ("item",),
        "multi_categorical_columns": ("tags",),
        "text_columns": ("title",),
        "numeric_columns": ("age",),
        "log_numeric_columns": ("price",),
        "label_column": "label",
        "weight_column": None,
        "key_columns": ("id", "shop"),
    }
    metric = {"stopping_metric": "loss", "objective": objective, "network": network, "min_count": 1, "max_tokens": 8}
    cls = {"deep_v1": deep_v1, "rnn_v1": rnn_v1}[network].Config
    return cls(**(columns | metric | {"hidden_units": (8,), "embedding_dim": 4} | settings))


def rows_of(objective: str, copies: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "id": str(2**63 - 1 - number),
            "shop": f"shop_{number % 7}",
            "item": f"item_{number % 5}",
            "tags": [f"t{number % 3}", f"t{number % 4}"],
            "title": TITLES[number % 5],
            "age": float(number % 11),
            "price": float(number % 13),
            "label": LABELS[objective][number % 5],
        }
        for number in range(5 * copies)
    ]


# What a vocabulary has never seen, what is missing or empty, scripts and sizes of all kinds.
HOSTILE: list[dict[str, Any]] = [
    {"id": "1"},
    {"id": "2", "shop": "s", "item": "", "tags": [], "title": "", "age": -1e30, "price": 0.0},
    {"id": "3", "item": "item_1", "tags": ["unseen", "t1"], "title": "RED  fox\t\n(fox)!!", "age": 3, "price": 1e30},
    {"id": "4", "item": "never", "tags": ["t0"] * 30, "title": "word " * 200, "age": "7"},
    {"id": "5", "item": "Straße", "title": "夜が明ける RED — ДОМ İstanbul ﬁsh"},
    {"id": "6", "title": "🙂🙂 e\u0301te\u0301 \u200b \u2028 don't U.S.A. :) http://a.b/c?d=1", "tags": [""]},
    {"id": "7", "title": "   ", "item": "\u0000", "tags": ["\u0000"]},
    {"id": "8", "title": "a\u0000b", "item": "__missing__", "tags": ["__missing__", "t1"]},
    {"id": "9", "title": "\\u003cb\\u003e <b>red</b> " + "x" * 5000},
]


def loaded(folder: Path, rows: list[dict[str, Any]], config: NetConfig, *, labelled: bool = False) -> pd.DataFrame:
    (folder / "rows.json").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return dataset.load(folder / "rows.json", needed_columns(config, labelled=labelled)).frame


def packed(folder: Path, config: NetConfig) -> tuple[dict[str, bytes], prediction.Predictor]:
    """The members of a package, but for its SavedModel, and the model that it was made of, with random weights."""
    train = loaded(folder, rows_of(config.objective), config, labelled=True)
    fitted = fit_preprocessing(config, train)
    ops = build_model_graph(config, fitted.shapes())
    random = np.random.default_rng(0)
    for weight in ops.model.weights:
        weight.assign(random.normal(scale=0.5, size=weight.shape))
    settings = Configuration(config, {item.name: "default" for item in dataclasses.fields(config)}, "variant")
    members = {
        "config.json": record.to_json(settings).encode(),
        "preprocessing.json": fitted.to_json().encode(),
        "weights.npz": weights_to_bytes(get_weights(ops)),
    }
    return members, prediction.Predictor(settings, fitted, ops)


def package_of(folder: Path, members: dict[str, bytes], made_of: prediction.Predictor) -> Path:
    """The whole package."""
    ops, saved_model = made_of.ops, folder / "saved_model"
    variables = [weight.value for weight in ops.model.weights]
    serving.export_saved_model(saved_model, made_of.preprocessing, ops.predictions, variables)
    packaging.write_package(folder / "run.zip", members | packaging.files_below(saved_model))
    return folder / "run.zip"


@pytest.mark.parametrize("network", ["deep_v1", "rnn_v1"])
@pytest.mark.parametrize("objective", LABELS)
def test_a_package_predicts_what_its_model_predicts(tmp_path: Path, network: str, objective: str) -> None:
    members, made_of = packed(tmp_path, config_of(objective, network))
    frame = loaded(tmp_path, HOSTILE + rows_of(objective, 2), made_of.settings.config)
    expected = made_of.ops.predict(made_of.ops.table(preprocessing.transform(made_of.preprocessing, frame)))
    scores = load_predictor(members).predict(frame)
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.float32
    assert scores.shape == ((19,) if objective in ("binary", "regression") else (19, 3))
    assert len(np.unique(scores)) > 10


@pytest.mark.parametrize(
    ("network", "tokenizer", "objective"),
    [("deep_v1", "spacy", "binary"), ("deep_v1", "regex", "regression"), ("rnn_v1", "regex", "multilabel")],
)
def test_predictor_and_saved_model_agree_on_rows_of_every_kind(
    tmp_path: Path, network: str, tokenizer: str, objective: str
) -> None:
    members, made_of = packed(tmp_path, config_of(objective, network, tokenizer=tokenizer))
    package = package_of(tmp_path, members, made_of)
    frame = loaded(tmp_path, HOSTILE + rows_of(objective, 2), made_of.settings.config)
    expected = made_of.predict(frame)
    assert prediction.verify(package, frame, expected) <= 1e-6


def test_a_predictor_that_differs_does_not_pass(tmp_path: Path) -> None:
    members, made_of = packed(tmp_path, config_of("regression"))
    package = package_of(tmp_path, members, made_of)
    frame = loaded(tmp_path, rows_of("regression", 2), made_of.settings.config)
    wrong = made_of.predict(frame)
    wrong[3] += 0.01 * made_of.preprocessing.shapes().label_std
    with pytest.raises(StorageError, match=r"predictor of .*run\.zip differs from the trained model by \d"):
        prediction.verify(package, frame, wrong)
    wrong[3] = np.nan
    with pytest.raises(StorageError, match="differs from the trained model by nan"):
        prediction.verify(package, frame, wrong)


def test_a_saved_model_of_other_weights_does_not_pass(tmp_path: Path) -> None:
    members, made_of = packed(tmp_path, config_of())
    frame = loaded(tmp_path, rows_of("binary"), made_of.settings.config)
    expected = made_of.predict(frame)
    made_of.ops.model.weights[-1].assign_add([0.1])
    with pytest.raises(StorageError, match="The SavedModel of"):
        prediction.verify(package_of(tmp_path, members, made_of), frame, expected)


@pytest.mark.parametrize("objective", LABELS)
def test_scored_rows_keep_their_order_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    monkeypatch.setattr(prediction_rows, "BLOCK", 7)
    members, _ = packed(tmp_path, config_of(objective))
    predictor = load_predictor(members)
    rows = rows_of(objective, 3) + HOSTILE
    frame = loaded(tmp_path, rows, predictor.settings.config)
    lines = list(prediction_rows.prediction_rows(predictor, frame, ["id", "shop"]))
    scored = [json.loads(line) for line in lines]
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)
    assert [(row["id"], row["shop"]) for row in scored] == [(row["id"], row.get("shop")) for row in rows]
    expected = predictor.predict(frame)
    if objective in ("binary", "regression"):
        assert [list(row) for row in scored] == [["id", "shop", "prediction"]] * len(rows)
        np.testing.assert_allclose([row["prediction"] for row in scored], expected, rtol=1e-6)
        return
    classes = sorted({"multiclass": {"news", "sport", "arts"}, "multilabel": {"a", "b", "c"}}[objective])
    for row, probabilities in zip(scored, expected, strict=True):
        assert list(row["probabilities"]) == classes
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, rtol=1e-6)
        if objective == "multiclass":
            assert row["prediction"] == classes[int(np.argmax(probabilities))]
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        else:
            assert row["prediction"] == [name for name, p in zip(classes, probabilities, strict=True) if p > 0.5]


def test_columns_that_only_decided_the_split_are_not_asked_for() -> None:
    config = config_of(split="time", time_column="day", group_columns=("author", "item", "id"))
    kinds = {"item": "category", "tags": "categories", "title": "text", "age": "number", "price": "amount"}
    assert needed_columns(config, labelled=False) == kinds | {"id": "key", "shop": "key"}
    assert needed_columns(config, labelled=True) == kinds | {"label": "probability"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return packed(tmp_path_factory.mktemp("good"), config_of())[0]


def changed_json(data: bytes, *keys: str, value: Any) -> bytes:
    record = orjson.loads(data)
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return orjson.dumps(record)


def changed_weights(data: bytes, **changes: Any) -> bytes:
    weights = weights_from_bytes(data)
    return weights_to_bytes({name: array for name, array in (weights | changes).items() if array is not None})


def test_a_package_that_lacks_a_part_is_refused(good: dict[str, bytes]) -> None:
    for name in good:
        with pytest.raises(StorageError, match=f"The package has no {name}"):
            load_predictor({other: data for other, data in good.items() if other != name})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits/bias": np.zeros(2, np.float32)}, "do not fit its network: logits/bias"),
        ({"logits/bias": np.zeros(1, np.float64)}, "do not fit its network: logits/bias"),
        ({"logits/bias": np.array(["x"])}, "do not fit its network: logits/bias"),
        ({"logits/bias": None}, "do not fit its network: logits/bias"),
        ({"extra": np.zeros(1, np.float32)}, "do not fit its network: extra"),
        ({"logits/bias": np.full(1, np.nan, np.float32)}, "hold NaN or infinity: logits/bias"),
        ({"logits/bias": np.full(1, np.inf, np.float32)}, "hold NaN or infinity: logits/bias"),
    ],
)
def test_weights_of_another_network_and_of_none_are_refused(
    good: dict[str, bytes], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StorageError, match=message):
        load_predictor(good | {"weights.npz": changed_weights(good["weights.npz"], **changes)})


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def array(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        b"\x80\x04\x95pickle",
        array(np.zeros(3, np.float32)),  # an array, but no archive of them
        archive(weights=b"no array"),
        archive(zipfile.ZIP_DEFLATED, weights=array(np.zeros(10**6))),  # the way that a bomb is made
        archive(weights=array(np.zeros(3)).replace(b"(3,)", b"(9" + b"9" * 15 + b",)")),  # petabytes
        archive(weights=array(np.array([{"any": "object"}], dtype=object), allow_pickle=True)),
    ],
)
def test_weights_that_are_no_plain_archive_of_arrays_are_refused(good: dict[str, bytes], data: bytes) -> None:
    with pytest.raises(StorageError, match="weights cannot be read"):
        load_predictor(good | {"weights.npz": data})


def test_a_damaged_array_is_an_array_or_refused() -> None:
    random, whole = np.random.default_rng(0), array(np.arange(6, dtype=np.float32).reshape(2, 3))
    refused = []
    for _ in range(500):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(60, size=2)] = random.choice(list(b"()[]{},'\"\n\0 9x\xff"), 2)
        try:
            assert isinstance(weights_from_bytes(archive(weights=data.tobytes()))["weights"], np.ndarray)
        except StorageError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not [message for message in refused if "\n" in message or len(message) > 200]


@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        ("network", "rnn_v1", ConfigError, "damaged|no setting|batch_norm"),
        ("network", "../evil", ConfigError, "config.json"),
        ("categorical_columns", ["publisher"], StorageError, "are from different runs"),
        ("numeric_columns", [], StorageError, "are from different runs"),
        ("label_column", "other", StorageError, "are from different runs"),
        ("weight_column", "views", StorageError, "are from different runs"),
        ("objective", "regression", StorageError, "are from different runs"),
        ("hidden_units", [9], StorageError, "do not fit its network: dense_1"),
        ("hidden_units", ["9"], ConfigError, "hidden_units"),
        ("epochs", -1, ConfigError, "epochs"),
        ("unknown", 1, ConfigError, "unknown"),
    ],
)
def test_the_configuration_of_another_run_is_refused(
    good: dict[str, bytes], setting: str, value: Any, error: type[TrainerError], message: str
) -> None:
    data = changed_json(good["config.json"], "settings", setting, value={"value": value, "source": "default"})
    if setting == "network":
        data = changed_json(data, "network", value=value)
    with pytest.raises(error, match=message):
        load_predictor(good | {"config.json": data})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format_version": 1}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "preprocessing.json"])
def test_records_that_are_damaged_are_refused(good: dict[str, bytes], name: str, data: bytes) -> None:
    with pytest.raises((ConfigError, DataError)):
        load_predictor(good | {name: data})


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("features", "item"), "text"),
        (("features", "item"), "evil"),
        (("vocabularies", "item"), []),
        (("vocabularies", "item"), ["item_1", "item_1"]),
        (("vocabularies",), {}),
        (("scales", "age", "std"), 0.0),
        (("scales", "age", "mean"), "1"),
        (("label", "output_bias"), []),
        (("text", "tokenizer"), "eval"),
        (("text", "max_tokens"), 10**9),
    ],
)
def test_the_preprocessing_of_another_run_is_refused(good: dict[str, bytes], keys: tuple[str, ...], value: Any) -> None:
    data = changed_json(good["preprocessing.json"], *keys, value=value)
    with pytest.raises((StorageError, DataError)):
        load_predictor(good | {"preprocessing.json": data})
