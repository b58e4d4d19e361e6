"""A table for the terminal: rows by group, tasks side by side where they fit, evidence below.

Widths are counted in terminal columns, of which a Chinese character takes two.
"""

import io
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.evaluation.metrics import Metric
from bench.report.captions import Column, caption, columns, decimal, footnotes, row_name, star_means, tests
from bench.report.marks import Block, Estimate

_NAME_WIDTH = 40  # longer names take several lines
_STYLES = {1: "bold", 2: "underline"}
# Where nothing can be bold or underlined. A sign of its own on each side keeps the star apart and costs one column.
_PLAIN = {1: ("[", "]"), 2: ("(", ")")}
_LEAST_NAME_WIDTH = 12
_UNBOUNDED = 10_000
_DIGITS = len("[1.000")
_CELL_WIDTH = len("[1.000]*")
_GAP = 1  # columns between two numbers; two tasks have one more


def text(blocks: list[Block], metrics: tuple[Metric, ...], width: int, color: bool, details: bool) -> str:
    """See `Table.text`."""
    page = Page(width, color)
    for block in blocks:
        first, *rest = caption(block)
        page.prose(first, "bold")
        for line in rest:
            page.prose(line)
        for panel in _panels(block, metrics, width):
            page.blank()
            page.print(_panel(block, panel, width, color), width)
        page.blank()
        for note in footnotes(block):
            page.prose(note, "bold red" if note.startswith("!!") else "")
        for task in block.tasks if details else ():
            title, header, rows = tests(block, task, row_name)
            page.blank()
            page.prose(title)
            page.print(*_aligned(header, rows, width))
        page.blank()
    marks = "bold: best, underlined: second" if color else "[best], (second)"
    page.prose(f"{marks} over all rows; * {star_means(blocks)}; - task not served")
    return page.text()


class Page:
    """Collects what is printed, within a width in terminal columns."""

    def __init__(self, width: int, color: bool):
        self._stream = io.StringIO()
        self._width = width
        self._console = Console(
            file=self._stream,
            width=_UNBOUNDED,
            force_terminal=color,
            color_system="standard" if color else None,
            highlight=False,
            legacy_windows=False,
            _environ={},  # the caller decides about colours
        )

    def blank(self) -> None:
        """An empty line."""
        self._console.print()

    def print(self, table: Table, width: int) -> None:
        """A table of at most `width` columns."""
        self._console.print(table, width=width)

    def prose(self, line: str, style: str = "") -> None:
        """A sentence on as many lines as it needs, the further ones indented."""
        first, *rest = Text(line, style).wrap(self._console, self._width - 2)
        for each in (first, *(Text("  ").append_text(part) for part in rest)):
            self._console.print(each)

    def text(self) -> str:
        """All lines, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self._stream.getvalue().splitlines())


def _panels(block: Block, metrics: tuple[Metric, ...], width: int) -> list[list[Column]]:
    """Columns that stand side by side; a task is cut only where it does not fit on its own."""
    room = width - _name_width(block, width)
    panels: list[list[Column]] = [[]]
    for _, each in groupby(columns(block, metrics), key=lambda column: column[0]):
        task = list(each)
        fit = max(1, (room - _GAP) // (_CELL_WIDTH + _GAP))
        for low in range(0, len(task), fit):
            part = task[low : low + fit]
            if panels[-1] and _needed([*panels[-1], *part]) > room:
                panels.append([])
            panels[-1] += part
    return panels


def _needed(panel: list[Column]) -> int:
    return len(panel) * (_CELL_WIDTH + _GAP) + _GAP * len({task for task, _ in panel})


def _name_width(block: Block, width: int) -> int:
    names = [text for _, row in block.group.printed() for text in (row_name(block, row), _group_title(row.group))]
    return min(max(map(cell_len, ["model", *names])), _NAME_WIDTH, width // 2)


def _group_title(group: str) -> str:
    return f"-- {group}"


def _panel(block: Block, panel: list[Column], width: int, color: bool) -> Table:
    """One table; its first line names each task above its first column."""
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="")
    table.add_column(Text("\nmodel"), width=_name_width(block, width), overflow="fold")
    previous = ""
    for task, metric in panel:
        if task != previous:
            table.add_column(width=0)
        above = f" {task}" if task != previous else ""
        table.add_column(Text(f"{above}\n{metric!s:>{_DIGITS}}"), width=_CELL_WIDTH, no_wrap=True)
        previous = task
    for group, members in groupby(block.group.printed(), key=lambda pair: pair[1].group):
        table.add_row(Text(_group_title(group), "dim" if color else ""))
        for number, row in members:
            cells: list[Text] = []
            for task, each in groupby(panel, key=lambda column: column[0]):
                cells.append(Text())
                cells += [_cell(block.shown(number, task, metric), color) for _, metric in each]
            table.add_row(Text(row_name(block, row)), *cells)
    return table


def _cell(estimate: Estimate | str | None, color: bool) -> Text:
    """A number with its marks; the last digits of all numbers stand below each other."""
    if not isinstance(estimate, Estimate):
        return Text(("-" if estimate is None else estimate).rjust(_DIGITS))
    number, star = decimal(estimate.mean), "*" if estimate.significant else ""
    if color:
        return Text(" " * (_DIGITS - len(number))).append(number, _STYLES.get(estimate.rank, "")).append(star)
    left, right = _PLAIN.get(estimate.rank, (" ", " "))
    return Text(f"{left + number:>{_DIGITS}}{right}{star}")


def _aligned(header: list[str], rows: list[list[str]], width: int) -> tuple[Table, int]:
    """Columns of text and their width together: the first column is folded where it is long, the others are not cut."""
    widths = [max(cell_len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rest = sum(widths[1:]) + 2 * len(widths[1:])
    widths[0] = min(max(_LEAST_NAME_WIDTH, width - rest), widths[0])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, (name, each) in enumerate(zip(header, widths, strict=True)):
        table.add_column(name, justify="right" if number else "left", width=each, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table, widths[0] + rest
