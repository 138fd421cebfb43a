"""Run a training in a container of another machine that needs no connection: start, follow, stop it, fetch its package.

The run writes to ~/flatfab on that machine. Its container stays after its end, with its log and exit code. If the
connection is lost while we follow the log, we reconnect; the container does not notice.
"""

import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount
from fabric import Connection

from trainer.cloud import storage
from trainer.data.selection import GLOB
from trainer.machines import container_options, images
from trainer.machines.remote_docker import ConnectionLostError, Machine, connected, reconnect
from trainer.package import archive
from trainer.runtime import system
from trainer.runtime.command import printable
from trainer.runtime.errors import ResourceError, StorageError

FOLDER = "/work"  # in the container: ~/flatfab of the machine
RUN, HOME, OUTPUT = "flatfab.run", "flatfab.folder", "flatfab.output"  # labels of a container
LOGS = LogConfig(type="json-file", config={"max-size": "50m", "max-file": "2"})
PIECE = 2**20  # bytes of a package that are copied at a time


class RemoteRun(NamedTuple):
    """A training on another machine."""

    name: str
    arguments: Sequence[str]  # of the trainer
    output: str  # of its package: gs://, or a folder of this machine
    gpu: bool
    data: Sequence[str]  # gs://, or a path on that machine
    environment: Mapping[str, str]


def find(machine: Machine, run: str) -> Container | None:
    """The container of a run, or None. StorageError if the run belongs to another user of that machine."""
    with images.engine_errors(f"Looking for {run}"):
        try:
            container = machine.client.containers.get(container_name(run))
        except NotFound:
            return None
    if container.labels.get(HOME) != machine.folder:
        raise StorageError(f"Another user of that machine has a run {run}. Choose another name.")
    return container


def existing(machine: Machine, run: str) -> Container:
    """The container of a run. StorageError if there is none."""
    if (container := find(machine, run)) is None:
        raise StorageError(f"{machine.name} has no run {run}. `fab -H {machine.name} status` lists its runs.")
    return container


def container_name(run: str) -> str:
    """The name of the container of a run."""
    return f"flatfab-{run}"


def is_alive(container: Container) -> bool:
    """Whether a container runs or is paused. One that was created but never started has done nothing."""
    return container.status in ("running", "paused", "restarting")


def start(machine: Machine, run: RemoteRun, image: str) -> Container:
    """Start a run; if another process has just started it, return that container. A machine has one per run name."""
    with images.engine_errors(f"Starting {run.name}"):
        old = find(machine, run.name)
        if old and is_alive(old):
            return old
        if old:
            old.remove(v=True)
        try:
            container = create(machine, run, image)
        except APIError as error:
            started_meanwhile = find(machine, run.name) if error.status_code == 409 else None
            if started_meanwhile:
                return started_meanwhile
            raise
        try:
            container.start()
        except APIError:
            container.remove(v=True)
            raise
    return container


def create(machine: Machine, run: RemoteRun, image: str) -> Container:
    """Create the container of a run, with the same limits as a container on this machine."""
    local = {dataset_folder(path) for path in run.data if not storage.is_remote(path)}
    mounts, variables = container_options.google_credentials(machine.credentials, (*run.data, run.output))
    mounts.append(Mount(FOLDER, machine.folder, type="bind"))
    mounts += [Mount(path, path, type="bind", read_only=True) for path in sorted(local)]
    return machine.client.containers.create(
        image, entrypoint=["python"], command=["-m", "trainer", *run.arguments], name=container_name(run.name),
        environment={**run.environment, **variables, "FLATFAB_IMAGE": image}, mounts=mounts, working_dir=FOLDER,
        log_config=LOGS, device_requests=container_options.ALL_GPUS if run.gpu else None,
        network_mode=container_options.network(run.environment),
        labels={container_options.LABEL: "1", RUN: run.name, HOME: machine.folder, OUTPUT: run.output},
        **container_options.limits(machine.client, machine.user),
    )  # fmt: skip


def dataset_folder(path: str) -> str:
    """The folder to mount for a dataset: the one above it, which may hold its schema.json.

    The path itself if the folder above is / or directly below it: a container must not see a whole disk.
    """
    parts = PurePosixPath(path).parts
    fixed = next((number for number, part in enumerate(parts) if GLOB.search(part)), len(parts))
    before_glob = PurePosixPath(*parts[:fixed])
    above = before_glob if fixed < len(parts) else before_glob.parent
    return str(above if len(above.parts) > 2 else before_glob)


def follow(connection: Connection, run: str, prefix: str) -> int:
    """Print the log of a run from its start, as it comes, each line after `prefix`; returns the run's exit code.

    If the connection is lost, reconnect and go on after the last line. ConnectionLostError if that fails.
    """
    last_time = ""
    while True:
        try:
            with connected(connection) as machine, images.engine_errors(f"Following {run}"):
                container = existing(machine, run)
                for time, line in log_lines(container, last_time):
                    print(f"{prefix}{line}", end="", flush=True)
                    last_time = time
                code = int(container.wait()["StatusCode"])
                container.reload()
                if container.attrs["State"].get("OOMKilled"):
                    raise ResourceError(f"{run} ran out of memory and was killed. Use fewer rows, or another machine.")
                return code
        except ConnectionLostError as error:
            print(printable(f"{prefix}{error} {run} continues there; connecting again."), flush=True)
            reconnect(connection, error)


def log_lines(container: Container, after: str) -> Iterator[tuple[str, str]]:
    """(time, text) of each line that a container has printed after a time, and prints until it ends.

    The times are Docker's, such as 2026-11-01T12:00:00.123456789Z, and sort as text.
    """
    since = {"since": int(datetime.fromisoformat(after).timestamp())} if after else {}  # the engine counts in seconds
    for piece in container.logs(stream=True, follow=True, timestamps=True, **since):
        time, _, text = piece.decode(errors="replace").partition(" ")
        if time > after:
            yield time, text


def state(container: Container) -> str:
    """A run in one line: its state, since when, and the last line of its log."""
    facts = container.attrs["State"]
    started, ended = str(facts["StartedAt"])[:19], str(facts["FinishedAt"])[:19]
    if container.status == "created":
        description = "never started"
    elif is_alive(container):
        description = f"running since {started}"
    else:
        description = f"ended at {ended} with exit code {facts['ExitCode']}"
    last = container.logs(tail=1).decode(errors="replace").strip()
    return f"{container.labels[RUN]}: {description}" + f"; last: {last}" * bool(last)


def states(machine: Machine) -> list[str]:
    """The runs of this user on a machine, one line each."""
    with images.engine_errors("Listing the runs"):
        containers = machine.client.containers.list(all=True, filters={"label": f"{HOME}={machine.folder}"})
        return [state(container) for container in containers]


def stop(machine: Machine, run: str, *, remove: bool) -> None:
    """Stop a run: it has `STOP_SECONDS` to write a checkpoint. With `remove`, remove its container and log, too.

    Its files stay. StorageError if there is no such run.
    """
    container = existing(machine, run)
    with images.engine_errors(f"Stopping {run}"):
        container.stop(timeout=container_options.STOP_SECONDS)
        if remove:
            container.remove(v=True)


def fetch(machine: Machine, run: str, output: str, *, replace: bool) -> str:
    """Copy the package of a finished run to a folder of this machine and verify it; returns its path.

    StorageError if there is no such run, or if another package of this name exists and `replace` is False.
    """
    target, container = storage.join(output, f"{run}.zip"), existing(machine, run)
    with tempfile.TemporaryDirectory() as folder, images.engine_errors(f"Fetching {run}.zip"):
        packed, package = Path(folder) / "package.tar", Path(folder) / f"{run}.zip"
        pieces, _ = container.get_archive(f"{FOLDER}/packages/{run}.zip")  # as a tar archive of one file
        system.write_pieces(packed, pieces)
        with tarfile.open(packed) as tar:
            for member in tar:
                if source := tar.extractfile(member):
                    system.write_pieces(package, iter(partial(source.read, PIECE), b""))
        archive.check_package(package)
        storage.put(package, target, replace=replace)
    return target
