"""The command line of `fab`: mistakes are explained, commands have groups, options are written out."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from invoke import Collection

import fabfile
from tests.commands import ROOT, Done

FAB = Path(sys.executable).with_name("fab")
TASKS = Collection.from_module(fabfile)


def fab(*words: str) -> Done:
    done = subprocess.run([FAB, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("trian",), ("fab has no command trian. Did you mean 'train'?", "fab --list")),
        (("train", "rnn_v1"), ("fab has no command rnn_v1.",)),
        (("train", "--varaint=x"), ("fab train has no option --varaint. Did you mean --variant?", "Usage: fab train")),
        (("train", "--learning-rate=0.1"), ("It is a setting: --set learning_rate=VALUE",)),
        (("train", "--lr=0.1"), ("Settings are changed with --set NAME=VALUE",)),
        (
            ("evaluate",),
            ("fab evaluate needs --package and --data.", "Usage: fab evaluate --package=PACKAGE --data=DATA"),
        ),
        (("evaluate", "--data=x"), ("fab evaluate needs --package.",)),
        (("evaluate", "--data"), ("--data needs a value.", "Usage: fab evaluate")),
        (("--help", "trein"), ("fab has no command trein. Did you mean 'train'?",)),
        (("--nonsense",), ("fab has no option --nonsense.",)),
        (("train", "-v", "rnn_v1"), ("fab train has no option -v.",)),
    ],
)
def test_a_mistake_is_explained_and_ends_with_2(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    done = fab(*words)
    assert (done.code, done.out) == (2, "")
    for part in parts:
        assert part in done.err
    assert "Traceback" not in done.err


def test_help_of_a_command_needs_none_of_its_options() -> None:
    for words in (("evaluate", "--help"), ("--help", "evaluate")):
        done = fab(*words)
        assert (done.code, done.err) == (0, "")
        assert "--package=STRING" in done.out


def test_the_list_has_each_command_once_in_a_group() -> None:
    listed = [name for names in fabfile.GROUPS.values() for name in names]
    assert sorted(listed) == sorted(TASKS.task_names)
    done = fab("--list")
    assert (done.code, done.err) == (0, "")
    assert fab().out == done.out
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 120
    assert [line for line in lines[1:] if line and not line.startswith(" ")] == list(fabfile.GROUPS)
    assert [line.split()[0] for line in lines if line.startswith("  ")] == listed


def test_options_have_no_short_form_and_a_meaning() -> None:
    tasks = Collection.from_module(importlib.reload(fabfile))
    for name in tasks.task_names:  # anew, since a parser takes the help out of a task
        task = tasks[name]
        parameters = list(inspect.signature(task.body).parameters)[1:]
        assert {parameter.strip("_").replace("_", "-") for parameter in parameters} == set(task.help), name
        assert all(len(flag) > 1 for argument in task.get_arguments() for flag in argument.names), name
