"""Signs of life, and the end of what shows none."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.scale import many
from trainer.runtime import heartbeat

HANGS = """
import threading, time
from trainer.runtime import heartbeat
with heartbeat.watched():
    for _ in range(4):
        time.sleep(0.3)
        heartbeat.beat()
    print("alive", flush=True)
    {}
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-c", program] if "\n" in program else ["-m", program])],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("number", range(many(1, 10)))
def test_R27_a_training_that_hangs_ends_with_the_stacks_of_all_threads(number: int) -> None:
    done = run(HANGS.format("time.sleep(60)"), FLATFAB_HANG_SECONDS="1")
    assert (done.returncode, done.stdout) == (1, "alive\n")
    assert "Timeout" in done.stderr
    assert "line 9" in done.stderr


def test_R27_what_comes_after_the_training_may_take_its_time() -> None:
    done = run(HANGS.format("pass") + "time.sleep(1.5)\nheartbeat.beat()\n", FLATFAB_HANG_SECONDS="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


def test_R27_the_health_check_reads_the_age_of_the_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    check = ("trainer.runtime.heartbeat", {"FLATFAB_HEARTBEAT": str(path)})
    done = run(check[0], **check[1])
    assert done.returncode == 1
    assert "There is no heartbeat" in done.stderr

    run("from trainer.runtime import heartbeat\nheartbeat.beat()", **check[1])
    assert run(check[0], **check[1]).returncode == 0

    os.utime(path, (time.time() - 601,) * 2)
    done = run(check[0], **check[1])
    assert done.returncode == 1
    assert "No progress for 60" in done.stderr


def test_without_a_place_for_it_there_is_no_heartbeat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(heartbeat.HEARTBEAT, raising=False)
    heartbeat.beat()
    monkeypatch.setenv(heartbeat.HEARTBEAT, str(tmp_path / "no" / "folder"))
    heartbeat.beat()
    assert not list(tmp_path.iterdir())
