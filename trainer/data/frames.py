"""Turn any pandas DataFrame into the typed DataFrame that the loader makes of the same rows."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from trainer.data.columns import refused_values, to_arrow, to_pandas
from trainer.data.schema import DEFAULT, Column, RowRules, plan_columns
from trainer.runtime.errors import DataError, did_you_mean


def typed_frame(frame: pd.DataFrame, kinds: Mapping[str, str], rules: RowRules = DEFAULT) -> pd.DataFrame:
    """The columns in `kinds` (name -> kind, see `trainer.data.columns`) as the loader gives them; others are dropped.

    Values mean what they mean in JSON: numbers, text, booleans, lists, times; None, NaN, NA and NaT are missing. A
    missing column raises DataError, as does a value that the loader would refuse, with its row and column. The rules
    for bad rows do not apply.
    """
    planned = plan_columns(kinds, None, rules)
    columns = {column.name: typed_column(frame, column) for column in planned}
    typed = pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))
    labels = [column.name for column in planned if column.optional]
    return typed.dropna(subset=labels, ignore_index=True) if labels else typed


def typed_column(frame: pd.DataFrame, column: Column) -> Any:
    """One column of a DataFrame, typed."""
    if column.name not in frame:
        names = [str(name) for name in frame.columns]
        raise DataError(f"The DataFrame has no column {column.name!r}. {did_you_mean(column.name, names)}")
    values = json_values(frame[column.name])
    try:
        return to_pandas([to_arrow(values, column)], column)
    except ValueError:
        row, reason = next(refused_values(values, column))
        label = frame.index[row]
        raise DataError(
            f"Row {label} of the DataFrame: column {column.name!r} {reason}: {values[row]!r}. Correct or drop the row."
        ) from None


def json_values(column: pd.Series) -> list[Any]:
    """The values of a column as JSON has them: plain Python values, None where missing."""
    return [json_value(value) for value in column.astype(object)]


def json_value(value: Any) -> Any:
    """A plain Python value as JSON has it, None if missing."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_value(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, (date, np.datetime64)):  # pd.Timestamp and datetime are dates
        return pd.Timestamp(value).isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value
