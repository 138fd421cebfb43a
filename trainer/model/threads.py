"""Fix the number of threads that compute.

Each thread sums a part of a matrix product, so the number of threads, not of cores, decides the last bits of a result.
"""

import os

import tensorflow as tf

from trainer.runtime.errors import ConfigError


def use_threads(number: int | None) -> int:
    """Compute with this number of threads, whatever the number of cores; returns it.

    None: as this process does already, or a thread per core that it may use. ConfigError if TensorFlow has started with
    another number.
    """
    now = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    wanted = number or now
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted)
    except RuntimeError:  # TensorFlow has started
        if wanted != now:
            raise ConfigError(
                f"This run needs {wanted} threads, but TensorFlow has started in this process with {now}. Start the "
                "run in a new process."
            ) from None
    return wanted


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
