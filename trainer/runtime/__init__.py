"""What every part stands on: files, signals, errors, timing, caching."""
