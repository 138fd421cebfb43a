"""The layers and functions that networks are built from, in pure Keras 3, so that they run on every backend.

Ids come from preprocessing: id 0 is padding, which means and recurrent layers ignore.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer.features import DatasetShapes

Tensor = Any  # a symbolic or concrete tensor of any Keras backend
Shape = tuple[int | None, ...]

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    from trainer.model import replicas
    from trainer.model.optimizer import SMALL_TABLE, DistinctRows, pairs, sparse_product


@keras.saving.register_keras_serializable("flatfab")
class Embedding(keras.layers.Layer):
    """An embedding table: int32 ids [...] -> float32 [..., width].

    Its gradient has only the rows that were looked up, so that an optimizer can update only these.
    """

    def __init__(self, size: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.width = width

    def build(self, input_shape: Shape) -> None:
        initializer = keras.initializers.RandomNormal(stddev=0.05)
        self.table = self.add_weight(shape=(self.size, self.width), initializer=initializer, name="table")

    def call(self, ids: Tensor) -> Tensor:
        if keras.backend.backend() != "tensorflow":
            return ops.take(self.table, ids, axis=0)
        # A TensorFlow variable whose rows are updated in place is copied whenever all of it is read.
        return replicas.own(self.table.value).sparse_read(ids)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "width": self.width}


@keras.saving.register_keras_serializable("flatfab")
class MeanEmbedding(Embedding):
    """The mean of the vectors of the ids that are not padding: int32 [batch, n] -> float32 [batch, width].

    A row of padding alone (an empty text) gives zeros.
    """

    def call(self, ids: Tensor) -> Tensor:
        mask = ops.cast(ops.not_equal(ids, 0), "float32")
        weights = mask / ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)
        if keras.backend.backend() == "tensorflow":
            return weighted_sum_of_rows(replicas.own(self.table.value), ids, weights)
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), super().call(ids)), 1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.width)


def weighted_sum_of_rows(table: Any, ids: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights[i, j] * table[ids[i, j]], for a TensorFlow variable: [batch, n] of both -> [batch, width].

    It is the product of a sparse matrix of the weights and the rows that the batch needs, so that neither direction
    spreads vectors out to [batch, n, width]. The weights have no gradient.
    """
    batch, n = tf.unstack(tf.shape(ids))
    ids = tf.reshape(ids, [-1])
    if table.shape[0] <= SMALL_TABLE:
        vectors, position = tf.convert_to_tensor(table), ids
    else:
        rows, position = tf.unique(ids)
        vectors = read_distinct_rows(table, rows)
    entries, weights = pairs(tf.repeat(tf.range(batch), n), position), tf.reshape(weights, [-1])
    shape = [batch, tf.shape(vectors)[0]]

    @tf.custom_gradient
    def product(vectors: tf.Tensor) -> Any:
        summed = sparse_product(entries, weights, shape, vectors)
        return summed, lambda upstream: sparse_product(entries, weights, shape, upstream, transpose=True)

    return product(vectors)


def read_distinct_rows(table: Any, rows: Tensor) -> Tensor:
    """Rows of a TensorFlow variable, each named once, as its gradient then says: int32 [n] -> [n, width]."""

    @tf.custom_gradient
    def read() -> Any:
        def gradient(upstream: tf.Tensor, variables: Any = None) -> Any:
            return [], [DistinctRows(upstream, rows, tf.constant(table.shape.as_list()))]

        return tf.gather(table, rows), gradient

    return read()


@keras.saving.register_keras_serializable("flatfab")
class ColumnOffsets(keras.layers.Layer):
    """Ids of several columns -> row numbers of one table that holds the columns below each other.

    A list of int32 [batch], one per column with `sizes[i]` ids, becomes int32 [batch, columns]. One table means one
    gather, one gradient and one update in a training step instead of one per column.
    """

    def __init__(self, sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes = list(sizes)

    def call(self, ids: Sequence[Tensor]) -> Tensor:
        offsets = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        return ops.stack(list(ids), axis=1) + ops.convert_to_tensor(offsets, dtype="int32")

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (input_shape[0][0], len(self.sizes))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sizes": self.sizes}


@keras.saving.register_keras_serializable("flatfab")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with a random byte per value: the rate is rounded to a multiple of 1/256.

    Only under TensorFlow, where drawing a random float per value takes much of a small network's training step.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not (training and self.rate > 0) or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training)
        dropped = min(max(round(self.rate * 256), 1), 255)
        size = tf.size(inputs)
        seed = replicas.next_seed(self.seed_generator.state.value)
        words = tf.random.stateless_uniform([(size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32)
        random = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(inputs))
        return inputs * tf.cast(random >= dropped, inputs.dtype) * (256 / (256 - dropped))


@keras.saving.register_keras_serializable("flatfab")
class NotPadding(keras.layers.Layer):
    """int32 ids [batch, n] -> bool [batch, n], the mask of a recurrent layer. Padding is always on the right."""

    def call(self, ids: Tensor) -> Tensor:
        return ops.not_equal(ids, 0)

    def compute_output_spec(self, ids: Tensor) -> Tensor:
        return keras.KerasTensor(ids.shape, dtype="bool")


def safe_name(column: str) -> str:
    """A column's name for use in a layer's name, without characters that Keras or TensorFlow refuse there."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", column)
    return safe if safe == column else f"{safe}_{zlib.crc32(column.encode()):08x}"


def feature_inputs(shapes: DatasetShapes) -> dict[str, Tensor]:
    """The inputs of a network, by feature column: int32 [batch] or [batch, n] of ids, float32 [batch, 2] of numbers."""
    widths: dict[str, Shape] = dict.fromkeys(shapes.categorical, ())
    widths |= {column: (values,) for column, (_, values) in shapes.multi_categorical.items()}
    widths |= {column: (tokens,) for column, (_, tokens) in shapes.text.items()}
    kinds = {column: (width, "int32") for column, width in widths.items()}
    kinds |= dict.fromkeys(shapes.numeric, ((2,), "float32"))
    return {c: keras.Input(width, dtype=dtype, name=f"{safe_name(c)}_input") for c, (width, dtype) in kinds.items()}


def feature_vectors(inputs: Mapping[str, Tensor], shapes: DatasetShapes, width: int) -> list[Tensor]:
    """All features except text as vectors [batch, n]: embedded categories, means of embedded lists, numbers."""
    vectors = []
    if shapes.categorical:
        sizes = list(shapes.categorical.values())
        rows = ColumnOffsets(sizes, name="category_rows")([inputs[column] for column in shapes.categorical])
        embedded = Embedding(sum(sizes), width, name="category_embeddings")(rows)
        vectors.append(keras.layers.Reshape((len(sizes) * width,), name="categories")(embedded))
    for column, (size, _) in shapes.multi_categorical.items():
        vectors.append(MeanEmbedding(size, width, name=f"list_{safe_name(column)}_embeddings")(inputs[column]))
    return vectors + [inputs[column] for column in shapes.numeric]


def dense_layers(x: Tensor, units: Sequence[int], *, dropout: float, batch_norm: bool) -> Tensor:
    """Dense -> (batch norm) -> ReLU -> dropout, once for each entry of `units`."""
    for number, width in enumerate(units, start=1):
        x = keras.layers.Dense(width, use_bias=not batch_norm, name=f"dense_{number}")(x)
        if batch_norm:
            x = keras.layers.BatchNormalization(synchronized=on_several_devices(), name=f"batch_norm_{number}")(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
        if dropout:
            x = Dropout(dropout, name=f"dropout_{number}")(x)
    return x


def on_several_devices() -> bool:
    """Whether each of several devices sees a share of a batch only."""
    return keras.backend.backend() == "tensorflow" and tf.distribute.get_strategy().num_replicas_in_sync > 1


def logits(x: Tensor, shapes: DatasetShapes) -> Tensor:
    """The last layer, float32 [batch, outputs]; it starts as the best prediction that is the same for every row."""
    bias = keras.initializers.Constant(np.array(shapes.output_bias, dtype="float32"))
    last = keras.layers.Dense(shapes.outputs, kernel_initializer="zeros", bias_initializer=bias, name="logits")
    return last(x)


def embeddings_by_column(model: keras.Model, shapes: DatasetShapes) -> dict[str, np.ndarray]:
    """The vectors of each column's ids, float32 [ids, width], of a network that is built from these blocks."""
    tables = {layer.name: layer.table for layer in model.layers if isinstance(layer, Embedding)}
    vectors: dict[str, np.ndarray] = {}
    if "category_embeddings" in tables:
        together = ops.convert_to_numpy(tables["category_embeddings"])
        borders = np.cumsum(list(shapes.categorical.values()))[:-1]
        vectors |= dict(zip(shapes.categorical, np.split(together, borders), strict=True))
    names = {column: f"list_{safe_name(column)}_embeddings" for column in shapes.multi_categorical}
    names |= {column: f"text_{safe_name(column)}_embeddings" for column in shapes.text}
    vectors |= {column: ops.convert_to_numpy(tables[name]) for column, name in names.items() if name in tables}
    return vectors
