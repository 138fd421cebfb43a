"""Load the shared settings of a variant, without TensorFlow where possible."""

import ast
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import networks
from trainer.config import loading
from trainer.config.net_config import NetConfig
from trainer.runtime.command import import_tensorflow_quietly


def load_settings(variant: str, environ: Mapping[str, str]) -> NetConfig:
    """The checked configuration of a variant, as `loading.load_config` returns it; the same ConfigErrors.

    A network's file imports TensorFlow, which takes seconds. It is not imported where the variant and the environment
    set only shared settings and the network declares no defaults of its own for these.
    """
    shared = {item.name for item in fields(NetConfig)}
    levels = loading.levels_of(variant, loading.VARIANT_FILE, environ, {})
    if all(level.values.keys() <= set(map(level.spell, shared)) for level in levels):
        network = loading.chosen_network(levels)
        if not shared & declared_settings(networks.files()[network]):
            return loading.settle(variant, levels, NetConfig).config
    import_tensorflow_quietly()
    return loading.load_config(variant, environ=environ).config


def declared_settings(network: Path) -> set[str]:
    """The settings that a network's file declares, read from its source code."""
    classes = [node for node in ast.parse(network.read_bytes()).body if isinstance(node, ast.ClassDef)]
    statements = [statement for node in classes for statement in node.body if isinstance(statement, ast.AnnAssign)]
    return {ast.unparse(statement.target) for statement in statements}
