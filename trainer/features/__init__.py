"""Turn rows into arrays: vocabularies, tokenizers, scaling, and the cache of encoded rows."""

from trainer.features.shapes import DatasetShapes

__all__ = ["DatasetShapes"]
