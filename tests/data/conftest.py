"""What the tests of the loader share: both readers."""

import pytest

from trainer.data import dataset, shards


def read_nothing_at_once(text, columns, others=None):
    return None


@pytest.fixture(params=["line by line", "in blocks"])
def way(request, monkeypatch):
    """Run a test on both readers: the strict one alone, and Arrow for all but the first line of a shard."""
    if request.param == "line by line":
        monkeypatch.setattr(dataset, "read_block", read_nothing_at_once)
    else:
        monkeypatch.setattr(shards, "HEAD_BYTES", 1)
        monkeypatch.setattr(shards, "BLOCK_BYTES", 2**12)
    return request.param
