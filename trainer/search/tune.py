"""Search for better settings: `python -m trainer.search.tune --variant=deep_v1 --space=space.json`.

`search` is the whole of it: decide, start, wait, write down.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainer.config import loading, names, record
from trainer.config.loading import Configuration
from trainer.config.net_config import STOPPING_METRICS
from trainer.features.pipeline import prepare
from trainer.runtime import signals, system
from trainer.runtime.command import ArgumentParser, add_set, run_command, say
from trainer.runtime.errors import ConfigError, Interrupted, TrainerError, did_you_mean
from trainer.runtime.timing import Timings
from trainer.search import journal, local, space
from trainer.search.plan import Plan, check_same_plan, read_plan, write_plan
from trainer.search.proposals import SAMPLERS, proposer
from trainer.search.schedule import Propose, next_event, short_rungs
from trainer.search.state import Key, State, apply, replayed, run_name
from trainer.search.trials import Job, Outcome

ROOT = Path(__file__).parents[2]
SAMPLE = os.path.relpath(ROOT / "data" / "sample_2k.json")
POLL_SECONDS = 0.5
ALIKE = 3  # trials that fail with the same message stop the search


class Engine(Protocol):
    """Where runs are trained."""

    free: list[Any]

    def start(self, key: Key, job: Job) -> None: ...
    def wait(self, seconds: float) -> list[tuple[Key, Outcome]]: ...
    def stop(self) -> None: ...


def search(state: State, engine: Engine, propose: Propose, deadline: float) -> bool:
    """Train trials until there is nothing left to do; whether that is so. Otherwise it was stopped, or the time is up.

    state: of the events so far; each further one is on disk before it counts.
    """
    log = state.plan.folder / journal.FILE

    def record(event: journal.Event) -> None:
        journal.append(log, event)
        apply(state, event)

    with signals.deferred_stop() as stop_request:
        stopping = False
        while True:
            while not stopping and engine.free and (key := next_run(state, propose, record)):
                record({"event": "start", **key._asdict()})
                engine.start(key, job_of(state, key))
            if not state.running():
                break
            for key, outcome in engine.wait(POLL_SECONDS):
                first = not state.runs[key].values
                record({"event": "end", **key._asdict(), **outcome._asdict()})
                if first and state.skipped is None and key.trial is not None and len(outcome.epoch_seconds) > 1:
                    skipped = short_rungs(state, key.trial, outcome.seconds, outcome.epoch_seconds)
                    record({"event": "rungs", "skipped": skipped})
                say_run(state, key)
                check_alike(state, engine)
            if not stopping and (stop_request.signal or time.monotonic() > deadline):
                stopping = True
                engine.stop()
        if stop_request.signal:
            raise Interrupted(f"Stopped by {stop_request.by}. To go on, start it again with --name={state.plan.name}.")
    return not stopping


def next_run(state: State, propose: Propose, record: Any) -> Key | None:
    """The next run to start, after as many decisions as it takes."""
    while (key := state.next_run()) is None:
        event = next_event(state, propose)
        if event is None:
            return None
        record(event)
    return key


def job_of(state: State, key: Key) -> Job:
    """The run of a key, as far as it should come."""
    plan, goal = state.plan, state.goals[key.trial, key.seed]
    settings = {} if key.trial is None else state.trials[key.trial]
    configuration = plan.configuration(settings, seed=key.seed, fold=key.fold)
    text = record.to_json(configuration)
    return Job(run_name(plan, key), text, plan.data, plan.output, goal.until, goal.package, plan.folder / "runs")


def check_alike(state: State, engine: Engine) -> None:
    """If the first trials all fail alike, stop the search with their message."""
    reasons = [run.reason for run in state.runs.values() if run.reason]
    if len(reasons) == ALIKE and len(set(reasons)) == 1 and not any(run.values for run in state.runs.values()):
        engine.stop()
        raise TrainerError(f"The first {ALIKE} trials failed alike: {reasons[0]}")


def say_run(state: State, key: Key) -> None:
    """Print what a run has come to."""
    run = state.runs[key]
    values = [value for value in run.values if value is not None]
    best = (max if state.plan.higher_is_better else min)(values, default=float("nan"))
    what = run.reason or ("done" if run.over else f"paused after {run.epochs} epochs")
    settings = {} if key.trial is None else state.trials[key.trial]
    say(
        "trial", f"{run_name(state.plan, key)}  {state.plan.metric} {best:.5f}  {what}  {run.seconds:.0f} s  {settings}"
    )


def main(argv: list[str] | None = None) -> None:
    """Search for better settings of a variant."""
    options = tune_options(argv)
    name = options.name or names.new_run_name(options.variant)
    names.check_name(name, "search")
    plan = make_plan(name, options, os.environ)
    before = read_plan(plan.folder)
    with system.locked_folder(plan.folder):
        plan = prepare_rows(plan)
        if before:
            check_same_plan(before, plan)
        write_plan(plan)
        system.create_folder(plan.folder / "runs") if not (plan.folder / "runs").exists() else None
        state = replayed(plan, journal.read(plan.folder / journal.FILE))
        engine = local.LocalEngine(options.workers, plan.threads)
        hours = float("inf") if options.hours is None else options.hours
        finished = search(state, engine, proposer(plan), time.monotonic() + 3600 * hours)
        say("search", "done" if finished else "time is up")


def prepare_rows(plan: Plan) -> Plan:
    """Read and encode the rows once for all trials, and write their fingerprints into the plan."""
    config = plan.base(plan.variant).config
    prepared = prepare(config, plan.data, Timings())
    return plan._replace(rows={side: facts["fingerprint"] for side, facts in prepared.sets.items()})


def make_plan(name: str, options: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """The plan that the options ask for; ConfigError for wrong settings, or for a space that does not fit them."""
    default = loading.load_config(options.variant, environ=environ, command_line=options.set)
    place = options.space or f"the automatic space of network {default.config.network}"
    content = space.read_space(Path(options.space)) if options.space else space.automatic_space(default.config.network)
    chosen = content.get(space.VARIANT, [])
    in_file = {name for name in chosen if isinstance(name, str)} if isinstance(chosen, list) else set()
    variants = {options.variant: default}
    for variant in sorted(in_file & set(loading.variants())):
        variants[variant] = loading.load_config(variant, environ=environ, command_line=options.set)
    space.check_space(content, place, options.variant, {name: of.config.network for name, of in variants.items()})
    metric = options.metric or default.config.stopping_metric
    metrics = STOPPING_METRICS[default.config.objective]
    if metric not in metrics:
        raise ConfigError(f"--metric={metric} is not one of {', '.join(metrics)}. {did_you_mean(metric, metrics)}")
    check_comparable(options.variant, variants)
    workers = options.workers
    data = {"train": options.data or SAMPLE, "validation": options.validation_data, "test": options.test_data}
    return Plan(
        name=name, variant=options.variant, space=content, sampler=options.sampler, trials=options.trials,
        seed=options.seed, metric=metric, halving=options.halving, folds=options.folds,
        threads=default.config.threads or max(1, len(local.cores()) // workers), keep=options.keep,
        seeds=options.seeds, data={side: path for side, path in data.items() if path}, output=options.output,
        variants={name: json.loads(record.to_json(of)) for name, of in variants.items()}, rows={},
    )  # fmt: skip


def check_comparable(default: str, variants: Mapping[str, Configuration]) -> None:
    """ConfigError if variants of a space are measured on different rows."""
    of_default = variants[default].config
    for name, configuration in variants.items():
        for setting in space.OWNED:
            before, now = getattr(of_default, setting, None), getattr(configuration.config, setting, None)
            if space.OWNED[setting] is space.DECIDES_ROWS and before != now:
                raise ConfigError(
                    f"Variants {default} and {name} cannot be in one search: {setting} is {before!r} in one and "
                    f"{now!r} in the other, and it {space.DECIDES_ROWS}."
                )


def tune_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = ArgumentParser("python -m trainer.search.tune", description=main.__doc__)
    parser.add_argument("--variant", default="deep_v1", help="name in variant_config.json; default: %(default)s")
    parser.add_argument("--space", help="JSON file: setting -> list, or range with low, high and log")
    parser.add_argument("--auto", action="store_true", help="search the settings that networks suggest")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--hours", type=float)
    parser.add_argument("--workers", type=int, default=len(local.gpus()) or len(local.cores()))
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--sampler", choices=SAMPLERS, default="random")
    parser.add_argument("--metric")
    parser.add_argument("--name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-halving", dest="halving", action="store_false")
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--keep", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data")
    parser.add_argument("--validation-data")
    parser.add_argument("--test-data")
    parser.add_argument("--output", default="packages")
    add_set(parser)
    options = parser.parse_args(argv)
    if bool(options.space) == options.auto:
        parser.error("choose the settings to search: --space=FILE or --auto")
    return options


if __name__ == "__main__":
    run_command(main)
