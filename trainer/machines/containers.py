"""Training in a container of the image of this code: `python -m trainer.machines.containers train --variant=...`.

Paths mean the same inside as outside: the working folder has the same name, but nothing of this machine is there except
`runs`, `cache` and the output, to be written, and the rows, to be read. However this command ends, it leaves no
container behind.
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
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount

from trainer.cloud import storage
from trainer.config.net_config import ENV_PREFIX
from trainer.data import sources
from trainer.machines import images
from trainer.package.publish import RUNS
from trainer.runtime import cache, system
from trainer.runtime.command import argument_parser, exit_process, run_command
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError

GRACE = 30  # seconds between the order to stop and the end by force
SHARE_OF_MEMORY = 0.9  # of the machine's, that a container may take
MOST_PROCESSES = 4096  # and threads
KILLED = 128 + signal.SIGKILL
TRIES = 10
PIECE = 65536  # bytes passed on at a time
LABEL = "flatfab"  # of every container that is started here
PASSED = ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "FLATFAB_GPU", "TERM")  # beside the settings
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
INSIDE = "/run/secrets/google.json"  # the credentials, in the container
GPUS = [DeviceRequest(count=-1, capabilities=[["gpu"]])]  # all of the machine's
TRAINING, CHECK = ("python", "-m", "trainer"), ("python", "-m", "trainer.machines.gpu")


class Job(NamedTuple):
    """What is to run in a container, and what of this machine it sees."""

    command: Sequence[str]
    gpu: bool = False
    read: Mapping[str, str] = {}  # path in the container -> path here
    written: Sequence[Path] = ()  # folders
    environment: Mapping[str, str] = {}


def training(arguments: Sequence[str], data: Iterable[str], output: str, *, gpu: bool) -> Job:
    """A training of the given datasets; what is missing is refused here, before anything is built."""
    data = list(data)
    remote = [uri for uri in (*data, output) if storage.is_remote(uri)]
    written = [RUNS, cache.FOLDER, *([] if storage.is_remote(output) else [Path(output)])]
    for folder in written:
        system.check_writable(folder)
    read = {str(path): str(path) for one in data if not storage.is_remote(one) for path in places(one)}
    environment = passed(os.environ)
    if remote and (credentials := google_credentials()):
        read[INSIDE], environment[CREDENTIALS] = str(credentials), INSIDE
    return Job((*TRAINING, *arguments), gpu, read, [folder.absolute() for folder in written], environment)


def places(given: str) -> list[Path]:
    """The folders and files that a dataset is made of: its shards, and what describes them beside or above."""
    source = sources.look_up_here(given)
    shards = [Path(stored.uri).absolute() for stored in source.shards]
    found = [shards[0]] if source.shards[0].uri == given else sorted({shard.parent for shard in shards})
    descriptions = [Path(stored.uri).absolute() for stored in source.descriptions]
    return [*found, *(path for path in descriptions if path.parent not in found)]


def passed(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container is given: settings, and where the cloud is."""
    given = {name: value for name, value in environ.items() if name.startswith(ENV_PREFIX) or name in PASSED}
    return given | {"COLUMNS": str(shutil.get_terminal_size().columns)}


def google_credentials() -> Path | None:
    """The file that Google's clients would take here; None where there is none, as on Google's own machines."""
    if named := os.environ.get(CREDENTIALS):
        path = Path(named).absolute()
        if not path.is_file():
            raise ConfigError(f"{CREDENTIALS}={named}: there is no such file.")
        return path
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    path = Path(folder).absolute() / "application_default_credentials.json"
    return path if path.is_file() else None


def network(environ: Mapping[str, str]) -> str | None:
    """The network of a container: this machine's own, where the cloud that it is to use is on this machine."""
    host = urlsplit(environ.get("STORAGE_EMULATOR_HOST", "")).hostname or ""
    with contextlib.suppress(ValueError):
        if ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
            return "host"
    return environ.get(images.NETWORK)


def limits(client: docker.DockerClient) -> dict[str, Any]:
    """Who a container runs as, and what it may not. Its files belong to who calls; the users of an engine without root
    rights are others than those here, and its root is who calls."""
    told = client.info()
    rootless = any("rootless" in option for option in told.get("SecurityOptions") or ())
    memory = int(told.get("MemTotal", 0) * SHARE_OF_MEMORY) if told.get("MemoryLimit") else None
    return {
        "user": "0:0" if rootless else f"{os.getuid()}:{os.getgid()}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - of the container
        "pids_limit": MOST_PROCESSES,
        "mem_limit": memory,
        "shm_size": "1g",  # through which several GPUs exchange gradients
    }


@contextlib.contextmanager
def created(client: docker.DockerClient, image: str, job: Job, **options: Any) -> Iterator[Container]:
    """A container for a job, not yet started, that is gone after the block: also if this process is killed in it.

    options: further ones of the container.
    """
    mounts = [Mount(target, path, type="bind", read_only=True) for target, path in job.read.items()]
    mounts += [Mount(str(folder), str(folder), type="bind") for folder in job.written]
    name = f"{LABEL}-{uuid.uuid4().hex[:12]}"
    guard = subprocess.Popen(
        [sys.executable, "-m", "trainer.machines.containers", "guard", name],
        env=os.environ | {"PYTHONPATH": str(images.ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        container = client.containers.create(
            image, entrypoint=list(job.command[:1]), command=list(job.command[1:]), name=name, labels={LABEL: "1"},
            environment={**job.environment, "FLATFAB_IMAGE": image}, mounts=mounts, working_dir=str(Path.cwd()),
            network_mode=network(os.environ), device_requests=GPUS if job.gpu else None, **options, **limits(client),
        )  # fmt: skip
        yield container
    finally:
        with system.deferred_stop():
            remove(client, name)
        guard.kill()
        guard.wait()


def remove(client: docker.DockerClient, name: str) -> None:
    """End a container, if it is there, and remove all that is its own."""
    with contextlib.suppress(NotFound):
        client.api.remove_container(name, v=True, force=True)


def guard(name: str) -> None:
    """Wait until the process that holds the other end of stdin has ended, however it did; then end its container."""
    for number in system.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    client = images.engine()
    for _ in range(TRIES):  # it may be just being made
        with contextlib.suppress(NotFound):
            client.api.stop(name, timeout=GRACE)
            remove(client, name)
            return
        time.sleep(1)


def run(client: docker.DockerClient, image: str, job: Job) -> int:
    """Run a job to its end, showing what it prints as it comes; returns its exit code. The first order to stop is
    passed on and gives it half a minute, the second one ends it at once."""
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    over = threading.Event()
    with (
        images.answering("Running a container"),
        created(client, image, job, tty=terminal) as container,
        system.deferred_stop() as stop_request,
    ):
        shown = container.attach(stream=True, logs=True, demux=not terminal)
        container.start()
        if terminal:
            resize(container)
        threading.Thread(target=stop_at, args=(container, stop_request, over), daemon=True).start()
        try:
            show(shown, terminal=terminal)
            code = int(container.wait()["StatusCode"])
        finally:
            over.set()
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            raise ResourceError("Out of memory: the engine ended the container. Use fewer rows, or more memory.")
        if code == KILLED and stop_request.signal:
            raise Interrupted(
                f"Stopped by {stop_request.signal}, and ended by force after {GRACE} seconds. Start it again."
            )
        return code


def stop_at(container: Container, stop_request: system.StopRequest, over: threading.Event) -> None:
    """Stop a container when there is an order to."""
    while not over.wait(0.1):
        if stop_request.signal:
            with contextlib.suppress(DockerException):
                container.stop(timeout=GRACE)
            return


def show(shown: Iterable[Any], *, terminal: bool) -> None:
    """Pass on what a container prints, each of its two streams to the one of the same name here."""
    for piece in shown:
        for stream, data in zip((sys.stdout, sys.stderr), (piece, None) if terminal else piece, strict=True):
            if data:
                stream.buffer.write(data)
                stream.flush()


def resize(container: Container) -> None:
    """Give a container's terminal the size of this one."""
    columns, lines = shutil.get_terminal_size()
    container.resize(height=lines, width=columns)


def shell(client: docker.DockerClient, image: str, job: Job) -> int:
    """A job that this terminal is lent to, such as a shell; returns its exit code."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("A shell needs a terminal.")
    keys, screen = sys.stdin.fileno(), sys.stdout.fileno()
    with images.answering("Running a shell"), created(client, image, job, tty=True, stdin_open=True) as container:
        how = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1, "logs": 1}
        connection = container.attach_socket(params=how)._sock
        container.start()
        before = termios.tcgetattr(keys)
        try:
            resize(container)
            tty.setraw(keys)
            while True:
                ready, _, _ = select.select([keys, connection], [], [])
                if connection in ready:
                    if not (data := connection.recv(PIECE)):
                        break
                    os.write(screen, data)
                if keys in ready:
                    connection.sendall(os.read(keys, PIECE))
        finally:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
        return int(container.wait()["StatusCode"])


def check_gpu_runtime(client: docker.DockerClient) -> None:
    """ResourceError where the engine has no runtime for GPUs. A container of an empty image, which could not run
    anything, tells it before the real image, of many GB, is built."""
    with images.answering("Looking for a GPU"):
        told = client.api.import_image_from_data(bytes(1024), changes=['CMD ["nothing"]'])  # an archive of no files
        image = json.loads(told)["status"]
        config = client.api.create_host_config(device_requests=GPUS)
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
    """Train, look for GPUs, or open a shell, in a container of the image of this code."""
    parser = argument_parser("trainer.machines.containers", main)
    parser.add_argument("action", choices=("train", "gpu-check", "shell", "guard"))
    parser.add_argument("--gpu", action="store_true", help="in the image for GPUs, with all of this machine's")
    for name in ("--data", "--test-data", "--validation-data"):
        parser.add_argument(name)
    parser.add_argument("--output", default="packages")
    arguments, others = parser.parse_known_args(argv)
    if arguments.action == "guard":
        guard(*others)
        return

    given = {name: path for name, path in vars(arguments).items() if name.endswith(("data", "output")) and path}
    gpu = arguments.gpu or arguments.action == "gpu-check"
    options = [f"--{name.replace('_', '-')}={path}" for name, path in given.items()]
    output = given.pop("output")
    job = training([*options, *others] if arguments.action == "train" else [], given.values(), output, gpu=gpu)
    client = images.engine()
    if gpu:
        check_gpu_runtime(client)
    image = images.build(client, gpu=gpu)
    if arguments.action == "shell":
        code = shell(client, image, job._replace(command=("bash",)))
    else:
        code = run(client, image, job._replace(command=CHECK) if arguments.action == "gpu-check" else job)
    if code:
        exit_process(code)


if __name__ == "__main__":
    run_command(main)
