"""What `--out` names: a file is replaced, a link leads to one, a pipe or device is written to, a folder is refused."""

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.commands import ROOT
from trainer.cloud import output
from trainer.data.selection import find_shards
from trainer.runtime.errors import StorageError


def write(uri: object, content: bytes = b"new") -> None:
    with output.new_file(str(uri)) as path:
        path.write_bytes(content)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "target").write_bytes(b"old")
    for name, target in (("link", "folder/target"), ("to_link", "link"), ("to_nothing", "folder/not_yet")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == name.encode()
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["not_yet", "target"]


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="loop"):
        write(tmp_path / "loop")


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    for uri in ("/dev/null", tmp_path / "link"):
        write(uri)
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(ZeroDivisionError), output.new_file("/dev/null"):
        raise ZeroDivisionError


def test_a_pipe_gets_all_bytes_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content, read = os.urandom(300_000), list[bytes]()
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe", content)
    reader.join()
    assert read == [content]
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("uri", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("redirected", [False, True])
def test_the_standard_output_is_continued_not_replaced(tmp_path: Path, uri: str, redirected: bool) -> None:
    code = (
        "import sys; from trainer.cloud import output\nprint('before', flush=True)\n"
        f"with output.new_file({uri!r}) as path: path.write_bytes(b'content\\n')\nprint('after')"
    )
    with (tmp_path / "file").open("wb") as file:
        stdout = file if redirected else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, check=True)
    assert (done.stdout or (tmp_path / "file").read_bytes()) == b"before\ncontent\nafter\n"


def test_what_takes_no_file_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("server")
        for uri, kind in (("folder", "a folder"), ("server", "a socket")):
            with pytest.raises(StorageError, match=f"{uri} is {kind}"), output.new_file(uri):
                pytest.fail("began")
    with pytest.raises(StorageError, match=r"file, not a folder|Not a directory"):
        write(Path(__file__) / "below")


def test_rows_from_a_pipe_or_a_device_are_refused_for_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.json")
    for path, kind in ((tmp_path / "rows.json", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(StorageError, match=f"{path} is {kind}, but rows are read more than once"):
            find_shards(path)
