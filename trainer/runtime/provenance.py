"""Describe where a package comes from: versions, commit, devices. Environment variables are never copied."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "pyarrow", "spacy")


def environment(root: Path) -> dict[str, Any]:
    """The contents of environment.json: versions of Python and of the packages that affect results, commit, devices."""
    revision = os.environ.get("FLATFAB_REVISION", "")  # the commit of the code in an image
    return {
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := package_version(name))},
        "commit": git(root, "rev-parse", "HEAD") or revision.removesuffix("-dirty") or None,
        "uncommitted_changes": bool(git(root, "status", "--porcelain")) or revision.endswith("-dirty"),
        "image": os.environ.get("FLATFAB_IMAGE"),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [device_name(device) for device in tf.config.list_physical_devices()],
    }


def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git(root: Path, *arguments: str) -> str | None:
    """The output of a git command; None without git or a repository, as in an image."""
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_name(device: tf.config.PhysicalDevice) -> str:
    """The name of a device for people, such as "GPU NVIDIA H100"."""
    if device.device_type == "CPU":
        return "CPU"
    details = tf.config.experimental.get_device_details(device)
    return f"{device.device_type} {details.get('device_name', device.name)}"
