"""Options of every container that we create, on this machine or another: environment, credentials, network, limits."""

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import docker
from docker.types import DeviceRequest, Mount

from trainer.cloud import storage
from trainer.config.loading import ENV_PREFIX
from trainer.machines import images

LABEL = "flatfab"  # on every container that we create
STOP_SECONDS = 30  # between SIGTERM and SIGKILL
MEMORY_SHARE = 0.9  # of the machine's memory, the limit of a container
MAX_PROCESSES = 4096  # processes and threads of a container
PASSED_ON = ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "FLATFAB_GPU", "TERM")  # and all NET_ settings
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
CREDENTIALS_PATH = "/run/secrets/google.json"  # in the container
ALL_GPUS = [DeviceRequest(count=-1, capabilities=[["gpu"]])]


def environment() -> dict[str, str]:
    """The variables of this process that a container gets: settings, cloud services, and the width of the terminal."""
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX) or name in PASSED_ON}
    return passed_on | {"COLUMNS": str(shutil.get_terminal_size().columns)}


def google_credentials(path: str, uris: Iterable[str]) -> tuple[list[Mount], dict[str, str]]:
    """The mounts and variables that give a container Google credentials, if it uses a gs:// URI.

    path: of the credentials file on the engine's machine; "" without one.
    """
    if not path or not any(map(storage.is_remote, uris)):
        return [], {}
    return [Mount(CREDENTIALS_PATH, path, type="bind", read_only=True)], {CREDENTIALS: CREDENTIALS_PATH}


def network(environ: Mapping[str, str]) -> str | None:
    """The network of a container: "host" if it uses a storage emulator on this machine, else FLATFAB_DOCKER_NETWORK."""
    if images.is_loopback(environ.get("STORAGE_EMULATOR_HOST", "")):
        return "host"
    return environ.get(images.NETWORK)


def limits(client: docker.DockerClient, user: str) -> dict[str, Any]:
    """The user and the restrictions of a container. user: "uid:gid", which owns the files that it writes."""
    info = client.info()
    # A rootless engine maps its root to the user who runs it, and every other id to an unrelated one.
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    return {
        "user": "0:0" if rootless else user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - in the container
        "pids_limit": MAX_PROCESSES,
        "mem_limit": int(info.get("MemTotal", 0) * MEMORY_SHARE) if info.get("MemoryLimit") else None,
        "shm_size": "1g",  # several GPUs exchange gradients through it
    }
