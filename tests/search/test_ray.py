"""Mistakes with a Ray cluster: each has its message, within seconds."""

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from fabric import Connection

from tests.commands import trainer
from tests.servers.ssh import free_port
from trainer.machines import cluster
from trainer.runtime.errors import ConfigError, ResourceError
from trainer.search import ray_checks
from trainer.search.ray_checks import Look, check_cluster, different, find_token

ANSWER = b"\n\x00\x12\x062.60.0 \x01"  # as Ray 2.60.0 sent it
REFUSED = "InvalidAuthToken: Authentication token is missing or incorrect"


@contextlib.contextmanager
def head(token: str | None, path: str = ray_checks.PROBE) -> Iterator[str]:
    """A server that answers as the head of a cluster does; yields its address."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if token is not None and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED)
        return ANSWER

    service, _, method = path.lstrip("/").partition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_a_wrong_token_is_named_with_its_place() -> None:
    with head("right") as address, pytest.raises(ConfigError, match=r"refuses the token of here\. Use the one"):
        check_cluster(address, "wrong", "here")


def test_a_cluster_without_a_token_is_refused() -> None:
    with head(None) as address, pytest.raises(ConfigError, match="asks for no token: whoever reaches its ports"):
        check_cluster(address, "any", "here")


def test_another_version_of_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_checks, "package_version", lambda _: "2.61.0")
    with head("right") as address, pytest.raises(ConfigError, match=r"has Ray 2\.60\.0, this machine 2\.61\.0"):
        check_cluster(address, "right", "here")
    monkeypatch.setattr(ray_checks, "package_version", lambda _: "2.60.0")
    with head("right") as address:
        check_cluster(address, "right", "here")


def test_an_address_that_is_no_head_is_named() -> None:
    with pytest.raises(ConfigError, match="--address=6379 is not HOST:PORT"):
        check_cluster("6379", "any", "here")
    with pytest.raises(ResourceError, match=r"Nothing answers at 127\.0\.0\.1"):
        check_cluster(f"127.0.0.1:{free_port()}", "any", "here")
    with head("right", "/other/Method") as address, pytest.raises(ResourceError, match="is not the head of a Ray"):
        check_cluster(address, "any", "here")


def test_the_token_is_found_where_ray_and_cluster_up_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="There is no token for the Ray cluster"):
        find_token({})
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-ray\n")
    assert find_token({}) == ("of-ray", str(tmp_path / ".ray" / "auth_token"))
    (tmp_path / "cluster-token").write_text("of-folder")
    assert find_token({}) == ("of-folder", "cluster-token")
    assert find_token({"RAY_AUTH_TOKEN_PATH": ".ray/auth_token"}) == ("of-ray", ".ray/auth_token")
    assert find_token({"RAY_AUTH_TOKEN": "own"}) == ("own", "the environment variable RAY_AUTH_TOKEN")


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (Look("mark", {"python": "3.11"}, {"trainer/a.py": "1"}), ""),
        (Look(None, {"python": "3.11"}, {"trainer/a.py": "1"}), "does not share the folder"),
        (Look("other", {"python": "3.11"}, {"trainer/a.py": "1"}), "does not share the folder"),
        (Look("mark", {}, {}), "has no code in /code"),
        (Look("mark", {"python": "3.12"}, {"trainer/a.py": "1"}), "other versions (1 difference): python 3.12, here 3"),
        (Look("mark", {"python": "3.11"}, {"trainer/b.py": "1"}),
         "other code (2 differences): trainer/a.py missing, here 1, trainer/b.py 1, here missing"),
    ],
)  # fmt: skip
def test_a_machine_that_differs_is_described(theirs: Look, message: str) -> None:
    ours = Look("mark", {"python": "3.11"}, {"trainer/a.py": "1"})
    assert message in different(ours, theirs, Path("/code"))
    assert bool(message) == bool(different(ours, theirs, Path("/code")))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path) -> None:
    done = trainer(tmp_path, "--auto", "--engine=ray", module="trainer.search.tune")
    assert done.code == 2
    assert "--engine=ray needs Ray, which is not installed: python -m pip install 'ray>=2.60,<3'" in done.err
    assert not (tmp_path / "searches").exists()


def test_an_address_needs_the_engine_ray(tmp_path: Path) -> None:
    done = trainer(tmp_path, "--auto", "--address=10.0.0.1:6379", module="trainer.search.tune")
    assert done.code == 2
    assert "--address is that of a Ray cluster: --engine=ray" in done.err


def test_machines_must_have_the_same_versions_and_share_the_folder() -> None:
    nodes = [cluster.Node(Connection(f"me@{name}"), "python3", "/shared", name) for name in "ab"]
    good = {"tensorflow": "2.21", "ray": "2.60.0", "python": "3.11.7", "running": False, "shared": True,
            "folder": "/shared"}  # fmt: skip
    for change, message in (
        ({"tensorflow": ""}, "lacks requirements.txt"),
        ({"ray": ""}, "has no Ray. There: python3 -m pip install 'ray"),
        ({"running": True}, "has a node already. First: fab -H ... cluster-down --folder=/shared"),
        ({"python": "3.12.1"}, "has python 3.12.1, but"),
        ({"shared": False}, "does not share /shared with"),
    ):
        with pytest.raises(ConfigError) as refused:
            cluster.check_machines(nodes, [good, good | change])
        assert message in str(refused.value), json.dumps(change)
