"""A machine of two devices, two halves of its CPU in the place of two GPUs, and the trainer's command on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from trainer import __main__ as command
from trainer.model import replicas

NAMES = ["CPU:0", "CPU:1"]


def split_the_cpu() -> None:
    """Make two devices of it, before TensorFlow has computed anything in this process."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * len(NAMES))


@contextlib.contextmanager
def used(number: int) -> Iterator[None]:
    """So many devices for models that are built meanwhile."""
    before = replicas.devices
    replicas.devices = lambda batch_size: NAMES[:number]
    try:
        yield
    finally:
        replicas.devices = before


def main() -> None:
    split_the_cpu()
    command.RUNS = Path("runs").resolve()
    with used(2):
        command.main()
