"""The settings of a new trial: random, from a grid, or by a sampler that learns from the trials before."""

import itertools
from typing import Any

from trainer.search import space
from trainer.search.plan import FILE, Plan
from trainer.search.schedule import Propose
from trainer.search.state import State

SAMPLERS = ("random", "grid", "tpe")


def proposer(plan: Plan) -> Propose:
    """What gives each new trial its settings. Those of random trials and of a grid follow from the plan alone, so
    the order in which trials end changes nothing."""
    if plan.sampler == "tpe":
        from trainer.search import optuna_study  # noqa: PLC0415 - an extra

        return optuna_study.propose
    checked = plan.checked_space()
    if plan.sampler == "grid":
        listed = list(itertools.islice(space.grid(checked, FILE), plan.trials))
    else:
        listed = space.samples(checked, plan.seed, plan.trials)

    def propose(state: State) -> dict[str, Any] | None:
        number = len(state.trials)
        return listed[number] if number < len(listed) else None

    return propose
