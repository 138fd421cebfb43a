"""Packages: the same members make the same bytes, and what is not a package of ours is refused before it is used."""

import contextlib
import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import StorageError
from trainer.packaging import (
    files_below,
    read_package,
    weights_from_bytes,
    weights_to_bytes,
    write_package,
)

MEMBERS = {"config.json": b"{}", "plots/metrics.png": b"\x89PNG" * 100, "title \u2013 \u6f22.txt": b""}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_package(tmp_path / "run.zip", MEMBERS)
    return tmp_path / "run.zip"


def test_members_come_back_as_they_were(package: Path) -> None:
    assert read_package(package) == MEMBERS


def test_the_same_members_make_the_same_bytes(package: Path) -> None:
    write_package(package.with_name("again.zip"), dict(reversed(MEMBERS.items())))
    assert package.with_name("again.zip").read_bytes() == package.read_bytes()


def test_every_flipped_byte_is_found_or_harmless(package: Path) -> None:
    data = package.read_bytes()
    for position in range(0, len(data), 7):
        package.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with contextlib.suppress(StorageError):
            assert read_package(package) == MEMBERS  # a flipped date, say


def test_a_cut_package_is_refused(package: Path) -> None:
    data = package.read_bytes()
    for length in range(0, len(data), 29):
        package.write_bytes(data[:length])
        with pytest.raises(StorageError, match=r"run\.zip"):
            read_package(package)


def rewritten(package: Path, name: str, data: bytes = b"x", mode: int = 0) -> None:
    """Append a member behind the manifest's back."""
    with zipfile.ZipFile(package, "a") as archive:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, data)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "a\\b", "a//b", "./a", "a/./b", "CONFIG.json", "b:stream"],
)
def test_unsafe_member_names_are_refused(package: Path, name: str) -> None:
    rewritten(package, name)
    with pytest.raises(StorageError, match="unsafe member name"):
        read_package(package)


def test_links_members_without_hash_and_bombs_are_refused(package: Path) -> None:
    original = package.read_bytes()
    rewritten(package, "link", b"/etc/passwd", stat.S_IFLNK | 0o777)
    with pytest.raises(StorageError, match="unsafe member name 'link'"):
        read_package(package)
    package.write_bytes(original)
    rewritten(package, "extra.txt")
    with pytest.raises(StorageError, match=r"extra\.txt do not match its manifest"):
        read_package(package)
    package.write_bytes(original)
    rewritten(package, "bomb", bytes(30_000_000))
    with pytest.raises(StorageError, match="times its size"):
        read_package(package)


def test_only_regular_files_are_packed(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "logs"
    secret.write_text("canary")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("a")
    (folder / "link").symlink_to(secret)
    assert list(files_below(folder)) == ["logs/deep/a.txt"]
    with pytest.raises(StorageError, match="not a regular file"):
        write_package(tmp_path / "run.zip", {"link": folder / "link"})
    assert not list(tmp_path.glob("*run.zip*"))


def test_a_missing_package_and_another_format_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="There is no package at"):
        read_package(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("manifest.json", '{"format_version": 99, "members": {}}')
    with pytest.raises(StorageError, match="package format 99"):
        read_package(tmp_path / "new.zip")


def test_weights_come_back_bit_for_bit_and_pickles_are_refused() -> None:
    weights = {"dense/kernel": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), "step": np.int64(7)}
    back = weights_from_bytes(weights_to_bytes(weights))
    assert list(back) == list(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(back[name], array)
    buffer = io.BytesIO()
    np.savez(buffer, evil=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(StorageError, match="weights cannot be read"):
        weights_from_bytes(buffer.getvalue())
