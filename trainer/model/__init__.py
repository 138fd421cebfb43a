"""Layers, losses, metrics and the compiled operations of a model."""
