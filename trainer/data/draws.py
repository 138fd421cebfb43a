"""Draw rows: by a pseudo-random number that follows from what identifies a row, and from nothing else.

A row is identified by the hash of its key, or without a key by that of the stored row and its number among the rows
that are equal to it. So the draw does not depend on the order of rows, and equal rows are drawn one by one.
"""

import numpy as np
from numpy.typing import NDArray

from trainer.data.row_hash import GOLDEN, Hashes, mix

SUBSAMPLE = 2**63  # a seed that no split has


def uniform(draws: Hashes, seed: int) -> NDArray[np.float64]:
    """float64 [rows], in [0, 1): independent numbers for each seed."""
    return np.asarray((mix(draws + mix(np.array([seed], dtype=np.uint64))) >> np.uint64(11)) * 2.0**-53)


class DrawnRows:
    """The rows read so far, by the hash of what identifies each and by the number by which it is drawn.

    share: of the rows that are kept: those with the lowest numbers, so that a larger share contains a smaller one; it
    is independent of any split. one_by_one: draw rows with equal hashes one by one, not together.
    """

    def __init__(self, share: float, *, one_by_one: bool) -> None:
        self.share = share
        self.one_by_one = one_by_one
        self.equal_rows = EqualRows()
        self.hashes: list[Hashes] = []
        self.draws: list[Hashes] = []  # filled where only a share is kept

    def add(self, hashes: Hashes) -> NDArray[np.bool_] | None:
        """Add rows; whether each is kept, bool [rows], or None if all are."""
        if self.share == 1:
            self.hashes.append(hashes)
            return None
        draws = self.equal_rows.draws(hashes) if self.one_by_one else hashes
        stays = uniform(draws, SUBSAMPLE) < self.share
        self.hashes.append(hashes[stays])
        self.draws.append(draws[stays])
        return stays

    def hashes_and_draws(self) -> tuple[Hashes, Hashes]:
        """Both of all rows that are kept, uint64 [rows]; empty if none were added."""
        hashes = np.concatenate([*self.hashes, np.empty(0, dtype=np.uint64)])
        self.hashes.clear()
        if self.draws:
            return hashes, np.concatenate(self.draws)
        return hashes, self.equal_rows.draws(hashes) if self.one_by_one else hashes


class EqualRows:
    """Tells rows with equal hashes apart: the first one that is seen, the second, and so on."""

    def __init__(self) -> None:
        self.seen: list[Hashes] = []  # sorted, and each more than twice as long as the next: 8 bytes a row in all

    def draws(self, hashes: Hashes) -> Hashes:
        """uint64 [rows]: the hashes, of further equal rows with their number; `hashes` itself if there are none."""
        ascending = np.sort(hashes)
        numbers = _numbers(hashes, ascending)
        for earlier in self.seen:
            first = np.searchsorted(earlier, hashes)
            again = np.flatnonzero(earlier[np.minimum(first, len(earlier) - 1)] == hashes)
            numbers[again] += (np.searchsorted(earlier, hashes[again], "right") - first[again]).astype(np.uint64)
        while self.seen and len(self.seen[-1]) <= 2 * len(ascending):
            ascending = np.sort(np.concatenate([self.seen.pop(), ascending]))
        self.seen.append(ascending)
        return hashes + numbers * GOLDEN if numbers.any() else hashes


def _numbers(hashes: Hashes, ascending: Hashes) -> Hashes:
    """uint64 [rows]: the number of each row among those with its hash. ascending: the hashes, sorted."""
    numbers = np.zeros(len(hashes), dtype=np.uint64)
    repeated = ascending[1:][ascending[1:] == ascending[:-1]]
    if len(repeated):
        at = np.minimum(np.searchsorted(repeated, hashes), len(repeated) - 1)
        rows = np.flatnonzero(repeated[at] == hashes)
        rows = rows[np.argsort(hashes[rows], kind="stable")]
        numbers[rows] = np.arange(len(rows)) - np.searchsorted(hashes[rows], hashes[rows])
    return numbers
