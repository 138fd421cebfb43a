"""The number of threads that compute."""

import pytest
import tensorflow as tf

from trainer.model.threads import use_threads
from trainer.runtime.errors import ConfigError


def test_the_number_of_threads_stays_once_tensorflow_has_started() -> None:
    tf.constant(1)
    now = use_threads(None)
    assert now == use_threads(now) >= 1
    with pytest.raises(ConfigError, match=rf"needs {now + 1} threads, but .* with {now}\. Start the run in a new proc"):
        use_threads(now + 1)
