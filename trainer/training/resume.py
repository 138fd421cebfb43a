"""A run that was stopped goes on where it stood, if it still is the same run: settings, code, versions and data."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import networks
from trainer.config.net_config import NetConfig
from trainer.features.pipeline import Prepared
from trainer.model.ops_wrapper import OpsWrapper
from trainer.runtime import heartbeat, system
from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, DivergedError, Interrupted, StorageError
from trainer.runtime.provenance import code_hashes, package_versions
from trainer.training import checkpoint
from trainer.training.checkpoint import Checkpoint, differences
from trainer.training.checkpoint_mirror import Mirror
from trainer.training.loop import History

CHECKPOINTS, LOGS = "checkpoints", "tensorboard"
NO_MATTER = ("cache_gb", "checkpoint_minutes")  # settings that another machine may have otherwise
# What decides the trained bits: the rows, the model and the order of its steps. The other folders move bytes and show
# results; what they bring is compared by itself, as fingerprints of the data and the hash of the preprocessing.
TRAINING_CODE = ("__main__.py", "config", "data", "features", "model", "training")
SHARE_OF_TIME = 0.02  # that checkpoints at the end of short epochs may take at most
SENDING_SECONDS = 15.0  # for the last checkpoint to reach the bucket; machines that are taken away leave 30


def identity(config: NetConfig, root: Path) -> dict[str, Any]:
    """What a run has to have in common with the one that it continues, by name: settings, code, versions."""
    settings = {name: value for name, value in asdict(config).items() if name not in NO_MATTER}
    network = code_hashes(root, networks.load(config.network).__file__ or "")
    code = code_hashes(root / "trainer", *TRAINING_CODE) | network
    as_stored: dict[str, Any] = json.loads(json.dumps(settings | code | package_versions()))
    return as_stored


def identity_of_data(prepared: Prepared) -> dict[str, str]:
    """The same for the rows: their fingerprints, and what was learnt from them."""
    prints = {f"{side} rows": found["fingerprint"] for side, found in prepared.sets.items()}
    return prints | {"preprocessing": hashlib.sha256(prepared.learnt.to_json().encode()).hexdigest()}


def find(folder: Path, told: Mapping[str, Any], mirror: Mirror | None = None, *, restart: bool) -> Checkpoint | None:
    """The checkpoint that a run goes on from, if there is one. ConfigError with what differs where it is of another.

    mirror: where newer ones may lie. restart: whatever is there is removed.
    """
    if mirror:
        (mirror.clear if restart else mirror.fetch)()
    found, damaged = (None, []) if restart else checkpoint.load(folder / CHECKPOINTS)
    if damaged:
        say("warning", f"{', '.join(damaged)} is damaged: the checkpoint before it is used.")
    if found:
        refuse_if_different(folder, found.progress["identity"], told)
        return found
    left = [folder / name for name in (CHECKPOINTS, LOGS) if (folder / name).exists()]
    if not left and folder.exists() and any(folder.iterdir()):
        raise StorageError(f"{folder} holds files that are not of a run. Choose another --run, or remove them.")
    if left:  # of a run that was killed before its first checkpoint, or is to begin anew
        for old in sorted(folder.iterdir(), key=left.__contains__):  # what shows that the folder is a run's goes last
            system.remove(old)
    return None


def refuse_if_different(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ConfigError with what differs between the run in a folder and what it is to be continued as."""
    if different := differences({name: before.get(name) for name in now}, now):
        raise ConfigError(
            f"{folder} is of a run that differs: {'; '.join(different[:5])}{' and more' * (len(different) > 5)}. "
            "Set them as they were, choose another --run, or begin anew with --restart."
        )


def restore(ops: OpsWrapper, found: Checkpoint | None) -> History:
    """Give a model and its optimizer the variables of a checkpoint; returns where the training stood."""
    if found is None:
        return History()
    for name, variable in ops.state().items():
        variable.assign(found.state[name])
    progress = found.progress
    history = History(
        progress["rows"], progress["best_epoch"], progress["best_value"], dict(found.best), progress["step"]
    )
    say("resume", f"epoch {len(history.rows) + 1}, step {history.step:,}: from checkpoint of {progress['time']}")
    return history


class Keeper:
    """Saves checkpoints: every so many minutes, at the end of epochs and of training, and before it obeys an order to
    stop. Nothing that is not finite is ever saved."""

    def __init__(
        self, folder: Path, ops: OpsWrapper, identity: Mapping[str, Any], stop_request: system.StopRequest,
        history: History, mirror: Mirror | None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.ops = ops
        self.identity = dict(identity)
        self.stop_request = stop_request
        self.mirror = mirror
        self.saved = time.monotonic()
        self.saving_seconds = 0.0
        self.position = (len(history.rows), history.step)

    def __call__(self, history: History, *, epoch_ended: bool) -> None:
        """Save, if it is time to; Interrupted where a signal has ordered to stop."""
        heartbeat.beat()
        config, since = self.ops.config, time.monotonic() - self.saved
        over = epoch_ended and history.over(config.epochs, config.patience)
        short = self.saving_seconds > SHARE_OF_TIME * since
        if self.stop_request.signal or over or since >= 60 * config.checkpoint_minutes or (epoch_ended and not short):
            self.save(history)
        if self.stop_request.signal:
            late = self.mirror.wait(SENDING_SECONDS) if self.mirror else ""
            raise Interrupted(
                f"Stopped by {self.stop_request.signal} after {len(history.rows)} epochs and {history.step:,} steps. "
                f"Start it again with --run={self.folder.name} to go on."
                + (f" Only on this machine, for the last checkpoint is not in the bucket: {late}" if late else "")
            )
        if self.mirror:
            self.mirror.check()

    def save(self, history: History) -> None:
        """Write a checkpoint of this moment, unless the last one is of it too."""
        position = (len(history.rows), history.step)
        if position == self.position:
            return
        began = time.monotonic()
        state = {name: variable.numpy() for name, variable in self.ops.state().items()}
        broken = sorted(
            name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()
        )
        if broken:
            raise DivergedError(
                f"Epoch {len(history.rows) + (history.step > 0)}: {', '.join(broken[:3])} hold NaN or infinity. Lower "
                f"learning_rate or set clip_norm. The last finite checkpoint stays in {self.folder / CHECKPOINTS}."
            )
        progress = {
            "rows": history.rows,
            "step": history.step,
            "best_epoch": history.best_epoch,
            "best_value": history.best_value,
            "identity": self.identity,
            "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        checkpoint.save(self.folder / CHECKPOINTS, Checkpoint(progress, state, history.best_weights))
        if self.mirror:
            self.mirror.send()
        self.position, self.saved = position, time.monotonic()
        self.saving_seconds = self.saved - began
