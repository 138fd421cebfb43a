"""Find the feature columns that a network takes no notice of."""

import keras

from trainer.config.net_config import NetConfig
from trainer.config.roles import FEATURE_SETTINGS, columns_of
from trainer.features import DatasetShapes
from trainer.runtime.errors import ConfigError


def check_features_used(model: keras.Model, net_config: NetConfig, dataset_shapes: DatasetShapes) -> None:
    """ConfigError for feature columns from which no path leads to the output: the model would be worse in silence."""
    columns = [*dataset_shapes.id_widths, *dataset_shapes.numeric]
    ignored = set(columns) - used_inputs(model)
    if not ignored:
        return
    parts = []
    for setting, (role, _) in FEATURE_SETTINGS.items():
        if names := [name for name in columns_of(net_config, setting) if name in ignored]:
            parts.append(f"{', '.join(map(repr, names))} ({setting}; dataset_shapes.{role.removeprefix('log_')})")
    raise ConfigError(
        f"Network {net_config.network} does not use {' and '.join(parts)}. Use these columns in its build_graph, or "
        "take them out of the variant."
    )


def used_inputs(model: keras.Model) -> set[str]:
    """The names of the inputs that the outputs of a functional model depend on."""
    names = {id(tensor): name for name, tensor in model.input.items()}
    used, seen, ahead = set(), set(), keras.tree.flatten(model.output)
    while ahead:
        tensor = ahead.pop()
        if id(tensor) in names:
            used.add(names[id(tensor)])
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            operation, node, _ = tensor._keras_history
            ahead += operation._inbound_nodes[node].input_tensors
    return used
