"""Build and push images of the trainer: `python -m trainer.machines.images build`, and `push`.

Dockerfile makes the CPU image and Dockerfile.gpu the GPU image. Both are labelled with the commit and the version of
the project. An image gets its tag only when it is complete.
"""

import contextlib
import io
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
# Proxies, which builds get from this process: the engine keeps these, and no others, out of the image's history.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")


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
        raise engine_error(action, str(error.explanation or error)) from error
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
    values = {"REVISION": revision(), "VERSION": version()} | proxies(os.environ) | dict(arguments or {})
    digest = build_from(client, ROOT, file, tag, values)
    say("image", f"{tag}, {digest}")
    return digest


def build_from(
    client: docker.DockerClient, context: Path | bytes, file: str, tag: str, arguments: Mapping[str, str],
    prefix: str = "",
) -> str:  # fmt: skip
    """Build an image from a Dockerfile in a folder or a tar archive, and print each line of the engine after `prefix`.

    Returns the image's digest.
    """
    source: dict[str, Any] = {"path": str(context)}
    if isinstance(context, bytes):
        source = {"fileobj": io.BytesIO(context), "custom_context": True}
    action = f"Building {tag} from {file}"
    with engine_errors(action):
        answers = client.api.build(
            dockerfile=file, tag=tag, buildargs=dict(arguments), network_mode=os.environ.get(NETWORK), rm=True,
            forcerm=True, decode=True, **source,
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


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxies that an environment names."""
    return {name: environ[name] for name in PROXIES if environ.get(name)}


def revision() -> str:
    """The commit of the project, with "-dirty" if files have changed since; "" without git or a repository."""
    return provenance.git(ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or ""


def version() -> str:
    """The version of the project."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def build_arguments(texts: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values of --build-arg=NAME=VALUE by name; of --build-arg=NAME that of the environment, as for Docker.

    ConfigError for any other form, and for a name that the environment does not have.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or (not equals and name not in environ):
            raise ConfigError(f"--build-arg={text} is not NAME=VALUE, nor the name of an environment variable.")
        values[name] = value if equals else environ[name]
    return values


def certificates(path: str) -> dict[str, str]:
    """The build argument for a file of certificates, in the form PEM. StorageError if it cannot be read."""
    with system.disk_errors("reading", Path(path)):
        text = Path(path).read_text(encoding="ascii", errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ConfigError(f"{path} holds no certificate. Give a file in the form PEM.")
    return {"CA_CERTIFICATES": text}


def main(argv: list[str] | None = None) -> None:
    """Build an image of the trainer, or push one to its registry."""
    parser = argument_parser("trainer.machines.images", main)
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="build an image")
    building.add_argument("--gpu", action="store_true", help="build the image for NVIDIA GPUs")
    building.add_argument("--tag", help=f"name of the image; default: {RECIPES[0][1]} or {RECIPES[1][1]}")
    building.add_argument("--build-arg", action="append", default=[], help="NAME=VALUE of an ARG, or NAME")
    building.add_argument("--certificates", help="file of certificates (PEM) that packages are downloaded with")
    building.add_argument("--network", help=f"network of the build, such as host; default: {NETWORK}")
    pushing = actions.add_parser("push", help="push an image to its registry")
    pushing.add_argument("--tag", required=True, help="name of the image, starting with its registry")
    arguments = parser.parse_args(argv)
    if arguments.action == "push":
        push(engine(), arguments.tag)
    else:
        if arguments.network:
            os.environ[NETWORK] = arguments.network
        values = build_arguments(arguments.build_arg, os.environ)
        values |= certificates(arguments.certificates) if arguments.certificates else {}
        build(engine(), gpu=arguments.gpu, tag=arguments.tag, arguments=values)


if __name__ == "__main__":
    run_command(main)
