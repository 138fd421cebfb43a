"""Small packages that ask for much: refused with a message, or read, in little time and memory.

In the short form each is given to `load_package`; in the long form the real command scores rows with it, and its time
and memory are measured.
"""

import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.commands import ROOT
from tests.package.test_predictor import changed_json, changed_weights, config_of, packed
from tests.scale import many
from trainer.package import predictor
from trainer.package.weights import weights_from_bytes, weights_to_bytes
from trainer.runtime.errors import TrainerError

Members = dict[str, bytes]
Hostile = Callable[[Members], Members]
SECONDS, BYTES = 30, 2 * 10**9  # of processor and memory that a package of up to 64 MB may cost
ROWS = b'{"id": "1", "shop": "s", "item": "item_1", "title": "red fox", "tags": ["t1"], "age": 1, "price": 2}\n'


def settings(members: Members, **values: Any) -> Members:
    config = orjson.loads(members["config.json"])
    if config["network"] != (network := values.get("network", config["network"])):
        config["network"] = network
        config["settings"].pop("batch_norm")  # of deep_v1 alone
    for name, value in values.items():
        config["settings"][name] = {"value": value, "source": "default"}
    return members | {"config.json": orjson.dumps(config)}


def preprocessing(members: Members, *keys: str, value: Any) -> Members:
    return members | {"preprocessing.json": changed_json(members["preprocessing.json"], *keys, value=value)}


def weights(members: Members, **changes: Any) -> Members:
    return members | {"weights.npz": changed_weights(members["weights.npz"], **changes)}


def columns(members: Members, name: str, role: str, count: int) -> Members:
    """So many columns of a role, in both records."""
    names = [f"{role}{number}" for number in range(count)]
    record = orjson.loads(members["preprocessing.json"])
    record["features"] |= dict.fromkeys(names, role)
    if role == "numeric":
        record["scales"] = {n: {"mean": 0.0, "std": 1.0} for n in names} | record["scales"]
    else:
        record["vocabularies"] |= {n: [] for n in names}
    own = orjson.loads(members["config.json"])["settings"][name]["value"]
    return settings(members, **{name: [*own, *names]}) | {"preprocessing.json": orjson.dumps(record)}


def with_text(members: Members, old: bytes, new: bytes) -> Members:
    assert old in members["preprocessing.json"]
    return members | {"preprocessing.json": members["preprocessing.json"].replace(old, new, 1)}


def inner(members: Members, change: Callable[[bytearray], None]) -> Members:
    data = bytearray(members["weights.npz"])
    change(data)
    return members | {"weights.npz": bytes(data)}


def overlapping(data: bytearray) -> None:
    """Each array begins where the first one does."""
    at = -1
    while (at := data.find(b"PK\1\2", at + 1)) >= 0:
        data[at + 42 : at + 46] = bytes(4)


def of_zeros(members: Members, width: int) -> Members:
    """A network as wide as the weights, which are all zero."""
    arrays = weights_from_bytes(members["weights.npz"])
    kernel = arrays["dense_1/kernel"]
    changes = {
        "dense_1/kernel": np.zeros((len(kernel), width), np.float32), "dense_1/bias": np.zeros(width, np.float32),
        "logits/kernel": np.zeros((width, 1), np.float32),
    }  # fmt: skip
    kept = {path: array for path, array in (arrays | changes).items() if not path.startswith("batch_norm")}
    changed = settings(members, hidden_units=[width], batch_norm=False)
    return changed | {"weights.npz": weights_to_bytes(kept)}


def empty_array(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


MANY = 3_000_000
NUMBERS = ",".join(f'"{number}"' for number in range(MANY)).encode()

# name -> (how to make it, what the refusal says; "": it is read)
PACKAGES: dict[str, tuple[Hostile, str]] = {
    "wide layers": (lambda m: settings(m, hidden_units=[65_536, 65_536]), "do not fit its network: dense_1"),
    "wide embeddings": (lambda m: settings(m, embedding_dim=4096), "do not fit its network: category_embeddings"),
    "a wide reader of words": (
        lambda m: settings(m, network="rnn_v1", rnn_units=65_536), "do not fit its network: .*text_title_gru"),
    "3,000 layers": (lambda m: settings(m, hidden_units=[1] * 3000), "has more than 100 entries"),
    "100 layers": (lambda m: settings(m, hidden_units=[1] * 100), "do not fit its network"),
    "5,000 numbers": (lambda m: columns(m, "numeric_columns", "numeric", 5000), "More than 1,000 columns"),
    "60 texts": (lambda m: columns(m, "text_columns", "text", 60), "More than 50 columns"),
    "an invented vocabulary": (
        lambda m: preprocessing(m, "vocabularies", "item", value=[f"v{number}" for number in range(300_000)]),
        "do not fit its network: category_embeddings"),
    "a long vocabulary": (
        lambda m: with_text(m, b'"vocabularies":{', b'"vocabularies":{"x":[' + NUMBERS + b"],"), "more values than"),
    "invented classes": (lambda m: with_text(m, b'"classes":[', b'"classes":[' + NUMBERS), "more values than"),
    "empty lists": (
        lambda m: with_text(m, b'"vocabularies":{', b'"vocabularies":{"x":[' + b"[]," * MANY + b"[]],"),
        "more values than"),
    "empty objects": (lambda m: m | {"preprocessing.json": b"[" + b"{}," * MANY + b"{}]"}, "more values than"),
    "nested lists": (lambda m: m | {"preprocessing.json": b"[" * 90_000 + b"]" * 90_000}, "is damaged"),
    "a large configuration": (
        lambda m: m | {"config.json": b"[" + b"[]," * MANY + b"[]]"}, "more than 1,000,000 bytes"),
    "half a character": (lambda m: with_text(m, b'"item_1"', b'"\\ud800"'), "is damaged"),
    "half a class": (lambda m: with_text(m, b'"classes":[]', b'"classes":["\\udfff"]'), "is damaged|different runs"),
    "zeros for weights": (lambda m: of_zeros(m, 1_000_000), "unpacks to over 10 times its size"),
    "zeros that nobody needs": (lambda m: m | {"zeros": bytes(100_000_000)}, ""),
    "arrays that overlap": (lambda m: inner(m, overlapping), "weights cannot be read.*overlap"),
    "bytes after the arrays": (lambda m: inner(m, lambda data: data.extend(b"more")), "weights cannot be read"),
    "arrays of nothing": (
        lambda m: m | {"weights.npz": npz(**{"logits/bias.npy": empty_array((0, 2**40))})}, "do not fit its network"),
    "arrays of exabytes": (
        lambda m: m | {"weights.npz": npz(**{"logits/bias.npy": empty_array((2**60,))})}, "weights cannot be read"),
    "an array with a long name": (
        lambda m: weights(m, **{"x/" * 2000: np.zeros(1, np.float32)}), "do not fit its network: (x/){40}"),
    "an array of two names": (lambda m: weights(m, **{"logits/bias2": np.zeros(1, np.float32)}), "do not fit"),
}  # fmt: skip
COMPRESSED = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Members:
    members = packed(tmp_path_factory.mktemp("good"), config_of())[0]
    return members | {"preprocessing.json": orjson.dumps(orjson.loads(members["preprocessing.json"]))}


def written(path: Path, members: Members, manifest: bytes = b"", compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with the hashes of its members, and not larger than a small package."""
    listed = {name: {"sha256": sha256(data).hexdigest(), "bytes": len(data)} for name, data in members.items()}
    manifest = manifest or json.dumps({"format_version": 1, "members": listed}).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data, compression if name == "config.json" else None)
        archive.writestr("manifest.json", manifest)
    assert path.stat().st_size < 64e6
    return path


def assert_held_off(package: Path, message: str) -> None:
    """The package is refused with a message, or read if there is none; in the long form also by the real command."""
    if not message:
        predictor.load_package(str(package))
    else:
        with pytest.raises(TrainerError, match=message) as caught:
            predictor.load_package(str(package))
        assert caught.value.exit_code in (2, 3, 4, 6)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
    for task in many((), ("evaluate", "predict")):
        measure(package, task, refused=bool(message))


def measure(package: Path, task: str, *, refused: bool) -> None:
    folder = package.parent
    rows = ROWS if task == "predict" else ROWS.replace(b"}", b', "label": 1}')
    (folder / "rows.json").write_bytes(rows)
    command = [sys.executable, "-m", "trainer.package.score", task, f"--package={package}", "--data=rows.json"]
    command += ["--out=/dev/null"] if task == "predict" else []
    with (folder / "errors").open("wb") as errors_file:
        child = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=errors_file,
        )  # fmt: skip
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = code = os.waitstatus_to_exitcode(status)
    errors = (folder / "errors").read_text()
    assert code in ((2, 3, 4, 6) if refused else (0,)), errors
    assert "Traceback" not in errors
    assert used.ru_utime + used.ru_stime < SECONDS
    assert used.ru_maxrss * 1024 < BYTES


@pytest.mark.parametrize("name", PACKAGES)
def test_a_small_package_costs_little(
    good: Members, tmp_path: Path, name: str, record_property: Callable[[str, int], None]
) -> None:
    make, message = PACKAGES[name]
    assert_held_off(written(tmp_path / "run.zip", make(good)), message)
    record_property("hostile packages", 1)


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("damaged", [False, True])
def test_members_are_stored_or_deflated(good: Members, tmp_path: Path, name: str, damaged: bool) -> None:
    package = written(tmp_path / "run.zip", good, compression=COMPRESSED[name])
    if damaged:
        data = bytearray(package.read_bytes())
        data[60:100] = bytes(40)
        package.write_bytes(data)
    assert_held_off(package, "'config.json' is compressed in another way than deflate")


def test_a_manifest_has_the_size_of_a_manifest(good: Members, tmp_path: Path) -> None:
    package = written(tmp_path / "run.zip", good, manifest=b"[" + b"[]," * MANY + b"[]]")
    assert_held_off(package, r"its manifest has 9,\d+,\d+ bytes")


def test_a_package_from_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.zip")
    for path in (tmp_path / "run.zip", tmp_path):
        assert_held_off(path, "is not a file. Name the zip file") if stat.S_ISFIFO(path.stat().st_mode) else None
        with pytest.raises(TrainerError, match="is not a file"):
            predictor.load_package(str(path))


def test_a_network_that_is_larger_than_the_free_memory_is_refused(
    good: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "available_memory", lambda: 1000)
    with pytest.raises(TrainerError, match=r"network needs about [\d.,]+ \w+ of memory; 1,000 bytes are free"):
        predictor.load_predictor(good)
