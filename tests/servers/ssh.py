"""A real sshd on a local port, with its own host key, where the current user can log in with a key."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel DEBUG1
SetEnv {environment}
"""


class Server(NamedTuple):
    """A running sshd."""

    port: int
    folder: Path  # with its keys, its log, and home/, the home of its sessions
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def user_key(self) -> Path:
        return self.folder / "user_key"

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file with the server's key."""
        path = self.folder / "known_hosts"
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        path.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        return path

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def sessions(self) -> list[int]:
        """The process ids of the open connections."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def cut(self) -> int:
        """Break every connection, as a lost network does. Returns their number."""
        sessions = self.sessions()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(sessions)


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Server]:
    """Run a server inside the block; its sessions have home/ as their home, and these environment variables."""
    assert SSHD
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    home.mkdir(exist_ok=True)
    for name in ("host_key", "user_key"):
        if not (folder / name).exists():
            make_key(folder / name)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # to which it confines itself before a login
    port = free_port()
    variables = " ".join(f'{name}="{value}"' for name, value in ({"HOME": str(home)} | environment).items())
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder, environment=variables))
    command = [SSHD, "-D", "-f", str(folder / "config"), "-E", str(folder / "log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield Server(port, folder, process)
    finally:
        if process.poll() is None:
            Server(port, folder, process).cut()
        process.terminate()
        process.wait(timeout=10)


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes] | None = None, seconds: float = 20) -> None:
    """Wait until a process listens on a local port."""
    end = time.monotonic() + seconds
    while True:
        assert process is None or process.poll() is None, "the server has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < end, f"nothing listens on port {port}"
        time.sleep(0.05)
