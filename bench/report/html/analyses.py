"""What a page shows of `bench analyze`, as plain data."""

from dataclasses import dataclass

from bench.report.detail.analyses import StoredAnalysis
from bench.report.html.parts import Cell, Grid


@dataclass(frozen=True)
class AnalysisContent:
    """One analysis: its main table, its figures, and the words beside them."""

    name: str
    settings: str
    remarks: tuple[str, ...]
    grid: Grid | None
    figures: tuple[tuple[str, str], ...]  # names and data URIs
    missing: str


def analysis_content(stored: StoredAnalysis) -> AnalysisContent:
    """An analysis as it stands in a page."""
    grid = None
    if stored.header:
        note = f"The first {len(stored.lines)} of {stored.of} lines." if stored.of > len(stored.lines) else ""
        lines = tuple(tuple(Cell(text, _sorted_by(text)) for text in line) for line in stored.lines)
        grid = Grid("", stored.header, lines, note)
    return AnalysisContent(stored.name, stored.settings, stored.remarks, grid, stored.figures, stored.left_out)


def _sorted_by(text: str) -> float | str | None:
    """What a cell is sorted by: its number where it is one."""
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if number == number else None
