"""deep_v1: embeddings, numbers and the mean of the title's word vectors go through dense layers.

The standard network for click prediction ("Deep Neural Networks for YouTube Recommendations", Covington et al. 2016,
section 3): fast to train and to serve; it ignores the order of words.
"""

from dataclasses import dataclass

import keras

from trainer.config import NetConfig, setting
from trainer.features import DatasetShapes
from trainer.model.layers import MeanEmbedding, dense_layers, feature_inputs, feature_vectors, logits, safe_name


@dataclass(frozen=True)
class Config(NetConfig):
    """The settings of deep_v1."""

    embedding_dim: int = setting(16, "length of a category's embedding", low=1, high=4096, search=[8, 16, 32, 64])
    text_embedding_dim: int = setting(32, "length of a token's embedding", low=1, high=4096)
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
    batch_norm: bool = setting(False, "apply batch normalisation after each dense layer")


def build_graph(net_config: Config, dataset_shapes: DatasetShapes) -> keras.Model:
    """The network: features by column -> logits, float32 [batch, outputs]."""
    inputs = feature_inputs(dataset_shapes)
    vectors = feature_vectors(inputs, dataset_shapes, net_config.embedding_dim)
    for column, (size, _) in dataset_shapes.text.items():
        words = MeanEmbedding(size, net_config.text_embedding_dim, name=f"text_{safe_name(column)}_embeddings")
        vectors.append(words(inputs[column]))
    x = keras.layers.Concatenate(name="features")(vectors)
    x = dense_layers(x, net_config.hidden_units, dropout=net_config.dropout, batch_norm=net_config.batch_norm)
    return keras.Model(inputs, logits(x, dataset_shapes), name="deep_v1")
