"""The settings that a network declares: the class `Config` of its file.

A network's file imports Keras, which takes seconds, but its settings rarely need that. So `Config` is evaluated with
the constants of the file alone, where Keras is not imported anyway; a class that needs more takes the full import.
"""

import ast
import sys
from collections import Counter
from dataclasses import fields
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import networks
from trainer.config.net_config import NetConfig
from trainer.runtime.command import import_tensorflow_quietly
from trainer.runtime.errors import ConfigError

BASE = "base"  # in a variant: the variant whose settings come before its own
LIGHT_MODULES = ("dataclasses", "typing", "trainer.config")


def config_class(network: str) -> type[NetConfig]:
    """The settings class of a network; ConfigError for a network that does not declare it as it should."""
    cls = None
    if "keras" not in sys.modules and network in (files := networks.files()):
        cls = declared_class(network, files[network])
    if cls is None:
        import_tensorflow_quietly()  # the file does, with noise
        cls = getattr(networks.load(network), "Config", None)
    if not (isinstance(cls, type) and issubclass(cls, NetConfig) and "__dataclass_fields__" in vars(cls)):
        raise ConfigError(f"Network {network!r} must define a @dataclass(frozen=True) class Config(NetConfig).")
    if any(item.name == BASE for item in fields(cls)):
        raise ConfigError(f"Network {network!r}: a setting cannot be called {BASE}, which names a variant's base.")
    if undeclared := [item.name for item in fields(cls) if "meaning" not in item.metadata]:
        raise ConfigError(f"Network {network!r}: declare {', '.join(undeclared)} as setting(default, meaning).")
    return cls


def declared_class(network: str, path: Path) -> Any:
    """`Config` of a network's file, evaluated without its other imports and functions; None where it needs these."""
    module = ModuleType(f"networks.{network}")
    try:
        Declarations(module.__name__, str(path)).exec_module(module)
    except Exception:  # whatever is wrong, the full import shows it as Python does
        return None
    return vars(module).get("Config")


class Declarations(SourceFileLoader):
    """Imports those statements of a file that declare settings."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path))
        assigned = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not is_read(node))
        tree.body = [statement for statement in tree.body if is_light(statement)]
        if any(assigned[node.id] > 1 for node in ast.walk(tree) if isinstance(node, ast.Name) and is_read(node)):
            raise ImportError("the value that counts may be that of another place")
        return self.source_to_code(tree, self.path)


def is_read(name: ast.Name) -> bool:
    """Whether a name is read where it stands, not assigned."""
    return isinstance(name.ctx, ast.Load)


def is_light(statement: ast.stmt) -> bool:
    """Whether a statement declares settings, or something that they may need: a constant, or a light import."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module in LIGHT_MODULES
    if isinstance(statement, ast.Import):
        return all(name.name in LIGHT_MODULES for name in statement.names)
    if isinstance(statement, ast.ClassDef):
        return statement.name == "Config"
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
        return not any(isinstance(node, ast.Call | ast.Name) for node in ast.walk(statement.value))
    return False
