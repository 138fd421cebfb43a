"""rnn_v1: as deep_v1, but a recurrent layer reads the title word by word, so word order counts.

`trainer.model.recurrent` names the papers. On a GPU, Keras picks the cuDNN kernel, which needs the default arguments
of the layers and padding on the right.
"""

from dataclasses import dataclass

import keras

from trainer.config import NetConfig, setting
from trainer.features import DatasetShapes
from trainer.model.layers import Embedding, NotPadding, dense_layers, feature_inputs, feature_vectors, logits, safe_name
from trainer.model.recurrent import GRU, LSTM


@dataclass(frozen=True)
class Config(NetConfig):
    """The settings of rnn_v1."""

    embedding_dim: int = setting(16, "length of a category's embedding", low=1, high=4096, search=[8, 16, 32, 64])
    text_embedding_dim: int = setting(32, "length of a token's embedding", low=1, high=4096)
    cell: str = setting("gru", "kind of recurrent layer", choices=("gru", "lstm"))
    rnn_units: int = setting(
        64, "units of the recurrent layer, per direction", low=1, high=65_536, search=[32, 64, 128]
    )
    bidirectional: bool = setting(False, "read texts in both directions")
    hidden_units: tuple[int, ...] = setting(
        (128, 64),
        "widths of the dense layers",
        low=1,
        high=65_536,
        search=[[64], [128, 64], [256, 128], [256, 128, 64]],
    )
    dropout: float = setting(
        0.1, "share of hidden units to drop during training", low=0, below=1, search={"low": 0, "high": 0.5}
    )


def build_graph(net_config: Config, dataset_shapes: DatasetShapes) -> keras.Model:
    """The network: features by column -> logits, float32 [batch, outputs]."""
    inputs = feature_inputs(dataset_shapes)
    cell: type[keras.layers.RNN] = {"gru": GRU, "lstm": LSTM}[net_config.cell]
    vectors = feature_vectors(inputs, dataset_shapes, net_config.embedding_dim)
    for column, (size, _) in dataset_shapes.text.items():
        name = f"text_{safe_name(column)}"
        words = Embedding(size, net_config.text_embedding_dim, name=f"{name}_embeddings")(inputs[column])
        reader = cell(net_config.rnn_units, name=f"{name}_{net_config.cell}")
        if net_config.bidirectional:
            reader = keras.layers.Bidirectional(reader, name=f"{name}_both_directions")
        vectors.append(reader(words, mask=NotPadding(name=f"{name}_mask")(inputs[column])))
    x = keras.layers.Concatenate(name="features")(vectors)
    x = dense_layers(x, net_config.hidden_units, dropout=net_config.dropout, batch_norm=False)
    return keras.Model(inputs, logits(x, dataset_shapes), name="rnn_v1")
