"""Define the expected errors, each with the exit code of the command.

    TrainerError
    ├── ConfigError    2   a setting, a variant, an argument
    ├── DataError      3   rows, columns, labels
    ├── StorageError   4   a path that is missing, taken, unreadable or unwritable
    ├── DivergedError  5   NaN or infinity in loss or weights, or a loss far above the baseline's
    └── ResourceError  6   memory or disk used up, device missing

    Interrupted       75   stopped by a signal; like KeyboardInterrupt, not an Exception

A message says what happened, where, and what to do; the command prints it without a traceback. Any other exception is
a bug: it is printed with its traceback, and the exit code is 1.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TrainerError(Exception):
    """Arguments: the message, and lines below it if it has several."""

    exit_code = 1

    def __str__(self) -> str:
        return "\n  ".join(map(str, self.args))


class ConfigError(TrainerError):
    exit_code = 2


class DataError(TrainerError):
    exit_code = 3


class StorageError(TrainerError):
    exit_code = 4


class DivergedError(TrainerError):
    exit_code = 5


class ResourceError(TrainerError):
    exit_code = 6


class Interrupted(BaseException):
    """A signal asks the process to stop. Not an Exception, so that libraries that catch those cannot swallow it."""

    exit_code = 75


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence that suggests the most similar of some names, or lists all of them."""
    names = sorted(choices)
    near = get_close_matches(name, names, n=1, cutoff=0.6) or get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(names) or 'none'}."
