"""Choose the files of a dataset: one file, the files in a folder, or what a pattern matches, here or in a bucket.

Files in a folder hold rows if their name ends in .json, .ndjson or .jsonl, plain or with .gz, or has no other suffix
and ends in the number of a shard, as BigQuery, Hive and Spark write it: clicks-000000000000, part-00000.gz. Folders
such as day=2026-01-31/ belong to the folder they are in. A file that is named itself holds rows, whatever its name.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from trainer.data.partitions import is_partition
from trainer.runtime.errors import DataError, StorageError

SHARD = re.compile(r".*\.(json|ndjson|jsonl)(\.gz)?|[^._][^.]*[0-9]{2}(\.gz)?")
NO_SHARD = re.compile(r"\..*|schema\.json|dataset\.json|.*\.truth\.json")
BESIDE = re.compile(
    r"[._].*|schema\.json|dataset\.json|.*\.truth\.json|(README|LICENSE|NOTICE).*|.*\.(md|py|ipynb|sql)"
)
GLOB = re.compile(r"[*?\[]")
NAMES_SHOWN = 5
FILES = "*.json, *.ndjson or *.jsonl files, plain or with .gz"


def find_shards(path: str | Path) -> list[Path]:
    """The files of a dataset on this machine, sorted, each once, in however many ways a path leads to it.

    Raises StorageError if there is nothing of that name, DataError if there is no file with rows.
    """
    path = Path(path)
    try:
        if path.is_file():
            return [path]
        if path.exists() and not path.is_dir():
            kind = "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"
            raise StorageError(f"{path} is {kind}, but rows are read more than once. Save them to a file first.")
        folders = folders_of(path)
        files = [] if path.is_dir() else [match for match in matches(path) if is_file_with_rows(match, named=True)]
        shards = {*files, *(shard for folder in folders for shard in shards_in(folder))}
        if not shards:
            raise DataError(f"{str(path)!r} has no {FILES}. {_listing(path if path.is_dir() else path.parent)}")
        return sorted({shard.resolve(): shard for shard in sorted(shards, reverse=True)}.values())
    except OSError as error:
        raise StorageError(f"Cannot list {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise StorageError(f"{str(path)!r} cannot be read as a file, folder or pattern: {error}.") from error


def matches(path: Path) -> list[Path]:
    """What a pattern matches; StorageError if that is nothing."""
    paths = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not paths:
        raise StorageError(f"There is no file or folder {str(path)!r}. {_listing(path.parent)}")
    return paths


def folders_of(path: Path) -> list[Path]:
    """The folders that a path or pattern means: where it matches files, too, those of a column and its value alone."""
    if path.is_file():
        return []
    if path.is_dir():
        return [path]
    paths = matches(path)
    beside_files = any(is_file_with_rows(match, named=True) for match in paths)
    return [match for match in paths if match.is_dir() and (is_partition(match.name) or not beside_files)]


def is_file_with_rows(path: Path, *, named: bool) -> bool:
    """Whether a file holds rows by its name. named: a pattern matches the name, which then may have any suffix."""
    return path.is_file() and not NO_SHARD.fullmatch(path.name) and bool(named or SHARD.fullmatch(path.name))


def shards_in(folder: Path) -> Iterator[Path]:
    """The files with rows in a folder, and in the folders of a column and its value below it."""
    for child in folder.iterdir():
        if is_file_with_rows(child, named=False):
            yield child
        elif is_partition(child.name) and child.is_dir():
            yield from shards_in(child)


def not_read(path: str) -> list[str]:
    """What the folders of a dataset on this machine hold that might be rows, but is not read; files known to describe
    rows or code are left out."""
    shards = set(find_shards(path))
    folders = folders_of(Path(path))
    beside = {child for folder in (*folders, *(shard.parent for shard in shards)) for child in folder.iterdir()}
    others = (child for child in beside - shards if folders and not BESIDE.fullmatch(child.name))
    return sorted(
        os.path.relpath(child, folders[0]) + "/" * child.is_dir()
        for child in others
        if (child.is_file() or (child.is_dir() and not is_partition(child.name) and any(_files_below(child))))
    )


def _files_below(folder: Path) -> Iterator[str]:
    return (name for _, _, names in os.walk(folder) for name in names if not BESIDE.fullmatch(name))


def select(names: Iterable[str], pattern: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of objects that hold rows, and others that might, but are not read; as here, from one list of names.

    names: below a folder, with slashes. pattern: the parts of a pattern below the folder; none: the folder itself.
    """
    places = [name.split("/") for name in names]
    depth = len(pattern)
    below = [parts for parts in places if len(parts) >= depth and all(map(fnmatchcase, parts[:depth], pattern))]
    files = [parts for parts in below if depth and len(parts) == depth and not NO_SHARD.fullmatch(parts[-1])]
    folders = [
        parts for parts in below if len(parts) > depth and (not files or (depth and is_partition(parts[depth - 1])))
    ]
    rows = [
        parts
        for parts in folders
        if all(map(is_partition, parts[depth:-1])) and SHARD.fullmatch(parts[-1]) and not NO_SHARD.fullmatch(parts[-1])
    ]
    chosen = sorted([*files, *rows])
    others = {_unread(parts, depth) for parts in folders if parts not in rows and not BESIDE.fullmatch(parts[-1])}
    return ["/".join(parts) for parts in chosen], sorted(others)


def _unread(parts: Sequence[str], depth: int) -> str:
    """The first part of a name that is not read: the object, or the folder that is none of a column and its value."""
    end = next((end for end in range(depth, len(parts) - 1) if not is_partition(parts[end])), len(parts) - 1)
    return "/".join(parts[: end + 1]) + "/" * (end < len(parts) - 1)


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no folder {str(folder)!r} either. Correct the path."
    names = sorted(child.name + "/" * child.is_dir() for child in folder.iterdir())
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    hint = " Name the file or folder that holds the rows."
    if data := next((name for name in names if name in ("dataset.json", "schema.json")), ""):
        hint = f" If {data} holds rows, name the file itself."
    return f"{str(folder)!r} holds {', '.join(names[:10]) or 'nothing'}{more}.{hint}"
