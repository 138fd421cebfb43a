"""What a table's columns are (schema.json, BigQuery's list of fields) and what a configuration's roles make of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from trainer.errors import DataError, StorageError, did_you_mean

NUMERIC_KINDS = {"number", "probability", "target", "weight"}
LIST_KINDS = {"categories", "classes"}
LABEL_KINDS = {"probability", "target", "class", "classes", "weight"}  # required in every row

ALIASES = {
    "INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD", "DECIMAL": "NUMERIC",
    "BIGDECIMAL": "BIGNUMERIC",
}  # fmt: skip
DISCRETE_TYPES = {"STRING", "INTEGER", "BOOLEAN", "BYTES", "DATE", "TIME", "DATETIME", "TIMESTAMP"}
NUMBER_TYPES = {"INTEGER", "FLOAT", "NUMERIC", "BIGNUMERIC"}
TYPES_OF_KIND = {
    **dict.fromkeys(("category", "categories", "key", "class", "classes"), DISCRETE_TYPES),
    **dict.fromkeys(("number", "target", "weight"), NUMBER_TYPES),
    "text": {"STRING"},
    "probability": NUMBER_TYPES | {"BOOLEAN"},
    "time": {"INTEGER", "DATE", "DATETIME", "TIMESTAMP"},
}


class Field(NamedTuple):
    """A column of a table: its type in BigQuery's old names (INTEGER, FLOAT, BOOLEAN, RECORD) and its mode."""

    type: str
    mode: str


@dataclass
class Column:
    """A column to read.

    `form` is what all its values look like in JSON ("": no value so far); its first value settles it. Numbers of two
    forms may mix: theirs is what most of them looked like last.
    """

    name: str
    kind: str
    type: str = ""
    required: bool = False
    form: str = ""


def read_schema(folder: Path) -> dict[str, Field] | None:
    """The table's fields by name, from the schema.json in the shards' folder or in the one above; None without one.

    Raises DataError if it is not BigQuery's list of fields, StorageError if it cannot be read.
    """
    path = folder / "schema.json"
    try:
        if not path.is_file():
            path = folder.parent / "schema.json"
        if not path.is_file():
            return None
        entries = orjson.loads(path.read_bytes())
        fields = {entry["name"]: _field(entry) for entry in entries}
        if len(fields) < len(entries):
            raise ValueError("a name occurs twice")
    except OSError as error:
        raise StorageError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f'{str(path)!r} is not the list of fields of a BigQuery table, [{{"name": ..., "type": ..., "mode": ...}}, '
            "...]. Export it again, or remove it: types then follow from the roles alone."
        ) from error
    return fields


def _field(entry: dict[str, str]) -> Field:
    field_type = entry["type"].upper()
    return Field(ALIASES.get(field_type, field_type), (entry.get("mode") or "NULLABLE").upper())


def plan_column(name: str, kind: str, fields: Mapping[str, Field] | None) -> Column:
    """A column to read, held against the table's fields where those are known.

    Raises DataError for a column that the table does not have or that cannot be of its kind.
    """
    allowed = TYPES_OF_KIND[kind]
    if fields is None:
        return Column(name, kind, required=kind in LABEL_KINDS)
    if name not in fields:
        raise DataError(f"schema.json has no column {name!r}, which is to be a {kind}. {did_you_mean(name, fields)}")
    field = fields[name]
    repeated = field.mode == "REPEATED"
    if field.type not in allowed or repeated != (kind in LIST_KINDS):
        hint = " (classes: objective=multiclass)" if kind in ("probability", "target") else ""
        modes = "REPEATED" if kind in LIST_KINDS else "NULLABLE or REQUIRED"
        raise DataError(
            f"Column {name!r} is {field.mode} {field.type} in schema.json, but a {kind} is made from {modes} "
            f"{', '.join(sorted(allowed))}. Give it another role{hint}, or cast it in the query."
        )
    # BigQuery knows no NULL list: it may leave an empty one out.
    required = not repeated and (kind in LABEL_KINDS or field.mode == "REQUIRED")
    return Column(name, kind, field.type, required, _form(kind, field.type))


def _form(kind: str, field_type: str) -> str:
    if kind == "time":
        return "" if field_type == "INTEGER" else field_type
    if kind in NUMERIC_KINDS:
        return ""
    return {"INTEGER": "", "BOOLEAN": "boolean"}.get(field_type, "string")
