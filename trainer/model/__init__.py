"""Layers, losses, metrics, optimizers and the compiled operations of a model."""
