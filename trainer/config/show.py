"""Print settings, variants or networks: `python -m trainer.config.show settings|variants|networks|tables`."""

import ast
import json
import os
import typing
from collections.abc import Sequence
from dataclasses import asdict, fields

import networks
from trainer.config import loading, network_settings
from trainer.config.levels import allowed
from trainer.config.net_config import NetConfig
from trainer.runtime.command import add_set, aligned, argument_parser, run_command

VALUE_WIDTH = 40  # longer values push their row to the right instead of all rows


def config_rows(settings: loading.Configuration) -> list[tuple[str, str, str, str]]:
    """(name, value, source, meaning) of every setting; values as in the variant file."""
    meanings = {item.name: item.metadata["meaning"] for item in fields(settings.config)}
    return [
        (name, json.dumps(value, ensure_ascii=False), settings.sources[name], meanings[name])
        for name, value in asdict(settings.config).items()
    ]


def settings_table(network: str | None = None) -> str:
    """A Markdown table of the settings that all networks share, or of the settings that a network adds or changes."""
    cls = network_settings.config_class(network) if network else NetConfig
    kinds, shared = typing.get_type_hints(cls), fields(NetConfig) if network else ()
    lines = ["| setting and default | meaning and allowed values |", "| --- | --- |"]
    for item in fields(cls):
        if item not in shared:
            meaning, values = item.metadata["meaning"], allowed(kinds[item.name], item.metadata)
            lines.append(f"| `{item.name}`<br>`{json.dumps(item.default)}` | {meaning}<br>*{values}* |")
    return "\n".join(lines) + "\n"


def tables() -> str:
    """The settings in `docs/configuration.md`: the shared ones, then the settings of each network."""
    parts = [settings_table()]
    parts += [f"{name} adds:\n\n{settings_table(name)}" for name in networks.names()]
    return "\n".join(parts)


def settings(variant: str, command_line: Sequence[str] = ()) -> str:
    """The settings of a variant under this process's environment and command line."""
    rows = config_rows(loading.load_config(variant, environ=os.environ, command_line=command_line))
    return aligned([("setting", "value", "source", "meaning"), *rows], widest=VALUE_WIDTH)


def variants() -> str:
    """Each variant with its base and its settings."""
    rows = []
    for name, values in loading.variants().items():
        differences = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        rows.append((name, ", ".join(differences) or "the defaults"))
    return aligned([("variant", "settings"), *rows], widest=VALUE_WIDTH)


def registered_networks() -> str:
    """Each network and the first line of its file's docstring, read without the seconds that importing it takes."""
    rows = []
    for name in networks.names():
        text = ast.get_docstring(ast.parse(networks.files()[name].read_text(encoding="utf-8"))) or ""
        rows.append((name, text.partition("\n")[0].removeprefix(f"{name}: ")))
    return aligned([("network", "what it is"), *rows], widest=VALUE_WIDTH)


def main(argv: list[str] | None = None) -> None:
    """Show the settings of a variant, all variants, all networks, or the tables of `docs/configuration.md`."""
    parser = argument_parser("trainer.config.show", main)
    parser.add_argument("what", choices=("settings", "variants", "networks", "tables"))
    parser.add_argument("--variant", default="deep_v1", help="of the settings; default: %(default)s")
    add_set(parser)
    arguments = parser.parse_args(argv)
    shown = {"variants": variants, "networks": registered_networks, "tables": tables}
    print(settings(arguments.variant, arguments.set) if arguments.what == "settings" else shown[arguments.what]())


if __name__ == "__main__":
    run_command(main)
