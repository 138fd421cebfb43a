"""Show that a change of code changed no bit: `python -m tests.same_bits OLD NEW`, two checkouts of the project.

Each trains every variant that both have on the old sample, resumes a run that was killed, and predicts with each
package. Weights, metrics.csv and predictions are compared. A row per comparison; exit code 1 if any differs.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

FAB = Path(sys.executable).with_name("fab")
KILLED = {"NET_CHECKPOINT_MINUTES": "0", "FLATFAB_FAULT": "kill:100"}


def fab(tree: Path, folder: Path, *arguments: str, **environment: str) -> int:
    """A task of a checkout, run in a folder; returns its exit code."""
    folder.mkdir(exist_ok=True)
    command = [str(FAB), "-r", str(tree), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode and "FLATFAB_FAULT" not in environment:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.returncode


def results(tree: Path, folder: Path, variant: str, data: Path) -> dict[str, str]:
    """SHA-256 by name of what a variant's run, a killed and resumed run, and predictions are made of."""
    rows = f"--data={data}"
    fab(tree, folder, "train", f"--variant={variant}", f"--run={variant}", rows)
    fab(tree, folder, "predict", f"--package=packages/{variant}.zip", rows, f"--out={variant}.json")
    killed = ("train", f"--variant={variant}", f"--run={variant}-resumed", rows)
    if fab(tree, folder, *killed, **KILLED) == 0:
        sys.exit(f"{variant}: the run was to be killed, and ended.")
    fab(tree, folder, *killed, NET_CHECKPOINT_MINUTES="0")
    digests = {"predictions": hashlib.sha256((folder / f"{variant}.json").read_bytes()).hexdigest()}
    for kind in ("", "-resumed"):
        with zipfile.ZipFile(folder / "packages" / f"{variant}{kind}.zip") as package:
            digests[f"metrics.csv{kind}"] = hashlib.sha256(package.read("metrics.csv")).hexdigest()
            with package.open("weights.npz") as file, np.load(file, allow_pickle=False) as weights:
                arrays = {name: (weights[name].dtype.str, weights[name].tobytes()) for name in sorted(weights.files)}
        digest = hashlib.sha256()
        for name, (dtype, data_of_array) in arrays.items():
            digest.update(f"{name} {dtype} ".encode() + data_of_array)
        digests[f"{len(arrays)} weight arrays{kind}"] = digest.hexdigest()
    return digests


def main() -> None:
    old, new = (Path(argument).resolve() for argument in sys.argv[1:3])
    variants = [json.loads((tree / "variant_config.json").read_text()) for tree in (old, new)]
    data, differences = old / "data" / "sample_2k.json", 0
    with tempfile.TemporaryDirectory() as scratch:
        for variant in (name for name in variants[0] if name in variants[1]):
            before = results(old, Path(scratch) / "old", variant, data)
            after = results(new, Path(scratch) / "new", variant, data)
            for name in before:
                same = before[name] == after.get(name)
                differences += not same
                print(f"{variant:<16} {name:<28} {before[name][:16]} {'same' if same else 'DIFFERENT'}", flush=True)
    sys.exit(differences > 0)


if __name__ == "__main__":
    main()
