"""Predict or evaluate with a package: `python -m trainer.package.score predict|evaluate --package=ZIP --data=PATH`."""

import contextlib
import os
import sys
from collections.abc import Sequence

from trainer.config.options import score_options
from trainer.runtime.command import begin_imports, count, import_tensorflow_quietly, printable, run_command

if __name__ == "__main__":
    begin_imports()
    score_options()  # what is wrong with them need not wait for TensorFlow
import_tensorflow_quietly()

import orjson

from trainer.cloud import output
from trainer.config import record
from trainer.config.net_config import NetConfig
from trainer.data import dataset, sources
from trainer.data.bad_rows import counted
from trainer.data.loaded import Dataset
from trainer.features import labels
from trainer.features.rules import row_rules
from trainer.package.kept_columns import kept_columns, kept_kinds
from trainer.package.prediction_rows import prediction_rows
from trainer.package.predictor import load_package, needed_columns
from trainer.runtime import cache


def main(argv: list[str] | None = None) -> None:
    """Score or evaluate the rows of a dataset with a package."""
    options = score_options(argv)
    with contextlib.redirect_stdout(sys.stderr) if output.is_stdout(options.out) else contextlib.nullcontext():
        if options.task == "evaluate":
            evaluate_dataset(options.package, options.data)
        else:
            predict_dataset(options.package, options.data, options.out, options.keep)


def evaluate_dataset(package: str, data: str) -> None:
    """Print the metrics of a package on labelled rows, as JSON."""
    predictor = load_package(package)
    config = record.for_reading(predictor.settings, os.environ).config
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the metrics alone
        loaded = load_rows(config, data)
    if left_out := counted(loaded.bad_rows, loaded.unlabelled):
        warn(f"{loaded.rows:,} rows of {data} are evaluated{left_out}.")
    label = predictor.preprocessing.label
    if unseen := labels.unseen_classes(label, loaded.frame[label.column]):
        warn(labels.unseen_classes_warning(label, "evaluation", unseen))
    print(orjson.dumps(predictor.measure(loaded.frame), option=orjson.OPT_INDENT_2).decode())  # NaN: null


def predict_dataset(package: str, data: str, out: str, keep: Sequence[str] = ()) -> None:
    """Write the predictions of rows, with their keys and the columns to keep; a place that cannot be written is refused
    before anything is read."""
    with output.new_file(out) as temporary:
        predictor = load_package(package)
        config = record.for_reading(predictor.settings, os.environ).config
        kept = kept_columns(config, keep)
        loaded = load_rows(config, data, kept)
        with temporary.open("wb") as file:
            file.writelines(prediction_rows(predictor, loaded.frame, kept, loaded.left_out))
    without = f", {loaded.bad_rows:,} bad rows without a prediction" if loaded.bad_rows else ""
    order = "" if kept else ", in the order of the rows; --keep=COLUMN copies columns to join them by"
    print(printable(f"{count(loaded.rows, 'prediction')} in {out}{without}{order}"))


def load_rows(config: NetConfig, data: str, kept: Sequence[str] | None = None) -> Dataset:
    """The columns of a dataset that a package needs, without labels those to keep; warns where one is absent.

    kept: columns to write with each prediction; None: rows have labels, and nothing is written.
    """
    rules = row_rules(config)._replace(absent_is_missing=True, keys=None if kept is None else tuple(kept))
    kinds = needed_columns(config, labelled=kept is None)
    source = sources.look_up(data)
    with sources.local(source, cache.FOLDER, int(config.cache_gb * 1e9)) as path:
        kinds |= kept_kinds(source, path, [name for name in kept or () if name not in kinds])
        loaded = dataset.load(path, kinds, rules=rules, name=data)
    sources.check_rows(source, loaded)
    for warning in loaded.warnings(data):
        warn(warning)
    return loaded


def warn(text: str) -> None:
    """Print a warning for people to stderr."""
    print(printable(f"warning: {text}"), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
