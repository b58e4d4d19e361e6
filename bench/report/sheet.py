"""A table as cells, independent of the form in which it is written, and its forms for people.

What a view of the results says is decided once, in a `Sheet`; text, Markdown, LaTeX and HTML only differ in how they
write it.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bench.report.captions import decimal
from bench.report.comparison import Estimate

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


@dataclass(frozen=True)
class View:
    """Sheets with the records behind them, which are made where they are asked for."""

    sheets: list[Sheet]
    make_records: Callable[[], list[dict[str, Any]]]

    def records(self) -> list[dict[str, Any]]:
        """Flat records; what does not exist is None."""
        return self.make_records()

    def text(self, width: int = 100, color: bool = False) -> str:
        """For the terminal: columns that do not fit into `width` follow below."""
        from bench.report.sheet_forms import text

        return text(self.sheets, width, color)

    def markdown(self) -> str:
        """GitHub's tables."""
        from bench.report.sheet_forms import markdown

        return markdown(self.sheets)

    def latex(self) -> str:
        """One `table` environment a sheet; needs the package booktabs."""
        from bench.report.sheet_forms import latex

        return latex(self.sheets)

    def html(self) -> str:
        """A page that needs nothing but itself."""
        from bench.report.html_table import html

        return html(self.sheets)

    def json(self) -> str:
        """The records as a JSON list."""
        return json.dumps(self.records(), indent=1)

    def csv(self) -> str:
        """The records as CSV with a header line; what does not exist is empty."""
        stream, records = io.StringIO(), self.records()
        writer = csv.DictWriter(stream, list(records[0]) if records else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue()


def plain(value: Any) -> Any:
    """A value of a record; JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(estimate: Estimate | None) -> Cell:
    """A mean with its marks; `-` where the task is not served."""
    if estimate is None:
        return Cell("-")
    return Cell(decimal(estimate.mean), estimate.rank if estimate.rank < 3 else 0, estimate.significant)
