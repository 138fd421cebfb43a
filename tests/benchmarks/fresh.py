"""Functions in processes of their own: what they measured, the most memory that they held, under a limit if need be.

`run` starts `python -m tests.benchmarks.fresh MODULE:FUNCTION RESULT ARGUMENTS`, which is not for people.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Outcome(NamedTuple):
    """What a function measured, with the peak memory of its process in bytes as "memory"; or why there is nothing."""

    figures: dict[str, Any]
    fault: str = ""


def run(
    function: str,
    *,
    folder: Path,
    limit: int | None = None,
    settings: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Outcome:
    """The outcome of `module:function` of tests.benchmarks, which takes and returns JSON.

    folder: where it stands; limit: bytes of memory that it may hold; settings: environment variables, such as NET_SEED.
    The function is also given `began`, the time at which its process was started, if it has "began" in `arguments`.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder) as own,
        limited_to(limit) as start,
        (Path(own) / "log").open("w+") as log,
    ):
        result = Path(own) / "result.json"
        if "began" in arguments:
            arguments["began"] = time.time()
        command = [sys.executable, "-m", "tests.benchmarks.fresh", function, str(result), json.dumps(arguments)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *python_path()])} | dict(settings or {})
        process = subprocess.Popen([*start, *command], cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            return Outcome({}, fault_of(process.returncode, limit, Path(log.name).read_text(errors="replace")))
        figures = json.loads(result.read_text())
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Outcome({**figures, "memory": max(peak, figures.get("memory", 0))})


def python_path() -> list[str]:
    """Where the caller looks for packages besides the usual places."""
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]


def fault_of(code: int, limit: int | None, log: str) -> str:
    """One line about a process that failed."""
    if code == -9 and limit:
        return f"killed: needs more than {limit / 1e9:.2f} GB"
    last = ([line for line in log.splitlines() if line.strip()] or [f"exit code {code}"])[-1]
    return f"failed: {last.removeprefix('trainer.runtime.errors.')[:160]}"


@contextmanager
def limited_to(limit: int | None) -> Iterator[list[str]]:
    """The beginning of a command that may hold so many bytes of memory: by a control group of its own below this
    process's own, where one may be made, else by a limit on its data segment. None: no limit."""
    group = new_group(limit) if limit else None
    try:
        if not limit:
            yield []
        elif group:
            yield ["sh", "-c", f'echo $$ > "{group}/cgroup.procs" && exec "$@"', "sh"]
        else:
            yield ["sh", "-c", f'ulimit -d {limit // 1024} && exec "$@"', "sh"]
    finally:
        if group:
            group.rmdir()


def forget(path: Path) -> None:
    """Let the machine read a file from its disk again, not from what it still has in memory."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def new_group(limit: int) -> Path | None:
    """An empty control group with this limit; None where the machine does not let us make one."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                base, file = ("/sys/fs/cgroup", "memory.max") if not controllers else (
                    "/sys/fs/cgroup/memory", "memory.limit_in_bytes")  # fmt: skip
                group = Path(f"{base}{path}") / f"benchmark-{os.getpid()}-{time.time_ns()}"
                group.mkdir()
                if (group / file).exists():
                    (group / file).write_text(str(limit))
                    return group
                group.rmdir()  # version 2, and its memory is in the hands of others
    except OSError:
        pass
    return None


def medians(sides: Mapping[str, Callable[[], Outcome]], rounds: int) -> dict[str, Outcome]:
    """Every side once a round, in turn; the median of each figure over the rounds."""
    measured: dict[str, list[Outcome]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            if not any(outcome.fault for outcome in measured[name]):  # what failed once is not tried again
                print(f"  round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                measured[name].append(side())
    return {name: median_of(outcomes) for name, outcomes in measured.items()}


def median_of(outcomes: list[Outcome]) -> Outcome:
    """The median of each figure; a fault of one is that of all."""
    fault = next((outcome.fault for outcome in outcomes if outcome.fault), "")
    if fault:
        return Outcome({}, fault)
    return Outcome({
        name: statistics.median(outcome.figures[name] for outcome in outcomes) for name in outcomes[0].figures
    })  # fmt: skip


def main() -> None:
    """Call the function and write what it returns."""
    function, result, arguments = sys.argv[1:]
    module, _, name = function.partition(":")
    figures = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)(**json.loads(arguments))
    Path(result).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
