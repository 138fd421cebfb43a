"""Save checkpoints during training, and resume a run from one if its settings, code, versions and data are the same."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import networks
from trainer.config.net_config import NetConfig
from trainer.features.pipeline import Prepared
from trainer.model.ops_wrapper import OpsWrapper
from trainer.runtime import heartbeat, signals, system
from trainer.runtime.command import count, say
from trainer.runtime.errors import ConfigError, Interrupted, StorageError
from trainer.runtime.provenance import code_hashes, package_versions
from trainer.training import checkpoint
from trainer.training.checkpoint import Checkpoint, differences
from trainer.training.checkpoint_mirror import Mirror
from trainer.training.loop import History, check_finite

CHECKPOINTS, LOGS = checkpoint.FOLDER, "tensorboard"
THREADS = "threads"  # of these, the identity holds the number, not the setting
IGNORED_SETTINGS = (
    "allow_worse",
    "cache_gb",
    "checkpoint_minutes",
    THREADS,
)  # may differ, since they do not change the result
# The code that determines the trained weights. The other folders move bytes and show results; what they load is
# compared directly, by the fingerprints of the data and the hash of the preprocessing.
TRAINING_CODE = ("__main__.py", "config", "data", "features", "model", "training")
MAX_TIME_SHARE = 0.02  # of the training time, for checkpoints at the end of short epochs
GROWING = ("epochs", "patience")  # may be larger than before: then a run goes on where it ended
UPLOAD_SECONDS = 15.0  # for the last checkpoint to reach the bucket; a preempted machine gets 30 in all


def identity(config: NetConfig, root: Path) -> dict[str, Any]:
    """What must be equal to resume a run: settings, hashes of code files and versions of packages, by name.

    root: the folder that holds `trainer/`. Returns JSON values.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in IGNORED_SETTINGS}
    network = code_hashes(root, networks.load(config.network).__file__ or "")
    code = code_hashes(root / "trainer", *TRAINING_CODE) | network
    as_stored: dict[str, Any] = json.loads(json.dumps(settings | code | package_versions()))
    return as_stored


def identity_of_data(prepared: Prepared) -> dict[str, str]:
    """The same for the data: fingerprints of the rows, and the hash of the fitted preprocessing."""
    fingerprints = {f"{side} rows": facts["fingerprint"] for side, facts in prepared.sets.items()}
    return fingerprints | {"preprocessing": hashlib.sha256(prepared.preprocessing.to_json().encode()).hexdigest()}


def threads_of(latest: Checkpoint | None) -> int | None:
    """The number of threads that the run of a checkpoint computes with; None without a checkpoint."""
    return latest and latest.progress["identity"].get(THREADS)


def find_checkpoint(
    folder: Path, identity: Mapping[str, Any], mirror: Mirror | None = None, *, restart: bool
) -> Checkpoint | None:
    """The checkpoint to resume from, or None to start from the beginning.

    folder: of the run. mirror: a copy of the checkpoints in a bucket, which may be newer. restart: remove everything.
    Raises ConfigError if the checkpoint belongs to a run that differs, StorageError if the folder is no run's.
    """
    if mirror:
        (mirror.clear if restart else mirror.fetch)()
    latest, damaged = (None, []) if restart else checkpoint.load(folder / CHECKPOINTS)
    if damaged:
        say("warning", f"{', '.join(damaged)} is damaged; the run continues from the checkpoint before it.")
    if latest:
        check_same_run(folder, latest.progress["identity"], identity)
        return latest
    remains = [folder / name for name in (CHECKPOINTS, LOGS) if (folder / name).exists()]
    if not remains and folder.exists() and any(folder.iterdir()):
        raise StorageError(f"{folder} has files that are not from a run. Choose another --run, or remove them.")
    if remains:  # of a run that was killed before its first checkpoint, or that restarts
        for path in sorted(folder.iterdir(), key=remains.__contains__):  # the names that mark a run's folder go last
            system.remove(path)
    return None


def check_same_run(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ConfigError with the differences between two identities: that of the run in a folder, and that of this run.

    `epochs` and `patience` may be larger now: a run with more of them begins with the same epochs, bit for bit, unless
    the learning rate falls to 0 by the last epoch.
    """
    grown = {name: now[name] for name in GROWING if name in now and is_larger(now[name], before.get(name))}
    if before.get("decay") != "none":
        grown.pop("epochs", None)
    if different := differences({name: before.get(name) for name in now} | grown, now):
        raise ConfigError(
            f"{folder} holds a run that is different: {'; '.join(different[:5])}{' and more' * (len(different) > 5)}. "
            "Restore these values, choose another --run, or start again with --restart."
        )


def is_larger(now: int | None, before: int | None) -> bool:
    """Whether a limit is larger than before; None is no limit."""
    return before is not None and (now is None or now > before)


def history_of(latest: Checkpoint) -> History:
    """The training up to a checkpoint."""
    progress = latest.progress
    return History(
        progress["rows"], progress["best_epoch"], progress["best_value"], dict(latest.best), progress["step"],
        progress.get("seconds", []),
    )  # fmt: skip


def is_over(latest: Checkpoint, config: NetConfig) -> bool:
    """Whether a run has nothing left to train."""
    return history_of(latest).is_over(config.epochs, config.patience)


def restore(ops: OpsWrapper, latest: Checkpoint | None) -> History:
    """Assign the variables of a checkpoint to the model and the optimizer; returns the history up to it."""
    if latest is None:
        return History()
    for name, variable in ops.state().items():
        variable.assign(latest.state[name])
    history = history_of(latest)
    say("resume", f"epoch {len(history.rows) + 1}, step {history.step:,}: from checkpoint of {latest.progress['time']}")
    return history


class Checkpointer:
    """Saves checkpoints every `checkpoint_minutes`, at the end of epochs and of training, and on a request to stop.

    pause_after: epochs after which the run stops, though it has more.
    """

    def __init__(
        self, folder: Path, ops: OpsWrapper, identity: Mapping[str, Any], history: History, mirror: Mirror | None,
        pause_after: int | None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.ops = ops
        self.identity = dict(identity)
        self.stop_request = signals.StopRequest()  # replaced where signals are deferred
        self.mirror = mirror
        self.pause_after = pause_after
        self.saved_at = time.monotonic()
        self.saving_seconds = 0.0
        self.position = (len(history.rows), history.step)

    def __call__(self, history: History, *, epoch_ended: bool) -> None:
        """Save a checkpoint if it is time. Raises Interrupted after a request to stop, and what `save` raises."""
        heartbeat.beat()
        config, since = self.ops.config, time.monotonic() - self.saved_at
        training_ended = epoch_ended and history.is_over(config.epochs, config.patience)
        is_pause = self.is_pause(history)
        is_due = since >= 60 * config.checkpoint_minutes
        is_cheap = self.saving_seconds <= MAX_TIME_SHARE * since
        if self.stop_request.signal or is_pause or training_ended or is_due or (epoch_ended and is_cheap):
            self.save(history)
        if self.stop_request.signal or is_pause:
            problem = self.mirror.wait(UPLOAD_SECONDS) if self.mirror else ""
            done = f"{count(len(history.rows), 'epoch')} and {count(history.step, 'step')}"
            raise Interrupted(
                f"{f'Stopped by {self.stop_request.by}' if self.stop_request.signal else 'Paused'} after {done}. "
                f"To continue, start it again with --run={self.folder.name}."
                + (f" Use this machine, because the last checkpoint is not in the bucket: {problem}" if problem else "")
            )
        if self.mirror:
            self.mirror.check()

    def is_pause(self, history: History) -> bool:
        """Whether a run has come as far as it should now, and has more to train."""
        config = self.ops.config
        has_come = self.pause_after is not None and len(history.rows) >= self.pause_after
        return has_come and not history.is_over(config.epochs, config.patience)

    def save(self, history: History) -> None:
        """Write a checkpoint, unless no step was made since the last one. DivergedError if weights are not finite."""
        position = (len(history.rows), history.step)
        if position == self.position:
            return
        start = time.monotonic()
        state = {name: variable.numpy() for name, variable in self.ops.state().items()}
        last_good = f" The last good checkpoint is in {self.folder / CHECKPOINTS}."
        check_finite(state, len(history.rows) + (history.step > 0), last_good)
        progress = {
            "rows": history.rows,
            "step": history.step,
            "seconds": history.seconds,
            "best_epoch": history.best_epoch,
            "best_value": history.best_value,
            "identity": self.identity,
            "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        checkpoint.save(self.folder / CHECKPOINTS, Checkpoint(progress, state, history.best_weights))
        if self.mirror:
            self.mirror.send()
        self.position, self.saved_at = position, time.monotonic()
        self.saving_seconds = self.saved_at - start
