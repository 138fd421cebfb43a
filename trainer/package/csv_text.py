"""Cells of CSV files that spreadsheets and browsers may show."""

import re

from trainer.runtime.command import printable

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")  # safe in a spreadsheet


def table_cell(cell: object) -> object:
    """A cell of a file that a spreadsheet or a browser may show; numbers stay as they are.

    In text, control characters are escaped and `<` becomes `&lt;`, so that there is no markup. Text that a spreadsheet
    would run as a formula gets an apostrophe in front.
    """
    if not isinstance(cell, str):
        return cell
    text = printable(" ".join(cell.split()) or repr(cell)).replace("<", "&lt;")
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text) else text
