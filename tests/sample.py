"""The columns of the sample, for tests that make a configuration without the file of variants."""

from typing import TYPE_CHECKING, Any

from trainer.config import loading

if TYPE_CHECKING:
    from networks.deep_v1 import Config

SAMPLE_COLUMNS: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value for name, value in loading.variants()["deep_v1"].items()
}


def sample_config(**settings: Any) -> "Config":
    """The settings of deep_v1 on the sample."""
    from networks.deep_v1 import Config  # noqa: PLC0415 - imports TensorFlow

    return Config(**SAMPLE_COLUMNS | settings)
