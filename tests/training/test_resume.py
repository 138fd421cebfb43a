"""Runs that are killed, stopped or refused: what is started again ends with the bits of a run that never was."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

import networks
from tests import commands
from tests.commands import ROOT, SAMPLE, Done, finished, start, trainer
from tests.scale import many
from tests.test_networks import built, examples
from trainer.package import archive
from trainer.runtime import system, warm
from trainer.runtime.errors import ConfigError, DivergedError, Interrupted, ResourceError, StorageError
from trainer.training import checkpoint, loop, resume
from trainer.training.checkpoint import Checkpoint

# A tiny model on few rows that is checkpointed whenever the graph returns: several times within each epoch.
TINY = {
    "NET_EPOCHS": "2", "NET_HIDDEN_UNITS": "[8]", "NET_EMBEDDING_DIM": "2", "NET_TEXT_EMBEDDING_DIM": "2",
    "NET_DROPOUT": "0.3", "NET_CHECKPOINT_MINUTES": "0", "NET_BATCH_SIZE": "128", "NET_PATIENCE": "3",
    "NET_CATEGORICAL_COLUMNS": '["item"]', "NET_NUMERIC_COLUMNS": '["position"]', "NET_TEXT_COLUMNS": "[]",
}  # fmt: skip
ARGUMENTS = ("--data=rows.json", "--run=it")
SECONDS = 2.2  # that such a run takes
ROWS = b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:300])

Result = tuple[bytes, bytes, dict[str, bytes]]
Tell = Callable[[str, int], None]


def with_rows(folder: Path) -> Path:
    """A working folder with the rows to train on."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_bytes(ROWS)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_rows(tmp_path)


def run(folder: Path, **environment: str) -> Done:
    """The command that all of this is about, to its end."""
    return trainer(folder, *ARGUMENTS, **(TINY | environment))


def begin(folder: Path, **environment: str) -> BaseProcess:
    """The same, on its way."""
    return start(folder, *ARGUMENTS, **(TINY | environment))


def send(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


def result(folder: Path) -> Result:
    """What must not depend on how often a run was stopped: weights, metrics, and the last state of the optimizer."""
    members = archive.read_package(folder / "packages" / "it.zip")
    last, damaged = checkpoint.load(folder / "runs" / "it" / "checkpoints")
    assert last is not None
    assert not damaged
    assert "optimizer/steps" in last.state
    return members["weights.npz"], members["metrics.csv"], {name: array.tobytes() for name, array in last.state.items()}


def _counting(folder: Path) -> None:
    commands.become_trainer(folder, ARGUMENTS, TINY | {system.FAULT: "kill:0"})
    (folder / "changes").write_text(str(next(system._changes) - 1))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happens to; `changes` in it tells how often it changes files."""
    folder = with_rows(tmp_path_factory.mktemp("calm"))
    process = warm.start(_counting, folder)
    done = finished(folder, process)
    assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def never_stopped(calm: Path) -> Result:
    return result(calm)


@pytest.fixture
def ended(calm: Path, folder: Path) -> Path:
    """A copy of that folder."""
    return shutil.copytree(calm, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its second checkpoint."""
    folder = with_rows(tmp_path_factory.mktemp("killed"))
    assert run(folder, FLATFAB_FAULT="kill:100").code == -signal.SIGKILL
    return folder


def assert_goes_on_to(expected: Result, folder: Path) -> None:
    """Started again, the run ends well, with the bits of one that was never stopped."""
    done = run(folder)
    assert (done.code, done.err) == (0, "")
    assert result(folder) == expected


def assert_one_message(done: Done, code: int) -> None:
    assert done.code == code, done.err
    assert "Traceback" not in done.out + done.err
    begin = "Stopped by " if code == Interrupted.exit_code else "error: "
    assert [line.startswith(begin) for line in done.err.splitlines()] == [True]


def tell_all(tell: Tell, counts: Counter[str]) -> None:
    for name, count in counts.items():
        tell(name, count)


# Kills


@pytest.mark.parametrize("seed", range(many(1, 8)))
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_bits(
    folder: Path, never_stopped: Result, seed: int, record_property: Tell
) -> None:
    chance, kills, counts = random.Random(seed), many(2, 25), Counter[str]()
    while counts["kills"] < kills or not (folder / "packages" / "it.zip").exists():
        process = begin(folder)
        process.join(timeout=chance.uniform(0.1, 1.2 * SECONDS) if counts["kills"] < kills else 120)
        if process.exitcode is None:
            send(process, signal.SIGKILL)
            counts["kills"] += 1
        done = finished(folder, process)
        assert done.code in (0, -signal.SIGKILL), done.err
        assert done.err == ""
        if done.code == 0:
            assert result(folder) == never_stopped
            counts["runs that ended, all with the same bits"] += 1
            if counts["kills"] < kills:
                for left in ("packages", "runs", "cache"):
                    shutil.rmtree(folder / left)
    tell_all(record_property, counts)


def test_a_run_that_is_killed_at_one_fail_point_after_the_other_ends_with_the_same_bits(
    folder: Path, never_stopped: Result, record_property: Tell
) -> None:
    """Each process is killed at a later change of a file than the one before it, until one ends: at every second one
    (every one in the long form) while it prepares, trains and saves, then, while it writes its artefacts anew each
    time, at some."""
    for point in [*range(1, 41, many(2, 1)), *range(41, 1000, many(50, 5))]:
        done = run(folder, FLATFAB_FAULT=f"kill:{point}")
        assert done.code in (0, -signal.SIGKILL), done.err
        assert done.err == ""
        if done.code == 0:
            break
        record_property("kills", 1)
    assert point > 60
    assert result(folder) == never_stopped


# Faults: exit code of the run, every how manieth change meets it in the long form, which ones in the short form
FAULTS = {
    "kill": (-signal.SIGKILL, 1, slice(0)),
    "enospc": (ResourceError.exit_code, 1, slice(60, 61)),
    "eio": (StorageError.exit_code, 5, slice(25, 26)),
    "term": (Interrupted.exit_code, 5, slice(40, 41)),
}


@pytest.mark.parametrize("part", range(many(1, 4)))
@pytest.mark.parametrize("fault", many(list(FAULTS)[1:], list(FAULTS)))  # the test above kills in the short form, too
def test_a_fault_at_any_change_of_a_file_is_one_message_and_the_run_goes_on_from_before_it(
    tmp_path: Path, calm: Path, never_stopped: Result, fault: str, part: int, record_property: Tell
) -> None:
    """Each is a run from scratch that meets one fault, and a second one that goes on."""
    changes = int((calm / "changes").read_text())
    code, every, some = FAULTS[fault]
    points = list(range(1, changes + 1))[many(some, slice(part * every, None, 4 * every))]
    counts = Counter[str]()
    for point in points:
        folder = with_rows(tmp_path / str(point))
        done = run(folder, FLATFAB_FAULT=f"{fault}:{point}")
        if done.code == 0:  # what cannot be removed stays; nothing depends on it
            assert result(folder) == never_stopped
            counts[f"times {fault} was of no matter"] += 1
            continue
        if fault == "kill":
            assert (done.code, done.err) == (code, "")
        else:
            assert_one_message(done, code)
        assert fault != "enospc" or "No space left while" in done.err
        assert_goes_on_to(never_stopped, folder)
        counts[f"times {fault}, all resumed to the same bits"] += 1
        shutil.rmtree(folder)
    assert counts.total() == len(points) > 0
    assert counts[f"times {fault} was of no matter"] <= 1 + len(points) // 8
    tell_all(record_property, counts)


# Orders to stop


def wait_for(folder: Path, process: BaseProcess, sign: Callable[[], bool]) -> None:
    while not sign():
        time.sleep(0.01)
        assert process.is_alive(), (folder / "stderr").read_text()


@pytest.mark.parametrize("seed", range(many(1, 4)))
def test_sigterm_at_random_moments_ends_a_run_in_order(
    folder: Path, never_stopped: Result, seed: int, record_property: Tell
) -> None:
    chance, counts = random.Random(seed), Counter[str]()
    while counts.total() < many(1, 5):
        process = begin(folder)
        moment = chance.uniform(0.2, 0.9 * SECONDS)
        process.join(timeout=moment)
        if process.exitcode is None:
            assert_ends_in_order(folder, process, signal.SIGTERM, counts)
        assert_goes_on_to(never_stopped, folder)
        for left in ("packages", "runs", "cache"):
            shutil.rmtree(folder / left)
    tell_all(record_property, counts)


@pytest.mark.parametrize("stage", ["reads", "reports"])
def test_sigterm_while_a_run_reads_or_reports_ends_it_in_order(folder: Path, never_stopped: Result, stage: str) -> None:
    signs = {
        "reads": lambda: (folder / "stdout").exists() and "run " in (folder / "stdout").read_text(),
        "reports": (folder / "runs" / "it" / "metrics.json").exists,
    }
    process = begin(folder)
    wait_for(folder, process, signs[stage])
    counts = Counter[str]()
    assert_ends_in_order(folder, process, signal.SIGTERM, counts)
    assert counts == {"SIGTERM without a checkpoint" if stage == "reads" else "SIGTERM with a checkpoint": 1}
    assert_goes_on_to(never_stopped, folder)


def assert_ends_in_order(folder: Path, process: BaseProcess, number: signal.Signals, counts: Counter[str]) -> None:
    """Within 10 s, with a checkpoint that is whole if there was anything to save; or the package was there already."""
    sent = time.time()
    send(process, number)
    done = finished(folder, process)
    assert time.time() - sent < 10
    if done.code == 0:
        assert (folder / "packages" / "it.zip").stat().st_mtime < sent + 0.5
        counts[f"{number.name} after the package"] += 1
        return
    assert_one_message(done, Interrupted.exit_code)
    latest, damaged = checkpoint.load(folder / "runs" / "it" / "checkpoints")
    assert not damaged
    assert latest or "To continue, start" not in done.err
    assert not list(folder.glob("packages/*"))
    counts[f"{number.name} {'with' if latest else 'without'} a checkpoint"] += 1


def test_an_order_to_stop_is_answered_with_a_checkpoint_that_resumes(folder: Path) -> None:
    slow = {"NET_EPOCHS": "2000", "NET_PATIENCE": "null", "NET_CHECKPOINT_MINUTES": "10"}
    for number in (signal.SIGTERM, signal.SIGINT):
        process = begin(folder, **slow)
        wait_for(folder, process, lambda: (folder / "stdout").exists() and "epoch" in (folder / "stdout").read_text())
        counts = Counter[str]()
        assert_ends_in_order(folder, process, number, counts)
        assert counts == {f"{number.name} with a checkpoint": 1}
        assert "To continue, start it again with --run=it." in (folder / "stderr").read_text()
        (folder / "stdout").unlink()
    done = run(folder, **slow, FLATFAB_FAULT="term:8")
    assert done.code == Interrupted.exit_code
    assert "resume   epoch" in done.out


@pytest.mark.parametrize("moment", ["it begins", "it trains"])
def test_the_first_process_of_a_container_obeys_too(folder: Path, moment: str) -> None:
    """The kernel drops signals to process 1 that it has no handler for."""
    if subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process space of its own takes a right that this user does not have")
    environment = os.environ | TINY | {"PYTHONPATH": str(ROOT), "NET_EPOCHS": "100000", "NET_PATIENCE": "null"}
    command = ["unshare", "--fork", "--pid", "--kill-child", sys.executable, "-m", "trainer", *ARGUMENTS]
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
    try:
        first = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (children := first.read_text().split()):
            time.sleep(0.01)
        if moment == "it begins":
            while b"trainer" not in Path(f"/proc/{children[0]}/cmdline").read_bytes():
                time.sleep(0.01)
            caught = 0
            while not caught >> (signal.SIGTERM - 1) & 1:  # Python itself is there, TensorFlow on its way
                time.sleep(0.01)
                status = Path(f"/proc/{children[0]}/status").read_text()
                caught = int(re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[0], 16)
        while moment == "it trains" and "epoch" not in (folder / "stdout").read_text():
            time.sleep(0.05)
            assert process.poll() is None, (folder / "stderr").read_text()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(timeout=30) == Interrupted.exit_code
    finally:
        process.kill()
    errors = commands.PROGRESS.sub("", (folder / "stderr").read_text())
    assert errors.startswith("Stopped by SIGTERM")
    assert len(errors.splitlines()) == 1
    assert ("To continue, start" in errors) == (moment == "it trains")


def test_a_run_that_is_killed_leaves_nothing_in_the_temporary_folder(tmp_path: Path, calm: Path) -> None:
    """Killed while it trains, and at its last change of a file, when TensorFlow has exported the model."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for point in (100, int((calm / "changes").read_text())):
        folder = with_rows(tmp_path / str(point))
        process = warm.start(_with_temporary_folder, folder, temporary, f"kill:{point}")
        assert finished(folder, process).code == -signal.SIGKILL
        assert list(temporary.iterdir()) == []
    assert (folder / "packages" / "it.zip").exists()
    assert not list(tmp_path.rglob("__autograph*"))


def _with_temporary_folder(folder: Path, temporary: Path, fault: str) -> None:
    tempfile.tempdir = str(temporary)
    commands.become_trainer(folder, ARGUMENTS, TINY | {system.FAULT: fault})


# Full disks


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], None]]:
    """Puts a disk of so many kB at a folder, or makes the one that is there so large."""
    disks: list[Path] = []

    def small(path: Path, kilobytes: int) -> None:
        path.mkdir(exist_ok=True)
        options = f"{'remount,' * (path in disks)}size={kilobytes}k"
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=False, capture_output=True
        ).returncode:
            pytest.skip("mounting a disk takes a right that this user does not have")
        disks.append(path)

    yield small
    for path in dict.fromkeys(disks):
        subprocess.run(["umount", path], check=True)


# kB that are too few, by what is on the disk: a file of each kind is the one that does not fit
TOO_SMALL = {
    "runs": many([300], [*range(4, 120, 4), *range(120, 488, 8)]),
    "cache": many([52], list(range(4, 56, 4))),
    "packages": many([200], list(range(4, 320, 16))),
    "tmp": many([44], list(range(4, 48, 8))),
}


def _on_small_disk(folder: Path) -> None:
    tempfile.tempdir = str(folder / "tmp") if (folder / "tmp").exists() else None
    commands.become_trainer(folder, ARGUMENTS, TINY)


@pytest.mark.parametrize(("part", "what"), [(part, what) for what in TOO_SMALL for part in range(many(1, 3))])
def test_a_disk_that_is_full_is_told_and_with_more_room_the_run_goes_on(
    tmp_path: Path,
    never_stopped: Result,
    small_disk: Callable[[Path, int], None],
    what: str,
    part: int,
    record_property: Tell,
) -> None:
    counts = Counter[str]()
    for kilobytes in TOO_SMALL[what][part :: many(1, 3)]:
        folder = with_rows(tmp_path / str(kilobytes))
        small_disk(folder / what, kilobytes)
        process = warm.start(_on_small_disk, folder)
        done = finished(folder, process)
        if done.code == 0:
            assert what == "cache"
            assert "encoded rows not saved" in done.out
            counts["runs without a cache"] += 1
        else:
            assert_one_message(done, ResourceError.exit_code)
            assert re.search(
                rf"while writing (?:{folder}/)?{what}/\S+: (?:[\d,]+ bytes are needed, )?[\d,]+ are free", done.err
            )
            counts[f"full disks under {what}"] += 1
        small_disk(folder / what, 4096)
        if done.code:
            assert_goes_on_to(never_stopped, folder)
        assert result(folder) == never_stopped
    tell_all(record_property, counts)


# Runs that diverge


DIVERGING = {
    "NET_OBJECTIVE": "regression", "NET_LABEL_COLUMN": "impressions", "NET_WEIGHT_COLUMN": "null",
    "NET_OPTIMIZER": "sgd", "NET_EPOCHS": "100", "NET_PATIENCE": "null", "NET_DROPOUT": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    "rate", many([3, 100], [2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 60, 80, 100])
)
def test_a_run_that_diverges_says_so_and_its_last_finite_checkpoint_stays(
    folder: Path, rate: float, record_property: Tell
) -> None:
    environment = DIVERGING | {"NET_LEARNING_RATE": str(rate)}
    done = run(folder, **environment)
    assert_one_message(done, DivergedError.exit_code)
    assert re.search(r"Epoch \d+(, steps|: the validation loss is|: .* contain NaN)", done.err)
    assert "learning_rate" in done.err
    latest, damaged = checkpoint.load(folder / "runs" / "it" / "checkpoints")
    assert latest is not None
    assert not damaged
    assert all(np.isfinite(array).all() for array in (*latest.state.values(), *latest.best.values()))
    losses = [row["validation_loss"] for row in latest.progress["rows"]]
    assert np.isfinite(losses).all()
    assert latest.progress["best_epoch"] == (1 + int(np.argmin(losses)) if losses else 0)
    assert not list(folder.glob("packages/*"))
    assert run(folder, **environment).err == done.err  # it goes on from there, to the same end
    record_property("runs that diverged, all detected", 1)


def test_broken_weights_that_no_row_looks_up_are_never_the_best() -> None:
    ops = built("deep_v1", hidden_units=(4,))
    rows = ops.table(examples())
    table = next(weight for weight in ops.model.weights if "tags" in weight.path)
    values = table.numpy()
    values[1] = np.nan  # of missing tags, and no row lacks them
    table.assign(values)
    with pytest.raises(DivergedError, match=r"Epoch 1: list_tags.* contain NaN or infinity"):
        loop.train(ops, {"train": rows, "validation": rows}, epochs=2, patience=None, stopping_metric="loss")


# Runs that differ, runs that have ended, two runs at once


def test_another_configuration_code_or_data_is_refused_with_what_differs(killed: Path, folder: Path) -> None:
    shutil.copytree(killed, folder, dirs_exist_ok=True)
    assert checkpoint.load(folder / "runs" / "it" / "checkpoints")[0] is not None

    done = run(folder, NET_LEARNING_RATE="0.25", NET_EPOCHS="1")
    assert done.code == ConfigError.exit_code
    assert "epochs: 2 before, 1 now; learning_rate: 0.002 before, 0.25 now" in done.err
    assert "--restart" in done.err

    (folder / "other.json").write_bytes(ROWS.replace(b"item_1", b"item_2"))
    done = trainer(folder, "--data=other.json", "--run=it", **TINY)
    assert done.code == ConfigError.exit_code
    assert "train rows: " in done.err

    done = trainer(folder, "--data=other.json", "--run=it", "--restart", "--no-package", **TINY)
    assert done.code == 0
    assert "resume" not in done.out


def test_an_edit_of_the_code_that_decides_the_weights_is_refused_and_no_other_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    network = tmp_path / "networks" / "edited_v1.py"
    network.parent.mkdir()
    shutil.copy(ROOT / "networks" / "deep_v1.py", network)
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(network.parent)])
    config = networks.load("edited_v1").Config(network="edited_v1")

    before = resume.identity(config, tmp_path)
    for file in ("machines/images.py", "inspection/inspect.py", "package/report.py", "cloud/gcs.py"):
        with (tmp_path / "trainer" / file).open("a") as edited:
            edited.write("# edited\n")
    resume.check_same_run(tmp_path, before, resume.identity(config, tmp_path))
    for file in ("trainer/features/scale.py", "trainer/model/optimizer.py", "trainer/__main__.py", str(network)):
        before = resume.identity(config, tmp_path)
        with (tmp_path / file).open("a") as edited:
            edited.write("# edited\n")
        with pytest.raises(ConfigError, match=f"/{Path(file).name}: .* before, .* now"):
            resume.check_same_run(tmp_path, before, resume.identity(config, tmp_path))


def _on_one_core(folder: Path, environment: dict[str, str]) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    commands.become_trainer(folder, ARGUMENTS, environment)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be limited to a core here")
def test_a_run_goes_on_with_as_many_threads_as_it_began_with_on_a_machine_with_fewer_cores(tmp_path: Path) -> None:
    """Wide enough for the sum of a gradient to be divided among eight threads."""
    rows = {"NET_BATCH_SIZE": "2048", "NET_HIDDEN_UNITS": "[128]", "NET_EPOCHS": "3", "NET_LEARNING_RATE": "0.1"}
    wide, eight = TINY | rows, TINY | rows | {"NET_THREADS": "8"}
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    for folder in (killed, calm):
        (with_rows(folder) / "rows.json").write_bytes(SAMPLE.read_bytes())
    assert trainer(killed, *ARGUMENTS, **eight, FLATFAB_FAULT="kill:80").code == -signal.SIGKILL
    assert (killed / "runs" / "it" / "checkpoints").exists()

    refused = trainer(killed, *ARGUMENTS, **wide, NET_THREADS="2")
    assert_one_message(refused, ConfigError.exit_code)
    assert "threads: 8 before, 2 now." in refused.err

    done = finished(killed, warm.start(_on_one_core, killed, wide))
    assert (done.code, done.err) == (0, "")
    assert "resume   epoch" in done.out
    assert b'"threads": 8' in archive.read_package(killed / "packages" / "it.zip")["environment.json"]
    assert trainer(calm, *ARGUMENTS, **eight).code == 0
    assert result(killed) == result(calm)


def test_a_run_that_has_ended_is_not_begun_again_unless_that_is_asked_for(ended: Path) -> None:
    package = ended / "packages" / "it.zip"
    made = package.read_bytes()
    again = run(ended)
    assert again.code == 0
    assert re.search(r"^finished +2 epochs, best epoch \d: test", again.out, re.MULTILINE), again.out.splitlines()
    assert str(Path("packages/it.zip")) in again.out
    assert package.read_bytes() == made
    other = run(ended, NET_SEED="3")
    assert other.code == ConfigError.exit_code
    assert "seed: 0 before, 3 now" in other.err
    shutil.rmtree(ended / "runs")
    gone = run(ended)
    assert gone.code == StorageError.exit_code
    assert "it.zip belongs to another run" in gone.err
    assert trainer(ended, *ARGUMENTS, "--restart", **(TINY | {"NET_SEED": "3"})).code == 0
    assert package.read_bytes() != made


def test_a_finished_run_goes_on_with_more_epochs_and_ends_with_the_bits_of_a_longer_run(
    folder: Path, never_stopped: Result
) -> None:
    assert run(folder, NET_EPOCHS="1").code == 0
    shorter = (folder / "packages" / "it.zip").read_bytes()
    more = trainer(folder, *ARGUMENTS, "--set", "epochs=2", **(TINY | {"NET_EPOCHS": "1"}))
    assert (more.code, more.err) == (0, "")
    assert "resume   epoch 2, step 0" in more.out
    assert (folder / "packages" / "it.zip").read_bytes() != shorter
    assert result(folder) == never_stopped
    less = run(folder, NET_EPOCHS="1")
    assert (less.code, "epochs: 2 before, 1 now" in less.err) == (ConfigError.exit_code, True)


def test_a_run_whose_learning_rate_falls_to_the_last_epoch_cannot_have_more_of_them(folder: Path) -> None:
    falling = TINY | {"NET_DECAY": "linear", "NET_PATIENCE": "null"}
    assert trainer(folder, *ARGUMENTS, "--no-package", **(falling | {"NET_EPOCHS": "1"})).code == 0
    more = trainer(folder, *ARGUMENTS, **(falling | {"NET_EPOCHS": "2"}))
    assert (more.code, "epochs: 1 before, 2 now" in more.err) == (ConfigError.exit_code, True)


def test_two_runs_of_one_name_at_once_are_one_run_and_one_refusal(folder: Path) -> None:
    folders = [folder, with_rows(folder / "beside")]
    (folder / "runs").mkdir()
    (folders[1] / "runs").symlink_to(folder / "runs")
    slow = TINY | {"NET_EPOCHS": "10", "NET_PATIENCE": "null", "NET_CHECKPOINT_MINUTES": "10"}
    processes = [start(one, *ARGUMENTS, f"--output={folder}/out", **slow) for one in folders]
    done = [finished(one, process) for one, process in zip(folders, processes, strict=True)]
    assert sorted(one.code for one in done) == [0, StorageError.exit_code]
    assert "Another process is using" in "".join(one.err for one in done)


# Checkpoints themselves


def some(seed: int) -> Checkpoint:
    rng = np.random.default_rng(seed)
    state = {"table": rng.normal(size=(300, 7)).astype(np.float32), "steps": np.int64(seed), "none": np.zeros((0, 3))}
    return Checkpoint({"rows": [{"loss": 0.1 * seed}], "best": float("inf")}, state, {"table": np.ones(5, np.float32)})


def same(latest: Checkpoint | None, expected: Checkpoint) -> bool:
    return (
        latest is not None
        and latest.progress == expected.progress
        and all(
            got.keys() == wanted.keys()
            and all((got[name] == wanted[name]).all() and got[name].dtype == wanted[name].dtype for name in wanted)
            for got, wanted in ((latest.state, expected.state), (latest.best, expected.best))
        )
    )


def test_a_checkpoint_comes_back_with_its_bits_and_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none") == (None, [])
    for number in range(1, 6):
        checkpoint.save(tmp_path, some(number))
        latest, damaged = checkpoint.load(tmp_path)
        assert same(latest, some(number))
        assert damaged == []
    assert checkpoint.numbers_in(tmp_path) == [4, 5]
    checkpoint.keep_newest(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["00000005"]


def damage(path: Path, how: str, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    if how == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "page":
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))
    path.write_bytes({"cut": bytes(data[:at]), "empty": b""}.get(how, bytes(data)))


@pytest.mark.parametrize("seed", range(4))
def test_200_damaged_checkpoints_all_fall_back_to_the_one_before_and_are_named(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in (1, 2):
        checkpoint.save(tmp_path / "good", some(number))
    good = tmp_path / "good" / "00000002"
    names = [*checkpoint.FILES, checkpoint.MANIFEST]
    for round_ in range(50):
        folder, name = tmp_path / str(round_), chance.choice(names)
        shutil.copytree(tmp_path / "good", folder)
        newest, before = folder / "00000002", folder / "00000001"
        how = chance.choice(["flip", "page", "cut", "empty", "gone", "swapped", "exchanged"])
        untouched = (newest / name).read_bytes()
        if how == "gone":
            (newest / name).unlink()
        elif how == "swapped":
            shutil.copy(before / name, newest / name)
        elif how == "exchanged":
            other = newest / chance.choice([other for other in names if other != name])
            other.write_bytes((newest / name).read_bytes())
            (newest / name).write_bytes((good / other.name).read_bytes())
        else:
            damage(newest / name, how, chance)
        latest, damaged = checkpoint.load(folder)
        if (newest / name).exists() and (newest / name).read_bytes() == untouched:
            assert same(latest, some(2))  # a page of zeros was zeroed, or the same file swapped
        elif name == "manifest.json" and how == "flip" and damaged == []:
            assert same(latest, some(2))  # white space, or a digit's other form: nothing that says something else
        else:
            assert same(latest, some(1)), (name, how)
            assert len(damaged) == 1
            assert damaged[0].startswith(str(newest))
            assert damaged[0].endswith(name) or name == "manifest.json" or how in ("swapped", "exchanged")


@pytest.mark.parametrize("name", many(checkpoint.FILES[:1], checkpoint.FILES))
def test_a_run_whose_newest_checkpoint_is_damaged_warns_once_and_ends_with_the_same_bits(
    killed: Path, folder: Path, never_stopped: Result, name: str, record_property: Tell
) -> None:
    shutil.copytree(killed, folder, dirs_exist_ok=True)
    checkpoints = folder / "runs" / "it" / "checkpoints"
    *_, newest = checkpoint.numbers_in(checkpoints)
    damage(checkpoints / f"{newest:08}" / name, "flip", random.Random(0))
    done = run(folder)
    assert (done.code, done.err) == (0, "")
    warnings = [line for line in done.out.splitlines() if "damaged" in line]
    path = f"runs/it/checkpoints/{newest:08}/{name}"
    assert warnings == [f"warning  {path} is damaged; the run continues from the checkpoint before it."]
    epoch, step, train = (
        int(re.search(pattern, done.out)[1])  # type: ignore[index]
        for pattern in (r"resume   epoch (\d+)", r"resume   epoch \d+, step (\d+)", r"split    train (\d+)")
    )
    timings = json.loads(archive.read_package(folder / "packages" / "it.zip")["timings.json"])
    assert timings["stages"]["train"]["rows"] == 2 * train - (epoch - 1) * train - min(128 * step, train)  # its own
    assert result(folder) == never_stopped
    record_property("damaged checkpoints, each warned of once", 1)


def test_where_no_checkpoint_is_whole_the_run_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, some(number))
        (tmp_path / f"0000000{number}" / "state.bin").write_bytes(b"")
    with pytest.raises(StorageError, match=r"No checkpoint in .* can be used: .*00000002/state\.bin, .*--restart"):
        checkpoint.load(tmp_path)


def test_a_folder_that_is_held_is_refused_to_others_and_left_empty_it_goes(tmp_path: Path) -> None:
    with system.locked_folder(tmp_path / "a" / "b"):
        with pytest.raises(StorageError, match="Another process is using"), system.locked_folder(tmp_path / "a" / "b"):
            pass
        (tmp_path / "a" / "b" / "file").write_text("")
    with system.locked_folder(tmp_path / "a" / "c"):
        pass
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_what_differs_is_listed() -> None:
    before, now = {"a": 1, "b": [1.5], "c": "x"}, {"a": 1, "b": [2], "d": None, "e": True}
    assert checkpoint.differences(before, now) == [
        "b: [1.5] before, [2] now",
        'c: "x" before, null now',
        "e: null before, true now",
    ]


def test_a_run_that_is_killed_or_stopped_while_it_is_made_anew_begins_anew_without_the_package_from_before(
    ended: Path, never_stopped: Result
) -> None:
    package = ended / "packages" / "it.zip"
    before = package.stat().st_mtime_ns
    for point in (5, 20):
        killed = trainer(ended, *ARGUMENTS, "--restart", **(TINY | {system.FAULT: f"kill:{point}"}))
        assert killed.code == -signal.SIGKILL
    stopped = trainer(ended, *ARGUMENTS, "--restart", **(TINY | {system.FAULT: "term:100"}))
    assert (stopped.code, "To continue, start" in stopped.err) == (Interrupted.exit_code, True)
    assert not package.exists()
    assert_goes_on_to(never_stopped, ended)
    assert package.stat().st_mtime_ns != before
