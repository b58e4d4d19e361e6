"""What a page shows of one block of a table: its tables, charts, single rows and provenance, as plain data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.evaluation.finding import Finding, in_order
from bench.evaluation.metrics import PRIMARY, Metric
from bench.report.captions import caption, decimal, row_name, star_means
from bench.report.detail.costs import KINDS, Cost, costs
from bench.report.detail.curves import curves
from bench.report.detail.data import TableData, open_table_data
from bench.report.detail.lists import ListMeasures, list_measures, task_lists
from bench.report.detail.other_candidates import BothWays, both_ways
from bench.report.detail.single_rows import SingleRows, single_rows
from bench.report.detail.strata import Strata, strata
from bench.report.detail.tuning import searches
from bench.report.findings import of_table
from bench.report.html import charts as drawn
from bench.report.html.charts import Chart
from bench.report.marks import Block
from bench.report.pairs import PairMatrix


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


@dataclass
class BlockContent:
    """One data set on one candidate set."""

    prefix: str  # of the ids and files of this block
    title: str
    caption: list[str]
    labels: list[str]
    findings: list[Finding]
    remarks: list[str]
    sections: list[Section]
    rows: dict[str, SingleRows]
    rows_note: str
    provenance: list[tuple[str, str]]
    configs: list[tuple[str, str]]

    @property
    def charts(self) -> list[Chart]:
        """All charts of the block."""
        return [chart for section in self.sections for chart in section.charts]


def block_content(
    block: Block, metrics: Sequence[Metric], root: str | Path | None, prefix: str, each_way: int
) -> BlockContent:
    """Everything a page shows of a block.

    Args:
        block: of a table.
        metrics: that the tables show.
        root: folder of the prepared data; None for the default one.
        prefix: of ids and names of charts, where a page has several blocks.
        each_way: largest losses and wins of each model among the single rows.

    Raises:
        RunError: a file of a run is missing, damaged or changed.
    """
    opened = open_table_data(block.group.dataset, root)
    data = opened if isinstance(opened, TableData) else None
    without = "" if data else f"{opened}; give its folder with --data."
    labels = [row_name(block, row) for row in block.group.rows]
    lists = {task: task_lists(block, task) for task in block.tasks}
    sections = [
        Section("tables", "Tables", grids=[_main(block, task, metrics, labels) for task in block.tasks]),
        _curves(block, labels),
        _tuning(block, labels),
        _pairs(block, labels),
        _costs(block, labels),
        _both_ways(block, labels),
        _strata(block, labels, data, without),
        _beyond(block, labels, lists, data, without),
    ]
    for section in sections:
        section.charts = [_named(chart, prefix) for chart in section.charts]
    rows = {task: single_rows(block, task, data, lists[task], each_way) for task in block.tasks}
    kept = all(lists.values())
    note = "" if kept else f"Without lists there is no top 10 to show: {_ADD_LISTS}"
    return BlockContent(
        prefix=prefix,
        title=f"{block.group.dataset.get('title') or block.group.dataset['name']}, {block.group.candidates.label}",
        caption=caption(block),
        labels=labels,
        findings=in_order([*of_table([block]), *block.findings]),
        remarks=list(block.group.notes),
        sections=sections,
        rows=rows,
        rows_note=" ".join(each for each in (without and f"Texts and histories are missing: {without}", note) if each),
        provenance=_provenance(block),
        configs=[
            (label, _config(row.runs[0].record.config)) for label, row in zip(labels, block.group.rows, strict=True)
        ],
    )


_ADD_LISTS = "bench evaluate RUN --candidates KIND --top-lists adds them to finished runs."


def _main(block: Block, task: str, metrics: Sequence[Metric], labels: list[str]) -> Grid:
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


def _curves(block: Block, labels: list[str]) -> Section:
    section = Section("curves", "Learning curves")
    points = curves(block)
    names = sorted({point.name for point in points}, key=lambda name: (name == "train/loss", name))
    wanted = [f"{task}/{PRIMARY}" for task in block.tasks]
    shown = [name for name in names if name in wanted or name == "train/loss"] or names
    section.charts = [chart for name in shown if (chart := drawn.learning_curves(points, name, labels))]
    if not section.charts:
        section.missing = "No model of this table was trained in steps."
    return section


def _tuning(block: Block, labels: list[str]) -> Section:
    section = Section("tuning", "Tuning history")
    found = searches(block)
    if chart := drawn.tuning_chart(found, labels):
        section.charts = [chart]
    if not found:
        section.missing = "No search of settings (bench tune) on these data is in the results folder."
        return section
    lines = []
    for study in found:
        spent, best = study.spent(), study.best
        default = study.of_default[0] if study.of_default else None
        settings = ", ".join(f"{name}={value}" for name, value in best.values.items()) if best else ""
        lines.append(
            (
                Cell(study.record.title, study.record.title),
                Cell(study.record.id, study.record.id),
                *(_amount(spent[name]) for name in ("trials", "steps", "seconds")),
                Cell(decimal(default), default) if default is not None else Cell("-", None, "missing"),
                Cell(decimal(best.value), best.value)
                if best and best.value is not None
                else Cell("-", None, "missing"),
                Cell(settings or ("default" if best else "-"), settings),
            )
        )
    header = ("model", "search", "trials", "steps", "seconds", "default", "best", "best settings")
    section.grids = [
        Grid("", header, tuple(lines), f"Mean {PRIMARY} over tasks on validation rows, never on test rows.")
    ]
    return section


def _pairs(block: Block, labels: list[str]) -> Section:
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


def _costs(block: Block, labels: list[str]) -> Section:
    section = Section("cost", "Metric against cost")
    each = costs(block)
    header = ["model", *KINDS.values(), *(f"{task} {PRIMARY}" for task in block.tasks)]
    lines = []
    for number, cost in enumerate(each):
        cells = [Cell(labels[number], labels[number])]
        cells += [_amount(getattr(cost, kind)) for kind in KINDS]
        for task in block.tasks:
            estimate = block.estimates.get((number, task, PRIMARY))
            cells.append(Cell(decimal(estimate.mean), estimate.mean) if estimate else Cell("-", None, "missing"))
        lines.append(tuple(cells))
    threads = sorted({(run.record.device, run.record.threads) for row in block.group.rows for run in row.runs})
    where = ", ".join(f"{device} with {count} thread{'s' if count != 1 else ''}" for device, count in threads)
    note = f"Means over seeds, measured on {where}; times also depend on what else the machine did."
    section.grids = [Grid("", tuple(header), tuple(lines), note)]
    section.charts = list(_cost_charts(block, each, labels))
    return section


def _cost_charts(block: Block, each: list[Cost], labels: list[str]) -> Iterator[Chart]:
    for task in block.tasks:
        means = {
            number: block.estimates[number, task, PRIMARY].mean
            for number in block.ranks[task]
            if (number, task, PRIMARY) in block.estimates
        }
        for kind in KINDS:
            if chart := drawn.cost_chart(each, kind, labels, means, task):
                yield chart


def _both_ways(block: Block, labels: list[str]) -> Section:
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


def _strata(block: Block, labels: list[str], data: TableData | None, without: str) -> Section:
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


def _beyond(block: Block, labels: list[str], lists: dict[str, Any], data: TableData | None, without: str) -> Section:
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
        section.missing = f"No run of this table keeps its lists: {_ADD_LISTS}"
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


def _provenance(block: Block) -> list[tuple[str, str]]:
    group = block.group
    records = [run.record for row in group.rows for run in row.runs]
    facts: dict[str, list[Any]] = {
        "data": [f"{group.dataset['name']}, split {group.dataset['split']}"],
        "data fingerprint": [group.dataset["fingerprint"]],
        "candidates": [f"{group.candidates.label}, seed {group.candidates.seed}"],
        "candidates fingerprint": [group.candidates.fingerprint],
        "counts": [", ".join(f"{value:,} {name}" for name, value in group.dataset.get("counts", {}).items())],
        "budget": [record.budget for record in records],
        "seeds": [record.seed for record in records],
        "finished": [f"{min(r.finished for r in records)} to {max(r.finished for r in records)}"],
        "commit": [
            f"{record.environment.get('commit') or 'unknown'}{' with changes' if record.environment.get('dirty') else ''}"
            for record in records
        ],
        "packages": [
            ", ".join(f"{name} {version}" for name, version in (r.environment.get("packages") or {}).items() if version)
            for r in records
        ],
        "machine": [
            ", ".join(
                f"{name} {r.environment[name]}"
                for name in ("system", "cpu", "cores", "memory_gib", "gpu")
                if r.environment.get(name)
            )
            for r in records
        ],
        "commands": [record.environment.get("command") for record in records],
    }
    return [
        (name, "\n".join(map(str, distinct)))
        for name, values in facts.items()
        if (distinct := [value for value in dict.fromkeys(values) if value not in (None, "")])
    ]


def _config(config: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in config.items()) or "no settings"


def _amount(value: float | None) -> Cell:
    if value is None:
        return Cell("-", None, "missing")
    return Cell(f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}", float(value))


def _named(chart: Chart, prefix: str) -> Chart:
    return Chart(prefix + chart.name, chart.title, chart.note, chart.spec)
