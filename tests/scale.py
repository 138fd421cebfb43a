"""The long form of tests that can run as long as one likes: `fab test-faults`.

A test with a long form takes its numbers from `many` and tells what it did by `record_property`. As a plugin of pytest
(`-p tests.scale`) this module leaves out all other tests and prints the sums at the end.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

LONG = "FLATFAB_LONG"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # for folders that are gone at once

T = TypeVar("T")


def many(short: T, long: T) -> T:
    """The second where FLATFAB_LONG is set in the environment."""
    return long if os.environ.get(LONG) else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that have a long form."""
    others = [item for item in items if "record_property" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each test that passed: what it counted, summed over its parameters."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for test, name, count in counted_in(terminalreporter):
        counted[test][name] += count
    for test, counts in counted.items():
        figures = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        terminalreporter.write_line(f"{test.removeprefix('test_').replace('_', ' ')}: {figures}")


def counted_in(terminalreporter: pytest.TerminalReporter) -> Iterator[tuple[str, str, int]]:
    """(name of the test, what it counted, how many)."""
    for report in terminalreporter.getreports("passed"):
        for name, count in report.user_properties:
            yield report.location[2].partition("[")[0], name, int(count)
