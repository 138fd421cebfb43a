"""What a person wants exported, from the arguments of the command, and the SQL that it comes to."""

import argparse
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from trainer.cloud import storage
from trainer.runtime.errors import ConfigError, StorageError, did_you_mean

PARTS = 1_000_000  # of all rows, by their fingerprints; --sample takes some

TABLE = re.compile(r"([\w.:-]+\.)?\w+\.[\w -]+")
PARAMETER = re.compile(r"([A-Za-z_]\w*)(?::(\w+))?=(.*)", re.ASCII | re.DOTALL)
TYPES = ("STRING", "INT64", "FLOAT64", "NUMERIC", "BIGNUMERIC", "BOOL", "DATE", "TIME", "DATETIME", "TIMESTAMP")
TYPE_OF_TEXT = {
    "INT64": r"0|-?[1-9][0-9]{0,18}", "FLOAT64": r"-?[0-9]+\.[0-9]+", "BOOL": "true|false",
    "DATE": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "STRING": r"[\s\S]*",
}  # fmt: skip


class Request(NamedTuple):
    """What is to be exported: a table, or else a query, and how much of it (0: all)."""

    table: str
    sql: str
    parameters: dict[str, list[str]]  # name -> [type, value]
    limit: int
    sample: float


def request_of(given: argparse.Namespace) -> Request:
    """What is asked for. ConfigError where that cannot be, StorageError for a file that cannot be read."""
    if bool(given.table) == bool(given.sql):
        raise ConfigError("Give either --table=project.dataset.table or --sql=FILE.")
    if given.limit is not None and given.limit < 1:
        raise ConfigError(f"--limit is {given.limit}. It must be 1 row or more.")
    if given.sample is not None and not 1 / PARTS <= given.sample < 1:
        raise ConfigError(f"--sample is {given.sample}. It must be a share of the rows, from {1 / PARTS:f} to below 1.")
    check_places(given.to, given.staging or "")
    parameters = parameters_of(given)
    if given.table and parameters:
        raise ConfigError("--param, --since and --until are for --sql: a table has no parameters.")
    if given.table and not TABLE.fullmatch(given.table):
        raise ConfigError(
            f"--table={given.table!r} is no project.dataset.table. Give wildcards, partitions and times to --sql."
        )
    sql = query_text(given.sql, parameters) if given.sql else ""
    return Request(given.table or "", sql, parameters, given.limit or 0, given.sample or 0.0)


def check_places(to: str, staging: str) -> None:
    """ConfigError unless rows can be brought there."""
    if not to:
        raise ConfigError("--to is empty. Give gs://bucket/prefix or a folder.")
    for place in filter(None, (to, staging)):
        storage.check(place)
    if storage.is_remote(to) and staging:
        raise ConfigError("--staging is for --to=FOLDER: a bucket is written to directly.")
    if not storage.is_remote(to) and not storage.is_remote(staging):
        raise ConfigError(
            "A folder is filled by way of a bucket. Give --staging=gs://bucket/prefix, which is emptied again."
        )


def parameters_of(given: argparse.Namespace) -> dict[str, list[str]]:
    """The parameters of a query, name -> [type, value]."""
    parameters: dict[str, list[str]] = {}
    days = [f"{name}:DATE={day}" for name, day in (("since", given.since), ("until", given.until)) if day is not None]
    for one in [*given.param, *days]:
        name, kind, value = parameter(one)
        if name in parameters:
            raise ConfigError(f"Parameter @{name} is given twice.")
        parameters[name] = [kind, value]
    if given.since and given.until and given.since > given.until:
        raise ConfigError(f"--since={given.since} is after --until={given.until}.")
    return parameters


def parameter(given: str) -> tuple[str, str, str]:
    """Name, type and value of name=value or name:TYPE=value."""
    match = PARAMETER.fullmatch(given)
    if not match:
        raise ConfigError(f"--param={given.partition('=')[0]!r} is not of the form name=value or name:TYPE=value.")
    name, kind, value = match[1], (match[2] or "").upper(), match[3]
    if kind and kind not in TYPES:
        raise ConfigError(f"Parameter @{name} cannot be {kind}. {did_you_mean(kind, TYPES)}")
    kind = kind or next(kind for kind, grammar in TYPE_OF_TEXT.items() if re.fullmatch(grammar, value))
    grammar = TYPE_OF_TEXT.get(kind, TYPE_OF_TEXT["STRING"]) if kind != "FLOAT64" else TYPE_OF_TEXT["STRING"]
    if not re.fullmatch(grammar, value) or (kind == "DATE" and not is_date(value)):
        raise ConfigError(f"Parameter @{name} is {value!r}, and that is no {kind}. A day is written 2026-11-30.")
    return name, kind, value


def is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def query_text(path: str, parameters: Mapping[str, list[str]]) -> str:
    """The SQL in a file, in which all parameters occur."""
    try:
        sql = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"Cannot read {path!r}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path!r} is no text in UTF-8.") from error
    if not sql.strip():
        raise ConfigError(f"{path!r} is empty. Write one SELECT there.")
    used = set(re.findall(r"@`?(\w+)", sql))
    for name in parameters:
        if name.lower() not in map(str.lower, used):
            raise ConfigError(f"There is no @{name} in {path!r}. {did_you_mean(name, used)}")
    return sql


def narrowed(sql: str, limit: int, sample: float) -> str:
    """A query for some rows of another one, chosen by their fingerprints: from the same rows always the same."""
    if not (limit or sample):
        return sql
    fingerprint = "FARM_FINGERPRINT(TO_JSON_STRING(flatfab_row))"
    chosen = f"SELECT * FROM (\n{sql.strip().rstrip(';')}\n) AS flatfab_row"  # noqa: S608 (it is the user's own)
    if sample:
        chosen += f"\nWHERE ABS(MOD({fingerprint}, {PARTS})) < {round(sample * PARTS)}"
    return chosen + (f"\nORDER BY {fingerprint} LIMIT {limit}" if limit else "")
