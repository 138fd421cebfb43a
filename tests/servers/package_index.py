"""A local index of Python packages, by https and with a password, that pip can install one package from."""

import base64
import contextlib
import datetime
import hashlib
import io
import ssl
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

WHEEL = "flatfab_probe-1.0-py3-none-any.whl"


class Index(NamedTuple):
    """A running index."""

    url: str  # with the password
    certificates: Path  # PEM
    requirement: str  # a line for pip, with its hash
    downloads: list[list[str]]  # for each: the processes of this machine that show the password in their arguments


@contextlib.contextmanager
def serving(folder: Path, password: str) -> Iterator[Index]:
    """Serve an index on 127.0.0.1 for the length of the block. Its key and certificate go to `folder`."""
    wheel, downloads = probe_wheel(), list[list[str]]()
    digest = hashlib.sha256(wheel).hexdigest()
    login = f"Basic {base64.b64encode(f'user:{password}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != login:
                return self.respond(401, b"", WWW_Authenticate="Basic")
            if self.path.endswith(WHEEL):
                downloads.append(arguments_with(password))
                return self.respond(200, wheel)
            return self.respond(
                200, f'<a href="/{WHEEL}#sha256={digest}">{WHEEL}</a>'.encode(), Content_Type="text/html"
            )

        def respond(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content_Length": str(len(body))}).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "index.pem", folder / "index.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"https://user:{password}@127.0.0.1:{server.server_port}/simple"
        yield Index(url, folder / "index.pem", f"flatfab-probe==1.0 --hash=sha256:{digest}\n", downloads)
    finally:
        server.shutdown()
        server.server_close()


def probe_wheel() -> bytes:
    """A package without a module."""
    buffer, info = io.BytesIO(), "flatfab_probe-1.0.dist-info"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: flatfab-probe\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def make_certificate(folder: Path) -> None:
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "index")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, format_ = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "index.key").write_bytes(key.private_bytes(encoding, format_, serialization.NoEncryption()))
    (folder / "index.pem").write_bytes(certificate.public_bytes(encoding))


def arguments_with(text: str) -> list[str]:
    """The arguments of every process of this machine that show a text, as `ps` would."""
    shown = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            shown += [arguments] if text in (arguments := path.read_text(errors="replace")) else []
    return shown
