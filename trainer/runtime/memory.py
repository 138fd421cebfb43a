"""How much memory this process can still take."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def available_memory() -> int:
    """Bytes that this process can still take: what the machine, its control groups and its own limits leave it."""
    return max(min(_machine_memory(), *_group_memory(), *_own_memory()), 0)


def _machine_memory() -> int:
    with contextlib.suppress(OSError):
        return _kilobytes(Path("/proc/meminfo"))["MemAvailable"] * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS


def _group_memory() -> Iterator[int]:
    """Of each control group (versions 1 and 2) that the process is in; in a container its own looks like the root."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            version_1 = "memory" in controllers.split(",")
            if controllers and not version_1:
                continue
            root = Path("/sys/fs/cgroup", "memory" if version_1 else "")
            names = (
                ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
                if version_1
                else ("max", "current", "inactive_file")
            )
            group = root / path.lstrip("/")
            for folder in {root, group, *(parent for parent in group.parents if parent.is_relative_to(root))}:
                with contextlib.suppress(OSError, KeyError, ValueError):  # a group without a limit says "max"
                    limit, usage = (int((folder / f"memory.{name}").read_text()) for name in names[:2])
                    stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                    yield limit - usage + int(stat[names[2]])  # pages of files give way


def _own_memory() -> Iterator[int]:
    with contextlib.suppress(OSError):
        used = _kilobytes(Path("/proc/self/status"))
        for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
            soft, _ = resource.getrlimit(limit)
            if soft != resource.RLIM_INFINITY:
                yield soft - used[name] * 1024


def _kilobytes(path: Path) -> dict[str, int]:
    """The entries of a file of /proc that are in kB."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}
