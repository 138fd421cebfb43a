"""Look at rows before training."""
