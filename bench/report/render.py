"""A table as text, Markdown and LaTeX: best and second marked over all rows, evidence below."""

import math
import textwrap
from collections.abc import Iterator
from itertools import groupby

from tabulate import tabulate

from bench.evaluation.metrics import PRIMARY, Metric
from bench.report.comparison import LEVEL, MANY_TIES, Block, Estimate, synthetic
from bench.report.selection import Row, commas

_NAME_WIDTH = 40  # longer names take several lines
_BOLD, _UNDERLINE, _RED, _END = "\033[1m", "\033[4m", "\033[1;31m", "\033[0m"
_ANSI = {1: _BOLD, 2: _UNDERLINE}
# Where nothing can be bold or underlined. A sign of its own on each side keeps the star apart and costs one column.
_PLAIN = {1: ("[", "]"), 2: ("(", ")")}
_STAR_MEANS = f"best better than second over users, paired t-test and paired randomisation test both p < {LEVEL:g}"
_LIMIT_MARK = "†"
_Column = tuple[str, Metric]


def text(blocks: list[Block], metrics: tuple[Metric, ...], width: int, color: bool, details: bool) -> str:
    """See `Table.text`."""
    lines: list[str] = []
    for block in blocks:
        first, *rest = _caption(block)
        lines += _wrapped(first, width, _BOLD if color else "") + [
            line for each in rest for line in _wrapped(each, width)
        ]
        lines += ["", *_panels(block, metrics, width, color), ""]
        for note in _notes(block):
            lines += _wrapped(note, width, _RED if color and note.startswith("!!") else "")
        if details:
            lines += [line for task in block.tasks for line in ["", *_details(block, task, width)]]
        lines.append("")
    marks = "bold: best, underlined: second" if color else "[best], (second)"
    lines += _wrapped(f"{marks} over all rows; * {_STAR_MEANS}; - task not served", width)
    return "\n".join(lines)


def markdown(blocks: list[Block], metrics: tuple[Metric, ...], details: bool) -> str:
    """See `Table.markdown`."""
    parts: list[str] = []
    for block in blocks:
        first, *rest = _caption(block)
        columns = _columns(block, metrics)
        header = ["model", *(f"{task} {metric}" for task, metric in columns)]
        rows = [
            [
                _name(block, row).replace("|", "\\|"),
                *(_marked_down(block.estimates.get((number, *column))) for column in columns),
            ]
            for number, row in enumerate(block.group.rows)
        ]
        parts += [f"**{first}**", *rest, _github(header, rows)]
        if notes := list(_notes(block)):
            parts.append("\n".join(f"- {note}" for note in notes))
        if details:
            for task in block.tasks:
                title, header, rows = _tests(block, task)
                parts += [title, _github(header, rows)]
    parts.append(f"**best**, <u>second</u> over all rows; \\* {_STAR_MEANS}; - task not served.")
    return "\n\n".join(parts) + "\n"


def latex(blocks: list[Block], metrics: tuple[Metric, ...]) -> str:
    """See `Table.latex`."""
    parts = []
    for block in blocks:
        columns = _columns(block, metrics)
        spans = [(task, len(list(each))) for task, each in groupby(columns, key=lambda column: column[0])]
        lines = [
            r"\begin{table}[t]",
            r"\centering\small",
            r"\caption{" + _escaped(". ".join(_caption(block))) + "}",
            r"\label{tab:" + f"{block.group.dataset['name']}-{block.group.candidates.label}".replace("_", "-") + "}",
            r"\begin{tabular}{l" + "".join("|" + "r" * count for _, count in spans) + "}",
            r"\toprule",
            " & ".join(["", *(rf"\multicolumn{{{count}}}{{c}}{{{task}}}" for task, count in spans)]) + r" \\",
            " & ".join(["model", *(str(metric) for _, metric in columns)]) + r" \\",
        ]
        for _, members in groupby(enumerate(block.group.rows), key=lambda pair: pair[1].group):
            lines.append(r"\midrule")
            for number, row in members:
                name = _escaped(_name(block, row)).replace(_LIMIT_MARK, r"$^{\dagger}$")
                cells = [_in_latex(block.estimates.get((number, *column))) for column in columns]
                lines.append(" & ".join([name, *cells]) + r" \\")
        legend = rf"\textbf{{best}}, \underline{{second}} over all rows; $^{{*}}$ {_escaped(_STAR_MEANS)}"
        notes = [_escaped(note).replace(_LIMIT_MARK, r"$^{\dagger}$") for note in _notes(block)]
        lines += [
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\footnotesize " + ". ".join([legend, *notes]) + ".",
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _columns(block: Block, metrics: tuple[Metric, ...]) -> list[_Column]:
    return [(task, metric) for task in block.tasks for metric in metrics]


def _caption(block: Block) -> list[str]:
    """What was compared on what, in lines."""
    group = block.group
    data, drawn = group.dataset, group.candidates
    seeds = sorted({seed for row in group.rows if not row.closed_form for seed in row.seeds}) or [0]
    counts = ", ".join(f"{task} {rows} rows of {users} users" for task, (users, rows) in block.rows_of.items())
    made_up = synthetic(data)
    return [
        f"{data['title']}: split {data['split']}, mode {data['mode']}, budget {group.budget}, "
        f"seed{'s' if len(seeds) > 1 else ''} {commas(seeds)}",
        f"candidates {drawn.label}, seed {drawn.seed}, fingerprint {drawn.fingerprint[:12]}",
        *([f"synthetic: {made_up}"] if made_up else []),
        f"tested on {counts}; primary metric {PRIMARY}, means over users",
    ]


def _notes(block: Block) -> Iterator[str]:
    """Footnotes, the gravest first."""
    everybody = len(block.group.rows)
    ties = []
    for note in block.notes:
        who = "all models" if len(note.rows) == everybody > 1 else ", ".join(note.rows)
        if note.kind == "leak":
            yield f"!! {note.text} ({who})"
        elif note.kind == "limit":
            yield f"{_LIMIT_MARK} {note.text}: {who}"
        elif note.kind == "ties":
            ties.append(f"{who} {note.text.removeprefix('ties in ')}")
        else:
            yield f"{note.text}: {who}"
    if ties:
        meaning = f"positive tied in more than {MANY_TIES:.0%} of rows (metrics are the mean over their orders)"
        yield f"{meaning}: {'; '.join(ties)}"
    if any(len(row.seeds) > 1 for row in block.group.rows if not row.closed_form):
        yield "several seeds: means over them; the details show their spread"
    yield from block.group.notes


def _name(block: Block, row: Row) -> str:
    stopped = any(note.kind == "limit" and row.label in note.rows for note in block.notes)
    return row.label + (_LIMIT_MARK if stopped else "")


def _panels(block: Block, metrics: tuple[Metric, ...], width: int, color: bool) -> list[str]:
    """The numbers, tasks side by side where they fit and below each other where they do not."""
    names = [
        textwrap.wrap(_name(block, row), min(_NAME_WIDTH, width // 2), subsequent_indent="  ")
        for row in block.group.rows
    ]
    side = max(len(line) for name in [["model"], *names] for line in name)
    cells = {key: _cell(estimate, color) for key, estimate in block.estimates.items()}
    room = max([len(shown) for shown, _ in cells.values()] + [len(str(metric)) + 3 for metric in metrics])
    # A panel is a list of groups of columns of one task; each group costs two more columns for its border.
    panels: list[list[list[_Column]]] = [[]]
    left = width - side
    for task in block.tasks:
        fits = max(1, (width - side - 2) // (room + 1))
        for low in range(0, len(metrics), fits):
            group = [(task, metric) for metric in metrics[low : low + fits]]
            need = 2 + len(group) * (room + 1)
            if need > left and panels[-1]:
                panels.append([])
                left = width - side
            panels[-1].append(group)
            left -= need
    lines: list[str] = []
    for panel in panels:
        lines += [""] if lines else []
        lines += _panel(block, panel, names, cells, side, room)
    return lines


def _panel(
    block: Block,
    panel: list[list[_Column]],
    names: list[list[str]],
    cells: dict[tuple[int, str, Metric], tuple[str, str]],
    side: int,
    room: int,
) -> list[str]:
    def line(first: str, groups: list[list[str]], between: str = " |") -> str:
        return (first.ljust(side) + "".join(between + "".join(group) for group in groups)).rstrip()

    spans = [len(group) * (room + 1) for group in panel]
    lines = [
        line("", [[f" {group[0][0]}".ljust(span)] for group, span in zip(panel, spans, strict=True)]),
        line("model", [[" " + f"{metric}  ".rjust(room) for _, metric in group] for group in panel]),
    ]
    previous = None
    for number, (row, name) in enumerate(zip(block.group.rows, names, strict=True)):
        if row.group != previous:
            title = f"{row.group} ".ljust(side, "-")
            lines.append(line(title, [["-" * span] for span in spans], "-+"))
            previous = row.group
        values = []
        for group in panel:
            found = [cells.get((number, *column), ("-  ", "-  ")) for column in group]
            values.append([" " + " " * (room - len(shown)) + printed for shown, printed in found])
        lines.append(line(name[0], values))
        lines += [line(rest, [[" " * span] for span in spans]) for rest in name[1:]]
    return lines


def _cell(estimate: Estimate, color: bool) -> tuple[str, str]:
    """A number with its marks: as it is seen, and as it is printed. The last two columns are for marks."""
    number, star = _number(estimate.mean), "*" if estimate.significant else " "
    if color:
        code = _ANSI.get(estimate.rank, "")
        return f"{number}{star} ", f"{code}{number}{_END if code else ''}{star} "
    left, right = _PLAIN.get(estimate.rank, (" ", " "))
    return (f"{left}{number}{right}{star}",) * 2


def _details(block: Block, task: str, width: int) -> list[str]:
    """The comparison on the primary metric; needs about 80 columns."""
    title, header, rows = _tests(block, task)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    room = max(12, width - sum(widths[1:]) - 2 * len(widths[1:]))
    widths[0] = min(room, widths[0])
    lines = _wrapped(title, width)
    for row in [header, ["-" * each for each in widths], *rows]:
        first, *rest = textwrap.wrap(row[0], widths[0], subsequent_indent="  ")
        numbers = [value.rjust(each) for value, each in zip(row[1:], widths[1:], strict=True)]
        lines += ["  ".join([first.ljust(widths[0]), *numbers]).rstrip(), *rest]
    return lines


def _tests(block: Block, task: str) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows of the comparison on the primary metric, best first."""
    found = [
        (row, block.estimates[number, task, PRIMARY])
        for number, row in enumerate(block.group.rows)
        if (number, task, PRIMARY) in block.estimates
    ]
    found.sort(key=lambda pair: pair[1].rank)
    best = found[0][0].label
    title = (
        f"{task} {PRIMARY}: {best} against each (difference, p of the paired t-test, of the randomisation test and "
        "of both after Holm, Cohen's d, smallest difference found with power .8)"
    )
    header = ["model", str(PRIMARY), "std", "95 % interval", "differ.", "p t", "p rand", "p Holm", "d", "detect."]
    rows = []
    for place, (row, estimate) in enumerate(found):
        against = estimate.against if place else None
        tests = [""] * 6
        if against:
            levels = [_level(p) for p in (against.p_t, against.p_randomisation, estimate.p_holm)]
            tests = [_number(against.difference), *levels, f"{against.effect:.2f}", _number(against.detectable)]
        interval = f"{_number(estimate.low)} to {_number(estimate.high)}"
        rows.append([_name(block, row), _number(estimate.mean), _number(estimate.std), interval, *tests])
    return title, header, rows


def _marked_down(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    left, right = {1: ("**", "**"), 2: ("<u>", "</u>")}.get(estimate.rank, ("", ""))
    return left + _number(estimate.mean) + right + ("\\*" if estimate.significant else "")


def _in_latex(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    number = _number(estimate.mean)
    number = {1: rf"\textbf{{{number}}}", 2: rf"\underline{{{number}}}"}.get(estimate.rank, number)
    return number + ("$^{*}$" if estimate.significant else "")


def _github(header: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, header, "github", colalign=("left", *["right"] * (len(header) - 1)), disable_numparse=True)


def _number(value: float) -> str:
    """`.612`; empty where there is no number."""
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return "" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", 1)


def _level(p: float) -> str:
    return "" if math.isnan(p) else "<.001" if p < 0.001 else _number(p)


def _wrapped(line: str, width: int, code: str = "") -> list[str]:
    wrapped = textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    return [f"{code}{each}{_END}" if code else each for each in wrapped]


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}


def _escaped(words: str) -> str:
    return "".join(_LATEX.get(character, character) for character in words)
