"""What a page shows of one block of a table: its tables, charts, single rows and provenance, as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.evaluation.finding import Finding, in_order
from bench.evaluation.metrics import Metric
from bench.report.captions import caption, row_name
from bench.report.detail.data import TableData, open_table_data
from bench.report.detail.lists import task_lists
from bench.report.detail.single_rows import SingleRows, single_rows
from bench.report.findings import of_table
from bench.report.html.charts import Chart
from bench.report.html.comparisons import by_strata, main_table, pair_differences, sampled_against_full
from bench.report.html.lists import ADD_LISTS, beyond_accuracy
from bench.report.html.parts import Section
from bench.report.html.provenance import provenance, settings_text
from bench.report.html.training import learning_curves, metric_against_cost, tuning_history
from bench.report.marks import Block


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
        Section("tables", "Tables", grids=[main_table(block, task, metrics, labels) for task in block.tasks]),
        learning_curves(block, labels),
        tuning_history(block, labels),
        pair_differences(block, labels),
        metric_against_cost(block, labels),
        sampled_against_full(block, labels),
        by_strata(block, labels, data, without),
        beyond_accuracy(block, labels, lists, data, without),
    ]
    for section in sections:
        section.charts = [_named(chart, prefix) for chart in section.charts]
    rows = {task: single_rows(block, task, data, lists[task], each_way) for task in block.tasks}
    kept = all(lists.values())
    note = "" if kept else f"Without lists there is no top 10 to show: {ADD_LISTS}"
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
        provenance=provenance(block),
        configs=[
            (label, settings_text(row.runs[0].record.config))
            for label, row in zip(labels, block.group.rows, strict=True)
        ],
    )


def _named(chart: Chart, prefix: str) -> Chart:
    return Chart(prefix + chart.name, chart.title, chart.note, chart.spec)
