"""Lists of different lengths as two flat arrays (offsets and values), as in a CSR matrix."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """`rows` lists; list r is `values[offsets[r]:offsets[r + 1]]`. offsets (rows + 1,) int64, values (total,)."""

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) number of values of each list."""
        return np.diff(self.offsets)

    def padded(self, width: int | None = None) -> np.ndarray:
        """(rows, width) array, right padded with 0; lists longer than `width` are cut at their end."""
        lengths = self.lengths
        width = int(lengths.max(initial=0)) if width is None else width
        columns = np.arange(width)
        real = columns < lengths[:, None]
        out = np.zeros((len(self), width), dtype=self.values.dtype)
        out[real] = self.values[(self.offsets[:-1, None] + columns)[real]]
        return out

    def take(self, rows: np.ndarray) -> "Ragged":
        """The lists of `rows`, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(offsets, self.values[places])

    def cut(self, width: int) -> "Ragged":
        """The first `width` values of each list."""
        inner = np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)
        offsets = np.concatenate([[0], np.cumsum(np.minimum(self.lengths, width), dtype=np.int64)])
        return Ragged(offsets, self.values[inner < width])

    def owners(self) -> np.ndarray:
        """(total,) the row that each value belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @classmethod
    def from_pairs(cls, rows: np.ndarray, values: np.ndarray, n_rows: int) -> "Ragged":
        """Group `values` by `rows` (any order; within a row the given order is kept)."""
        order = np.argsort(rows, kind="stable")
        offsets = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
        return cls(offsets, np.asarray(values)[order])

    @classmethod
    def from_lists(cls, lists: list) -> "Ragged":
        """From Python lists of integers (small tables only: vocabularies, tests)."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(entry) for entry in lists], out=offsets[1:])
        flat = [value for entry in lists for value in entry]
        return cls(offsets, np.asarray(flat, dtype=np.int32))

    def transposed(self, n_columns: int) -> "Ragged":
        """The inverse relation: for every value in [0, n_columns) the rows that hold it, ascending."""
        return Ragged.from_pairs(self.values, self.owners().astype(np.int32), n_columns)
