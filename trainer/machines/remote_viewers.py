"""Show the runs and packages of another machine in a browser here: `fab -H user@gpu-1 tensorboard`, or `notebook`.

The server runs in a container there, listens on 127.0.0.1 of that machine, and is reached through the ssh connection.
It exits when its standard input is closed, and so when the connection ends for any reason.
"""

import contextlib
import io
import re
import socket
import tarfile
from collections.abc import Iterator, Sequence

from docker.errors import NotFound
from docker.models.containers import Container
from docker.types import Mount
from fabric import Connection

from trainer.machines import container_options, detached, images, ssh, viewers
from trainer.machines.code_archive import archive
from trainer.machines.remote import ROOT, for_all
from trainer.machines.remote_docker import Machine, connected
from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError

URL = re.compile(rb"http://127\.0\.0\.1:([0-9]+)(/\S*)")
# As in Dockerfile, the index and the certificates are known to a stage that is left behind.
NOTEBOOK_DOCKERFILE = """FROM {image} AS packages
USER 0:0
ARG PIP_INDEX_URL=""
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_TRUSTED_HOST=""
ARG CA_CERTIFICATES=""
COPY requirements-dev.txt /opt/flatfab/
RUN if [ -n "${{CA_CERTIFICATES}}" ]; then \\
        cat "$(python -c 'import pip._vendor.certifi; print(pip._vendor.certifi.where())')" > /tmp/ca.pem \\
        && echo "${{CA_CERTIFICATES}}" >> /tmp/ca.pem && export PIP_CERT=/tmp/ca.pem REQUESTS_CA_BUNDLE=/tmp/ca.pem; \\
    fi \\
    && python -m pip install --prefix=/opt/added --no-cache-dir --root-user-action=ignore --no-deps \\
        --no-build-isolation --require-hashes --requirement /opt/flatfab/requirements-dev.txt
FROM {image}
USER 0:0
COPY --from=packages /opt/added /opt/venv
COPY {example} /opt/flatfab/data/
RUN python -m pip check
USER 10001:10001
"""


def show(c: Connection, viewer: str, arguments: Sequence[str], port: str | None) -> None:
    """Show TensorBoard or notebooks of another machine until a stop signal. ConfigError for more than one machine.

    viewer: "tensorboard" or "notebook"; arguments: of `trainer.machines.viewers`, with paths in ~/flatfab there;
    port: of this machine, default: a free one.
    """

    def work(connections: list[Connection]) -> None:
        if len(connections) > 1:
            raise ConfigError("-H names several machines; this task takes one.")
        if port and not port.isdecimal():
            raise ConfigError(f"--port={port} is not a number.")
        with contextlib.suppress(Interrupted):  # Ctrl-C is how one closes a viewer
            show_port(connections[0], viewer, arguments, int(port) if port else viewers.free_port())

    for_all(c, work)


def show_port(connection: Connection, viewer: str, arguments: Sequence[str], port: int) -> None:
    """Run a viewer on another machine and forward a port of this machine to it, until it exits."""
    with connected(connection) as machine:
        image = images.build_from(machine.client, archive(ROOT, dirty=True), *images.RECIPES[False], {})
        if viewer == "notebook":
            image = with_jupyter(machine, image)
        with images.engine_errors(f"Showing {viewer}"), serving(machine, image, [viewer, *arguments]) as output:
            for line in output:
                if url := URL.search(line):
                    listener = socket.create_server((viewers.HOST, port))
                    with ssh.forwarding(listener, ssh.port_channel(connection, int(url[1]))):
                        say(viewer, f"http://{viewers.HOST}:{port}{url[2].decode()}  Press Ctrl-C to stop.")
                        rest = b"".join(output)
                    raise ResourceError(f"{viewer} has ended: {rest.decode(errors='replace').strip()[-300:]}")
                print(line.decode(errors="replace"), end="", flush=True)
        raise ResourceError(f"{viewer} did not start.")


@contextlib.contextmanager
def serving(machine: Machine, image: str, arguments: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """Run a viewer in a container for the length of the block; yields its output."""
    container = create(machine, image, arguments)
    stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
    try:
        container.start()
        yield container.logs(stream=True, follow=True)
    finally:
        stdin.close()
        with contextlib.suppress(NotFound):  # it removes itself when it exits
            container.stop(timeout=container_options.STOP_SECONDS)


def create(machine: Machine, image: str, arguments: Sequence[str]) -> Container:
    """Create the container of a viewer."""
    paths = [argument.partition("=")[2] for argument in arguments]
    mounts, variables = container_options.google_credentials(machine.credentials, paths)
    mounts.append(Mount(detached.FOLDER, machine.folder, type="bind"))
    return machine.client.containers.create(
        image, entrypoint=["python"], command=["-m", "trainer.machines.viewers", *arguments, "--until-stdin-closes"],
        environment=container_options.environment() | variables, mounts=mounts, working_dir=detached.FOLDER,
        network_mode="host", stdin_open=True, auto_remove=True, labels={container_options.LABEL: "1"},
        **container_options.limits(machine.client, machine.user),
    )  # fmt: skip


def with_jupyter(machine: Machine, image: str) -> str:
    """Build an image with JupyterLab on top of `image`; returns its digest."""
    example = f"data/{viewers.EXAMPLE}"
    dockerfile = NOTEBOOK_DOCKERFILE.format(image=image, example=example).encode()
    files = {"Dockerfile": dockerfile} | {
        name: (ROOT / name).read_bytes() for name in ("requirements-dev.txt", example)
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return images.build_from(machine.client, buffer.getvalue(), "Dockerfile", "flatfab:notebook", {})
