"""Count the rows that a dataset leaves out, and refuse it where they are too many."""

from bisect import bisect
from collections.abc import Collection, Mapping
from typing import Any

from trainer.data.json_values import json_text
from trainer.data.loaded import BadRow
from trainer.data.strict_reader import Fault, Rows
from trainer.runtime.errors import DataError


class BadRows:
    """The rows left out so far.

    most: how many may be, as a number or as a share of all rows such as "0.1%". keys: the columns that identify a row,
    if anyone asks for these rows.
    """

    def __init__(self, most: int | str, keys: Collection[str] | None) -> None:
        self.most = most
        self.keys = keys
        self.rows: list[BadRow] = []
        self.first = ""  # the message about the first of them

    @property
    def room(self) -> int | None:
        """How many more may be left out; None if that depends on the number of all rows."""
        return None if isinstance(self.most, str) else self.most - len(self.rows)

    def leave_out(self, shard: str, rows: Rows, faults: Mapping[int, Fault], before: int) -> None:
        """Leave out the rows with a fault, by line; DataError if there are more than `most` now.

        rows: all that could be parsed of a block. before: how many good rows are before that.
        """
        good = [line for line in rows.lines if line not in faults]
        for line, fault in sorted(faults.items()):
            row = BadRow(shard, line, fault.reason, before + bisect(good, line), self._keys_of(rows, line))
            message = f"{shard}, line {line}: {fault.reason}{fault.value and ': '}{fault.value}."
            self.first = self.first or message
            self.rows.append(row)
            if self.room is None or self.room >= 0:
                continue
            if not self.most:
                raise DataError(
                    f"{message} Correct it, or skip bad rows by max_bad_rows (here: NET_MAX_BAD_ROWS=1 or 0.1%)."
                )
            raise DataError(
                f"{message} Before it, max_bad_rows = {self.most} were left out, the first in {self.rows[0].shard}, "
                f"line {self.rows[0].line}. Correct the rows, or raise max_bad_rows."
            )

    def _keys_of(self, rows: Rows, line: int) -> dict[str, str | None]:
        at = bisect(rows.lines, line) - 1
        parsed = at >= 0 and rows.lines[at] == line
        return {name: _key_text(rows.columns[name][at]) if parsed else None for name in self.keys or ()}

    def check_share(self, path: str, rows: int) -> None:
        """DataError if more rows than a share in `most` were left out. rows: how many there are, good and bad."""
        if isinstance(self.most, str) and 100 * len(self.rows) > float(self.most.rstrip("%")) * rows:
            raise DataError(
                f"{len(self.rows):,} of {rows:,} rows of {path!r} are bad, more than max_bad_rows = {self.most}. The "
                f"first: {self.first} Correct the rows, or raise max_bad_rows."
            )


def _key_text(value: Any) -> str | None:
    """A key as the reader gives it: 1021 for 1021.0. None for what is no key."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json_text(value) if isinstance(value, str | int | float) else None


def counted(bad_rows: int, unlabelled: int = 0) -> str:
    """What was left out, in words for the end of a line: `, 5 bad rows left out`; "" if nothing was."""
    parts = [(bad_rows, "bad row", ""), (unlabelled, "row", " without a label")]
    return "".join(f", {count:,} {row}{'s' * (count > 1)}{what} left out" for count, row, what in parts if count)
