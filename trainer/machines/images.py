"""Build and push images of the trainer: `python -m trainer.machines.images build`, and `push`.

Dockerfile makes the CPU image and Dockerfile.gpu the GPU image. Both are labelled with the commit and the version of
the project. An image gets its tag only when it is complete.
"""

import contextlib
import io
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from urllib3.exceptions import HTTPError

from trainer.runtime import provenance, system
from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import ConfigError, ResourceError, StorageError, TrainerError

ROOT = Path(__file__).parents[2]
RECIPES = (("Dockerfile", "flatfab:cpu"), ("Dockerfile.gpu", "flatfab:gpu"))  # without and with GPU: file, tag
NETWORK = "FLATFAB_DOCKER_NETWORK"  # of builds and containers, such as host
TIMEOUT = 300  # seconds for one answer of the engine
# What builds download through, from the environment of this process. The engine keeps proxies out of the image's
# history; the Dockerfile gives the others to a stage that is left behind.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
OTHERS = ("NO_PROXY", "no_proxy", "PIP_TRUSTED_HOST")
CERTIFICATES = "PIP_CERT"  # a file; pip knows it by this name
MAX_CERTIFICATES = 120_000  # characters: Linux starts no process with a variable above 128 KiB
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def engine() -> docker.DockerClient:
    """Connect to the Docker engine of DOCKER_HOST, or else of the current Docker context.

    ResourceError if no engine answers; ConfigError if the connection would not be encrypted.
    """
    environment = dict(os.environ)
    if not environment.get("DOCKER_HOST"):
        context = ContextAPI.get_current_context()
        environment["DOCKER_HOST"] = context.Host if context else "unix:///var/run/docker.sock"
    host = environment["DOCKER_HOST"]
    if host.startswith(("tcp:", "http:")) and not environment.get("DOCKER_TLS_VERIFY"):
        raise ConfigError(
            f"DOCKER_HOST={host} is a connection without encryption, which would carry your registry logins. "
            "Use ssh://, or TLS with DOCKER_TLS_VERIFY=1."
        )
    try:
        return docker.from_env(timeout=TIMEOUT, environment=environment, use_ssh_client=True)
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        raise ResourceError(
            f"No Docker engine answers at {host}: {root_cause(error)}. Install or start one, or run the same "
            "command without --docker and --gpu."
        ) from error


@contextlib.contextmanager
def engine_errors(action: str) -> Iterator[None]:
    """Turn errors of the Docker engine inside the block into TrainerErrors. action: such as "Building X"."""
    try:
        yield
    except APIError as error:
        # Not str(error), which quotes the request with all build arguments.
        raise engine_error(action, str(error.explanation or f"HTTP status {error.status_code}")) from error
    except (DockerException, requests.RequestException, HTTPError, ConnectionError) as error:
        raise ResourceError(f"{action} failed: {root_cause(error)}. Is the Docker engine still there?") from error


def engine_error(action: str, reason: str) -> TrainerError:
    """The error for a request that the engine refused, with the remedy where we know one."""
    if "could not select device driver" in reason:
        return ResourceError(
            f"{action} failed: the Docker engine has no GPU runtime. On a machine with an NVIDIA GPU and its driver, "
            "install the NVIDIA Container Toolkit (package nvidia-container-toolkit), run `nvidia-ctk runtime "
            "configure --runtime=docker` and restart the engine."
        )
    if "nvidia-container-cli" in reason or "nvml error" in reason:
        return ResourceError(f"{action} failed: {reason}. Is the NVIDIA driver loaded? `nvidia-smi` shows it.")
    if "no space left on device" in reason:
        return ResourceError(f"{action} failed: {reason}. `docker system prune` frees some.")
    return StorageError(f"{action} failed: {reason}")


def root_cause(error: BaseException) -> str:
    """The reason of the innermost error: requests and docker-py wrap errors of sockets several times."""
    while True:
        inner = [e for e in (error.__cause__, error.__context__, *error.args) if isinstance(e, BaseException)]
        if not inner:
            return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        error = inner[0]


def build(
    client: docker.DockerClient, *, gpu: bool, tag: str | None = None, arguments: Mapping[str, str] | None = None
) -> str:
    """Build an image and print the engine's progress; returns the image's digest, sha256:...

    tag: default flatfab:cpu or flatfab:gpu. arguments: values for ARG in the Dockerfile, such as BASE.
    """
    file, default_tag = RECIPES[gpu]
    tag = tag or default_tag
    values = {"REVISION": revision(), "VERSION": version()} | dict(arguments or {})
    digest = build_from(client, ROOT, file, tag, values)
    say("image", f"{tag}, {digest}")
    return digest


def build_from(
    client: docker.DockerClient, context: Path | bytes, file: str, tag: str, arguments: Mapping[str, str],
    prefix: str = "",
) -> str:  # fmt: skip
    """Build an image and print each line of the engine after `prefix`; returns the image's digest.

    context: the folder of the Dockerfile, or, for another machine, a tar archive of it. Values for downloads come from
    the environment; `arguments` overrule them.
    """
    source: dict[str, Any] = {"path": str(context)}
    if isinstance(context, bytes):
        source = {"fileobj": io.BytesIO(context), "custom_context": True}
    values, network = downloads(os.environ, here=isinstance(context, Path), prefix=prefix)
    action = f"Building {tag} from {file}"
    with engine_errors(action):
        answers = client.api.build(
            dockerfile=file, tag=tag, buildargs=values | dict(arguments), network_mode=network, rm=True, forcerm=True,
            decode=True, **source,
        )  # fmt: skip
        return str(print_progress(answers, action, prefix)["ID"])  # not by the tag: another build may have taken it


def push(client: docker.DockerClient, tag: str) -> str:
    """Push an image to the registry that its tag starts with; returns its digest there. StorageError if that fails."""
    action = f"Pushing {tag}"
    with engine_errors(action):
        try:
            client.images.get(tag)
        except ImageNotFound:
            raise StorageError(f"There is no image {tag}. `fab build --tag={tag}` builds it.") from None
        facts = print_progress(client.api.push(tag, stream=True, decode=True), action)
    digest = str(facts.get("Digest", ""))
    if not digest:
        raise StorageError(f"{action} failed: the registry did not confirm what it received.")
    say("image", f"{tag}, pushed as {digest}")
    return digest


def print_progress(answers: Iterable[dict[str, Any]], action: str, prefix: str = "") -> dict[str, Any]:
    """Print the progress of a build or a push; returns the facts that the engine reports. TrainerError if it fails."""
    facts: dict[str, Any] = {}
    statuses: dict[str, str] = {}  # the last one of each layer: a log needs each only once
    for answer in answers:
        if "error" in answer:
            raise engine_error(action, str(answer["error"]).strip())
        if "stream" in answer:
            print(f"{prefix if answer['stream'].strip() else ''}{answer['stream']}", end="", flush=True)
        layer, status = str(answer.get("id", "")), str(answer.get("status", ""))
        if status and statuses.get(layer) != status:
            statuses[layer] = status
            print(f"{layer}: {status}" if layer else status, flush=True)
        facts |= answer.get("aux") or {}
    return facts


def downloads(environ: Mapping[str, str], *, here: bool, prefix: str = "") -> tuple[dict[str, str], str | None]:
    """The build arguments for the proxies, package indexes and certificates of an environment; and the build's network.

    A proxy or an index at an address of this machine alone, such as 127.0.0.1, needs the network of this machine
    (`here`). A build on another machine does not get it, unless FLATFAB_DOCKER_NETWORK is set; a line says so.
    """
    values = {name: environ[name] for name in (*PROXIES, *INDEXES, *OTHERS) if environ.get(name)}
    network = environ.get(NETWORK)
    unreachable = [name for name in (*PROXIES, *INDEXES) if not network and is_loopback(values.get(name, ""))]
    if here:
        network = "host" if unreachable else network
    else:
        for name in unreachable:
            del values[name]
            text = f"{name} is not sent: it names an address that only this machine has."
            say(f"{prefix}warning", f"{text} If that machine has its own, set {NETWORK}=host.")
    if path := environ.get(CERTIFICATES):
        values |= certificates(path)
    return values, network


def is_loopback(urls: str) -> bool:
    """Whether one of the URLs, separated by spaces, is at an address that only its own machine reaches: 127.0.0.1."""
    for url in urls.split():
        with contextlib.suppress(ValueError):
            host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
            if ip_address("127.0.0.1" if host == "localhost" else host).is_loopback:
                return True
    return False


def certificates(path: str) -> dict[str, str]:
    """The build argument for a file of certificates, in the form PEM: those that are not public, which pip has itself.

    StorageError if it cannot be read; ConfigError if it holds none, or too many.
    """
    with system.disk_errors("reading", Path(path)):
        found, public = (
            {"".join(one.split()): one for one in CERTIFICATE.findall(Path(file).read_text(errors="replace"))}
            for file in (path, requests.certs.where())
        )
    if not found:
        raise ConfigError(f"{CERTIFICATES}={path} holds no certificate. Name a file in the form PEM.")
    own = "\n".join(text for key, text in found.items() if key not in public)
    if len(own) > MAX_CERTIFICATES:
        raise ConfigError(
            f"{CERTIFICATES}={path} is too large for a build: {len(own):,} characters beside the public certificates, "
            f"of {MAX_CERTIFICATES:,}. Name a file with your own certificates alone."
        )
    return {"CA_CERTIFICATES": own} if own else {}


def revision() -> str:
    """The commit of the project, with "-dirty" if files have changed since; "" without git or a repository."""
    return provenance.git(ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""


def version() -> str:
    """The version of the project."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def build_arguments(texts: Iterable[str]) -> dict[str, str]:
    """The values of --build-arg=NAME=VALUE by name. ConfigError for any other form."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, values[name] = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"--build-arg={text} is not NAME=VALUE.")
    return values


def main(argv: list[str] | None = None) -> None:
    """Build an image of the trainer, or push one to its registry."""
    parser = argument_parser("trainer.machines.images", main)
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="build an image")
    building.add_argument("--gpu", action="store_true", help="build the image for NVIDIA GPUs")
    building.add_argument("--tag", help=f"name of the image; default: {RECIPES[0][1]} or {RECIPES[1][1]}")
    building.add_argument("--build-arg", action="append", default=[], help="NAME=VALUE of an ARG")
    pushing = actions.add_parser("push", help="push an image to its registry")
    pushing.add_argument("--tag", required=True, help="name of the image, starting with its registry")
    arguments = parser.parse_args(argv)
    if arguments.action == "push":
        push(engine(), arguments.tag)
    else:
        build(engine(), gpu=arguments.gpu, tag=arguments.tag, arguments=build_arguments(arguments.build_arg))


if __name__ == "__main__":
    run_command(main)
