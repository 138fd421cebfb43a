"""A run in a container of another machine, which no connection holds: begin it, follow it, stop it, fetch its package.

What the run writes lies in ~/flatfab there, and its container stays after its end, with its log and its exit code. A
connection that is lost while it is followed is made anew; the container does not notice.
"""

import calendar
import io
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from docker.errors import APIError, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, LogConfig, Mount
from fabric import Connection

from trainer.cloud import storage
from trainer.machines import containers, images, ssh
from trainer.machines.remote_docker import ConnectionLostError, Machine, connect_again, machine
from trainer.package import archive
from trainer.runtime import system
from trainer.runtime.errors import ResourceError, StorageError

FOLDER = "/work"  # in the container: ~/flatfab of the machine
RUN, HOME, OUTPUT = "flatfab.run", "flatfab.folder", "flatfab.output"  # labels of a container
LOGS = LogConfig(type="json-file", config={"max-size": "50m", "max-file": "2"})
PIECE = 2**20  # bytes of a package at a time
GLOB = re.compile(r"[*?\[]")


class Task(NamedTuple):
    """A training on another machine."""

    run: str  # its name
    arguments: Sequence[str]  # of the trainer
    output: str  # where its package goes to: gs://, or a folder of this machine
    gpu: bool
    data: Sequence[str]  # gs://, or a path of the machine
    environment: Mapping[str, str]


def find(there: Machine, run: str) -> Container | None:
    """The container of a run; StorageError where another user of that machine has one of this name."""
    with images.answering(f"Looking for {run}"):
        try:
            container = there.client.containers.get(container_name(run))
        except NotFound:
            return None
    if container.labels.get(HOME) != there.folder:
        raise StorageError(f"There is a run {run} of another user on that machine. Choose another name.")
    return container


def container_name(run: str) -> str:
    return f"flatfab-{run}"


def is_alive(container: Container) -> bool:
    """Whether it runs, or is paused: one that was created and never started has done nothing."""
    return container.status in ("running", "paused", "restarting")


def build(there: Machine, context: bytes, *, gpu: bool, arguments: Mapping[str, str], mark: str) -> str:
    """Build the image from an archive of the code, showing what the engine says, each line after `mark`; returns its
    digest."""
    tag, file = (images.GPU_TAG, "Dockerfile.gpu") if gpu else (images.CPU_TAG, "Dockerfile")
    return build_from(there, context, file, tag, arguments, mark)


def build_from(there: Machine, context: bytes, file: str, tag: str, arguments: Mapping[str, str], mark: str) -> str:
    """The same with any Dockerfile of an archive."""
    doing = f"Building {tag} from {file}"
    with images.answering(doing):
        answers = there.client.api.build(
            fileobj=io.BytesIO(context), custom_context=True, dockerfile=file, tag=tag, buildargs=dict(arguments),
            network_mode=os.environ.get(images.NETWORK), rm=True, forcerm=True, decode=True,
        )  # fmt: skip
        told = images.show((marked(answer, mark) for answer in answers), doing)
    return str(told["ID"])  # its name may be another image's by now


def marked(answer: dict[str, Any], mark: str) -> dict[str, Any]:
    """What an engine says while it builds, so that one sees which engine says it."""
    return answer | {"stream": f"{mark}{answer['stream']}"} if answer.get("stream", "").strip() else answer


def begin(there: Machine, task: Task, image: str) -> Container:
    """Start the run, unless somebody else has just started it: one machine has one container of a name."""
    doing = f"Starting {task.run}"
    with images.answering(doing):
        old = find(there, task.run)
        if old and is_alive(old):
            return old
        if old:
            old.remove(v=True)
        try:
            container = create(there, task, image)
        except APIError as error:
            taken = find(there, task.run) if error.status_code == 409 else None
            if taken:
                return taken
            raise
        try:
            container.start()
        except APIError:
            container.remove(v=True)
            raise
    return container


def create(there: Machine, task: Task, image: str) -> Container:
    """The container of a run, with the same limits as one of this machine."""
    mounts = [Mount(FOLDER, there.folder, type="bind")]
    local = {mounted(path) for path in task.data if not storage.is_remote(path)}
    mounts += [Mount(path, path, type="bind", read_only=True) for path in sorted(local)]
    environment = {**task.environment, "FLATFAB_IMAGE": image}
    if there.credentials and any(storage.is_remote(uri) for uri in (*task.data, task.output)):
        mounts.append(Mount(containers.INSIDE, there.credentials, type="bind", read_only=True))
        environment[containers.CREDENTIALS] = containers.INSIDE
    return there.client.containers.create(
        image, entrypoint=["python"], command=["-m", "trainer", *task.arguments], name=container_name(task.run),
        environment=environment, mounts=mounts, working_dir=FOLDER, log_config=LOGS,
        device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if task.gpu else None,
        network_mode=containers.network(environment),
        labels={containers.LABEL: "1", RUN: task.run, HOME: there.folder, OUTPUT: task.output}, **limits(there),
    )  # fmt: skip


def limits(there: Machine) -> dict[str, Any]:
    """Who a container runs as there, and what it may not: its files belong to the user of the connection."""
    found = containers.limits(there.client)
    rootless = any("rootless" in option for option in there.client.info().get("SecurityOptions") or ())
    return found if rootless else found | {"user": there.user}


def mounted(path: str) -> str:
    """What of that machine the container sees for a dataset: the folder above it, where its schema.json may lie, unless
    that is / or one right below it."""
    parts = PurePosixPath(path).parts
    fixed = next((number for number, part in enumerate(parts) if GLOB.search(part)), len(parts))
    given = PurePosixPath(*parts[:fixed])
    above = given if fixed < len(parts) else given.parent
    return str(above if len(above.parts) > 2 else given)


def follow(connection: Connection, run: str, mark: str) -> int:
    """Show the log of a run from its begin, as it comes, each line after `mark`; returns its exit code. A connection
    that is lost is made anew, and the log goes on where it was; ConnectionLostError where that does not succeed."""
    shown = ""
    while True:
        try:
            with machine(connection) as there, images.answering(f"Following {run}"):
                container = find(there, run)
                if container is None:
                    raise StorageError(f"{ssh.name_of(connection)} has no run {run}. `fab -H ... status` lists them.")
                for moment, line in lines(container, shown):
                    print(f"{mark}{line}", end="", flush=True)
                    shown = moment
                code = int(container.wait()["StatusCode"])
                container.reload()
                if container.attrs["State"].get("OOMKilled"):
                    raise ResourceError(f"{run} was ended: out of memory. Use fewer rows, or another machine.")
                return code
        except ConnectionLostError as error:
            print(f"{mark}{error} {run} goes on there; connecting again.", flush=True)
            connect_again(connection, error)


def lines(container: Container, after: str) -> Iterator[tuple[str, str]]:
    """(moment, text) of each line that a container has printed later than a moment, and prints until it ends."""
    since = {"since": calendar_seconds(after)} if after else {}
    for piece in container.logs(stream=True, follow=True, timestamps=True, **since):
        moment, _, text = piece.decode(errors="replace").partition(" ")
        if moment > after:
            yield moment, text


def calendar_seconds(moment: str) -> int:
    """The whole second of a moment as Docker writes it, 2026-11-01T12:00:00.123456789Z, since 1970."""
    return calendar.timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))


def state(container: Container) -> str:
    """A run in a line: what it is doing, since when, and the last that it printed."""
    facts = container.attrs["State"]
    begun, ended = str(facts["StartedAt"])[:19], str(facts["FinishedAt"])[:19]
    did = f"running since {begun}" if is_alive(container) else f"ended at {ended} with exit code {facts['ExitCode']}"
    if container.status == "created":
        did = "never started"
    last = container.logs(tail=1).decode(errors="replace").strip()
    return f"{container.labels[RUN]}: {did}" + f"; last: {last}" * bool(last)


def states(there: Machine) -> list[str]:
    """The runs of this user, in a line each."""
    with images.answering("Listing the runs"):
        found = there.client.containers.list(all=True, filters={"label": f"{HOME}={there.folder}"})
        return [state(container) for container in found]


def stop(there: Machine, run: str, *, remove: bool) -> None:
    """Give a run half a minute to end in order; `remove`: its container goes, and with it its log. What it has written
    stays. StorageError where there is none."""
    container = find(there, run)
    if container is None:
        raise StorageError(f"There is no run {run} on that machine.")
    with images.answering(f"Stopping {run}"):
        container.stop(timeout=containers.GRACE)
        if remove:
            container.remove(v=True)


def fetch(there: Machine, run: str, output: str, *, replace: bool) -> str:
    """Bring the package of a finished run here, verified, to a folder of this machine; returns its path. StorageError
    where another package of this name is there."""
    target = storage.join(output, f"{run}.zip")
    container = find(there, run)
    if container is None:
        raise StorageError(f"There is no run {run} on that machine any more.")
    with tempfile.TemporaryDirectory() as folder, images.answering(f"Fetching {run}.zip"):
        path = Path(folder) / f"{run}.zip"
        pieces, _ = container.get_archive(f"{FOLDER}/packages/{run}.zip")
        with tarfile.open(fileobj=Pieces(pieces), mode="r|") as tar:  # type: ignore[call-overload]
            for member in tar:
                if source := tar.extractfile(member):
                    system.write_pieces(path, iter(partial(source.read, PIECE), b""))
        archive.read_package(path)
        storage.put(path, target, replace=replace)
    return target


class Pieces:
    """An iterator of bytes as a file that tarfile reads from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest = pieces, b""

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end."""
        while len(self.rest) < size and (piece := next(self.pieces, b"")):
            self.rest += piece
        found, self.rest = self.rest[:size], self.rest[size:]
        return found
