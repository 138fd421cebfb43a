"""Servers that tests share: one of each kind in each process that runs tests."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests import project_image
from tests.servers import bigquery as bigquery_server
from tests.servers.bucket import Bucket, known_as_the_service, serving


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cloud: needs a real project, which the environment names")


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    with serving() as host:
        yield host


@pytest.fixture
def bucket(bucket_server: str) -> Iterator[Bucket]:
    """An empty bucket, on a server that Google's clients take for the service."""
    with known_as_the_service(bucket_server):
        yield Bucket(bucket_server)


@pytest.fixture
def bigquery(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bigquery_server.Service]:
    """An empty service, which Google's clients take for BigQuery; it exports to the server of `bucket`."""
    with bigquery_server.serving(bucket.host, tmp_path_factory.mktemp("credentials")) as service:
        yield service


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    return project_image.found_engine()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, the same for all processes that run tests, with secrets where people have them."""
    with project_image.shared(tmp_path_factory) as folder:
        if not (folder / "project").exists():
            project_image.copied_project(folder / "project")
    return folder / "project"


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The digest of the image of that copy, without GPU, built by the real command."""
    with project_image.shared(tmp_path_factory):
        done = project_image.command(project, project, "trainer.machines.images", "build", TOKEN=project_image.CANARY)
    assert done.code == 0, done.err
    digest, name = project_image.digest_in(done), f"flatfab-test:{project_image.SESSION}-{os.getpid()}"
    engine.images.get(digest).tag(name)  # or it would go with the last image that is made from it
    yield digest
    engine.images.remove(name)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not walk through TensorFlow again and again."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
