"""What `fab cluster-up`, `cluster-status` and `cluster-down` do on a machine: its node of a Ray cluster.

The text of this file goes to Python there, by ssh, so it needs nothing but the standard library and Ray.
"""

import contextlib
import importlib.util
import ipaddress
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NODES = Path(".cluster")  # in the folder of the cluster: a file for each node
TOKEN_FILE = Path("cluster-token")  # the same as in trainer.search.ray_checks
START_SECONDS = 180
STOP_SECONDS = 60


def look(folder: str, name: str, mark: str, *, first: bool) -> dict[str, Any]:
    """The facts about this machine. mark: what the first machine writes into the folder, for the others to find."""
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    os.chdir(path)
    NODES.mkdir(mode=0o700, exist_ok=True)
    if first:
        (NODES / "mark").write_text(mark)
    seen = (NODES / "mark").read_text() if (NODES / "mark").exists() else ""
    return {
        "address": os.environ["SSH_CONNECTION"].split()[2],  # the one that this ssh connection goes to
        "folder": str(path.resolve()),
        "python": platform.python_version(),
        "ray": installed("ray"),
        "tensorflow": installed("tensorflow") or installed("tensorflow-cpu"),
        "shared": seen == mark,
        "running": process_of(name) is not None,
    }


def installed(package: str) -> str:
    """The version of a package; "" without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def up(folder: str, name: str, token: str, address: str, port: int, head: str, first_port: int) -> dict[str, Any]:
    """Start a node. address: of this machine; head: HOST:PORT of the cluster, "" if this is the head.

    port: of the head. first_port: the others follow it. Returns what the node listens on, or its error.
    """
    os.chdir(Path(folder).expanduser())
    if not head:
        write_secret(TOKEN_FILE, token)
    role = (
        [f"--address={head}"]
        if head
        else ["--head", "--include-dashboard=false", f"--port={port}", f"--ray-client-server-port={first_port + 7}"]
    )
    names = ("node-manager", "object-manager", "runtime-env-agent", "dashboard-agent-grpc", "dashboard-agent-listen",
             "metrics-export")  # fmt: skip
    ports = [f"--{one}-port={first_port + place}" for place, one in enumerate(names, 1)]
    ports += [f"--min-worker-port={first_port + 20}", f"--max-worker-port={first_port + 919}"]
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role, *ports, f"--node-ip-address={address}",
        "--include-log-monitor=false", "--disable-usage-stats", "--log-style=record",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | secret | {"PYTHONPATH": str(Path.cwd())}
    log = NODES / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    record = {
        "pid": process.pid,
        "created": created(process.pid),
        "address": head or f"{address}:{port}",
        "head": not head,
    }
    (NODES / f"{name}.json").write_text(json.dumps(record))
    if error := wait_for_start(process, log):
        down(folder, name)
        return {"error": error}
    return {"listening": listening(process.pid), "public": public_addresses(), "cpus": len(os.sched_getaffinity(0))}


def wait_for_start(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until a node has started; returns why it did not, "" if it did."""
    end = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in (text := log.read_text(errors="replace")):
        if process.poll() is not None:
            lines = [line for line in text.splitlines() if line.strip()] or [f"exit code {process.returncode}"]
            return lines[-1].rpartition(" -- ")[2]
        if time.monotonic() > end:
            return f"it has not started within {START_SECONDS} seconds. Its log is {log.resolve()}"
        time.sleep(0.2)
    return ""


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)


def down(folder: str, name: str) -> dict[str, Any]:
    """Stop the node of this machine, and wait for the end of all its processes."""
    os.chdir(Path(folder).expanduser())
    process = process_of(name)
    (NODES / f"{name}.json").unlink(missing_ok=True)
    if process is None:
        return {"stopped": False}
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil().wait_procs(family, timeout=STOP_SECONDS)
    for one in alive:
        with contextlib.suppress(psutil().NoSuchProcess):
            one.kill()
    return {"stopped": True}


def status(folder: str, name: str) -> dict[str, Any]:
    """The node of this machine."""
    path = Path(folder).expanduser()
    if not path.exists():
        return {"running": False}
    os.chdir(path)
    process = process_of(name)
    if process is None:
        return {"running": False}
    workers = [one for one in process.children(recursive=True) if one.name().startswith("ray::Worker")]
    return {
        "running": True, "since": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(process.create_time())),
        "workers": len(workers), **json.loads((NODES / f"{name}.json").read_text()),
    }  # fmt: skip


def process_of(name: str) -> Any:
    """The process of the node that `up` started; None if it has ended."""
    path = NODES / f"{name}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    same = created(record["pid"]) == record["created"]  # otherwise another process has its number now
    return psutil().Process(record["pid"]) if same else None


def created(pid: int) -> float | None:
    """When a process began; None if there is none, or if it has ended."""
    try:
        process = psutil().Process(pid)
        return None if process.status() == "zombie" else float(process.create_time())
    except psutil().NoSuchProcess:
        return None


def listening(pid: int) -> list[str]:
    """The addresses and ports that a process and its children listen on."""
    process = psutil().Process(pid)
    found = set()
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil().Error):
            found |= {f"{of.laddr.ip}:{of.laddr.port}" for of in one.net_connections("tcp") if of.status == "LISTEN"}
    return sorted(found)


def public_addresses() -> list[str]:
    """The addresses of this machine that the internet may reach."""
    addresses = [of.address.partition("%")[0] for card in psutil().net_if_addrs().values() for of in card]
    return [address for address in addresses if is_public(address)]


def is_public(address: str) -> bool:
    """Whether the internet may reach an address."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # that of a network card
        return False


def psutil() -> Any:
    """The module psutil, of which Ray has a copy."""
    spec = importlib.util.find_spec("ray")
    if spec and spec.origin and (place := str(Path(spec.origin).parent / "thirdparty_files")) not in sys.path:
        sys.path.append(place)
    return importlib.import_module("psutil")
