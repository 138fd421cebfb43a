"""Packages: equal members make equal bytes, and anything that is not a valid package is refused before use."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT
from tests.scale import many
from trainer.package.archive import (
    extract,
    files_below,
    read_package,
    write_package,
)
from trainer.package.weights import weights_from_bytes, weights_to_bytes
from trainer.runtime.errors import StorageError
from trainer.runtime.system import atomic_path

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
            assert read_package(package) == MEMBERS  # a date may flip


def test_a_cut_package_is_refused(package: Path) -> None:
    data = package.read_bytes()
    for length in range(0, len(data), 29):
        package.write_bytes(data[:length])
        with pytest.raises(StorageError, match=r"run\.zip"):
            read_package(package)


# Crafted packages with a correct manifest: only the checks of names and layout keep them from the disk.

Member = tuple[str, bytes, int]  # name, content, mode


def crafted(path: Path, *members: Member, prefix: bytes = b"") -> Path:
    listed = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data, _ in members}
    manifest = json.dumps({"format_version": 1, "members": listed}).encode()
    with path.open("wb") as file:
        file.write(prefix)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # duplicate names
            for name, data, mode in [*members, ("manifest.json", manifest, stat.S_IFREG | 0o644)]:
                info = zipfile.ZipInfo("placeholder")
                info.filename = info.orig_filename = name
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data)
    return path


def assert_refused(folder: Path, package: Path, match: str | None = None) -> None:
    """Nothing is unpacked anywhere: neither in the target nor beside it."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(StorageError, match=match) as caught:
        extract(read_package(package), folder / "target")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_crafted_package_that_hides_nothing_is_read(tmp_path: Path) -> None:
    package = crafted(tmp_path / "run.zip", ("a/b.txt", b"x", 0), ("a/c.txt", b"y", stat.S_IFREG | 0o600))
    extract(read_package(package), tmp_path / "target")
    assert (tmp_path / "target" / "a" / "b.txt").read_bytes() == b"x"


HOSTILE_NAMES = [
    "..", "../evil", "../../evil", "a/../evil", "a/../../evil", "a/..", "saved_model/../../evil", "....//../evil",
    "/evil", "/tmp/evil", "//evil", "//host/share/evil", "/", "/..",
    "C:\\evil", "C:evil", "C:/evil", "c:", "\\evil", "..\\evil", "a\\..\\..\\evil", "\\\\host\\share\\evil", "a\\b",
    ".", "./a", "a/./b", "a/.", "a//b", "a/", "", " /../evil", "a/b/../../../evil",
    "evil\0.txt", "a\0/../../evil", "a\nb", "a\rb", "\x1b[2Jevil", "\x7f", "a\u202etxt.exe", "a\u200b", "b:stream",
    "x" * 300, "a/" * 150 + "b", "\u6f22" * 80,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_member_name_that_could_lead_outside_is_refused(tmp_path: Path, name: str) -> None:
    assert len(set(HOSTILE_NAMES)) >= 40
    package = crafted(tmp_path / "run.zip", ("config.json", b"{}", 0), (name, b"evil", 0))
    assert_refused(tmp_path, package, "unsafe member name|not a package")


KINDS = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "disk": stat.S_IFBLK, "terminal": stat.S_IFCHR,
         "socket": stat.S_IFSOCK, "folder": stat.S_IFDIR}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    package = crafted(tmp_path / "run.zip", ("evil", b"/etc/passwd", KINDS[kind] | 0o777), ("evil/passwd", b"x", 0))
    assert_refused(tmp_path, package, "unsafe member name 'evil'")


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("config.json", "CONFIG.json"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301"), ("a", "A"),
     ("manifest.json", "a"), ("a", "Manifest.JSON"), ("a/b", "a"), ("a", "A/b/c")],
)  # fmt: skip
def test_two_members_for_one_file_are_refused(tmp_path: Path, first: str, second: str) -> None:
    package = crafted(tmp_path / "run.zip", (first, b"1", 0), (second, b"2", 0))
    assert_refused(tmp_path, package, "unsafe member name|is below a member|not a package")


def changed(package: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(package.read_bytes())
    change(data)
    package.write_bytes(data)
    return package


CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"


def field(header: bytes, offset: int, value: bytes, *, which: int = 0) -> Callable[[bytearray], None]:
    """Write over bytes of one of the headers of that kind."""

    def change(data: bytearray) -> None:
        at = -1
        for _ in range(which + 1):
            at = data.index(header, at + 1)
        data[at + offset : at + offset + len(value)] = value

    return change


ARCHIVES: dict[str, tuple[bytes, Callable[[bytearray], None]]] = {
    "data before it": (b"#!/bin/sh\necho evil\n", lambda data: None),
    "another zip before it": (b"PK\3\4" + bytes(60), lambda data: None),
    "data after it": (b"", lambda data: data.extend(b"evil")),
    "a comment": (b"", lambda data: data.__setitem__(slice(-2, None), b"\4\0evil")),
    "encrypted": (b"", field(CENTRAL, 8, b"\1\0")),
    "less than it says": (b"", field(CENTRAL, 24, (10**6).to_bytes(4, "little"))),
    "more than it says": (b"", field(CENTRAL, 24, b"\1\0\0\0")),
    "packed longer than it is": (b"", field(CENTRAL, 20, (10**6).to_bytes(4, "little"))),
    "members that overlap": (b"", field(CENTRAL, 42, bytes(4), which=1)),
    "a member beyond its end": (b"", field(CENTRAL, 42, b"\xf0\xff\xff\x7f")),
    "zip64 without its field": (b"", field(CENTRAL, 20, b"\xff" * 8)),
    "another name before the member": (b"", field(LOCAL, 30, b"evil.json!!")),
    "an unknown compression": (b"", field(CENTRAL, 10, b"\x63\0")),
    "a wrong checksum": (b"", field(CENTRAL, 16, bytes(4))),
}


@pytest.mark.parametrize("trick", ARCHIVES)
def test_a_manipulated_archive_is_refused(tmp_path: Path, trick: str) -> None:
    prefix, change = ARCHIVES[trick]
    members: list[Member] = [("config.json", b'{"a": 1}' * 9, 0), ("other.json", b"[1, 2, 3]" * 9, 0)]
    assert_refused(tmp_path, changed(crafted(tmp_path / "run.zip", *members, prefix=prefix), change))


def test_zip64_that_claims_exabytes_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        info = zipfile.ZipInfo("a")
        info.extra = (1).to_bytes(2, "little") + (16).to_bytes(2, "little") + (2**62).to_bytes(8, "little") * 2
        archive.writestr(info, b"x")
    assert_refused(tmp_path, changed(tmp_path / "run.zip", field(CENTRAL, 20, b"\xff" * 8)))


def test_bombs_are_refused_at_once_and_in_little_memory(tmp_path: Path) -> None:
    bombs = {
        "one": [("bomb", bytes(30_000_000), 0)],
        "many": [(f"bomb_{number}", bytes(3_000_000), 0) for number in range(20)],
        "members": [(f"{number}", b"", 0) for number in range(10_001)],
    }
    for name, members in bombs.items():
        package = crafted(tmp_path / f"{name}.zip", *members)
        tracemalloc.start()
        began = time.process_time()
        assert_refused(tmp_path, package, "times its size|10,000 members")
        assert time.process_time() - began < 5
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


SECRETS = ("environment", "token", "proxy", "dot_env_of_the_project", "dot_env_of_the_folder", "git_remote", "netrc",
           "ssh_key", "gcloud", "git_credentials", "docker")  # fmt: skip


BROKEN = """
from trainer.config import NetConfig as Config

def build_graph(net_config, dataset_shapes):
    raise RuntimeError("broken")
"""


def test_no_secret_of_the_machine_gets_into_anything_that_a_run_writes(
    tmp_path: Path, record_property: Callable[[str, int], None]
) -> None:
    """Real processes, in a checkout of their own: one that ends well; in the long form one that is refused and one that
    crashes, too."""
    secret = {name: f"canary-{name}-7f3a9c" for name in SECRETS}
    project, home, folder = (tmp_path / name for name in ("project", "home", "folder"))
    for name in ("trainer", "networks", "data", "variant_config.json"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        project.mkdir(exist_ok=True)
        copy(ROOT / name, project / name)
    (project / "networks" / "broken_v1.py").write_text(BROKEN)
    planted = {
        project / ".env": secret["dot_env_of_the_project"], folder / ".env": secret["dot_env_of_the_folder"],
        home / ".netrc": f"machine host password {secret['netrc']}", home / ".ssh" / "id_rsa": secret["ssh_key"],
        home / ".config" / "gcloud" / "application_default_credentials.json": secret["gcloud"],
        home / ".git-credentials": secret["git_credentials"], home / ".docker" / "config.json": secret["docker"],
    }  # fmt: skip
    for path, text in planted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    remote = f"https://user:{secret['git_remote']}@host/project.git"
    for command in (["init", "-q"], ["remote", "add", "origin", remote], ["add", "-A"], ["commit", "-qm", "all"]):
        identity = ["-c", "user.name=name", "-c", "user.email=name@host"]
        subprocess.run(["git", *identity, *command], cwd=project, check=True)
    environment = os.environ | {
        "HOME": str(home), "PYTHONPATH": str(project), "AWS_SECRET_ACCESS_KEY": secret["environment"],
        "HTTPS_PROXY": f"http://user:{secret['proxy']}@proxy", "NET_EPOCHS": "1", "NET_HIDDEN_UNITS": "[8]",
        "NET_CATEGORICAL_COLUMNS": '["item"]', "NET_TOKENIZER": "regex",
    }  # fmt: skip
    before = set(tmp_path.rglob("*"))
    runs: dict[str, tuple[int, dict[str, str]]] = {
        "well": (0, {}), "refused": (2, {"NET_API_TOKEN": secret["token"]}),
        "crashed": (1, {"NET_NETWORK": "broken_v1"}),
    }  # fmt: skip
    for name, (code, more) in list(runs.items())[: many(1, 3)]:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", f"--run={name}", f"--data={project}/data/sample_2k.json"],
            cwd=folder, env=environment | more, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        (folder / f"{name}.out").write_bytes(done.stdout + done.stderr)
    written = {str(path): path.read_bytes() for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    written |= {f"packed {name}": data for name, data in read_package(folder / "packages" / "well.zip").items()}
    kinds = ("tfevents", "config.json", "environment.json", "checkpoints", "cache/", ".out", "saved_model.pb", ".html")
    assert not [kind for kind in kinds if not any(kind in name for name in written)]
    assert json.loads(written["packed environment.json"])["commit"]
    for text in (*secret.values(), "canary"):
        assert not [name for name, data in written.items() if text.encode() in data or text in name]
    record_property("files without any of the planted secrets", len(written))


def test_members_without_a_hash_are_refused(package: Path) -> None:
    with zipfile.ZipFile(package, "a") as archive:
        archive.writestr("extra.txt", b"x")
    with pytest.raises(StorageError, match=r"extra\.txt do not match its manifest"):
        read_package(package)


def test_only_regular_files_are_packed(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "logs"
    secret.write_text("canary")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("a")
    (folder / "link").symlink_to(secret)
    assert list(files_below(folder)) == ["logs/deep/a.txt"]
    with pytest.raises(StorageError, match="not a regular file"), atomic_path(tmp_path / "run.zip") as temporary:
        write_package(temporary, {"link": folder / "link"})
    assert not list(tmp_path.glob("*run.zip*"))


def test_a_missing_package_and_an_unknown_format_have_messages_of_their_own(tmp_path: Path) -> None:
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
