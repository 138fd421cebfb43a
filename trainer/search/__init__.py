"""Hyper-parameter search: many runs with different settings, and an honest winner."""
