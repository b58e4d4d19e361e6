"""The section on lists of ten: what they hold beside the clicked item, and how far two models agree."""

from typing import Any

from bench.report.captions import decimal
from bench.report.detail.data import TableData
from bench.report.detail.lists import ListMeasures, list_measures
from bench.report.html.parts import Cell, Grid, Section
from bench.report.marks import Block

ADD_LISTS = "bench evaluate RUN --candidates KIND --top-lists adds them to finished runs."


def beyond_accuracy(
    block: Block, labels: list[str], lists: dict[str, Any], data: TableData | None, without: str
) -> Section:
    """What stored lists hold and how they agree; `without` says why there are no data, if so."""
    section = Section("beyond", "Beyond accuracy", missing=without)
    for task in block.tasks if data else ():
        if found := list_measures(lists[task], task, data):  # type: ignore[arg-type]  # there is no task without data
            section.grids += [_measure_grid(found, labels), _agreement_grid(found, labels)]
    if section.grids:
        if block.group.candidates.strategy != "full":
            section.intro = (
                "These lists are the best ten of drawn candidates: the draw decides much of what they hold. Compare "
                "models, and read the numbers as properties of a model on the full catalogue only."
            )
    elif data:
        section.missing = f"No run of this table keeps its lists: {ADD_LISTS}"
    return section


def _measure_grid(found: ListMeasures, labels: list[str]) -> Grid:
    lines = tuple(
        (
            Cell(labels[number], labels[number]),
            Cell(f"{each.coverage:.1%}", each.coverage),
            Cell(decimal(each.gini), each.gini),
            Cell(f"{each.popularity:,.1f}", each.popularity),
            Cell(f"{each.novelty:.2f}", each.novelty),
        )
        for number, each in zip(found.numbers, found.measures, strict=True)
    )
    header = ("model", "coverage of the catalogue", "Gini", "mean popularity", "novelty, bits")
    note = (
        "Of the ten best candidates of each row, first seed. Popularity: training events of an item; novelty: its "
        "self-information."
    )
    return Grid(f"{found.task}: lists of ten", header, lines, note)


def _agreement_grid(found: ListMeasures, labels: list[str]) -> Grid:
    names = [labels[number] for number in found.numbers]
    lines = tuple(
        (
            Cell(names[a], names[a]),
            *(
                Cell("", None, "missing")
                if a == b
                else Cell(f"{found.agreement[a, b]:.0%}", float(found.agreement[a, b]))
                for b in range(len(names))
            ),
        )
        for a in range(len(names))
    )
    title = f"{found.task}: items that the lists of two models have in common"
    return Grid(title, ("model", *names), lines, "Mean share of a list of ten.", folded=len(names) > 6)
