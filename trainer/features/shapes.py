"""The shapes of a dataset's encoded rows: what a network is built from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetShapes:
    """The columns and sizes that a network is built from. Numbers of ids include the three reserved ids."""

    categorical: dict[str, int]  # column -> ids
    multi_categorical: dict[str, tuple[int, int]]  # column -> (ids, values kept per row)
    text: dict[str, tuple[int, int]]  # column -> (ids, tokens kept per row)
    numeric: tuple[str, ...]
    outputs: int  # width of the logits
    output_bias: tuple[float, ...]  # logits of the best constant prediction on the training rows; regression: 0
    label_mean: float  # regression: prediction = label_mean + label_std * output; otherwise 0 and 1
    label_std: float

    @property
    def id_widths(self) -> dict[str, int]:
        """Ids per row of each column, in the order of the columns of `EncodedRows.ids`."""
        lists = {column: width for column, (_, width) in (self.multi_categorical | self.text).items()}
        return dict.fromkeys(self.categorical, 1) | lists
