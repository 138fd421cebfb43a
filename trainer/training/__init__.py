"""Epochs, checkpoints and resuming."""
