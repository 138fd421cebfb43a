"""Check the arguments of an export, and write the SQL for a part of the rows."""

import argparse
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import NamedTuple

from trainer.cloud import storage
from trainer.runtime.errors import ConfigError, StorageError, did_you_mean

PARTS = 1_000_000  # into which rows are divided by fingerprint; --sample takes some of them

TABLE = re.compile(r"([\w.:-]+\.)?\w+\.[\w -]+")
PARAMETER = re.compile(r"([A-Za-z_]\w*)(?::(\w+))?=(.*)", re.ASCII | re.DOTALL)
TYPES = ("STRING", "INT64", "FLOAT64", "NUMERIC", "BIGNUMERIC", "BOOL", "DATE", "TIME", "DATETIME", "TIMESTAMP")
TYPE_OF_TEXT = {
    "INT64": r"0|-?[1-9][0-9]{0,18}", "FLOAT64": r"-?[0-9]+\.[0-9]+", "BOOL": "true|false",
    "DATE": r"[0-9]{4}-[0-9]{2}-[0-9]{2}", "STRING": r"[\s\S]*",
}  # fmt: skip


class Request(NamedTuple):
    """What to export: a table or a query, and how many of its rows (0: all)."""

    table: str
    sql: str
    parameters: dict[str, list[str]]  # name -> [type, value]
    limit: int
    sample: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the export command to its parser."""
    parser.add_argument("--table", help="project.dataset.table, or dataset.table")
    parser.add_argument("--sql", help="file with one SELECT")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME[:TYPE]=VALUE",
        help=f"value of @NAME in the SQL; TYPE is one of {', '.join(TYPES)}; without a TYPE integers are INT64, "
        "decimals FLOAT64, true and false BOOL, days DATE, everything else STRING",
    )  # fmt: skip
    parser.add_argument("--since", metavar="YYYY-MM-DD", help="value of @since in the SQL, a DATE")
    parser.add_argument("--until", metavar="YYYY-MM-DD", help="value of @until in the SQL, a DATE")
    parser.add_argument("--to", required=True, help="gs://bucket/prefix or a folder, for this export alone")
    parser.add_argument("--staging", help="gs://bucket/prefix by way of which a folder is filled; emptied again")
    parser.add_argument("--limit", type=int, help="maximum number of rows, chosen at random, the same every time")
    parser.add_argument("--sample", type=float, help="share of the rows, chosen at random, the same every time")
    parser.add_argument("--dry-run", action="store_true", help="print what would be read, and do nothing")


def request_of(arguments: argparse.Namespace) -> Request:
    """The request in a command's arguments. Raises ConfigError if they make no sense, StorageError if the SQL file
    cannot be read."""
    if bool(arguments.table) == bool(arguments.sql):
        raise ConfigError("Give either --table=project.dataset.table or --sql=FILE.")
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit is {arguments.limit}. It must be 1 row or more.")
    if arguments.sample is not None and not 1 / PARTS <= arguments.sample < 1:
        raise ConfigError(
            f"--sample is {arguments.sample}. It must be a share of the rows, at least {1 / PARTS:f} and less than 1."
        )
    check_places(arguments.to, arguments.staging or "")
    parameters = parameters_of(arguments)
    if arguments.table and parameters:
        raise ConfigError("--param, --since and --until are for --sql: a table has no parameters.")
    if arguments.table and not TABLE.fullmatch(arguments.table):
        raise ConfigError(
            f"--table={arguments.table!r} is not project.dataset.table. Use --sql for wildcards and partitions."
        )
    sql = query_text(arguments.sql, parameters) if arguments.sql else ""
    return Request(arguments.table or "", sql, parameters, arguments.limit or 0, arguments.sample or 0.0)


def check_places(to: str, staging: str) -> None:
    """Raises ConfigError unless rows can be exported to `to` by way of `staging`."""
    if not to:
        raise ConfigError("--to is empty. Give gs://bucket/prefix or a folder.")
    for place in filter(None, (to, staging)):
        storage.check(place)
    if storage.is_remote(to) and staging:
        raise ConfigError("--staging is for --to=FOLDER: BigQuery writes to a bucket directly.")
    if not storage.is_remote(to) and not storage.is_remote(staging):
        raise ConfigError("BigQuery writes to buckets only. Add --staging=gs://bucket/prefix; it is emptied again.")


def parameters_of(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The parameters of a query, name -> [type, value]."""
    parameters: dict[str, list[str]] = {}
    days = [
        f"{name}:DATE={day}"
        for name, day in (("since", arguments.since), ("until", arguments.until))
        if day is not None
    ]
    for text in [*arguments.param, *days]:
        name, kind, value = parameter(text)
        if name in parameters:
            raise ConfigError(f"Parameter @{name} is set twice. Set it once.")
        parameters[name] = [kind, value]
    if arguments.since and arguments.until and arguments.since > arguments.until:
        raise ConfigError(f"--since={arguments.since} is after --until={arguments.until}.")
    return parameters


def parameter(text: str) -> tuple[str, str, str]:
    """Name, type and value of name=value or name:TYPE=value."""
    match = PARAMETER.fullmatch(text)
    if not match:
        raise ConfigError(f"--param={text.partition('=')[0]!r} must have the form name=value or name:TYPE=value.")
    name, kind, value = match[1], (match[2] or "").upper(), match[3]
    if kind and kind not in TYPES:
        raise ConfigError(f"Parameter @{name} cannot be {kind}. {did_you_mean(kind, TYPES)}")
    kind = kind or next(kind for kind, grammar in TYPE_OF_TEXT.items() if re.fullmatch(grammar, value))
    grammar = TYPE_OF_TEXT.get(kind, TYPE_OF_TEXT["STRING"]) if kind != "FLOAT64" else TYPE_OF_TEXT["STRING"]
    if not re.fullmatch(grammar, value) or (kind == "DATE" and not is_date(value)):
        raise ConfigError(f"Parameter @{name} is {value!r}, which is not a valid {kind}. Write days like 2026-11-30.")
    return name, kind, value


def is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def query_text(path: str, parameters: Mapping[str, list[str]]) -> str:
    """The SQL in a file. Raises ConfigError if it does not use all parameters."""
    try:
        sql = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StorageError(f"Cannot read {path!r}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path!r} is not UTF-8 text. Save it as UTF-8.") from error
    if not sql.strip():
        raise ConfigError(f"{path!r} is empty. Write one SELECT into it.")
    used = set(re.findall(r"@`?(\w+)", sql))
    for name in parameters:
        if name.lower() not in map(str.lower, used):
            raise ConfigError(f"{path!r} does not use @{name}. {did_you_mean(name, used)}")
    return sql


def sample_query(sql: str, limit: int, sample: float) -> str:
    """A query for some rows of another query: the same rows every time.

    Each row is drawn by the fingerprint of its content and its number among equal rows, so that these are drawn one by
    one, and no value makes a row more likely.
    """
    if not (limit or sample):
        return sql
    content = "TO_JSON_STRING(flatfab_row)"
    number = f"ROW_NUMBER() OVER (PARTITION BY {content})"
    query = (
        "SELECT * EXCEPT (flatfab_draw) FROM (\n"  # noqa: S608 (it is the user's own)
        f"SELECT *, FARM_FINGERPRINT(CONCAT({content}, CAST({number} AS STRING))) AS flatfab_draw\n"
        f"FROM (\n{sql.strip().rstrip(';')}\n) AS flatfab_row)"
    )
    if sample:
        query += f"\nWHERE ABS(MOD(flatfab_draw, {PARTS})) < {round(sample * PARTS)}"
    return query + (f"\nORDER BY flatfab_draw LIMIT {limit}" if limit else "")
