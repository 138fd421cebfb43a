"""Encoded rows on disk, so that the next run on the same files with the same settings starts at once.

An entry is a folder: arrays as .npy files, which training maps into memory, and `entry.json` with the size and CRC-32
of each file. It is written under another name and renamed when it is whole; what is damaged is told and made anew.
The oldest entries go when all together are larger than their limit.
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

FOLDER = Path("cache")
FACTS = "entry.json"
PART = ".part-"  # entries that are being written, or were when their run was killed
PART_SECONDS = 24 * 3600  # after which these are taken for dead
CHECK_BYTES = 2**24  # read at a time

Array = npt.NDArray[Any]


def key_of(settings: Mapping[str, Any], identities: Mapping[str, Any], code: Path) -> str:
    """What an entry is kept under: another setting, dataset, or version of the code is another key.

    identities: of each dataset, what is another where the dataset is another, as JSON.
    """
    known = {
        "settings": dict(settings),
        "data": dict(identities),
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(code.rglob("*.py"))],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


class Entry:
    """An entry that is being written; `keep` makes it one that `find` finds. Any number of arrays, by name."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / key
        self.part = folder / f"{PART}{key}-{time.time_ns()}"
        system.create_folder(self.part)

    def empty(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array to fill, in a file of the entry."""
        return system.array_file(self.part / f"{name}.npy", shape, dtype)

    def keep(self, facts: Mapping[str, Any]) -> dict[str, Array]:
        """Write the facts and give the entry its name; where another run was faster, its entry stays. Returns the
        arrays as `find` does."""
        files = {path.name: _check(path) for path in sorted(self.part.iterdir())}
        system.write_atomic(self.part / FACTS, json.dumps({"facts": dict(facts), "files": files}).encode())
        system.rename_folder(self.part, self.path)
        return arrays_in(self.path)

    def drop(self) -> None:
        """Remove what was written so far."""
        system.remove(self.part)


def find(folder: Path, key: str) -> tuple[dict[str, Any], dict[str, Array], str]:
    """The facts and arrays of an entry, by name, mapped from their files; without one both are empty. The third is what
    is damaged, if something is: that entry is removed."""
    path = folder / key
    try:
        entry = json.loads((path / FACTS).read_bytes())
        for name, check in entry["files"].items():
            if _check(path / name) != check:
                raise ValueError(name)
        arrays = arrays_in(path)
        (path / FACTS).touch()  # it was used
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
    """Size and CRC-32 of a file."""
    crc = size = 0
    with path.open("rb") as file:
        while piece := file.read(CHECK_BYTES):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_room(folder: Path, wanted: int, limit: int, what: str = "the encoded rows") -> str:
    """Remove dead parts, and the entries that were not used for longest, until `wanted` bytes fit into the limit.

    Returns why they do not fit: "" where they do. what: would be kept, for this sentence.
    """
    if wanted > limit:
        return f"{what} take {wanted / 1e9:.3g} GB, and cache_gb is {limit / 1e9:.3g}"
    for part in folder.glob(f"{PART}*"):
        if time.time() - part.stat().st_mtime > PART_SECONDS:
            system.remove(part)
    entries = sorted(folder.glob(f"*/{FACTS}"), key=lambda path: path.stat().st_mtime)
    sizes = {entry.parent: size_of(entry.parent) for entry in entries}
    total = sum(sizes.values())
    for entry, size in sizes.items():
        if total + wanted > limit:
            system.remove(entry)
            total -= size
    free = shutil.disk_usage(system.existing_parent(folder / "entry")).free
    if wanted > free:
        return f"{what} take {wanted / 1e9:.3g} GB, and the disk of {folder} has {free / 1e9:.3g} GB free"
    return ""
