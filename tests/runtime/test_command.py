"""Every end of a command has its exit code, and every expected fault one message."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from trainer.runtime import errors
from trainer.runtime.command import printable, say, say_file


def command(body: str, **streams: object) -> subprocess.CompletedProcess[str]:
    """A process whose main function is `body`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = (
        "import os, signal, time\n"
        + "from trainer.runtime import errors\nfrom trainer.runtime.command import run_command\n"
    )
    code += f"def main():\n{lines}run_command(main)\n"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, check=False, **streams)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("DataError", 3),
        ("StorageError", 4),
        ("DivergedError", 5),
        ("ResourceError", 6),
        ("Interrupted", 75),
    ],
)
def test_an_expected_fault_is_one_message_and_its_code(name: str, code: int) -> None:
    done = command(f"print('working')\nraise errors.{name}('rows.json, line 3: broken. Mend it.')")
    assert (done.returncode, done.stdout, done.stderr) == (
        code,
        "working\n",
        "error: " * (name != "Interrupted") + "rows.json, line 3: broken. Mend it.\n",
    )
    assert f"{name}" in str(errors.__doc__)


def test_every_kind_of_fault_has_a_code_of_its_own_that_is_documented() -> None:
    kinds = [*errors.TrainerError.__subclasses__(), errors.Interrupted]
    assert len({kind.exit_code for kind in kinds} | {0, 1}) == len(kinds) + 2
    for kind in kinds:
        assert any(kind.__name__ in line and f" {kind.exit_code} " in line for line in str(errors.__doc__).splitlines())


def test_work_that_is_done_ends_with_0() -> None:
    done = command("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("bug", ["1 / 0", "{}['key']", "open('/nowhere/at/all')", "assert False"])
def test_our_own_bug_ends_with_1_and_shows_where(bug: str) -> None:
    done = command(bug)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith(
        "This is a bug in the trainer or in a network's file; please report it with the lines above.\n"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise MemoryError", "Out of memory"),
        ("bytearray(2**60)", "Out of memory"),
        ("open('/dev/full', 'w', buffering=1).write('x\\n')", "No space left on the disk"),
        ("raise OSError(122, 'Disk quota exceeded', '/data/run.zip')", "No space left on the disk of /data/run.zip"),
        ("class ResourceExhaustedError(Exception): pass\nraise ResourceExhaustedError('OOM')", "Lower batch_size"),
        (
            "class ResourceExhaustedError(Exception): pass\nraise ResourceExhaustedError('x; No space left on device')",
            "No space left while writing x: ",
        ),
    ],
)
def test_memory_or_disk_used_up_ends_with_6(fault: str, words: str) -> None:
    done = command(fault)
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_ends_with_75_after_what_has_to_be_undone(number: signal.Signals, name: str) -> None:
    body = f"try:\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(60)\nfinally:\n    print('undone')"
    done = command(body)
    assert (done.returncode, done.stdout) == (75, "undone\n")
    assert done.stderr == f"Stopped by {name}; no package was written. Start it again.\n"


def test_a_reader_that_goes_away_ends_a_command_as_it_ends_others() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = command("for _ in range(9):\n    print('line', flush=True)", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_output_that_does_not_fit_on_the_disk_is_not_done() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = command("print('line')", stdout=full)
    assert done.returncode == 6
    assert "No space left on the disk of the output" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_closed_output_is_no_fault() -> None:
    code = "from trainer.runtime.command import run_command\nrun_command(lambda: print('line'))"
    shell = ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, code]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HOSTILE = "a\x1b[2J\x1b]0;title\x07\nerror: fake\r\u202etxt\u2028\ud800.json"
HARMLESS = r"a\x1b[2J\x1b]0;title\x07\nerror: fake\r\u202etxt\u2028\ud800.json"


def test_no_name_of_a_file_or_a_column_reaches_the_terminal_as_it_is() -> None:
    name = ascii(HOSTILE)
    begin = f"from trainer.runtime.command import argument_parser, say\nname = {name}\nsay('data', name)\n"
    ends = {
        "raise errors.DataError(f'{name} is empty.')": (3, f"error: {HARMLESS} is empty."),
        "raise ValueError(name)": (1, f"ValueError: {HARMLESS}"),
        "argument_parser('module', main).parse_args(['--' + name])": (2, f"unrecognized arguments: --{HARMLESS}"),
    }
    for body, (code, message) in ends.items():
        done = command(begin + body)
        assert (done.returncode, done.stdout) == (code, f"data     {HARMLESS}\n")
        assert message in done.stderr
        assert all(line.isprintable() for line in done.stderr.splitlines())
        assert not [line for line in done.stderr.splitlines() if line.startswith("error: fake")]


def test_text_of_every_script_is_printed_as_it_is_where_the_terminal_can() -> None:
    assert command("from trainer.runtime.command import say\nsay('data', '漢字 é 🙂')").stdout == "data     漢字 é 🙂\n"
    narrow = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = command("from trainer.runtime.command import say\nsay('data', 'é')", env=narrow)
    assert (done.returncode, done.stdout) == (0, "data     \\xe9\n")


def test_a_file_is_a_link_on_a_terminal_and_a_plain_path_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "a b\n" / "report.html"
    say_file("report", path)
    plain = capsys.readouterr().out
    assert plain == f"report   {printable(str(path))}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    say_file("report", path)
    assert capsys.readouterr().out == plain
    monkeypatch.setenv("TERM", "xterm")
    say_file("report", path)
    address = f"file://{tmp_path}/a%20b%0A/report.html"
    assert capsys.readouterr().out == f"report   \x1b]8;;{address}\x1b\\{printable(str(path))}\x1b]8;;\x1b\\\n"


def test_a_warning_has_the_width_of_a_terminal_and_is_one_line_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"Column 'shop' is missing in 40% of the rows. Check {'x' * 50}. " * 3
    say("warning", text)
    assert capsys.readouterr().out == f"warning  {text}\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    say("warning", text)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("warning  Column 'shop'")
    assert len(others) >= 5
    assert all(line.startswith(" " * 9) and not line[9].isspace() for line in others)
    assert max(map(len, [first, *others])) <= 60
    assert " ".join([first[9:], *(line.strip() for line in others)]) == text.strip()
    say("epoch", text)
    assert capsys.readouterr().out == f"epoch    {text}\n"
