"""How `fab` reads its command line and starts programs: commands in groups, and mistakes explained, with exit code 2.

Fabric runs one program object, which imports the fabfile; `use` makes it this kind.
"""

import contextlib
import importlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import fabric.main
from fabric import Connection
from invoke.exceptions import Exit, ParseError

from trainer.runtime.errors import did_you_mean
from trainer.runtime.signals import ending_with_parent

ROOT = Path(__file__).parents[2]

UNKNOWN = re.compile(r"No idea what '(.*)' is!")
NO_VALUE = re.compile(r"Flag <Argument: ([\w-]+).*> needed value")
WIDTH = 14  # of the column of commands


def use(groups: Mapping[str, Sequence[str]]) -> None:
    """Let the running `fab` explain itself. groups: the commands by what they are for, in the order of `fab --list`."""
    Commands.groups = groups
    fabric.main.program.__class__ = Commands


class Commands(fabric.main.Fab):
    """Fabric's program with a list of commands by group, and messages that say what to do."""

    groups: Mapping[str, Sequence[str]] = {}

    def parse_tasks(self) -> None:
        """Parse the commands and their options."""
        with self.explained():
            super().parse_tasks()
            for task in [] if self.args.help.value else self.tasks:
                missing = [f"--{name}" for name in self.required(task.name) if task.args[name].value is None]
                if missing:
                    raise Exit(f"fab {task.name} needs {' and '.join(missing)}.\n{self.usage(task.name)}", code=2)

    def parse_cleanup(self) -> None:
        """Print help or the list, if asked for."""
        with self.explained():
            super().parse_cleanup()

    def no_tasks_given(self) -> None:
        """Show what there is."""
        if not self._remainder_only:
            self.list_flat()
            raise Exit

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of the parser into a message with a suggestion and the usage."""
        try:
            yield
        except ParseError as error:
            raise Exit(self.explanation(error), code=2) from None
        except BrokenPipeError:  # the reader has closed our output, as `head` does
            os._exit(128 + signal.SIGPIPE)

    def explanation(self, error: ParseError) -> str:
        """What is wrong with the command line, and what to write instead."""
        task = error.context.name if error.context else None
        unknown, no_value = UNKNOWN.search(str(error)), NO_VALUE.search(str(error))
        if unknown and unknown[1].startswith("-") and task:
            return (
                f"fab {task} has no option {unknown[1]}. {self.hint(task, unknown[1])}".rstrip()
                + f"\n{self.usage(task)}"
            )
        if unknown:
            what = "option" if unknown[1].startswith("-") else "command"
            hint = near(unknown[1], [name for names in self.groups.values() for name in names])
            return f"fab has no {what} {unknown[1]}. {hint}".rstrip() + f"\n{self.usage()}"
        if no_value:
            return f"--{no_value[1]} needs a value.\n{self.usage(task)}"
        return f"{error}\n{self.usage(task)}"

    def hint(self, task: str, option: str) -> str:
        """The option that was meant: one of the command, or a setting."""
        names, name = self.parser.contexts[task].args, option.lstrip("-")
        if suggestion := near(name, names):
            return suggestion.replace("'", "--", 1).replace("'", "")
        if "set" not in names:
            return ""
        if (setting := name.replace("-", "_")) in setting_names():
            return f"It is a setting: --set {setting}=VALUE"
        return "Settings are changed with --set NAME=VALUE; `fab config` lists them."

    def usage(self, task: str | None = None) -> str:
        """How to write a command, or where all are listed."""
        if not task:
            return "`fab --list` shows all commands, `fab --help COMMAND` the options of one."
        required = self.required(task)
        options = [f"--{name}={name.upper()}" for name in required]
        more = " [--OPTION=VALUE ...]" if len(self.parser.contexts[task].args) > len(required) else ""
        return f"Usage: {' '.join(['fab', task, *options])}{more}\n`fab --help {task}` explains the options."

    def required(self, task: str) -> list[str]:
        """The options that a command needs."""
        parameters = list(inspect.signature(self.collection[task].body).parameters.values())[1:]
        optional = self.collection[task].iterable
        return [
            parameter.name.strip("_").replace("_", "-")
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.name not in optional
        ]

    def list_flat(self) -> None:
        """Print the commands by group, with the first sentence of each docstring."""
        print("fab COMMAND --option=value    (`fab --help COMMAND` explains a command)")
        for group, names in self.groups.items():
            print(f"\n{group}")
            for name in names:
                print(f"  {name:<{WIDTH}} {sentence(self.collection[name])}")
        print()


def call(*command: str | Path, cwd: Path | None = None, **variables: str) -> None:
    """Run a command on this terminal, which gets stop signals, and ends with this process; if it fails, exit with its
    exit code."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables  # so that it works from any folder
    child = subprocess.Popen(  # no other thread runs that could disturb preexec_fn
        list(command),
        cwd=cwd,
        env=env,
        process_group=0,
        preexec_fn=ending_with_parent(),  # noqa: PLW1509
    )
    handlers_before = {
        number: signal.signal(number, lambda received, _: child.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    code = child.wait()
    for number, handler in handlers_before.items():
        signal.signal(number, handler)
    if code:
        raise Exit(code=code if code > 0 else 128 - code)


def python(*arguments: str | Path, **options: str | None) -> None:
    """Run Python with arguments, and with the options that have a value: test_data="x" becomes --test-data=x."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value]
    call(sys.executable, *arguments, *flags)


def remote(c: Any, module: str = "trainer.machines.remote") -> ModuleType:
    """Import the module that works on other machines, which takes a second. Without -H, exit with code 2."""
    if not isinstance(c, Connection):
        raise Exit("This task needs a machine: fab -H user@machine TASK", code=2)
    return importlib.import_module(module)


def show(c: Any, viewer: str, port: str | None, **options: str | None) -> None:
    """Show TensorBoard or JupyterLab in a browser on this machine; with -H for the runs of another machine."""
    if not isinstance(c, Connection):
        return python("-m", "trainer.machines.viewers", viewer, port=port, **options)
    arguments = [f"--{name}={value}" for name, value in options.items() if value]
    return remote(c, "trainer.machines.remote_viewers").show(c, viewer, arguments, port)


def sentence(task: Any) -> str:
    """The first sentence of a command's docstring, without the example."""
    first = (inspect.getdoc(task) or "").partition("\n")[0]
    return re.split(r":? (?=fab )|(?<=\.) ", first)[0].rstrip(".:")


def near(name: str, names: Sequence[str] | Mapping[str, Any]) -> str:
    """A suggestion if one of the names is similar, else ""."""
    suggestion = did_you_mean(name, names)
    return suggestion if suggestion.startswith("Did") else ""


def setting_names() -> set[str]:
    """The settings of all networks."""
    import networks  # noqa: PLC0415 - only to explain a mistake
    from trainer.config.network_settings import config_class  # noqa: PLC0415

    return {item.name for name in networks.names() for item in fields(config_class(name))}
