"""Decide what it means that no row has a column: a wrong name, or NULL in every row, which an export leaves out."""

import re
from collections.abc import Collection
from difflib import get_close_matches

from trainer.data.schema import LABEL_KINDS, Column
from trainer.data.strict_reader import PANDAS
from trainer.runtime.errors import DataError, did_you_mean

NO_ROWS = {"0", "data"}  # fields of the object in which pandas writes a whole table
SIMILAR = 0.8  # ratio from which a name counts as a slip of the other


def check_absent(path: str, column: Column, names: Collection[str], wanted: Collection[str], *, scoring: bool) -> None:
    """DataError for a column that no row of a dataset without a schema has, unless it counts as missing in all rows.

    It does among rows to score, where it is a feature or a key and no name without a role is nearly the same: NULL in a
    few rows is nothing unusual there. names: of the fields in the rows; wanted: of the columns with a role.
    """
    if not scoring or column.kind in LABEL_KINDS:
        hint = did_you_mean(column.name, names)
        null = "" if scoring else " If it is NULL everywhere, put the table's schema.json beside the rows."
        null = f" Is this a table in one object{PANDAS}?" if NO_ROWS & set(names) else null
        raise DataError(f"No row of {path!r} has the column {column.name!r}. {hint}{null}")
    if near := near_miss(column.name, set(names) - set(wanted)):
        raise DataError(
            f"No row of {path!r} has the column {column.name!r}, but they have {near!r}. Rename that, or write "
            f"{column.name!r}: null if the column has no value."
        )


def near_miss(name: str, others: Collection[str]) -> str | None:
    """The name that is the same but for case, punctuation or a slip; None if there is none."""
    plain = {re.sub(r"[\W_]+", "", other.casefold()): other for other in sorted(others)}
    near = get_close_matches(re.sub(r"[\W_]+", "", name.casefold()), plain, n=1, cutoff=SIMILAR)
    return plain[near[0]] if near else None
