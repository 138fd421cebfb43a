"""Images of the trainer: built and pushed by a Docker engine, `python -m trainer.machines.images build` and `push`.

The image without GPU is made from Dockerfile, the other from Dockerfile.gpu. Both get the commit and the version of the
project as labels, and their name only when they are whole.
"""

import contextlib
import os
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import requests
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound
from urllib3.exceptions import HTTPError

from trainer.runtime.command import argument_parser, run_command, say
from trainer.runtime.errors import ConfigError, ResourceError, StorageError, TrainerError

ROOT = Path(__file__).parents[2]
CPU_TAG, GPU_TAG = "flatfab:cpu", "flatfab:gpu"
NETWORK = "FLATFAB_DOCKER_NETWORK"  # of builds and containers, such as host; default: the engine's own
SECONDS = 300  # for one answer of the engine


def engine() -> docker.DockerClient:
    """The Docker engine that DOCKER_HOST, or else the current context, names. ResourceError where none answers,
    ConfigError where it is asked over a network that anybody can listen to."""
    environment = dict(os.environ)
    if not environment.get("DOCKER_HOST"):
        context = ContextAPI.get_current_context()
        environment["DOCKER_HOST"] = context.Host if context else "unix:///var/run/docker.sock"
    host = environment["DOCKER_HOST"]
    if host.startswith(("tcp:", "http:")) and not environment.get("DOCKER_TLS_VERIFY"):
        raise ConfigError(
            f"DOCKER_HOST={host} is an engine without encryption: it would be sent the logins to your registries. Use "
            "ssh://, or TLS with DOCKER_TLS_VERIFY=1."
        )
    try:
        return docker.from_env(timeout=SECONDS, environment=environment, use_ssh_client=True)
    except (DockerException, requests.RequestException, OSError, ValueError) as error:
        raise ResourceError(
            f"No Docker engine answers at {host}: {cause(error)}. Install or start one, or run without an image: the "
            "same command without --docker and --gpu."
        ) from error


@contextlib.contextmanager
def answering(doing: str) -> Iterator[None]:
    """What the engine refuses inside the block, or leaves without an answer, is a TrainerError that says so."""
    try:
        yield
    except APIError as error:
        raise refusal(doing, str(error.explanation or error)) from error
    except (DockerException, requests.RequestException, HTTPError, ConnectionError) as error:
        raise ResourceError(f"{doing} failed: {cause(error)}. Is the Docker engine still there?") from error


def refusal(doing: str, reason: str) -> TrainerError:
    """A refusal of the engine in its own words, and what to do about those that are known."""
    if "could not select device driver" in reason:
        return ResourceError(
            f"{doing} failed: the Docker engine has no GPU runtime. On a machine with an NVIDIA GPU and its driver, "
            "install the NVIDIA Container Toolkit (package nvidia-container-toolkit), run `nvidia-ctk runtime "
            "configure --runtime=docker` and restart the engine."
        )
    if "nvidia-container-cli" in reason or "nvml error" in reason:
        return ResourceError(f"{doing} failed: {reason}. Is the NVIDIA driver loaded? `nvidia-smi` shows it.")
    if "no space left on device" in reason:
        return ResourceError(f"{doing} failed: {reason}. `docker system prune` frees some.")
    return StorageError(f"{doing} failed: {reason}")


def cause(error: BaseException) -> str:
    """The innermost reason of an error: requests and docker wrap those of the socket several times."""
    while True:
        inner = [one for one in (error.__cause__, error.__context__, *error.args) if isinstance(one, BaseException)]
        if not inner:
            return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        error = inner[0]


def build(
    client: docker.DockerClient, *, gpu: bool, tag: str | None = None, arguments: Mapping[str, str] | None = None
) -> str:
    """Build an image, showing what the engine says meanwhile; returns its digest, sha256:...

    tag: its name; default: flatfab:cpu or flatfab:gpu. arguments: values for ARG in the Dockerfile, such as BASE.
    """
    tag, file = tag or (GPU_TAG if gpu else CPU_TAG), "Dockerfile.gpu" if gpu else "Dockerfile"
    doing = f"Building {tag} from {file}"
    values = {"REVISION": revision(), "VERSION": version()} | dict(arguments or {})
    with answering(doing):
        answers = client.api.build(
            path=str(ROOT), dockerfile=file, tag=tag, buildargs=values, network_mode=os.environ.get(NETWORK),
            rm=True, forcerm=True, decode=True,
        )  # fmt: skip
        show(answers, doing)
        digest = str(client.images.get(tag).id)
    say("image", f"{tag}, {digest}")
    return digest


def push(client: docker.DockerClient, tag: str) -> str:
    """Send an image to the registry that its name begins with; returns its digest there."""
    doing = f"Pushing {tag}"
    with answering(doing):
        try:
            client.images.get(tag)
        except ImageNotFound:
            raise StorageError(f"There is no image {tag}. `fab build --tag={tag}` makes it.") from None
        told = show(client.api.push(tag, stream=True, decode=True), doing)
    digest = str(told.get("Digest", ""))
    if not digest:
        raise StorageError(f"{doing} failed: the registry did not say what it has received.")
    say("image", f"{tag}, pushed as {digest}")
    return digest


def show(answers: Iterable[dict[str, Any]], doing: str) -> dict[str, Any]:
    """Print what the engine says while it works; returns the facts that it ends with. Raises what went wrong."""
    told: dict[str, Any] = {}
    before: dict[str, str] = {}  # the last status of each layer: their progress is not for a log
    for answer in answers:
        if "error" in answer:
            raise refusal(doing, str(answer["error"]).strip())
        if "stream" in answer:
            print(answer["stream"], end="", flush=True)
        layer, status = str(answer.get("id", "")), str(answer.get("status", ""))
        if status and before.get(layer) != status:
            before[layer] = status
            print(f"{layer}: {status}" if layer else status, flush=True)
        told |= answer.get("aux") or {}
    return told


def revision() -> str:
    """The commit of the project, with "-dirty" where files differ from it; "" without git or a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def named(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE of each text."""
    pairs = [text.partition("=") for text in texts]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise ConfigError(f"--build-arg={wrong[0]} is not NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def main(argv: list[str] | None = None) -> None:
    """Build an image of the trainer, or push one to a registry."""
    parser = argument_parser("trainer.machines.images", main)
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="build an image", allow_abbrev=False)
    building.add_argument("--gpu", action="store_true", help="the image for NVIDIA's GPUs")
    building.add_argument("--tag", help=f"its name; default: {CPU_TAG} or {GPU_TAG}")
    building.add_argument("--build-arg", action="append", default=[], help="NAME=VALUE of an ARG, such as BASE")
    pushing = actions.add_parser("push", help="send an image to its registry", allow_abbrev=False)
    pushing.add_argument("--tag", required=True, help="its name, which begins with the registry's")
    arguments = parser.parse_args(argv)
    if arguments.action == "push":
        push(engine(), arguments.tag)
    else:
        build(engine(), gpu=arguments.gpu, tag=arguments.tag, arguments=named(arguments.build_arg))


if __name__ == "__main__":
    run_command(main)
