"""Files are written completely or not at all, faults have their own errors, and signals become exceptions."""

import contextlib
import os
import resource
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from trainer.runtime.errors import Interrupted, ResourceError, StorageError
from trainer.runtime.signals import interruptible
from trainer.runtime.system import atomic_path, check_writable, create_folder, write_atomic, write_pieces


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file.json", b"content")
    assert (tmp_path / "a" / "b" / "file.json").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file.json"]


@pytest.mark.parametrize("error", [ZeroDivisionError, Interrupted, KeyboardInterrupt, SystemExit])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    for content in (None, b"old"):
        if content:
            path.write_bytes(content)
        with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
            temporary.write_bytes(b"half")
            raise error
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([content] if content else [])


def test_the_old_content_is_there_until_the_new_one_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent  # another disk could not be renamed from
    assert path.read_bytes() == b"new"


def killed_while_writing(path: Path) -> Path:
    """What a process leaves that is killed while it writes a file."""
    if not (child := os.fork()):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = path.parent.glob(".*")
    return left


def test_an_abandoned_half_of_an_earlier_try_is_no_hindrance_and_is_removed(tmp_path: Path) -> None:
    left = killed_while_writing(tmp_path / "file")
    (tmp_path / f"{left.name}.txt").touch()
    write_atomic(tmp_path / "other", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{left.name}.txt", "other"]


def test_two_that_write_one_file_leave_the_whole_content_of_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as first, first.open("wb", buffering=0) as of_first:
        of_first.write(b"first, ")
        with atomic_path(path) as second, second.open("wb", buffering=0) as of_second:
            of_second.write(b"second")
            of_first.write(b"and longer")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first, and longer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_no_file_of_others_is_opened_or_removed(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    planted = [tmp_path / ".file.part", tmp_path / ".file.0123456789abcdef.new"]
    for path in planted:
        path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert not (tmp_path / "file").is_symlink()
    assert victim.read_bytes() == b"mine"
    assert all(path.lstat() for path in planted)


def test_long_names_leave_room_for_that_of_the_temporary_file(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u6f22" * 85):
        write_atomic(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_a_full_disk_is_a_matter_of_resources(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    message = r"left while writing .*file: 30,000 bytes are needed, [\d,]+ are free"
    with pytest.raises(ResourceError, match=message), atomic_path(path, size=30_000) as temporary:  # noqa: PT012
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        write_pieces(temporary, [b"new" * 10_000])
    (left,) = (path for path in tmp_path.iterdir() if path.is_symlink())
    left.unlink()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("limit", [1000, 4000, 4999])  # the first half, the second, all but a byte
def test_a_limit_on_the_size_of_files_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            write_atomic(tmp_path / "file", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_wrong_paths_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"Writing .*file/below failed: .*/file is a file, not a folder\."):
        write_atomic(tmp_path / "file" / "below", b"")
    with pytest.raises(StorageError, match=r"Writing .*/folder failed: Is a directory\."):
        write_atomic(tmp_path / "folder", b"")
    with pytest.raises(StorageError, match=r"Writing to .*/file failed: .*/file is a file, not a folder\."):
        check_writable(tmp_path / "file")
    with pytest.raises(StorageError, match=r"Writing to .*file/a/b failed: Not a directory\."):
        check_writable(tmp_path / "file" / "a" / "b")
    with pytest.raises(StorageError, match=r"Creating .*/full failed: File exists\."):
        create_folder(tmp_path / "folder" / "full")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "full"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed_is_refused_now_and_not_later(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageError, match="Permission denied"):
        check_writable(tmp_path)
    with pytest.raises(StorageError, match="Permission denied"):
        write_atomic(tmp_path / "file", b"")


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_only_one_of_many_creates_a_folder(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            create_folder(tmp_path / "runs" / "name")
            outcomes.append("mine")
        except StorageError:
            outcomes.append("taken")

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["mine"] + ["taken"] * 19


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_exceptions_inside_and_what_they_were_outside(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"Stopped by (SIGTERM|Ctrl-C); no package"), interruptible():  # noqa: PT012
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert signal.getsignal(number) is before
    with interruptible():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_a_stop_signal_is_obeyed_even_where_every_exception_is_swallowed() -> None:
    with pytest.raises(Interrupted), interruptible():  # noqa: PT012
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        pytest.fail("went on")


def test_a_thread_that_cannot_have_signals_works_without(tmp_path: Path) -> None:
    done: list[bool] = []

    def work() -> None:
        with interruptible():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
