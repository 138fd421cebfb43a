"""`fab -H user@gpu-1 tensorboard`, or notebook: what runs there have left, in a browser here.

The server runs there in a container, listens on 127.0.0.1 of that machine, and is seen here through the connection. It
lives as long as its standard input is held: when the connection ends, however it does, so does the server.
"""

import contextlib
import io
import os
import re
import socket
import tarfile
from collections.abc import Iterator, Sequence

from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Mount
from fabric import Connection

from trainer.cloud import storage
from trainer.machines import containers, detached, images, ssh, viewers
from trainer.machines.code_archive import archive
from trainer.machines.remote import ROOT, for_all
from trainer.machines.remote_docker import Machine, machine
from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError

URL = re.compile(rb"http://127\.0\.0\.1:([0-9]+)(/\S*)")
NOTEBOOK = """FROM {image}
USER 0:0
COPY requirements-dev.txt /opt/flatfab/
RUN python -m pip install --no-cache-dir --root-user-action=ignore --no-deps --no-build-isolation --require-hashes \\
    --requirement /opt/flatfab/requirements-dev.txt && python -m pip check
COPY {example} /opt/flatfab/data/
USER 10001:10001
"""


def look(c: Connection, what: str, arguments: Sequence[str], port: str | None) -> None:
    """Show TensorBoard or notebooks of one other machine until an order to stop.

    arguments: of `trainer.machines.viewers`, with paths in ~/flatfab there; port: of this machine, default: a free one.
    """

    def work(connections: list[Connection]) -> None:
        if len(connections) > 1:
            raise ConfigError("-H: one machine can be looked at a time.")
        if port and not port.isdecimal():
            raise ConfigError(f"--port={port} is no number.")
        with contextlib.suppress(Interrupted):  # this is how one leaves it
            look_at(connections[0], what, arguments, int(port) if port else viewers.free_port())

    for_all(c, work)


def look_at(connection: Connection, what: str, arguments: Sequence[str], port: int) -> None:
    with machine(connection) as there:
        image = detached.build(there, archive(ROOT, dirty=True), gpu=False, arguments={}, mark="")
        if what == "notebook":
            image = with_notebook(there, image)
        with images.answering(f"Showing {what}"), serving(there, image, [what, *arguments]) as said:
            for line in said:
                if found := URL.search(line):
                    listener = socket.create_server((viewers.HOST, port))
                    with ssh.forwarding(listener, ssh.port_channel(connection, int(found[1]))):
                        say(what, f"http://{viewers.HOST}:{port}{found[2].decode()}  Ctrl-C ends it.")
                        rest = b"".join(said)
                    raise ResourceError(f"{what} has ended: {rest.decode(errors='replace').strip()[-300:]}")
                print(line.decode(errors="replace"), end="", flush=True)
        raise ResourceError(f"{what} did not start.")


@contextlib.contextmanager
def serving(there: Machine, image: str, arguments: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """What a server there prints, while the block lasts."""
    container = create(there, image, arguments)
    held = container.attach_socket(params={"stdin": 1, "stream": 1})
    try:
        container.start()
        yield container.logs(stream=True, follow=True)
    finally:
        held.close()
        with contextlib.suppress(NotFound):  # it removes itself
            container.stop(timeout=containers.GRACE)


def create(there: Machine, image: str, arguments: Sequence[str]) -> Container:
    mounts = [Mount(detached.FOLDER, there.folder, type="bind")]
    environment = containers.passed(os.environ)
    if there.credentials and any(storage.is_remote(argument.partition("=")[2]) for argument in arguments):
        mounts.append(Mount(containers.INSIDE, there.credentials, type="bind", read_only=True))
        environment[containers.CREDENTIALS] = containers.INSIDE
    return there.client.containers.create(
        image, entrypoint=["python"], command=["-m", "trainer.machines.viewers", *arguments, "--tied"],
        environment=environment, mounts=mounts, working_dir=detached.FOLDER, network_mode="host", stdin_open=True,
        auto_remove=True,
        labels={containers.LABEL: "1"}, **detached.limits(there),
    )  # fmt: skip


def with_notebook(there: Machine, image: str) -> str:
    """The image with JupyterLab in it; returns its digest."""
    example = f"data/{viewers.EXAMPLE}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "Dockerfile", NOTEBOOK.format(image=image, example=example).encode())
        for name in ("requirements-dev.txt", example):
            add(tar, name, (ROOT / name).read_bytes())
    return detached.build_from(there, buffer.getvalue(), "Dockerfile", "flatfab:notebook", {}, "")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
