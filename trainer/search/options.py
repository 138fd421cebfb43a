"""The options of `fab tune`."""

import argparse
from collections.abc import Callable

from trainer.config.options import ROWS
from trainer.runtime.command import ArgumentParser, add_set
from trainer.search import local
from trainer.search.proposals import SAMPLERS

ENGINES = ("local", "ray")
EXAMPLE = """
A space is a JSON object of settings, each with a list of values or a range:

  {"learning_rate": {"low": 0.0005, "high": 0.02, "log": true},
   "hidden_units": [[128, 64], [256, 128]],
   "variant": ["deep_v1", "rnn_v1"]}
"""


def at_least(low: int, kind: Callable[[str], float] = int) -> Callable[[str], float]:
    """A type of argparse: numbers from `low` on."""

    def parse(text: str) -> float:
        number = kind(text)
        if not number >= low:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        return number

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Add the options that name rows and packages, as `python -m trainer` has them."""
    add = parser.add_argument
    add("--data", help=f"{ROWS}; default: the sample, data/sample_2k.json")
    add("--test-data", help="separate rows to test on; default: a share of the data")
    add("--validation-data", help="separate rows to choose by; default: a share of the data")
    add("--output", default="packages", help="folder of the packages, or gs://; default: %(default)s")


def tune_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of `python -m trainer.search.tune`."""
    parser = ArgumentParser(
        "python -m trainer.search.tune", description="Search for better settings of a variant.", epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--variant", default="deep_v1", help="the default to beat, in variant_config.json; default: %(default)s")
    add("--space", help="JSON file with the settings to try: see below")
    add("--auto", action="store_true", help="try the settings and ranges that the network suggests")
    add("--trials", type=at_least(1), help="settings to try; default: 20, with --sampler=grid all")
    add("--hours", type=at_least(0, float), help="stop after so many hours; the same command goes on")
    add("--workers", type=at_least(1), help="runs at once; default: one per GPU, without GPUs one per core")
    add("--engine", choices=ENGINES, default="local", help="where to train: this machine, or a Ray cluster")
    add("--address", metavar="HOST:PORT", help="of a Ray cluster; default: a Ray on this machine that ends with it")
    add("--sampler", choices=SAMPLERS, default="random", help="how settings are chosen; default: %(default)s")
    add("--metric", help="metric of the validation rows to choose by; default: the variant's stopping_metric")
    add("--name", help="name of the search; an existing search goes on; default: variant, time, random digits")
    add("--seed", type=at_least(0), default=0, help="random seed of the choice of settings; default: 0")
    add("--no-halving", dest="halving", action="store_false", help="train every trial to its end")
    add("--folds", type=at_least(2), help="train each trial on so many splits with other validation rows")
    add(
        "--date-ranges",
        type=at_least(2),
        help="the same with split=time: validate on so many ranges, one after another",
    )
    add("--keep", type=at_least(1), default=3, help="best trials to compare and to package; default: 3")
    add(
        "--seeds",
        type=at_least(1),
        default=3,
        help="trainings of these and of the default, to compare them; default: 3",
    )
    add("--retry-failed", action="store_true", help="when a search goes on, start failed trials again")
    add("--save-as", metavar="NAME", help="write the winner as a variant of this name into variant_config.json")
    add_rows(parser)
    add_set(parser)
    options = parser.parse_args(argv)
    if bool(options.space) == options.auto:
        parser.error("choose the settings to try: --space=FILE or --auto")
    if options.folds and options.date_ranges:
        parser.error("--folds and --date-ranges exclude each other")
    if options.address and options.engine != "ray":
        parser.error("--address is that of a Ray cluster: --engine=ray")
    if not options.address:  # with one, as many as the cluster has room for
        options.workers = options.workers or local.most_workers()
    return options
