"""The project script: `fab --list` shows every chore, `fab --help TASK` its options."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from fabric import task
from invoke.exceptions import Exit

ROOT = Path(__file__).parent
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


@task(
    help={
        "variant": "name in variant_config.json; `fab variants` lists them",
        "data": PATH_HELP,
        "test-data": "separate rows to test on",
        "validation-data": "separate rows to choose by",
        "output": "folder that the package goes to, or gs://",
        "run": "name of the run, which goes on where it was stopped; default: variant and time",
        "restart": "begin that run anew",
    }
)
def train(c, variant="deep_v1", data=None, test_data=None, validation_data=None, output=None, run=None, restart=False):
    """Train a variant and package it: fab train --variant=rnn_v1.

    Without options it trains deep_v1 on the sample. NET_LEARNING_RATE=0.01 fab train overrides one setting for one run;
    fab config --variant=NAME shows all of them.
    """
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    anew = ["--restart"] if restart else []
    python("-m", "trainer", *anew, variant=variant, output=output, run=run, **paths)


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
    """Look at rows before training on them: columns, label, split, and what is doubtful.

    Shows a table and writes a page with small plots. Nothing is trained; what fab train would refuse is refused here.
    """
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    python("-m", "trainer.inspection", variant=variant, out=out, **paths)


@task(help={"package": PACKAGE_HELP, "data": PATH_HELP, "out": "file to write, a JSON line per row; gs://"})
def predict(c, package, data, out):
    """Score rows with a package."""
    python("-m", "trainer.prediction", "predict", package=package, data=data, out=out)


@task(help={"package": PACKAGE_HELP, "data": PATH_HELP})
def evaluate(c, package, data):
    """Measure a package on labelled rows."""
    python("-m", "trainer.prediction", "evaluate", package=package, data=data)


@task(help={"run": "name of a finished run", "output": "folder or gs://; default: as the run was started"})
def publish(c, run, output=None):
    """Send the package of a run that could not be sent at its end."""
    python("-m", "trainer.publishing", run=run, output=output)


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
    python("-m", "trainer.export", *given, to=to, staging=staging, **what)


@task(help={"variant": "name in variant_config.json"})
def config(c, variant="deep_v1"):
    """Show each setting of a variant: value, source and meaning."""
    python("-m", "trainer.show", "settings", variant=variant)


@task
def variants(c):
    """List the variants and how they differ from the defaults."""
    python("-m", "trainer.show", "variants")


@task(name="networks")
def list_networks(c):
    """List the registered networks."""
    python("-m", "trainer.show", "networks")


@task(help={"rows": "how many", "out": "file to write", "seed": "another number, other rows"})
def sample(c, rows=2000, out=str(ROOT / "data" / "sample_2k.json"), seed=0):
    """Make rows with a known truth; by default the sample."""
    python(ROOT / "data" / "make_sample.py", rows=str(rows), out=out, seed=str(seed))


@task(help={"only": "pytest's -k: tests whose names match"})
def test(c, only=None):
    """Run all tests."""
    call(sys.executable, "-m", "pytest", *(["-k", only] if only else []), cwd=ROOT)


@task(help={"only": "pytest's -k: tests whose names match"})
def test_faults(c, only=None):
    """Run the tests of what survives in their long form: hundreds of kills, every fail-point, a million inputs."""
    selected = ["-k", only] if only else []
    call(sys.executable, "-m", "pytest", "-p", "tests.scale", *selected, cwd=ROOT, FLATFAB_LONG="1")


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


@task(pre=[lint, test])
def ci(c):
    """What the CI server runs: lint, types, all tests."""
