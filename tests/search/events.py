"""Searches that never trained: plans, and the events that a journal could hold, for what is shown of them."""

import json
import math
from typing import Any

import numpy as np

from trainer.config import loading, record
from trainer.search.journal import Event
from trainer.search.plan import Plan
from trainer.search.space import samples
from trainer.search.state import State, apply

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 0.0005, "high": 0.05, "log": True},
    "embedding_dim": [8, 16, 32],
    "dropout": {"low": 0.0, "high": 0.5},
    "hidden_units": [[64], [128, 64], [256, 128]],
}
EPOCHS, RUNG = 18, 6


def new_plan(**changes: Any) -> Plan:
    """A plan over SPACE."""
    settings = loading.load_config("deep_v1", environ={}, command_line=[f"epochs={EPOCHS}", "patience=null"])
    plan = Plan(
        name="lr", variant="deep_v1", space=SPACE, sampler="random", trials=27, seed=0, metric="loss", halving=True,
        folds=1, threads=1, keep=3, seeds=3, data={"train": "data/sample_2k.json"}, output="packages",
        variants={"deep_v1": json.loads(record.to_json(settings))}, rows={"train": "3f2a"},
    )  # fmt: skip
    return plan._replace(**changes)


def end(trial: int | None, epochs: int, best: float, seed: int = 0, **changes: Any) -> Event:
    """A run has ended after some epochs, the last one being the best."""
    values = [best + 0.1 * (math.exp(-0.3 * epoch) - math.exp(-0.3 * epochs)) for epoch in range(1, epochs + 1)]
    row = {"validation_loss": best, "validation_auc": 1 - best, "test_loss": 0.77777, "train_rows": 1400.0,
           "validation_rows": 200.0, "test_rows": 400.0}  # fmt: skip
    outcome = {"code": 0 if epochs == EPOCHS else 75, "reason": "", "values": values, "best": row if epochs else {},
               "epoch_seconds": [0.5] * epochs, "step": 0, "weights": "", "package": "", "seconds": 1.5 + 0.5 * epochs,
               "machine": "here"}  # fmt: skip
    return {"event": "end", "trial": trial, "seed": seed, "fold": 0} | outcome | changes


def goal(trial: int | None, until: int | None = None, seed: int = 0, package: bool = False) -> Event:
    return {"event": "goal", "trial": trial, "seed": seed, "until": until, "package": package}


def start(trial: int | None, seed: int = 0) -> Event:
    return {"event": "start", "trial": trial, "seed": seed, "fold": 0}


def searched(plan: Plan, finish: bool = True) -> list[Event]:
    """The events of a search whose best learning rate is 0.005: every 9th trial fails, a third goes on."""
    rng = np.random.default_rng(0)
    events: list[Event] = [{"event": "rungs", "skipped": 1}] if plan.halving else []
    losses = {}
    for number, settings in enumerate(samples(plan.checked_space(), plan.seed, plan.trials)):
        loss = 0.34 + 0.02 * abs(math.log10(settings["learning_rate"] / 0.005)) ** 3 + 0.02 * settings["dropout"] ** 2
        losses[number] = loss + 0.001 * rng.random() + (5.0 if number % 31 == 30 else 0)
        events += [{"event": "trial", "trial": number, "settings": settings}, start(number)]
        if number % 9 == 8:
            reason = "The loss is not a number after epoch 2. Lower the learning rate."
            events.append(end(number, 2, losses.pop(number), code=5, reason=reason))
        else:
            events.append(end(number, RUNG, losses[number] + 0.01))
    best = sorted(losses, key=losses.__getitem__)
    for number in best[: max(len(losses) // 3, 1)]:
        events += [goal(number), start(number), end(number, EPOCHS, losses[number], seconds=8.0)]
    if finish:
        for seed in range(plan.seeds):
            for trial, loss in [(None, 0.3475), *((of, losses[of]) for of in best[: plan.keep])]:
                if (trial, seed) not in {(of, 0) for of in best[: plan.keep]}:
                    shift = 0.0005 * rng.normal()
                    events += [goal(trial, seed=seed), start(trial, seed), end(trial, EPOCHS, loss + shift, seed)]
        for trial in best[: plan.keep]:
            package = f"packages/{plan.name}-{trial:04}.zip"
            events += [goal(trial, package=True), start(trial), end(trial, EPOCHS, losses[trial], package=package)]
    return events


def state_of(plan: Plan, events: list[Event]) -> State:
    """The state after the events."""
    state = State(plan)
    for event in events:
        apply(state, event)
    return state
