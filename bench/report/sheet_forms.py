"""A sheet for the terminal, in Markdown and in LaTeX. Names come out as typed in each of them."""

import re
import textwrap
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from bench.report import latex as tex
from bench.report import markdown as md
from bench.report.sheet import Cell, Sheet
from bench.report.terminal import Page

_WIDEST_STUB = 40
_PLAIN = {1: ("[", "]"), 2: ("(", ")")}
_STYLES = {1: "bold", 2: "underline"}
_MARKDOWN = {1: ("**", "**"), 2: ("<u>", "</u>")}
_LATEX = {1: (r"\textbf{", "}"), 2: (r"\underline{", "}")}


def text(sheets: list[Sheet], width: int, color: bool) -> str:
    """See `View.text`."""
    page = Page(width, color)
    for sheet in sheets:
        first, *rest = sheet.caption
        page.prose(first, "bold")
        for line in rest:
            page.prose(line)
        for columns in _panels(sheet, width):
            page.blank()
            for line in _above(sheet, columns) if sheet.grouped else ():
                page.prose(line)
            for number, section in enumerate(sheet.sections):
                if not number:
                    page.print(_panel(sheet, columns, color, (), header=True), width)
                if section.title:
                    page.prose(f"-- {section.title}", "dim" if color else "")
                page.print(_panel(sheet, columns, color, section.rows, header=False), width)
        page.blank()
        for note in sheet.notes:
            page.prose(note, "bold red" if note.startswith("!!") else "")
        if sheet.marks:
            page.prose("bold: best, underlined: second" if color else "[best], (second)")
        page.blank()
    return page.text()


def markdown(sheets: list[Sheet]) -> str:
    """See `View.markdown`."""
    parts: list[str] = []
    for sheet in sheets:
        first, *rest = map(md.escaped, sheet.caption)
        parts += [f"**{first}**", *rest]
        # Markdown has no header of two lines: the group stands in the first column of each.
        header = [" ".join(filter(None, pair)) for pair in _headings(sheet)]
        lines = []
        for section in sheet.sections:
            if section.title:
                lines.append([f"*{md.escaped(section.title)}*", *[""] * (len(header) - 1)])
            lines += [[_markdown_cell(each) for each in row] for row in section.rows]
        align = ["left" if number < sheet.stubs else "right" for number in range(len(header))]
        parts.append(tabulate(lines, header, "github", colalign=align, disable_numparse=True))
        legend = ["**best**, <u>second</u>"] if sheet.marks else []
        if notes := [f"- {each}" for each in [*map(md.escaped, sheet.notes), *legend]]:
            parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def latex(sheets: list[Sheet]) -> str:
    """See `View.latex`."""
    return "\n\n".join(_environment(sheet) for sheet in sheets) + "\n"


def _headings(sheet: Sheet) -> list[tuple[str, str]]:
    """For each column the group above it, where it is the first of the group, and its own heading; escaped."""
    above, previous = [], ""
    for group in sheet.groups:
        above.append(f"{md.escaped(group)}:" if group and group != previous else "")
        previous = group
    return list(zip(above, map(md.escaped, sheet.header), strict=True))


def _markdown_cell(each: Cell) -> str:
    left, right = _MARKDOWN.get(each.place, ("", ""))
    return f"{left}{md.escaped(each.text)}{right}" + ("\\*" if each.star else "")


def _environment(sheet: Sheet) -> str:
    columns = range(len(sheet.header))
    label = re.sub(r"[^A-Za-z0-9.]+", "-", sheet.name).strip("-")
    caption = tex.escaped(". ".join(sheet.caption))
    lines = [r"\begin{table*}[t]", r"\centering\small", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}"]
    body = columns[sheet.stubs :]
    aligned = "l" * sheet.stubs + "".join("|" + "r" * count for _, count in sheet.spans(body))
    lines += [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule"]
    if sheet.grouped:
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{tex.escaped(title)}}}" for title, count in sheet.spans(body)]
        lines.append(" & ".join([*[""] * sheet.stubs, *spans]) + r" \\")
    lines.append(" & ".join(map(tex.escaped, sheet.header)) + r" \\")
    for section in sheet.sections:
        lines.append(r"\midrule")
        if section.title:
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\textit{{{tex.escaped(section.title)}}}}} \\")
        for row in section.rows:
            lines.append(" & ".join([tex.first_cell(row[0].text), *map(_latex_cell, row[1:])]) + r" \\")
    legend = [r"\textbf{best}, \underline{second}"] if sheet.marks else []
    notes = ". ".join([*legend, *map(tex.escaped, sheet.notes)])
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        lines += ["", rf"\footnotesize {notes}."]
    return "\n".join([*lines, r"\end{table*}"])


def _latex_cell(each: Cell) -> str:
    left, right = _LATEX.get(each.place, ("", ""))
    return left + tex.escaped(each.text) + right + ("$^{*}$" if each.star else "")


def _plain(each: Cell) -> str:
    """A cell without colours, its marks in columns of their own, so that the last digits stand below each other."""
    left, right = _PLAIN.get(each.place, ("", " "))
    return f"{left}{each.text}{right}" + ("*" if each.star else " ")


def _panels(sheet: Sheet, width: int) -> list[list[int]]:
    """Columns that stand side by side, each panel with the stubs before them."""
    widths = _widths(sheet)
    stubs = list(range(sheet.stubs))
    room = width - sum(widths[number] + 1 for number in stubs)
    panels: list[list[int]] = [[]]
    used = 0
    for column in range(sheet.stubs, len(sheet.header)):
        if panels[-1] and used + widths[column] + 1 > room:
            panels.append([])
            used = 0
        panels[-1].append(column)
        used += widths[column] + 1
    return [[*stubs, *columns] for columns in panels]


def _widths(sheet: Sheet) -> list[int]:
    """Columns of the terminal that each column takes."""
    rows = list(sheet.rows())
    found = []
    for column, title in enumerate(sheet.header):
        # The heading ends where the numbers end, before the places of the marks.
        own = [cell_len(_plain(row[column])) for row in rows] if column >= sheet.stubs else []
        names = [cell_len(row[column].text) for row in rows] if column < sheet.stubs else []
        widest = max([cell_len(title) + (2 if column >= sheet.stubs else 0), *own, *names])
        found.append(min(widest, _WIDEST_STUB))
    # Room for the longest word of a group above its columns.
    at = 0
    for title, count in sheet.spans(range(len(sheet.header))):
        room = sum(found[at : at + count]) + count - 1
        found[at] += max(0, max((len(word) for word in title.split()), default=0) - room)
        at += count
    return found


def _above(sheet: Sheet, columns: list[int]) -> list[str]:
    """The lines with the groups above the columns, each cut to the width of its columns."""
    widths = _widths(sheet)
    parts, at = [], 0
    for title, count in sheet.spans(columns):
        room = sum(widths[number] + 1 for number in columns[at : at + count]) - 1
        parts.append((textwrap.wrap(title, room), room))
        at += count
    height = max(len(lines) for lines, _ in parts)
    return [
        " ".join((lines[line] if line < len(lines) else "").ljust(room) for lines, room in parts)
        for line in range(height)
    ]


def _panel(sheet: Sheet, columns: list[int], color: bool, rows: tuple[tuple[Cell, ...], ...], header: bool) -> Table:
    """Some rows of a panel, or its header, in columns of the same widths."""
    widths = _widths(sheet)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="", show_header=header)
    for number in columns:
        stub = number < sheet.stubs
        title = sheet.header[number] + ("" if stub else "  ")
        justify: Literal["left", "right"] = "left" if stub else "right"
        table.add_column(Text(title), justify=justify, width=widths[number], overflow="fold", vertical="bottom")
    for row in rows:
        table.add_row(*(_terminal_cell(row[number], number < sheet.stubs, color) for number in columns))
    return table


def _terminal_cell(each: Cell, stub: bool, color: bool) -> Text:
    if stub:
        return Text(each.text)
    if not color:
        return Text(_plain(each))
    return Text().append(each.text, _STYLES.get(each.place, "")).append(" " + ("*" if each.star else " "))
