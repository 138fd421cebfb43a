"""Cache encoded rows on disk, so that the next run on the same files with the same settings starts at once.

An entry is a folder: arrays as .npy files, which training maps into memory, and `entry.json` with the size and CRC-32
of each file. It is written under a temporary name and renamed when it is complete. A damaged entry is removed, and the
caller encodes the rows again. When the cache exceeds its limit, the least recently used entries are removed, except for
those that a run holds: a lock on the folder of an entry lasts as long as its arrays are in use.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.runtime import system
from trainer.runtime.command import amount
from trainer.runtime.errors import StorageError

FOLDER = Path("cache")
FACTS = "entry.json"
PART = ".part-"  # prefix of entries that are being written, or that a killed run left behind
PART_SECONDS = 24 * 3600  # after which an unfinished entry is removed
CHECK_BYTES = 2**24  # read per step of a checksum

Array = npt.NDArray[Any]


def key_of(settings: Mapping[str, Any], identities: Mapping[str, Any], code: Mapping[str, str]) -> str:
    """The name of an entry, 32 hex digits: another setting, dataset or version of the code gives another key.

    identities: of each dataset, JSON values that change with its rows. code: hashes of the files that decide what the
    entry holds, and versions of packages.
    """
    parts = {"settings": dict(settings), "data": dict(identities), "code": dict(code)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Entry:
    """A cache entry that is being written: any number of named arrays. `find` returns it once it is saved."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / key
        self.part = folder / f"{PART}{key}-{time.time_ns()}"
        self.files: set[str] = set()
        system.create_folder(self.part)
        self.handle = system.hold(self.part)

    def empty(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A new array to fill, mapped to a file of the entry. ResourceError if the disk has too little space."""
        self.files.add(f"{name}.npy")
        return system.array_file(self.part / f"{name}.npy", shape, dtype)

    def save(self, facts: Mapping[str, Any]) -> dict[str, Array]:
        """Write the facts and give the entry its final name; returns the arrays, mapped from their files.

        If another run has saved the same entry first, that one stays. StorageError if the entry was removed meanwhile.
        """
        with system.disk_errors("reading", self.part):
            files = {path.name: _check(path) for path in sorted(self.part.iterdir())}
        if not self.files <= files.keys():
            raise removed(self.part)
        system.write_atomic(self.part / FACTS, json.dumps({"facts": dict(facts), "files": files}).encode())
        system.rename_folder(self.part, self.path)
        with held(self.path) as handle, system.disk_errors("reading", self.path):
            if handle is None:
                raise removed(self.path)
            return arrays_in(self.path, handle)

    def discard(self) -> None:
        """Remove an entry that was not saved."""
        system.remove(self.part)
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def removed(path: Path) -> StorageError:
    """The error for an entry that somebody has removed while it was in use."""
    return StorageError(f"{path} was removed from the cache during the run. Start the run again.")


@contextlib.contextmanager
def held(path: Path) -> Iterator[int | None]:
    """Keep other processes from making room by removing an entry; yields None if there is none."""
    handle = system.hold(path)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def find(folder: Path, key: str) -> tuple[dict[str, Any], dict[str, Array], str]:
    """Read an entry: its facts, its arrays by name, mapped from their files, and the path of a damaged file.

    Without an entry all three are empty. A damaged entry is removed and counts as missing. The entry is held for as
    long as one of the arrays exists.
    """
    path = folder / key
    try:
        with held(path) as handle:
            if handle is None:
                return {}, {}, ""
            entry = json.loads((path / FACTS).read_bytes())
            for name, check in entry["files"].items():
                if _check(path / name) != check:
                    raise ValueError(name)
            arrays = arrays_in(path, handle)
            (path / FACTS).touch()  # mark the entry as recently used
            return entry["facts"], arrays, ""
    except FileNotFoundError as error:
        if Path(error.filename or "").name == FACTS:
            return {}, {}, ""
        damaged = str(error.filename)
    except (ValueError, KeyError, TypeError, OSError) as error:
        damaged = f"{path / str(error)}"
    system.remove(path)
    return {}, {}, damaged


def arrays_in(path: Path, handle: int) -> dict[str, Array]:
    """The arrays of an entry by name, mapped from their files; each holds the entry by a copy of the handle."""
    arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in path.glob("*.npy")}
    for array in arrays.values():
        weakref.finalize(array, os.close, os.dup(handle))
    return arrays


def _check(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while piece := file.read(CHECK_BYTES):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]


def size_of(folder: Path) -> int:
    """Total size of all files below a folder, in bytes; those that vanish meanwhile do not count."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += Path(parent, name).stat().st_size
    return size


def make_room(folder: Path, size: int, limit: int, what: str = "they") -> str:
    """Remove abandoned parts and the least recently used entries, until `size` more bytes fit into the limit.

    Entries that a run holds stay. Returns the reason if the bytes do not fit, else "". limit: of the cache in bytes;
    what: the name of the new data in the reason.
    """
    if size > limit:
        return f"{what} take {amount(size)}, and cache_gb is {limit / 1e9:.3g}"
    for part in folder.glob(f"{PART}*"):
        if time.time() - last_use(part) > PART_SECONDS:
            system.remove_if_unlocked(part)
    entries = sorted((path.parent for path in folder.glob(f"*/{FACTS}")), key=lambda entry: last_use(entry / FACTS))
    sizes = {entry: size_of(entry) for entry in entries}
    total = sum(sizes.values())
    for entry, entry_size in sizes.items():
        if total + size > limit and system.remove_if_unlocked(entry):
            total -= entry_size
    if total + size > limit:
        return (
            f"{what} take {amount(size)}, and other runs are using {amount(total)} of the {amount(limit)} that "
            "cache_gb allows"
        )
    free = shutil.disk_usage(system.existing_parent(folder / "entry")).free
    if size > free:
        return f"{what} take {amount(size)}, and the disk of {folder} has {amount(free)} free"
    return ""


def last_use(path: Path) -> float:
    """When a file or folder was last changed, in seconds since 1970; now, if it has vanished."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return time.time()
