"""The engine of many machines: a Ray cluster with a warm worker in each slot.

Ray only places workers and notices when one is lost. What to train, what to repeat and what wins is up to the search,
as with processes of this machine. All machines share the working folder, so that a run whose machine is lost goes on
elsewhere from its last checkpoint.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from trainer.runtime.command import say
from trainer.runtime.errors import ConfigError, ResourceError, StorageError
from trainer.search import ray_checks, trials
from trainer.search.state import Key
from trainer.search.trials import Job, Outcome, Slot

ROOT = Path(__file__).parents[2]
STORE_BYTES = 100_000_000  # of Ray's object store, which carries jobs and outcomes only
WORKER_SECONDS = 600.0  # to wait for a first worker when there is none


class Running(NamedTuple):
    """A run that is being trained."""

    key: Key
    job: Job
    worker: Any  # handle of a `Worker`
    began: float  # by the monotonic clock
    log_before: int  # size of its log


class Worker:
    """A slot of a machine: starts one run at a time in a warm process there. An actor of Ray with two threads."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        sys.modules["__main__"].__file__ = None  # Ray's: otherwise each warm process would import it
        self.process: BaseProcess | None = None

    def ready(self) -> None:
        """Answer once this worker has started."""

    def run(self, job: Job, log_before: int) -> Outcome:
        """Train a run, and return what it has come to."""
        began = time.monotonic()
        self.process = trials.start(job, Slot())
        self.process.join()
        return trials.outcome(job, self.process.exitcode or 0, time.monotonic() - began, log_before)

    def stop(self) -> None:
        """Ask the run to save a checkpoint and to end."""
        if self.process:
            self.process.terminate()


class RayEngine:
    """Trains a run in each of `workers` slots of a cluster, as far as it has room for them."""

    def __init__(self, ray: Any, workers: int, resources: dict[str, Any]) -> None:
        self.ray, self.workers, self.resources = ray, workers, resources
        self.free: list[Any] = []
        self.starting: dict[Any, Any] = {}  # worker by the future of its first answer
        self.running: dict[Any, Running] = {}  # by the future of its outcome
        self.last_worker = time.monotonic()  # when there was one
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        """Ask for a worker. It begins when a machine has room for it. Ray starts none again: that is up to us."""
        actor = self.ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2, **self.resources)(Worker)
        worker = actor.remote(str(Path.cwd()))
        self.starting[worker.ready.remote()] = worker

    def start(self, key: Key, job: Job) -> None:
        """Start a run on a free worker."""
        worker, log = self.free.pop(0), trials.log_of(job)
        log.touch()
        log_before = log.stat().st_size
        outcome = worker.run.remote(job, log_before)
        self.running[outcome] = Running(key, job, worker, time.monotonic(), log_before)

    def wait(self, seconds: float) -> list[tuple[Key, Outcome]]:
        """The runs that have ended, after waiting for one for some seconds at most.

        ResourceError if no machine has had room for a worker for a long time.
        """
        futures = [*self.starting, *self.running]
        ready, others = self.ray.wait(futures, timeout=seconds)
        ready += self.ray.wait(others, num_returns=len(others), timeout=0)[0] if ready and others else []
        outcomes = [(self.running[future].key, self.ended(future)) for future in ready if future in self.running]
        for future in ready:
            if worker := self.starting.pop(future, None):
                self.begun(worker, future)
        self.check_workers()
        return outcomes

    def begun(self, worker: Any, future: Any) -> None:
        """A worker has started, or failed to."""
        try:
            self.ray.get(future)
            self.free.append(worker)
        except self.ray.exceptions.RayActorError as error:
            say("warning", f"a worker could not start: {reason_in(error)}")
            self.add_worker()

    def ended(self, future: Any) -> Outcome:
        """The outcome of a run. If its worker is lost, the run is killed, and another worker comes."""
        run = self.running.pop(future)
        try:
            outcome: Outcome = self.ray.get(future)
            self.free.append(run.worker)
            return outcome
        except self.ray.exceptions.RayTaskError as error:
            self.free.append(run.worker)
            code, reason = StorageError.exit_code, f"its outcome cannot be read: {error.cause!r}"
        except self.ray.exceptions.RayError as error:
            self.add_worker()
            code, reason = -signal.SIGKILL, f"its worker is lost: {reason_in(error)}"
        seconds = time.monotonic() - run.began
        return trials.outcome(run.job, code, seconds, run.log_before)._replace(reason=reason)

    def check_workers(self) -> None:
        """ResourceError if there has been no worker for a long time."""
        if self.free or self.running:
            self.last_worker = time.monotonic()
        if time.monotonic() - self.last_worker > WORKER_SECONDS:
            raise ResourceError(
                f"No machine of the Ray cluster has had room for a worker ({described(self.resources)}) for "
                f"{WORKER_SECONDS / 60:.0f} minutes. `fab -H ... cluster-status` shows it. The same command goes on."
            )

    def stop(self) -> None:
        """Ask all runs to save a checkpoint and to end."""
        for run in self.running.values():
            run.worker.stop.remote()


def reason_in(error: Exception) -> str:
    """Why Ray has lost a worker, in one line."""
    text = " ".join(str(error).split())
    if "memory" in text and "OOM killer" not in text:
        return "its machine ran out of memory"
    detail = text.partition("Worker exit detail: ")[2] or text
    return detail.partition(". ")[0][:200]


def described(resources: dict[str, Any]) -> str:
    """What a worker needs."""
    return " and ".join(f"{resources[name]} {what}" for name, what in (("num_cpus", "CPUs"), ("num_gpus", "GPUs")))


@contextlib.contextmanager
def engine(address: str | None, workers: int | None, threads: int) -> Iterator[RayEngine]:
    """Train on the cluster at an address, without one on a Ray of this machine that ends with the block.

    workers: how many at most; None: as many as the machines have room for now. ConfigError or ResourceError for a
    cluster that cannot be used.
    """
    ray = connected(address, (workers or 1) * threads)
    try:
        if address:
            ray_checks.check_nodes(ray, ROOT)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes)
        resources = {"num_cpus": threads, "num_gpus": 1 if gpus else 0}
        room = sum(int(min(node.get("CPU", 0) // threads, node.get("GPU", 0) if gpus else 1e6)) for node in nodes)
        if not room:
            raise ConfigError(
                f"No machine of the Ray cluster has {described(resources)}, which a worker needs. Use --set threads=N."
            )
        say("cluster", f"{len(nodes)} machines with room for {room} workers of {described(resources)}")
        yield RayEngine(ray, workers or room, resources)
    finally:
        ray.shutdown()


def check(address: str | None) -> str:
    """The token of a cluster; a new one for a Ray of this machine.

    ConfigError or ResourceError, within seconds, if Ray is missing or the cluster cannot be used.
    """
    ray_checks.check_installed()
    if not address:
        return ray_checks.new_token()
    token, source = ray_checks.find_token(os.environ)
    ray_checks.check_cluster(address, token, source)
    return token


def connected(address: str | None, cpus: int) -> Any:
    """The module ray, connected to a cluster, or to a new Ray on this machine with so many CPUs."""
    token = check(address)
    ray_checks.use_token(token)
    import ray  # noqa: PLC0415 - seconds, and it reads the token

    own = {} if address else {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", configure_logging=False, **own)
    except Exception as error:  # Ray raises plain ones, too
        reason = " ".join(str(error).split())[:300]
        raise ResourceError(
            f"Ray cannot {f'connect to {address}' if address else 'start on this machine'}: {reason} "
            + "The search must run on a machine of the cluster, with its version of Python." * bool(address)
        ) from None
    finally:
        for number, handler in handlers.items():  # Ray has put its own in their place
            signal.signal(number, handler)
    ray._private.worker._worker_logs_enabled = False  # a paragraph for each lost worker; the search has a line
    return ray
