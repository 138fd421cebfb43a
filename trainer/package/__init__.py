"""The zip that a run ends with: write it, read it, predict with it."""
