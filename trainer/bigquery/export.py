"""Export a BigQuery table or query to a bucket or folder: `python -m trainer.bigquery.export`.

    TO/.export.json               the request and the id of its jobs; created first, never replaced
       rows-000000000000.json.gz  the shards, written by BigQuery
       schema.json                the table's list of fields
       dataset.json               rows, shards with size and checksum, and their origin; written last

TO belongs to one export. The same command, started again, resumes the jobs in .export.json wherever it was stopped;
once dataset.json exists it only prints a summary. So after a lost response, a kill or a second start, nothing is
exported twice.

A plain table is extracted directly, which costs nothing. A query is run for a view, a table with rows in its streaming
buffer, --limit and --sample, and its hidden result table is extracted. The number of rows is the table's; a table that
changed after the extract job was created is refused. A folder is filled by way of a bucket (--staging, which is emptied
again), because only BigQuery's own extract gives exactly the same shards.
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
from trainer.bigquery.request import Request, add_options, request_of, sample_query
from trainer.cloud import storage
from trainer.cloud.storage import Stored
from trainer.data.dataset_manifest import CLAIM, DATASET, FORMAT_VERSION, folder_and_name, text_of
from trainer.runtime import system
from trainer.runtime.command import amount, argument_parser, count, run_command, say
from trainer.runtime.errors import ConfigError, DataError, Interrupted, StorageError, TrainerError

SHARD = re.compile(r"rows-([0-9]+-)?[0-9]{12}\.json\.gz")
Record = dict[str, Any]


class Plan(NamedTuple):
    """How to export: by a query, or with "" directly from the table."""

    table: str
    sql: str
    location: str
    bytes: int  # that the query reads
    rows: int | None  # of the table, if it is exported directly or sampled


def export(request: Request, to: str, staging: str) -> None:
    """Export to a bucket or folder that is empty or holds this export. Raises TrainerError."""
    with contextlib.nullcontext() if storage.is_remote(to) else system.locked_folder(Path(to)):
        dataset = read_record(to, DATASET)
        claim: Record | None = dataset["export"] if dataset else read_record(to, CLAIM)
        if claim and claim["request"] != request._asdict():
            raise StorageError(f"{to} holds another export. Choose another --to, or use the arguments of that export.")
        # In a copy of an export the place is that of the original, which must not be changed from here.
        is_copy = claim is not None and claim["place"] != place_of(to, staging, claim["id"])
        if dataset and claim:
            if not is_copy:
                empty_staging(claim["place"], to)
            created = f"exported {dataset['created']:.19} UTC. For newer rows choose another --to"
            return say("dataset", f"{to} is complete: {count(dataset['rows'], 'row')}, {created}.")
        if claim and is_copy:
            raise StorageError(f"{to} holds a copy of an export that writes to {claim['place']}. Resume the original.")
        client = bigquery.connect(claim["project"] if claim else None)
        claim = claim or start_export(client, request, to, staging)
        run = Run(client, claim["id"], claim["location"])
        try:
            source, query_job = source_of(run, claim, request)
        except (ConfigError, DataError):
            with contextlib.suppress(StorageError):  # leave the place to a request that gives rows
                storage.delete(storage.join(to, CLAIM))
            raise
        complete(run, claim, to, source, query_job)


def start_export(client: Any, request: Request, to: str, staging: str) -> Record:
    """Create .export.json in an empty place. Returns its content, which the same command elsewhere may have written."""
    if others := [name_of(stored) for stored in storage.entries(to) if not name_of(stored).startswith(".")]:
        raise StorageError(f"{to} holds {others[0]!r}. Export to an empty folder or prefix: choose another --to.")
    plan = plan_of(client, request)
    if plan.rows == 0:
        raise DataError(f"Table {plan.table} has 0 rows: there is nothing to export. Choose another --table.")
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
        storage.put(json_text(claim), storage.join(to, CLAIM))
    except StorageError:
        first = read_record(to, CLAIM)
        if not first or first["request"] != claim["request"]:
            raise
        return first
    return claim


def place_of(to: str, staging: str, identity: str) -> str:
    """The prefix to which BigQuery writes the shards of an export."""
    return to if storage.is_remote(to) else storage.join(staging, identity)


def plan_of(client: Any, request: Request) -> Plan:
    """What an export would do. Its query is checked, not run. Raises ConfigError or StorageError."""
    reference, rows = None, None
    if request.table:
        reference = bigquery.reference(request.table, client.project)
        table = bigquery.find_table(client, reference)
        if table is None:
            raise bigquery.missing_table(client, reference)
        if table.table_type == "TABLE" and not table.streaming_buffer:
            rows = table.num_rows
            if not (request.limit or request.sample):
                return Plan(str(reference), "", table.location, 0, rows)
    sql = query_of(request._replace(limit=0, sample=0.0), reference)
    job = bigquery.call(
        "checking the query", lambda: bigquery.query(client, sql, request.parameters, dry_run=True),
        bigquery.FIRST_DEADLINE,
    )  # fmt: skip
    if job.statement_type != "SELECT":
        raise ConfigError(
            f"The query must be one SELECT, and is {job.statement_type}. Write a SELECT of the rows to export."
        )
    return Plan(str(reference or ""), query_of(request, reference), job.location, job.total_bytes_processed, rows)


def query_of(request: Request, table: Any) -> str:
    """The SQL of an export that needs a query."""
    sql = request.sql or f"SELECT * FROM `{table}`"  # noqa: S608 (a name has no backtick)
    return sample_query(sql, request.limit, request.sample)


def source_of(run: Run, claim: Record, request: Request) -> tuple[Any, Any]:
    """The table to extract, and the query job that made it (None: no query). Raises DataError if it has no rows."""
    table = bigquery.reference(request.table, claim["project"]) if request.table else None
    if not claim["sql"]:
        return table, None

    def start(job_id: str, attempt: int) -> Any:
        sql = query_of(request, table)  # not the one in .export.json, which others may be able to write
        return bigquery.query(run.client, sql, request.parameters, job_id=job_id, location=run.location)

    def check(job: Any) -> TrainerError | None:
        if bigquery.find_table(run.client, job.destination):
            return None
        return StorageError(
            "The result of the query no longer exists; BigQuery keeps it for a day. Run the same command again."
        )

    job = bigquery.completed_job(run, "query", start, check)
    if not bigquery.find_table(run.client, job.destination).num_rows:
        raise DataError("The query gives 0 rows: there is nothing to export. Correct it, or its parameters.")
    return job.destination, job


def complete(run: Run, claim: Record, to: str, source: Any, query_job: Any) -> None:
    """Extract a table, fetch its shards if they go to a folder, and write schema.json and dataset.json."""
    place = claim["place"]

    def start(job_id: str, attempt: int) -> Any:
        # The attempt is in the names, so shards of an earlier attempt are never taken for shards of this one.
        name = "rows-*.json.gz" if attempt == 1 else f"rows-{attempt}-*.json.gz"
        return bigquery.extract(run, source, storage.join(place, name), job_id)

    extract_job = bigquery.completed_job(
        run, "extract", start, lambda job: extract_error(run, job, may_change=query_job is None)
    )
    table = bigquery.find_table(run.client, extract_job.source)
    shards = [shard for shard in shards_of(extract_job) if shard.size]  # an empty file is not gzip, and has no rows
    remove_others(place, shards)
    if not storage.is_remote(to):
        storage.fetch([(shard, Path(to) / name_of(shard)) for shard in shards])
        remove_others(to, shards)
    schema = json_text([field.to_api_repr() for field in table.schema])
    storage.put(schema, storage.join(to, "schema.json"), replace=True)
    processed = query_job.total_bytes_processed or 0 if query_job else 0
    billed = query_job.total_bytes_billed or 0 if query_job else 0
    dataset = text_of(
        table.num_rows, shards, created=extract_job.ended.isoformat(), bytes_processed=processed, bytes_billed=billed,
        jobs={"query": query_job.job_id if query_job else None, "extract": extract_job.job_id}, export=claim,
    )  # fmt: skip
    storage.put(dataset, storage.join(to, DATASET))
    empty_staging(place, to)
    size, cost = amount(sum(shard.size for shard in shards)), amount(billed) if billed else "nothing"
    say("dataset", f"{to}: {count(table.num_rows, 'row')} in {count(len(shards), 'shard')}, {size}; {cost} billed")


def extract_error(run: Run, job: Any, *, may_change: bool) -> TrainerError | None:
    """Why an extract job may not have all rows of its table; None if it has. may_change: others can write to it."""
    table = bigquery.find_table(run.client, job.source)
    if table is None:
        return StorageError(f"Table {job.source} was deleted. Start the same command again.")
    if may_change and (table.modified > job.created or table.streaming_buffer):
        return DataError(
            f"Table {job.source} changed after its extraction began, so its rows cannot be counted. Start the same "
            "command again; if the table changes all the time, use --sql with a SELECT of all rows."
        )
    if not table.num_rows:
        return DataError(f"Table {job.source} has 0 rows: there is nothing to export.")
    written, existing = sum(job.destination_uri_file_counts), len(shards_of(job))
    if written != existing:
        return StorageError(f"BigQuery wrote {written} shards, but {existing} exist. Start the same command again.")
    return None


def shards_of(job: Any) -> list[Stored]:
    """The shards that an extract job has written."""
    (uri,) = job.destination_uris
    place, name = folder_and_name(uri)
    pattern = re.escape(name).replace(r"\*", "[0-9]{12}")
    return [stored for stored in storage.entries(f"{place}/") if re.fullmatch(pattern, name_of(stored))]


def remove_others(place: str, shards: Sequence[Stored]) -> None:
    """Delete the shards of earlier attempts."""
    names = {name_of(shard) for shard in shards}
    for stored in storage.entries(place):
        if SHARD.fullmatch(name_of(stored)) and name_of(stored) not in names:
            storage.delete(stored.uri)


def empty_staging(place: str, to: str) -> None:
    """Delete the shards in the staging bucket once they are complete in the folder."""
    if place == to:
        return
    try:
        for stored in storage.entries(f"{place}/"):
            storage.delete(stored.uri)
    except StorageError as error:
        say("warning", f"{place} is no longer needed, but cannot be deleted. {error}")


def read_record(to: str, name: str) -> Record | None:
    """The content of dataset.json or .export.json; None if the file does not exist."""
    uri = storage.join(to, name)
    if not storage.find(uri):
        return None
    try:
        record: Record = orjson.loads(storage.read(uri))
        claim = record["export"] if name == DATASET else record
        if claim["format_version"] > FORMAT_VERSION:
            raise DataError(f"{uri} was written by a newer version of flatfab. Update flatfab.")
        if missing := {"id", "request", "project", "location", "sql", "place"} - claim.keys():
            raise KeyError(min(missing))
        return record
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{uri} is damaged, or not from an export. Choose another --to.") from error


def json_text(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def name_of(stored: Stored) -> str:
    return folder_and_name(stored.uri)[1]


def main(argv: list[str] | None = None) -> None:
    """Export a BigQuery table, or the result of a query, as gzip NDJSON shards with schema.json and dataset.json. The
    same command, started again, resumes an export that was stopped."""
    parser = argument_parser("trainer.bigquery.export", main)
    add_options(parser)
    arguments = parser.parse_args(argv)
    request = request_of(arguments)
    try:
        if arguments.dry_run:
            plan = plan_of(bigquery.connect(), request)
            rows = "" if plan.rows is None else f", {plan.rows:,} rows in the table"
            reads = f"a query that reads {amount(plan.bytes)}, which is billed, at least 10 MB a table"
            how = reads if plan.sql else "no query, nothing billed"
            return say("dry run", f"{how}{rows}. The dataset would be written to {arguments.to}.")
        return export(request, arguments.to.rstrip("/") or "/", (arguments.staging or "").rstrip("/"))
    except Interrupted as stop:
        raise Interrupted(
            f"Stopped; {arguments.to} is incomplete. Its job continues in BigQuery. Run the same command again to "
            "resume the export, or end the job: `bq cancel JOB`."
        ) from stop


if __name__ == "__main__":
    run_command(main)
