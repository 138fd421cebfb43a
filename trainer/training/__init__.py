"""Run epochs, save checkpoints and resume runs."""
