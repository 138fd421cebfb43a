"""Read and write the dataset.json of an export, which lists its shards, and check the shards against it.

Without dataset.json, shards may come from anywhere, and nothing is checked. An export writes .export.json first and
dataset.json last: a folder with the first only holds an unfinished export.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.data.loaded import Shard
from trainer.data.strict_reader import short
from trainer.runtime.errors import DataError

DATASET, CLAIM = "dataset.json", ".export.json"
FORMAT_VERSION = 1
NAMES_SHOWN = 3


class Listed(NamedTuple):
    """A shard as it was exported: its size in bytes and the CRC-32C of these."""

    bytes: int
    crc32c: str


class Inventory(NamedTuple):
    """The list of shards in a folder's dataset.json."""

    folder: str
    rows: int
    shards: Mapping[str, Listed]  # by name


def inventories(shards: Iterable[Stored]) -> list[Inventory]:
    """The inventories of the folders that hold some shards; folders without one are left out.

    Raises DataError for a dataset.json that is damaged or of a newer version, and for an unfinished export.
    """
    folders = sorted({folder_and_name(shard.uri)[0] for shard in shards})
    return [inventory for folder in folders if (inventory := inventory_of(folder))]


def inventory_of(folder: str) -> Inventory | None:
    """The inventory of a folder or prefix; None without one. DataError for an unfinished export."""
    uri = storage.join(folder, DATASET)
    if storage.find(uri):
        return parse(storage.read(uri), folder)
    if storage.find(storage.join(folder, CLAIM)):
        raise DataError(
            f"{folder} holds an unfinished export: there is {CLAIM}, but no {DATASET}. Run the same `fab dataset` "
            "command again to finish it."
        )
    return None


def parse(data: bytes, folder: str) -> Inventory:
    """Parse the dataset.json of a folder; DataError if it is not a valid inventory."""
    where = storage.join(folder, DATASET)
    try:
        record = orjson.loads(data)
        if (version := checked(record["format_version"], int)) > FORMAT_VERSION:
            raise DataError(
                f"{where} has format {version}; this version of flatfab reads up to {FORMAT_VERSION}. Update flatfab."
            )
        listed = {
            checked(shard["name"], str): Listed(checked(shard["bytes"], int), checked(shard["crc32c"], str))
            for shard in record["shards"]
        }
        if len(listed) < len(record["shards"]):
            raise ValueError("a name occurs twice")
        return Inventory(folder, checked(record["rows"], int), listed)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{where} is damaged, or not from an export. Fetch it or export again; remove it if `fab dataset` did not "
            "export these files."
        ) from error


def text_of(rows: int, shards: Iterable[Stored], **facts: Any) -> bytes:
    """The text of the dataset.json of an export; equal facts give equal bytes."""
    listed = [
        {"name": folder_and_name(shard.uri)[1], "bytes": shard.size, "crc32c": shard.crc32c}
        | {"generation": str(shard.generation)}  # text, since some JSON readers round large integers
        for shard in shards
    ]
    record = {"format_version": FORMAT_VERSION, "rows": rows, **facts, "shards": listed}
    return json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"


def check_shards(inventories: Iterable[Inventory], shards: Sequence[Stored], *, complete: bool) -> None:
    """Check shards against inventories by name, size and, for objects in a bucket, checksum. Raises DataError.

    complete: whether these must be all shards of their folder, not a selection.
    """
    for inventory in inventories:
        shards_here = {
            name: shard
            for shard in shards
            for folder, name in [folder_and_name(shard.uri)]
            if folder == inventory.folder
        }
        where = storage.join(inventory.folder, DATASET)
        if complete:
            check_names(inventory, shards_here, where)
        for name, shard in shards_here.items():
            listed = inventory.shards.get(name)
            if listed and shard.size != listed.bytes:
                raise DataError(
                    f"{shard.uri} has {shard.size:,} bytes, but {where} says {listed.bytes:,}: it is cut off, or from "
                    "another export. Fetch it again."
                )
            if listed and shard.crc32c:
                check_checksum(shard.uri, shard.crc32c, listed, where)


def check_names(inventory: Inventory, shards: Mapping[str, Stored], where: str) -> None:
    """Raises DataError unless a folder holds exactly the shards of its inventory."""
    missing, extra = sorted(inventory.shards.keys() - shards), sorted(shards.keys() - inventory.shards)
    if missing and len(missing) == len(inventory.shards):
        raise DataError(
            f"{inventory.folder} has none of the {len(missing)} files that {where} lists, but {names(extra)}. The "
            f"{DATASET} belongs to another dataset: replace or remove it."
        )
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(inventory.shards)} files that {where} lists are missing: {names(missing)}. "
            "Fetch them, or export again."
        )
    if extra:
        raise DataError(
            f"{inventory.folder} holds {len(extra)} files that its {DATASET} does not list: {names(extra)}. They are "
            "copies or from another export. Remove them."
        )


def check_rows(
    inventories: Sequence[Inventory], shards: Sequence[Stored], read: Sequence[Shard], rows: int, *, complete: bool
) -> None:
    """Check what was read against inventories: checksums of the shards and, if complete, the number of rows.

    shards: where `read` came from, in the same order; rows: how many were read, good and bad ones. Raises DataError.
    """
    by_folder = {inventory.folder: inventory for inventory in inventories}
    for shard, read_shard in zip(shards, read, strict=True):
        folder, name = folder_and_name(shard.uri)
        if folder in by_folder and (listed := by_folder[folder].shards.get(name)):
            check_checksum(shard.uri, read_shard.crc32c, listed, storage.join(folder, DATASET))
    if complete and inventories and rows != (listed_rows := sum(inventory.rows for inventory in inventories)):
        raise DataError(
            f"{inventories[0].folder} gives {rows:,} rows, but its {DATASET} says {listed_rows:,}: they are from "
            "different exports. Export again."
        )


def check_checksum(uri: str, crc32c: str, listed: Listed, where: str) -> None:
    if crc32c != listed.crc32c:
        raise DataError(
            f"{uri} does not have the checksum in {where}: it is damaged, or from another export. Fetch it again."
        )


def checked(value: Any, kind: type) -> Any:
    """The value if it has exactly this type, and is not negative; otherwise ValueError."""
    if type(value) is not kind or value < kind():
        raise ValueError
    return value


def folder_and_name(uri: str) -> tuple[str, str]:
    """The folder of a file, or the prefix of an object, and the last part of its name."""
    if storage.is_remote(uri):
        folder, _, name = uri.rpartition("/")
        return folder, name
    return str(Path(uri).parent), Path(uri).name


def names(shards: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(shards) - NAMES_SHOWN} more" if len(shards) > NAMES_SHOWN else ""
    return ", ".join(map(short, shards[:NAMES_SHOWN])) + more
