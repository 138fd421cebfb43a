"""Hide a value in a few training rows, so that a model learns what to predict where it is unknown or missing.

Otherwise the vectors of states that no training row has, and the weights of a number's missing indicator, would stay at
their random start, and move predictions by chance. With some values hidden they learn the mean label of rows that are
like the others. The same idea as word dropout (Iyyer et al. 2015, section 3.2) and as a network's dropout of inputs.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.features.tables import Table
from trainer.features.untrained import KEEP_ID, States
from trainer.features.vocabulary import FIRST_ID, OOV_ID

# SplitMix64: Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 16; as signed numbers
GAMMA, MIX_1, MIX_2 = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hide_values(table: Table, states: States, share: float, seed: int, first: tf.Tensor) -> Table:
    """Put a random state into a share of the rows, into the others nothing.

    The draws depend on the seed and on the number of each row in the training alone: those of the table are counted
    from `first`, int64 [].
    """
    count = len(states.ids)
    random = random_numbers(tf.range(tf.cast(tf.size(table.weights), tf.int64)) + first, seed)
    rows = tf.where(random % 2**24 < round(share * 2**24))
    state = tf.gather_nd(random // 2**24 % count, rows)

    def replaced(column: tf.Tensor, states: Any, is_kept: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
        if not states.shape[1]:  # no kernel updates an empty matrix
            return column
        before, new = tf.gather_nd(column, rows), tf.gather(states, state)
        return tf.tensor_scatter_nd_update(column, rows, tf.where(is_kept(before, new), before, new))

    return table._replace(
        ids=replaced(table.ids, states.ids, lambda ids, new: (new == KEEP_ID) | ((new == OOV_ID) & (ids < FIRST_ID))),
        numbers=replaced(table.numbers, states.numbers, lambda _, new: tf.math.is_nan(new)),
    )


def random_numbers(counters: tf.Tensor, seed: int) -> tf.Tensor:
    """A random number from 0 to 2^62 - 1 for each counter, both int64 [n]."""

    def mixed(numbers: tf.Tensor) -> tf.Tensor:
        numbers = (numbers ^ shifted(numbers, 30)) * tf.constant(MIX_1, tf.int64)
        numbers = (numbers ^ shifted(numbers, 27)) * tf.constant(MIX_2, tf.int64)
        return numbers ^ shifted(numbers, 31)

    return shifted(mixed(mixed(tf.constant(seed, tf.int64)) + counters * tf.constant(GAMMA, tf.int64)), 2)


def shifted(numbers: tf.Tensor, bits: int) -> tf.Tensor:
    """int64, as if unsigned, to the right."""
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(numbers, tf.constant(bits, tf.int64)), 2 ** (64 - bits) - 1)
