"""What tests share: where they work, in which order they run, a finished run, a server of each kind."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests import project_image
from tests.commands import CANARY, SAMPLE, made_once, trainer
from tests.scale import LONG, MEMORY
from tests.servers import bigquery as bigquery_server
from tests.servers.bucket import Bucket, known_as_the_service, serving

gc.disable()  # while tests are collected: imports make no garbage

# Hundreds of processes import the project: with its bytecode kept, none compiles it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The files that take longest, which begin first, so that all workers end at about the same time.
LONGEST_FIRST = (
    "training/test_resume.py", "search/test_tune.py", "search/test_kills.py", "search/test_ray.py", "test_cloud.py",
    "test_real_data.py", "test_run.py", "data/test_dataset.py", "machines/test_images.py", "cloud/test_storage.py",
    "bigquery/test_export.py", "machines/test_viewers.py", "test_benchmarks.py", "test_networks.py",
    "model/test_ops_wrapper.py", "model/test_replicas.py", "features/test_tokenizers.py", "test_docs.py",
    "package/test_predictor.py", "training/test_loop.py", "test_attacks.py", "features/test_pipeline.py",
    "machines/test_remote.py", "runtime/test_warm.py", "package/test_archive.py", "test_hard_data.py",
    "inspection/test_init.py", "features/test_sides.py", "training/test_lease.py", "test_python.py",
)  # fmt: skip

# Temporary folders are in memory where there is room: runs write durably, and a disk lets them wait for that.
if not os.environ.get(LONG) and MEMORY and shutil.disk_usage(MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cloud: needs a real project, which the environment names")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; xdist gives a worker the next one as soon as it has none."""
    names = {str(Path(__file__).parent / name): place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: names.get(str(item.path), len(names)))


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three epochs of deep_v1 on the sample, with secrets in the environment: out/it.zip, runs/it."""

    def make(folder: Path) -> None:
        (folder / "sample.json").symlink_to(SAMPLE)
        secrets = {"AWS_SECRET_ACCESS_KEY": CANARY, "DATABASE_URL": f"postgres://user:{CANARY}@host/db"}
        done = trainer(folder, "--data=sample.json", "--run=it", "--output=out", NET_EPOCHS="3", **secrets)
        assert (done.code, done.err) == (0, "")

    return made_once(tmp_path_factory, "sample_run", make)


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
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
