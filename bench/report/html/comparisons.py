"""Sections that compare the models of a block: the tables, all pairs, both ways of ranking, kinds of rows."""

from collections.abc import Sequence

from bench.evaluation.metrics import PRIMARY, Metric
from bench.report.captions import decimal, row_name, star_means
from bench.report.detail.data import TableData
from bench.report.detail.other_candidates import BothWays, both_ways
from bench.report.detail.strata import Strata, strata
from bench.report.html import charts as drawn
from bench.report.html.parts import Cell, Grid, Section
from bench.report.marks import Block
from bench.report.pairs import PairMatrix


def main_table(block: Block, task: str, metrics: Sequence[Metric], labels: list[str]) -> Grid:
    """The table of a task: a line for each model, a column for each metric."""
    lines = []
    several = any(len(row.seeds) > 1 for row in block.group.rows)
    for number, row in enumerate(block.group.rows):
        if number not in block.ranks[task]:
            continue
        cells = [Cell(labels[number], labels[number]), Cell(row.group, row.group)]
        for metric in metrics:
            estimate = block.estimates.get((number, task, metric))
            if estimate is None:
                cells.append(Cell("-", None, "missing"))
                continue
            look = {1: "best", 2: "second"}.get(estimate.rank, "")
            text = decimal(estimate.mean) + ("*" if estimate.significant else "")
            cells.append(Cell(text, estimate.mean, look, number))
        primary = block.estimates[number, task, PRIMARY]
        cells.append(Cell(f"{decimal(primary.low)} to {decimal(primary.high)}", primary.low))
        if several:
            known = primary.std == primary.std
            cells.append(Cell(decimal(primary.std), primary.std) if known else Cell("-", None, "missing"))
        lines.append(tuple(cells))
    empty = [Cell("", None, "missing")] * (len(metrics) + 1 + several)
    for each in block.group.unfinished:
        if task in each.tasks:
            lines.append((Cell(row_name(block, each), each.label), Cell(each.group, each.group), *empty))
    header = ["model", "group", *map(str, metrics), f"{PRIMARY}, 95 %"]
    if several:
        header.append(f"{PRIMARY}, std over seeds")
    note = f"Bold: best; underlined: second; *: {star_means([block])}. A number leads to the rows behind it."
    return Grid(task, tuple(header), tuple(lines), note, task)


def pair_differences(block: Block, labels: list[str]) -> Section:
    """The differences of all pairs on the primary metric, as a chart and as a folded table for each task."""
    section = Section("pairs", "Differences of all pairs")
    for task in block.tasks:
        found, numbers = block.pairs(task), block.moments[task, PRIMARY].numbers
        if len(numbers) < 2:
            continue
        section.charts.append(drawn.pair_chart(found, [labels[number] for number in numbers], task))
        section.grids.append(_pair_grid(found, numbers, labels, task))
    if not section.charts:
        section.missing = "There is one model only."
    return section


def _pair_grid(found: PairMatrix, numbers: Sequence[int], labels: list[str], task: str) -> Grid:
    names = [labels[number] for number in numbers]
    lines = [
        (
            Cell(names[a], names[a]),
            *(
                Cell("", None, "missing")
                if a == b
                else Cell(
                    f"{found.difference[a, b]:+.3f} ({found.low[a, b]:+.3f} to {found.high[a, b]:+.3f})",
                    float(found.difference[a, b]),
                    "",
                    numbers[a],
                    numbers[b],
                )
                for b in range(len(names))
            ),
        )
        for a in range(len(names))
    ]
    title = f"{task}: {PRIMARY}, row minus column, with 95 % interval"
    over = "users and seeds" if found.methods.all() else "users; with one seed they are of these trained models only"
    note = f"The interval of each pair alone, over {over}. The dots of the chart allow for looking at all pairs."
    return Grid(title, ("model", *names), tuple(lines), note, task, folded=True)


def sampled_against_full(block: Block, labels: list[str]) -> Section:
    """The primary metric on drawn candidates beside that on the full catalogue, where models have both."""
    section = Section("full", "Sampled against full ranking")
    for task in block.tasks:
        both = both_ways(block, task)
        if both is None:
            continue
        section.grids.append(_both_grid(both, labels))
        section.charts.append(drawn.both_ways_chart(both, labels))
    if not section.charts:
        section.missing = (
            "No model was ranked on drawn candidates and on the full catalogue: "
            "bench evaluate RUN --candidates full does it without training."
        )
    return section


def _both_grid(both: BothWays, labels: list[str]) -> Grid:
    lines = tuple(
        (Cell(labels[number], labels[number]), Cell(decimal(a), a), Cell(f"{b:.4f}", b))
        for number, a, b in zip(both.numbers, both.on_drawn, both.on_full, strict=True)
    )
    pairs = len(both.numbers) * (len(both.numbers) - 1) // 2
    note = f"Kendall's tau {both.tau:.2f}; {len(both.reversed)} of {pairs} pairs stand in the opposite order."
    if both.reversed:
        named = [f"{labels[a]} above {labels[b]} on {both.drawn} only" for a, b in both.reversed[:5]]
        note += f" {'; '.join(named)}{'; and others' if len(both.reversed) > 5 else ''}."
    return Grid(f"{both.task}: {PRIMARY}", ("model", both.drawn, both.full), lines, note)


def by_strata(block: Block, labels: list[str], data: TableData | None, without: str) -> Section:
    """The primary metric by kinds of rows; `without` says why there are no data, if so."""
    section = Section("strata", f"Strata: {PRIMARY} by kinds of rows", missing=without)
    whole: list[str] = []
    for task in block.tasks if data else ():
        for divided in strata(block, task, data):  # type: ignore[arg-type]  # there is no task without data
            if len(divided.strata) == 1:
                whole.append(f"{task}: {divided.title} {divided.strata[0].name}")
                continue
            section.grids.append(_strata_grid(divided, labels, task))
            section.charts.append(drawn.strata_chart(divided, labels, task))
    if whole:
        section.intro = f"Alike in all rows: {'; '.join(whole)}."
    return section


def _strata_grid(divided: Strata, labels: list[str], task: str) -> Grid:
    best = [max(cell.mean for cell in stratum.cells) for stratum in divided.strata]
    lines = [
        (
            Cell(labels[first.number], labels[first.number]),
            *(
                Cell(
                    decimal(cell.mean),
                    cell.mean,
                    "best" if cell.mean == top else "",
                    cell.number,
                )
                for cell, top in zip((stratum.cells[place] for stratum in divided.strata), best, strict=True)
            ),
        )
        for place, first in enumerate(divided.strata[0].cells)
    ]
    sizes = "; ".join(f"{each.name}: {each.rows:,} rows of {each.users:,} users" for each in divided.strata)
    header = ("model", *(each.name for each in divided.strata))
    return Grid(f"{task} by {divided.title}", header, tuple(lines), sizes + ".", task)
