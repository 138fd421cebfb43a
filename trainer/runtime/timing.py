"""How long the stages of a run take and how many rows they pass: timers and meters of pyformance, our own output.

Only pyformance's registry is used: its reporter threads lose what was counted last.
"""

import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.runtime import heartbeat

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pkg_resources announces its end at every import
    from pyformance.registry import MetricsRegistry


class Timings:
    """The timers and meters of one run."""

    def __init__(self) -> None:
        self._registry = MetricsRegistry()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one pass through a stage."""
        heartbeat.beat()
        with self._registry.timer(name).time():
            yield

    def mark(self, stage: str, rows: int) -> None:
        """Count rows that passed a stage."""
        self._registry.meter(f"{stage} rows").mark(rows)

    def report(self) -> dict[str, Any]:
        """Seconds, passes, rows and rows per second of each stage, and the peak memory of the process in bytes."""
        found = self._registry.dump_metrics()
        stages = {}
        for name, values in found.items():
            if values.get("count") and "sum" in values:
                stages[name] = {"seconds": values["sum"], "passes": int(values["count"])}
                if f"{name} rows" in found:
                    rows = int(found[f"{name} rows"]["count"])
                    stages[name] |= {"rows": rows, "rows_per_second": rows / max(values["sum"], 1e-9)}
        return {"stages": stages, "peak_memory_bytes": peak_memory()}


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
