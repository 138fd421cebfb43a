"""Cache encoded rows on disk, so that the next run on the same files with the same settings starts at once.

An entry is a folder: arrays as .npy files, which training maps into memory, and `entry.json` with the size and CRC-32
of each file. It is written under a temporary name and renamed when it is complete. A damaged entry is removed, and the
caller encodes the rows again. When the cache exceeds its limit, the least recently used entries are removed.
"""

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.runtime import system
from trainer.runtime.command import amount

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
        system.create_folder(self.part)

    def empty(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A new array to fill, mapped to a file of the entry. ResourceError if the disk has too little space."""
        return system.array_file(self.part / f"{name}.npy", shape, dtype)

    def save(self, facts: Mapping[str, Any]) -> dict[str, Array]:
        """Write the facts and give the entry its final name; returns the arrays, mapped from their files.

        If another run has saved the same entry first, that one stays.
        """
        files = {path.name: _check(path) for path in sorted(self.part.iterdir())}
        system.write_atomic(self.part / FACTS, json.dumps({"facts": dict(facts), "files": files}).encode())
        system.rename_folder(self.part, self.path)
        return arrays_in(self.path)

    def discard(self) -> None:
        """Remove an entry that was not saved."""
        system.remove(self.part)


def find(folder: Path, key: str) -> tuple[dict[str, Any], dict[str, Array], str]:
    """Read an entry: its facts, its arrays by name, mapped from their files, and the path of a damaged file.

    Without an entry all three are empty. A damaged entry is removed and counts as missing.
    """
    path = folder / key
    try:
        entry = json.loads((path / FACTS).read_bytes())
        for name, check in entry["files"].items():
            if _check(path / name) != check:
                raise ValueError(name)
        arrays = arrays_in(path)
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


def arrays_in(path: Path) -> dict[str, Array]:
    """The arrays of an entry by name, mapped from their files."""
    return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in path.glob("*.npy")}


def _check(path: Path) -> list[int]:
    """Size in bytes and CRC-32 of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while piece := file.read(CHECK_BYTES):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]


def size_of(folder: Path) -> int:
    """Total size of all files below a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_room(folder: Path, size: int, limit: int, what: str = "they") -> str:
    """Remove abandoned parts and the least recently used entries, until `size` more bytes fit into the limit.

    Returns the reason if they do not fit, else "". limit: of the cache in bytes; what: the name of the new data in the
    reason.
    """
    if size > limit:
        return f"{what} take {amount(size)}, and cache_gb is {limit / 1e9:.3g}"
    for part in folder.glob(f"{PART}*"):
        if time.time() - part.stat().st_mtime > PART_SECONDS:
            system.remove(part)
    entries = sorted(folder.glob(f"*/{FACTS}"), key=lambda path: path.stat().st_mtime)
    sizes = {entry.parent: size_of(entry.parent) for entry in entries}
    total = sum(sizes.values())
    for entry, entry_size in sizes.items():
        if total + size > limit:
            system.remove(entry)
            total -= entry_size
    free = shutil.disk_usage(system.existing_parent(folder / "entry")).free
    if size > free:
        return f"{what} take {amount(size)}, and the disk of {folder} has {amount(free)} free"
    return ""
