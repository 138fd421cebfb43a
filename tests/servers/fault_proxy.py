"""A proxy in front of the bucket server that injects the faults of networks and services.

with faults(bucket_server) as proxy:                   # Google's clients now use the proxy
    proxy.next("lost", method="POST")                  # the response to the next POST is lost
    proxy.next("503", "reset", match="alt=media")      # a 503 for the next download, a reset for the one after it
    proxy.always("403", method="DELETE", message="...")

503 or any status   a response with that status; the request is not forwarded
reset               the connection breaks before a response
stall               no response for `stall_seconds`, then the connection ends
lost                the request is forwarded, its response is not
flip, truncate      a byte of the response is changed; half of it arrives
cut                 at most CUT bytes of the response arrive
short, long, empty  the response has a byte less or more, or none, with a Content-Length to match
html                a page, with status 200
unhashed, encoded   the response has no checksum; its header says that the content is compressed
flip_sent           a byte of the request's body is changed
a function          called before the request is forwarded
"""

import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.servers.bucket import known_as_the_service

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please log in to this network.</body></html>"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing the socket breaks the connection
PIECE = 2**15
CUT = 2**15
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}

Fault = str | Callable[[], object]


class Request(NamedTuple):
    """A request and its fault; "" if it was forwarded unchanged."""

    method: str
    path: str
    fault: str


class Rule(NamedTuple):
    """A fault for requests with this method ("": any) and this text in their path."""

    fault: Fault
    method: str
    match: str
    message: str
    once: bool

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("", method) and self.match in path


class Proxy:
    """The faults to inject, and the requests so far."""

    def __init__(self, behind: str) -> None:
        self.behind = behind.removeprefix("http://")
        self.rules: list[Rule] = []
        self.requests: list[Request] = []
        self.down = False  # every connection breaks
        self.stall_seconds = 30.0
        self.receiving_rate = 0.0  # bytes/s of uploads; 0: no limit
        self.clock_seconds = 0.0  # how far the clock of the service is ahead
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.host = ""

    def next(self, *plan: Fault, method: str = "", match: str = "", message: str = "") -> None:
        """Add faults for the next matching requests, one each."""
        with self.lock:
            self.rules += [Rule(fault, method, match, message, once=True) for fault in plan]

    def always(self, fault: Fault, method: str = "", match: str = "", message: str = "") -> None:
        """Add a fault for all matching requests."""
        with self.lock:
            self.rules.append(Rule(fault, method, match, message, once=False))

    def clear(self) -> None:
        """Remove all faults."""
        with self.lock:
            self.rules.clear()
        self.down = False

    @contextlib.contextmanager
    def outage(self, seconds: float) -> Iterator[None]:
        """Break all connections for the next seconds."""
        self.down = True
        timer = threading.Timer(seconds, lambda: setattr(self, "down", False))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self.down = False

    def rule_for(self, method: str, path: str) -> Rule | None:
        """The first matching rule; a rule for one request is removed."""
        with self.lock:
            rule = next((rule for rule in self.rules if rule.matches(method, path)), None)
            if self.down:
                rule = Rule("reset", "", "", "", once=False)
            elif rule and rule.once:
                self.rules.remove(rule)
            fault = "" if rule is None else rule.fault
            self.requests.append(Request(method, path, fault if isinstance(fault, str) else "call"))
            return rule

    def count(self, method: str = "", match: str = "") -> int:
        """The number of matching requests so far."""
        with self.lock:
            return sum(method in ("", each.method) and match in each.path for each in self.requests)


@contextlib.contextmanager
def faults(behind: str) -> Iterator[Proxy]:
    """Run a proxy of the server at `behind`, which Google's clients use inside the block."""
    proxy = Proxy(behind)
    handler = type("ProxyHandler", (Handler,), {"proxy": proxy})
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    proxy.host = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with known_as_the_service(proxy.host):
            yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms after its head

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.proxy.clock_seconds)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing: tests use `Proxy.requests`."""

    def handle_one(self) -> None:
        body = self.received(int(self.headers.get("Content-Length") or 0))
        rule = self.proxy.rule_for(self.command, self.path)
        fault = rule.fault if rule else ""
        if callable(fault):
            fault()
            fault = ""
        if fault == "reset":
            self.break_off()
        elif fault == "stall":
            self.proxy.ended.wait(self.proxy.stall_seconds)
            self.break_off()
        elif fault.isdecimal():
            assert rule
            self.respond(int(fault), {"Content-Type": "application/json"}, error_body(int(fault), rule.message))
        elif fault == "html":
            self.respond(200, {"Content-Type": "text/html"}, PAGE)
        else:
            self.forward(flipped(body) if fault == "flip_sent" else body, fault)

    def received(self, size: int) -> bytes:
        """The body of the request."""
        if not (rate := self.proxy.receiving_rate):
            return self.rfile.read(size)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        pieces = []
        for begin in range(0, size, PIECE):
            pieces.append(self.rfile.read(min(PIECE, size - begin)))
            time.sleep(PIECE / rate)
        return b"".join(pieces)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_one  # noqa: N815

    def forward(self, body: bytes, fault: str) -> None:
        """Forward a request to the server, and its response with the fault to the client."""
        connection = http.client.HTTPConnection(self.proxy.behind, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if fault == "lost":
            self.break_off()
            return
        headers = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in HOP and not (fault == "unhashed" and name.lower() == "x-goog-hash")
        }
        if fault == "encoded":
            headers["Content-Encoding"] = "gzip"
        changed = {"flip": flipped(content), "short": content[:-1], "long": content + b"x", "empty": b""}
        arriving = {"truncate": len(content) // 2, "cut": CUT}
        self.respond(response.status, headers, changed.get(fault, content), arriving=arriving.get(fault))

    def respond(self, status: int, headers: dict[str, str], body: bytes, *, arriving: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:arriving])
        if arriving is not None and arriving < len(body):
            self.wfile.flush()
            time.sleep(0.01)  # so that these bytes arrive before the reset
            self.break_off()

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.connection.close()
        self.wfile, self.rfile = io.BytesIO(), io.BytesIO()  # which the server class still flushes and closes


def flipped(data: bytes) -> bytes:
    """The same bytes, except for one bit in the middle."""
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def error_body(status: int, message: str) -> bytes:
    text = message or http.client.responses.get(status, "error")
    return json.dumps({"error": {"code": status, "message": text, "errors": [{"message": text}]}}).encode()
