"""Training on other machines: a real sshd on this one, with a real Docker engine behind it if there is one."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import NotFound
from fabric import Config, Connection

from tests.machines.test_images import LONG, needs_mirror
from tests.project_image import CANARY
from tests.scale import many
from tests.servers import package_index
from tests.servers import ssh as ssh_server
from tests.servers.ssh import Server
from trainer.machines import code_archive, detached, remote, remote_docker, ssh
from trainer.machines.remote import TrainRequest
from trainer.machines.remote_docker import connected
from trainer.package import archive as packaging
from trainer.runtime.errors import ConfigError, ResourceError, StorageError, TrainerError

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
EPOCHS = 40
RUN = LONG | {"NET_EPOCHS": str(EPOCHS)}
STOPPED = LONG | {"NET_EPOCHS": "200"}  # lasts longer than the commands that look at it before it is stopped
Tell = Callable[[str, int], None]

pytestmark = pytest.mark.skipif(ssh_server.SSHD is None, reason="these need sshd: Debian's package openssh-server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ssh_server.serving(tmp_path_factory.mktemp("machine")) as running:
        yield running


@pytest.fixture(autouse=True)
def known_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ssh.KNOWN_HOSTS, str(server.known_hosts))


def connection_to(server: Server, **options: Any) -> Connection:
    login = {"key_filename": str(server.user_key), "look_for_keys": False, "allow_agent": False}
    return Connection(server.address, connect_kwargs=login, **options)


def refused(connection: Connection) -> str:
    """Why a connection is refused, in one line."""
    with pytest.raises(TrainerError) as caught:
        ssh.open_connection(connection)
    assert "\n" not in str(caught.value)
    assert not connection.is_connected
    return str(caught.value)


# Host keys and logins


def test_S12_another_host_key_is_refused_before_a_byte_of_the_login(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Tell
) -> None:
    before = server.log().count("userauth-request")
    for number in range(times := many(5, 100)):
        ssh_server.make_key(tmp_path / f"key{number}")
        kind, key, *_ = (tmp_path / f"key{number}.pub").read_text().split()
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
        monkeypatch.setenv(ssh.KNOWN_HOSTS, str(known_hosts))
        message = refused(connection_to(server))
        assert "Another machine may answer" in message
        assert fingerprint(server) in message
    wait_until(lambda: not server.sessions())
    assert server.log().count("Connection from 127.0.0.1") >= times
    assert server.log().count("userauth-request") == before
    record_property("connections to a machine with another key, refused before the login", times)


def fingerprint(server: Server) -> str:
    text = subprocess.run(["ssh-keygen", "-lf", server.folder / "host_key.pub"], capture_output=True, check=True)
    return text.stdout.decode().split()[1]


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_S12_an_unknown_host_key_is_refused_and_the_printed_command_adds_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ssh.KNOWN_HOSTS, str(tmp_path / "known_hosts"))
    before = server.log().count("userauth-request")
    message = refused(connection_to(server))
    assert server.log().count("userauth-request") == before
    assert fingerprint(server) in message
    command = re.search(r"ssh-keyscan .*", message)
    assert command is not None
    subprocess.run(command[0], shell=True, check=True, capture_output=True)
    ssh.open_connection(connection_to(server))


@pytest.mark.parametrize(
    ("form", "is_let_in"),
    [
        ("{key}", True),
        ("# a comment\n\n@cert-authority *.example.com ssh-ed25519 AAAA\n{key}", True),
        ("@revoked {key}\n{key}", False),
        ("@revoked * {only_key}\n{key}", False),
        ("elsewhere,{key}", True),
        ("", False),
    ],
)
def test_S12_known_hosts_files_mean_what_they_mean_to_ssh(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, is_let_in: bool
) -> None:
    line = server.known_hosts.read_text().strip()
    path = tmp_path / "known_hosts"
    path.write_text(form.format(key=line, only_key=line.partition(" ")[2]) + "\n")
    monkeypatch.setenv(ssh.KNOWN_HOSTS, str(path))
    connection = connection_to(server)
    if is_let_in:
        ssh.open_connection(connection)
        assert ssh.run(connection, "echo hello") == (0, "hello\n", "")
    else:
        refused(connection)


def test_S12_hashed_names_work_and_a_broken_line_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known_hosts"
    shutil.copy(server.known_hosts, path)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    assert "127.0.0.1" not in path.read_text()
    monkeypatch.setenv(ssh.KNOWN_HOSTS, str(path))
    ssh.open_connection(connection_to(server))
    path.write_text(path.read_text() + "gpu-1 ssh-ed25519 AAAA!\n")
    assert f"{path}, line 2" in refused(connection_to(server))


def test_S12_a_gateway_needs_a_known_host_key_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_server.serving(tmp_path / "hop") as hop:
        shutil.copy(server.folder / "user_key.pub", hop.folder / "user_key.pub")
        way = f"localhost:{hop.port}"  # fabric takes a hop of the same name for the machine itself
        lines = [
            "Host *",
            "ForwardAgent yes",
            "Host inner",
            "HostName 127.0.0.1",
            f"Port {server.port}",
            f"ProxyJump {way}",
        ]
        (tmp_path / "config").write_text("\n".join(lines))
        config = Config(runtime_ssh_path=str(tmp_path / "config"))
        login = {"key_filename": str(server.user_key), "look_for_keys": False, "allow_agent": False}
        config.connect_kwargs = login

        def through() -> Connection:
            return Connection("inner", user=server.address.partition("@")[0], config=config)

        assert f"port {hop.port}, is not known" in refused(through())
        assert "userauth-request" not in hop.log()
        both = tmp_path / "known_hosts"
        both.write_text(server.known_hosts.read_text() + hop.known_hosts.read_text().replace("127.0.0.1", "localhost"))
        monkeypatch.setenv(ssh.KNOWN_HOSTS, str(both))
        connection = through()
        ssh.open_connection(connection)
        assert connection.gateway.forward_agent is False
        assert ssh.run(connection, 'echo "$SSH_AUTH_SOCK"').out == "\n"


def test_an_unreachable_machine_is_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    ssh_server.make_key(tmp_path / "other")
    other = {"key_filename": str(tmp_path / "other"), "look_for_keys": False, "allow_agent": False}
    assert "refused the login" in refused(Connection(server.address, connect_kwargs=other))
    assert "cannot be reached" in refused(Connection(f"me@127.0.0.1:{ssh_server.free_port()}"))
    assert "cannot be reached" in refused(Connection("me@machine.invalid"))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        message = refused(Connection(f"me@127.0.0.1:{deaf.getsockname()[1]}", connect_kwargs={"banner_timeout": 0.5}))
    assert "cannot be reached" in message
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", tmp_path / "other"], check=True)
    assert "has a passphrase" in refused(Connection(server.address, connect_kwargs=other))


@pytest.mark.parametrize(
    ("docker_error", "remedy"),
    [
        (None, "Install Docker there"),
        ("permission denied while trying to connect to the Docker daemon socket", "-aG docker"),
        ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", "Start it there"),
        ("something else", "something else"),
    ],
)
def test_a_machine_without_an_engine_is_reported_in_one_line(
    tmp_path: Path, docker_error: str | None, remedy: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "mkdir", "id"):
        (programs / name).symlink_to(str(shutil.which(name)))
    if docker_error:
        (programs / "docker").write_text(f"#!{shutil.which('sh')}\necho '{docker_error}' >&2\nexit 1\n")
        (programs / "docker").chmod(0o755)
    with ssh_server.serving(tmp_path / "machine", PATH=str(programs)) as server:
        os.environ[ssh.KNOWN_HOSTS] = str(server.known_hosts)
        with pytest.raises(ResourceError, match=re.escape(remedy)) as caught, connected(connection_to(server)):
            raise AssertionError
    assert "\n" not in str(caught.value)


# What a user asks for

HOSTILE = (
    "$(touch {canary})", "`touch {canary}`", "; touch {canary}", "x; touch {canary} #", "x\ntouch {canary}",
    "x && touch {canary}", "x | touch {canary}", "-o", "--privileged", "-oProxyCommand=touch {canary}",
    "'; touch {canary}; '", '"; touch {canary}; "', "x' 'y", "../../x", "/etc/passwd", "a/../b", "x y", " x", "x ",
    "x\0y", "x\ty", "\u202ex", "😀", "x" * 101, "", ".", "..", "-", "~", "*", "x>{canary}", "x&touch {canary}&",
    "${{IFS}}touch", "!!", "%0atouch {canary}",
)  # fmt: skip


@pytest.mark.parametrize("option", ["run", "variant", "data", "host"])
def test_S13_hostile_names_are_refused_before_anything_is_sent(option: str, tmp_path: Path) -> None:
    request = TrainRequest(variant="deep_v1", run=None, data={}, output=None)
    take: dict[str, Callable[[str], object]] = {
        "run": lambda name: remote.one_name_each(name, "run", 1),
        "variant": lambda name: remote.plan_runs(request._replace(variant=name), 1),
        "data": lambda name: remote.check_path("--data", name),
        "host": lambda name: remote.check_hosts([name]),
    }
    for form in HOSTILE:
        name = form.format(canary=tmp_path / "canary")
        if (option, form) == ("data", "/etc/passwd") or (option == "host" and len(name) > 100):
            continue  # a path like any other; a long name
        with pytest.raises(ConfigError) as caught:
            take[option](name)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert len(HOSTILE) >= 30


@pytest.mark.parametrize("name", ["gpu-1", "user@gpu-1", "me@10.0.0.7:2222", "a_b@gpu-1.example.com", "[::1]:22"])
def test_machines_as_people_write_them(name: str) -> None:
    remote.check_hosts([name])


@pytest.mark.parametrize(
    ("machines", "options", "words"),
    [
        (2, {"variant": "deep_v1"}, "2 machines take 2 names"),
        (1, {"variant": "deep_v1,rnn_v1"}, "1 machines take 1 names"),
        (2, {"variant": "deep_v1,rnn_v1", "run": "a"}, "--run: 2 machines"),
        (2, {"variant": "deep_v1,rnn_v1", "run": "a,a"}, "have the same name"),
        (1, {"variant": "deep_v2"}, "no variant 'deep_v2'"),
        (1, {"data": {"test_data": "rows/"}}, "--test-data"),
    ],
)
def test_options_that_do_not_fit_the_machines_are_refused(machines: int, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        remote.plan_runs(
            TrainRequest(**({"variant": "deep_v1", "run": None, "data": {}, "output": None} | options)), machines
        )


def test_a_run_for_each_machine_has_settings_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NET_EPOCHS", "3")
    monkeypatch.setenv("MY_TOKEN", CANARY)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", CANARY)
    data = {"data": "gs://bucket/rows/", "test_data": None}
    first, second = remote.plan_runs(TrainRequest("deep_v1,rnn_v1", "a,b", data, "here", gpu=True, restart=True), 2)
    assert first.arguments == [
        "--variant=deep_v1", "--run=a", "--data=gs://bucket/rows/", "--restart", "--output=packages",
    ]  # fmt: skip
    assert (second.name, second.arguments[0], second.output, second.gpu) == ("b", "--variant=rnn_v1", "here", True)
    assert first.environment["NET_EPOCHS"] == "3"
    assert first.environment["FLATFAB_GPU"] == "1"
    assert CANARY not in str((first, second))


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ("/data/team/rows", "/data/team"),  # where schema.json may be
        ("/data/team/rows.json", "/data/team"),
        ("/data/team/rows-*.json", "/data/team"),
        ("/data/team/*/x.json", "/data/team"),
        ("/data/rows/", "/data/rows"),
        ("/rows.json", "/rows.json"),
    ],
)
def test_of_another_machine_a_run_sees_its_rows_alone(place: str, seen: str) -> None:
    assert detached.dataset_folder(place) == seen


# What is sent


def names_in(context: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        return {one.name: file.read() for one in tar if (file := tar.extractfile(one))}


def test_the_commit_is_sent_or_the_files_as_they_are_and_never_a_secret(project: Path) -> None:
    own = project.parent / "copy"
    shutil.copytree(project, own)
    new, changed = own / "networks" / "new.py", own / "trainer" / "runtime" / "errors.py"
    assert not code_archive.uncommitted(own)
    new.write_text("new")
    changed.write_text("changed")
    assert code_archive.uncommitted(own)
    clean, dirty = (names_in(code_archive.archive(own, dirty=dirty)) for dirty in (False, True))
    assert dirty.keys() - clean.keys() == {"networks/new.py"}
    assert clean.keys() <= dirty.keys()
    assert (dirty["trainer/runtime/errors.py"], clean["trainer/runtime/errors.py"]) == (
        b"changed",
        (project / "trainer" / "runtime" / "errors.py").read_bytes(),
    )
    assert {
        "Dockerfile",
        "Dockerfile.gpu",
        "requirements.txt",
        "trainer/__main__.py",
        "trainer/package/templates/page.html",
        "data/sample_2k.json",
    } <= clean.keys()
    secret = "trainer/inner/key.py", CANARY.encode()
    assert not [name for name, data in clean.items() if secret[1] in data or ".git/" in name]
    # A Python file deep in trainer/ is code as far as anybody can tell; every other planted file stays.
    assert {name for name, data in dirty.items() if secret[1] in data} <= {secret[0]}


def test_no_commit_is_no_code(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    with pytest.raises(ConfigError, match="Commit it first"):
        code_archive.archive(tmp_path, dirty=False)


# The whole way, with a real engine


@pytest.fixture(scope="module")
def script(project: Path) -> Path:
    """The copy of the project with its script."""
    shutil.copy2(ROOT / "fabfile.py", project / "fabfile.py")
    return project


@contextlib.contextmanager
def fab(
    script: Path, folder: Path, servers: list[Server], *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the project script, on its way; its output goes to `folder`/output."""
    folder.mkdir(exist_ok=True)
    (folder / "known_hosts").write_text("".join(server.known_hosts.read_text() for server in servers))
    where = ["-r", str(script), "-H", ",".join(server.address for server in servers)]
    keys = [option for server in servers for option in ("-i", str(server.user_key))]
    own = {ssh.KNOWN_HOSTS: str(folder / "known_hosts"), "PYTHONPATH": str(script), "FLATFAB_DOCKER_NETWORK": "host"}
    with (folder / "output").open("wb") as file:
        process = subprocess.Popen(
            [FAB, *where, *keys, *arguments], cwd=folder, env=os.environ | own | environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def done(script: Path, folder: Path, servers: list[Server], *arguments: str, **environment: str) -> tuple[int, str]:
    """The same, to its end: exit code and output."""
    with fab(script, folder, servers, *arguments, **environment) as process:
        code = process.wait(timeout=300)
    return code, output(folder)


def output(folder: Path) -> str:
    return (folder / "output").read_text()


def epochs(folder: Path) -> list[int]:
    """The epochs that a command has shown."""
    return [int(number) for number in re.findall(r"^epoch +(\d+) ", output(folder), re.MULTILINE)]


def weights(folder: Path, run: str) -> bytes:
    return packaging.read_package(folder / "packages" / f"{run}.zip")["weights.npz"]


@pytest.fixture
def run(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Iterator[str]:
    """The name of a run whose containers are removed at the end."""
    name = f"test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    for container in engine.containers.list(all=True, filters={"label": detached.RUN}):
        if container.name.startswith(f"flatfab-{name}"):
            container.remove(force=True, v=True)


def test_R29_a_run_outlives_its_connections_and_is_never_doubled(
    image: str,
    script: Path,
    server: Server,
    engine: docker.DockerClient,
    run: str,
    tmp_path: Path,
    record_property: Tell,
) -> None:
    times = many(1, 10)
    cuts = sum(outlives(script, server, engine, f"{run}-{number}", tmp_path / str(number)) for number in range(times))
    record_property("runs, each with one container and one log", times)
    record_property("connections cut", cuts)


def outlives(script: Path, server: Server, engine: docker.DockerClient, run: str, folder: Path) -> int:
    """A run whose connections are cut, and which somebody else wants to begin meanwhile; returns how many were cut."""
    cuts, command, beside = 0, ["train", f"--run={run}"], folder.with_name(f"{folder.name}-beside")
    with fab(script, folder, [server], *command, **RUN) as first:
        for epoch in (1, 4, 8):
            wait_until(lambda epoch=epoch: epoch in epochs(folder) or first.poll() is not None, 200)  # type: ignore[misc]
            cuts += server.cut()
        with fab(script, beside, [server], *command, **RUN) as second:
            wait_until(lambda: "already" in output(beside) or second.poll() is not None)
            cuts += server.cut()
            assert (first.wait(timeout=200), second.wait(timeout=200)) == (0, 0), output(folder) + output(beside)
    (container,) = engine.containers.list(all=True, filters={"label": f"{detached.RUN}={run}"})
    assert container.attrs["State"]["ExitCode"] == container.attrs["RestartCount"] == 0
    whole = list(range(1, EPOCHS + 1))
    assert (epochs(folder), epochs(beside)) == (whole, whole)  # no line is lost, none comes twice
    assert container.logs().count(b"\nepoch ") == EPOCHS
    assert output(folder).count("connecting again") >= 3
    assert weights(folder, run) == weights(beside, run)
    return cuts


def test_ctrl_c_leaves_the_run_alone_and_it_can_be_stopped_and_gone_on_with(
    image: str,
    script: Path,
    server: Server,
    engine: docker.DockerClient,
    run: str,
    tmp_path: Path,
) -> None:
    with fab(script, tmp_path / "first", [server], "train", f"--run={run}", **STOPPED) as process:
        wait_until(lambda: 3 in epochs(tmp_path / "first") or process.poll() is not None, 200)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 75
    assert f"attach --run={run}` shows the log" in output(tmp_path / "first")
    container = engine.containers.get(f"flatfab-{run}")
    assert container.status == "running"
    assert container.labels[detached.RUN] == run
    assert {CANARY, "/var/run/docker.sock"}.isdisjoint(json.dumps(container.attrs).split('"'))
    limits = container.attrs["HostConfig"]
    assert (limits["ReadonlyRootfs"], limits["CapDrop"], limits["Privileged"]) == (True, ["ALL"], False)

    with fab(script, tmp_path / "attached", [server], "attach", f"--run={run}") as attached:
        code, text = done(script, tmp_path / "status", [server], "status")
        assert (code, re.findall(rf"{run}: running since", text)) == (0, [f"{run}: running since"])
        code, text = done(script, tmp_path / "anew", [server], "train", f"--run={run}", "--restart", **STOPPED)
        assert code == 4
        assert "Stop it first" in text
        wait_until(lambda: 3 in epochs(tmp_path / "attached"))
        assert done(script, tmp_path / "stop", [server], "stop", f"--run={run}")[0] == 0
        assert attached.wait(timeout=60) == 75
    assert "Stopped by SIGTERM" in output(tmp_path / "attached")
    assert "exit code 75" in done(script, tmp_path / "status", [server], "status")[1]

    code, text = done(script, tmp_path / "second", [server], "train", f"--run={run}", **STOPPED)
    assert code == 0, text
    assert epochs(tmp_path / "second")[-1] == int(STOPPED["NET_EPOCHS"])
    assert epochs(tmp_path / "second")[0] > 3
    assert {path.stat().st_uid for path in (server.folder / "home" / "flatfab").rglob("*")} == {os.getuid()}
    code, text = done(script, tmp_path / "again", [server], "attach", f"--run={run}")
    assert (code, weights(tmp_path / "again", run)) == (0, weights(tmp_path / "second", run))

    assert done(script, tmp_path / "stop", [server], "stop", f"--run={run}", "--remove")[0] == 0
    with pytest.raises(NotFound):
        engine.containers.get(f"flatfab-{run}")
    code, text = done(script, tmp_path / "attached", [server], "attach", f"--run={run}")
    assert (code, f"has no run {run}" in text) == (4, True)


def test_several_machines_train_a_variant_each(
    image: str,
    script: Path,
    server: Server,
    engine: docker.DockerClient,
    run: str,
    tmp_path: Path,
) -> None:
    """From a place there that a shell would stumble over."""
    with ssh_server.serving(tmp_path / "other") as other:
        shutil.copy(server.folder / "user_key.pub", other.folder / "user_key.pub")
        shutil.copy(server.user_key, other.user_key)
        rows = tmp_path / f"$(touch {tmp_path.name}); 'x" / "rows.json"
        rows.parent.mkdir()
        rows.write_bytes((ROOT / "data" / "sample_2k.json").read_bytes())
        code, text = done(script, tmp_path / "w", [server, other], "train", "--variant=deep_v1", f"--run={run}")
        assert (code, "2 machines take 2 names" in text) == (2, True)
        assert "Accepted publickey" not in other.log()
        runs = [f"{run}-a", f"{run}-b"]
        code, text = done(
            script, tmp_path / "w", [server, other], "train", "--variant=deep_v1,rnn_v1", f"--run={','.join(runs)}",
            f"--data={rows}", "--output=here", NET_EPOCHS="2", MY_TOKEN=CANARY,
        )  # fmt: skip
        assert code == 0, text
        for machine_, name, network in zip((server, other), runs, ("deep_v1", "rnn_v1"), strict=True):
            package = packaging.read_package(tmp_path / "w" / "here" / f"{name}.zip")
            assert json.loads(package["config.json"])["network"] == network
            assert json.loads(package["dataset.json"])["sets"]["train"]["path"] == str(rows)
            assert f"[{machine_.address}] epoch      2" in text
            assert (machine_.folder / "home" / "flatfab" / "packages" / f"{name}.zip").exists()
            assert CANARY not in json.dumps(engine.containers.get(f"flatfab-{name}").attrs)
    assert not list(Path.cwd().glob(tmp_path.name))
    assert not list((server.folder / "home").glob(tmp_path.name))


def test_the_exit_code_is_that_of_the_trainer(
    image: str,
    script: Path,
    server: Server,
    run: str,
    tmp_path: Path,
) -> None:
    code, text = done(script, tmp_path / "w", [server], "train", f"--run={run}", NET_EPOCHS="none")
    assert (code, "NET_EPOCHS" in text) == (2, True)
    assert not (tmp_path / "w" / "packages").exists()


def test_a_build_there_downloads_from_the_mirror_and_shows_no_password(
    script: Path, server: Server, engine: docker.DockerClient, run: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(script, copy)
    with package_index.serving(tmp_path, CANARY) as index:
        needs_mirror(copy, index)
        code, text = done(
            copy, tmp_path / "w", [server], "train", f"--run={run}", "--dirty", PIP_INDEX_URL=index.url,
            PIP_CERT=str(index.certificates),
        )  # fmt: skip
    assert f"{run} runs on" in text, (code, text)  # and ends at once: it has no other package
    assert index.downloads == [[]]  # once, and no process had the password among its arguments
    assert CANARY not in text + server.log()
    assert CANARY not in json.dumps(engine.containers.get(f"flatfab-{run}").attrs)


def test_a_machine_without_gpu_says_so_and_a_run_of_others_is_theirs(
    image: str,
    server: Server,
    engine: docker.DockerClient,
    run: str,
) -> None:
    remote_run = detached.RemoteRun(run, ["--run", run], "packages", True, [], {})
    with connected(connection_to(server)) as there:
        if "nvidia" not in engine.info().get("Runtimes", {}):
            with pytest.raises(ResourceError, match="NVIDIA Container Toolkit"):
                detached.start(there, remote_run, image)
            assert detached.find(there, run) is None
        detached.create(there, remote_run._replace(gpu=False), image)
        assert detached.states(there) == [f"{run}: never started"]
        assert detached.states(there._replace(folder="/home/other/flatfab")) == []
        with pytest.raises(StorageError, match="Another user of that machine"):
            detached.find(there._replace(folder="/home/other/flatfab"), run)


def test_a_connection_that_does_not_come_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_docker, "RETRY_SECONDS", 1.0)
    with ssh_server.serving(tmp_path / "machine") as server:
        monkeypatch.setenv(ssh.KNOWN_HOSTS, str(server.known_hosts))
        connection = connection_to(server)
        ssh.open_connection(connection)
    connection.transport.join(timeout=10)
    lost = remote_docker.ConnectionLostError("The connection to it was lost.")
    with pytest.raises(remote_docker.ConnectionLostError, match="was lost"):
        remote_docker.reconnect(connection, lost)
