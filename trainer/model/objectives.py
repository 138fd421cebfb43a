"""The four objectives as functions of logits and labels: the loss and the prediction of each row.

Labels are as in `Examples` (see `trainer.features.preprocessing`). Everything starts from logits, so that no
logarithm is taken of a rounded probability. Results have the dtype of the logits.
"""

import tensorflow as tf


def multi_hot(ids: tf.Tensor, classes: int) -> tf.Tensor:
    """The sets of classes as zeros and ones.

    ids: int32 [batch, max_labels], class ids from 1, right-padded with 0. Returns float32 [batch, classes].
    """
    rows, width = tf.unstack(tf.shape(ids))
    cells = tf.stack([tf.repeat(tf.range(rows), width), tf.reshape(ids, [-1])], axis=1)
    # An update, not a sum: duplicate ids count once. It also has a deterministic form on every device.
    return tf.tensor_scatter_nd_update(tf.zeros([rows, classes + 1]), cells, tf.ones([rows * width]))[:, 1:]


def row_loss(objective: str, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The loss of each row, before weights, [batch].

    binary: sigmoid cross-entropy with a label in [0, 1]. regression: squared error in standardised units.
    multiclass: softmax cross-entropy; 0 for label -1, a class that no training row has. multilabel: sigmoid
    cross-entropy, mean over the classes.
    logits: float [batch, outputs]; labels: as in `Examples`.
    """
    if objective == "binary":
        return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits[:, 0])
    if objective == "regression":
        return tf.math.squared_difference(logits[:, 0], tf.cast(labels, logits.dtype))
    if objective == "multiclass":
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
        return tf.where(labels < 0, tf.zeros_like(loss), loss)
    targets = tf.cast(multi_hot(labels, logits.shape[1]), logits.dtype)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=1)


def predictions(objective: str, logits: tf.Tensor, label_mean: float, label_std: float) -> tf.Tensor:
    """Predictions from logits: probabilities, or numbers in the units of the label.

    Returns [batch] for binary and regression, [batch, classes] for multiclass (each row sums to 1) and multilabel.
    """
    if objective == "binary":
        return tf.sigmoid(logits[:, 0])
    if objective == "regression":
        return label_mean + label_std * logits[:, 0]
    return tf.nn.softmax(logits) if objective == "multiclass" else tf.sigmoid(logits)
