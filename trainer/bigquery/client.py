"""Query, look up and extract tables in BigQuery, through Google's client, which is imported when it is first needed.

Each job gets its id from here, so a request that is sent again after a lost response finds the job that it started.
Errors quote BigQuery's message and add what to do.
"""

import time
from collections.abc import Callable
from difflib import get_close_matches
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trainer.cloud import retries
from trainer.cloud.retries import BadResponseError
from trainer.runtime import system
from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, StorageError, TrainerError, did_you_mean

FIRST_POLL, LONGEST_POLL, LINE_SECONDS = 0.5, 5.0, 10.0
REQUEST_SECONDS = 60.0  # timeout of a request
FIRST_DEADLINE = 60.0  # seconds without a response at the start, when there may be no network at all
TABLES_LISTED = 1000

# BigQuery's reason for an error -> the exception to raise, and what to do.
REASONS: dict[str, tuple[type[TrainerError], str]] = {
    "invalidQuery": (ConfigError, "Correct the query."),
    "invalid": (ConfigError, "Correct --table or --sql."),
    "responseTooLarge": (ConfigError, "Write it to a table by CREATE TABLE ... AS SELECT, and export that by --table."),
    "resourcesExceeded": (ConfigError, "Make the query simpler, or --limit smaller."),
    "notFound": (StorageError, "Check the names of project, dataset, table and bucket."),
    "accessDenied": (StorageError, "Ask the owner for the permission."),
    "quotaExceeded": (StorageError, "Start the same command again later."),
}
OTHER_REASON = (StorageError, "Start the same command again.")
BUSY = {"rateLimitExceeded", "jobRateLimitExceeded", "backendError", "internalError"}

T = TypeVar("T")
Start = Callable[[str, int], Any]  # job id and number of the attempt -> the started job
Check = Callable[[Any], TrainerError | None]  # a job without errors -> why its result cannot be used


class Run(NamedTuple):
    """An export, whose jobs are started or resumed."""

    client: Any
    identity: str
    location: str


def connect(project: str | None = None) -> Any:
    """A client whose jobs run in `project`; None for the project of the credentials or the environment."""
    from google.cloud import bigquery  # noqa: PLC0415

    try:
        return call("connecting to BigQuery", lambda: bigquery.Client(project=project))
    except OSError as error:  # what the client raises when it finds no project
        raise ConfigError("No project to run the jobs in. Set GOOGLE_CLOUD_PROJECT.") from error


def call(doing: str, function: Callable[[], T], deadline: float | None = None) -> T:
    """The result of a call to BigQuery, which is retried for `deadline` seconds while its failure may pass."""
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415

    def attempt() -> T:
        try:
            return function()
        except GoogleAPICallError as error:
            reason = reason_of(error)
            if reason in BUSY:
                raise BadResponseError(retries.describe(error)) from error
            if reason in REASONS and reason != "accessDenied":
                raise job_error(reason, retries.service_message(error)) from error
            raise

    return retries.with_retries(doing, attempt, deadline)


def reason_of(error: Exception) -> str:
    """BigQuery's reason for an error; "" if it gives none."""
    details = getattr(error, "errors", None) or [{}]
    return str(details[0].get("reason", "")) if isinstance(details[0], dict) else ""


def job_error(reason: str, message: str) -> TrainerError:
    """The exception for BigQuery's reason and message."""
    error, advice = REASONS.get(reason, OTHER_REASON)
    return error(f"BigQuery says: {' '.join(message.split()).rstrip('.')}. {advice}")


def reference(name: str, project: str) -> Any:
    """A reference to the table `name`: project.dataset.table, or dataset.table in `project`."""
    from google.cloud import bigquery  # noqa: PLC0415

    return bigquery.TableReference.from_string(name, default_project=project)


def find_table(client: Any, reference: Any) -> Any:
    """A table; None if it does not exist."""
    from google.api_core.exceptions import NotFound  # noqa: PLC0415

    def get() -> Any:
        try:
            return client.get_table(reference, retry=None, timeout=REQUEST_SECONDS)
        except NotFound:
            return None

    return call(f"looking for table {reference}", get, FIRST_DEADLINE)


def missing_table(client: Any, reference: Any) -> StorageError:
    """The error for a table that does not exist, with the most similar name."""
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415
    from google.cloud import bigquery  # noqa: PLC0415

    dataset = bigquery.DatasetReference(reference.project, reference.dataset_id)
    try:
        tables = client.list_tables(dataset, retry=None, timeout=REQUEST_SECONDS)
        names = [table.table_id for table in islice(tables, TABLES_LISTED)]
    except GoogleAPICallError:
        return StorageError(f"There is no table {reference}, and its dataset {dataset} cannot be listed.")
    near = get_close_matches(reference.table_id, names, n=10, cutoff=0)
    return StorageError(f"There is no table {reference}. {did_you_mean(reference.table_id, near)}")


def query(client: Any, sql: str, parameters: dict[str, list[str]], **options: Any) -> Any:
    """Start a query; with `dry_run` only check it. parameters: name -> [type, value]."""
    from google.cloud import bigquery  # noqa: PLC0415

    values = [bigquery.ScalarQueryParameter(name, kind, value) for name, (kind, value) in parameters.items()]
    config = bigquery.QueryJobConfig(query_parameters=values, dry_run=options.pop("dry_run", False))
    return client.query(sql, job_config=config, retry=None, job_retry=None, timeout=REQUEST_SECONDS, **options)


def extract(run: Run, source: Any, uri: str, job_id: str) -> Any:
    """Start to extract a table to gzip NDJSON shards; * in the URI stands for their numbers."""
    from google.cloud import bigquery  # noqa: PLC0415

    config: Any = bigquery.ExtractJobConfig  # it has no type annotations
    config = config(destination_format="NEWLINE_DELIMITED_JSON", compression="GZIP")
    options = {"job_id": job_id, "location": run.location, "job_config": config}
    return run.client.extract_table(source, [uri], retry=None, timeout=REQUEST_SECONDS, **options)


def completed_job(run: Run, kind: str, start: Start, check: Check) -> Any:
    """A job of this kind that has succeeded: started now, or resumed from an earlier command. If the earlier one has
    failed, or its result cannot be used any more, the next number is started. Raises TrainerError."""
    for attempt in count(1):
        job_id = f"flatfab_{run.identity}_{kind}_{attempt}"
        job, new = start_or_resume(run, job_id, attempt, start)
        say(kind, f"job {job_id} {'started' if new else 'resumed'}")
        wait(job, kind)
        error = job_error(job.error_result["reason"], job.error_result["message"]) if job.error_result else check(job)
        if error is None:
            return job
        if new:
            raise error
        say("warning", f"job {job_id} of an earlier command cannot be used. {error}")
    raise AssertionError("count() does not end")


def start_or_resume(run: Run, job_id: str, attempt: int, start: Start) -> tuple[Any, bool]:
    """A job, and whether it is new: an id that is in use belongs to an earlier command, or to a request whose response
    was lost."""
    from google.api_core.exceptions import Conflict, NotFound  # noqa: PLC0415

    def start_or_get() -> tuple[Any, bool]:
        system.fail_point(Path(job_id))
        try:
            return start(job_id, attempt), True
        except Conflict:
            pass
        try:
            return run.client.get_job(job_id, location=run.location, retry=None, timeout=REQUEST_SECONDS), False
        except NotFound:  # a new job cannot be looked up for a moment
            raise BadResponseError(f"job {job_id} exists, but cannot be looked up") from None

    return call(f"starting job {job_id}", start_or_get)


def wait(job: Any, kind: str) -> None:
    """Wait until a job has ended, with or without an error. Prints a line every few seconds."""
    started = last = time.monotonic()
    pause = FIRST_POLL
    while job.state != "DONE":
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_POLL)
        call(f"polling job {job.job_id}", lambda: job.reload(retry=None, timeout=REQUEST_SECONDS))
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            read = f", {job.total_bytes_processed:,} bytes read" if getattr(job, "total_bytes_processed", None) else ""
            say(kind, f"{job.state.lower()}, {last - started:.0f} s{read}")
