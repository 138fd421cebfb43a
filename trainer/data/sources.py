"""Find a dataset on this machine or in a bucket, and provide a local path to read it from.

Objects of a bucket are fetched into the cache, each version once:

    cache/KEY/entry.json    the objects and their generations
    cache/KEY/schema.json   if it is above the shards
    cache/KEY/data/         the shards in their folders, and the files beside them: schema.json, dataset.json

A copy gets its final name when it is complete; the key is made from the names and generations of its objects.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.cloud.transfer import crc32c_of_file
from trainer.data import dataset_manifest, partitions
from trainer.data.dataset_manifest import Inventory, folder_and_name
from trainer.data.loaded import Dataset
from trainer.data.schema import SCHEMA, Field, is_foreign, parse_schema, read_schema
from trainer.data.selection import FILES, GLOB, find_shards, not_read, select, shown
from trainer.runtime import cache, system
from trainer.runtime.command import say
from trainer.runtime.errors import DataError

DATA = "data"
DESCRIPTIONS = (SCHEMA, dataset_manifest.DATASET)


class Source(NamedTuple):
    """A dataset and the files or objects that it consists of."""

    path: str  # file, folder or glob; or the same below gs://
    shards: tuple[Stored, ...]
    descriptions: tuple[Stored, ...]  # schema.json and dataset.json beside the shards, or schema.json above them
    root: str  # the folder or prefix above the first part of the path that is a pattern or names a column
    unread: tuple[str, ...] = ()  # what else is beside the shards and might be rows
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
        return [
            [os.path.relpath(path, self.root), is_.st_size, is_.st_ino, is_.st_mtime_ns, is_.st_ctime_ns]
            for path, is_ in files
        ]


def look_up(path: str) -> Source:
    """Find a dataset without reading rows. DataError or StorageError if there is none, or if its shards differ from the
    list in the dataset.json next to them."""
    source = look_up_in_bucket(path) if storage.is_remote(path) else look_up_here(path)
    own = {folder for folder, name in map(folder_and_name, uris_of(source)) if name == dataset_manifest.DATASET}
    described = [shard for shard in source.shards if folder_and_name(shard.uri)[0] not in own]
    source = source._replace(inventories=tuple(dataset_manifest.inventories(described)))
    dataset_manifest.check_shards(source.inventories, source.shards, complete=source.is_complete)
    if source.unread:
        say("warning", f"Not read in {path}: {shown(source.unread)}. Rows are {FILES}, also in folders such as day=1/.")
    return source


def uris_of(source: Source) -> list[str]:
    """The places of the shards."""
    return [shard.uri for shard in source.shards]


def fields_of(source: Source) -> dict[str, Field] | None:
    """The fields of a dataset's schema.json; None without one. Reads and fetches no rows."""
    folders = [Path(uri.removeprefix("gs:/")).absolute().parent for uri in uris_of(source)]
    places = partitions.schema_folders(Path(os.path.commonpath(folders)))
    if not source.remote:
        fields = read_schema(places, [Path(uri).absolute() for uri in uris_of(source)])
        return partitions.with_columns(fields, folders)
    fields = None
    for place in places:
        uri = f"gs:/{place}/{SCHEMA}"
        if fields is None and uri in [stored.uri for stored in source.descriptions]:
            data = storage.read(uri)
            fields = None if place == places[-1] and is_foreign(data) else parse_schema(data, uri)
    return partitions.with_columns(fields, folders)


def check_rows(source: Source, dataset: Dataset) -> None:
    """DataError if the rows read differ from dataset.json."""
    rows = dataset.rows_read + dataset.bad_rows
    folders = {folder_and_name(uri)[0] for uri in uris_of(source)}
    complete = source.is_complete and len(source.inventories) == len(folders)
    dataset_manifest.check_rows(source.inventories, source.shards, dataset.shards, rows, complete=complete)


def look_up_here(path: str) -> Source:
    """Find a dataset on this machine."""
    shards = find_shards(path)
    common = Path(os.path.commonpath([shard.absolute().parent for shard in shards]))
    folders = sorted({*partitions.schema_folders(common), *(shard.absolute().parent for shard in shards)})
    beside = {folder / name for folder in folders for name in DESCRIPTIONS if (folder / name).is_file()}
    descriptions = map(storage.stored_file, sorted(beside - {shard.absolute() for shard in shards}))
    root = str(partitions.without_partitions(common))
    return Source(path, tuple(map(storage.stored_file, shards)), tuple(descriptions), root, tuple(not_read(path)))


def look_up_in_bucket(uri: str) -> Source:
    """Find a dataset in a bucket: an object, the shards below a prefix, or the matches of a pattern."""
    single = None if uri.endswith("/") else storage.find(uri)
    parts = uri.removeprefix("gs://").rstrip("/").split("/")
    fixed = len(parts) - 1 if single else next((at for at, part in enumerate(parts) if GLOB.search(part)), len(parts))
    prefix = f"gs://{'/'.join(parts[:fixed])}/"
    below = {stored.uri.removeprefix(prefix): stored for stored in storage.entries(prefix)}
    names, unread = ([parts[-1]], []) if single else select(below, parts[fixed:])
    if not names:
        here = sorted({name.partition("/")[0] + "/" * ("/" in name) for name in below})
        more = ", ".join([*here[:10], *(["more"] if len(here) > 10 else [])])
        raise DataError(f"{uri} has no {FILES}. {prefix} holds {more or 'nothing'}.")
    shards = tuple(single or below[name] for name in names)
    folders = {Path(shard.uri.removeprefix("gs:/")).parent for shard in shards}
    places = dict.fromkeys((*partitions.schema_folders(Path(os.path.commonpath(folders))), *sorted(folders)))
    wanted = [f"gs:/{place}/{name}" for place in places if len(place.parts) > 1 for name in DESCRIPTIONS]
    listed = {stored.uri: stored for stored in below.values()}
    existing = [listed.get(place) or (None if place.startswith(prefix) else storage.find(place)) for place in wanted]
    descriptions = tuple(stored for stored in existing if stored and stored not in shards)
    root = f"gs:/{partitions.without_partitions(Path('/' + '/'.join(parts[:fixed])))}"
    return Source(uri, shards, descriptions, root, tuple(unread))


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
    return copy / DATA / source.path.removeprefix(source.root).strip("/")


def fetch(source: Source, folder: Path, part: Path) -> None:
    """Download a dataset into a copy; objects that older copies have are linked instead."""
    existing = {(uri, generation): path for path, uri, generation in objects_in(folder)}
    wanted = {stored: part / place_of(stored, source) for stored in (*source.shards, *source.descriptions)}
    for stored, path in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        old = existing.get((stored.uri, stored.generation))
        if old and not path.exists():
            system.link(old, path)
    storage.fetch([(stored, path) for stored, path in wanted.items() if not path.exists()])
    objects = [[str(path.relative_to(part)), *stored] for stored, path in wanted.items()]
    system.write_atomic(part / cache.FACTS, json.dumps({"uri": source.path, "objects": objects}).encode())


def place_of(stored: Stored, source: Source) -> str:
    """The path of an object in a copy."""
    inside = stored.uri.startswith(f"{source.root}/")
    return f"{DATA}{stored.uri.removeprefix(source.root)}" if inside else folder_and_name(stored.uri)[1]


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
