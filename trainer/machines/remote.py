"""Training on other machines: `fab -H user@gpu-1 train --gpu --variant=rnn_v1`, then attach, status and stop.

A machine needs sshd and Docker, nothing else. The code goes there as an archive of the commit, is built there, and runs
in a container that no connection holds (see `trainer.machines.detached`). Names, settings and paths go to the engine's
programming interface, never through a shell; logins and credentials stay where they are.
"""

import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from fabric import Connection
from fabric.main import program

from trainer.cloud import storage
from trainer.config import net_config
from trainer.config.levels import shown
from trainer.machines import containers, detached, images, ssh
from trainer.machines.code_archive import archive, commit, uncommitted
from trainer.machines.detached import Task
from trainer.machines.remote_docker import Machine, again, machine
from trainer.runtime.command import exit_process, run_command, say
from trainer.runtime.errors import ConfigError, Interrupted, StorageError, TrainerError

ROOT = Path(__file__).parents[2]
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
HOST = re.compile(rf"(?:{NAME}@)?(?:{NAME}|\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]?)(?::[0-9]{{1,5}})?")
PACKAGES = "packages"

T = TypeVar("T")


class Order(NamedTuple):
    """What `fab train` was asked for."""

    variant: str  # of several machines one each: a,b
    run: str | None  # likewise
    data: Mapping[str, str | None]  # place of a dataset by option of the trainer: data, test_data, validation_data
    output: str | None
    gpu: bool = False
    dirty: bool = False
    restart: bool = False
    build_arguments: Sequence[str] = ()  # NAME=VALUE of an ARG in the Dockerfile


def train(c: Connection, order: Order) -> None:
    """Train on each machine one variant, showing the logs, and fetch the packages."""
    for_all(c, lambda machines: train_on(machines, order))


def attach(c: Connection, run: str, output: str | None) -> None:
    """Show the log of a run, on several machines of one each, until its end, and fetch the package."""

    def begin(connection: Connection, run: str, mark: str) -> int:
        with machine(connection) as there:
            tell(mark, "run", state_of(there, run, connection))
        return finish(connection, run, output or PACKAGES, mark, replace=False)

    def work(machines: list[Connection]) -> None:
        runs = paired(run, "run", len(machines))
        side_by_side(machines, runs, begin, runs)

    for_all(c, work)


def status(c: Connection) -> None:
    """List the runs of each machine."""

    def show(connection: Connection, _: str, mark: str) -> int:
        with machine(connection) as there:
            states = detached.states(there)
        for state in states or [f"none on {ssh.name_of(connection)}"]:
            tell(mark, "run", state)
        return 0

    for_all(c, lambda machines: side_by_side(machines, [""] * len(machines), show))


def stop(c: Connection, run: str, *, remove: bool) -> None:
    """Stop a run, on several machines one each, with 30 seconds to end in order; `remove`: its log goes, too."""

    def work(connection: Connection, run: str, mark: str) -> int:
        again(connection, lambda there: detached.stop(there, run, remove=remove))
        tell(mark, "stopped", f"{run} on {ssh.name_of(connection)}; train with this --run goes on with it")
        return 0

    for_all(c, lambda machines: side_by_side(machines, paired(run, "run", len(machines)), work))


def for_all(c: Connection, work: Callable[[list[Connection]], None]) -> None:
    """Do the work of a task for all machines at once, when fabric calls it for the first of them."""
    given = str(program.args.hosts.value).split(",")
    run_command(lambda: check_hosts(given))
    machines = [Connection(host, config=c.config) for host in given]
    if machines[0] == c:
        run_command(lambda: work(machines))


def check_hosts(given: Sequence[str]) -> None:
    """ConfigError unless each is a user, a machine and a port as ssh knows them, and another one."""
    for host in given:
        if not HOST.fullmatch(host):
            raise ConfigError(f"-H {host!r} is no machine. Write user@machine or user@machine:port.")
    if len(set(given)) < len(given):
        raise ConfigError("-H names a machine twice.")


def paired(given: str | None, option: str, machines: int) -> list[str]:
    """The names that an option gives, one for each machine; ConfigError unless they are as many, and different."""
    names = (given or "").split(",")
    if len(names) != machines or not all(names):
        raise ConfigError(f"--{option}: {machines} machines take {machines} names with commas between them, one each.")
    for name in names:
        net_config.check_name(name, option)
    return names


def train_on(machines: list[Connection], order: Order) -> None:
    tasks = tasks_of(order, len(machines))
    if not order.dirty and uncommitted(ROOT):
        say("warning", "changes that are not committed stay here; --dirty sends them.")
    context, revision = archive(ROOT, dirty=order.dirty), commit(ROOT) + "-dirty" * order.dirty
    arguments = {"REVISION": revision, "VERSION": images.version()} | images.named(order.build_arguments)

    def begin(connection: Connection, task: Task, mark: str) -> int:
        with machine(connection) as there:
            container = detached.find(there, task.run)
            if container and detached.is_alive(container):
                if order.restart:
                    raise StorageError(f"{task.run} is running. Stop it first: {hint(connection, 'stop', task.run)}")
                tell(mark, "run", f"{task.run} is running on {ssh.name_of(connection)} already")
            else:
                tell(mark, "build", f"{revision or 'the code'} on {ssh.name_of(connection)}")
                image = detached.build(there, context, gpu=task.gpu, arguments=arguments, mark=mark)
                detached.begin(there, task, image)
                tell(mark, "run", f"{task.run} runs on {ssh.name_of(connection)}, whether or not anybody looks")
        return finish(connection, task.run, order.output or PACKAGES, mark, replace=order.restart)

    side_by_side(machines, tasks, begin, [task.run for task in tasks])


def tasks_of(order: Order, machines: int) -> list[Task]:
    """A task for each machine; ConfigError for what is wrong with one, before anything is sent."""
    variants = paired(order.variant, "variant", machines)
    known = net_config.variants()
    if unknown := [variant for variant in variants if variant not in known]:
        raise ConfigError(f"There is no variant {unknown[0]!r}. Known: {', '.join(known)}.")
    moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    runs = paired(order.run or ",".join(f"{variant}-{moment}" for variant in variants), "run", machines)
    if len(set(runs)) < machines:
        raise ConfigError(f"Two runs would be called the same. Name them: --run=NAME{',NAME' * (machines - 1)}.")
    data = {f"--{option.replace('_', '-')}": place for option, place in order.data.items() if place}
    for option, place in data.items():
        check_place(option, place)
    output = order.output or PACKAGES
    given = [f"{option}={place}" for option, place in data.items()] + ["--restart"] * order.restart
    given.append(f"--output={output if storage.is_remote(output) else PACKAGES}")
    environment = {
        name: text for name, text in containers.passed(os.environ).items() if name not in ("COLUMNS", "TERM")
    }
    environment |= {"FLATFAB_GPU": "1"} if order.gpu else {}
    return [
        Task(run, [f"--variant={variant}", f"--run={run}", *given], output, order.gpu, list(data.values()), environment)
        for variant, run in zip(variants, runs, strict=True)
    ]


def check_place(option: str, place: str) -> None:
    """ConfigError unless a dataset can be found from another machine."""
    path = PurePosixPath(place)
    if storage.is_remote(place) or (path.is_absolute() and ".." not in path.parts and place.isprintable()):
        return
    raise ConfigError(
        f"{option}={shown(place)}: of another machine, rows are named by gs:// or by a whole path there, "
        "such as /data/rows."
    )


def finish(connection: Connection, run: str, output: str, mark: str, *, replace: bool) -> int:
    """Follow a run to its end and fetch its package; returns its exit code."""
    code = detached.follow(connection, run, mark)
    if code == 0:
        again(connection, lambda there: fetch(there, run, output, mark, replace=replace))
    return code


def fetch(there: Machine, run: str, output: str, mark: str, *, replace: bool) -> None:
    container = detached.find(there, run)
    if container and not storage.is_remote(container.labels[detached.OUTPUT]):
        tell(mark, "package", f"{detached.fetch(there, run, output, replace=replace)}, verified")


def state_of(there: Machine, run: str, connection: Connection) -> str:
    """A run in a line; StorageError where there is none."""
    container = detached.find(there, run)
    if container is None:
        raise StorageError(f"{ssh.name_of(connection)} has no run {run}. {hint(connection, 'status')} lists them.")
    return detached.state(container)


def side_by_side(
    machines: list[Connection], things: Sequence[T], work: Callable[[Connection, T, str], int], runs: Sequence[str] = ()
) -> None:
    """Do the work of each machine at the same time as the others', and leave with the first exit code that is not 0. An
    order to stop ends this process alone, and says how to come back to the runs."""
    codes = [0] * len(machines)

    def one(number: int) -> None:
        mark = f"[{ssh.name_of(machines[number])}] " if len(machines) > 1 else ""
        try:
            codes[number] = work(machines[number], things[number], mark)
        except TrainerError as error:
            print(f"{mark}error: {error}", file=sys.stderr, flush=True)
            codes[number] = error.exit_code
        except Exception:
            traceback.print_exc()
            codes[number] = TrainerError.exit_code

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(machines))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=0.2)  # an order to stop is heard between two of these
    except Interrupted as error:
        what = "What runs there goes on."
        if runs:
            fab = f"`fab -H {','.join(map(ssh.name_of, machines))}"
            what = f"What runs there goes on: {fab} attach --run={','.join(runs)}` shows it, {fab} stop ...` ends it."
        raise Interrupted(f"{str(error).partition(';')[0]}. {what}") from None
    if code := next(filter(None, codes), 0):
        exit_process(code)


def hint(connection: Connection, task: str, run: str = "") -> str:
    """A command of this script for that machine."""
    return f"`fab -H {ssh.name_of(connection)} {task}{f' --run={run}' if run else ''}`"


def tell(mark: str, what: str, text: str) -> None:
    """One line for people about a machine."""
    say(f"{mark}{what}", text)
