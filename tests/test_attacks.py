"""The real commands under attack: places that are no files, processes that work on one file, and hostile names."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, SAMPLE, finished, start, trainer

PREDICTOR = "trainer.package.score"


def test_two_predictions_to_one_file_leave_one_whole_file(sample_run: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.json").symlink_to("target.json")
    arguments = ("predict", f"--package={sample_run}/out/it.zip", f"--data={SAMPLE}", f"--out={tmp_path}/scores.json")
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    processes = [start(folder, *arguments, module=PREDICTOR) for folder in folders]
    for folder, process in zip(folders, processes, strict=True):
        assert finished(folder, process)[::2] == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "scores.json", "second", "target.json"]
    rows = [json.loads(line) for line in (tmp_path / "target.json").read_bytes().splitlines()]
    assert len(rows) == len(SAMPLE.read_bytes().splitlines())


def test_predictions_go_through_a_pipe_and_rows_do_not(sample_run: Path, tmp_path: Path) -> None:
    rows, pipe = tmp_path / "rows.json", tmp_path / "pipe"
    rows.write_bytes(b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:5]))
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    package = f"--package={sample_run}/out/it.zip"
    assert trainer(tmp_path, "predict", package, f"--data={rows}", f"--out={pipe}", module=PREDICTOR).code == 0
    reader.join()
    assert len([json.loads(line) for line in read[0].splitlines()]) == 5
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    done = trainer(tmp_path, "evaluate", package, f"--data={pipe}", module=PREDICTOR)
    assert (done.code, done.err.count("\n"), "is a pipe" in done.err) == (4, 1, True)


def test_standard_output_holds_the_predictions_alone(sample_run: Path, tmp_path: Path) -> None:
    arguments = ("predict", f"--package={sample_run}/out/it.zip", f"--data={SAMPLE}", "--out=/dev/stdout")
    done = trainer(tmp_path, *arguments, module=PREDICTOR)
    assert (done.code, done.err.startswith("2,000 predictions in /dev/stdout, in the order")) == (0, True)
    assert all("prediction" in json.loads(line) for line in done.out.splitlines())


def test_a_run_goes_on_when_its_cache_is_emptied(tmp_path: Path) -> None:
    """Rows that training reads from files, which `rm -r cache` takes away while it does."""
    settings = {
        "NET_ROWS_IN_MEMORY": "300", "NET_EPOCHS": "4", "NET_TOKENIZER": "regex", "NET_HIDDEN_UNITS": "[8]",
        "NET_CHECKPOINT_MINUTES": "0",
    }  # fmt: skip
    process = start(tmp_path, f"--data={SAMPLE}", "--run=it", **settings)
    while not (tmp_path / "runs" / "it" / "tensorboard").exists() and process.is_alive():
        time.sleep(0.01)
    shutil.rmtree(tmp_path / "cache")
    done = finished(tmp_path, process)
    assert (done.code, done.err) == (0, "")
    assert "verified" in done.out


def test_names_of_files_and_columns_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    """Files, and a column that no role needs, with line breaks, escape sequences and bytes that are not UTF-8."""
    name = "x\x1b[2J\nerror: fake"
    folder = tmp_path / f"{name} {os.fsdecode(bytes([255]))}"
    folder.mkdir()
    row = json.loads(SAMPLE.read_bytes().splitlines()[0]) | {name: "1"}
    (folder / f"{name}.json").write_text("".join(f"{json.dumps(row | {'ctr': n % 2})}\n" for n in range(40)))
    (folder / f"bad {name}.json").write_text("{broken\n")
    inspect = "trainer.inspection.inspect"
    all_done = [
        trainer(tmp_path, f"--data={folder}", module=inspect),
        trainer(tmp_path, f"--data={folder}/x*", module=inspect),
        trainer(tmp_path, f"--data={folder}/x*", "--run=it", NET_EPOCHS="1", NET_TOKENIZER="regex"),
    ]
    assert [done.code for done in all_done] == [3, 0, 0]
    for done in all_done:
        assert "\x1b" not in done.out + done.err
        assert r"x\x1b[2J\nerror: fake" in done.out + done.err
        assert not [line for line in (done.out + done.err).splitlines() if line.startswith("error: fake")]


def test_a_package_whose_place_is_a_pipe_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    os.mkfifo(tmp_path / "packages" / "it.zip")
    done = trainer(tmp_path, f"--data={SAMPLE}", "--run=it")
    assert (done.code, "packages/it.zip is not a file" in done.err, "split" in done.out) == (4, True, False)


def is_running(process: int) -> bool:
    """Whether a process exists and has not ended; nobody may have waited for one whose parent was killed."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def descendants(process: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [*children, *(other for child in children for other in descendants(child))]


COMMANDS = {
    "train": ("train", "--run=it"),
    "tensorboard": ("tensorboard", "--run=it"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
@pytest.mark.parametrize("task", COMMANDS)
def test_what_a_killed_fab_has_started_ends_as_well(tmp_path: Path, task: str) -> None:
    if task == "tensorboard":
        (tmp_path / "runs" / "it").mkdir(parents=True)
    settings = {"NET_EPOCHS": "100000", "NET_PATIENCE": "null", "NET_TOKENIZER": "regex", "NET_HIDDEN_UNITS": "[8]"}
    command = [Path(sys.executable).with_name("fab"), "-r", str(ROOT), *COMMANDS[task]]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    assert any(line.startswith(("epoch", "TensorBoard")) for line in process.stdout)
    started = descendants(process.pid)
    assert len(started) >= {"train": 1, "tensorboard": 2}[task]
    process.kill()
    process.wait()
    end = time.monotonic() + 120
    while any(map(is_running, started)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [child for child in started if is_running(child)]
    process.stdout.close()
    if task == "train":
        assert list((tmp_path / "runs" / "it" / "checkpoints").iterdir())
