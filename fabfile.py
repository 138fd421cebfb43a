"""The commands of the project: `fab --list` shows them, `fab --help COMMAND` shows the options of one."""

import functools
import json
import os
import sys
from pathlib import Path

import fabric
from fabric import Connection

from trainer.machines import fab_program
from trainer.machines.fab_program import call, python, remote, show

ROOT = Path(__file__).parent
SAMPLE = ROOT / "data" / "sample_2k.json"
PATH_HELP = "rows: a file, a folder of shards, or a quoted pattern, local or gs://; .json or .json.gz"
PACKAGE_HELP = "package of a run: a path or gs://"
PORT_HELP = "port of 127.0.0.1; default: a free one"
FOLDER_HELP = "folder that all machines share; default: ~/flatfab-cluster"
PYTHON_HELP = "Python there, with requirements.txt and Ray; default: python3"
SHARED, PYTHON, CLUSTER = "~/flatfab-cluster", "python3", "trainer.machines.cluster"
SET_HELP = "change a setting for this run: NAME=VALUE; repeatable"

GROUPS = {
    "rows": ("init", "check-data", "dataset", "sample"),
    "train": ("train", "publish", "variants", "networks", "config"),
    "search": ("tune", "reproduce"),
    "look": ("tensorboard", "notebook"),
    "serve": ("predict", "evaluate"),
    "elsewhere": (
        "attach",
        "status",
        "stop",
        "build",
        "push",
        "shell",
        "gpu-check",
        "cluster-up",
        "cluster-status",
        "cluster-down",
    ),
    "develop": ("test", "test-faults", "lint", "bench", "ci"),
}
fab_program.use(GROUPS)

# Options are written out: `-v` could mean several.
task = functools.partial(fabric.task, auto_shortflags=False, positional=())


def assignments(settings: list[str]) -> list[str]:
    """The arguments that change settings."""
    return [f"--set={setting}" for setting in settings]


def trainer(docker: bool, gpu: bool) -> list[str]:
    """The arguments of Python that train, here or in a container."""
    return ["-m", "trainer.machines.containers", "train", *["--gpu"] * gpu] if docker or gpu else ["-m", "trainer"]


@task(
    iterable=["set_"],
    help={
        "variant": "name in variant_config.json; `fab variants` lists them",
        "data": PATH_HELP,
        "test-data": "separate test set; default: a share of the rows",
        "validation-data": "separate validation set; default: a share of the rows",
        "output": "folder or gs:// prefix of the package; default: packages",
        "run": "name of the run; an existing run is resumed; default: variant, time, random digits",
        "restart": "start an existing run from the beginning",
        "set": SET_HELP,
        "docker": "train in a container of the image of this code, which is built if needed",
        "gpu": "train in the GPU image, on all GPUs of the machine",
        "dirty": "with -H: send uncommitted changes, too",
    },
)
def train(c, set_, variant="deep_v1", data=None, test_data=None, validation_data=None, output=None, run=None,
          restart=False, docker=False, gpu=False, dirty=False):  # fmt: skip
    """Train a variant and write its package: fab train --variant=rnn_v1 --data=rows/ --set epochs=5

    On another machine: fab -H user@gpu-1 train"""
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    if isinstance(c, Connection):
        return remote(c).train(c, remote(c).TrainRequest(variant, run, paths, output, gpu, dirty, restart, set_))
    flags = [*assignments(set_), *["--restart"] * restart]
    python(*trainer(docker, gpu), *flags, variant=variant, output=output, run=run, **paths)


@task(
    iterable=["set_"],
    help={
        "variant": "the default to beat",
        "space": "JSON file: setting -> list of values, or range with low, high and log",
        "auto": "try the settings and ranges that the network suggests",
        "trials": "settings to try; default: 20, with --sampler=grid all",
        "hours": "stop after so many hours; the same command goes on",
        "workers": "runs at once; default: one per GPU, without GPUs one per core",
        "engine": "where to train: local, or ray for a Ray cluster",
        "address": "HOST:PORT of a Ray cluster; default: a Ray on this machine",
        "sampler": "how settings are chosen: random, grid or tpe",
        "metric": "metric of the validation rows to choose by; default: stopping_metric of the variant",
        "name": "name of the search; an existing search goes on",
        "seed": "random seed of the choice of settings",
        "halving": "--no-halving trains every trial to its end",
        "folds": "train each trial on so many splits with other validation rows",
        "date-ranges": "the same with split=time: validate on so many ranges of time",
        "keep": "best trials to compare and to package; default: 3",
        "seeds": "trainings of each of these and of the default; default: 3",
        "retry-failed": "when a search goes on, start failed trials again",
        "save-as": "write the winner as a variant of this name into variant_config.json",
        "data": PATH_HELP,
        "test-data": "separate test set",
        "validation-data": "separate validation set",
        "output": "folder or gs:// prefix of the packages; default: packages",
        "set": "change a setting for all trials: NAME=VALUE; repeatable",
    },
)
def tune(c, set_, variant="deep_v1", space=None, auto=False, trials=None, hours=None, workers=None, engine=None,
         address=None, sampler=None, metric=None, name=None, seed=None, halving=True, folds=None, date_ranges=None,
         keep=None, seeds=None, retry_failed=False, save_as=None, data=None, test_data=None, validation_data=None,
         output=None):  # fmt: skip
    """Search for better settings, and compare the best with the variant: fab tune --space=space.json --trials=30"""
    flags = ["--auto"] * auto + ["--no-halving"] * (not halving) + ["--retry-failed"] * retry_failed
    rows = {"data": data, "test_data": test_data, "validation_data": validation_data, "output": output, "seed": seed}
    python("-m", "trainer.search.tune", *assignments(set_), *flags, variant=variant, space=space, trials=trials,
           hours=hours, workers=workers, engine=engine, address=address, sampler=sampler, metric=metric, name=name,
           folds=folds, date_ranges=date_ranges, keep=keep, seeds=seeds, save_as=save_as, **rows)  # fmt: skip


@task(
    help={
        "trial": "run of a search, as in the column run of its trials.csv",
        "package": PACKAGE_HELP,
        "run": "name of the new run; default: that of the old one and -again",
        "output": "folder or gs:// prefix of the new package; default: packages",
    }
)
def reproduce(c, trial=None, package=None, run=None, output=None):
    """Make a trial or a package again, and compare all bits: fab reproduce --trial=NAME"""
    python("-m", "trainer.search.reproduce", trial=trial, package=package, run=run, output=output)


@task(
    help={
        "data": PATH_HELP,
        "label": "column to predict",
        "name": "name of the variant; default: from the place of the rows",
    }
)
def init(c, data, label, name=None):
    """Look at rows and write a variant for them: fab init --data=rows/ --label=clicked

    Prints the role of each column with the reason, and adds the variant to variant_config.json, ready to train.
    """
    python("-m", "trainer.inspection.init", data=data, label=label, name=name)


@task(
    iterable=["set_"],
    help={
        "data": PATH_HELP,
        "variant": "use the columns and the split of this variant",
        "set": SET_HELP,
        "test-data": "separate test set",
        "validation-data": "separate validation set",
        "out": "page to write; default: check.html",
    },
)
def check_data(c, set_, data=None, variant="deep_v1", test_data=None, validation_data=None, out=None):
    """Inspect rows before training: columns, label, split and warnings. Example: fab check-data --data=rows/

    Prints a table and writes a page with small plots. Fails where fab train would fail; trains nothing.
    """
    paths = {"data": data, "test_data": test_data, "validation_data": validation_data}
    python("-m", "trainer.inspection.inspect", *assignments(set_), variant=variant, out=out, **paths)


@task(
    help={
        "package": PACKAGE_HELP,
        "data": PATH_HELP,
        "out": "file to write, a path or gs://; one line of JSON per row",
        "keep": "columns of the rows to copy to the predictions, beside all key columns: a,b",
    }
)
def predict(c, package, data, out, keep=None):
    """Predict rows with a package: fab predict --package=packages/NAME.zip --data=rows/ --out=scores.json"""
    python("-m", "trainer.package.score", "predict", package=package, data=data, out=out, keep=keep)


@task(help={"package": PACKAGE_HELP, "data": PATH_HELP})
def evaluate(c, package, data):
    """Print the metrics of a package on labelled rows: fab evaluate --package=packages/NAME.zip --data=rows/"""
    python("-m", "trainer.package.score", "evaluate", package=package, data=data)


@task(help={"run": "name of the run; with several machines, one name each: a,b", "output": "folder of the package"})
def attach(c, run, output=None):
    """Follow a run on another machine and fetch its package: fab -H user@gpu-1 attach --run=NAME"""
    remote(c).attach(c, run, output)


@task
def status(c):
    """List the runs on another machine: fab -H user@gpu-1 status"""
    remote(c).status(c)


@task(help={"run": "name of the run; with several machines, one name each: a,b", "remove": "remove its log, too"})
def stop(c, run, remove=False):
    """Stop a run on another machine; it can be resumed: fab -H user@gpu-1 stop --run=NAME"""
    remote(c).stop(c, run, remove=remove)


@task(
    help={
        "folder": FOLDER_HELP,
        "python": PYTHON_HELP,
        "port": "port of the head; the nodes take the 1000 from here on",
        "addresses": "private addresses of the machines, a,b; default: those that ssh connects to",
        "dirty": "send uncommitted changes, too",
        "firewalled": "a firewall closes these ports to the internet, although a machine has a public address",
    }
)
def cluster_up(c, folder=SHARED, python=PYTHON, port=6379, addresses=None, dirty=False, firewalled=False):
    """Start a Ray cluster for a search; the first machine is its head: fab -H h1,h2 cluster-up --folder=/shared"""
    module = remote(c, CLUSTER)
    given = addresses.split(",") if addresses else []
    module.up(c, module.Request(folder, python, port, given, dirty, firewalled))


@task(help={"folder": FOLDER_HELP, "python": PYTHON_HELP})
def cluster_status(c, folder=SHARED, python=PYTHON):
    """Show the nodes of a Ray cluster: fab -H h1,h2 cluster-status"""
    remote(c, CLUSTER).status(c, folder, python)


@task(help={"folder": FOLDER_HELP, "python": PYTHON_HELP})
def cluster_down(c, folder=SHARED, python=PYTHON):
    """Stop a Ray cluster: fab -H h1,h2 cluster-down"""
    remote(c, CLUSTER).down(c, folder, python)


@task(help={"run": "name of a finished run", "output": "folder or gs:// prefix; default: that of the run"})
def publish(c, run, output=None):
    """Upload the package of a finished run whose own upload failed: fab publish --run=NAME"""
    python("-m", "trainer.package.publish", run=run, output=output)


@task(
    iterable=["param"],
    help={
        "to": "empty folder or gs:// prefix to export to",
        "table": "BigQuery table: project.dataset.table",
        "sql": "file with one SELECT",
        "param": "value of @name in the SQL: name=value or name:TYPE=value; repeatable",
        "since": "day for @since in the SQL, such as 2026-11-01",
        "until": "day for @until in the SQL",
        "limit": "maximum number of rows, chosen by hash",
        "sample": "share of the rows, chosen by hash, such as 0.1",
        "staging": "gs:// prefix for temporary files when --to is a folder",
        "dry-run": "print what would be read and billed, and stop",
    },
)
def dataset(
    c, to, param, table=None, sql=None, since=None, until=None, limit=None, sample=None, staging=None, dry_run=False
):
    """Export a BigQuery table or query: fab dataset --table=project.dataset.table --to=gs://bucket/prefix/"""
    arguments = [f"--param={value}" for value in param] + ["--dry-run"] * dry_run
    rows = {"table": table, "sql": sql, "since": since, "until": until, "limit": limit, "sample": sample}
    python("-m", "trainer.bigquery.export", *arguments, to=to, staging=staging, **rows)


@task(
    help={
        "run": "name of a run, finished or not; default: all runs",
        "search": "name of a search: its settings and metrics in the tab HParams",
        "package": PACKAGE_HELP,
        "output": "folder or gs:// prefix of packages, to compare them",
        "port": PORT_HELP,
    }
)
def tensorboard(c, run=None, search=None, package=None, output=None, port=None):
    """Show runs, a search or packages in TensorBoard: fab tensorboard --run=NAME; with -H, from another machine."""
    show(c, "tensorboard", port, run=run, search=search, package=package, output=output)


@task(help={"port": PORT_HELP})
def notebook(c, port=None):
    """Open a notebook that explores the newest package; with -H, on another machine."""
    show(c, "notebook", port)


@task(iterable=["set_"], help={"variant": "name in variant_config.json", "set": SET_HELP})
def config(c, set_, variant="deep_v1"):
    """Print every setting of a variant with its value, source and meaning: fab config --variant=rnn_v1"""
    python("-m", "trainer.config.show", "settings", *assignments(set_), variant=variant)


@task
def variants(c):
    """List the variants with their base and settings."""
    python("-m", "trainer.config.show", "variants")


@task(name="networks")
def list_networks(c):
    """List the networks."""
    python("-m", "trainer.config.show", "networks")


@task(
    iterable=["build_arg"],
    help={
        "gpu": "build the image for NVIDIA GPUs",
        "tag": "name of the image; default: flatfab:cpu or flatfab:gpu",
        "build-arg": "NAME=VALUE of an ARG in the Dockerfile, such as BASE; repeatable",
    },
)
def build(c, build_arg, gpu=False, tag=None):
    """Build the image of this code: fab build --tag=registry.example.com/team/flatfab:1.0"""
    arguments = ["--gpu"] * gpu + [f"--build-arg={value}" for value in build_arg]
    python("-m", "trainer.machines.images", "build", *arguments, tag=tag)


@task(help={"tag": "name of the image, starting with its registry"})
def push(c, tag):
    """Push an image to its registry: fab push --tag=registry.example.com/team/flatfab:1.0"""
    python("-m", "trainer.machines.images", "push", tag=tag)


@task(help={"gpu": "use the GPU image and all GPUs of this machine"})
def shell(c, gpu=False):
    """Open a shell in a container of the image, with the runs, cache and packages of this folder."""
    os.environ["PYTHONPATH"] = str(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "trainer.machines.containers", "shell", *["--gpu"] * gpu])  # noqa: S606


@task(help={"docker": "check in a container of the GPU image"})
def gpu_check(c, docker=False):
    """Check that TensorFlow computes on the GPUs of this machine, or print why it does not."""
    python("-m", *(["trainer.machines.containers", "gpu-check"] if docker else ["trainer.machines.gpu"]))


@task(help={"rows": "number of rows", "out": "file to write", "seed": "random seed"})
def sample(c, rows=2000, out=str(SAMPLE), seed=0):
    """Generate rows whose true click rates are known; by default the sample."""
    python(ROOT / "data" / "make_sample.py", rows=str(rows), out=out, seed=str(seed))


@task(help={"only": "run tests whose names match (pytest -k)", "junit": "XML file to write for a CI server"})
def test(c, only=None, junit=None):
    """Run all tests."""
    report = [f"--junitxml={Path(junit).absolute()}"] if junit else []
    call(sys.executable, "-m", "pytest", *report, *(["-k", only] if only else []), cwd=ROOT)


@task(help={"only": "run tests whose names match (pytest -k)"})
def test_faults(c, only=None):
    """Run the fault tests in full: hundreds of kills, full disks, a million damaged inputs. Takes an hour."""
    selected = ["-k", only] if only else []
    call(sys.executable, "-m", "pytest", "-p", "tests.scale", "--dist=worksteal", *selected, cwd=ROOT, FLATFAB_LONG="1")


@task
def lint(c):
    """Check style and types."""
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        call(sys.executable, "-m", *tool, cwd=ROOT)


@task(
    help={
        "rows": "number of generated rows",
        "sizes": "row counts for the benchmarks of complete runs, such as 200000,5000000; default: up to --rows",
        "limited-rows": "rows to train on under a memory limit, such as 30000000; default: skip this",
        "folder": "keep the generated files here for the next time",
        "markdown": "print Markdown, as in BENCHMARKS.md",
    }
)
def bench(c, rows=200_000, sizes=None, limited_rows=None, folder=None, markdown=False):
    """Measure speed, memory and quality, and compare them with the alternatives."""
    options = ["--markdown"] if markdown else []
    python("-m", "tests.benchmarks", *options, rows=str(rows), sizes=sizes, limited_rows=limited_rows, folder=folder)


@task(help={"junit": "XML file to write for a CI server", "image": "--no-image skips what needs Docker"})
def ci(c, junit=None, image=True):
    """Run what the CI server runs: lint, types, all tests, and each variant on the sample in the image."""
    lint(c)
    test(c, junit=junit)
    for name in json.loads((ROOT / "variant_config.json").read_text(encoding="utf-8")) if image else []:
        python(*trainer(True, False), "--restart", variant=name, run=f"ci-{name}")
        python("-m", "trainer.package.score", "evaluate", package=f"packages/ci-{name}.zip", data=str(SAMPLE))
