"""Files, signals, errors, timing and caching, for all other folders."""
