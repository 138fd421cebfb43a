"""Files to a typed DataFrame, and its split."""
