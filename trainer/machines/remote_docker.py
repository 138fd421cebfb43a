"""The Docker engine of another machine, by ssh: sshd and Docker are all that has to be there."""

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

RETRY_SECONDS = 300.0  # for which a connection that was lost is made anew
# All that a shell does there. It prints a line each: folder, user, group, credentials of Google's clients, Docker.
HELLO = (
    "sh -c 'mkdir -p ~/flatfab && cd ~/flatfab && pwd -P && id -u && id -g && "
    "file=${GOOGLE_APPLICATION_CREDENTIALS:-$HOME/.config/gcloud/application_default_credentials.json} && "
    'if [ -f "$file" ]; then echo "$file"; else echo; fi && docker version --format {{.Server.Version}}\''
)
DIAL = "docker system dial-stdio"  # the engine's programming interface on standard input and output
GIVEN_UP = (DockerException, requests.RequestException, HTTPError, *ssh.LOST)  # what a broken connection is told by


class Machine(NamedTuple):
    """Another machine with its Docker engine, while there is a connection."""

    client: docker.DockerClient
    folder: str
    user: str  # uid:gid
    credentials: str  # a file there; "" without


class ConnectionLostError(ResourceError):
    """The network, not the machine, ended what was going on."""


@contextlib.contextmanager
def machine(connection: Connection) -> Iterator[Machine]:
    """The Docker engine of another machine while the block lasts. ResourceError where there is none, and
    ConnectionLostError where the connection breaks meanwhile."""
    ssh.open_connection(connection)
    try:
        told = ssh.ask(connection, HELLO)
        if told.code:
            raise no_docker(connection, told)
        *_, folder, uid, gid, credentials, _ = told.out.splitlines()  # a shell may greet
        with engine_of(connection) as client:
            yield Machine(client, folder, f"{uid}:{gid}", credentials)
    except (TrainerError, *GIVEN_UP) as error:
        connection.transport.join(timeout=1)  # it is a thread, which ends with the connection, a little later maybe
        if connection.is_connected:
            raise
        raise ConnectionLostError(f"The connection to {ssh.name_of(connection)} was lost.") from error


def no_docker(connection: Connection, told: ssh.Answer) -> ResourceError:
    """The refusal that a machine without a Docker engine for this user ends in."""
    reason = (told.err.strip().splitlines() or ["no reason is told"])[-1][:300]
    if told.code == 127:
        reason = "there is no `docker` in the PATH of a command by ssh. Install Docker there"
    elif "permission denied" in reason:
        reason = f"{connection.user} may not use it. `sudo usermod -aG docker {connection.user}` there permits it"
    elif "Cannot connect" in reason:
        reason = "it is not running. Start it there"
    return ResourceError(f"{ssh.name_of(connection)} has no Docker engine to work with: {reason}.")


@contextlib.contextmanager
def engine_of(connection: Connection) -> Iterator[docker.DockerClient]:
    """The engine by way of a socket that only this user can open, for it is worth the root rights of that machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "docker.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        with ssh.forwarding(listener, ssh.command_channel(connection, DIAL)):
            client = docker.DockerClient(base_url=f"unix://{path}", timeout=images.SECONDS)
            # Or it keeps a connection open for each address that it has asked, and sshd permits ten at a time.
            client.api.headers["Connection"] = "close"
            with contextlib.closing(client):
                yield client


def connect_again(connection: Connection, lost: ConnectionLostError) -> None:
    """Try for some minutes to connect; raises `lost` where that does not succeed."""
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


def again(connection: Connection, work: Callable[[Machine], None]) -> None:
    """Do what may be done twice until it is done, however often the connection is lost meanwhile."""
    while True:
        try:
            with machine(connection) as there:
                return work(there)
        except ConnectionLostError as lost:
            connect_again(connection, lost)
