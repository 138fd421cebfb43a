"""Check rows before training."""
