"""From rows to a trained, verified and packaged model. `python -m trainer --help` is the way in."""
