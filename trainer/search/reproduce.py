"""Make a run again, and compare its bits: `python -m trainer.search.reproduce --trial=lr-0007`.

All that decides a run is on record: its settings and rows, with a trial in the plan of its search, with a package in
its own files. The run is an ordinary one, with a package of its own.
"""

import hashlib
import importlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.config import names, record
from trainer.config.loading import Configuration, with_settings
from trainer.data import sources
from trainer.package import archive
from trainer.package.publish import RUNS
from trainer.runtime.command import ArgumentParser, count, run_command, say
from trainer.runtime.errors import ConfigError, DataError, did_you_mean
from trainer.runtime.provenance import package_versions
from trainer.search import journal
from trainer.search.plan import SEARCHES, read_plan
from trainer.search.state import replayed, run_name
from trainer.search.trials import finite, newest_checkpoint
from trainer.training import checkpoint

SIDES = ("train", "validation", "test")


class Original(NamedTuple):
    """A run to make again, and what it came to."""

    name: str
    settings: Configuration
    data: dict[str, str]
    result: dict[str, Any]  # what must be equal; what is not known is left out


def of_trial(name: str, folder: Path = SEARCHES) -> Original:
    """A run of a search, by its name in trials.csv; ConfigError if there is none."""
    known: list[str] = []
    for path in sorted(folder.glob("*/")):
        plan = read_plan(path)
        if plan is None:
            continue
        state = replayed(plan, journal.read(path / journal.FILE))
        runs = {run_name(plan, key): key for key in state.runs}
        known += runs
        if name in runs:
            key = runs[name]
            settings = {} if key.trial is None else state.trials[key.trial]
            run = state.runs[key]
            result: dict[str, Any] = {
                f"{plan.metric} of epoch {epoch}": value for epoch, value in enumerate(run.values, 1)
            }
            result |= {"weights": run.weights} if run.over else {}
            configuration = plan.configuration(settings, seed=key.seed, fold=key.fold)
            return Original(name, configuration, plan.data, result)
    raise ConfigError(f"There is no trial {name!r} in {folder}. {did_you_mean(name, known)}")


def of_package(package: str) -> Original:
    """The run of a package, with the number of threads that it computed with."""
    with sources.local_file(package) as path:
        members = archive.read_package(path, CHECKED.__contains__)
    settings = record.from_json(members["config.json"])
    threads = json.loads(members["environment.json"]).get("threads")
    settings = with_settings(settings, ({"threads": threads}, "package")) if threads else settings
    sets = json.loads(members["dataset.json"])["sets"]
    data = {side: sets[side]["path"] for side in SIDES if side in sets}
    return Original(Path(package).stem, settings, data, result_of(members))


CHECKED = ("config.json", "environment.json", "dataset.json", "metrics.csv", "weights.npz")


def result_of(members: Mapping[str, bytes]) -> dict[str, Any]:
    """What a package must have in common with one that is made again, by name."""
    with np.load(io.BytesIO(members["weights.npz"]), allow_pickle=False) as weights:
        arrays = {name: hashlib.sha256(weights[name].tobytes()).hexdigest() for name in weights.files}
    sets = json.loads(members["dataset.json"])["sets"]
    rows = {f"rows of {side}": facts["fingerprint"] for side, facts in sets.items()}
    return (
        rows | {"metrics.csv": members["metrics.csv"].decode()} | {f"weights {name}": of for name, of in arrays.items()}
    )


def main(argv: list[str] | None = None) -> None:
    """Make a trial or a package again in a plain run, and compare the results bit by bit."""
    parser = ArgumentParser("python -m trainer.search.reproduce", description=main.__doc__)
    parser.add_argument("--trial", help="run of a search, as in the column `run` of trials.csv")
    parser.add_argument("--package", help="the zip of a run; gs:// likewise")
    parser.add_argument("--run", help="name of the new run; default: that of the old one and -again")
    parser.add_argument("--output", default="packages", help="folder of the new package, or gs://")
    options = parser.parse_args(argv)
    if bool(options.trial) == bool(options.package):
        parser.error("choose what to make again: --trial=NAME or --package=PACKAGE")
    original = of_trial(options.trial) if options.trial else of_package(options.package)
    name = options.run or f"{original.name}-again"
    names.check_name(name, "run")
    if name == original.name:
        raise ConfigError(f"--run={name} is the run to make again, which would be replaced. Choose another --run.")
    again = options.run is None  # only a run of our own is replaced
    program = importlib.import_module("trainer.__main__")  # the run stands above all folders
    package = program.train(original.settings, data=original.data, output=options.output, name=name, restart=again)
    if options.trial:
        progress, manifest = newest_checkpoint(RUNS / name / checkpoint.FOLDER)
        metric = original.settings.config.stopping_metric
        result = {
            f"{metric} of epoch {row['epoch']}": finite(row[f"validation_{metric}"]) for row in progress["rows"]
        } | {"weights": manifest["best.bin"][0]}
    else:
        with sources.local_file(package) as path:
            result = result_of(archive.read_package(path, CHECKED.__contains__))
    say_comparison(original, result)


def say_comparison(original: Original, result: Mapping[str, Any]) -> None:
    """Print that the bits are the same; DataError if they are not."""
    different = [name for name, value in original.result.items() if result.get(name) != value]
    if different:
        versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
        raise DataError(
            f"{original.name} made again is different: {', '.join(different[:5])}{' and more' * (len(different) > 5)}. "
            f"The rows, the code or the versions may have changed since; this is {versions}."
        )
    say("same", f"all bits of {original.name}: {count(len(original.result), 'value')} compared")


if __name__ == "__main__":
    run_command(main)
