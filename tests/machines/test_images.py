"""Images built and run by a real Docker engine: same results as outside, no secret inside, nothing left behind."""

import contextlib
import hashlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import numpy as np
import pytest
import requests
from docker.errors import APIError, ImageNotFound, NotFound

from tests.commands import PROGRESS
from tests.project_image import CANARY, PLANTED, Done, base, command, digest_in, started
from tests.scale import many
from tests.servers import package_index
from tests.servers.bucket import Bucket
from tests.servers.registry import Registry, serving
from trainer.machines import container_options, containers, images
from trainer.package import archive as packaging
from trainer.runtime.errors import ConfigError, ResourceError, StorageError
from trainer.training import checkpoint

ROOT = Path(__file__).parents[2]
CODE = "/opt/flatfab"
# Short trainings of models whose shape does not matter.
SHORT = {"NET_EPOCHS": "2"}
LONG = {
    "NET_EPOCHS": "30", "NET_PATIENCE": "null", "NET_HIDDEN_UNITS": "[8]", "NET_TOKENIZER": "regex",
    "NET_CHECKPOINT_MINUTES": "0",
}  # fmt: skip

Tell = Callable[[str, int], None]
Result = tuple[dict[str, bytes], bytes]


def inside(project: Path, folder: Path, *arguments: str, **environment: str) -> Done:
    """A training in the image, by the command of the project script."""
    return command(project, folder, "trainer.machines.containers", "train", *arguments, **environment)


def outside(project: Path, folder: Path, *arguments: str, **environment: str) -> Done:
    """A training without it."""
    return command(project, folder, "trainer", *arguments, **environment)


def with_rows(folder: Path, rows: int = 600) -> Path:
    """A working folder with rows to train on."""
    folder.mkdir(exist_ok=True)
    lines = (ROOT / "data" / "sample_2k.json").read_bytes().splitlines(keepends=True)
    (folder / "rows.json").write_bytes(b"".join(lines[:rows]))
    return folder


def members(package: Path) -> Result:
    """The weights by name, and the metrics. (The headers of the file of weights differ by the version of Python.)"""
    files = packaging.read_package(package)
    with np.load(io.BytesIO(files["weights.npz"]), allow_pickle=False) as weights:
        return {name: array.tobytes() for name, array in weights.items()}, files["metrics.csv"]


def result(folder: Path) -> Result:
    return members(folder / "packages" / "it.zip")


# Same bits


@pytest.fixture(scope="module", params=["deep_v1", "rnn_v1"])
def of_outside(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A network, and the folder in which it was trained outside."""
    folder = with_rows(tmp_path_factory.mktemp("outside"))
    done = outside(project, folder, f"--variant={request.param}", "--data=rows.json", "--run=it", **SHORT)
    assert done.code == 0, done.err
    return request.param, folder


def test_a_mounted_dataset_gives_the_bits_of_a_run_outside(
    of_outside: tuple[str, Path], image: str, project: Path, tmp_path: Path
) -> None:
    network, expected = of_outside
    folder = with_rows(tmp_path / "folder")
    before = (folder / "rows.json").stat()
    done = inside(project, folder, f"--variant={network}", "--data=rows.json", "--run=it", **SHORT)
    assert (done.code, done.err) == (0, "")
    assert "epoch      2" in done.out
    assert result(folder) == result(expected)
    assert (folder / "rows.json").stat() == before
    assert {path.stat().st_uid for path in folder.rglob("*")} == {os.getuid()}
    assert {path.name for path in folder.iterdir()} == {"rows.json", "runs", "packages", "cache"}

    dataset, environment = (
        json.loads(packaging.read_package(folder / "packages" / "it.zip")[name])
        for name in ("dataset.json", "environment.json")
    )
    assert dataset["sets"]["train"]["path"] == "rows.json"
    assert environment["image"] == digest_in(done)
    assert environment["commit"] == git_head(project)
    assert environment["uncommitted_changes"] is False


def git_head(project: Path) -> str:
    head = subprocess.run(["git", "-C", project, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return head.stdout.strip()


def test_a_bucket_gives_the_same_bits_in_an_image_run_by_its_own_user_without_any_rights(
    of_outside: tuple[str, Path], image: str, engine: docker.DockerClient, bucket: Bucket, tmp_path: Path
) -> None:
    """As schedulers run it: nothing but the image, settings and two places."""
    network, expected = of_outside
    bucket.put("rows/rows.json", (expected / "rows.json").read_bytes())
    arguments = [f"--variant={network}", f"--data={bucket.uri}/rows/", f"--output={bucket.uri}/packages", "--run=it"]
    out = engine.containers.run(
        image, arguments, environment=SHORT | {"STORAGE_EMULATOR_HOST": bucket.host}, network_mode="host",
        read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"], remove=True, stderr=True,
    )  # fmt: skip
    assert b"epoch      2" in out
    (tmp_path / "it.zip").write_bytes(bucket.get("packages/it.zip"))
    assert members(tmp_path / "it.zip") == result(expected)


# What a container may


def test_S9_the_trainer_is_nobody_and_writes_nowhere_but_where_it_works(
    image: str, engine: docker.DockerClient
) -> None:
    program = """
import json, os, pathlib
written = []
for folder in ("/work", "/tmp", "/", "/etc", "/usr/local", "/root", "/var/tmp", "/opt/flatfab", "/opt/flatfab/trainer"):
    try:
        pathlib.Path(folder, "probe").touch()
        written.append(folder)
    except OSError:
        pass
print(json.dumps([os.getuid(), os.getgid(), os.getcwd(), written]))
"""
    for rights in ({}, {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}):
        out = engine.containers.run(
            image, ["-c", program], entrypoint=["python"], network_mode="none", remove=True, **rights
        )
        allowed = ["/work", "/tmp"] if rights else ["/work", "/tmp", "/var/tmp"]
        assert json.loads(out) == [10001, 10001, "/work", allowed]


def test_S9_a_training_has_no_rights_that_it_does_not_need(image: str, project: Path, tmp_path: Path) -> None:
    folder = with_rows(tmp_path)
    with running(project, folder) as (process, container):
        config = container.attrs["HostConfig"]
        assert config["ReadonlyRootfs"]
        assert not config["Privileged"]
        assert config["CapDrop"] == ["ALL"]
        assert not config["CapAdd"]
        assert config["SecurityOpt"] == ["no-new-privileges"]
        assert config["PidsLimit"] == container_options.MAX_PROCESSES
        assert container.attrs["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"
        mounts = {mount["Destination"]: mount["RW"] for mount in container.attrs["Mounts"] if mount["Type"] == "bind"}
        assert mounts == {
            str(folder / "rows.json"): False,
            str(folder / "runs"): True,
            str(folder / "cache"): True,
            str(folder / "packages"): True,
        }
        assert "docker.sock" not in json.dumps(container.attrs)
        healthy = container.exec_run(container.attrs["Config"]["Healthcheck"]["Test"][1:])
        assert healthy.exit_code == 0, healthy.output
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@contextlib.contextmanager
def running(project: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A long training in the image, in the midst of it; its command, and its container."""
    process = started(project, folder, "trainer.machines.containers", "train", "--data=rows.json", "--run=it", **LONG)
    client = images.engine()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch      3"):
                break
        else:
            raise AssertionError(process.communicate()[1])
        (container,) = containers_of(client, folder)
        yield process, container
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def containers_of(client: docker.DockerClient, folder: Path) -> list[Any]:
    """The containers of trainings in a folder."""
    matching = []
    for container in client.containers.list(all=True, filters={"label": container_options.LABEL}, ignore_removed=True):
        with contextlib.suppress(NotFound):
            matching += [container] if container.attrs["Config"]["WorkingDir"] == str(folder) else []
    return matching


# Stop signals


def test_R7_a_run_that_docker_stops_goes_on_in_the_image_and_outside(
    image: str, project: Path, tmp_path: Path, record_property: Tell
) -> None:
    calm = with_rows(tmp_path / "calm")
    done = outside(project, calm, "--data=rows.json", "--run=it", **LONG)
    assert done.code == 0, done.err
    stops = many(1, 10)
    for number in range(stops):
        folder = with_rows(tmp_path / str(number))
        with running(project, folder) as (process, container):
            time.sleep(0.05 * (number // 2))
            container.stop(timeout=30)
            out, err = process.communicate(timeout=60)
            err = PROGRESS.sub("", err)
        assert process.returncode == 75, out + err
        assert err.startswith("Stopped by SIGTERM after ")
        assert err.count("\n") == 1
        last, damaged = checkpoint.load(folder / "runs" / "it" / "checkpoints")
        assert last is not None
        assert not damaged
        done = (outside if number % 2 else inside)(project, folder, "--data=rows.json", "--run=it", **LONG)
        assert (done.code, done.err) == (0, "")
        assert "resume " in done.out
        assert result(folder) == result(calm)
    record_property("stops, each with exit code 75, that ended with the same bits", stops)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_R7_a_signal_to_the_command_reaches_the_trainer_and_leaves_no_container(
    image: str, project: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = with_rows(tmp_path)
    with running(project, folder) as (process, _):
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert PROGRESS.sub("", err).startswith("Stopped by SIGTERM after ")
    assert time.monotonic() - began < 25
    assert containers_of(images.engine(), folder) == []


@pytest.mark.parametrize("number", range(many(1, 10)))
def test_R28_a_command_that_is_killed_leaves_no_container(
    image: str, project: Path, tmp_path: Path, number: int, record_property: Tell
) -> None:
    folder = with_rows(tmp_path)
    with running(project, folder) as (process, _):
        time.sleep(0.05 * number)
        process.kill()
        process.communicate()
    client, end = images.engine(), time.monotonic() + 45
    while containers_of(client, folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert containers_of(client, folder) == []
    assert checkpoint.load(folder / "runs" / "it" / "checkpoints")[0] is not None
    record_property("kills that left a checkpoint and no container", 1)


@pytest.mark.parametrize("number", range(many(1, 10)))
def test_R28_a_build_that_is_killed_leaves_no_container_and_no_image(
    engine: docker.DockerClient, image: str, project: Path, tmp_path: Path, number: int, record_property: Tell
) -> None:
    folder, name = changed_copy(project, tmp_path), f"flatfab-{uuid.uuid4().hex[:12]}:killed"
    dockerfile = (folder / "Dockerfile").read_text(encoding="utf-8")
    (folder / "Dockerfile").write_text(dockerfile.replace("RUN mkdir", f"RUN sleep 600 # {name}\nRUN mkdir"))
    process = started(folder, folder, "trainer.machines.images", "build", f"--tag={name}")
    assert process.stdout is not None
    for line in process.stdout:
        if "Running in" in line:
            break
    short = line.split()[-1]
    time.sleep(0.05 * number)
    process.kill()
    process.communicate()
    end = time.monotonic() + 30
    while is_there(engine, short) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_there(engine, short)
    with pytest.raises(ImageNotFound):
        engine.images.get(name)
    record_property("killed builds that left nothing", 1)


def is_there(client: docker.DockerClient, container: str) -> bool:
    try:
        client.containers.get(container)
    except NotFound:
        return False
    return True


# Builds


def changed_copy(project: Path, folder: Path) -> Path:
    copy = folder / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_a_change_of_code_leaves_the_layer_of_dependencies_as_it_is(
    engine: docker.DockerClient, image: str, project: Path, tmp_path: Path
) -> None:
    copy, name = changed_copy(project, tmp_path), f"flatfab-{uuid.uuid4().hex[:12]}:changed"
    with (copy / "trainer" / "training" / "loop.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    began = time.monotonic()
    done = command(copy, copy, "trainer.machines.images", "build", f"--tag={name}")
    seconds = time.monotonic() - began
    assert done.code == 0, done.err
    print(f"the second build took {seconds:.1f} s")
    before, after = (engine.images.get(one).attrs["RootFS"]["Layers"] for one in (image, digest_in(done)))
    shared = [layer for layer, other in zip(before, after, strict=True) if layer == other]
    assert len(before) - len(shared) == 2  # the code, and what is compiled from it
    engine.images.remove(name)


def test_labels_tell_commit_and_version(engine: docker.DockerClient, image: str, project: Path) -> None:
    labels = engine.images.get(image).labels
    assert labels["org.opencontainers.image.revision"] == git_head(project)
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])


def test_the_image_is_small_and_has_no_compiler_and_no_cache(engine: docker.DockerClient, image: str) -> None:
    size = engine.images.get(image).attrs["Size"]
    print(f"the image has {size:,} bytes, of which {engine.images.get(base()).attrs['Size']:,} are the base's")
    assert size < 2.5e9
    program = """
import os, shutil
leftovers = [name for name in ("gcc", "cc", "g++", "make", "git") if shutil.which(name)]
for folder, folders, files in os.walk("/", topdown=True):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    leftovers += [os.path.join(folder, name) for name in folders if name in (".cache", ".keras", "pip-cache")]
print(leftovers)
"""
    out = engine.containers.run(
        image, ["-c", program], entrypoint=["python"], user="0:0", network_mode="none", remove=True
    )
    assert out.decode().strip() == "[]"


def test_R28_a_build_that_fails_says_where_and_names_no_image(
    engine: docker.DockerClient, image: str, project: Path, tmp_path: Path
) -> None:
    copy, name = changed_copy(project, tmp_path), f"flatfab-{uuid.uuid4().hex[:12]}:failed"
    dockerfile = (copy / "Dockerfile").read_text(encoding="utf-8")
    (copy / "Dockerfile").write_text(dockerfile.replace("RUN mkdir", "RUN echo the reason; exit 9\nRUN mkdir"))
    done = command(copy, copy, "trainer.machines.images", "build", f"--tag={name}")
    assert done.code == 4
    assert "the reason\n" in done.out
    assert re.fullmatch(rf"error: Building {name} from Dockerfile failed: .*returned a non-zero code: 9\n", done.err)
    with pytest.raises(ImageNotFound):
        engine.images.get(name)


def test_the_image_for_gpus_is_the_same_but_where_it_means_to_be_another() -> None:
    cpu, gpu = ((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "Dockerfile.gpu"))
    lines = gpu.replace("requirements-gpu.txt", "requirements.txt").splitlines()[1:]
    only_gpu = [
        "    NVIDIA_VISIBLE_DEVICES=all \\", "    NVIDIA_DRIVER_CAPABILITIES=compute,utility \\",
        "    FLATFAB_GPU=1 \\",
    ]  # fmt: skip
    assert Counter(lines) - Counter(cpu.splitlines()[1:]) == Counter(only_gpu)
    assert [line for line in lines if line not in only_gpu] == cpu.splitlines()[1:]


def test_the_image_for_gpus_refuses_to_train_without_one(
    engine: docker.DockerClient, image: str, project: Path, tmp_path: Path
) -> None:
    """All of Dockerfile.gpu is built; by default on the image without GPU, in place of the 5 GB of CUDA libraries."""
    copy, name = changed_copy(project, tmp_path), f"flatfab-{uuid.uuid4().hex[:12]}:gpu"
    whole = many(False, True)
    arguments = [] if whole else [f"--build-arg=BASE={image}"]
    if not whole:
        for listed in ("requirements-build.txt", "requirements-gpu.txt"):
            (copy / listed).write_text("")
        dockerfile = (copy / "Dockerfile.gpu").read_text(encoding="utf-8")
        (copy / "Dockerfile.gpu").write_text(re.sub(r"(FROM .*)", r"\1\nUSER 0:0", dockerfile))
    done = command(copy, copy, "trainer.machines.images", "build", "--gpu", f"--tag={name}", *arguments)
    assert done.code == 0, done.err
    container = engine.containers.run(name, ["--data=no_such_rows"], detach=True, network_mode="none")
    try:
        assert container.wait()["StatusCode"] == 6
        assert b"error: TensorFlow sees no GPU: there is no /dev/nvidia0" in container.logs()
    finally:
        container.remove(v=True, force=True)
        engine.images.remove(name)


# Secrets


def test_S6_S7_S8_no_secret_is_in_the_context_the_layers_or_the_history(
    engine: docker.DockerClient, image: str, project: Path, tmp_path: Path, record_property: Tell
) -> None:
    """Every layer is looked through; by default of an image whose layer of dependencies, 2 GB, is empty."""
    copy, name = changed_copy(project, tmp_path), f"flatfab-{uuid.uuid4().hex[:12]}:secrets"
    if not many(False, True):
        for listed in ("requirements-build.txt", "requirements.txt"):
            (copy / listed).write_text("")
    mirror = f"http://user:{CANARY}@127.0.0.1:9/simple"
    done = command(
        copy, copy, "trainer.machines.images", "build", f"--tag={name}", f"--build-arg=TOKEN={CANARY}",
        PIP_EXTRA_INDEX_URL=mirror, HTTPS_PROXY=f"http://user:{CANARY}@127.0.0.1:9",
    )  # fmt: skip
    assert done.code == 0, done.err
    names, leaks = files_in_layers(engine.images.get(name).save(chunk_size=2**21))
    metadata = [[one.history(), one.attrs] for one in map(engine.images.get, (name, image))]
    engine.images.remove(name)
    assert leaks == []
    assert len(names) > 5000
    own = {name.removeprefix("opt/flatfab/") for name in names if name.startswith("opt/flatfab/")}
    rooms = {path.parent.name for path in project.glob("trainer/*/__init__.py")}
    code = [*project.glob("networks/*.py"), *project.glob("trainer/*.py")]
    code += [path for room in rooms for path in (project / "trainer" / room).glob("*.py")]
    templates = [*project.glob("trainer/*/templates/*.html")]
    assert {name for name in own if "__pycache__" not in name} == {
        "variant_config.json",
        "data", "data/sample_2k.json", "networks", "trainer",
        *(f"trainer/{room}" for room in rooms),
        *(path.parent.relative_to(project).as_posix() for path in templates),
        *(path.relative_to(project).as_posix() for path in (*code, *templates)),
    }  # fmt: skip
    assert not [name for name in names if Path(name).name in (".env", ".netrc", ".git", "id_rsa", "id_ed25519")]
    assert CANARY not in json.dumps(metadata)
    record_property("files in layers", len(names))


def files_in_layers(saved: Iterator[bytes]) -> tuple[set[str], list[str]]:
    """The names of all files in the layers of a saved image, and of those that contain the secret."""
    names, leaks = set(), []
    with tarfile.open(fileobj=Pieces(saved), mode="r|", bufsize=2**20) as archive:
        for part in archive:
            if not part.isfile():
                continue
            file = archive.extractfile(part)
            assert file is not None
            if not part.name.endswith("layer.tar") and not part.name.startswith("blobs/"):
                leaks += [part.name] if CANARY.encode() in file.read() else []
                continue
            with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=file, mode="r|*") as layer:
                for member in layer:
                    names.add(member.name.removeprefix("./").rstrip("/"))
                    if member.isfile() and member.size < 2**24:
                        content = layer.extractfile(member)
                        assert content is not None
                        leaks += [member.name] if CANARY.encode() in content.read() else []
    return names, leaks


class Pieces(io.RawIOBase):
    """A stream of pieces, to be read as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest = pieces, b""

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < size and (piece := next(self.pieces, b"")):
            self.rest += piece
        read, self.rest = self.rest[:size], self.rest[size:]
        return read


def test_S8_the_context_is_what_the_list_allows(project: Path) -> None:
    lines = (project / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert all(line.startswith("!") and "**" not in line for line in patterns[1:])
    sent = docker.utils.exclude_paths(str(project), patterns, dockerfile="Dockerfile")
    assert not [name for name in sent if name in PLANTED or ".git" in name]
    assert {"requirements.txt", "trainer/__main__.py", "Dockerfile"} <= sent


def test_S7_no_dockerfile_asks_for_a_secret() -> None:
    for name in ("Dockerfile", "Dockerfile.gpu"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(r"^ARG (\w+)", text, re.MULTILINE) == [
            "BASE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "CA_CERTIFICATES", "REVISION", "VERSION"
        ]  # fmt: skip
        assert "ARG PIP" not in text[text.rindex("FROM ") :]  # only the stage that is left behind has them
        assert not re.search(r"secret|token|passw|credential|api_?key|--mount", text, re.IGNORECASE)
        assert not re.search(r"^(ENTRYPOINT|CMD) [^\[]", text, re.MULTILINE)


def test_S9_hadolint_has_no_warning() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if not linter:
        pytest.skip("there is no hadolint for this kind of machine")
    done = subprocess.run(
        [linter, "--no-color", "Dockerfile", "Dockerfile.gpu"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_S6_credentials_come_as_a_file_that_can_only_be_read(
    engine: docker.DockerClient, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(images.NETWORK, "none")
    secret = tmp_path / "key.json"
    secret.write_text(CANARY)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(secret))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    job = containers.training_job([], ["gs://bucket/rows/"], "gs://bucket/packages", gpu=False)
    program = """
import os
path = os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
print(len(open(path).read()), "AWS_SECRET_ACCESS_KEY" in os.environ)
open(path, "a")
"""
    with containers.created(engine, image, job._replace(command=("python", "-c", program))) as container:
        container.start()
        assert container.wait()["StatusCode"] == 1
        assert container.logs(stderr=False).decode() == f"{len(CANARY)} False\n"
        assert b"Read-only file system" in container.logs(stdout=False)
        container.reload()
        assert CANARY not in json.dumps(container.attrs)
    local = containers.training_job([], [], "packages", gpu=False)
    assert not local.mounts  # without a bucket, no credentials

    secret.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        containers.training_job([], ["gs://bucket/rows/"], "packages", gpu=False)


# What is refused


@pytest.mark.parametrize(
    ("host", "code", "words"),
    [
        ("unix:///no/such/socket", 6, "No Docker engine answers at unix:///no/such/socket: No such file"),
        ("unix:///dev/null", 6, "No Docker engine answers at unix:///dev/null: Connection refused"),
        ("tcp://127.0.0.1:1", 2, "is a connection without encryption"),
    ],
)
def test_without_an_engine_one_line_says_so(project: Path, tmp_path: Path, host: str, code: int, words: str) -> None:
    done = inside(project, tmp_path, DOCKER_HOST=host)
    assert done.code == code
    assert words in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_wrong_data_is_refused_before_anything_is_built(project: Path, tmp_path: Path) -> None:
    done = inside(project, tmp_path, "--data=no_such_rows", DOCKER_HOST="unix:///no/such/socket")
    assert done.code == 4
    assert "no_such_rows" in done.err


def test_an_engine_that_cannot_lend_gpus_says_what_to_install(
    engine: docker.DockerClient, project: Path, tmp_path: Path
) -> None:
    if "nvidia" in (engine.info().get("Runtimes") or {}):
        pytest.skip("this engine lends GPUs")
    done = inside(project, tmp_path, "--gpu")
    assert (done.code, done.out) == (6, "")
    assert "NVIDIA Container Toolkit" in done.err
    assert done.err.count("\n") == 1


def test_the_exit_code_and_the_message_are_the_trainers(image: str, project: Path, tmp_path: Path) -> None:
    done = inside(project, tmp_path, "--variant=rnn_v2")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "rnn_v1" in done.err
    assert done.err.count("\n") == 1


def test_a_container_out_of_memory_says_so(
    image: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(container_options, "MEMORY_SHARE", 2**28 / engine.info()["MemTotal"])
    job = containers.Job(("python", "-c", "print(len(bytearray(2**30)))"))
    with pytest.raises(ResourceError, match="Out of memory"):
        containers.run(engine, image, job)


# Datasets and networks


def test_only_what_a_dataset_is_made_of_is_mounted(tmp_path: Path) -> None:
    shards = tmp_path / "above" / "rows"
    shards.mkdir(parents=True)
    for name in ("a.json", "b.json"):
        (shards / name).write_text("{}\n")
    (tmp_path / "above" / "schema.json").write_text("[]")
    assert containers.dataset_paths(str(shards)) == [shards, tmp_path / "above" / "schema.json"]
    assert containers.dataset_paths(str(shards / "*.json")) == [shards, tmp_path / "above" / "schema.json"]
    assert containers.dataset_paths(str(shards / "a.json")) == [shards / "a.json", tmp_path / "above" / "schema.json"]


def test_a_cloud_on_this_machine_needs_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, expected in (
        ("http://127.0.0.1:4443", "host"), ("http://localhost:4443", "host"), ("http://storage:4443", None), ("", None),
    ):  # fmt: skip
        assert container_options.network({"STORAGE_EMULATOR_HOST": host}) == expected
    assert container_options.network({images.NETWORK: "own"}) == "own"


# A terminal


def test_a_shell_is_in_the_image(image: str, project: Path, tmp_path: Path) -> None:
    with on_terminal(project, tmp_path, "shell") as (process, terminal):
        until(terminal, rb"[$#] ")
        os.write(terminal, b"echo uid=$(id -u) $PWD $PYTHONPATH; touch runs/mine; exit 7\n")
        screen = until(terminal, None)
        assert process.wait(timeout=60) == 7
    assert f"uid={os.getuid()} {tmp_path} {CODE}".encode() in screen
    assert (tmp_path / "runs" / "mine").exists()
    assert containers_of(images.engine(), tmp_path) == []


def test_a_shell_needs_a_terminal(image: str, project: Path, tmp_path: Path) -> None:
    done = command(project, tmp_path, "trainer.machines.containers", "shell")
    assert (done.code, done.err) == (2, "error: A shell needs a terminal.\n")


def test_on_a_terminal_the_progress_is_shown_as_a_bar(image: str, project: Path, tmp_path: Path) -> None:
    folder = with_rows(tmp_path, 2000)
    with on_terminal(project, folder, "train", "--data=rows.json", **SHORT) as (process, terminal):
        screen = until(terminal, None)
        assert process.wait(timeout=60) == 0, screen
    assert "━".encode() in screen


@contextlib.contextmanager
def on_terminal(
    project: Path, folder: Path, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command of the copy on a terminal, and that terminal."""
    terminal, end = pty.openpty()
    own = {"PYTHONPATH": str(project), images.NETWORK: "host", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.machines.containers", *arguments], cwd=folder,
        env=os.environ | own | environment, stdin=end, stdout=end, stderr=end, start_new_session=True,
    )  # fmt: skip
    os.close(end)
    try:
        yield process, terminal
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def until(terminal: int, pattern: bytes | None) -> bytes:
    """What a terminal shows, up to where its end matches a pattern, or up to the end of its program."""
    screen, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                screen += os.read(terminal, 65536)
            except OSError:
                return screen
        if pattern and re.search(pattern + rb"$", screen):
            return screen
    raise AssertionError(screen.decode(errors="replace"))


# A registry


@pytest.fixture
def registry() -> Iterator[tuple[str, type[Registry]]]:
    with serving() as running:
        yield running


@pytest.fixture
def small_image(engine: docker.DockerClient, registry: tuple[str, type[Registry]]) -> Iterator[str]:
    name = f"{registry[0]}/team/flatfab:1.0"
    file = io.BytesIO(f"FROM scratch\nLABEL some={uuid.uuid4()}\nENV A=1\n".encode())
    engine.images.build(fileobj=file, tag=name, rm=True)
    yield name
    engine.images.remove(name, force=True)


def test_a_push_prints_the_digest(
    small_image: str, registry: tuple[str, type[Registry]], project: Path, tmp_path: Path
) -> None:
    done = command(project, tmp_path, "trainer.machines.images", "push", f"--tag={small_image}")
    assert done.code == 0, done.err
    manifest = registry[1].stored["/v2/team/flatfab/manifests/1.0"]
    assert f"pushed as sha256:{hashlib.sha256(manifest).hexdigest()}" in done.out


def test_R28_a_registry_that_refuses_or_is_gone_is_reported(
    small_image: str, registry: tuple[str, type[Registry]], project: Path, tmp_path: Path
) -> None:
    registry[1].refuses = True
    done = command(project, tmp_path, "trainer.machines.images", "push", f"--tag={small_image}")
    assert done.code == 4
    assert re.match(r"error: Pushing .* failed: .*denied", done.err)
    done = command(project, tmp_path, "trainer.machines.images", "push", "--tag=127.0.0.1:1/no/image:1")
    assert (done.code, done.err) == (
        4, "error: There is no image 127.0.0.1:1/no/image:1. `fab build --tag=127.0.0.1:1/no/image:1` builds it.\n",
    )  # fmt: skip
    assert isinstance(images.engine_error("Pushing", "denied"), StorageError)


# Mirrors and proxies


def test_a_command_that_builds_by_itself_downloads_from_the_mirror(
    engine: docker.DockerClient, project: Path, tmp_path: Path
) -> None:
    """By https with a certificate of its own and a password, at 127.0.0.1, without a word about the network."""
    copy = changed_copy(project, tmp_path)
    with package_index.serving(tmp_path, CANARY) as index:
        needs_mirror(copy, index)
        mirror = {"PIP_INDEX_URL": index.url, "PIP_CERT": str(index.certificates), images.NETWORK: ""}
        done = command(copy, copy, "trainer.machines.containers", "shell", **mirror)
    assert (done.code, done.err) == (2, "error: A shell needs a terminal.\n"), done.out
    assert index.downloads == [[]]  # once, and no process had the password among its arguments
    assert CANARY not in done.out
    built = engine.images.get(digest_in(done))
    assert CANARY not in json.dumps([built.history(), built.attrs])
    engine.images.remove(built.id, force=True)


def needs_mirror(copy: Path, index: package_index.Index) -> None:
    """Make a copy need one package, which an index alone has."""
    (copy / "requirements-build.txt").write_text("")
    (copy / "requirements.txt").write_text(index.requirement)


@pytest.mark.parametrize(
    ("address", "is_here_alone"),
    [
        ("http://127.0.0.1:3141/simple", True),
        ("http://user:word@localhost:3141", True),
        ("127.0.0.1:3128", True),
        ("socks5://[::1]:1080", True),
        ("https://mirror.example/simple http://127.0.0.2/simple", True),
        ("https://mirror.example/simple", False),
        ("http://10.0.0.7:3128", False),
        ("http://[broken", False),
    ],
)
def test_an_address_of_this_machine_alone_takes_its_network_and_stays_here(
    address: str, is_here_alone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {
        "HTTPS_PROXY": address,
        "PIP_INDEX_URL": address,
        "NO_PROXY": "localhost",
        "PIP_TRUSTED_HOST": "127.0.0.1",
    }
    assert images.downloads(environ, here=True) == (environ, "host" if is_here_alone else None)
    assert images.downloads(environ | {images.NETWORK: "own"}, here=True) == (environ, "own")
    assert images.downloads(environ | {images.NETWORK: "host"}, here=False) == (environ, "host")
    assert capsys.readouterr().out == ""
    others = {name: environ[name] for name in ("NO_PROXY", "PIP_TRUSTED_HOST")}
    assert images.downloads(environ, here=False) == (others if is_here_alone else environ, None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * is_here_alone
    assert not [line for line in lines if address in line]  # it may hold a password


def test_of_certificates_a_build_gets_those_that_are_not_public(tmp_path: Path) -> None:
    public = Path(requests.certs.where()).read_text()
    own = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----"
    key = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\n"
    path = tmp_path / "company.pem"
    for text, expected in ((own, own), (f"{public}{key}# own\n{own}\n", own), (public, None)):
        path.write_text(text)
        assert images.downloads({"PIP_CERT": str(path)}, here=True)[0].get("CA_CERTIFICATES") == expected
    many_own = "\n".join(own.replace("MII", f"MII{number}" * 100) for number in range(400))
    for text, words in ((key, "holds no certificate"), (many_own, "too large for a build")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            images.certificates(str(path))
    with pytest.raises(StorageError, match=r"missing\.pem"):
        images.certificates(str(tmp_path / "missing.pem"))


def test_build_arguments_have_a_value() -> None:
    assert images.build_arguments(["BASE=python:3.12", "A=b=c"]) == {"BASE": "python:3.12", "A": "b=c"}
    for wrong in ("PIP_INDEX_URL", "=x", ""):
        with pytest.raises(ConfigError, match="is not NAME=VALUE"):
            images.build_arguments([wrong])


def test_an_error_of_the_engine_without_a_reason_does_not_quote_the_request() -> None:
    response = requests.Response()
    response.status_code, response.url = 500, f"http://engine/build?buildargs={CANARY}"
    with pytest.raises(StorageError, match="Building it failed: HTTP status 500"), images.engine_errors("Building it"):
        raise APIError(f"500 Server Error for url: {response.url}", response)
