"""Time the stages of a run and count their rows with pyformance's timers and counters.

Only the registry of pyformance is used: its reporter threads lose the last values when a process ends.
"""

import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer.runtime import heartbeat

if TYPE_CHECKING:
    from trainer.runtime.progress import RunProgress

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pkg_resources warns at every import that it is deprecated
    from pyformance.registry import MetricsRegistry


class Timings:
    """The timers and counters of one run. progress: shows the stages."""

    def __init__(self, progress: "RunProgress | None" = None) -> None:
        self._registry = MetricsRegistry()
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one pass through a stage."""
        heartbeat.beat()
        if self._progress:
            self._progress.stage(name)
        with self._registry.timer(name).time():
            yield

    def count_rows(self, stage: str, rows: int) -> None:
        """Count rows that a stage has processed."""
        self._registry.counter(f"{stage} rows").inc(rows)

    def report(self) -> dict[str, Any]:
        """The contents of timings.json: seconds, passes and rows of each stage, and the peak memory in bytes."""
        metrics = self._registry.dump_metrics()
        stages = {}
        for name, values in metrics.items():
            if values.get("count") and "sum" in values:  # a timer that has been used
                stages[name] = {"seconds": values["sum"], "passes": int(values["count"])}
                if f"{name} rows" in metrics:
                    rows = int(metrics[f"{name} rows"]["count"])
                    stages[name] |= {"rows": rows, "rows_per_second": rows / max(values["sum"], 1e-9)}
        return {"stages": stages, "peak_memory_bytes": peak_memory()}


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
