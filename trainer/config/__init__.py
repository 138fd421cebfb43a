"""Load and check the flat configuration. Networks import `NetConfig` and `setting` from here."""

from trainer.config.levels import setting
from trainer.config.net_config import NetConfig

__all__ = ["NetConfig", "setting"]
