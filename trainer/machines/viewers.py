"""Show runs and packages in a browser: `python -m trainer.machines.viewers tensorboard`, or `notebook`.

Both servers listen on 127.0.0.1 only and end with this process. TensorBoard has no login: every user of this machine
can read what it shows. Notebooks can run any code, so they need a token, which is part of the printed address.
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
from trainer.config import names
from trainer.data import sources
from trainer.package import archive
from trainer.package.publish import RUNS
from trainer.runtime import signals, system
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import ConfigError, Interrupted, ResourceError, StorageError
from trainer.search import hparams
from trainer.search.plan import SEARCHES

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PACKAGES = Path("packages")
EXAMPLE = "look_into_a_package.ipynb"
START_SECONDS = 120.0  # how long a server may take to answer
LOGS = "tensorboard/"  # prefix of the logs in a package

# TensorBoard imports TensorFlow, which takes seconds, unless it finds the module `notf`. It needs TensorFlow only for
# logs in buckets, and for checkpoints in the projector.
TENSORBOARD = (
    "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf'); "
    "from tensorboard.main import run_main; run_main()"
)


@contextlib.contextmanager
def log_folder(
    *, run: str | None = None, search: str | None = None, package: str | None = None, output: str | None = None
) -> Iterator[Path]:
    """The folder of logs for TensorBoard: of a run, a search, a package, all packages in a folder or bucket, or all
    runs.

    Packages are unpacked for the length of the block. StorageError if there is nothing to show.
    """
    if package or output:
        packages = [package] if package else packages_in(str(output))
        with tempfile.TemporaryDirectory() as folder:
            for uri in packages:
                with sources.local_file(uri) as path:
                    members = archive.read_package(path, wanted=lambda name: name.startswith(LOGS))
                logs = {name.removeprefix(LOGS): data for name, data in members.items()}
                archive.extract(logs, Path(folder) / uri.rpartition("/")[2].removesuffix(".zip"))
            yield Path(folder)
        return
    if search:
        names.check_name(search, "search")
        folder_of_search = SEARCHES / search / hparams.FOLDER
        if not folder_of_search.is_dir():
            raise StorageError(f"There is no folder {folder_of_search}. `fab tune --name={search}` writes it.")
        yield folder_of_search
        return
    if run:
        names.check_name(run, "run")
    folder_of_runs = RUNS / run if run else RUNS
    if not folder_of_runs.is_dir():
        raise StorageError(f"There is no folder {folder_of_runs}. Train a model first: `fab train`.")
    yield folder_of_runs


def packages_in(output: str) -> list[str]:
    """The packages directly in a folder or gs:// prefix. StorageError if there are none."""
    uris = [stored.uri for stored in storage.entries(output)]
    packages = [uri for uri in uris if uri.endswith(".zip") and storage.join(output, uri.rpartition("/")[2]) == uri]
    if not packages:
        raise StorageError(f"There are no packages in {output}. Check the path.")
    return packages


def show_tensorboard(folder: Path, port: int, *, until_stdin_closes: bool) -> None:
    """Serve TensorBoard for a folder of logs until a stop signal."""
    command = ["-c", TENSORBOARD, f"--logdir={folder}", f"--host={HOST}", f"--port={port}"]
    serve(command, "TensorBoard", f"http://{HOST}:{port}/", until_stdin_closes=until_stdin_closes)


def show_notebook(port: int, *, until_stdin_closes: bool) -> None:
    """Serve JupyterLab in the folder of packages, with the example notebook in it, until a stop signal."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigError("JupyterLab is not installed. Install it: .venv/bin/pip install '.[notebook]'")
    if not (PACKAGES / EXAMPLE).exists():
        system.write_atomic(PACKAGES / EXAMPLE, (ROOT / "data" / EXAMPLE).read_bytes())
    token = secrets.token_urlsafe(24)  # goes by environment variable: other users can read command lines
    options = {
        "ServerApp.ip": HOST, "ServerApp.port": port, "ServerApp.port_retries": 0, "ServerApp.open_browser": False,
        "ServerApp.root_dir": PACKAGES.absolute(), "ServerApp.allow_root": True, "ServerApp.log_level": "ERROR",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }  # fmt: skip
    command = ["-m", "jupyterlab", *(f"--{name}={value}" for name, value in options.items())]
    url = f"http://{HOST}:{port}/lab/tree/{EXAMPLE}?token={token}"
    serve(command, "notebook", url, until_stdin_closes=until_stdin_closes, JUPYTER_TOKEN=token)


def serve(command: list[str], name: str, url: str, *, until_stdin_closes: bool, **variables: str) -> None:
    """Run a Python server until a stop signal, then end it and its children. ResourceError if it does not start.

    variables: further environment variables. until_stdin_closes: stop, too, when standard input is closed.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=signals.ending_with_parent(),  # noqa: PLW1509 - no other thread runs yet
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"} | variables,
        )  # fmt: skip
        try:
            wait_until_up(server, url.partition("?")[0])
            if server.poll() is None:
                say(name, f"{url}  Press Ctrl-C to stop.")
                if wait_until_closed(server, until_stdin_closes=until_stdin_closes):
                    return
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
            raise ResourceError(f"{name} has ended: {lines[-1] if lines else 'it printed no reason'}")
        except Interrupted:
            return  # Ctrl-C is how one closes a viewer
        finally:
            end_server(server)


def wait_until_up(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a server answers at an address, or has ended. ResourceError after `START_SECONDS`."""
    limit = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    while server.poll() is None:
        with contextlib.suppress(OSError), opener.open(url, timeout=5):
            return
        if time.monotonic() > limit:
            raise ResourceError(f"{url} does not answer within {START_SECONDS:.0f} s.")
        time.sleep(0.2)


def wait_until_closed(server: subprocess.Popen[bytes], *, until_stdin_closes: bool) -> bool:
    """Wait until the server ends (returns False) or, if asked, standard input is closed (returns True)."""
    closed = threading.Event()

    def read() -> None:
        while os.read(0, 4096):  # not sys.stdin: a process that exits while a thread holds its lock crashes
            pass
        closed.set()

    if until_stdin_closes:
        threading.Thread(target=read, daemon=True).start()
    while server.poll() is None:
        if closed.wait(timeout=0.2):
            return True
    return False


def end_server(server: subprocess.Popen[bytes]) -> None:
    """End a server and its children: SIGTERM, and after ten seconds SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=10)


def free_port() -> int:
    """A port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def main(argv: list[str] | None = None) -> None:
    """Show runs and packages in a browser on this machine."""
    parser = argument_parser("trainer.machines.viewers", main)
    parser.add_argument("viewer", choices=["tensorboard", "notebook"])
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--run", help="name of a run, finished or not; default: all runs")
    shown.add_argument("--search", help="name of a search: its settings and metrics in the tab HParams")
    shown.add_argument("--package", help="package to show, a path or gs://")
    shown.add_argument("--output", help="folder of packages to compare, a path or gs://")
    parser.add_argument("--port", type=int, help="port of 127.0.0.1; default: a free one")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input is closed")
    arguments = parser.parse_args(argv)
    port = arguments.port or free_port()
    if arguments.viewer == "notebook":
        show_notebook(port, until_stdin_closes=arguments.until_stdin_closes)
        return
    logs = {name: getattr(arguments, name) for name in ("run", "search", "package", "output")}
    with log_folder(**logs) as folder:
        show_tensorboard(folder, port, until_stdin_closes=arguments.until_stdin_closes)


if __name__ == "__main__":
    run_command(main)
