"""Describe where a package comes from: versions, commit, devices. Environment variables are never copied."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "pyarrow", "spacy")


def code_hashes(root: Path, *paths: str) -> dict[str, str]:
    """SHA-256, 16 hex digits, of Python files below `root`, by "folder/file"; a path names a file or a folder.

    Each caller names the folders that affect its result, so that a change in other code does not make the result
    invalid.
    """
    files = [file for path in paths for file in sorted((root / path).rglob("*.py")) or [root / path]]
    return {f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that affect results, by name."""
    return {name: installed for name in PACKAGES if (installed := package_version(name))}


def environment(root: Path) -> dict[str, Any]:
    """The contents of environment.json: versions of Python and of the packages that affect results, commit, devices."""
    revision = os.environ.get("FLATFAB_REVISION", "")  # the commit of the code in an image
    return {
        "python": platform.python_version(),
        "packages": package_versions(),
        "commit": git(root, "rev-parse", "HEAD") or revision.removesuffix("-dirty") or None,
        "uncommitted_changes": bool(git(root, "status", "--porcelain")) or revision.endswith("-dirty"),
        "image": os.environ.get("FLATFAB_IMAGE"),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": threads(),
        "devices": device_names(),
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


def threads() -> int | None:
    """The threads that TensorFlow computes with; None if nothing has set their number."""
    import tensorflow as tf  # noqa: PLC0415 - as below

    return int(tf.config.threading.get_intra_op_parallelism_threads()) or None


def device_names() -> list[str]:
    """The names of this machine's devices for people, such as "CPU" and "GPU NVIDIA H100"."""
    import tensorflow as tf  # noqa: PLC0415 - seconds: not where only code and versions are asked for

    names = []
    for device in tf.config.list_physical_devices():
        details = {} if device.device_type == "CPU" else tf.config.experimental.get_device_details(device)
        name = "" if device.device_type == "CPU" else f" {details.get('device_name', device.name)}"
        names.append(f"{device.device_type}{name}")
    return names
