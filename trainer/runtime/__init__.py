"""Files, signals, errors, timing and caching, used by all other folders."""
