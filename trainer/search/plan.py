"""The plan of a search: what is fixed when it begins, in `search.json`.

Everything that a trial needs is in the plan, so that a later change of a variant or of the environment changes no
trial.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config import record, strict_json
from trainer.config.levels import shown
from trainer.config.loading import Configuration, with_settings
from trainer.config.net_config import STOPPING_METRICS
from trainer.runtime.errors import ConfigError
from trainer.runtime.system import create_folder, write_atomic
from trainer.search.space import VARIANT, Space, check_space

SEARCHES = Path("searches")
FILE = "search.json"
LOGS = "logs"  # of the runs, with the configuration of each
FORMAT_VERSION = 1
GROWING = ("trials", "keep", "seeds")  # may be larger when a search goes on
ETA = 3  # one of so many trials goes on at each rung
RUNGS = 3  # at most, the last one being all epochs


class Plan(NamedTuple):
    """What is fixed when a search begins."""

    name: str
    variant: str  # the default, which the best are compared with
    space: dict[str, Any]  # as in its file
    sampler: str  # "random", "grid" or "tpe"
    trials: int
    seed: int
    metric: str  # of the validation rows
    halving: bool  # pause bad trials early
    folds: int  # validation sets per trial
    threads: int  # of each trial
    keep: int  # trials that become packages
    seeds: int  # trainings of each of these, and of the default
    data: dict[str, str]  # place of the dataset under "train"; of separate sets under "validation" and "test"
    output: str
    variants: dict[str, Any]  # the configuration of each variant when the search began, as in config.json
    rows: dict[str, str]  # fingerprint of the rows of each set

    @property
    def folder(self) -> Path:
        """Where the files of the search are."""
        return SEARCHES / self.name

    @property
    def higher_is_better(self) -> bool:
        """Which way the metric is better."""
        objective = self.variants[self.variant]["settings"]["objective"]["value"]
        return STOPPING_METRICS[objective][self.metric] == "max"

    def base(self, variant: str) -> Configuration:
        """The configuration of a variant when the search began."""
        return parsed(json.dumps(self.variants[variant]))

    def checked_space(self) -> Space:
        """The space, checked again with the networks of today."""
        networks = {name: entry["network"] for name, entry in self.variants.items()}
        return check_space(self.space, FILE, self.variant, networks)

    def configuration(self, settings: Mapping[str, Any], *, seed: int = 0, fold: int = 0) -> Configuration:
        """The configuration of a trial. settings: its variant and the settings of the space; none for the default.

        seed, fold: added to those of the variant. Raises ConfigError for settings that contradict each other.
        """
        base = self.base(settings.get(VARIANT, self.variant))
        own = {name: value for name, value in settings.items() if name != VARIANT}
        by_search: dict[str, Any] = {"threads": self.threads, "stopping_metric": self.metric}
        repeated: dict[str, Any] = {"seed": (own.get("seed", base.config.seed) + seed) % 2**31} if seed else {}
        repeated |= {"validation_part": base.config.validation_part + fold} if fold else {}
        return with_settings(base, (by_search, "search"), (own, "trial"), (repeated, "search"))


@functools.lru_cache(maxsize=100)
def parsed(text: str) -> Configuration:
    """The configuration of a config.json. It takes a while, and a search asks for the same one for every trial."""
    return record.from_json(text)


def rungs(epochs: int, *, halving: bool) -> list[int]:
    """The epochs after which a trial waits for the others; the last are all its epochs."""
    parts = [ETA**power for power in reversed(range(RUNGS))] if halving else [1]
    return sorted({math.ceil(epochs / part) for part in parts})


def write_plan(plan: Plan) -> None:
    """Write `search.json`, and make the folder of the logs."""
    if not (plan.folder / LOGS).exists():
        create_folder(plan.folder / LOGS)
    content = {"format_version": FORMAT_VERSION} | plan._asdict()
    write_atomic(plan.folder / FILE, (json.dumps(content, indent=2) + "\n").encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan of a search; None if it has not begun. ConfigError for a file that `write_plan` did not write."""
    path = folder / FILE
    if not path.exists():
        return None
    content = strict_json.read(path)
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != FORMAT_VERSION or set(content) != set(Plan._fields):
        raise ConfigError(f"{path} is damaged, or another release wrote it. Choose another --name.")
    return Plan(**content)


def check_same_plan(before: Plan, now: Plan) -> None:
    """ConfigError with the differences between the plan of a search and what is asked for now."""
    different = [
        f"{name}: {shown(old)} before, {shown(new)} now"
        for name, old, new in zip(Plan._fields, tuple[Any, ...](before), tuple[Any, ...](now), strict=True)
        if old != new and not (name in GROWING and new > old)
    ]
    if different:
        raise ConfigError(
            f"{before.folder / FILE} is a search that is different: {'; '.join(different[:5])}. Restore these, or "
            "choose another --name."
        )
