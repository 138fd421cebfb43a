"""A search: what pausing bad trials saves, what a trial costs beside its epochs, and what two workers bring."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.fresh import ROOT
from tests.benchmarks.options import Options, rows_file
from tests.benchmarks.table import Chapter, Row
from trainer.search import journal
from trainer.search.plan import SEARCHES

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 0.0002, "high": 0.05, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
    "embedding_dim": [4, 8, 16, 32],
    "hidden_units": [[64], [128, 64], [256, 128]],
    "batch_size": [256, 512, 1024],
}
EPOCHS = 18
TRIALS = 27
FEW, FEW_EPOCHS = 8, 6  # trials that count workers


def search(options: Options) -> Chapter:
    """Searches on generated rows, one after the other."""
    path = rows_file(options, options.rows)
    with TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "space.json").write_text(json.dumps(SPACE))
        events(folder, path, "warm", "--trials=1", "--set=epochs=1")  # encodes the rows
        one = events(
            folder, path, "one", f"--trials={FEW}", "--workers=1", "--no-halving", "--set=epochs=2", "--set=threads=1"
        )
        two = events(
            folder, path, "two", f"--trials={FEW}", "--workers=2", "--no-halving", "--set=epochs=2", "--set=threads=1"
        )
        plan = (f"--trials={TRIALS}", "--workers=2", f"--set=epochs={EPOCHS}")
        full = events(folder, path, "full", "--no-halving", *plan)
        halved = events(folder, path, "halved", *plan)
    rows = [
        Row(f"{FEW} trials of {FEW_EPOCHS} epochs", "two workers", seconds=wall(two), ratio=wall(one) / wall(two)),
        Row(f"{FEW} trials of {FEW_EPOCHS} epochs", "one worker", seconds=wall(one),
            remark=f"{beside(one):.2f} s each beside the epochs"),
        Row(f"{TRIALS} trials of {EPOCHS} epochs", "halving", seconds=wall(halved), loss=best(halved),
            ratio=wall(full) / wall(halved), remark=f"{epochs(halved)} epochs, {epochs(halved) / epochs(full):.0%}"),
        Row(f"{TRIALS} trials of {EPOCHS} epochs", "all to the end", seconds=wall(full), loss=best(full),
            remark=f"{epochs(full)} epochs of {epoch_seconds(full):.1f} s"),
    ]  # fmt: skip
    note = (
        f"deep_v1 on {options.rows:,} generated rows, encoded before; each worker has one thread. Seconds from the "
        "first start of a trial to the end of the last one. The loss is the best of the validation rows."
    )
    return Chapter("Search", rows, note)


def events(folder: Path, rows: Path, name: str, *options: str) -> list[dict[str, Any]]:
    """Search, and return the starts and ends of trials, without those of their packages."""
    command = [sys.executable, "-m", "trainer.search.tune", "--space=space.json", f"--name={name}", f"--data={rows}",
               "--seeds=1", "--keep=1", "--set=patience=null", *options]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")
    found = list(journal.read(folder / SEARCHES / name / journal.FILE))
    packaging = next(number for number, event in enumerate(found) if event.get("package") is True)
    return [dict(event) for event in found[:packaging] if event["event"] in ("start", "end")]


def wall(of: list[dict[str, Any]]) -> float:
    """Seconds from the first start to the last end."""
    return float(of[-1]["at"] - of[0]["at"])


def ends(of: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The last end of each trial."""
    return {event["trial"]: event for event in of if event["event"] == "end"}


def epochs(of: list[dict[str, Any]]) -> int:
    """Epochs that were trained in all."""
    return sum(len(event["values"]) for event in ends(of).values())


def best(of: list[dict[str, Any]]) -> float:
    """The lowest loss of a trial."""
    return float(min(min(event["values"]) for event in ends(of).values()))


def epoch_seconds(of: list[dict[str, Any]]) -> float:
    """Seconds of an epoch, the mean."""
    return sum(sum(event["epoch_seconds"]) for event in ends(of).values()) / epochs(of)


def beside(of: list[dict[str, Any]]) -> float:
    """Seconds that a trial takes beside its epochs, compilation among them: the median."""
    extra = sorted(event["seconds"] - len(event["values"]) * min(event["epoch_seconds"]) for event in ends(of).values())
    return float(extra[len(extra) // 2])
