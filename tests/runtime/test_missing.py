"""A package that a slim installation leaves out: what needs it, what to install, exit code 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from trainer.runtime import missing

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""

SCORE = ("trainer.package.score", "predict", "--package=a.zip", "--data=rows.json", "--out=scores.json")
SAMPLE = ("trainer.inspection.inspect", f"--data={ROOT / 'data' / 'sample_2k.json'}")


def without(folder: Path, packages: set[str], *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` where packages cannot be imported."""
    (folder / "sitecustomize.py").write_text(HIDE.format(packages=packages))
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("packages", "words", "expected"),
    [
        ({"docker"}, ("trainer.machines.images", "build"), "Docker needs the package docker, which is not installed"),
        ({"docker"}, ("trainer.machines.containers", "train"), "pip install docker"),
        ({"tensorflow"}, ("trainer", "--variant=deep_v1"), "Training and prediction needs the package tensorflow"),
        ({"tensorflow"}, SCORE, "pip install tensorflow"),
        ({"spacy"}, (*SAMPLE, "--set=tokenizer=spacy"), "tokenizer=spacy needs the package spacy"),
        (
            {"google"},
            ("trainer.inspection.inspect", "--data=gs://bucket/rows/"),
            "gs:// and BigQuery needs the package google",
        ),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path: Path, packages: set[str], words: tuple[str, ...], expected: str
) -> None:
    done = without(tmp_path, packages, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_commands_on_files_need_none_of_them(tmp_path: Path) -> None:
    packages = {"docker", "google", "spacy", "paramiko", "matplotlib", "tensorflow", "tensorboard", "keras"}
    for words in (("trainer.config.show", "settings"), SAMPLE):
        done = without(tmp_path, packages, *words)
        assert (done.returncode, done.stderr) == (0, "")


def test_another_missing_module_is_a_bug() -> None:
    assert missing.explanation(ModuleNotFoundError("x", name="trainer.nothing")) == ""
    assert missing.explanation(ImportError("x", name="docker")) == ""
