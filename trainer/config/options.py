"""The options of the programs that import TensorFlow.

They are read before that, so that `--help` and a wrong option need not wait for it.
"""

import argparse

from trainer.runtime.command import ArgumentParser, add_set

ROWS = "rows: a file, a folder of shards, or a quoted glob; gs:// likewise"


def train_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of `python -m trainer`."""
    parser = ArgumentParser("python -m trainer", description="Train a variant and write its package.")
    parser.add_argument("--variant", default="deep_v1", help="name in variant_config.json; default: %(default)s")
    parser.add_argument("--data", help=f"{ROWS}; default: the sample, data/sample_2k.json")
    parser.add_argument("--test-data", help="separate rows to test on; default: a share of the data")
    parser.add_argument("--validation-data", help="separate rows to choose by; default: a share of the data")
    parser.add_argument("--output", default="packages", help="folder of the package, or gs://; default: %(default)s")
    parser.add_argument("--run", help="name of the run and its package; default: variant, time and random digits")
    parser.add_argument("--restart", action="store_true", help="start an existing run from the beginning")
    parser.add_argument("--config", help="file with all settings, as config.json in a package; replaces --variant")
    parser.add_argument("--pause-after", type=int, metavar="EPOCHS", help="stop after so many epochs, to go on later")
    parser.add_argument("--no-package", action="store_true", help="train only; without this option, a package follows")
    add_set(parser)
    options = parser.parse_args(argv)
    if options.config and options.set:
        parser.error("--set goes with --variant, not with --config")
    if options.pause_after is not None and options.pause_after < 1:
        parser.error("--pause-after needs a number of epochs from 1 on")
    return options


def score_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of `python -m trainer.package.score`; `keep` is a list."""
    what = "Score or evaluate the rows of a dataset with a package."
    parser = ArgumentParser("python -m trainer.package.score", description=what)
    parser.add_argument("task", choices=("predict", "evaluate"))
    parser.add_argument("--package", required=True, help="the zip of a run; gs:// likewise")
    parser.add_argument("--data", required=True, help=ROWS)
    parser.add_argument("--out", help="predict: file to write, one JSON line per row; gs:// likewise")
    parser.add_argument("--keep", default="", help="predict: columns of the rows to copy to the predictions: a,b")
    options = parser.parse_args(argv)
    if (options.task == "predict") != (options.out is not None):
        parser.error("--out=FILE goes with predict, and only with it")
    if options.keep and options.task != "predict":
        parser.error("--keep=COLUMNS goes with predict alone")
    options.keep = [name for name in options.keep.split(",") if name]
    return options
