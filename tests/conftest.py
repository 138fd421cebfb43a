"""Servers that tests share: one of each kind in each process that runs tests."""

import gc
from collections.abc import Iterator

import pytest

from tests import bigquery_server
from tests.bucket_server import Bucket, known_as_the_service, serving


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


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not walk through TensorFlow again and again."""
    gc.freeze()
