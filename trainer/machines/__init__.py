"""Docker images, containers, remote machines and browsers."""

import sys

from trainer.runtime import missing

if sys.argv[0] == "-m":  # a program of this folder is being started, whose first imports may fail
    sys.excepthook = missing.explain_uncaught
