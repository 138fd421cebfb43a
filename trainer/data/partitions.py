"""Read folders such as day=2026-01-31/, whose name gives all rows below it a value in the column `day`.

Hive, Spark and BigQuery's external tables know such folders as partitions. The value is added to the text of each row,
so that a row is the same whether its column stands in the name of a folder or in the row.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

import orjson

from trainer.data.schema import Field
from trainer.runtime.errors import DataError

PARTITION = re.compile(r"([^=/._][^=/]*)=([^/]*)")
NULL = "__HIVE_DEFAULT_PARTITION__"


def is_partition(name: str) -> bool:
    """Whether a folder's name is a column and its value."""
    return PARTITION.fullmatch(name) is not None


def without_partitions(folder: Path) -> Path:
    """The folder that holds the outermost of the partitions that end in a folder; itself if it is none."""
    return without_partitions(folder.parent) if is_partition(folder.name) else folder


def schema_folders(folder: Path) -> list[Path]:
    """The folders that may hold the schema.json of the shards below this folder; the last is above all of them."""
    base = without_partitions(folder)
    return list(dict.fromkeys((folder, base, base.parent)))


def values_of(folder: Path) -> dict[str, str | None]:
    """The columns and values of the partitions that end in a folder; None is NULL."""
    match = PARTITION.fullmatch(folder.name)
    if not match:
        return {}
    column, value = (unquote(text) for text in match.groups())
    outer = values_of(folder.parent)
    if column in outer:
        raise DataError(f"{str(folder)!r}: the folders name the column {column!r} twice. Rename one of them.")
    return outer | {column: None if value == NULL else value}


def with_columns(fields: Mapping[str, Field] | None, folders: Iterable[Path]) -> dict[str, Field] | None:
    """The fields of a table and, as text, the columns in the names of folders that are none of them."""
    if fields is None:
        return None
    columns = {column: Field("STRING", "NULLABLE") for folder in set(folders) for column in values_of(folder)}
    return {**columns, **fields}


def members_of(folder: Path) -> dict[bytes, bytes]:
    """Key and text of each member that the rows in a folder get: `"day"` and `,"day":"2026-01-31"`."""
    try:
        values = {orjson.dumps(column): value for column, value in values_of(folder).items() if value is not None}
        return {key: b"," + key + b":" + orjson.dumps(value) for key, value in values.items()}
    except orjson.JSONEncodeError:
        raise DataError(f"{str(folder)!r}: the name of a folder is not UTF-8. Rename it.") from None


def with_members(text: bytes, members: Mapping[bytes, bytes]) -> bytes:
    """Lines of rows with the members that they do not have themselves."""
    if not members:
        return text
    if not any(key in text for key in members):
        return _added(text if text.endswith(b"\n") else text + b"\n", b"".join(members.values()))
    return b"\n".join(_row_with_members(line, members) for line in text.split(b"\n"))


def _row_with_members(line: bytes, members: Mapping[bytes, bytes]) -> bytes:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line  # the reader refuses it
    if not isinstance(row, dict):
        return line
    missing = [member for key, member in members.items() if orjson.loads(key) not in row]
    return _added(line + b"\n", b"".join(missing)).removesuffix(b"\n") if missing else line


def _added(lines: bytes, members: bytes) -> bytes:
    """Lines with members at the end of each object. A newline is never inside a JSON value, so } before it ends one."""
    if lines.count(b"}\n") == lines.count(b"\n"):
        lines = lines.replace(b"}\n", members + b"}\n")
    else:
        lines = re.sub(rb"\}(?=[ \t\r]*\n)", lambda _: members + b"}", lines)
    return re.sub(rb"\{[ \t]*" + re.escape(members), lambda _: b"{" + members[1:], lines)
