"""A copy of the project with secrets in it, its commands, and the image that they build of it."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import pytest
from docker.errors import ImageNotFound

from tests.commands import PROGRESS, ROOT
from trainer.machines import images
from trainer.runtime.errors import TrainerError

SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex  # of all processes that run these tests
CANARY = f"canary{SESSION}"
PLANTED = (
    ".env", "trainer/.env", "trainer/inner/.env", "data/.env", "id_rsa", "trainer/id_ed25519", "networks/key.pem",
    "service-account.json", "data/service-account.json", "trainer/inner/key.py", "variant_config.json.bak", ".netrc",
    ".git/planted",
)  # fmt: skip


class Done(NamedTuple):
    """How a command ended, and its output."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def shared(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all processes that run these tests, for one of them at a time."""
    own = factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (folder / "docker.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def base() -> str:
    """The image that ours is made from."""
    (base,) = re.findall(r"^ARG BASE=(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return str(base)


def found_engine() -> docker.DockerClient:
    """A Docker engine that runs; where there is none, what asks for it is skipped."""
    try:
        client = images.engine()
        client.images.get(base())
    except (TrainerError, ImageNotFound) as error:
        pytest.skip(f"these need a Docker engine with {base()}: {error}")
    return client


def copied_project(folder: Path) -> None:
    """A copy of the project, in a repository of its own, with secrets where people have them."""
    folder.mkdir()
    for name in ("Dockerfile", "Dockerfile.gpu", ".dockerignore", "variant_config.json", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder / name)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy2(path, folder / path.name)
    for part in ("trainer", "networks", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *arguments], check=True)
    for name in PLANTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"SECRET={CANARY}\n")


def digest_in(done: Done) -> str:
    (digest,) = re.findall(r"^image .*, (sha256:[0-9a-f]{64})$", done.out, re.MULTILINE)
    return str(digest)


def command(project: Path, folder: Path, module: str, *arguments: str, **environment: str) -> Done:
    """A command of the copy, run in `folder` to its end."""
    with started(project, folder, module, *arguments, **environment) as process:
        out, err = process.communicate(timeout=600)
    return Done(process.returncode, out, PROGRESS.sub("", err))


def started(project: Path, folder: Path, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The same, on its way."""
    own = {"PYTHONPATH": str(project), images.NETWORK: "host", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=folder, env=os.environ | own | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
