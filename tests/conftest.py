"""The one thing that several files of tests need and that takes seconds: a finished run of the real command."""

from pathlib import Path

import pytest

from tests.commands import SAMPLE, Done, trainer

CANARY = "canary-7f3a9c"  # a secret in the environment of the run


@pytest.fixture(scope="session")
def deep_v1_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Three epochs of deep_v1 on the sample: the folder that it ran in, and what it said."""
    folder = tmp_path_factory.mktemp("deep_v1")
    (folder / "sample.json").symlink_to(SAMPLE)
    secrets = {"AWS_SECRET_ACCESS_KEY": CANARY, "DATABASE_URL": f"postgres://user:{CANARY}@host/db"}
    return folder, trainer(folder, "--data=sample.json", "--run=it", "--output=out", NET_EPOCHS="3", **secrets)
