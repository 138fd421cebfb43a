"""Train in a container of the image of this code: `python -m trainer.machines.containers train --variant=...`.

The container has the same working folder as this process, so paths mean the same inside and outside. It sees only
`runs`, `cache` and the output folder, which it writes, and the rows, which it reads. The container is removed however
this command ends.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import Mount

from trainer.cloud import storage
from trainer.data import sources
from trainer.machines import container_options, images
from trainer.machines.container_options import ALL_GPUS, CREDENTIALS, LABEL, STOP_SECONDS
from trainer.package.publish import RUNS
from trainer.runtime import cache, signals, system
from trainer.runtime.command import argument_parser, exit_process, run_command
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError

KILLED = 128 + signal.SIGKILL
REMOVE_TRIES = 10  # a second apart
PIECE = 65536  # bytes that a shell copies at a time
TRAIN, CHECK_GPU = ("python", "-m", "trainer"), ("python", "-m", "trainer.machines.gpu")


class Job(NamedTuple):
    """A command to run in a container, and the parts of this machine that it sees."""

    command: Sequence[str]
    gpu: bool = False
    read: Sequence[Path] = ()  # files and folders
    written: Sequence[Path] = ()  # folders
    mounts: Sequence[Mount] = ()  # further ones
    environment: Mapping[str, str] = {}  # beside the settings


def training_job(arguments: Sequence[str], data: Iterable[str], output: str, *, gpu: bool) -> Job:
    """A training job. StorageError for missing rows or an unwritable folder, before an image is built.

    arguments: of the trainer; data, output: the paths or URIs among them.
    """
    data = list(data)
    written = [RUNS, cache.FOLDER, *([] if storage.is_remote(output) else [Path(output)])]
    for folder in written:
        system.check_writable(folder)
    read = [path for uri in data if not storage.is_remote(uri) for path in dataset_paths(uri)]
    uris = [*data, output]
    credentials = credentials_file() if any(map(storage.is_remote, uris)) else ""
    mounts, variables = container_options.google_credentials(credentials, uris)
    return Job((*TRAIN, *arguments), gpu, read, [folder.absolute() for folder in written], mounts, variables)


def dataset_paths(dataset: str) -> list[Path]:
    """The files and folders of a local dataset: its shards, its schema.json and its dataset.json."""
    source = sources.look_up_here(dataset)
    shards = [Path(stored.uri).absolute() for stored in source.shards]
    paths = [shards[0]] if source.shards[0].uri == dataset else sorted({shard.parent for shard in shards})
    descriptions = [Path(stored.uri).absolute() for stored in source.descriptions]
    return [*paths, *(path for path in descriptions if path.parent not in paths)]


def credentials_file() -> str:
    """The file that Google's clients would use on this machine; "" without one. ConfigError if it is missing."""
    if configured := os.environ.get(CREDENTIALS):
        path = Path(configured).absolute()
        if not path.is_file():
            raise ConfigError(f"{CREDENTIALS}={configured}: there is no such file.")
        return str(path)
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    path = Path(folder).absolute() / "application_default_credentials.json"
    return str(path) if path.is_file() else ""


@contextlib.contextmanager
def created(client: docker.DockerClient, image: str, job: Job, **options: Any) -> Iterator[Container]:
    """Create a container for a job, and remove it after the block, even if this process is killed inside it.

    options: further options of the container. The caller starts it.
    """
    mounts = [*job.mounts]
    mounts += [Mount(str(path), str(path), type="bind", read_only=True) for path in dict.fromkeys(job.read)]
    mounts += [Mount(str(folder), str(folder), type="bind") for folder in job.written]
    name = f"{LABEL}-{uuid.uuid4().hex[:12]}"
    guard = subprocess.Popen(
        [sys.executable, "-m", "trainer.machines.containers", "guard", name],
        env=os.environ | {"PYTHONPATH": str(images.ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield client.containers.create(
            image, entrypoint=list(job.command[:1]), command=list(job.command[1:]), name=name, labels={LABEL: "1"},
            environment={**container_options.environment(), **job.environment, "FLATFAB_IMAGE": image}, mounts=mounts,
            working_dir=str(Path.cwd()), network_mode=container_options.network(os.environ),
            device_requests=ALL_GPUS if job.gpu else None, **options,
            **container_options.limits(client, f"{os.getuid()}:{os.getgid()}"),
        )  # fmt: skip
    finally:
        with signals.deferred_stop():
            remove(client, name)
        guard.kill()
        guard.wait()


def remove(client: docker.DockerClient, name: str) -> None:
    """Kill a container and remove it with its volumes; do nothing if it does not exist."""
    with contextlib.suppress(NotFound):
        client.api.remove_container(name, v=True, force=True)


def guard(name: str) -> None:
    """Wait until the process at the other end of stdin has ended, in any way; then stop and remove its container."""
    for number in signals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    client = images.engine()
    for _ in range(REMOVE_TRIES):  # the engine may still be creating it
        with contextlib.suppress(NotFound):
            client.api.stop(name, timeout=STOP_SECONDS)
            remove(client, name)
            return
        time.sleep(1)


def run(client: docker.DockerClient, image: str, job: Job) -> int:
    """Run a job to its end and print its output as it comes; returns its exit code.

    The first stop signal is passed on and gives the job `STOP_SECONDS`; the second kills it. ResourceError if the
    container runs out of memory.
    """
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    ended = threading.Event()
    with (
        images.engine_errors("Running a container"),
        created(client, image, job, tty=terminal) as container,
        signals.deferred_stop() as stop_request,
    ):
        output = container.attach(stream=True, logs=True, demux=not terminal)
        container.start()
        if terminal:
            resize(container)
        threading.Thread(target=pass_on_stop, args=(container, stop_request, ended), daemon=True).start()
        try:
            print_output(output, terminal=terminal)
            code = int(container.wait()["StatusCode"])
        finally:
            ended.set()
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            raise ResourceError("Out of memory: the engine killed the container. Use fewer rows, or more memory.")
        if code == KILLED and stop_request.signal:
            raise Interrupted(f"Stopped by {stop_request.by}, and killed after {STOP_SECONDS} s. Start it again.")
        return code


def pass_on_stop(container: Container, stop_request: signals.StopRequest, ended: threading.Event) -> None:
    """Wait for a stop signal of this process, and stop the container."""
    while not ended.wait(0.1):
        if stop_request.signal:
            with contextlib.suppress(DockerException):
                container.stop(timeout=STOP_SECONDS)
            return


def print_output(output: Iterable[Any], *, terminal: bool) -> None:
    """Print what a container writes, its stdout to ours and its stderr to ours; a terminal has only one stream."""
    for piece in output:
        for stream, data in zip((sys.stdout, sys.stderr), (piece, None) if terminal else piece, strict=True):
            if data:
                stream.buffer.write(data)
                stream.flush()


def resize(container: Container) -> None:
    """Give the terminal of a container the size of this one."""
    columns, lines = shutil.get_terminal_size()
    container.resize(height=lines, width=columns)


def shell(client: docker.DockerClient, image: str, job: Job) -> int:
    """Run an interactive job on this terminal; returns its exit code. ConfigError without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("A shell needs a terminal.")
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    with images.engine_errors("Running a shell"), created(client, image, job, tty=True, stdin_open=True) as container:
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 1}
        connection = container.attach_socket(params=streams)._sock
        container.start()
        mode_before = termios.tcgetattr(keyboard)
        try:
            resize(container)
            tty.setraw(keyboard)
            while True:
                ready, _, _ = select.select([keyboard, connection], [], [])
                if connection in ready:
                    if not (data := connection.recv(PIECE)):
                        break
                    os.write(screen, data)
                if keyboard in ready:
                    connection.sendall(os.read(keyboard, PIECE))
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, mode_before)
        return int(container.wait()["StatusCode"])


def check_gpu_runtime(client: docker.DockerClient) -> None:
    """ResourceError if the engine has no GPU runtime.

    A container of an empty image shows this before the real image, of many GB, is built: the engine looks for the
    runtime first, and only then for the command, which does not exist.
    """
    with images.engine_errors("Looking for a GPU"):
        response = client.api.import_image_from_data(bytes(1024), changes=['CMD ["nothing"]'])  # an empty tar archive
        image = json.loads(response)["status"]
        config = client.api.create_host_config(device_requests=ALL_GPUS)
        container = client.api.create_container(image, host_config=config)["Id"]
        try:
            client.api.start(container)
        except APIError as error:
            if "device driver" in str(error.explanation):
                raise
        finally:
            remove(client, container)
            client.api.remove_image(image)


def main(argv: list[str] | None = None) -> None:
    """Train, check GPUs, or open a shell in a container of the image of this code.

    `train` passes all other options on to the trainer.
    """
    parser = argument_parser("trainer.machines.containers", main)
    parser.add_argument("action", choices=("train", "gpu-check", "shell", "guard"))
    parser.add_argument("--gpu", action="store_true", help="use the GPU image and all GPUs of this machine")
    for name in ("--data", "--test-data", "--validation-data"):
        parser.add_argument(name)
    parser.add_argument("--output", default="packages")
    arguments, other_options = parser.parse_known_args(argv)
    if arguments.action == "guard":
        guard(*other_options)
        return

    paths = {name: path for name, path in vars(arguments).items() if name.endswith(("data", "output")) and path}
    gpu = arguments.gpu or arguments.action == "gpu-check"
    options = [f"--{name.replace('_', '-')}={path}" for name, path in paths.items()]
    output = paths.pop("output")
    command = [*options, *other_options] if arguments.action == "train" else []
    job = training_job(command, paths.values(), output, gpu=gpu)
    client = images.engine()
    if gpu:
        check_gpu_runtime(client)
    image = images.build(client, gpu=gpu)
    if arguments.action == "shell":
        code = shell(client, image, job._replace(command=("bash",)))
    else:
        code = run(client, image, job._replace(command=CHECK_GPU) if arguments.action == "gpu-check" else job)
    if code:
        exit_process(code)


if __name__ == "__main__":
    run_command(main)
