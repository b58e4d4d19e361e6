"""What a page is made of: cells, tables that can be sorted, and sections."""

from dataclasses import dataclass, field

from bench.report.html.charts import Chart


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the value it is sorted by, its look, and the rows that stand behind it."""

    text: str
    value: float | str | None = None
    look: str = ""  # best, second, missing
    model: int | None = None  # number of the row in the table
    against: int | None = None


@dataclass(frozen=True)
class Grid:
    """A table that can be sorted: header, and lines of cells, the first of which is a name. `task` leads to its rows."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    note: str = ""
    task: str = ""
    folded: bool = False


@dataclass
class Section:
    """A part of the page. `missing` says why it is empty."""

    id: str
    title: str
    intro: str = ""
    grids: list[Grid] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    missing: str = ""


def amount(value: float | None) -> Cell:
    """A cell with a count or a measured amount; a dash where it is unknown."""
    if value is None:
        return Cell("-", None, "missing")
    return Cell(f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}", float(value))
