"""Connect to the Docker engine of another machine by ssh; the machine needs only sshd and Docker.

docker-py can also connect by ssh, but its own ssh client accepts unknown host keys; ours does not (see `ssh`).
"""

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import requests
from docker.errors import DockerException
from fabric import Connection
from urllib3.exceptions import HTTPError

from trainer.machines import images, ssh
from trainer.runtime.errors import ResourceError, TrainerError

RETRY_SECONDS = 300.0  # how long we try to reconnect
# The only shell command that we run there. It prints one fact per line: folder, user id, group id, file of Google
# credentials, version of Docker.
PROBE = (
    "sh -c 'mkdir -p ~/flatfab && cd ~/flatfab && pwd -P && id -u && id -g && "
    "file=${GOOGLE_APPLICATION_CREDENTIALS:-$HOME/.config/gcloud/application_default_credentials.json} && "
    'if [ -f "$file" ]; then echo "$file"; else echo; fi && docker version --format {{.Server.Version}}\''
)
DIAL = "docker system dial-stdio"  # connects the engine's API to standard input and output
LOST_CONNECTION = (DockerException, requests.RequestException, HTTPError, *ssh.LOST_CONNECTION)


class Machine(NamedTuple):
    """Another machine and its Docker engine, while we are connected."""

    client: docker.DockerClient
    name: str  # user@host
    folder: str  # ~/flatfab there
    user: str  # uid:gid
    credentials: str  # path of the Google credentials file there; "" without one


class ConnectionLostError(ResourceError):
    """The connection broke; the machine may be fine."""


@contextlib.contextmanager
def connected(connection: Connection) -> Iterator[Machine]:
    """Connect to the Docker engine of another machine for the length of the block.

    ResourceError if there is no engine; ConnectionLostError if the connection breaks inside the block.
    """
    ssh.open_connection(connection)
    try:
        result = ssh.run(connection, PROBE)
        if result.code:
            raise no_docker_error(connection, result)
        *_, folder, uid, gid, credentials, _ = result.out.splitlines()  # a login shell may print a greeting first
        with engine_of(connection) as client:
            yield Machine(client, ssh.name_of(connection), folder, f"{uid}:{gid}", credentials)
    except (TrainerError, *LOST_CONNECTION) as error:
        connection.transport.join(timeout=1)  # its thread notices a lost connection a little later
        if connection.is_connected:
            raise
        raise ConnectionLostError(f"The connection to {ssh.name_of(connection)} was lost.") from error


def no_docker_error(connection: Connection, result: ssh.Result) -> ResourceError:
    """The error for a machine whose Docker engine this user cannot use, with the remedy."""
    reason = (result.err.strip().splitlines() or ["it gives no reason"])[-1][:300]
    if result.code == 127:
        reason = "there is no `docker` in the PATH of a command run by ssh. Install Docker there"
    elif "permission denied" in reason:
        reason = f"{connection.user} may not use it. `sudo usermod -aG docker {connection.user}` there permits it"
    elif "Cannot connect" in reason:
        reason = "it is not running. Start it there"
    return ResourceError(f"{ssh.name_of(connection)} has no Docker engine that we can use: {reason}.")


@contextlib.contextmanager
def engine_of(connection: Connection) -> Iterator[docker.DockerClient]:
    """The Docker engine at the other end of a connection, reached through a Unix socket.

    The socket is in a folder of this user alone: whoever can open it has root rights on the other machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "docker.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        with ssh.forwarding(listener, ssh.command_channel(connection, DIAL)):
            client = docker.DockerClient(base_url=f"unix://{path}", timeout=images.TIMEOUT)
            # Otherwise the client keeps a connection open for each request, and sshd allows ten sessions at a time.
            client.api.headers["Connection"] = "close"
            with contextlib.closing(client):
                yield client


def reconnect(connection: Connection, lost: ConnectionLostError) -> None:
    """Try to connect for `RETRY_SECONDS`, then raise `lost`."""
    end, pause = time.monotonic() + RETRY_SECONDS, 0.5
    while True:
        try:
            ssh.open_connection(connection)
            return
        except ResourceError:
            if time.monotonic() > end:
                raise lost from None
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def retry(connection: Connection, work: Callable[[Machine], None]) -> None:
    """Do idempotent work on a machine; start it again whenever the connection is lost meanwhile."""
    while True:
        try:
            with connected(connection) as machine:
                return work(machine)
        except ConnectionLostError as lost:
            reconnect(connection, lost)
