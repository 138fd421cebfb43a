"""Export a BigQuery table or query to a bucket or folder: `python -m trainer.bigquery.export`.

    TO/.export.json               what is exported here, and the id of its jobs; written first, create-only
       rows-000000000000.json.gz  the shards, written by BigQuery itself
       schema.json                the table's list of fields
       dataset.json               rows, shards with size and checksum, where they come from; written last

TO is one export's own. The same command started again takes up the jobs that .export.json names, wherever it was
stopped; once there is dataset.json, it only says so. So a lost answer, a kill or a second start makes nothing twice.

A plain table is extracted itself, which costs nothing; where a query is needed (a view, rows that are still streamed
in, --limit, --sample), the hidden table of its result is. Rows are counted as the table counts them; one that changed
after its extraction began is refused. A folder is filled by way of a bucket, for only BigQuery's own extract is exactly
what the bucket would hold; --staging is emptied again.
"""

import contextlib
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from trainer.bigquery import client as bigquery
from trainer.bigquery.client import Run
from trainer.bigquery.request import TYPES, Request, narrowed, request_of
from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.data.dataset_manifest import CLAIM, DATASET, FORMAT_VERSION, folder_and_name, text_of
from trainer.runtime import system
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import ConfigError, DataError, Interrupted, StorageError, TrainerError

SHARD = re.compile(r"rows-([0-9]+-)?[0-9]{12}\.json\.gz")
Record = dict[str, Any]


class Plan(NamedTuple):
    """How: by a query, or where there is none from the table itself; and what is known before."""

    table: str
    sql: str
    location: str
    bytes: int  # that the query reads
    rows: int | None


def export(request: Request, to: str, staging: str) -> None:
    """Export to a place that is empty or holds this export. Raises TrainerError."""
    with contextlib.nullcontext() if storage.is_remote(to) else system.locked_folder(Path(to)):
        whole = record(to, DATASET)
        claim: Record | None = whole["export"] if whole else record(to, CLAIM)
        if claim and claim["request"] != request._asdict():
            raise StorageError(f"{to} holds another export. Give another --to, or start that one again.")
        # A copy of an export has that one's place in it, which is not to be changed from here.
        here = claim is None or claim["place"] == place_of(to, staging, claim["id"])
        if whole and claim:
            if here:
                tidy(claim["place"], to)
            since = f"exported {whole['created']:.19} UTC. For newer rows give another --to"
            return say("dataset", f"{to} is there: {whole['rows']:,} rows, {since}.")
        if claim and not here:
            raise StorageError(
                f"{to} holds a copy of an export that was begun by way of {claim['place']}: go on there."
            )
        client = bigquery.connect(claim["project"] if claim else None)
        claim = claim or begin(client, request, to, staging)
        run = Run(client, claim["id"], claim["location"])
        try:
            source, queried = source_of(run, claim, request)
        except (ConfigError, DataError):
            with contextlib.suppress(StorageError):  # the place is free again for what does give rows
                storage.delete(storage.join(to, CLAIM))
            raise
        complete(run, claim, to, source, queried)


def begin(client: Any, request: Request, to: str, staging: str) -> Record:
    """Take an empty place for an export: what is in its .export.json now, which another start may have written."""
    if others := [name_of(stored) for stored in storage.entries(to) if not name_of(stored).startswith(".")]:
        raise StorageError(f"{to} holds {others[0]!r}. An export needs an empty place of its own: give another --to.")
    plan = planned(client, request)
    if plan.rows == 0:
        raise DataError(f"Table {plan.table} has 0 rows: there is nothing to export.")
    if plan.sql:
        say("query", f"{amount(plan.bytes)} to read")
    identity = uuid.uuid4().hex[:20]
    place = place_of(to, staging, identity)
    storage.probe(to if storage.is_remote(to) else staging)
    claim = {
        "format_version": FORMAT_VERSION, "id": identity, "request": request._asdict(), "project": client.project,
        "location": plan.location, "table": plan.table, "sql": plan.sql, "place": place,
    }  # fmt: skip
    try:
        storage.put_bytes(text(claim), storage.join(to, CLAIM))
    except StorageError:
        first = record(to, CLAIM)
        if not first or first["request"] != claim["request"]:
            raise
        return first
    return claim


def place_of(to: str, staging: str, identity: str) -> str:
    """Where BigQuery writes the shards of an export."""
    return to if storage.is_remote(to) else storage.join(staging, identity)


def planned(client: Any, request: Request) -> Plan:
    """What an export would do; its query is checked, not run. Raises ConfigError or StorageError."""
    sql, table, rows = request.sql, None, None
    if request.table:
        table = bigquery.reference(request.table, client.project)
        found = bigquery.table_of(client, table)
        if found is None:
            raise bigquery.no_table(client, table)
        sql = sql_of(request._replace(limit=0, sample=0.0), table)
        if found.table_type == "TABLE" and not found.streaming_buffer:
            rows = found.num_rows
            if not (request.limit or request.sample):
                return Plan(str(table), "", found.location, 0, rows)
    job = bigquery.call(
        "checking the query", lambda: bigquery.query(client, sql, request.parameters, dry_run=True),
        bigquery.FIRST_DEADLINE,
    )  # fmt: skip
    if job.statement_type != "SELECT":
        raise ConfigError(f"The query must be one SELECT, and is {job.statement_type}: its result is what is exported.")
    return Plan(str(table or ""), sql_of(request, table), job.location, job.total_bytes_processed, rows)


def sql_of(request: Request, table: Any) -> str:
    """The query of an export that needs one."""
    sql = request.sql or f"SELECT * FROM `{table}`"  # noqa: S608 (a name has no backtick)
    return narrowed(sql, request.limit, request.sample)


def source_of(run: Run, claim: Record, request: Request) -> tuple[Any, Any]:
    """The table to extract, and the query job that made it (None: none did). Raises DataError if it has no rows."""
    table = bigquery.reference(request.table, claim["project"]) if request.table else None
    if not claim["sql"]:
        return table, None

    def start(job_id: str, attempt: int) -> Any:
        sql = sql_of(request, table)  # made anew: others may be able to write what is in the place
        return bigquery.query(run.client, sql, request.parameters, job_id=job_id, location=run.location)

    def lacks(job: Any) -> TrainerError | None:
        if bigquery.table_of(run.client, job.destination):
            return None
        return StorageError("Its result is gone, as it is after a day. Start the same command again.")

    job = bigquery.finished(run, "query", start, lacks)
    if not bigquery.table_of(run.client, job.destination).num_rows:
        raise DataError("The query gives 0 rows: there is nothing to export. Correct it, or its parameters.")
    return job.destination, job


def complete(run: Run, claim: Record, to: str, source: Any, queried: Any) -> None:
    """Extract a table, bring its shards to where they belong, and describe them there."""
    place = claim["place"]

    def start(job_id: str, attempt: int) -> Any:
        # Names that tell the attempt: what an earlier one has left is never taken for a part of this one.
        name = "rows-*.json.gz" if attempt == 1 else f"rows-{attempt}-*.json.gz"
        return bigquery.extract(run, source, storage.join(place, name), job_id)

    extracted = bigquery.finished(run, "extract", start, lambda job: lacks_rows(run, job, changing=queried is None))
    table = bigquery.table_of(run.client, extracted.source)
    shards = [shard for shard in shards_of(extracted) if shard.size]  # an empty file is no gzip data, and has no rows
    remove_others(place, shards)
    if not storage.is_remote(to):
        storage.fetch([(shard, Path(to) / name_of(shard)) for shard in shards])
        remove_others(to, shards)
    storage.put_bytes(
        text([field.to_api_repr() for field in table.schema]), storage.join(to, "schema.json"), replace=True
    )
    processed, billed = (queried.total_bytes_processed or 0, queried.total_bytes_billed or 0) if queried else (0, 0)
    told = text_of(
        table.num_rows, shards, created=extracted.ended.isoformat(), bytes_processed=processed, bytes_billed=billed,
        jobs={"query": queried.job_id if queried else None, "extract": extracted.job_id}, export=claim,
    )  # fmt: skip
    storage.put_bytes(told, storage.join(to, DATASET))
    tidy(place, to)
    size, cost = amount(sum(shard.size for shard in shards)), amount(billed) if billed else "nothing"
    say("dataset", f"{to}: {table.num_rows:,} rows in {len(shards)} shards, {size}; {cost} billed")


def lacks_rows(run: Run, job: Any, *, changing: bool) -> TrainerError | None:
    """Why an extraction is not known to hold all rows of its table; `changing`: one that others may write to."""
    table = bigquery.table_of(run.client, job.source)
    if table is None:
        return StorageError(f"Table {job.source} is gone. Start the same command again.")
    if changing and (table.modified > job.created or table.streaming_buffer):
        return DataError(
            f"Table {job.source} changed after its extraction began: its rows cannot be counted. Start the same "
            "command again; a table that is always written to can be exported by --sql, with a SELECT of all."
        )
    if not table.num_rows:
        return DataError(f"Table {job.source} has 0 rows: there is nothing to export.")
    wrote, there = sum(job.destination_uri_file_counts), len(shards_of(job))
    if wrote != there:
        return StorageError(f"BigQuery wrote {wrote} shards, but {there} are there. Start the same command again.")
    return None


def shards_of(job: Any) -> list[Stored]:
    """What an extraction has written, and nothing else that may be there."""
    (uri,) = job.destination_uris
    place, name = folder_and_name(uri)
    pattern = re.escape(name).replace(r"\*", "[0-9]{12}")
    return [stored for stored in storage.entries(f"{place}/") if re.fullmatch(pattern, name_of(stored))]


def remove_others(place: str, shards: Sequence[Stored]) -> None:
    """Remove what earlier attempts have left."""
    names = {name_of(shard) for shard in shards}
    for stored in storage.entries(place):
        if SHARD.fullmatch(name_of(stored)) and name_of(stored) not in names:
            storage.delete(stored.uri)


def tidy(place: str, to: str) -> None:
    """Empty the staging of an export that is whole in its folder."""
    if place == to:
        return
    try:
        for stored in storage.entries(f"{place}/"):
            storage.delete(stored.uri)
    except StorageError as error:
        say("warning", f"{place} is not needed any more, but stays. {error}")


def record(to: str, name: str) -> Record | None:
    """One of the files that tell of an export; None if it is not there."""
    uri = storage.join(to, name)
    if not storage.find(uri):
        return None
    try:
        found: Record = orjson.loads(storage.read(uri))
        claim = found["export"] if name == DATASET else found
        if claim["format_version"] > FORMAT_VERSION:
            raise DataError(f"{uri} was written by a newer version of the trainer. Update this one.")
        if missing := {"id", "request", "project", "location", "sql", "place"} - claim.keys():
            raise KeyError(min(missing))
        return found
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{uri} is not of an export, or damaged. Give another --to.") from error


def text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def name_of(stored: Stored) -> str:
    return folder_and_name(stored.uri)[1]


def amount(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:,.2f} GB" if size >= 10**9 else f"{size / 1e6:,.2f} MB" if size >= 10**6 else f"{size:,} bytes"


def main(argv: list[str] | None = None) -> None:
    """Export a table of BigQuery, or the result of a query, as a dataset: gzip NDJSON shards with schema.json and
    dataset.json. The same command started again goes on where it was stopped."""
    parser = argument_parser("trainer.bigquery.export", main)
    parser.add_argument("--table", help="project.dataset.table, or dataset.table")
    parser.add_argument("--sql", help="file with one SELECT")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME[:TYPE]=VALUE",
        help=f"value of @NAME in the SQL; TYPE is one of {', '.join(TYPES)}; without it whole numbers are INT64, "
        "decimals FLOAT64, true and false BOOL, days DATE, all else STRING",
    )  # fmt: skip
    parser.add_argument("--since", metavar="YYYY-MM-DD", help="value of @since in the SQL, a DATE")
    parser.add_argument("--until", metavar="YYYY-MM-DD", help="value of @until in the SQL, a DATE")
    parser.add_argument("--to", required=True, help="gs://bucket/prefix or a folder, empty and of this export alone")
    parser.add_argument("--staging", help="gs://bucket/prefix by way of which a folder is filled; emptied again")
    parser.add_argument("--limit", type=int, help="rows at most, chosen by the hash of their values")
    parser.add_argument("--sample", type=float, help="share of the rows, chosen by the hash of their values")
    parser.add_argument("--dry-run", action="store_true", help="say what would be read, and do nothing")
    arguments = parser.parse_args(argv)
    request = request_of(arguments)
    try:
        if arguments.dry_run:
            plan = planned(bigquery.connect(), request)
            rows = "" if plan.rows is None else f", {plan.rows:,} rows in the table"
            reads = f"a query that reads {amount(plan.bytes)}, which is billed, 10 MB a table at least"
            how = reads if plan.sql else "no query, nothing billed"
            return say("dry run", f"{how}{rows}. The dataset would be written to {arguments.to}.")
        return export(request, arguments.to.rstrip("/") or "/", (arguments.staging or "").rstrip("/"))
    except Interrupted as order:
        raise Interrupted(
            f"Stopped; {arguments.to} is not whole. A job that was begun goes on in BigQuery, and the same command "
            "takes it up; `bq cancel` with its id ends it."
        ) from order


if __name__ == "__main__":
    run_command(main)
