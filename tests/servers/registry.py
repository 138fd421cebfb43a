"""A local image registry that a Docker engine can push to."""

import contextlib
import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote


class Registry(BaseHTTPRequestHandler):
    """Handles requests: stores blobs and manifests, and responds with their digests."""

    protocol_version = "HTTP/1.1"
    stored: ClassVar[dict[str, bytes]] = {}
    refuses = False

    def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self) -> None:
        if self.path == "/v2/":
            return self.respond(200)
        blob = self.path.rpartition("/blobs/")[2]
        content = self.stored.get(self.path, self.stored.get(f"blobs/{blob}"))
        return self.respond(200 if content is not None else 404, content or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.body()
        if self.refuses:
            error = {"errors": [{"code": "DENIED", "message": "requested access to the resource is denied"}]}
            return self.respond(403, json.dumps(error).encode(), Content_Type="application/json")
        return self.respond(202, Location=f"/v2/upload/{uuid.uuid4()}")

    def do_PATCH(self) -> None:
        path = self.path.partition("?")[0]
        self.stored[path] = self.stored.get(path, b"") + self.body()
        self.respond(202, Location=path, Range=f"0-{len(self.stored[path]) - 1}")

    def do_PUT(self) -> None:
        body, (path, _, query) = self.body(), self.path.partition("?")
        if "/manifests/" in path:
            self.stored[path] = body
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            return self.respond(201, Docker_Content_Digest=digest)
        digest = unquote(query.partition("digest=")[2])
        self.stored[f"blobs/{digest}"] = self.stored.pop(path, b"") + body
        return self.respond(201, Docker_Content_Digest=digest)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, type[Registry]]]:
    """Run a registry on a free port. Yields its address, and the class with what was pushed in `stored`."""
    kind = type("Own", (Registry,), {"stored": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()
