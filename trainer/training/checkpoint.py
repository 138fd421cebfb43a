"""Save and load checkpoints: folders that are written completely or not at all.

    checkpoints/00000042/   state.bin      all variables, one after the other
                            best.bin       the weights of the best epoch
                            progress.json  the progress of the training, and the dtype and shape of each array
                            manifest.json  size and SHA-256 of the other files

The two newest are kept. If the newest one is damaged, the one before it is used.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.runtime import system
from trainer.runtime.errors import StorageError

FOLDER = "checkpoints"  # in the folder of a run
GENERATIONS = 2
FILES = ("state.bin", "best.bin", "progress.json")
MANIFEST = "manifest.json"
PART = ".part"

Arrays = Mapping[str, npt.NDArray[Any]]


class Checkpoint(NamedTuple):
    """The progress of a training as JSON values, and its arrays by name."""

    progress: dict[str, Any]
    state: Arrays
    best: Arrays  # empty before the first epoch has ended


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint durably, then remove all but the two newest. ResourceError or StorageError on failure."""
    numbers = numbers_in(folder)
    number = numbers[-1] + 1 if numbers else 1
    part, size = folder / PART, sum(array.nbytes for array in (*checkpoint.state.values(), *checkpoint.best.values()))
    system.remove(part)
    system.create_folder(part)
    pieces: dict[str, Iterable[bytes | memoryview]] = {}
    index = {}
    for file, arrays in (("state.bin", checkpoint.state), ("best.bin", checkpoint.best)):
        pieces[file] = map(bytes_of, arrays.values())
        index[file] = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    progress = {"number": number, "progress": checkpoint.progress, "index": index}
    pieces["progress.json"] = [json.dumps(progress).encode()]
    try:
        manifest = {name: system.write_pieces(part / name, parts) for name, parts in pieces.items()}
        system.write_pieces(part / MANIFEST, [json.dumps(manifest).encode()])
        for name in (*FILES, MANIFEST):
            system.fsync(part / name)
    except OSError as error:
        system.remove(part)
        raise system.storage_error("writing", folder / f"{number:08}", error, size) from error
    system.rename_folder(part, folder / f"{number:08}")
    keep_newest(folder, GENERATIONS)


def keep_newest(folder: Path, generations: int) -> None:
    """Remove all checkpoints but the newest `generations`."""
    for number in numbers_in(folder)[:-generations]:
        system.remove(folder / f"{number:08}")


def load(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest undamaged checkpoint, and the damaged files of newer ones.

    None if the folder has no checkpoint; StorageError if all of them are damaged.
    """
    damaged: list[str] = []
    for number in reversed(numbers_in(folder)):
        path = folder / f"{number:08}"
        try:
            return read(path, number), damaged
        except OSError as error:
            damaged.append(str(error.filename or path))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            damaged.append(f"{path}/{error.args[0] if error.args and error.args[0] in FILES else MANIFEST}")
    if damaged:
        raise StorageError(
            f"No checkpoint in {folder} can be used: {', '.join(damaged)} are damaged. Start again with --restart."
        )
    return None, []


def read(path: Path, number: int) -> Checkpoint:
    """Read and verify a checkpoint; ValueError with the name of the damaged file."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    files = {}
    for name in FILES:
        files[name] = (path / name).read_bytes()
        if [hashlib.sha256(files[name]).hexdigest(), len(files[name])] != manifest[name]:
            raise ValueError(name)
    record = json.loads(files["progress.json"])
    if record["number"] != number:
        raise ValueError("progress.json")
    arrays = [arrays_of(files[name], record["index"][name]) for name in ("state.bin", "best.bin")]
    return Checkpoint(record["progress"], *arrays)


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the checkpoints in a folder, ascending."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(path.name) for path in folder.iterdir() if len(path.name) == 8 and path.name.isdecimal())
    return []


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array in C order."""
    flat: Any = np.ascontiguousarray(array).reshape(-1)
    return memoryview(flat).cast("B") if array.size else memoryview(b"")


def arrays_of(data: bytes, index: Mapping[str, list[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name from their concatenated bytes.

    index: name -> [dtype, shape], in the order of the bytes.
    """
    arrays, start = {}, 0
    for name, (dtype, shape) in index.items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, np.dtype(dtype), count, start).reshape(shape)
        start += arrays[name].nbytes
    return arrays


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line per name whose values differ between two records; a missing value counts as None."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name}: {json.dumps(before.get(name))} before, {json.dumps(now.get(name))} now" for name in names]
