"""A table as GitHub's Markdown: names and titles come out as typed, whatever Markdown or HTML they hold."""

import html
import re

from tabulate import tabulate

from bench.evaluation.metrics import Metric
from bench.messages import one_line
from bench.report.captions import caption, columns, footnotes, marked, row_name, star_means, tests
from bench.report.marks import Block
from bench.report.rows import Row, UnfinishedRow

_MARKS = {1: ("**", "**"), 2: ("<u>", "</u>")}
_SPECIAL = re.compile(r"([\\`*_\[\]#|~])")
_AUTOLINK = re.compile(r"(?i)\b(https?|ftp|mailto|www)([:.])|(?<=[\w.+-])@(?=[\w-]+\.)")


def markdown(blocks: list[Block], metrics: tuple[Metric, ...], details: bool) -> str:
    """See `Table.markdown`."""
    parts: list[str] = []
    for block in blocks:
        first, *rest = map(escaped, caption(block))
        header = ["model", *(f"{task} {metric}" for task, metric in columns(block, metrics))]
        rows = [
            [
                _name(block, row),
                *(marked(block.shown(number, *column), _MARKS, "\\*") for column in columns(block, metrics)),
            ]
            for number, row in block.group.printed()
        ]
        parts += [f"**{first}**", *rest, _table(header, rows)]
        if notes := [f"- {escaped(note)}" for note in footnotes(block)]:
            parts.append("\n".join(notes))
        if details:
            for task in block.tasks:
                title, header, rows = tests(block, task, _name)
                parts += [escaped(title), _table(header, rows)]
    parts.append(f"**best**, <u>second</u> over all rows; \\* {star_means(blocks)}; - task not served.")
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Text as Markdown that shows it as it stands: no emphasis, links, code, cells or HTML.

    An underscore within a word is no emphasis on GitHub and stays.
    """
    text = html.escape(one_line(text), quote=False)
    text = re.sub(r"(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])", "_", _SPECIAL.sub(r"\\\1", text))
    text = text.replace("$", "&#36;")  # GitHub reads $...$ as a formula
    # What looks like an address becomes a link without any sign that could be escaped.
    return _AUTOLINK.sub(lambda match: f"{match[1]}<!-- -->{match[2]}" if match[1] else "&#64;", text)


def _name(block: Block, row: Row | UnfinishedRow) -> str:
    return escaped(row_name(block, row))


def _table(header: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, header, "github", colalign=("left", *["right"] * (len(header) - 1)), disable_numparse=True)
