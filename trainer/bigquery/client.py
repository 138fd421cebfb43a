"""BigQuery, through its own client: the only module that knows it, and it imports it when first asked.

A job has an id of its own making: a request whose answer was lost is made again, and meets the job that it began. A
fault is told as BigQuery tells it, with what to do.
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
REQUEST_SECONDS = 60.0  # in which an answer has to come
FIRST_DEADLINE = 60.0  # seconds without an answer at the beginning, when there may be no network at all
TABLES_LISTED = 1000

# What BigQuery calls a fault -> what it is to us, and what to do.
CAUSES: dict[str, tuple[type[TrainerError], str]] = {
    "invalidQuery": (ConfigError, "Correct the query."),
    "invalid": (ConfigError, "Correct what is to be exported."),
    "responseTooLarge": (ConfigError, "Write it to a table by CREATE TABLE ... AS SELECT, and export that by --table."),
    "resourcesExceeded": (ConfigError, "Make the query simpler, or --limit smaller."),
    "notFound": (StorageError, "Check the names of project, dataset, table and bucket."),
    "accessDenied": (StorageError, "Ask the owner for the permission."),
    "quotaExceeded": (StorageError, "Start the same command again later."),
}
OTHERWISE = (StorageError, "Start the same command again.")
BUSY = {"rateLimitExceeded", "jobRateLimitExceeded", "backendError", "internalError"}

T = TypeVar("T")
Start = Callable[[str, int], Any]  # begins a job of this id, as which attempt
Lacks = Callable[[Any], TrainerError | None]  # why a job that ended well is of no use


class Run(NamedTuple):
    """Whose jobs are begun or taken up."""

    client: Any
    identity: str
    location: str


def connect(project: str | None = None) -> Any:
    """The client, whose jobs run in a project; None: the one of the credentials or of the environment."""
    from google.cloud import bigquery  # noqa: PLC0415

    try:
        return call("connecting to BigQuery", lambda: bigquery.Client(project=project))
    except OSError as error:  # the client's word for it
        raise ConfigError("Which project is to run the jobs? Name it in GOOGLE_CLOUD_PROJECT.") from error


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
            if reason in CAUSES and reason != "accessDenied":
                raise job_error(reason, retries.service_message(error)) from error
            raise

    return retries.with_retries(doing, attempt, deadline)


def reason_of(error: Exception) -> str:
    """BigQuery's word for a fault; "" where it says none."""
    details = getattr(error, "errors", None) or [{}]
    return str(details[0].get("reason", "")) if isinstance(details[0], dict) else ""


def job_error(reason: str, message: str) -> TrainerError:
    """The error that a fault is to us."""
    error, advice = CAUSES.get(reason, OTHERWISE)
    return error(f"BigQuery says: {' '.join(message.split()).rstrip('.')}. {advice}")


def reference(name: str, project: str) -> Any:
    """A table by its name, project.dataset.table or dataset.table of a project."""
    from google.cloud import bigquery  # noqa: PLC0415

    return bigquery.TableReference.from_string(name, default_project=project)


def table_of(client: Any, where: Any) -> Any:
    """A table; None where there is none."""
    from google.api_core.exceptions import NotFound  # noqa: PLC0415

    def look() -> Any:
        try:
            return client.get_table(where, retry=None, timeout=REQUEST_SECONDS)
        except NotFound:
            return None

    return call(f"looking for table {where}", look, FIRST_DEADLINE)


def no_table(client: Any, where: Any) -> StorageError:
    """The refusal of a table that is not there, with the names that are most like it."""
    from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415
    from google.cloud import bigquery  # noqa: PLC0415

    dataset = bigquery.DatasetReference(where.project, where.dataset_id)
    try:
        tables = client.list_tables(dataset, retry=None, timeout=REQUEST_SECONDS)
        names = [table.table_id for table in islice(tables, TABLES_LISTED)]
    except GoogleAPICallError:
        return StorageError(f"There is no table {where}, and no dataset {dataset} that may be looked into.")
    near = get_close_matches(where.table_id, names, n=10, cutoff=0)
    return StorageError(f"There is no table {where}. {did_you_mean(where.table_id, near)}")


def query(client: Any, sql: str, parameters: dict[str, list[str]], **options: Any) -> Any:
    """Begin a query; `dry_run`: only check it. parameters: name -> [type, value]."""
    from google.cloud import bigquery  # noqa: PLC0415

    given = [bigquery.ScalarQueryParameter(name, kind, value) for name, (kind, value) in parameters.items()]
    config = bigquery.QueryJobConfig(query_parameters=given, dry_run=options.pop("dry_run", False))
    return client.query(sql, job_config=config, retry=None, job_retry=None, timeout=REQUEST_SECONDS, **options)


def extract(run: Run, source: Any, uri: str, job_id: str) -> Any:
    """Begin to extract a table to gzip NDJSON shards; * in the URI stands for their numbers."""
    from google.cloud import bigquery  # noqa: PLC0415

    config: Any = bigquery.ExtractJobConfig  # its maker has no types
    config = config(destination_format="NEWLINE_DELIMITED_JSON", compression="GZIP")
    options = {"job_id": job_id, "location": run.location, "job_config": config}
    return run.client.extract_table(source, [uri], retry=None, timeout=REQUEST_SECONDS, **options)


def finished(run: Run, kind: str, start: Start, lacks: Lacks) -> Any:
    """The job of a kind that has ended well: begun now, or taken up from an earlier start. One of an earlier start that
    failed, or is of no use any more, is told, and done anew under the next number. Raises TrainerError."""
    for attempt in count(1):
        job_id = f"flatfab_{run.identity}_{kind}_{attempt}"
        job, ours = begun(run, job_id, attempt, start)
        say(kind, f"job {job_id} {'begun' if ours else 'taken up'}")
        wait(job, kind)
        wrong = job_error(job.error_result["reason"], job.error_result["message"]) if job.error_result else lacks(job)
        if wrong is None:
            return job
        if ours:
            raise wrong
        say("warning", f"job {job_id} of an earlier start is of no use. {wrong}")
    raise AssertionError("numbers do not end")


def begun(run: Run, job_id: str, attempt: int, start: Start) -> tuple[Any, bool]:
    """A job, and whether this start has begun it: an id that is in use is that of an earlier start, or of a request
    whose answer was lost."""
    from google.api_core.exceptions import Conflict, NotFound  # noqa: PLC0415

    def begin_or_find() -> tuple[Any, bool]:
        system.fail_point(Path(job_id))
        try:
            return start(job_id, attempt), True
        except Conflict:
            pass
        try:
            return run.client.get_job(job_id, location=run.location, retry=None, timeout=REQUEST_SECONDS), False
        except NotFound:  # for a moment, there may be a job that its own name does not find
            raise BadResponseError(f"job {job_id} is there, but is not found") from None

    return call(f"beginning job {job_id}", begin_or_find)


def wait(job: Any, kind: str) -> None:
    """Until a job has ended, well or not; with a line every few seconds."""
    began = last = time.monotonic()
    pause = FIRST_POLL
    while job.state != "DONE":
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_POLL)
        call(f"looking at job {job.job_id}", lambda: job.reload(retry=None, timeout=REQUEST_SECONDS))
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            read = f", {job.total_bytes_processed:,} bytes read" if getattr(job, "total_bytes_processed", None) else ""
            say(kind, f"{job.state.lower()}, {last - began:.0f} s{read}")
