"""The four objectives as functions of logits and labels: the loss of each row, and what is predicted.

Labels are those of `Examples` (see `trainer.preprocessing`). Everything starts from logits, so that no logarithm is
taken of a rounded probability. Results have the dtype of the logits.
"""

import tensorflow as tf


def multi_hot(ids: tf.Tensor, classes: int) -> tf.Tensor:
    """The sets of classes as zeros and ones.

    ids: int32 [batch, max_labels], class ids from 1, right-padded with 0. Returns float32 [batch, classes].
    """
    # Binary bincount: no [batch, max_labels, classes] in between, and duplicate ids count once.
    counts = tf.raw_ops.DenseBincount(
        input=ids, size=classes + 1, weights=tf.constant([], tf.float32), binary_output=True
    )
    return counts[:, 1:]


def row_loss(objective: str, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The loss of each row, before weights, [batch].

    binary: sigmoid cross-entropy with a label in [0, 1]. regression: squared error in standardised units.
    multiclass: softmax cross-entropy. multilabel: sigmoid cross-entropy, mean over the classes.
    logits: float [batch, outputs]; labels: as in `Examples`.
    """
    if objective == "binary":
        return tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits[:, 0])
    if objective == "regression":
        return tf.math.squared_difference(logits[:, 0], tf.cast(labels, logits.dtype))
    if objective == "multiclass":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    assert objective == "multilabel"
    targets = tf.cast(multi_hot(labels, logits.shape[1]), logits.dtype)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=1)


def predictions(objective: str, logits: tf.Tensor, label_mean: float, label_std: float) -> tf.Tensor:
    """What a user asks for: probabilities, or the number in the label's own units.

    Returns [batch] for binary and regression, [batch, classes] for multiclass (each row sums to 1) and multilabel.
    """
    if objective == "binary":
        return tf.sigmoid(logits[:, 0])
    if objective == "regression":
        return label_mean + label_std * logits[:, 0]
    if objective == "multiclass":
        return tf.nn.softmax(logits)
    assert objective == "multilabel"
    return tf.sigmoid(logits)
