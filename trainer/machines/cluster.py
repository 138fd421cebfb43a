"""A Ray cluster on other machines, for a search: `fab -H h1,h2 cluster-up`, `cluster-status` and `cluster-down`.

The machines share a folder, where the code, the rows in the cache and the checkpoints are. The first one is the head,
and the search runs on it. The token of the cluster goes there on standard input, never on a command line.
"""

import contextlib
import ipaddress
import json
import re
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
from fabric import Connection

from trainer.machines import cluster_node, ssh
from trainer.machines.code_archive import archive, uncommitted
from trainer.machines.remote import ROOT, for_all
from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, ResourceError
from trainer.search.ray_checks import INSTALL, new_token

SOURCE = Path(cluster_node.__file__)
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what we look for
PORTS_EACH = 1000  # of a node


class Request(NamedTuple):
    """The options of `fab cluster-up`."""

    folder: str  # that all machines share
    python: str  # which has flatfab's requirements and Ray
    port: int  # of the head; those of a node follow it
    addresses: Sequence[str]  # of the machines, where ssh connects to others
    dirty: bool  # send uncommitted changes, too
    firewalled: bool  # the ports are closed to the internet, whatever addresses the machines have


class Node(NamedTuple):
    """A machine of a cluster."""

    connection: Connection
    python: str
    folder: str
    name: str  # of its files there

    def call(self, action: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Call a function of `cluster_node` there. ResourceError if it fails."""
        text = SOURCE.read_text(encoding="utf-8")
        text += f"\nprint(json.dumps({action}({self.folder!r}, {self.name!r}, *{arguments!r}, **{options!r})))\n"
        result = send(self.connection, f"{shlex.quote(self.python)} -", text.encode())
        lines = (result.out if not result.code else result.err).strip().splitlines() or [f"exit code {result.code}"]
        if result.code == 127:
            raise ConfigError(f"{self} has no {self.python}. Name the Python of its environment: --python=PATH")
        if result.code:
            raise ResourceError(f"{self}: {action} failed: {lines[-1][:300]}")
        answer: dict[str, Any] = json.loads(lines[-1])  # a login shell may print a greeting first
        return answer

    def __str__(self) -> str:
        return ssh.name_of(self.connection)


def send(connection: Connection, command: str, data: bytes) -> ssh.Result:
    """Run a command there with data on its standard input, and wait for its end."""
    channel = connection.transport.open_session()
    with channel:
        channel.exec_command(command)
        with contextlib.suppress(OSError, paramiko.SSHException):  # it has ended without reading all, and says why
            channel.sendall(data)
        channel.shutdown_write()
        out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
        return ssh.Result(channel.recv_exit_status(), out.decode(errors="replace"), err.decode(errors="replace"))


def nodes_of(connections: list[Connection], python: str, folder: str) -> list[Node]:
    """Connect to all machines."""
    for connection in connections:
        ssh.open_connection(connection)
    return [
        Node(connection, python, folder, re.sub(r"[^\w.-]", "-", ssh.name_of(connection))) for connection in connections
    ]


def up(c: Connection, request: Request) -> None:
    """Start a cluster of the machines of -H. ConfigError or ResourceError where one cannot be part of it."""
    for_all(c, lambda connections: start(nodes_of(connections, request.python, request.folder), request))


def start(nodes: list[Node], request: Request) -> None:
    """Look at all machines, send the code, and start a node on each."""
    mark = secrets.token_hex(8)
    looks = [node.call("look", mark, first=number == 0) for number, node in enumerate(nodes)]
    check_machines(nodes, looks)
    addresses = list(request.addresses) or [look["address"] for look in looks]
    check_addresses(nodes, addresses, firewalled=request.firewalled)
    if not request.dirty and uncommitted(ROOT):
        say("warning", "uncommitted changes are not sent. Add --dirty to send them.")
    command = f"tar -x -f - -C {shlex.quote(looks[0]['folder'])}"
    if (sent := send(nodes[0].connection, command, archive(ROOT, dirty=request.dirty))).code:
        raise ResourceError(f"{nodes[0]}: the code cannot be written: {sent.err.strip()[-300:]}")
    token, head = new_token(), ""
    started: list[Node] = []
    try:
        for number, (node, address) in enumerate(zip(nodes, addresses, strict=True)):
            port = request.port + PORTS_EACH * addresses[:number].count(address)  # nodes of one machine
            started.append(node)
            facts = node.call("up", token, address, port, head, port)
            check_started(node, facts, firewalled=request.firewalled)
            head = head or f"{address}:{port}"
            say("node", f"{node} is part of the cluster at {head}, with {facts['cpus']} cores")
    except BaseException:
        for node in started:
            node.call("down")
        raise
    command = f"cd {looks[0]['folder']} && {request.python} -m trainer.search.tune --engine=ray --address={head}"
    say("next", f"on {nodes[0]}: {command} --space=space.json")


def check_machines(nodes: list[Node], looks: list[dict[str, Any]]) -> None:
    """ConfigError unless all machines have the same Python and Ray, and share the folder."""
    for node, look in zip(nodes, looks, strict=True):
        if not look["tensorflow"]:
            raise ConfigError(f"{node}: {node.python} lacks requirements.txt. Name another one: --python=PATH")
        if not look["ray"]:
            raise ConfigError(f"{node}: {node.python} has no Ray. There: {INSTALL.replace('python', node.python, 1)}")
        if look["running"]:
            raise ConfigError(f"{node} has a node already. First: fab -H ... cluster-down --folder={node.folder}")
        for what in ("python", "ray"):
            if look[what] != looks[0][what]:
                raise ConfigError(
                    f"{node} has {what} {look[what]}, but {nodes[0]} has {looks[0][what]}. Install the same one."
                )
        if not look["shared"]:
            raise ConfigError(
                f"{node} does not share {look['folder']} with {nodes[0]}. Checkpoints must be where all machines find "
                "them: mount one folder on all, and name it with --folder."
            )


def check_addresses(nodes: list[Node], addresses: list[str], *, firewalled: bool) -> None:
    """ConfigError unless there is an address for each machine, a private one."""
    if len(addresses) != len(nodes):
        raise ConfigError(f"--addresses: {len(nodes)} machines take {len(nodes)} addresses, separated by commas.")
    for node, address in zip(nodes, addresses, strict=True):
        try:
            is_global = ipaddress.ip_address(address).is_global
        except ValueError:
            raise ConfigError(f"--addresses: {address!r} is not an IP address.") from None
        if is_global and not firewalled:
            raise ConfigError(
                f"{node} would be part of the cluster by its public address {address}. Name its private one with "
                "--addresses, or, if a firewall closes its ports to others, add --firewalled."
            )


def check_started(node: Node, facts: dict[str, Any], *, firewalled: bool) -> None:
    """ResourceError if a node has not started, or if it listens where the internet may reach it.

    Ray listens on all addresses of a machine, whatever address it is given, so what counts is which ones there are.
    """
    if "error" in facts:
        raise ResourceError(f"{node}: Ray cannot start: {facts['error']}")
    everywhere = [place for place in facts["listening"] if place.rpartition(":")[0] in EVERYWHERE]
    if everywhere and facts["public"] and not firewalled:
        raise ResourceError(
            f"{node}: Ray listens on all addresses of this machine, also on {facts['public'][0]}, which is public: "
            f"{', '.join(everywhere)}. The node was stopped. If a firewall closes these ports, add --firewalled."
        )


def status(c: Connection, folder: str, python: str) -> None:
    """Print the state of each machine."""

    def work(connections: list[Connection]) -> None:
        for node in nodes_of(connections, python, folder):
            facts = node.call("status")
            what = "head" if facts.get("head") else "node"
            say("node", f"{node}: {what} of the cluster at {facts['address']} since {facts['since']}, "
                f"{facts['workers']} workers" if facts["running"] else f"{node}: no node")  # fmt: skip

    for_all(c, work)


def down(c: Connection, folder: str, python: str) -> None:
    """Stop the nodes of all machines, the head last. Runs that are being trained save a checkpoint."""

    def work(connections: list[Connection]) -> None:
        for node in reversed(nodes_of(connections, python, folder)):
            say("node", f"{node}: {'stopped' if node.call('down')['stopped'] else 'no node'}")

    for_all(c, work)
