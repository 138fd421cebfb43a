"""Train, package and use ranking models from Python; the commands do the same.

    import trainer

    result = trainer.train(variant="deep_v1", epochs=2)  # trains on the sample
    result.metrics["test"]["auc"]
    model = trainer.load_package(result.package)
    model.predict(frame)  # a pandas DataFrame with the feature columns

Importing this package is fast and has no side effects: TensorFlow is imported by the first call that needs it.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.config.loading import Configuration
    from trainer.package.predictor import Predictor
    from trainer.package.result import RunResult

__all__ = ["load_config", "load_package", "train"]


def load_config(variant: str = "deep_v1", **settings: Any) -> "Configuration":
    """The checked configuration of a variant: `.config` holds the values, `.sources` where each came from.

    settings: override the variant and the environment. Raises ConfigError for unknown names and values out of range.
    """
    from trainer.config import loading  # noqa: PLC0415 - as below, so that importing this package is cheap

    return loading.load_config(variant, environ=os.environ, arguments=settings)


def train(
    variant: str = "deep_v1",
    *,
    data: str | None = None,
    test_data: str | None = None,
    validation_data: str | None = None,
    output: str = "packages",
    run: str | None = None,
    restart: bool = False,
    **settings: Any,
) -> "RunResult":
    """Train a variant, write its package, and return the package's path and metrics; prints progress.

    data: a file, a folder of shards or a glob, also at gs://; default: the sample. test_data, validation_data:
    separate rows; default: shares of the data. output: folder of the package, or gs://. run: name of the run and its
    package, default: variant, time and random digits; a stopped run of this name continues. restart: start it again.
    settings: override the variant and the environment, such as learning_rate=0.01.

    Ctrl-C, or the stop button of a notebook, saves a checkpoint and raises Interrupted. Expected faults are
    TrainerErrors (see `trainer.runtime.errors`): wrong settings, bad rows, no space.
    """
    from trainer import __main__ as program  # noqa: PLC0415
    from trainer.package import result  # noqa: PLC0415
    from trainer.runtime import signals  # noqa: PLC0415

    configuration = load_config(variant, **settings)
    paths = {"train": data or program.SAMPLE, "validation": validation_data, "test": test_data}
    with signals.interruptible():
        package = program.train(configuration, data=paths, output=output, name=run, restart=restart)
    return result.read_result(package)


def load_package(path: str | os.PathLike[str]) -> "Predictor":
    """A package ready to score rows: `.predict(frame)`, `.evaluate(frame)`, `.embeddings(column)`.

    path: the zip of a run, here or at gs://. Raises StorageError for a missing or damaged package.
    """
    from trainer.package import predictor  # noqa: PLC0415

    return predictor.load_package(os.fspath(path))
