"""Train on other machines: `fab -H user@gpu-1 train --gpu --variant=rnn_v1`, then `attach`, `status` and `stop`.

A machine needs only sshd and Docker. We send the code of the commit as an archive, build the image there, and start a
container that needs no connection (see `trainer.machines.detached`). Names, settings and paths go to the engine's API,
never through a shell. Logins and credentials stay where they are.
"""

import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from fabric import Connection
from fabric.main import program

from trainer.cloud import storage
from trainer.config import loading
from trainer.config.levels import shown
from trainer.config.names import check_name, new_run_name
from trainer.machines import container_options, detached, images, ssh
from trainer.machines.code_archive import archive, commit, uncommitted
from trainer.machines.detached import RemoteRun
from trainer.machines.remote_docker import Machine, connected, retry
from trainer.runtime.command import exit_process, printable, run_command, say
from trainer.runtime.errors import ConfigError, Interrupted, StorageError, TrainerError

ROOT = Path(__file__).parents[2]
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
HOST = re.compile(rf"(?:{NAME}@)?(?:{NAME}|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]?)(?::[0-9]{{1,5}})?")
PACKAGES = "packages"

T = TypeVar("T")


class TrainRequest(NamedTuple):
    """The options of `fab train`."""

    variant: str  # for several machines one each: a,b
    run: str | None  # for several machines one each
    data: Mapping[str, str | None]  # path or URI by option of the trainer: data, test_data, validation_data
    output: str | None
    gpu: bool = False
    dirty: bool = False
    restart: bool = False
    settings: Sequence[str] = ()  # NAME=VALUE


def train(c: Connection, request: TrainRequest) -> None:
    """Train one variant on each machine, print the logs, and fetch the packages."""
    for_all(c, lambda connections: train_on(connections, request))


def attach(c: Connection, run: str, output: str | None) -> None:
    """Print the log of a run until its end and fetch its package; for several machines one run each."""

    def work(connection: Connection, run: str, prefix: str) -> int:
        with connected(connection) as machine:
            say(f"{prefix}run", detached.state(detached.existing(machine, run)))
        return finish(connection, run, output or PACKAGES, prefix, replace=False)

    def work_on_all(connections: list[Connection]) -> None:
        runs = one_name_each(run, "run", len(connections))
        in_parallel(connections, runs, work, runs)

    for_all(c, work_on_all)


def status(c: Connection) -> None:
    """List the runs of each machine."""

    def work(connection: Connection, _: None, prefix: str) -> int:
        with connected(connection) as machine:
            states = detached.states(machine)
        for state in states or [f"none on {ssh.name_of(connection)}"]:
            say(f"{prefix}run", state)
        return 0

    for_all(c, lambda connections: in_parallel(connections, [None] * len(connections), work))


def stop(c: Connection, run: str, *, remove: bool) -> None:
    """Stop a run, for several machines one each. With `remove`, remove its container and log, too."""

    def work(connection: Connection, run: str, prefix: str) -> int:
        retry(connection, lambda machine: detached.stop(machine, run, remove=remove))
        say(f"{prefix}stopped", f"{run} on {ssh.name_of(connection)}; train with --run={run} resumes it")
        return 0

    for_all(c, lambda connections: in_parallel(connections, one_name_each(run, "run", len(connections)), work))


def for_all(c: Connection, work: Callable[[list[Connection]], None]) -> None:
    """Do the work of a task for all machines of -H at once. fabric calls a task for each; the first call does it."""
    hosts = str(program.args.hosts.value).split(",")
    run_command(lambda: check_hosts(hosts))
    connections = [Connection(host, config=c.config) for host in hosts]
    if connections[0] == c:
        run_command(lambda: work(connections))


def check_hosts(hosts: Sequence[str]) -> None:
    """ConfigError unless each host is a machine as ssh names it, with an optional user and port, and none repeats."""
    for host in hosts:
        if not HOST.fullmatch(host):
            raise ConfigError(f"-H {host!r} is not a machine. Write user@machine or user@machine:port.")
    if len(set(hosts)) < len(hosts):
        raise ConfigError("-H names a machine twice. Name each once.")


def one_name_each(names: str | None, option: str, machines: int) -> list[str]:
    """The names in an option, a,b, one for each machine. ConfigError if their number differs or one is not a name."""
    parts = (names or "").split(",")
    if len(parts) != machines or not all(parts):
        raise ConfigError(f"--{option}: {machines} machines take {machines} names, separated by commas.")
    for name in parts:
        check_name(name, option)
    return parts


def train_on(connections: list[Connection], request: TrainRequest) -> None:
    """Start or find the run of each machine, and follow all of them."""
    runs = plan_runs(request, len(connections))
    if not request.dirty and uncommitted(ROOT):
        say("warning", "uncommitted changes are not sent. Add --dirty to send them.")
    context, revision = archive(ROOT, dirty=request.dirty), commit(ROOT) + "-dirty" * request.dirty
    arguments = {"REVISION": revision, "VERSION": images.version()}

    def work(connection: Connection, run: RemoteRun, prefix: str) -> int:
        with connected(connection) as machine:
            container = detached.find(machine, run.name)
            if container and detached.is_alive(container):
                if request.restart:
                    stop_command = f"`fab -H {machine.name} stop --run={run.name}`"
                    raise StorageError(f"{run.name} is running. Stop it first: {stop_command}")
                say(f"{prefix}run", f"{run.name} is already running on {machine.name}")
            else:
                say(f"{prefix}build", f"{revision} on {machine.name}")
                image = images.build_from(machine.client, context, *images.RECIPES[run.gpu], arguments, prefix)
                detached.start(machine, run, image)
                say(f"{prefix}run", f"{run.name} runs on {machine.name}, even if this connection ends")
        return finish(connection, run.name, request.output or PACKAGES, prefix, replace=request.restart)

    in_parallel(connections, runs, work, [run.name for run in runs])


def plan_runs(request: TrainRequest, machines: int) -> list[RemoteRun]:
    """A run for each machine. ConfigError for an invalid option, before anything is sent."""
    variants = one_name_each(request.variant, "variant", machines)
    existing = loading.variants()
    if unknown := [variant for variant in variants if variant not in existing]:
        raise ConfigError(f"There is no variant {unknown[0]!r}. Choose one of {', '.join(existing)}.")
    names = one_name_each(request.run or ",".join(map(new_run_name, variants)), "run", machines)
    if len(set(names)) < machines:
        raise ConfigError(f"Two runs would have the same name. Name them: --run=NAME{',NAME' * (machines - 1)}.")
    data = {f"--{option.replace('_', '-')}": path for option, path in request.data.items() if path}
    for option, path in data.items():
        check_path(option, path)
    output = request.output or PACKAGES
    arguments = [f"{option}={path}" for option, path in data.items()] + ["--restart"] * request.restart
    arguments += [f"--set={setting}" for setting in request.settings]
    arguments.append(f"--output={output if storage.is_remote(output) else PACKAGES}")
    own_terminal = ("COLUMNS", "TERM")  # a log is not as wide as the terminal that happened to start the run
    environment = {name: text for name, text in container_options.environment().items() if name not in own_terminal}
    environment |= {"FLATFAB_GPU": "1"} if request.gpu else {}
    return [
        RemoteRun(
            name, [f"--variant={variant}", f"--run={name}", *arguments], output, request.gpu, list(data.values()),
            environment,
        )
        for variant, name in zip(variants, names, strict=True)
    ]  # fmt: skip


def check_path(option: str, path: str) -> None:
    """ConfigError unless a dataset's path means the same on another machine: gs://, or an absolute path."""
    pure = PurePosixPath(path)
    if storage.is_remote(path) or (pure.is_absolute() and ".." not in pure.parts and path.isprintable()):
        return
    raise ConfigError(
        f"{option}={shown(path)}: with -H, rows are gs:// or an absolute path on that machine, such as /data/rows."
    )


def finish(connection: Connection, run: str, output: str, prefix: str, *, replace: bool) -> int:
    """Follow a run to its end and fetch its package; returns the run's exit code."""

    def fetch(machine: Machine) -> None:
        container = detached.find(machine, run)
        if container and not storage.is_remote(container.labels[detached.OUTPUT]):
            say(f"{prefix}package", f"{detached.fetch(machine, run, output, replace=replace)}, verified")

    code = detached.follow(connection, run, prefix)
    if code == 0:
        retry(connection, fetch)
    return code


def in_parallel(
    connections: list[Connection],
    items: Sequence[T],
    work: Callable[[Connection, T, str], int],
    runs: Sequence[str] = (),
) -> None:
    """Do the work of all machines at the same time, each with its item and a prefix for its lines.

    Exit with the first exit code that is not 0. A stop signal ends this process alone; runs: the names in its message.
    """
    codes = [0] * len(connections)

    def guarded(number: int) -> None:
        prefix = f"[{ssh.name_of(connections[number])}] " if len(connections) > 1 else ""
        try:
            codes[number] = work(connections[number], items[number], prefix)
        except TrainerError as error:
            print(printable(f"{prefix}error: {error}"), file=sys.stderr, flush=True)
            codes[number] = error.exit_code
        except Exception:
            traceback.print_exc()
            codes[number] = TrainerError.exit_code

    # Daemon threads, unlike those of a ThreadPoolExecutor, do not keep the process alive after a stop signal.
    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(len(connections))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=0.2)  # signals are handled between two of these
    except Interrupted as error:
        message = "Training there continues."
        if runs:
            fab, names = f"`fab -H {','.join(map(ssh.name_of, connections))}", ",".join(runs)
            message += f" {fab} attach --run={names}` shows the log, {fab} stop --run={names}` stops it."
        raise Interrupted(f"{str(error).partition(';')[0]}. {message}") from None
    if code := next(filter(None, codes), 0):
        exit_process(code)
