"""The project script: `fab --list` shows every chore, `fab --help TASK` its options."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from fabric import Connection, task
from invoke.exceptions import Exit

ROOT = Path(__file__).parent
SAMPLE = ROOT / "data" / "sample_2k.json"
PATH_HELP = "rows: a file, a folder of shards, or a quoted glob; .json, plain or gzip; gs:// likewise"
PACKAGE_HELP = "zip of a run; gs:// likewise"


def call(*command: str | Path, cwd: Path | None = None, **variables: str) -> None:
    """Run a command to its end with this terminal, pass signals on to it, and leave with its exit code if it fails."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables  # so that paths stay relative to where the user stands
    child = subprocess.Popen(list(command), cwd=cwd, env=env, process_group=0)
    before = {
        number: signal.signal(number, lambda received, _: child.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    code = child.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code:
        raise Exit(code=code if code > 0 else 128 - code)


def python(*arguments: str | Path, **options: str | None) -> None:
    """Run Python with arguments and with those options that are given."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value]
    call(sys.executable, *arguments, *given)


def trainer(docker: bool, gpu: bool) -> list[str]:
    """What trains: Python here, or in a container."""
    return ["-m", "trainer.machines.containers", "train", *["--gpu"] * gpu] if docker or gpu else ["-m", "trainer"]


def far(c, module: str = "trainer.machines.remote") -> ModuleType:
    """What works on the machines of -H, which has to be given; importing it takes a second."""
    if not isinstance(c, Connection):
        raise Exit("Name the machine: fab -H user@machine TASK", code=2)
    return importlib.import_module(module)


def look(c, what: str, port: str | None, **options: str | None) -> None:
    """Show something in a browser of this machine, from here or from the machine of -H."""
    if not isinstance(c, Connection):
        return python("-m", "trainer.machines.viewers", what, port=port, **options)
    given = [f"--{name}={value}" for name, value in options.items() if value]
    return far(c, "trainer.machines.remote_viewers").look(c, what, given, port)


@task(
    help={
        "variant": "name in variant_config.json; `fab variants` lists them",
        "data": PATH_HELP,
        "test-data": "separate rows to test on",
        "validation-data": "separate rows to choose by",
        "output": "folder that the package goes to, or gs://",
        "run": "name of the run, which goes on where it was stopped; default: variant and time",
        "restart": "begin that run anew",
        "docker": "in a container of the image, which is built anew where the code has changed",
        "gpu": "the same in the image for NVIDIA's GPUs, with all of them",
        "dirty": "with -H: send the code as it lies here, not the commit",
    }
)
def train(c, variant="deep_v1", data=None, test_data=None, validation_data=None, output=None, run=None, restart=False,
          docker=False, gpu=False, dirty=False):  # fmt: skip
    """Train a variant and package it, here, in an image of the code, or elsewhere: fab -H user@gpu-1 train --gpu.

    NET_LEARNING_RATE=0.01 fab train overrides one setting for one run. Without options, deep_v1 learns from the sample.
    """
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    if isinstance(c, Connection):
        return far(c).train(c, far(c).Order(variant, run, paths, output, gpu, dirty, restart))
    python(*trainer(docker, gpu), *["--restart"] * restart, variant=variant, output=output, run=run, **paths)


@task(
    help={
        "data": PATH_HELP,
        "variant": "whose columns and split; `fab variants` lists them",
        "test-data": "separate rows to test on",
        "validation-data": "separate rows to choose by",
        "out": "page to write; default: check.html",
    }
)
def check_data(c, data=None, variant="deep_v1", test_data=None, validation_data=None, out=None):
    """Look at rows before training on them: columns, label, split, and warnings.

    Shows a table and writes a page with small plots. Nothing is trained; what fab train would refuse is refused here.
    """
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    python("-m", "trainer.inspection.inspect", variant=variant, out=out, **paths)


@task(help={"package": PACKAGE_HELP, "data": PATH_HELP, "out": "file to write, a JSON line per row; gs://"})
def predict(c, package, data, out):
    """Score rows with a package."""
    python("-m", "trainer.package.predictor", "predict", package=package, data=data, out=out)


@task(help={"package": PACKAGE_HELP, "data": PATH_HELP})
def evaluate(c, package, data):
    """Measure a package on labelled rows."""
    python("-m", "trainer.package.predictor", "evaluate", package=package, data=data)


@task(help={"run": "its name; of several machines one each: a,b", "output": "folder that the package goes to"})
def attach(c, run, output=None):
    """Show the log of a run on another machine and fetch its package: fab -H user@gpu-1 attach --run=NAME."""
    far(c).attach(c, run, output)


@task
def status(c):
    """List the runs on another machine: fab -H user@gpu-1 status."""
    far(c).status(c)


@task(help={"run": "its name; of several machines one each: a,b", "remove": "forget its log, too"})
def stop(c, run, remove=False):
    """Stop a run on another machine, with 30 seconds to end in order: fab -H user@gpu-1 stop --run=NAME."""
    far(c).stop(c, run, remove=remove)


@task(help={"run": "name of a finished run", "output": "folder or gs://; default: as the run was started"})
def publish(c, run, output=None):
    """Send the package of a run that could not be sent at its end."""
    python("-m", "trainer.package.publish", run=run, output=output)


@task(
    iterable=["param"],
    help={
        "to": "gs://bucket/prefix or a folder, empty and of this export alone",
        "table": "project.dataset.table of BigQuery",
        "sql": "file with one SELECT",
        "param": "name=value or name:TYPE=value of @name in the SQL; any number of them",
        "since": "day of @since in the SQL, such as 2026-11-01",
        "until": "day of @until in the SQL",
        "limit": "rows at most, chosen by their hash",
        "sample": "share of the rows, chosen by their hash",
        "staging": "gs://bucket/prefix by way of which a folder is filled",
        "dry-run": "say what would be read and billed, and do nothing",
    },
)
def dataset(
    c, to, param, table=None, sql=None, since=None, until=None, limit=None, sample=None, staging=None, dry_run=False
):
    """Export a table or a query's result: fab dataset --table=project.dataset.table --to=gs://bucket/prefix/."""
    given = [f"--param={one}" for one in param] + ["--dry-run"] * dry_run
    what = {"table": table, "sql": sql, "since": since, "until": until, "limit": limit, "sample": sample}
    python("-m", "trainer.bigquery.export", *given, to=to, staging=staging, **what)


@task(
    help={
        "run": "name of a run, finished or not; default: all runs",
        "package": PACKAGE_HELP,
        "output": "folder of packages, to compare all of them; gs:// likewise",
        "port": "of 127.0.0.1 to listen on; default: a free one",
    }
)
def tensorboard(c, run=None, package=None, output=None, port=None):
    """Show runs or packages in TensorBoard, for this machine's own browser; with -H those of another machine."""
    look(c, "tensorboard", port, run=run, package=package, output=output)


@task(help={"port": "of 127.0.0.1 to listen on; default: a free one"})
def notebook(c, port=None):
    """Open a notebook that looks into the newest package; with -H into those of another machine."""
    look(c, "notebook", port)


@task(help={"variant": "name in variant_config.json"})
def config(c, variant="deep_v1"):
    """Show each setting of a variant: value, source and meaning."""
    python("-m", "trainer.config.show", "settings", variant=variant)


@task
def variants(c):
    """List the variants and how they differ from the defaults."""
    python("-m", "trainer.config.show", "variants")


@task(name="networks")
def list_networks(c):
    """List the registered networks."""
    python("-m", "trainer.config.show", "networks")


@task(
    iterable=["build_arg"],
    help={
        "gpu": "the image for NVIDIA's GPUs",
        "tag": "its name; default: flatfab:cpu or flatfab:gpu",
        "build-arg": "NAME=VALUE of an ARG, such as BASE; any number of them",
    },
)
def build(c, build_arg, gpu=False, tag=None):
    """Build the image of this code: fab build --tag=registry.example.com/team/flatfab:1.0."""
    python(
        "-m",
        "trainer.machines.images",
        "build",
        *["--gpu"] * gpu,
        *(f"--build-arg={one}" for one in build_arg),
        tag=tag,
    )


@task(help={"tag": "its name, which begins with the registry's"})
def push(c, tag):
    """Send an image to its registry."""
    python("-m", "trainer.machines.images", "push", tag=tag)


@task(help={"gpu": "in the image for NVIDIA's GPUs, with all of them"})
def shell(c, gpu=False):
    """Open a shell in a container of the image; runs, cache and packages are those of this folder."""
    os.environ["PYTHONPATH"] = str(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "trainer.machines.containers", "shell", *["--gpu"] * gpu])  # noqa: S606


@task(help={"docker": "in a container of the image for GPUs"})
def gpu_check(c, docker=False):
    """Show that TensorFlow computes on the GPUs of this machine, and what they are; or why it does not."""
    python("-m", *(["trainer.machines.containers", "gpu-check"] if docker else ["trainer.machines.gpu"]))


@task(help={"rows": "how many", "out": "file to write", "seed": "another number, other rows"})
def sample(c, rows=2000, out=str(SAMPLE), seed=0):
    """Make rows with a known truth; by default the sample."""
    python(ROOT / "data" / "make_sample.py", rows=str(rows), out=out, seed=str(seed))


@task(help={"only": "pytest's -k: tests whose names match", "junit": "XML file to write for a CI server"})
def test(c, only=None, junit=None):
    """Run all tests."""
    report = [f"--junitxml={Path(junit).absolute()}"] if junit else []
    call(sys.executable, "-m", "pytest", *report, *(["-k", only] if only else []), cwd=ROOT)


@task(help={"only": "pytest's -k: tests whose names match"})
def test_faults(c, only=None):
    """Run the tests of what survives in their long form: hundreds of kills, every fail-point, a million inputs."""
    selected = ["-k", only] if only else []
    call(sys.executable, "-m", "pytest", "-p", "tests.scale", "--dist=worksteal", *selected, cwd=ROOT, FLATFAB_LONG="1")


@task
def lint(c):
    """Check style and types."""
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        call(sys.executable, "-m", *tool, cwd=ROOT)


@task(
    help={
        "rows": "generated rows to measure on",
        "sizes": "rows of whole runs, such as 200000,5000000; default: up to --rows",
        "limited-rows": "encoded rows to train on under a memory limit, such as 30000000; default: not measured",
        "folder": "keeps the generated files for the next time",
        "markdown": "print Markdown, as in BENCHMARKS.md",
    }
)
def bench(c, rows=200_000, sizes=None, limited_rows=None, folder=None, markdown=False):
    """Measure speed, memory and quality beside those of what one would use instead."""
    form = ["--markdown"] if markdown else []
    python("-m", "tests.benchmarks", *form, rows=str(rows), sizes=sizes, limited_rows=limited_rows, folder=folder)


@task(help={"junit": "XML file to write for a CI server", "image": "--no-image: without what needs a Docker engine"})
def ci(c, junit=None, image=True):
    """What the CI server runs: lint, types, all tests, and each variant on the sample in the image."""
    lint(c)
    test(c, junit=junit)
    for name in json.loads((ROOT / "variant_config.json").read_text(encoding="utf-8")) if image else []:
        python(*trainer(True, False), "--restart", variant=name, run=f"ci-{name}")
        python("-m", "trainer.package.predictor", "evaluate", package=f"packages/ci-{name}.zip", data=str(SAMPLE))
