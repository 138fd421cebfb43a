"""Searches under fire: workers are killed again and again, the search itself twice, and every bit stays the same."""

import contextlib
import importlib.util
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.commands import SAMPLE, made_once, start
from tests.scale import LONG, many
from tests.search.test_tune import processes_in, results, state_in
from tests.servers.ssh import free_port
from trainer.search import journal, ray_checks
from trainer.search.trials import newest_checkpoint
from trainer.search.winner import winner

TRIALS = many(3, 24)
SPACE = {"learning_rate": {"low": 0.0005, "high": 0.02, "log": True}, "dropout": {"low": 0, "high": 0.5}}
OPTIONS = (
    "--space=space.json", "--name=s", f"--data={SAMPLE}", f"--trials={TRIALS}", "--no-halving", "--workers=2",
    "--keep=1", "--seeds=1", "--set=patience=null", "--set=threads=1", "--set=batch_size=8",
    "--set=checkpoint_minutes=0",
    f"--set=epochs={many(3, 8)}",
)  # fmt: skip
KILLS = many(1, 1000)  # at most
DRIVER_KILLS = many(0, 2)

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: the extra `cluster`")


def calm_search(folder: Path) -> None:
    (folder / "space.json").write_text(json.dumps(SPACE))
    process = start_search(folder)
    process.join()
    assert process.exitcode == 0, (folder / "stderr").read_text()


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the search has ended that nothing disturbed."""
    return made_once(tmp_path_factory, "calm_search", calm_search)


@pytest.mark.skipif(not os.environ.get(LONG), reason="minutes: `fab test-faults`; test_tune.py kills one search")
def test_a_local_search_survives_kills_of_its_trials_and_of_itself(
    calm: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    counts = searched_under_fire(tmp_path, (), 4.0, lambda trial: trial)
    check_same(calm, tmp_path)
    for name, count in counts.items():
        record_property(name, count)


@needs_ray
def test_a_search_on_two_ray_nodes_survives_kills_of_its_workers_and_of_itself(
    calm: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    token = ray_checks.new_token()
    with two_nodes(tmp_path / "ray", token) as address:
        options = ("--engine=ray", f"--address={address}")
        counts = searched_under_fire(tmp_path, options, 20.0, worker_of, RAY_AUTH_TOKEN=token)
    check_same(calm, tmp_path)
    for name, count in counts.items():
        record_property(name, count)


def check_same(calm: Path, folder: Path) -> None:
    """Each run has ended once, as in the calm search, and the same trial wins."""
    state, calm_state = state_in(folder), state_in(calm)
    assert results(state) == results(calm_state)
    assert winner(state) == winner(calm_state)
    assert len(state.trials) == TRIALS
    ends = Counter(
        (event["trial"], event["seed"], bool(event["package"]))
        for event in journal.read(folder / "searches" / "s" / journal.FILE)
        if event["event"] == "end" and event["code"] == 0
    )
    assert set(ends.values()) == {1}
    assert not processes_in(folder)


def searched_under_fire(
    folder: Path, options: tuple[str, ...], pause: float, target_of: Callable[[int], int], **environment: str
) -> Counter[str]:
    """Search in a folder while trials, or what they end with, are killed; returns what was killed how often.

    The search itself is killed when a third and when two thirds of its trials have ended.
    """
    (folder / "space.json").write_text(json.dumps(SPACE))
    counts: Counter[str] = Counter()
    for number in range(DRIVER_KILLS + 1):
        process = start_search(folder, *options, **environment)
        over = threading.Event()
        killer = threading.Thread(target=kill_now_and_then, args=(folder, target_of, pause, over, counts))
        killer.start()
        ends = TRIALS * (number + 1) // (DRIVER_KILLS + 1) if number < DRIVER_KILLS else None
        try:
            wait_for_ends(folder, process, ends)
        finally:
            over.set()
            killer.join()
        if ends is not None:
            os.kill(process.pid or 0, signal.SIGKILL)
            counts["searches killed"] += 1
        process.join()
    assert process.exitcode == 0, (folder / "stderr").read_text() + (folder / "stdout").read_text()
    assert counts["processes killed"]
    for _ in range(100):
        if not processes_in(folder):
            break
        time.sleep(0.1)
    return counts


def start_search(folder: Path, *options: str, **environment: str) -> BaseProcess:
    return start(folder, *OPTIONS, *options, module="trainer.search.tune", **environment)


def wait_for_ends(folder: Path, process: BaseProcess, ends: int | None) -> None:
    """Wait until so many trials have ended, or, with None, for the end of the search."""
    while process.is_alive() and (ends is None or len(ended(folder)) < ends):
        time.sleep(0.2)
    assert ends is None or process.is_alive(), (folder / "stderr").read_text()


def ended(folder: Path) -> set[int | None]:
    """The trials that have ended."""
    path = folder / "searches" / "s" / journal.FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return {event["trial"] for event in events if event["event"] == "end" and event["code"] == 0}


def kill_now_and_then(
    folder: Path, target_of: Callable[[int], int], pause: float, over: threading.Event, counts: Counter[str]
) -> None:
    """After each pause, kill a trial, or what `target_of` has it end with.

    A run that is killed three times without coming further has failed. So each is killed once before its first epoch,
    and again only after a further one.
    """
    epochs: dict[str, int] = {}  # of each run when it was killed
    least = 1 if KILLS == 1 else 0
    while not over.wait(0.2 if KILLS == 1 else pause) and counts["processes killed"] < KILLS:
        trials = {pid: Path(output_of(pid)).stem for pid in trials_in(folder)}
        now = {pid: epochs_of(folder / "runs" / run) for pid, run in trials.items()}
        candidates = [pid for pid, run in trials.items() if now[pid] >= max(least, epochs.get(run, -1) + 1)]
        victim = random.choice(candidates or [0])
        if victim and (target := target_of(victim)) > 1:
            epochs[trials[victim]] = now[victim]
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
                counts["processes killed"] += 1


def epochs_of(run: Path) -> int:
    """The epochs in the newest checkpoint of a run."""
    progress, _ = newest_checkpoint(run / "checkpoints")
    return len(progress.get("rows", []))


def trials_in(folder: Path) -> list[int]:
    """The processes that train: those whose output is a log of the search."""
    return [pid for pid in processes_in(folder) if "/searches/s/logs/" in output_of(pid)]


def output_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    return ""


def worker_of(trial: int) -> int:
    """The Ray worker of a trial: it has a server that forks its trials."""
    return parent_of(parent_of(trial))


def parent_of(pid: int) -> int:
    fields = stat_of(pid)
    return int(fields[1]) if fields else 0


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


@contextlib.contextmanager
def two_nodes(folder: Path, token: str) -> Iterator[str]:
    """Two Ray nodes on this machine with one CPU each; yields the address of the head."""
    folder.mkdir()
    host = own_address()
    base = free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_agent_register_timeout_ms": "100000",
        "PYTHONPATH": str(SAMPLE.parents[1]),
    }
    short = Path("/tmp") / f"ray-{secrets.token_hex(3)}"  # a socket's path has 107 bytes at most
    address = f"{host}:{base}"
    with contextlib.ExitStack() as stack:
        for number, first in enumerate((base, base + 20)):
            head = (
                ["--head", "--include-dashboard=false", f"--port={base}", f"--temp-dir={short}"]
                if not number
                else [f"--address={address}"]
            )
            ports = [f"--{name}={first + place}" for place, name in enumerate(ray_checks.PORTS, 1)]
            command = [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *head, *ports, "--num-cpus=1",
                f"--node-ip-address={host}", "--include-log-monitor=false",
                "--disable-usage-stats", "--object-store-memory=100000000",
                f"--min-worker-port={base + 100 + number * 200}", f"--max-worker-port={base + 299 + number * 200}",
            ]  # fmt: skip
            node = started(command, environment, folder / f"node{number}")
            stack.callback(node.wait, 60)
            stack.callback(node.terminate)
        yield address


def started(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A Ray node. Its agents have 15 seconds to start, which a busy machine may not give them: then again."""
    for _ in range(5):
        with log.open("w") as out:
            node = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=log.parent)
        while node.poll() is None:
            if "Ray runtime started" in log.read_text():
                return node
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def own_address() -> str:
    """The address of this machine that Ray gives its nodes, whatever it is told."""
    import ray  # noqa: PLC0415 - there is none for most tests

    return str(ray.util.get_node_ip_address())
