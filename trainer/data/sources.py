"""Find a dataset on this machine or in a bucket, and provide a local path to read it from.

Objects of a bucket are fetched into the cache, each version once:

    cache/KEY/entry.json    the objects and their generations
    cache/KEY/schema.json   if it is above the shards
    cache/KEY/data/         the shards, and the files beside them: schema.json, dataset.json

A copy gets its final name when it is complete; the key is made from the names and generations of its objects.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.cloud.transfer import crc32c_of_file
from trainer.data import dataset_manifest
from trainer.data.dataset_manifest import Inventory
from trainer.data.loaded import Dataset
from trainer.data.schema import Field, parse_schema, read_schema
from trainer.data.shards import NO_SHARD, SHARD, find_shards
from trainer.runtime import cache, system
from trainer.runtime.command import say
from trainer.runtime.errors import DataError

DATA = "data"
DESCRIPTIONS = ("schema.json", "dataset.json")
GLOB = re.compile(r"[*?\[]")


class Source(NamedTuple):
    """A dataset and the files or objects that it consists of."""

    path: str  # file, folder or glob; or the same below gs://
    shards: tuple[Stored, ...]
    descriptions: tuple[Stored, ...]  # schema.json and dataset.json beside the shards, or schema.json above them
    inventories: tuple[Inventory, ...] = ()  # the lists of shards in dataset.json

    @property
    def remote(self) -> bool:
        return storage.is_remote(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether the source is a folder with all its shards, not one file or a selection."""
        return not GLOB.search(self.path) and self.shards[0].uri != self.path

    @property
    def identity(self) -> list[Any]:
        """JSON values that change when the dataset changes. A file is identified by name, size, inode and the times of
        its last changes, as make and git do: hashing 4 GB would take longer than the cache saves."""
        if self.remote:
            return [list(stored) for stored in (*self.shards, *self.descriptions)]
        files = [(Path(stored.uri), Path(stored.uri).stat()) for stored in (*self.shards, *self.descriptions)]
        return [[path.name, is_.st_size, is_.st_ino, is_.st_mtime_ns, is_.st_ctime_ns] for path, is_ in files]


def look_up(path: str) -> Source:
    """Find a dataset without reading rows. DataError or StorageError if there is none, or if its shards differ from the
    list in the dataset.json next to them."""
    source = look_up_in_bucket(path) if storage.is_remote(path) else look_up_here(path)
    source = source._replace(inventories=tuple(dataset_manifest.inventories(source.shards)))
    dataset_manifest.check_shards(source.inventories, source.shards, complete=source.is_complete)
    return source


def fields_of(source: Source) -> dict[str, Field] | None:
    """The fields of a dataset's schema.json; None without one. Reads and fetches no rows."""
    if not source.remote:
        return read_schema(Path(os.path.commonpath([Path(shard.uri).resolve().parent for shard in source.shards])))
    uri = next((stored.uri for stored in source.descriptions if stored.uri.endswith("/schema.json")), None)
    return parse_schema(storage.read(uri), uri) if uri else None


def check_rows(source: Source, dataset: Dataset) -> None:
    """DataError if the rows read differ from dataset.json."""
    rows = dataset.rows_read + dataset.bad_rows
    dataset_manifest.check_rows(source.inventories, source.shards, dataset.shards, rows, complete=source.is_complete)


def look_up_here(path: str) -> Source:
    """Find a dataset on this machine."""
    shards = find_shards(path)
    folders = sorted({folder for shard in shards for folder in (shard.parent, shard.parent.parent)})
    beside = [folder / name for folder in folders for name in DESCRIPTIONS if (folder / name).is_file()]
    return Source(path, tuple(map(storage.stored_file, shards)), tuple(map(storage.stored_file, beside)))


def look_up_in_bucket(uri: str) -> Source:
    """Find a dataset in a bucket: an object, the shards directly below a prefix, or the matches of a glob pattern in
    the last part of the name."""
    above, _, last = uri.rpartition("/")
    single = None if not last or GLOB.search(last) else storage.find(uri)
    folder = above if single or GLOB.search(last) else uri.rstrip("/")
    below = {
        name: stored
        for stored in storage.entries(f"{folder}/")
        if (name := stored.uri.removeprefix(f"{folder}/")) and "/" not in name
    }
    if single:
        shards = [single]
    else:
        shards = [
            stored
            for name, stored in below.items()
            if not NO_SHARD.fullmatch(name)
            and (fnmatchcase(name, last) if GLOB.search(last) else SHARD.fullmatch(name))
        ]
    if not shards:
        names = [*sorted(below)[:10], *(["more"] if len(below) > 10 else [])]
        raise DataError(
            f"{uri} has no *.json, *.ndjson or *.jsonl files, plain or with .gz. "
            f"{folder}/ holds {', '.join(names) or 'nothing'}."
        )
    descriptions = [below[name] for name in DESCRIPTIONS if name in below]
    bucket, _, path = folder.removeprefix("gs://").partition("/")
    if "schema.json" not in below and path:
        higher = path.rpartition("/")[0]
        schema = storage.find("/".join(part for part in (f"gs://{bucket}", higher, "schema.json") if part))
        descriptions += [schema] if schema else []
    return Source(uri, tuple(shards), tuple(descriptions))


@contextlib.contextmanager
def local(source: Source, folder: Path, limit: int) -> Iterator[str]:
    """A local path of a dataset. A dataset in a bucket is downloaded into the cache, `folder`; if it is larger than the
    `limit` of the cache in bytes, it is removed at the end of the block."""
    if not source.remote:
        yield source.path
        return
    key = hashlib.sha256(json.dumps([source.path, source.identity]).encode()).hexdigest()[:32]
    copy = folder / key
    size = sum(stored.size for stored in source.shards)
    keep = True
    try:
        with contextlib.ExitStack() as holds:
            complete = holds.enter_context(cache.held(copy)) is not None and is_complete(copy)
            keep = not cache.make_room(folder, 0 if complete else size, limit, what=source.path)
            if not complete:
                fetch_once(source, folder, copy)
            if holds.enter_context(cache.held(copy)) is None:
                raise cache.removed(copy)
            with system.disk_errors("reading", copy):
                (copy / cache.FACTS).touch()  # it was used
            yield str(path_in(copy, source))
    finally:
        if not keep:
            system.remove_if_unlocked(copy)


def fetch_once(source: Source, folder: Path, copy: Path) -> None:
    """Download a dataset into the cache, unless another process has done so."""
    part = folder / f"{cache.PART}{copy.name}"
    with system.locked_folder(part, wait=True):
        if not is_complete(copy):
            fetch(source, folder, part)
            system.rename_folder(part, copy)


@contextlib.contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """A local path of a file or an object; the copy of an object is removed at the end of the block."""
    if not storage.is_remote(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / uri.rpartition("/")[2]
        storage.get(uri, path)
        yield path


def path_in(copy: Path, source: Source) -> Path:
    """The path of the dataset in a copy."""
    last = source.path.rpartition("/")[2]
    return copy / DATA / last if GLOB.search(last) or source.shards[0].uri == source.path else copy / DATA


def fetch(source: Source, folder: Path, part: Path) -> None:
    """Download a dataset into a copy; objects that older copies have are linked instead."""
    existing = {(uri, generation): path for path, uri, generation in objects_in(folder)}
    wanted = {stored: part / place_of(stored, source) for stored in (*source.shards, *source.descriptions)}
    (part / DATA).mkdir(exist_ok=True)
    for stored, path in wanted.items():
        old = existing.get((stored.uri, stored.generation))
        if old and not path.exists():
            system.link(old, path)
    storage.fetch([(stored, path) for stored, path in wanted.items() if not path.exists()])
    objects = [[str(path.relative_to(part)), *stored] for stored, path in wanted.items()]
    system.write_atomic(part / cache.FACTS, json.dumps({"uri": source.path, "objects": objects}).encode())


def place_of(stored: Stored, source: Source) -> str:
    """The path of an object in a copy."""
    folder, _, name = stored.uri.rpartition("/")
    return f"{DATA}/{name}" if folder == source.shards[0].uri.rpartition("/")[0] else name


def objects_in(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """(file, uri, generation) of all objects that are in a cache."""
    for facts in folder.glob(f"*/{cache.FACTS}"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            for place, uri, _, _, generation, _ in json.loads(facts.read_bytes()).get("objects", ()):
                yield facts.parent / place, uri, generation


def is_complete(copy: Path) -> bool:
    """Whether a complete and undamaged copy exists; a damaged copy is removed."""
    try:
        objects = json.loads((copy / cache.FACTS).read_bytes())["objects"]
        damaged = [place for place, _, size, crc32c, *_ in objects if not has_content(copy / place, size, crc32c)]
    except FileNotFoundError as error:
        if Path(error.filename or "").name == cache.FACTS:
            return False
        damaged = [str(error.filename)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        damaged = [str(error)]
    if damaged:
        say("warning", f"{copy / damaged[0]} in the cache is damaged. The files are downloaded again.")
        system.remove(copy)
    return not damaged


def has_content(path: Path, size: int, crc32c: str) -> bool:
    """Whether a file has the size and the checksum of an object."""
    return path.stat().st_size == size and crc32c_of_file(path) == crc32c
