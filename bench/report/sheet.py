"""A table as cells, independent of the form in which it is written.

What a view of the results says is decided once, in a `Sheet`; text, Markdown, LaTeX and HTML only differ in how they
write it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bench.report.captions import decimal
from bench.report.marks import Estimate

IMPOSSIBLE = "?"  # behind a number that no ranking can have


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; the place among all rows (1 = best, 2 = second) and a star are shown as marks."""

    text: str
    place: int = 0
    star: bool = False


@dataclass(frozen=True)
class Section:
    """Rows of a sheet between two rules; each has as many cells as the sheet has columns."""

    title: str  # empty for none
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """One table; the first `stubs` columns name the row, and a `group` of a column stands above it (empty for none)."""

    name: str  # for the label in LaTeX
    caption: tuple[str, ...]
    header: tuple[str, ...]
    groups: tuple[str, ...]
    sections: tuple[Section, ...]
    stubs: int = 1
    notes: tuple[str, ...] = ()
    marks: bool = False  # whether the legend explains best and second

    def spans(self, columns: Sequence[int]) -> list[tuple[str, int]]:
        """Neighbouring columns that share a group: its title and their number."""
        return [(title, len(list(own))) for title, own in groupby(columns, key=lambda column: self.groups[column])]

    @property
    def grouped(self) -> bool:
        """Whether anything stands above the header."""
        return any(self.groups)

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """The rows of all sections."""
        for section in self.sections:
            yield from section.rows


def plain(value: Any) -> Any:
    """A value of a record; JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(estimate: Estimate | str | None) -> Cell:
    """What `Block.shown` gives: a mean with its marks; `-` where the task is not served."""
    if not isinstance(estimate, Estimate):
        return Cell("-" if estimate is None else estimate)
    return Cell(decimal(estimate.mean), estimate.rank if estimate.rank < 3 else 0, estimate.significant)
