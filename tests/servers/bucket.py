"""A local bucket server: gcp-storage-emulator in a thread, with two corrections for exactly the pinned version.

The emulator ignores preconditions, so two writers that both create an object would both succeed; and its listen queue
of five loses connections when many arrive at once.
"""

import contextlib
import http.server
import os
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server as emulator
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

GUARDED = ("insert", "upload_partial", "get", "download", "delete", "patch")
HOST_VARIABLE = "STORAGE_EMULATOR_HOST"


class Bucket:
    """A new, empty bucket on the server at `host`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.uri = f"gs://{self.name}"
        self.client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": host}
        )
        self.bucket = self.client.create_bucket(self.name)

    def put(self, name: str, data: bytes) -> None:
        self.bucket.blob(name).upload_from_string(data)

    def get(self, name: str) -> bytes:
        return bytes(self.bucket.blob(name).download_as_bytes(raw_download=True))

    def names(self, prefix: str = "") -> list[str]:
        return sorted(blob.name for blob in self.client.list_blobs(self.name, prefix=prefix))


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run the server on a free port of loopback. Yields its address, http://127.0.0.1:PORT."""
    guard_all()
    http.server.HTTPServer.request_queue_size = 256
    http.server.BaseHTTPRequestHandler.disable_nagle_algorithm = True  # a body would wait 40 ms after its head
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    finally:
        server.stop()


@contextlib.contextmanager
def known_as_the_service(host: str) -> Iterator[None]:
    """Inside the block Google's clients, also in child processes, use the server at `host` as the service."""
    before = os.environ.get(HOST_VARIABLE)
    os.environ[HOST_VARIABLE] = host
    try:
        yield
    finally:
        os.environ.pop(HOST_VARIABLE)
        if before is not None:
            os.environ[HOST_VARIABLE] = before


def guard_all() -> None:
    """Add preconditions on generations to every handler of objects. They are atomic: the server has one thread."""
    for _, methods in emulator.HANDLERS:
        for method, handler in list(methods.items()):
            if handler.__module__.endswith("objects") and handler.__name__ in GUARDED:
                methods[method] = guarded(handler)


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    def checked(request: Any, response: Any, files: Any, *arguments: Any, **options: Any) -> Any:
        match, no_match = (request.query.get(f"ifGeneration{kind}Match") for kind in ("", "Not"))
        if match or no_match:
            current = generation(files, request)
            if (match and current != int(match[0])) or (no_match and current == int(no_match[0])):
                response.status = HTTPStatus.PRECONDITION_FAILED
                return response.json({"error": {"code": 412, "message": "conditionNotMet"}})
        return handler(request, response, files, *arguments, **options)

    return checked


def generation(files: Any, request: Any) -> int:
    """The generation of the object in a request; 0 if it does not exist."""
    name = request.params.get("object_id")
    if not name and "name" in request.query:
        name = request.query["name"][0]
    if not name and "upload_id" in request.query:
        name = files.get_resumable_file_obj(request.query["upload_id"][0])["name"]
    if not name:
        name = (request.data.get("meta") or request.data)["name"]
    try:
        return int(files.get_file_obj(request.params["bucket_name"], name)["generation"])
    except Exception:  # the emulator's class for a missing file
        return 0
