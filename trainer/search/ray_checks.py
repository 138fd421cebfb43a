"""What must hold before a search trains on a Ray cluster. Ray itself is silent for minutes where these are wrong."""

import importlib.util
import os
import platform
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.runtime.command import count
from trainer.runtime.errors import ConfigError, ResourceError
from trainer.runtime.provenance import code_hashes, package_version, package_versions

INSTALL = "python -m pip install 'ray>=2.60,<3'"
TOKEN_FILE = Path("cluster-token")  # written by `fab cluster-up` into the folder of the cluster
PORTS = (  # options of `ray start`; without them Ray takes random ports, which may be those of its workers
    "node-manager-port", "object-manager-port", "runtime-env-agent-port", "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port", "metrics-export-port",
)  # fmt: skip
PROBE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # of the head; its answer holds the version of Ray
PROBE_SECONDS = 5.0
CODE = ("trainer", "networks")  # what decides the results of a run
MOST_LISTED = 3


class Look(NamedTuple):
    """What a machine sees of the search: it must be what we see."""

    mark: str | None  # content of a file that we have just written into the working folder
    versions: Mapping[str, str]
    code: Mapping[str, str]  # hash by file


def check_installed() -> None:
    """ConfigError if Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(f"--engine=ray needs Ray, which is not installed: {INSTALL}")


def use_token(token: str) -> None:
    """Let Ray ask for this token, and send it. Call it before Ray is imported, since Ray reads it only once."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_hex(32)


def find_token(environ: Mapping[str, str]) -> tuple[str, str]:
    """The token of a cluster and where it is from. ConfigError without one."""
    if token := environ.get("RAY_AUTH_TOKEN"):
        return token, "the environment variable RAY_AUTH_TOKEN"
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    for path in [Path(named)] if named else [TOKEN_FILE, Path.home() / ".ray" / "auth_token"]:
        try:
            return path.read_text(encoding="ascii").strip(), str(path)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The token of the Ray cluster cannot be read from {path}: {error}.") from None
    raise ConfigError(
        f"There is no token for the Ray cluster: neither the environment variable RAY_AUTH_TOKEN, nor the file "
        f"{named or f'{TOKEN_FILE} in this folder'}. Start the search in the folder that `fab cluster-up` names."
    )


def check_cluster(address: str, token: str, source: str) -> None:
    """ConfigError or ResourceError, within seconds, unless the head at this address takes the token and has our version
    of Ray."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--address={address} is not HOST:PORT, such as 10.0.0.1:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as error:
        raise ResourceError(
            f"Nothing answers at {address}: {error}. Is the cluster running? `fab -H ... cluster-status`"
        ) from None
    if (version := ask(address, "")) is not None:
        raise ConfigError(
            f"The Ray cluster at {address} asks for no token: whoever reaches its ports can run programs there. Start "
            "it with `fab cluster-up`, or with RAY_AUTH_MODE=token on each machine."
        )
    if (version := ask(address, token)) is None:
        raise ConfigError(f"The Ray cluster at {address} refuses the token of {source}. Use the one it began with.")
    if (ours := package_version("ray")) != version:
        raise ConfigError(f"The Ray cluster at {address} has Ray {version}, this machine {ours}. Install the same one.")


def ask(address: str, token: str) -> str | None:
    """The version of Ray of the head at an address; None if it refuses the token. ResourceError if it is no head."""
    import grpc  # noqa: PLC0415 - only where there is Ray

    header = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(PROBE, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = call(b"", timeout=PROBE_SECONDS, metadata=header)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return None
            raise ResourceError(
                f"What answers at {address} is not the head of a Ray cluster ({error.code().name}). `fab -H ... "
                "cluster-up` prints the address."
            ) from None
    return version_in(answer)


def version_in(message: bytes) -> str:
    """Field 2, a string, of the head's answer; field 1 is its status: CheckAliveReply in Ray's gcs_service.proto."""
    status = message[1] if message[:1] == b"\x0a" else -2
    length = message[status + 3]
    return message[status + 4 : status + 4 + length].decode()


def check_nodes(ray: Any, root: Path) -> None:
    """ConfigError unless every machine of the cluster has our versions and code, and shares our working folder."""
    mark_file, mark = Path.cwd() / f".cluster-{secrets.token_hex(8)}", secrets.token_hex(16)
    mark_file.write_text(mark)
    try:
        ours = Look(mark, versions(), code_hashes(root, *CODE))
        nodes = [node for node in ray.nodes() if node["Alive"]]
        looks = ray.get([look_on(ray, node["NodeID"], root, mark_file) for node in nodes], timeout=120)
    except ray.exceptions.GetTimeoutError:
        raise ResourceError("A machine of the Ray cluster has not answered for 2 minutes.") from None
    finally:
        mark_file.unlink()
    for node, look in zip(nodes, looks, strict=True):
        if difference := different(ours, Look(*look), root):
            raise ConfigError(f"The machine {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) {difference}")


def versions() -> dict[str, str]:
    """Versions of what decides the results of a run."""
    return {"python": platform.python_version()} | package_versions()


def look_on(ray: Any, node: str, root: Path, mark_file: Path) -> Any:
    """The future `Look` of a machine."""

    def look() -> tuple[str | None, dict[str, str], dict[str, str]]:  # nested: Ray sends its code, not its name
        import sys  # noqa: PLC0415

        mark = mark_file.read_text() if mark_file.exists() else None
        if not (root / "trainer").is_dir():
            return mark, {}, {}
        sys.path.insert(0, str(root))
        from trainer.runtime.provenance import code_hashes  # noqa: PLC0415
        from trainer.search import ray_checks as there  # noqa: PLC0415, PLW0406 - that of the other machine

        return mark, there.versions(), code_hashes(root, *there.CODE)

    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=affinity)(look).remote()


def different(ours: Look, theirs: Look, root: Path) -> str:
    """How a machine differs from ours, and what to do; "" if it does not."""
    if theirs.mark != ours.mark:
        return (
            f"does not share the folder {Path.cwd()}, where checkpoints are. Mount it there, or start the search in a "
            "folder that all machines share."
        )
    if not theirs.code:
        return f"has no code in {root}. Put the code into a folder that all machines share: `fab cluster-up` does that."
    for what, mine, others, remedy in (
        ("versions", ours.versions, theirs.versions, "Install the same requirements.txt."),
        ("code", ours.code, theirs.code, "`fab cluster-down` and `cluster-up` give all machines the same code."),
    ):
        if names := sorted(name for name in {*mine, *others} if mine.get(name) != others.get(name)):
            listed = ", ".join(f"{name} {others.get(name, 'missing')}, here {mine.get(name, 'missing')}"
                               for name in names[:MOST_LISTED])  # fmt: skip
            return f"has other {what} ({count(len(names), 'difference')}): {listed}. {remedy}"
    return ""
