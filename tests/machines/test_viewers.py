"""TensorBoard and a notebook in a real browser: what they show, who may see it, and that they end cleanly."""

import base64
import contextlib
import csv
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import websocket

from tests.machines import test_remote
from tests.servers import ssh
from tests.servers.bucket import Bucket
from tests.servers.ssh import Server
from trainer.machines import viewers
from trainer.runtime.errors import ConfigError, StorageError

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--window-size=1400,1000",
)  # fmt: skip
SCREENSHOTS = "FLATFAB_SCREENSHOTS"  # in the environment: a folder for what the browser has seen
HTML = "document.documentElement ? document.documentElement.outerHTML : ''"
PATIENCE = 60.0  # seconds that a page may take to fill
TAGS = {"it/train", "it/validation", "it/test"}
HAS_JUPYTER = all(map(importlib.util.find_spec, ("jupyterlab", "nbclient")))

server, script = test_remote.server, test_remote.script

needs_browser = pytest.mark.skipif(BROWSER is None, reason="this needs Chromium: Debian's package chromium")
needs_jupyter = pytest.mark.skipif(not HAS_JUPYTER, reason="this needs jupyterlab and nbclient")


@pytest.fixture(scope="module")
def folder(sample_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which a run has ended: runs/it and packages/it.zip."""
    path = tmp_path_factory.mktemp("work")
    shutil.copytree(sample_run / "runs", path / "runs")
    shutil.copytree(sample_run / "out", path / "packages")
    return path


class Seen(NamedTuple):
    """A page after its scripts have run."""

    html: str

    @property
    def text(self) -> str:
        """What it shows, without styles and scripts, a line for each piece."""
        bare = re.sub(r"<(style|script)\b.*?</\1>", "", self.html, flags=re.DOTALL)
        return re.sub(r"\s*\n\s*", "\n", re.sub(r"<[^>]*>", "\n", bare))


def seen(url: str, tmp_path: Path, name: str, words: Iterable[str]) -> Seen:
    """The page that a fresh browser shows at an address, once it contains the words; saves a screenshot."""
    pictures = Path(os.environ.get(SCREENSHOTS) or tmp_path)
    pictures.mkdir(exist_ok=True)
    with browser(tmp_path / f"profile-{name}", url) as ask:
        end = time.monotonic() + PATIENCE
        while True:
            html = ask("Runtime.evaluate", expression=HTML)["result"]["value"]
            missing = [word for word in words if word not in Seen(html).text]
            if not missing or time.monotonic() > end:
                break
            time.sleep(0.2)
        picture = base64.b64decode(ask("Page.captureScreenshot")["data"])
    (pictures / f"{name}.png").write_bytes(picture)
    assert not missing, Seen(html).text
    assert len(picture) > 10_000
    return Seen(html)


@contextlib.contextmanager
def browser(profile: Path, url: str) -> Iterator[Callable[..., Any]]:
    """A browser at an address: a function that sends it a command of Chrome's DevTools protocol."""
    command = [str(BROWSER), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        listening = next(match for line in process.stderr or () if (match := re.search(r"//(127\.0\.0\.1:\d+)/", line)))
        (page,) = (one for one in answer_of(f"http://{listening[1]}/json/list") if one["type"] == "page")
        with contextlib.closing(
            websocket.create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=60)
        ) as socket:
            numbers = itertools.count()

            def ask(method: str, **parameters: Any) -> dict[str, Any]:
                socket.send(json.dumps({"id": (number := next(numbers)), "method": method, "params": parameters}))
                while (answer := json.loads(socket.recv())).get("id") != number:
                    pass
                result: dict[str, Any] = answer["result"]
                return result

            yield ask
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@contextlib.contextmanager
def look(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command and the address that it prints; afterwards Ctrl-C must end it."""
    command = [sys.executable, "-m", "trainer.machines.viewers", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
    ) as process:  # fmt: skip
        try:
            yield process, address(process)
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()  # or the end of this block would wait for it
    assert process.returncode == 0


def address(process: subprocess.Popen[str]) -> str:
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if url := re.search(r"http://127\.0\.0\.1:\d+/\S*", line):
            return url[0]
    raise AssertionError("".join(lines))


def answer_of(url: str) -> Any:
    """The JSON that a server answers with."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def status(url: str, **headers: str) -> int:
    """The status that a server answers with."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def listeners(url: str) -> set[str]:
    """The addresses on which something listens on the port of an address: of IPv4 as /proc writes them, and of IPv6."""
    port = urlsplit(url).port
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}


def is_alone_here(url: str) -> bool:
    return listeners(url) == {"0100007F"}  # 127.0.0.1, and nothing else


def ended(url: str) -> bool:
    end = time.monotonic() + 20
    while listeners(url) and time.monotonic() < end:
        time.sleep(0.1)
    return not listeners(url)


@needs_browser
def test_tensorboard_shows_the_scalars_of_a_package(folder: Path, tmp_path: Path) -> None:
    with look(folder, "tensorboard", "--package=packages/it.zip") as (_, url):
        assert is_alone_here(url)
        tags = answer_of(f"{url}data/plugin/scalars/tags")
        points = answer_of(f"{url}data/plugin/scalars/scalars?tag=metrics%2Floss&run=it%2Ftest")
        seen(
            f"{url}?tagFilter=loss#timeseries",
            tmp_path,
            "tensorboard",
            TAGS | {"/loss", "Tags matching filter"},
        )
    assert set(tags) == TAGS
    with (folder / "runs" / "it" / "metrics.csv").open() as file:
        assert [float(row["test_loss"]) for row in csv.DictReader(file)] == pytest.approx([y for _, _, y in points])
    assert ended(url)


def test_tensorboard_shows_a_run_all_runs_or_all_packages_of_a_bucket(folder: Path, bucket: Bucket) -> None:
    bucket.put("packages/it.zip", (folder / "packages" / "it.zip").read_bytes())
    bucket.put("packages/runs/else.zip", b"of a folder below")
    shown = {
        "--run=it": {"tensorboard/train", "tensorboard/validation", "tensorboard/test"},
        f"--output={bucket.uri}/packages": {"it/train", "it/validation", "it/test"},
    }
    for option, runs in shown.items():
        with look(folder, "tensorboard", option, "--until-stdin-closes") as (process, url):
            assert set(answer_of(f"{url}data/runs")) == runs
            if process.stdin and "gs://" in option:  # it ends with its input, too
                process.stdin.close()
                assert process.wait(timeout=60) == 0
                assert ended(url)
    with viewers.log_folder(run=None, package=None, output=str(folder / "packages")) as logs:
        assert sorted(path.name for path in (logs / "it").iterdir()) == ["test", "train", "validation"]
    assert not logs.exists()


def test_missing_logs_and_packages_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    for given, error in (
        ({"run": "it"}, StorageError),
        ({"run": "../it"}, ConfigError),
        ({"search": "it"}, StorageError),
        ({"search": "../it"}, ConfigError),
        ({"package": "it.zip"}, StorageError),
        ({"package": "x.zip"}, StorageError),
        ({"output": "nowhere"}, StorageError),
        ({}, StorageError),
    ):
        with pytest.raises(error), viewers.log_folder(**given):
            raise AssertionError


def test_a_search_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder := Path("searches/lr/tensorboard")).mkdir(parents=True)
    with viewers.log_folder(search="lr") as logs:
        assert logs == folder


@needs_browser
@needs_jupyter
def test_a_notebook_opens_with_its_token_and_not_without(folder: Path, tmp_path: Path) -> None:
    with look(folder, "notebook") as (_, url):
        assert is_alone_here(url)
        bare, _, token = url.partition("?token=")
        contents = f"{bare.partition('/lab')[0]}/api/contents"
        assert len(token) >= 32
        assert (status(contents), status(contents, Authorization="token x")) == (403, 403)
        assert status(contents, Authorization=f"token {token}") == 200
        arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert token not in arguments.replace(url, "")
        seen(
            url,
            tmp_path,
            "notebook",
            ("Look into a package", "Nearest neighbours of an item", "it.zip", "load_package"),
        )
        refused = seen(bare, tmp_path, "notebook-without-token", ["Token authentication is enabled"])
    assert "neighbours" not in refused.text
    assert ended(url)


@needs_jupyter
def test_the_example_opens_a_package_plots_and_finds_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat  # noqa: PLC0415 - these two are there where Jupyter is
    from nbclient import NotebookClient  # noqa: PLC0415

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "data" / viewers.EXAMPLE, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder / "packages")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "it.zip with" in shown
    assert "cosine" in shown
    assert len(re.findall(r"^item_\d+ +-?[01]\.\d+", shown, re.MULTILINE)) == 10
    assert any("image/png" in output.get("data", {}) for output in outputs)


@needs_browser
@pytest.mark.skipif(ssh.SSHD is None, reason="this needs sshd: Debian's package openssh-server")
def test_tensorboard_of_another_machine_is_seen_here_and_ends_with_the_connection(
    image: str, script: Path, server: Server, folder: Path, tmp_path: Path
) -> None:
    there = server.folder / "home" / "flatfab"
    shutil.copytree(folder / "runs", there / "runs", dirs_exist_ok=True)
    for way in ("Ctrl-C", "cut"):
        with test_remote.fab(script, tmp_path / way, [server], "tensorboard", "--run=it") as process:
            test_remote.wait_until(lambda way=way: "Press Ctrl-C to stop" in test_remote.output(tmp_path / way), 120)  # type: ignore[misc]
            (url,) = re.findall(r"http://127\S+", test_remote.output(tmp_path / way))
            assert is_alone_here(url)
            if way == "cut":
                server.cut()
                assert process.wait(timeout=60) == 6
                assert "was lost" in test_remote.output(tmp_path / way)
            else:
                seen(f"{url}?tagFilter=loss#timeseries", tmp_path, "tensorboard-remote", ["tensorboard/validation"])
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 0
        assert ended(url)
    test_remote.wait_until(lambda: "trainer.machines.viewers" not in running(), 60)


def running() -> str:
    done = subprocess.run(["docker", "ps", "--no-trunc", "--format", "{{.Command}}"], capture_output=True, check=True)
    return done.stdout.decode()
