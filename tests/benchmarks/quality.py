"""How much of what can be known our networks learn, on generated rows whose truth is known."""

from pathlib import Path

from trainer.runtime.command import import_tensorflow_quietly

import_tensorflow_quietly()

import pandas as pd

from data.make_sample import known_losses
from trainer.config.loading import load_config
from trainer.features import pipeline, preprocessing
from trainer.features.rules import fit_preprocessing
from trainer.features.sides import split_sides
from trainer.features.tables import Rows
from trainer.model.ops_wrapper import build_model_graph
from trainer.training import loop

BATCH = 1024


def learn(path: str, names: list[str]) -> dict[str, dict[str, float]]:
    """The loss (weighted cross-entropy) of the unseen test rows: of the best constant, of the best prediction that is
    blind to the order of words, of the best possible one, and of each network at its best epoch."""
    trained = {network: train(network, Path(path)) for network in names}
    test = next(iter(trained.values()))[2]
    known = known_losses(test)["cross_entropy"]
    gap = known["constant"] - known["possible"]
    losses = {name.replace("_", " "): loss for name, loss in known.items()}
    losses |= {network: loss for network, (loss, _, _) in trained.items()}
    epochs = {network: {"epoch": float(epoch)} for network, (_, epoch, _) in trained.items()}
    return {
        name: {
            "test rows": float(len(test)),
            "loss": loss,
            "share": (known["constant"] - loss) / gap,
            **epochs.get(name, {}),
        }
        for name, loss in losses.items()
    }


def train(network: str, path: Path) -> tuple[float, int, pd.DataFrame]:
    """The test loss of a trained network, its best epoch, and the test rows."""
    config = load_config(network, environ={"NET_BATCH_SIZE": str(BATCH)}).config
    cut = split_sides(config, {"train": pipeline.read(config, str(path), path.name)})
    sides = {side: frame.take(rows) for side, (frame, rows) in cut.items()}
    fitted = fit_preprocessing(config, sides["train"])
    ops = build_model_graph(config, fitted.shapes())
    tables: dict[str, Rows] = {side: ops.table(preprocessing.transform(fitted, frame)) for side, frame in sides.items()}
    history = loop.train(
        ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
    )  # fmt: skip
    return history.best["test_loss"], history.best_epoch, sides["test"]
