"""How much of what can be known our networks learn, on generated rows whose truth is known.

    python -m tests.benchmarks.quality [--rows=200000]

Prints, on the unseen test rows, the loss of the best constant, of the best prediction that is blind to the order of
words, and of the best possible one, and the share of the gap between the first and the last that each network closes.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from trainer.command import import_tensorflow_quietly

import_tensorflow_quietly()

import pandas as pd

from data.make_sample import known_losses, write_sample
from trainer import __main__ as trainer
from trainer import preprocessing, training
from trainer.config import load_config
from trainer.graph import build_model_graph

BATCH = 1024


def test_loss(network: str, path: Path) -> tuple[float, int, pd.DataFrame]:
    """The test loss of a trained network, its best epoch, and the test rows."""
    config = load_config(network, environ={"NET_BATCH_SIZE": str(BATCH)}).config
    sides = trainer.split_sides(config, {"train": trainer.read(config, str(path)).frame})
    learnt = trainer.learn(config, sides["train"])
    ops = build_model_graph(config, learnt.shapes())
    tables = {side: ops.table(preprocessing.apply(learnt, frame)) for side, frame in sides.items()}
    history = training.train(
        ops, tables, epochs=config.epochs, patience=config.patience, stopping_metric=config.stopping_metric,
        maximise=False, on_epoch=lambda history: None,
    )  # fmt: skip
    return history.best["test_loss"], history.best_epoch, sides["test"]


def main() -> None:
    """Train both networks and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        write_sample(path, arguments.rows)
        results = {network: test_loss(network, path) for network in ("deep_v1", "rnn_v1")}
    test = results["deep_v1"][2]
    known = known_losses(test)["cross_entropy"]
    gap = known["constant"] - known["possible"]
    print(f"\n{len(test):,} unseen of {arguments.rows:,} rows; loss is weighted cross-entropy")
    print(f"{'':24}{'loss':>10}{'of the gap':>12}")
    for name, loss in known.items():
        print(f"{name.replace('_', ' '):24}{loss:10.5f}{(known['constant'] - loss) / gap:12.1%}")
    for network, (loss, epoch, _) in results.items():
        print(f"{network:24}{loss:10.5f}{(known['constant'] - loss) / gap:12.1%}   best epoch {epoch}")
    order, found = known["order_blind"] - known["possible"], results["deep_v1"][0] - results["rnn_v1"][0]
    print(f"order is worth {order:.5f}; rnn_v1 beats deep_v1 by {found:.5f}, {found / order:.0%} of it")


if __name__ == "__main__":
    main()
