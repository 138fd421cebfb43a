"""Looking at runs and packages in a browser: `python -m trainer.machines.viewers tensorboard`, or `notebook`.

Both listen on 127.0.0.1 only, and end with this process. TensorBoard asks nobody who he is: whoever has a login on this
machine can read what it shows. A notebook runs any code, so each one wants a token, which the printed address holds.
"""

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from trainer.cloud import storage
from trainer.config import net_config
from trainer.data import sources
from trainer.package import archive
from trainer.package.publish import RUNS
from trainer.runtime import system
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError, StorageError

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PACKAGES = Path("packages")
EXAMPLE = "look_into_a_package.ipynb"
START_SECONDS = 120.0  # a server may take until it listens
LOGS = "tensorboard/"  # members of a package


@contextlib.contextmanager
def logs(*, run: str | None, package: str | None, output: str | None) -> Iterator[Path]:
    """The folder that TensorBoard is to show: of a run, of a package, of all packages in a folder or below a prefix, or
    of all runs. Packages are unpacked for as long as the block lasts."""
    if package or output:
        found = [package] if package else packages_in(str(output))
        with tempfile.TemporaryDirectory() as folder:
            for uri in found:
                with sources.local_file(uri) as path:
                    members = archive.read_package(path)
                wanted = {name.removeprefix(LOGS): data for name, data in members.items() if name.startswith(LOGS)}
                archive.extract(wanted, Path(folder) / uri.rpartition("/")[2].removesuffix(".zip"))
            yield Path(folder)
        return
    if run:
        net_config.check_run_name(run)
    folder_of_runs = RUNS / run if run else RUNS
    if not folder_of_runs.is_dir():
        raise StorageError(f"There is no {folder_of_runs}: nothing has been trained here. `fab train` does it.")
    yield folder_of_runs


def packages_in(output: str) -> list[str]:
    """The packages right in a folder or below a prefix; StorageError where there is none."""
    uris = [stored.uri for stored in storage.entries(output)]
    found = [uri for uri in uris if uri.endswith(".zip") and storage.join(output, uri.rpartition("/")[2]) == uri]
    if not found:
        raise StorageError(f"There are no packages in {output}.")
    return found


def show_tensorboard(folder: Path, port: int, *, tied: bool) -> None:
    """Show logs until an order to stop."""
    command = ["-m", "tensorboard.main", f"--logdir={folder}", f"--host={HOST}", f"--port={port}"]
    serve(command, "TensorBoard", f"http://{HOST}:{port}/", tied=tied)


def show_notebook(port: int, *, tied: bool) -> None:
    """Serve notebooks in the folder of packages, with the example in it, until an order to stop."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigError("JupyterLab is not installed: .venv/bin/pip install '.[notebook]'")
    if not (PACKAGES / EXAMPLE).exists():
        system.write_atomic(PACKAGES / EXAMPLE, (ROOT / "data" / EXAMPLE).read_bytes())
    token = secrets.token_urlsafe(24)
    options = {
        "ServerApp.ip": HOST, "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.open_browser": False,
        "ServerApp.root_dir": PACKAGES.absolute(), "ServerApp.allow_root": True, "ServerApp.log_level": "ERROR",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }  # fmt: skip
    command = ["-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    url = f"http://{HOST}:{port}/lab/tree/{EXAMPLE}?token={token}"
    serve(command, "notebook", url, tied=tied, JUPYTER_TOKEN=token)  # a command line is for all to see


def serve(command: list[str], what: str, url: str, *, tied: bool, **variables: str) -> None:
    """Run a Python server until an order to stop, or with `tied` until standard input ends; then end it and all that it
    has started. ResourceError where it does not come up."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"} | variables,
        )  # fmt: skip
        try:
            wait_until_it_answers(server, url.partition("?")[0])
            if server.poll() is None:
                say(what, f"{url}  Ctrl-C ends it.")
                if wait_for_the_end(server, tied=tied):
                    return
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise ResourceError(f"{what} has ended: {lines[-1] if lines else 'it said nothing'}")
        except Interrupted:
            return  # this is how one leaves it
        finally:
            end(server)


def wait_until_it_answers(server: subprocess.Popen[bytes], url: str) -> None:
    """Until a server answers at an address, whatever it says, or has ended; ResourceError if it takes too long."""
    limit = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's own ports
    while server.poll() is None:
        with contextlib.suppress(OSError), opener.open(url, timeout=5):
            return
        if time.monotonic() > limit:
            raise ResourceError(f"{url} does not answer within {START_SECONDS:.0f} s.")
        time.sleep(0.2)


def wait_for_the_end(server: subprocess.Popen[bytes], *, tied: bool) -> bool:
    """Until standard input ends (True; only with `tied`) or the server does (False)."""
    over = threading.Event()

    def read() -> None:
        while os.read(0, 4096):  # not by way of sys.stdin, whose lock a process must not end with
            pass
        over.set()

    if tied:
        threading.Thread(target=read, daemon=True).start()
    while server.poll() is None:
        if over.wait(timeout=0.2):
            return True
    return False


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it has started: in order, and after ten seconds by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def main(argv: list[str] | None = None) -> None:
    """Show runs and packages in a browser of this machine."""
    parser = argument_parser("trainer.machines.viewers", main)
    parser.add_argument("what", choices=["tensorboard", "notebook"])
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--run", help="name of a run, finished or not; default: all of them")
    shown.add_argument("--package", help="zip of a run; gs:// likewise")
    shown.add_argument("--output", help="folder of packages, to compare all of them; gs:// likewise")
    parser.add_argument("--port", type=int, help="of 127.0.0.1 to listen on; default: a free one")
    parser.add_argument("--tied", action="store_true", help="end when standard input does")
    arguments = parser.parse_args(argv)
    port = arguments.port or free_port()
    if arguments.what == "notebook":
        show_notebook(port, tied=arguments.tied)
        return
    with logs(run=arguments.run, package=arguments.package, output=arguments.output) as folder:
        show_tensorboard(folder, port, tied=arguments.tied)


if __name__ == "__main__":
    run_command(main)
