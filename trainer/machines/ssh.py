"""Another machine by ssh: its host key is known or nothing is sent, and what listens there can be talked to from here.

fabric accepts any host key; here a key counts only if a known_hosts file has it. No agent is forwarded.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
from fabric import Connection
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from trainer.runtime.errors import ConfigError, ResourceError

KNOWN_HOSTS = "FLATFAB_KNOWN_HOSTS"  # in the environment: a file that is read instead of those of ssh
CONNECT_TIMEOUT = 20  # seconds
SIGN_OF_LIFE = 15  # seconds between them on a silent connection
SILENCE = 60_000  # milliseconds without an answer, after which a connection is lost
PIECE = 2**16  # bytes
LOST = (paramiko.SSHException, OSError, EOFError)  # what a connection that breaks raises

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it would print tracebacks of what is told here


class Answer(NamedTuple):
    """How a command ended there."""

    code: int
    out: str
    err: str


class RefuseUnknown(paramiko.MissingHostKeyPolicy):
    """No machine whose key is not known is talked to."""

    def __init__(self, connection: Connection, files: list[Path]) -> None:
        self.connection, self.files = connection, files

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """ResourceError with the fingerprint and what to do; paramiko calls this before it logs in."""
        host, port = self.connection.host, self.connection.port
        raise ResourceError(
            f"The host key of {host}, port {port}, is not known; nothing was sent. It shows {said(key)}. Compare that "
            f"with the fingerprint that its administrator tells; if it is the same: ssh-keyscan -p {port} {host} "
            f">> {self.files[0]}"
        )


def said(key: paramiko.PKey) -> str:
    """A key for people, as ssh shows it."""
    return f"{key.get_name()} {key.fingerprint}"


def open_connection(connection: Connection) -> None:
    """Connect and log in, if that is not done. ResourceError where the machine cannot be reached, its host key is not
    the known one, or it refuses the login; a host key is checked before a byte of the login is sent."""
    if connection.is_connected:
        return
    with contextlib.ExitStack() as stack:
        stack.callback(connection.client.close)  # what is half open must not stay
        log_in(connection)
        stack.pop_all()


def log_in(connection: Connection) -> None:
    try:
        connection.close()  # what is left of a broken one
        check_host_keys(connection)
        connection.open()
        transport = connection.transport
        transport.set_keepalive(SIGN_OF_LIFE)
        if isinstance(transport.sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE)
    except paramiko.BadHostKeyException as error:
        raise ResourceError(
            f"Another machine may answer for {name_of(connection)}: its host key is {said(error.key)}, but "
            f"{said(error.expected_key)} is known; nothing was sent. If it was set up anew, ask its administrator for "
            f"the fingerprint, remove the old key with ssh-keygen -R and add the new one."
        ) from None
    except paramiko.PasswordRequiredException:
        raise ResourceError(
            f"The key for {name_of(connection)} has a passphrase: add it to ssh-agent, or use --prompt-for-passphrase."
        ) from None
    except paramiko.AuthenticationException:
        raise ResourceError(
            f"{name_of(connection)} refused the login. `fab -i KEY -H ...` names another key; try `ssh` with it first."
        ) from None
    except LOST as error:
        raise unreachable(connection, error) from None


def check_host_keys(connection: Connection) -> None:
    """From now on the connection, and each that it goes through, wants a known host key."""
    hop: Any = connection
    while isinstance(hop, Connection):
        files = known_hosts_files(hop)
        hop.forward_agent = False
        hop.connect_timeout = hop.connect_timeout or (None if "timeout" in hop.connect_kwargs else CONNECT_TIMEOUT)
        hop.client.set_missing_host_key_policy(RefuseUnknown(hop, files))
        keys = hop.client.get_host_keys()
        keys.clear()
        for name, key in known_keys(files):
            keys.add(name, key.get_name(), key)
        hop = hop.gateway


def known_hosts_files(connection: Connection) -> list[Path]:
    """The files of known host keys, as ssh has them: the user's own first."""
    if own := os.environ.get(KNOWN_HOSTS):
        return [Path(own)]
    given = connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    return [*(Path(path).expanduser() for path in given), Path("/etc/ssh/ssh_known_hosts")]


def known_keys(files: list[Path]) -> list[tuple[str, paramiko.PKey]]:
    """(name, key) of each line of the files that are there, but for keys that a line revokes. A name may be hashed.
    ConfigError for a line that cannot be read."""
    found: list[tuple[str, paramiko.PKey]] = []
    revoked = set()
    for path in files:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            marker, _, rest = line.strip().partition(" ")
            if line.startswith("#") or marker == "@cert-authority":
                continue
            try:
                entry = HostKeyEntry.from_line(rest if marker == "@revoked" else line.strip(), number)
            except (InvalidHostKey, paramiko.SSHException):
                raise ConfigError(f"{path}, line {number}: no host key. Remove or mend this line.") from None
            if entry and entry.key and marker == "@revoked":
                revoked.add(entry.key.asbytes())
            elif entry and entry.key:
                found += [(name, entry.key) for name in entry.hostnames or ()]
    return [(name, key) for name, key in found if key.asbytes() not in revoked]


def unreachable(connection: Connection, error: BaseException) -> ResourceError:
    """The refusal that a machine which cannot be reached ends in."""
    reason = "the connection was lost" if isinstance(error, EOFError) else str(error) or type(error).__name__
    reason = reason.partition("] ")[2] or reason  # [Errno 110] is for nobody
    return ResourceError(f"{name_of(connection)} cannot be reached: {reason.rstrip('.')}. Check the name and port.")


def name_of(connection: Connection) -> str:
    """The machine as a user would write it."""
    return f"{connection.user}@{connection.host}" + (f":{connection.port}" if connection.port != 22 else "")


def ask(connection: Connection, command: str) -> Answer:
    """Run a short command to its end there, in the user's shell."""
    channel = connection.transport.open_session()
    with channel:
        channel.exec_command(command)
        out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
        return Answer(channel.recv_exit_status(), out.decode(errors="replace"), err.decode(errors="replace"))


def command_channel(connection: Connection, command: str) -> Callable[[], paramiko.Channel]:
    """What begins a command there and talks to its input and output."""

    def begin() -> paramiko.Channel:
        channel = connection.transport.open_session()
        channel.exec_command(command)
        return channel

    return begin


def port_channel(connection: Connection, port: int) -> Callable[[], paramiko.Channel]:
    """What talks to a port there that listens for that machine alone."""
    return lambda: connection.transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0))


@contextlib.contextmanager
def forwarding(listener: socket.socket, begin: Callable[[], paramiko.Channel]) -> Iterator[None]:
    """While the block lasts, each connection to a listening socket of this machine gets a channel of its own to the
    other one. Where none can be had, the connection is closed."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # the block has ended
            while True:
                accepted, _ = listener.accept()
                threading.Thread(target=join, args=(accepted, begin), daemon=True).start()

    listener.listen()
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread up
        listener.close()


def join(accepted: socket.socket, begin: Callable[[], paramiko.Channel]) -> None:
    """Pass bytes in both directions until both sides have ended."""
    with accepted, contextlib.suppress(*LOST), begin() as channel:
        back = threading.Thread(
            target=copy, args=(channel.recv, accepted.sendall, lambda: accepted.shutdown(socket.SHUT_WR)), daemon=True
        )
        back.start()
        copy(accepted.recv, channel.sendall, channel.shutdown_write)
        back.join()


def copy(receive: Callable[[int], bytes], send: Callable[[bytes], None], end: Callable[[], None]) -> None:
    """Pass bytes in one direction until its source ends or is lost."""
    with contextlib.suppress(*LOST):
        while piece := receive(PIECE):
            send(piece)
    with contextlib.suppress(*LOST):
        end()
