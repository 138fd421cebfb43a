"""Servers that tests share: one of each kind in each process that runs tests."""

from collections.abc import Iterator

import pytest

from tests.bucket_server import Bucket, known_as_the_service, serving


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    with serving() as host:
        yield host


@pytest.fixture
def bucket(bucket_server: str) -> Iterator[Bucket]:
    """An empty bucket, on a server that Google's clients take for the service."""
    with known_as_the_service(bucket_server):
        yield Bucket(bucket_server)
