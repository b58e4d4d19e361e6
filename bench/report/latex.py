"""A table as LaTeX: one `table` environment per block, with the package booktabs."""

import re
from itertools import groupby

from bench.evaluation.metrics import Metric
from bench.messages import one_line
from bench.report.captions import LIMIT_MARK, caption, columns, footnotes, marked, row_name, star_means
from bench.report.marks import Block

_MARKS = {1: (r"\textbf{", "}"), 2: (r"\underline{", "}")}
_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"}
_SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
_SPECIAL |= {
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    LIMIT_MARK: r"$^{\dagger}$",
}


def latex(blocks: list[Block], metrics: tuple[Metric, ...]) -> str:
    """See `Table.latex`."""
    return "\n\n".join(_environment(block, metrics) for block in blocks) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX that prints it as it stands."""
    text = "".join(_SPECIAL.get(character, character) for character in one_line(text))
    return text.replace("--", "-{}-")  # two hyphens would become a dash


def _environment(block: Block, metrics: tuple[Metric, ...]) -> str:
    group = block.group
    spans = [(task, len(list(each))) for task, each in groupby(columns(block, metrics), key=lambda column: column[0])]
    label = re.sub(r"[^A-Za-z0-9.]+", "-", f"{group.dataset['name']}-{group.candidates.label}").strip("-")
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        r"\caption{" + escaped(". ".join(caption(block))) + "}",
        r"\label{tab:" + label + "}",
        r"\begin{tabular}{l" + "".join("|" + "r" * count for _, count in spans) + "}",
        r"\toprule",
        " & ".join(["", *(rf"\multicolumn{{{count}}}{{c}}{{{task}}}" for task, count in spans)]) + r" \\",
        " & ".join(["model", *(str(metric) for _, metric in columns(block, metrics))]) + r" \\",
    ]
    for _, members in groupby(group.printed(), key=lambda pair: pair[1].group):
        lines.append(r"\midrule")
        for number, row in members:
            cells = [marked(block.shown(number, *column), _MARKS, "$^{*}$") for column in columns(block, metrics)]
            lines.append(" & ".join([first_cell(row_name(block, row)), *cells]) + r" \\")
    legend = rf"\textbf{{best}}, \underline{{second}} over all rows; $^{{*}}$ {escaped(star_means([block]))}"
    notes = [escaped(note) for note in footnotes(block)]
    lines += [r"\bottomrule", r"\end{tabular}", "", r"\footnotesize " + ". ".join([legend, *notes]) + "."]
    return "\n".join([*lines, r"\end{table}"])


def first_cell(text: str) -> str:
    """A first cell: at the start of a line LaTeX would read [ as a length and * as a variant of the line break."""
    return ("{}" if text[:1] in "[*" else "") + escaped(text)
