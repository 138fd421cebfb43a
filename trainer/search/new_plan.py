"""Make the plan of a search from what its command asks for."""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.cloud import storage
from trainer.config import loading, record
from trainer.config.loading import Configuration, with_settings
from trainer.config.net_config import STOPPING_METRICS
from trainer.features.pipeline import prepare
from trainer.package.publish import RUNS
from trainer.runtime.errors import ConfigError, StorageError, did_you_mean
from trainer.runtime.timing import Timings
from trainer.search import local, space
from trainer.search.plan import Plan

ROOT = Path(__file__).parents[2]
SAMPLE = os.path.relpath(ROOT / "data" / "sample_2k.json")
TRIALS = 20


def make_plan(name: str, options: argparse.Namespace, environ: Mapping[str, str]) -> Plan:
    """The plan that the options ask for; ConfigError for wrong settings, or for a space that does not fit them.

    environ: environment variables; `NET_*` override settings, as in a run.
    """

    def load(variant: str) -> Configuration:
        return loading.load_config(variant, environ=environ, command_line=options.set)

    default = load(options.variant)
    content, place = space_of(options, default)
    variants = {options.variant: default} | {name: load(name) for name in further_variants(content)}
    networks = {name: of.config.network for name, of in variants.items()}
    checked = space.check_space(content, place, options.variant, networks)
    check_comparable(options.variant, variants)
    sizes = {"grid": space.grid_size(checked, place) if options.sampler == "grid" else 0}
    data = {"train": options.data or SAMPLE, "validation": options.validation_data, "test": options.test_data}
    return Plan(
        name=name, variant=options.variant, space=content, sampler=options.sampler,
        trials=options.trials or sizes.get(options.sampler, TRIALS), seed=options.seed,
        metric=metric_of(options.metric, default), halving=options.halving, folds=folds_of(options, default),
        threads=default.config.threads or local.threads_each(options.workers), keep=options.keep, seeds=options.seeds,
        data={side: path for side, path in data.items() if path}, output=options.output,
        variants={name: json.loads(record.to_json(of)) for name, of in variants.items()}, rows={},
    )  # fmt: skip


def space_of(options: argparse.Namespace, default: Configuration) -> tuple[dict[str, Any], str]:
    """The content of the space, and its place for messages."""
    if options.space:
        return space.read_space(Path(options.space)), options.space
    network = default.config.network
    return space.automatic_space(network), f"the automatic space of network {network}"


def further_variants(content: Mapping[str, Any]) -> list[str]:
    """The variants of a space that exist."""
    names = content.get(space.VARIANT)
    existing = loading.variants()
    return [name for name in names if isinstance(name, str) and name in existing] if isinstance(names, list) else []


def metric_of(name: str | None, default: Configuration) -> str:
    """The metric to choose by; ConfigError if the objective has none of this name."""
    metrics = STOPPING_METRICS[default.config.objective]
    if name is not None and name not in metrics:
        choice = f"objective={default.config.objective} has {', '.join(metrics)}"
        raise ConfigError(f"--metric={name} is not a metric: {choice}. {did_you_mean(name, metrics)}")
    return name or default.config.stopping_metric


def folds_of(options: argparse.Namespace, default: Configuration) -> int:
    """How many validation sets each trial has; ConfigError where the rows have not so many."""
    folds = options.folds or options.date_ranges or 1
    by_time = default.config.split == "time"
    if options.date_ranges and not by_time:
        raise ConfigError(f"--date-ranges needs split=time, but split={default.config.split}. Use --folds.")
    if options.folds and by_time:
        raise ConfigError("--folds would train on rows that are later than those it validates on. Use --date-ranges.")
    if folds > 1 and options.validation_data:
        raise ConfigError("--folds and --date-ranges choose validation rows, so they exclude --validation-data.")
    with_settings(default, ({"validation_part": default.config.validation_part + folds - 1}, "search"))
    return int(folds)


def check_comparable(default: str, variants: Mapping[str, Configuration]) -> None:
    """ConfigError if variants of a space are measured on different rows."""
    names = [name for name, reason in space.OWNED.items() if reason is space.DECIDES_ROWS]
    for other, configuration in variants.items():
        for name in names:
            before, now = (getattr(of.config, name) for of in (variants[default], configuration))
            if before != now:
                raise ConfigError(
                    f"Variants {default} and {other} cannot be in one search: {name} is {before!r} in one and {now!r} "
                    f"in the other, and it {space.DECIDES_ROWS}."
                )


def check_new_name(plan: Plan) -> None:
    """StorageError if runs or packages have the names that a new search will give its own."""
    folders = [RUNS] if storage.is_remote(plan.output) else [RUNS, Path(plan.output)]
    for folder in folders:
        if taken := sorted(folder.glob(f"{plan.name}-*")):
            raise StorageError(f"{taken[0]} is not of this search. Choose another --name, or remove it.")


def with_rows(plan: Plan) -> Plan:
    """The plan with the fingerprints of the rows, which are read and encoded once for all trials."""
    prepared = prepare(plan.base(plan.variant).config, plan.data, Timings())
    return plan._replace(rows={side: facts["fingerprint"] for side, facts in prepared.sets.items()})
