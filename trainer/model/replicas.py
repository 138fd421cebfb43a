"""One model on several devices: each has a copy of all variables and takes its share of every batch.

`tf.distribute.MirroredStrategy` places the copies and adds up gradients. All else is done by each replica for itself,
on its own copies: equal sums make equal updates, so that the copies stay equal without being compared.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainer.runtime.command import say

Strategy = Any  # a tf.distribute.Strategy


def strategy(batch_size: int) -> Strategy:
    """The strategy to build a model in: mirrored on several GPUs, otherwise the default one."""
    names = devices(batch_size)
    return mirrored(*names) if len(names) > 1 else tf.distribute.get_strategy()


def devices(batch_size: int) -> list[str]:
    """All GPUs that TensorFlow sees, but not more than a batch has rows."""
    return [device.name for device in tf.config.list_logical_devices("GPU")][:batch_size]


def say_devices(batch_size: int) -> None:
    """Print the devices if there are several."""
    if len(names := devices(batch_size)) > 1:
        say("devices", f"{len(names)}, each with a share of every batch: {', '.join(names)}")


def mirrored(*names: str) -> Strategy:
    """A copy of the model on each of these devices.

    Gradients are added up on the first one. TensorFlow's default, collective operations, fails where the sparse
    gradient of one step has another number of rows than that of the step before.
    """
    return tf.distribute.MirroredStrategy(names, tf.distribute.ReductionToOneDevice())


def share(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of a batch of so many rows those of this replica: the first, the one after the last, and how many count.

    That is all of them, or none: where there are fewer rows than replicas, some get one that another one counts, since
    not every kernel takes an empty batch. All are int32 [].
    """
    context = tf.distribute.get_replica_context()
    number, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    first, end = rows * number // replicas, rows * (number + 1) // replicas
    return first, tf.maximum(end, first + 1), end - first


def own(variable: Any) -> Any:
    """The copy of a variable that this replica works on; outside of replicas, the first one."""
    if not isinstance(variable, tf.distribute.DistributedValues):
        return variable
    context = tf.distribute.get_replica_context()
    return variable.values[tf.get_static_value(context.replica_id_in_sync_group) if context else 0]


def summed(gradients: Sequence[Any]) -> list[Any]:
    """The sums of the gradients of all replicas; rows of sparse ones stand below each other, repeated ones, too."""
    totals = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))
    return [
        tf.IndexedSlices(total.values, total.indices, part.dense_shape)  # whose static shape is lost on the way
        if isinstance(total, tf.IndexedSlices)
        else total
        for total, part in zip(totals, gradients, strict=True)
    ]


def next_seed(state: Any) -> tf.Tensor:
    """The next seed of a `keras.random.SeedGenerator`, int32 [2]: another one in each replica."""
    mine, context = own(state), tf.distribute.get_replica_context()
    seed = tf.cast(mine.read_value(), tf.int32)
    mine.assign_add([0, 1])
    several = context and context.num_replicas_in_sync > 1
    return tf.random.fold_in(seed, context.replica_id_in_sync_group) if several else seed
