"""What identifies a row, so that it can be drawn: its key, or the stored row itself."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from trainer.data import row_hash
from trainer.data.arrow_reader import BlockRows
from trainer.data.column_hash import row_hashes
from trainer.data.columns import to_pandas
from trainer.data.schema import Column


class Identity(NamedTuple):
    """The columns of the key, none for the stored row; and the JSON types of the columns that have no role."""

    key_columns: Sequence[str]
    others: Mapping[str, pa.DataType]

    @property
    def types_to_read(self) -> Mapping[str, pa.DataType] | None:
        """The JSON types of the columns that are read for the identity alone; None: no such columns."""
        return None if self.key_columns else self.others

    def with_types_of(self, rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> "Identity":
        """The identity with the JSON types of some rows learned. names: the columns with a role."""
        return self.with_types({name: kind for name, kind in row_hash.types_of(rows).items() if name not in names})

    def with_types(self, types: Mapping[str, pa.DataType]) -> "Identity":
        """The identity with the JSON types of some columns without a role learned."""
        others = dict(self.others)
        for name, kind in types.items():
            others[name] = _common_type(others.get(name, kind), kind)
        return self if others == self.others else self._replace(others=others)

    def with_hashes(self, block: BlockRows, columns: Sequence[Column]) -> BlockRows:
        """The block with the hashes of its rows' keys; those of stored rows are there from reading."""
        if not self.key_columns:
            return block
        keys = {
            column.name: to_pandas([block.arrays[column.name]], column)
            for column in columns
            if column.name in self.key_columns
        }
        return block._replace(hashes=row_hashes(pd.DataFrame(keys, range(block.rows)), self.key_columns))


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """A type for the values of both; the first one if there is none, and the strict reader has to read the second."""
    if first == second:
        return first
    schemas = [pa.schema([("", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return first
