"""Connect to another machine by ssh, check its host key, and forward connections to it.

fabric accepts any host key, and paramiko ignores @revoked lines. Here a key counts only if a known_hosts file has it
and none revokes it; otherwise nothing is sent. The ssh agent is not forwarded.
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

KNOWN_HOSTS = "FLATFAB_KNOWN_HOSTS"  # environment variable: a known_hosts file to read instead of those of ssh
CONNECT_TIMEOUT = 20  # seconds
KEEPALIVE = 15  # seconds between messages on an idle connection
SILENCE = 60_000  # milliseconds without an answer until a connection counts as lost
PIECE = 2**16  # bytes that are forwarded at a time
LOST_CONNECTION = (paramiko.SSHException, OSError, EOFError)  # the exceptions of a broken connection

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it would print tracebacks of handled errors


class Result(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


class RefuseUnknown(paramiko.MissingHostKeyPolicy):
    """Refuse a machine whose host key is not known."""

    def __init__(self, connection: Connection, files: list[Path]) -> None:
        self.connection, self.files = connection, files

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Raise ResourceError with the fingerprint and the remedy; paramiko calls this before it logs in."""
        host, port = self.connection.host, self.connection.port
        raise ResourceError(
            f"The host key of {host}, port {port}, is not known; nothing was sent. Its key is {fingerprint(key)}. "
            f"Compare this with the fingerprint that its administrator gives you; if they are the same: "
            f"ssh-keyscan -p {port} {host} >> {self.files[0]}"
        )


def fingerprint(key: paramiko.PKey) -> str:
    """The type and fingerprint of a key, as ssh shows them."""
    return f"{key.get_name()} {key.fingerprint}"


def open_connection(connection: Connection) -> None:
    """Connect and log in, unless the connection is open. The host key is checked before any byte of the login is sent.

    ResourceError if the machine cannot be reached, has another host key, or refuses the login.
    """
    if connection.is_connected:
        return
    with contextlib.ExitStack() as stack:
        stack.callback(connection.client.close)  # a half-open connection must not stay
        log_in(connection)
        stack.pop_all()


def log_in(connection: Connection) -> None:
    """Open a connection. ResourceError with the remedy if that fails."""
    try:
        connection.close()  # the rest of a broken one
        check_host_keys(connection)
        connection.open()
        transport = connection.transport
        transport.set_keepalive(KEEPALIVE)
        if isinstance(transport.sock, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE)
    except paramiko.BadHostKeyException as error:
        raise ResourceError(
            f"Another machine may answer for {name_of(connection)}: its host key is {fingerprint(error.key)}, but "
            f"{fingerprint(error.expected_key)} is expected; nothing was sent. If it was reinstalled, ask its "
            f"administrator for the fingerprint, remove the old key with ssh-keygen -R and add the new one."
        ) from None
    except paramiko.PasswordRequiredException:
        raise ResourceError(
            f"The key for {name_of(connection)} has a passphrase: add it to ssh-agent, or use --prompt-for-passphrase."
        ) from None
    except paramiko.AuthenticationException:
        raise ResourceError(
            f"{name_of(connection)} refused the login. `fab -i KEY -H ...` names another key; try `ssh` with it first."
        ) from None
    except LOST_CONNECTION as error:
        raise unreachable_error(connection, error) from None


def check_host_keys(connection: Connection) -> None:
    """Make a connection, and every gateway on its way, accept only known host keys."""
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
    """The known_hosts files that ssh would read, those of the user first."""
    if path := os.environ.get(KNOWN_HOSTS):
        return [Path(path)]
    user_files = connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    return [*(Path(path).expanduser() for path in user_files), Path("/etc/ssh/ssh_known_hosts")]


def known_keys(files: list[Path]) -> list[tuple[str, paramiko.PKey]]:
    """(host name, key) of each line of the known_hosts files that exist, without revoked keys. Names may be hashed.

    ConfigError for a line that is not a host key.
    """
    keys: list[tuple[str, paramiko.PKey]] = []
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
                raise ConfigError(f"{path}, line {number}: not a host key. Remove or correct this line.") from None
            if entry and entry.key and marker == "@revoked":
                revoked.add(entry.key.asbytes())
            elif entry and entry.key:
                keys += [(name, entry.key) for name in entry.hostnames or ()]
    return [(name, key) for name, key in keys if key.asbytes() not in revoked]


def unreachable_error(connection: Connection, error: BaseException) -> ResourceError:
    """The error for a machine that cannot be reached."""
    reason = "the connection was lost" if isinstance(error, EOFError) else str(error) or type(error).__name__
    reason = reason.partition("] ")[2] or reason  # without "[Errno 110] "
    return ResourceError(f"{name_of(connection)} cannot be reached: {reason.rstrip('.')}. Check the name and port.")


def name_of(connection: Connection) -> str:
    """The machine as a user would write it: user@host, and the port unless it is 22."""
    return f"{connection.user}@{connection.host}" + (f":{connection.port}" if connection.port != 22 else "")


def run(connection: Connection, command: str) -> Result:
    """Run a short command there in the user's shell, and wait for its end."""
    channel = connection.transport.open_session()
    with channel:
        channel.exec_command(command)
        out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
        return Result(channel.recv_exit_status(), out.decode(errors="replace"), err.decode(errors="replace"))


def command_channel(connection: Connection, command: str) -> Callable[[], paramiko.Channel]:
    """A function that starts a command there and returns a channel to its input and output."""

    def start() -> paramiko.Channel:
        channel = connection.transport.open_session()
        channel.exec_command(command)
        return channel

    return start


def port_channel(connection: Connection, port: int) -> Callable[[], paramiko.Channel]:
    """A function that connects to a port of 127.0.0.1 there."""
    return lambda: connection.transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0))


@contextlib.contextmanager
def forwarding(listener: socket.socket, open_channel: Callable[[], paramiko.Channel]) -> Iterator[None]:
    """Inside the block, forward each connection to a listening socket of this machine through a channel of its own.

    If no channel can be opened, the connection is closed.
    """

    def serve() -> None:
        with contextlib.suppress(OSError):  # the block has ended
            while True:
                accepted, _ = listener.accept()
                threading.Thread(target=join, args=(accepted, open_channel), daemon=True).start()

    listener.listen()
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends `accept` in the thread
        listener.close()


def join(accepted: socket.socket, open_channel: Callable[[], paramiko.Channel]) -> None:
    """Copy bytes in both directions until both sides have ended."""
    with accepted, contextlib.suppress(*LOST_CONNECTION), open_channel() as channel:
        back = threading.Thread(
            target=copy, args=(channel.recv, accepted.sendall, lambda: accepted.shutdown(socket.SHUT_WR)), daemon=True
        )
        back.start()
        copy(accepted.recv, channel.sendall, channel.shutdown_write)
        back.join()


def copy(receive: Callable[[int], bytes], send: Callable[[bytes], None], end: Callable[[], None]) -> None:
    """Copy bytes in one direction until the source ends or its connection is lost."""
    with contextlib.suppress(*LOST_CONNECTION):
        while piece := receive(PIECE):
            send(piece)
    with contextlib.suppress(*LOST_CONNECTION):
        end()
