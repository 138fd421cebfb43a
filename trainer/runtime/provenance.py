"""Where a package comes from: versions, commit, machine. Never the value of an environment variable."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "pyarrow", "spacy")


def environment(root: Path) -> dict[str, Any]:
    """Versions of Python and of the packages that decide results, the git commit, and the devices of this machine."""
    revision = os.environ.get("FLATFAB_REVISION", "")  # of the code in an image
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "commit": git(root, "rev-parse", "HEAD") or revision.removesuffix("-dirty") or None,
        "uncommitted_changes": bool(git(root, "status", "--porcelain")) or revision.endswith("-dirty"),
        "image": os.environ.get("FLATFAB_IMAGE"),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [device_name(device) for device in tf.config.list_physical_devices()],
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository, as in an image."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_name(device: tf.config.PhysicalDevice) -> str:
    if device.device_type == "CPU":
        return "CPU"
    details = tf.config.experimental.get_device_details(device)
    return f"{device.device_type} {details.get('device_name', device.name)}"
