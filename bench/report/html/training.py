"""Sections on how the models of a block came about: learning curves, tuning, and what they cost."""

from collections.abc import Iterator

from bench.evaluation.metrics import PRIMARY
from bench.report.captions import decimal
from bench.report.detail.costs import KINDS, Cost, costs
from bench.report.detail.curves import curves
from bench.report.detail.tuning import searches
from bench.report.html import charts as drawn
from bench.report.html.charts import Chart
from bench.report.html.parts import Cell, Grid, Section, amount
from bench.report.marks import Block


def learning_curves(block: Block, labels: list[str]) -> Section:
    """Charts of the primary metric on validation rows and of the loss over steps."""
    section = Section("curves", "Learning curves")
    points = curves(block)
    names = sorted({point.name for point in points}, key=lambda name: (name == "train/loss", name))
    wanted = [f"{task}/{PRIMARY}" for task in block.tasks]
    shown = [name for name in names if name in wanted or name == "train/loss"] or names
    section.charts = [chart for name in shown if (chart := drawn.learning_curves(points, name, labels))]
    if not section.charts:
        section.missing = "No model of this table was trained in steps."
    return section


def tuning_history(block: Block, labels: list[str]) -> Section:
    """The searches of settings on these data, with what they spent and found."""
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
                *(amount(spent[name]) for name in ("trials", "steps", "seconds")),
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


def metric_against_cost(block: Block, labels: list[str]) -> Section:
    """What each model cost, and charts of the primary metric against it."""
    section = Section("cost", "Metric against cost")
    each = costs(block)
    header = ["model", *KINDS.values(), *(f"{task} {PRIMARY}" for task in block.tasks)]
    lines = []
    for number, cost in enumerate(each):
        cells = [Cell(labels[number], labels[number])]
        cells += [amount(getattr(cost, kind)) for kind in KINDS]
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
