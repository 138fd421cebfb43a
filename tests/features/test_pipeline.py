"""From files to encoded rows, with the cache and without: the same rows, whichever way they come."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.make_sample import write_sample
from tests.commands import ROOT, SAMPLE, trainer
from tests.sample import sample_config
from trainer.config.net_config import NetConfig
from trainer.features import encoded, pipeline, preprocessing
from trainer.features.pipeline import Prepared, encoding_settings, prepare
from trainer.features.sides import split_sides
from trainer.package.archive import read_package
from trainer.runtime import cache, system
from trainer.runtime.errors import DataError, ResourceError, StorageError
from trainer.runtime.timing import Timings


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepared(config: NetConfig, **data: str) -> tuple[Prepared, set[str]]:
    """What a run would train on, and the stages that it took."""
    timings = Timings()
    result = prepare(config, data or {"train": str(SAMPLE)}, timings)
    return result, set(timings.report()["stages"])


def assert_same(first: Prepared, second: Prepared) -> None:
    assert first.encoded.keys() == second.encoded.keys()
    for side, rows in first.encoded.items():
        for column, other in zip(rows, second.encoded[side], strict=True):
            assert column.dtype == other.dtype
            np.testing.assert_array_equal(column, other)
    assert (first.preprocessing, first.sets, first.split) == (second.preprocessing, second.sets, second.split)
    pd.testing.assert_frame_equal(first.held_out, second.held_out)


def test_the_second_run_takes_the_rows_of_the_first_from_the_cache() -> None:
    plain, stages = prepared(sample_config(cache_gb=0))
    assert "read" in stages
    assert not cache.FOLDER.exists()
    made, stages = prepared(sample_config())
    assert "read" in stages
    cached, stages = prepared(sample_config())
    assert stages == {"cache"}
    assert all(isinstance(column, np.memmap) for rows in cached.encoded.values() for column in rows)
    assert_same(plain, made)
    assert_same(plain, cached)


def test_every_role_and_objective_comes_back_from_the_cache(tmp_path: Path) -> None:
    row = {"c": "x", "m": ["a", "b"], "t": "Big dog, it's", "n": 1.5, "l": 3, "y": ["p", "q"], "w": 2}
    rows = [
        row,
        {"y": [], "w": 1},
        {"c": "é\u0000", "m": [], "t": "", "n": -0.0, "y": ["q"], "w": 1},
        row | {"c": None},
    ] * 30
    (tmp_path / "rows.json").write_text("".join(json.dumps(row | {"k": i}) + "\n" for i, row in enumerate(rows)))
    config = sample_config(
        categorical_columns=("c",), multi_categorical_columns=("m",), text_columns=("t",), numeric_columns=("n",),
        log_numeric_columns=("l",), label_column="y", weight_column="w", key_columns=("k",), objective="multilabel",
    )  # fmt: skip
    data = {"train": "rows.json", "test": "rows.json"}
    made, _ = prepared(config, **data)
    cached, stages = prepared(config, **data)
    assert stages == {"cache"}
    assert_same(made, cached)
    assert cached.held_out.dtypes.equals(made.held_out.dtypes)


def test_encoded_rows_are_those_that_preprocessing_gives_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "CHUNK_ROWS", 100)
    config = sample_config(cache_gb=0)
    cached, _ = prepared(config)
    read = pipeline.read(config, str(SAMPLE), "train")
    for side, (of, rows) in split_sides(config, {"train": read}).items():
        expected = encoded.to_encoded_rows(
            preprocessing.transform(cached.preprocessing, of.take(rows)), cached.preprocessing.shapes()
        )
        for column, other in zip(cached.encoded[side], expected, strict=True):
            np.testing.assert_array_equal(column, other)


OTHER: dict[str, Any] = {
    "categorical_columns": ("item",), "text_columns": (), "label_column": "age", "weight_column": None,
    "objective": "regression", "split_seed": 1, "test_fraction": 0.2, "min_count": 3, "tokenizer": "spacy",
    "lowercase": False, "max_tokens": 5, "subsample": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_that_matters_to_the_rows_is_another_entry(name: str) -> None:
    assert encoding_settings(sample_config(**{name: OTHER[name]})) != encoding_settings(sample_config())


def test_a_setting_that_does_not_matter_is_not() -> None:
    other = dict.fromkeys(pipeline.AFTER_ENCODING, 7) | {"hidden_units": (3,)}
    assert encoding_settings(dataclasses.replace(sample_config(), **other)) == encoding_settings(sample_config())
    assert NetConfig.__dataclass_fields__.keys() >= pipeline.AFTER_ENCODING


def test_changed_rows_are_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    text = SAMPLE.read_text()
    path.write_text(text)
    first, _ = prepared(sample_config(), train=str(path))
    path.write_text(text.replace("mobile", "mobilE"))
    second, stages = prepared(sample_config(), train=str(path))
    assert "read" in stages
    assert second.preprocessing.vocabularies["device"] != first.preprocessing.vocabularies["device"]
    (tmp_path / "schema.json").write_text("[]")
    with pytest.raises(DataError, match=r"schema\.json"):
        prepared(sample_config(), train=str(path))


def test_an_edit_of_the_code_that_makes_the_rows_makes_them_anew_and_no_other_edit(tmp_path: Path) -> None:
    code = shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    data = {"train": str(SAMPLE)}

    def stages() -> set[str]:
        timings = Timings()
        prepare(sample_config(text_columns=()), data, timings, code)
        return set(timings.report()["stages"])

    assert "read" in stages()
    for file in ("machines/images.py", "inspection/inspect.py", "package/report.py", "training/loop.py", "__main__.py"):
        with (code / file).open("a") as edited:
            edited.write("# edited\n")
        assert stages() == {"cache"}, file
    for file in ("config/net_config.py", "data/columns.py", "features/vocabulary.py", "runtime/cache.py"):
        with (code / file).open("a") as edited:
            edited.write("# edited\n")
        assert "read" in stages(), file


def test_a_damaged_entry_is_named_and_encoded_again(capsys: pytest.CaptureFixture[str]) -> None:
    expected, _ = prepared(sample_config(cache_gb=0))
    prepared(sample_config())
    (entry,) = cache.FOLDER.iterdir()
    file = entry / "train.ids.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    cached, stages = prepared(sample_config())
    assert "read" in stages
    assert "train.ids.npy in the cache is damaged. The rows are encoded again." in capsys.readouterr().out
    assert_same(expected, cached)
    assert prepared(sample_config())[1] == {"cache"}


def test_a_fault_leaves_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def full_at_the_end(path: Path) -> None:
        written.append(path.name)
        if pipeline.HELD_OUT in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(system, "fail_point", full_at_the_end)
    with pytest.raises(ResourceError, match="No space left"):
        prepared(sample_config())
    assert len(written) > 1
    assert list(cache.FOLDER.iterdir()) == []


def test_rows_that_do_not_fit_into_the_cache_are_kept_in_memory_unless_they_are_to_be_on_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cached, _ = prepared(sample_config(cache_gb=1e-5))
    assert "encoded rows not saved: they take" in capsys.readouterr().out
    assert not any(isinstance(column, np.memmap) for rows in cached.encoded.values() for column in rows)
    with pytest.raises(
        ResourceError,
        match=r"rows_in_memory = 1,900 needs the encoded rows in the cache, but they take 0\.22 MB, and cache_gb is 1",
    ):
        prepared(sample_config(cache_gb=1e-5, rows_in_memory=1900))


@pytest.mark.parametrize("cache_gb", [0.0, 1e-5])
def test_a_cache_that_is_too_small_for_rows_in_memory_is_refused_before_rows_are_read(
    capsys: pytest.CaptureFixture[str], cache_gb: float
) -> None:
    with pytest.raises(ResourceError, match=r"rows_in_memory = 100 needs .* cache_gb = \S+\. Raise cache_gb, or leave"):
        prepared(sample_config(cache_gb=cache_gb, rows_in_memory=100))
    assert capsys.readouterr().out == ""
    assert prepared(sample_config(cache_gb=0.0, rows_in_memory=2000))


def test_a_cache_that_is_emptied_at_any_moment_has_a_message_of_its_own() -> None:
    """What `rm -r cache` does to a run that has found its rows there and has not read them yet."""
    prepared(sample_config())
    (entry,) = cache.FOLDER.iterdir()
    facts, arrays, _ = cache.find(cache.FOLDER, entry.name)
    shutil.rmtree(entry)
    with pytest.raises(StorageError, match=r"Reading .*held_out\.arrow failed: .*No such file"):
        pipeline.restored(entry, facts, arrays, {"train": str(SAMPLE)})


SMALL = {
    "NET_EPOCHS": "4", "NET_TOKENIZER": "regex", "NET_HIDDEN_UNITS": "[8]", "NET_NUMERIC_COLUMNS": '["position"]',
    "NET_CATEGORICAL_COLUMNS": '["item"]',
}  # fmt: skip


def test_training_from_the_cache_and_from_disk(tmp_path: Path) -> None:
    """The real command: the cache changes no bit of the weights; blocks from disk reach the same loss nearly."""
    environments: dict[str, dict[str, str]] = {
        "off": {"NET_CACHE_GB": "0"}, "disk": {"NET_ROWS_IN_MEMORY": "600"}, "found": {},
    }  # fmt: skip
    packages = {}
    for name, environment in environments.items():
        done = trainer(tmp_path, f"--data={SAMPLE}", f"--run={name}", **(SMALL | environment))
        assert (done.code, done.err) == (0, "")
        packages[name] = read_package(tmp_path / "packages" / f"{name}.zip")
    assert packages["off"]["weights.npz"] == packages["found"]["weights.npz"]
    assert packages["off"]["weights.npz"] != packages["disk"]["weights.npz"]
    losses = {name: json.loads(members["metrics.json"])["test"]["loss"] for name, members in packages.items()}
    assert losses["disk"] == pytest.approx(losses["found"], rel=0.02)
    assert json.loads(packages["found"]["dataset.json"]) == json.loads(packages["off"]["dataset.json"])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert "read" not in json.loads(packages["found"]["timings.json"])["stages"]


def test_a_subsample_is_the_same_rows_at_every_run_and_a_part_of_every_larger_one(tmp_path: Path) -> None:
    def titles(**settings: Any) -> list[tuple[Any, ...]]:
        frame = pipeline.read(sample_config(**settings), str(tmp_path / "rows.json"), "rows").frame
        return list(frame[["item", "title", "impressions"]].astype(str).itertuples(index=False, name=None))

    write_sample(tmp_path / "rows.json", 5000)
    whole, half, tenth = (titles(subsample=share) for share in (1.0, 0.5, 0.1))
    assert titles(subsample=0.1, split_seed=7, min_count=5) == tenth
    assert len(half) == pytest.approx(2500, abs=150)
    assert len(tenth) == pytest.approx(500, abs=100)
    assert set(tenth) < set(half) < set(whole)


def test_a_subsample_is_split_as_it_would_be_without(tmp_path: Path) -> None:
    """The shares are those of the subsample, and no row changes its side."""
    write_sample(tmp_path / "rows.json", 20_000)

    def sides(share: float) -> dict[str, set[int]]:
        read = pipeline.read(sample_config(subsample=share), str(tmp_path / "rows.json"), "rows")
        cut = split_sides(sample_config(), {"train": read})
        return {side: set(read.draws[rows].tolist()) for side, (_, rows) in cut.items()}

    whole, part = sides(1.0), sides(0.2)
    for side, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        assert part[side] <= whole[side]
        assert len(part[side]) == pytest.approx(share * 4000, rel=0.2)
