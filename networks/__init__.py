"""Find and load the networks: each is one file of this folder, and the file name is its name.

A network file defines

    class Config(NetConfig)                                  its own settings, each with a default
    def build_graph(net_config, dataset_shapes) -> keras.Model

The model takes the features of a batch as a dict, one entry per feature column (`trainer.features.preprocessing` has
their shapes), and returns logits, float32 [batch, dataset_shapes.outputs]. It is pure Keras 3: layers and `keras.ops`.
"""

import importlib
from pathlib import Path
from types import ModuleType

from trainer.runtime.errors import ConfigError


def files() -> dict[str, Path]:
    """The file of each network by name: the Python files of this folder, and of any other folder on its `__path__`."""
    paths = [path for folder in __path__ for path in sorted(Path(folder).glob("[!_]*.py"))]
    by_name = {path.stem: path for path in paths}
    hidden = [path for path in paths if by_name[path.stem] != path]
    if hidden:
        raise ConfigError(f"Networks of the same name: {hidden[0]} and {by_name[hidden[0].stem]}. Rename a file.")
    return by_name


def names() -> list[str]:
    """The names of all networks."""
    return sorted(files())


def load(name: str) -> ModuleType:
    """The module of one network."""
    if name not in names():
        raise ConfigError(f"There is no network {name!r}. Registered in networks/: {', '.join(names())}.")
    return importlib.import_module(f"networks.{name}")
