"""Warm processes are the commands that they stand for, only sooner."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.commands import PROGRESS, ROOT, SAMPLE, finished, start
from trainer.package.archive import read_package
from trainer.package.weights import weights_from_bytes
from trainer.runtime import warm


def test_a_warm_run_has_the_bits_of_a_process_of_its_own(sample_run: Path, tmp_path: Path) -> None:
    """The same rows in a file of another name: two runs of one configuration."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NET_EPOCHS": "3"}
    command = [sys.executable, "-m", "trainer", f"--data={SAMPLE}", "--run=it", "--output=out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert PROGRESS.sub("", done.stderr) == ""  # no word of TensorFlow
    ours, theirs = (read_package(folder / "out" / "it.zip") for folder in (sample_run, tmp_path))
    for name in ("metrics.csv", "preprocessing.json"):
        assert ours[name] == theirs[name]
    expected = weights_from_bytes(theirs["weights.npz"])
    for path, array in weights_from_bytes(ours["weights.npz"]).items():
        np.testing.assert_array_equal(array, expected[path])


def test_a_warm_process_leaves_with_the_exit_code_and_output_of_its_command(tmp_path: Path) -> None:
    done = finished(tmp_path, start(tmp_path, "--variant=none"))
    assert done.code == 2
    assert done.err.startswith("error: There is no variant 'none'")


def note_start(path: Path) -> None:
    loaded = {"tensorflow", "trainer.__main__", "spacy.lang.en"} <= set(sys.modules)
    path.write_text(f"{loaded} {os.getppid()}")


def test_processes_share_one_server_that_has_imported_all(tmp_path: Path) -> None:
    for name in ("first", "second"):
        warm.start(note_start, tmp_path / name).join()
    (loaded, server), (again, same) = ((tmp_path / name).read_text().split() for name in ("first", "second"))
    assert (loaded, again, server) == ("True", "True", same)
    assert int(server) != os.getpid()
