"""Searches whose runs take no time: an engine with invented learning curves, for properties of many trials."""

import json
import math
import random
from pathlib import Path
from typing import Any

from trainer.config import loading, record
from trainer.runtime.errors import Interrupted
from trainer.search import journal, tune
from trainer.search.plan import Plan, write_plan
from trainer.search.proposals import proposer
from trainer.search.state import Key, State, replayed
from trainer.search.trials import Job, Outcome

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
    "embedding_dim": [8, 16, 32],
}


def new_plan(name: str = "sim", *, epochs: int = 18, **changes: Any) -> Plan:
    """The plan of a search over SPACE, its files written below the working folder."""
    settings = loading.load_config("deep_v1", environ={}, command_line=[f"epochs={epochs}", "patience=null"])
    plan = Plan(
        name=name, variant="deep_v1", space=SPACE, sampler="random", trials=27, seed=0, metric="loss", halving=True,
        folds=1, threads=1, keep=3, seeds=3, data={"train": "rows"}, output="packages",
        variants={"deep_v1": json.loads(record.to_json(settings))}, rows={},
    )._replace(**changes)  # fmt: skip
    write_plan(plan)
    return plan


def curve(config: dict[str, Any], epochs: int) -> list[float]:
    """The loss after each epoch: best at a learning rate of 0.005 and a dropout of 0.1."""
    value = {name: entry["value"] for name, entry in config["settings"].items()}
    rate, noise = value["learning_rate"], random.Random(repr(sorted(value.items())))
    floor = 0.3 + 0.01 * math.log10(rate / 0.005) ** 2 + 0.05 * (value["dropout"] - 0.1) ** 2
    floor += 0.0005 * noise.random()
    return [floor + 0.1 * math.exp(-0.4 * epoch) for epoch in range(1, epochs + 1)]


class SimulatedEngine:
    """Ends its runs in an order that a seed decides. faults: share of the ends that are kills; start: seconds."""

    def __init__(self, workers: int, seed: int = 0, *, faults: float = 0.0, start: float = 0.0) -> None:
        self.free: list[Any] = [None] * workers
        self.random = random.Random(seed)
        self.faults, self.start_seconds = faults, start
        self.running: list[tuple[Key, Job]] = []
        self.epochs: dict[str, int] = {}  # done, by run: their checkpoints
        self.trained = 0  # epochs in all
        self.starts: list[tuple[str, int, int | None]] = []

    def start(self, key: Key, job: Job) -> None:
        self.free.pop()
        self.running.append((key, job))
        self.starts.append((job.run, self.epochs.get(job.run, 0), job.until))

    def wait(self, seconds: float) -> list[tuple[Key, Outcome]]:
        key, job = self.running.pop(self.random.randrange(len(self.running)))
        self.free.append(None)
        config = json.loads(job.config)
        all_epochs, before = config["settings"]["epochs"]["value"], self.epochs.get(job.run, 0)
        target, killed = job.until or all_epochs, self.random.random() < self.faults
        done = max(before, self.random.randrange(before, target + 1) if killed else target)
        self.epochs[job.run] = done
        self.trained += done - before
        values: list[float | None] = list(curve(config, all_epochs)[:done])
        code = -9 if killed else 0 if done == all_epochs else Interrupted.exit_code
        package = f"packages/{job.run}.zip" if job.package and code == 0 else ""
        best = {"validation_loss": values[-1], "test_loss": values[-1]} if values else {}
        outcome = Outcome(code, "killed by SIGKILL" * killed, values, best, [1.0] * done, 0, "", package,
                          self.start_seconds + done - before, "here")  # fmt: skip
        return [(key, outcome)]

    def stop(self) -> None:
        raise AssertionError("nothing stops these")


def searched(plan: Plan, engine: SimulatedEngine, state: State | None = None) -> State:
    """The state at the end of a search."""
    state = state or replayed(plan, journal.read(plan.folder / journal.FILE))
    tune.search(state, engine, proposer(plan), math.inf)
    return state


def events(plan: Plan, folder: Path = Path()) -> list[dict[str, Any]]:
    """The lines of the journal."""
    return [json.loads(line) for line in (folder / plan.folder / journal.FILE).read_text().splitlines()]
