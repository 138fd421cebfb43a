"""Read a table's schema.json, BigQuery's list of fields, and plan how to read its columns by their roles."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from trainer.runtime.errors import DataError, did_you_mean
from trainer.runtime.system import disk_errors

SCHEMA = "schema.json"
NUMERIC_KINDS = {"number", "amount", "probability", "outcome", "target", "weight"}
LIST_KINDS = {"categories", "classes"}
LABEL_KINDS = {"probability", "outcome", "target", "class", "classes", "weight"}  # required in every row

ALIASES = {
    "INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD", "DECIMAL": "NUMERIC",
    "BIGDECIMAL": "BIGNUMERIC",
}  # fmt: skip
DISCRETE_TYPES = {"STRING", "INTEGER", "BOOLEAN", "BYTES", "DATE", "TIME", "DATETIME", "TIMESTAMP"}
NUMBER_TYPES = {"INTEGER", "FLOAT", "NUMERIC", "BIGNUMERIC"}
TYPES_OF_KIND = {
    **dict.fromkeys(("category", "categories", "key", "class", "classes"), DISCRETE_TYPES),
    **dict.fromkeys(("number", "amount", "target", "weight"), NUMBER_TYPES),
    "text": {"STRING"},
    "probability": NUMBER_TYPES | {"BOOLEAN"},
    "outcome": NUMBER_TYPES | DISCRETE_TYPES,
    "time": NUMBER_TYPES | {"DATE", "DATETIME", "TIMESTAMP"},
}


class Field(NamedTuple):
    """A column of a table: its type in BigQuery's old names (INTEGER, FLOAT, BOOLEAN, RECORD), its mode, and the
    names of a RECORD's own fields."""

    type: str
    mode: str
    inner: tuple[str, ...] = ()


class RowRules(NamedTuple):
    """Which rows are left out, and what their values mean.

    max_bad_rows: how many may be bad, as a number or as a share of all rows such as "0.1%". skip_unlabelled: leave out
    rows without a label. positive_label: the value of an "outcome" that counts as 1. absent_is_missing: a feature that
    no row has is missing, unless they have a name that is nearly the same. keys: the columns that identify bad rows,
    where someone asks for these; then all rows may be bad. required: a row without one of these columns is bad.
    """

    max_bad_rows: int | str = 0
    skip_unlabelled: bool = False
    positive_label: str | None = None
    absent_is_missing: bool = False
    keys: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()


DEFAULT = RowRules()


@dataclass
class Column:
    """A column to read.

    `form` is the JSON type of all its values, decided by the first one ("": no value so far). Numbers may have
    two forms; theirs is the more frequent one of the last block. `optional`: rows without a value are left out, though
    the kind requires one. `positive`: the value of an "outcome" that is 1; all others are 0.
    """

    name: str
    kind: str
    type: str = ""
    required: bool = False
    form: str = ""
    optional: bool = False
    positive: str = ""


def read_schema(folders: Sequence[Path], shards: Collection[Path] = ()) -> dict[str, Field] | None:
    """The table's fields by name, from the first schema.json in some folders; None without one.

    A file in the last one, above the shards, that is no list of fields at all, but a JSON Schema, say, belongs to
    something else and is left out, as is one of the `shards`. Raises DataError if the file is not BigQuery's list of
    fields, StorageError if it cannot be read.
    """
    for folder in folders:
        path = folder / SCHEMA
        with disk_errors("reading", path):
            data = path.read_bytes() if path.is_file() and path not in shards else None
        if data is not None and not (folder == folders[-1] and is_foreign(data)):
            return parse_schema(data, str(path))
    return None


def is_foreign(data: bytes) -> bool:
    """Whether this is valid JSON, but for sure no list of fields."""
    try:
        entries = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return not isinstance(entries, list) or not all(isinstance(entry, dict) and "type" in entry for entry in entries)


def parse_schema(data: bytes, where: str) -> dict[str, Field]:
    """The fields of a schema.json by name; DataError if it is not BigQuery's list of fields."""
    try:
        entries = orjson.loads(data)
        fields = {entry["name"]: _field(entry) for entry in entries}
        if len(fields) < len(entries):
            raise ValueError("a name occurs twice")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f'{where!r} is not the list of fields of a BigQuery table, [{{"name": ..., "type": ..., "mode": ...}}, '
            "...]. Export it again, or remove it to read the columns without a schema."
        ) from error
    return fields


def _field(entry: dict[str, Any]) -> Field:
    field_type = entry["type"].upper()
    inner = tuple(part["name"] for part in entry.get("fields") or ())
    return Field(ALIASES.get(field_type, field_type), (entry.get("mode") or "NULLABLE").upper(), inner)


def plan_columns(
    kinds: Mapping[str, str], fields: Mapping[str, Field] | None, rules: RowRules = DEFAULT
) -> list[Column]:
    """The columns to read; one DataError for all columns that `plan_column` refuses."""
    columns, faults = [], []
    for name, kind in kinds.items():
        try:
            columns.append(plan_column(name, kind, fields))
        except DataError as error:
            faults.append(str(error))
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        raise DataError(f"{len(faults)} columns do not fit schema.json:", *faults)
    for column in columns:
        column.required |= column.name in rules.required
    for label in (column for column in columns if column.kind in LABEL_KINDS - {"weight"}):
        label.positive = rules.positive_label or ""
        label.optional = rules.skip_unlabelled and label.required
        label.required = label.required and not label.optional
    return columns


def plan_column(name: str, kind: str, fields: Mapping[str, Field] | None) -> Column:
    """A column to read; with a schema, DataError if the column is missing or its type does not fit the kind."""
    allowed = TYPES_OF_KIND[kind]
    if fields is None:
        return Column(name, kind, required=kind in LABEL_KINDS)
    if name not in fields:
        raise DataError(f"schema.json has no column {name!r}, used as a {kind}. {did_you_mean(name, fields)}")
    field = fields[name]
    repeated = field.mode == "REPEATED"
    whole = field.type == "FLOAT" and "INTEGER" in allowed  # as loaded from pandas; fractions are refused by row
    if not _can_be(field._replace(type="INTEGER") if whole else field, kind):
        modes = "REPEATED" if kind in LIST_KINDS else "NULLABLE or REQUIRED"
        raise DataError(
            f"Column {name!r} is {field.mode} {field.type} in schema.json, but a {kind} must be {modes} "
            f"{', '.join(sorted(allowed))}. {_advice(name, kind, field)} {_others(name, kind, fields)}"
        )
    # BigQuery has no NULL lists, and exports may leave out empty ones.
    required = not repeated and (kind in LABEL_KINDS or field.mode == "REQUIRED")
    return Column(name, kind, field.type, required, _form(kind, field.type))


def _can_be(field: Field, kind: str) -> bool:
    return field.type in TYPES_OF_KIND[kind] and (field.mode == "REPEATED") == (kind in LIST_KINDS)


def _advice(name: str, kind: str, field: Field) -> str:
    if field.type == "RECORD":
        inner = field.inner[0] if field.inner else "FIELD"
        unnested = "UNNEST it and select" if field.mode == "REPEATED" else "Select"
        return f"{unnested} its fields in the query, such as {name}.{inner} AS {name}_{inner}."
    if field.mode == "REPEATED" and kind == "category" and field.type in DISCRETE_TYPES:
        return "Name it in multi_categorical_columns."
    hint = " (classes: objective=multiclass)" if kind in ("probability", "target") else ""
    return f"Give it another role{hint}, or cast it in the query."


def _others(name: str, kind: str, fields: Mapping[str, Field]) -> str:
    """A sentence that names the most similar columns that can have this kind."""
    able = [other for other, field in fields.items() if _can_be(field, kind)]
    able.sort(key=lambda other: (-SequenceMatcher(None, name.lower(), other.lower()).ratio(), other))
    return f"Columns that can be a {kind}: {', '.join(map(repr, able[:3]))}." if able else f"No column can be a {kind}."


def _form(kind: str, field_type: str) -> str:
    if kind == "time":
        return "" if field_type in NUMBER_TYPES else field_type
    if kind in NUMERIC_KINDS:
        return ""
    return {"INTEGER": "", "FLOAT": "", "BOOLEAN": "boolean"}.get(field_type, "string")
