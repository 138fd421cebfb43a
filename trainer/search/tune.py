"""Search for better settings: `python -m trainer.search.tune --variant=deep_v1 --space=space.json`.

`search` is the whole of it: decide, start, wait, write down.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

from trainer.config import names
from trainer.config.loading import VARIANT_FILE
from trainer.config.record import to_json
from trainer.package.console import say_lines
from trainer.runtime import signals, system, warm
from trainer.runtime.command import count, run_command, say
from trainer.runtime.errors import Interrupted, TrainerError
from trainer.search import journal, local, ray_engine, trials
from trainer.search.new_plan import check_new_name, make_plan, with_rows
from trainer.search.options import tune_options
from trainer.search.plan import LOGS, check_same_plan, read_plan, write_plan
from trainer.search.proposals import proposer
from trainer.search.saving import check_new_variant, save_variant
from trainer.search.schedule import Propose, next_event, short_rungs
from trainer.search.state import Key, State, apply, losers, replayed, run_name
from trainer.search.trials import Job, Outcome
from trainer.search.view import View, viewed
from trainer.search.winner import conclusion, winner

POLL_SECONDS = 0.5
ALIKE = 3  # trials that fail with the same message stop the search


class Engine(Protocol):
    """Where runs are trained."""

    workers: int
    free: list[Any]  # slots, as far as they are ready

    def start(self, key: Key, job: Job) -> None: ...
    def wait(self, seconds: float) -> list[tuple[Key, Outcome]]: ...
    def stop(self) -> None: ...


def search(state: State, engine: Engine, propose: Propose, deadline: float, view: View | None = None) -> bool:
    """Train trials until there is nothing left to do; whether that is so. Otherwise it was stopped, or the time is up.

    state: of the events so far; each further one is on disk before it counts. view: what people see meanwhile.
    """
    with signals.deferred_stop() as stop_request:
        stopping, forgotten = False, set[Key]()
        while True:
            while not stopping and engine.free and (key := next_run(state, propose)):
                record(state, {"event": "start", **key._asdict()})
                engine.start(key, job_of(state, key))
            if not state.running() and (stopping or engine.free):
                break
            for key, outcome in engine.wait(POLL_SECONDS):
                first = not state.runs[key].values
                record(state, {"event": "end", **key._asdict(), **outcome._asdict()})
                if first and state.skipped is None and key.trial is not None and outcome.epoch_seconds:
                    skipped = short_rungs(state, key.trial, outcome.seconds, outcome.epoch_seconds)
                    record(state, {"event": "rungs", "skipped": skipped})
                forget_losers(state, forgotten)
                if view:
                    view.ended(key)
                check_alike(state, engine)
            if view:
                view.tick()
            if not stopping and (stop_request.signal or time.monotonic() > deadline):
                stopping = True
                engine.stop()
        if stop_request.signal:
            raise Interrupted(f"Stopped by {stop_request.by}. To go on, start it again with --name={state.plan.name}.")
    if not stopping:
        forget_losers(state, forgotten, finished=True)
    return not stopping


def forget_losers(state: State, forgotten: set[Key], *, finished: bool = False) -> None:
    """Remove checkpoints that nothing needs, so that a search of many trials does not fill the disk.

    forgotten: the runs whose checkpoints are removed already; grows.
    """
    for key in losers(state, finished=finished):
        if key not in forgotten:
            trials.forget(run_name(state.plan, key))
            forgotten.add(key)


def record(state: State, event: journal.Event) -> None:
    """Write an event down with the time, then let it count."""
    journal.append(state.plan.folder / journal.FILE, {**event, "at": round(time.time(), 3)})
    apply(state, event)


def next_run(state: State, propose: Propose) -> Key | None:
    """The next run to start, after as many decisions as it takes."""
    while (key := state.next_run()) is None:
        event = next_event(state, propose)
        if event is None:
            return None
        record(state, event)
    return key


def job_of(state: State, key: Key) -> Job:
    """The run of a key, as far as it should come."""
    plan, goal = state.plan, state.goals[key.trial, key.seed]
    settings = {} if key.trial is None else state.trials[key.trial]
    configuration = plan.configuration(settings, seed=key.seed, fold=key.fold)
    text = to_json(configuration)
    return Job(run_name(plan, key), text, plan.data, plan.output, goal.until, goal.package, plan.folder / LOGS)


def check_alike(state: State, engine: Engine) -> None:
    """If the first trials all fail alike, stop the search with their message."""
    failed = [run for run in state.runs.values() if run.reason]
    if len(failed) == ALIKE and len({run.reason for run in failed}) == 1 and not any(
        run.values for run in state.runs.values()
    ):  # fmt: skip
        engine.stop()
        raise failure(state)


def failure(state: State) -> TrainerError | Interrupted:
    """The error of a search none of whose trials has succeeded, with the message and the exit code of the first."""
    failed = [run for run in state.runs.values() if run.reason]
    if not failed:
        return Interrupted(f"No trial was trained to its end. To go on, start it again with --name={state.plan.name}.")
    alike = "alike" if len({run.reason for run in failed}) == 1 else "; the first one"
    kinds = {kind.exit_code: kind for kind in TrainerError.__subclasses__()}
    kind = kinds.get(failed[0].code, TrainerError)
    logs = state.plan.folder / LOGS
    return kind(
        f"{count(len(failed), 'trial')} failed {alike}: {failed[0].reason.rstrip('.')}. The logs are in {logs}."
    )


def main(argv: list[str] | None = None) -> None:
    """Search for better settings of a variant."""
    options = tune_options(argv)
    name = options.name or names.new_run_name(options.variant)
    names.check_name(name, "search")
    if options.save_as:
        check_new_variant(options.save_as)
    if options.engine == "ray":
        ray_engine.check(options.address)
    plan = make_plan(name, options, os.environ)
    if options.engine == "local":
        warm.prepare()  # while the rows are read
    propose = proposer(plan)  # which may need a package that is not installed
    with system.locked_folder(plan.folder):
        if not (before := read_plan(plan.folder)):
            check_new_name(plan)
        plan = with_rows(plan)
        if before:
            check_same_plan(before, plan)
        write_plan(plan)
        state = replayed(plan, journal.read(plan.folder / journal.FILE))
        if options.retry_failed:
            record(state, {"event": "retry"})
        hours = float("inf") if options.hours is None else options.hours
        deadline = time.monotonic() + 3600 * hours
        with engine_of(options, plan.threads) as engine, viewed(state, engine.workers, deadline) as view:
            view.finished = search(state, engine, propose, deadline, view)
        say_result(state, options.save_as)


@contextlib.contextmanager
def engine_of(options: argparse.Namespace, threads: int) -> Iterator[Engine]:
    """Where the runs of a search are trained, for the length of the block."""
    if options.engine == "local":
        yield local.LocalEngine(options.workers, threads)
        return
    with ray_engine.engine(options.address, options.workers, threads) as engine:
        yield engine


def say_result(state: State, save_as: str | None) -> None:
    """Print what the search has come to, and write the winner as a variant if asked to."""
    for sentence in conclusion(state):
        say_lines("result", sentence)
    best = winner(state)
    if best is None:
        raise failure(state)
    if save_as:
        save_variant(state, best, save_as)
        say("variant", f"{save_as} in {VARIANT_FILE.name}: fab train --variant={save_as}")
    for run in state.runs.values():
        if run.package:
            say("package", run.package)


if __name__ == "__main__":
    run_command(main)
