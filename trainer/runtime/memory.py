"""Measure how much memory this process can still allocate."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def available_memory() -> int:
    """Bytes that this process can still allocate, within the machine, its control groups and its own limits."""
    return max(min(_machine_memory(), *_group_memory(), *_own_memory()), 0)


def _machine_memory() -> int:
    with contextlib.suppress(OSError):
        return _kilobytes(Path("/proc/meminfo"))["MemAvailable"] * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS


def _group_memory() -> Iterator[int]:
    """Bytes left in each control group (version 1 or 2) of this process, up to the root.

    In a container its own group appears as the root.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                yield from _groups_up_from(path, Path("/sys/fs/cgroup"), ("max", "current", "inactive_file"))
            elif "memory" in controllers.split(","):
                names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
                yield from _groups_up_from(path, Path("/sys/fs/cgroup/memory"), names)


def _groups_up_from(path: str, root: Path, names: tuple[str, str, str]) -> Iterator[int]:
    """Bytes left in a control group and in those above it; names: of its limit, its usage and its file pages."""
    group = root / path.lstrip("/")
    for folder in {root, group, *(parent for parent in group.parents if parent.is_relative_to(root))}:
        with contextlib.suppress(OSError, KeyError, ValueError):  # without a limit the file contains "max"
            limit, usage = (int((folder / f"memory.{name}").read_text()) for name in names[:2])
            stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
            yield limit - usage + int(stat[names[2]])  # the system drops cached pages of files when memory runs short


def _own_memory() -> Iterator[int]:
    """Bytes left by the limits of the process itself (`ulimit`)."""
    with contextlib.suppress(OSError):
        used = _kilobytes(Path("/proc/self/status"))
        for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            soft, _ = resource.getrlimit(limit)
            if soft != resource.RLIM_INFINITY:
                yield soft - used[name] * 1024


def _kilobytes(path: Path) -> dict[str, int]:
    """The entries of a /proc file that are in kB."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}
