"""A local BigQuery server: the part of the REST interface that an export needs, on DuckDB and sqlglot.

Google's unchanged client uses it through BIGQUERY_EMULATOR_HOST: tables, query jobs with parameters, dry runs, and
extract jobs into a bucket of `tests.servers.bucket`. A job does its work after a number of polls, so it never ends
between two steps of a test.

Its exports have the formats of the real service; `tests/bigquery/standard_export` has an example and its sources.
"""

import base64
import contextlib
import gzip
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb
import pyarrow as pa
import sqlglot
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from sqlglot import exp
from sqlglot.errors import SqlglotError

PROJECT, LOCATION = "test", "US"
# The kind of credentials for which Google's library sends no request.
ACCOUNT = dict.fromkeys(("client_id", "client_secret", "refresh_token", "token"), "tests")
ACCOUNT |= {"type": "authorized_user", "expiry": "2999-01-01T00:00:00Z"}
PATH = f"/bigquery/v2/projects/{PROJECT}"
TYPES = {
    "bigint": "INTEGER", "double": "FLOAT", "varchar": "STRING", "boolean": "BOOLEAN", "blob": "BYTES", "date": "DATE",
    "time": "TIME", "timestamp": "DATETIME", "timestamp with time zone": "TIMESTAMP", "struct": "RECORD",
}  # fmt: skip
DECIMALS = {9: "NUMERIC", 18: "BIGNUMERIC"}  # by scale
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
FINGERPRINT = "CAST(hash(x) >> 1 AS BIGINT) * CASE WHEN hash(x) % 2 = 0 THEN 1 ELSE -1 END"  # not Farm's, but as even

Row = Mapping[str, Any]


class RefusedError(Exception):
    """An error response of BigQuery."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.error = {"reason": reason, "message": message}
        self.body = {"error": {"code": code, "message": message, "errors": [{"domain": "global", **self.error}]}}
        self.code = code


@dataclass
class Job:
    """A job: its resource, how many polls still find it running, and its work, which completes its statistics."""

    resource: dict[str, Any]
    polls: int
    work: Callable[[dict[str, Any]], None]


@dataclass
class Faults:
    """Faults of the next requests: (fault, method, part of the path), each once.

    fault: "lost" (handled, but without a response), "reset" (not handled, no response), or a status code.
    """

    waiting: list[tuple[str, str, str]] = field(default_factory=list)

    def next(self, *kinds: str, method: str = "", path: str = "") -> None:
        self.waiting += [(kind, method, path) for kind in kinds]

    def of(self, method: str, path: str) -> str:
        for fault in self.waiting:
            if fault[1] in ("", method) and fault[2] in path:
                self.waiting.remove(fault)
                return fault[0]
        return ""


class Service:
    """Tables, views and jobs. Names of tables are dataset.table, or those of the hidden dataset of query results."""

    def __init__(self, bucket_host: str) -> None:
        self.bucket_host = bucket_host
        self.database = duckdb.connect()
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute(f"CREATE MACRO farm_fingerprint(x) AS {FINGERPRINT}")
        self.lock = threading.RLock()
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []  # (method, path)
        self.jobs: dict[str, Job] = {}
        self.modified: dict[str, int] = {}  # table -> ms
        self.streaming: set[str] = set()  # tables that rows are streamed into
        self.forbidden: set[str] = set()  # tables
        self.polls = 2
        self.shards = 3
        self.failures: list[tuple[str, str, str]] = []  # (kind of job, reason, message) of the next ones
        self.clock = self.queries = 0

    def now(self) -> int:
        """Milliseconds since 1970, another at every call."""
        self.clock = max(self.clock + 1, time.time_ns() // 10**6)
        return self.clock

    # For tests: the contents of the service

    def execute(self, sql: str) -> None:
        """Run a statement that creates or changes tables: `CREATE TABLE dataset.table (x INT64, ...)`."""
        for table in (tree := parsed(sql)).find_all(exp.Table):
            self.database.execute(f'CREATE SCHEMA IF NOT EXISTS "{table.db}"')
            self.modified[f"{table.db}.{table.name}"] = self.now()
        self.database.execute(translated(tree))

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        """Insert rows, a dict of Python values each; a missing key is NULL."""
        schema = self.arrow(table).schema
        self.database.register("rows_to_insert", pa.Table.from_pylist(list(rows), schema=schema))
        self.database.execute(f"INSERT INTO {quoted(table)} SELECT * FROM rows_to_insert")
        self.database.unregister("rows_to_insert")
        self.modified[table] = self.now()

    def arrow(self, table: str) -> pa.Table:
        return self.database.sql(f"SELECT * FROM {quoted(table)}").to_arrow_table()

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.arrow(table).to_pylist()
        return rows

    def started(self, kind: str) -> list[str]:
        """The ids of the jobs of a kind, in the order of their start."""
        return [name for name, job in self.jobs.items() if kind in job.resource["configuration"]]

    # The REST interface

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        """The response to a request. Raises RefusedError for an error response."""
        if (method, path) == ("POST", f"{PATH}/jobs"):
            return self.start(body)
        if match := re.fullmatch(f"{PATH}/jobs/([^/]+)(/cancel)?", path):
            return self.poll(match[1], query.get("location", LOCATION), cancel=bool(match[2]))
        if match := re.fullmatch(f"{PATH}/datasets/([^/]+)/tables", path):
            return {"tables": [{"tableReference": reference(name)} for name in self.names() if of(name, match[1])]}
        if match := re.fullmatch(f"{PATH}/datasets/([^/]+)/tables/([^/]+)", path):
            return self.table(f"{match[1]}.{match[2]}")
        raise RefusedError(404, "notFound", f"Not found: {method} {path}")

    def names(self) -> list[str]:
        tables = "SELECT table_schema, table_name FROM information_schema.tables"
        return [f"{schema}.{name}" for schema, name in self.database.execute(tables).fetchall()]

    def table(self, name: str) -> dict[str, Any]:
        if name not in self.names():
            raise RefusedError(404, "notFound", f"Not found: Table {PROJECT}:{name}")
        if name in self.forbidden:
            message = f"Access Denied: Table {PROJECT}:{name}: Permission bigquery.tables.get denied on table."
            raise RefusedError(403, "accessDenied", message)
        rows = self.arrow(name)
        views = "SELECT count(*) FROM information_schema.tables WHERE table_type = 'VIEW' AND table_schema = ?"
        dataset, _, table = name.partition(".")
        (is_view,) = self.database.execute(f"{views} AND table_name = ?", [dataset, table]).fetchone() or (0,)
        resource = {
            "tableReference": reference(name), "type": "VIEW" if is_view else "TABLE", "location": LOCATION,
            "schema": {"fields": self.fields(quoted(name))}, "lastModifiedTime": str(self.modified[name]),
        }  # fmt: skip
        if not is_view:
            resource |= {"numRows": str(rows.num_rows), "numBytes": str(rows.nbytes)}
        if name in self.streaming:
            resource["streamingBuffer"] = {"estimatedRows": "10", "estimatedBytes": "100"}
        return resource

    def fields(self, source: str, parameters: Row | None = None) -> list[dict[str, Any]]:
        """BigQuery's list of fields of a table, or of a query in brackets."""
        described = self.database.execute(f"DESCRIBE SELECT * FROM {source}", parameters).fetchall()
        required = {}
        if not source.startswith("("):
            required = {name: null == "NO" for name, _, null, *_ in self.database.sql(f"DESCRIBE {source}").fetchall()}
        return [field_of(name, duckdb.sqltype(kind), required.get(name, False)) for name, kind, *_ in described]

    def start(self, body: dict[str, Any]) -> dict[str, Any]:
        configuration, name = body["configuration"], body.get("jobReference", {}).get("jobId", "")
        if name in self.jobs:
            raise RefusedError(409, "duplicate", f"Already Exists: Job {PROJECT}:{LOCATION}.{name}")
        resource = {
            "jobReference": {"projectId": PROJECT, "location": LOCATION}, "configuration": configuration,
            "status": {"state": "PENDING"}, "statistics": {"creationTime": str(self.now())},
        }  # fmt: skip
        kind = next(kind for kind in ("query", "extract") if kind in configuration)
        work = self.query(resource) if kind == "query" else self.extract
        if configuration.get("dryRun"):
            resource["status"] = {"state": "DONE"}
            return resource
        if failure := next((failure for failure in self.failures if failure[0] == kind), None):
            self.failures.remove(failure)
            work = failing(*failure[1:])
        resource["jobReference"]["jobId"] = name
        self.jobs[name] = Job(resource, self.polls, work)
        return resource

    def poll(self, name: str, location: str, *, cancel: bool) -> dict[str, Any]:
        if name not in self.jobs or location != LOCATION:
            raise RefusedError(404, "notFound", f"Not found: Job {PROJECT}:{location}.{name}")
        job = self.jobs[name]
        resource, statistics = job.resource, job.resource["statistics"]
        if resource["status"]["state"] != "DONE":
            statistics.setdefault("startTime", str(self.now()))
            resource["status"]["state"] = "RUNNING"
            job.polls -= 1
            if job.polls < 0 or cancel:
                try:
                    (failing("stopped", "Job execution was cancelled: User requested") if cancel else job.work)(
                        resource
                    )
                except RefusedError as error:
                    resource["status"] |= {"errorResult": error.error, "errors": [error.error]}
                resource["status"]["state"] = "DONE"
                statistics["endTime"] = str(self.now())
        return {"job": resource} if cancel else resource

    def query(self, resource: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """Check a query and add what it would read to its job. Returns the work of running it."""
        request = resource["configuration"]["query"]
        try:
            tree = parsed(request["query"])
        except SqlglotError as error:
            at = error.errors[0] if getattr(error, "errors", None) else {"line": 1, "col": 1, "highlight": ""}
            message = f'Syntax error: Unexpected "{at["highlight"]}" at [{at["line"]}:{at["col"]}]'
            raise RefusedError(400, "invalidQuery", message) from None
        read = [self.table(f"{table.db}.{table.name}") for table in tree.find_all(exp.Table) if table.db]
        bytes_read = sum(int(table.get("numBytes", 0)) for table in read)
        used = {parameter.name for parameter in tree.find_all(exp.Parameter)}
        parameters = {each["name"]: each for each in request.get("queryParameters", ())}
        for name in sorted(used - parameters.keys()):
            line, column = position(f"@{name}", request["query"])
            message = f"Query parameter '{name}' not found at [{line}:{column}]"
            raise RefusedError(400, "invalidQuery", message)
        sql = f"({translated(tree, parameters)})"
        values = {name: parameters[name]["parameterValue"]["value"] for name in used}
        kind = "SELECT" if isinstance(tree, exp.Query) else tree.key.upper()
        statistics = {"totalBytesProcessed": str(bytes_read), "statementType": kind}
        resource["statistics"] |= {"totalBytesProcessed": str(bytes_read), "query": statistics}
        if kind != "SELECT":
            return failing("invalidQuery", "only SELECT here")
        try:
            statistics["schema"] = {"fields": self.fields(sql, values)}
        except duckdb.Error as error:
            raise RefusedError(400, "invalidQuery", bigquery_message(error, request["query"])) from None
        self.queries += 1
        anonymous = f"_hidden.anon{self.queries}"
        request.setdefault("destinationTable", reference(anonymous))

        def run(done: dict[str, Any]) -> None:
            self.database.execute("CREATE SCHEMA IF NOT EXISTS _hidden")
            try:
                self.database.execute(f"CREATE TABLE {quoted(anonymous)} AS {sql}", values)
            except duckdb.Error as error:
                raise RefusedError(400, "invalidQuery", bigquery_message(error, request["query"])) from None
            self.modified[anonymous] = self.now()
            done["statistics"]["query"]["totalBytesBilled"] = str(max(bytes_read, 10 * 2**20))

        return run

    def extract(self, resource: dict[str, Any]) -> None:
        """Write a table's rows, in random order, to shards of uneven size."""
        request = resource["configuration"]["extract"]
        assert (request["destinationFormat"], request["compression"]) == ("NEWLINE_DELIMITED_JSON", "GZIP")
        source, (uri,) = request["sourceTable"], request["destinationUris"]
        table = self.table(f"{source['datasetId']}.{source['tableId']}")
        if table["type"] == "VIEW":
            raise RefusedError(400, "invalid", f"{source['tableId']} is not allowed for this operation: it is a VIEW.")
        lines = [export_line(row, table["schema"]["fields"]) for row in self.rows(name_of(source))]
        chance = random.Random(len(lines))
        chance.shuffle(lines)
        cuts = sorted(chance.randrange(len(lines) + 1) for _ in range(self.shards - 1))
        bucket, _, pattern = uri.removeprefix("gs://").partition("/")
        client = storage.Client(PROJECT, AnonymousCredentials(), client_options={"api_endpoint": self.bucket_host})
        try:
            for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(lines)], strict=True)):
                blob = client.bucket(bucket).blob(pattern.replace("*", f"{number:012}"))
                blob.upload_from_string(gzip.compress(b"".join(lines[begin:end])), "application/octet-stream")
        except GoogleAPICallError:
            raise RefusedError(404, "notFound", f"Not found: URI {uri}") from None
        resource["statistics"]["extract"] = {"destinationUriFileCounts": [str(self.shards)]}


def parsed(sql: str) -> exp.Expr:
    """The syntax tree of a statement of BigQuery's SQL, its tables without their project."""
    tree = sqlglot.parse_one(sql, read="bigquery")
    for table in tree.find_all(exp.Table):
        table.set("catalog", None)
    return tree


def translated(tree: exp.Expr, parameters: Mapping[str, Row] = {}) -> str:
    """A statement in DuckDB's SQL; a parameter's text is cast to its type."""

    def change(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.DataType) and not node.expressions:
            precise = {exp.DType.DECIMAL: "DECIMAL(38, 9)", exp.DType.BIGDECIMAL: "DECIMAL(38, 18)"}
            return exp.DataType.build(precise[node.this]) if node.this in precise else node
        if isinstance(node, exp.Parameter) and node.name in parameters:
            kind = exp.DataType.build(parameters[node.name]["parameterType"]["type"], dialect="bigquery")
            return exp.Cast(this=exp.Placeholder(this=node.name), to=kind)
        return node

    return tree.transform(change).sql(dialect="duckdb")


def field_of(name: str, kind: Any, required: bool = False) -> dict[str, Any]:
    """A field of a schema in BigQuery's form."""
    repeated = kind.id == "list"
    if repeated:
        kind = kind.children[0][1]
    if kind.id == "decimal":
        kind_name = DECIMALS[dict(kind.children)["scale"]]
    else:
        kind_name = "INTEGER" if kind.id in ("integer", "hugeint") else TYPES[kind.id]
    field: dict[str, Any] = {"name": name, "type": kind_name}
    field["mode"] = "REPEATED" if repeated else "REQUIRED" if required else "NULLABLE"
    if kind_name == "RECORD":
        field["fields"] = [field_of(child, child_kind) for child, child_kind in kind.children]
    return field


def export_line(row: Row, fields: list[dict[str, Any]]) -> bytes:
    """A row as an export writes it."""
    return json_text(export_record(row, fields)).encode() + b"\n"


def export_record(row: Row, fields: list[dict[str, Any]]) -> dict[str, Any]:
    record = {}
    for each in fields:
        value = row[each["name"]]
        if each["mode"] == "REPEATED":
            record[each["name"]] = [export_value(element, each) for element in value or ()]
        elif value is not None:
            record[each["name"]] = export_value(value, each)
    return record


def export_value(value: Any, schema_field: dict[str, Any]) -> Any:
    """A value in JSON. Integers, decimals and all types that JSON does not have are strings."""
    kind = schema_field["type"]
    if kind == "RECORD":
        return export_record(value, schema_field["fields"])
    if isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        text = f"{value.replace(tzinfo=None).isoformat(sep='T' if kind == 'DATETIME' else ' ')}"
        return short_fraction(text) + (" UTC" if kind == "TIMESTAMP" else "")
    if isinstance(value, time_of_day):
        return short_fraction(value.isoformat())
    return value.isoformat() if isinstance(value, date) else str(value)


def short_fraction(text: str) -> str:
    """A fraction of a second in three digits where they are enough, else in six."""
    return re.sub(r"(\.\d{3})000$", r"\1", text)


def json_text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: ESCAPES[match[0]], text)


def failing(reason: str, message: str) -> Callable[[dict[str, Any]], None]:
    def fail(resource: dict[str, Any]) -> None:
        raise RefusedError(400, reason, message)

    return fail


def bigquery_message(error: duckdb.Error, sql: str) -> str:
    """BigQuery's message, as far as tests check it: an unknown column, with its position."""
    if unknown := re.search(r'column "(\w+)" not found', str(error)):
        line, column = position(unknown[1], sql)
        return f"Unrecognized name: {unknown[1]} at [{line}:{column}]"
    return str(error).partition("\n")[0]


def position(text: str, sql: str) -> tuple[int, int]:
    before = sql[: sql.find(text)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def reference(name: str) -> dict[str, str]:
    dataset, _, table = name.partition(".")
    return {"projectId": PROJECT, "datasetId": dataset, "tableId": table}


def name_of(table: Mapping[str, str]) -> str:
    return f"{table['datasetId']}.{table['tableId']}"


def of(name: str, dataset: str) -> bool:
    return name.partition(".")[0] == dataset


def quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))


class Handler(BaseHTTPRequestHandler):
    """Handles a request: with a fault, or by the service."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body of a response are sent together
    disable_nagle_algorithm = True
    service: Service

    def handle_any(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), {name: values[0] for name, values in parse_qs(address.query).items()}
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(text) if text.startswith(b"{") else {}
        with self.service.lock:
            fault = self.service.faults.of(self.command, path)
            self.service.requests.append((self.command, path))
            code, answer = 200, {}
            if not fault.isdigit() and fault != "reset":
                try:
                    answer = self.service.answer(self.command, path, query, body)
                except RefusedError as error:
                    code, answer = error.code, error.body
        if fault in ("lost", "reset"):
            self.close_connection = True
            return
        if fault:
            code, answer = int(fault), RefusedError(int(fault), "backendError", "Try again.").body
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Print nothing: tests use `Service.requests`."""


@contextlib.contextmanager
def serving(bucket_host: str, folder: Path) -> Iterator[Service]:
    """A service on a free port of loopback. Inside the block Google's client, also in child processes, uses it, with
    credentials in `folder`."""
    service = Service(bucket_host)
    handler = type("BoundHandler", (Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    credentials = folder / "credentials.json"
    credentials.write_text(json.dumps(ACCOUNT))
    variables = {
        "BIGQUERY_EMULATOR_HOST": host, "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield service
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        server.shutdown()
        server.server_close()
        thread.join()
        service.database.close()
        del handler.service, service.database  # a thread that waits for a disconnected client would keep them
