"""`bench table`: the comparison of models as records, and as text, Markdown, LaTeX, HTML, CSV and JSON."""

import csv
import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.log import TASKS
from bench.errors import UsageError, unknown
from bench.evaluation.metrics import DEFAULT, PRIMARY, Metric, parse
from bench.report.captions import caption
from bench.report.comparable import select
from bench.report.findings import attach
from bench.report.marks import Block, compared
from bench.report.records import records
from bench.report.row_choice import choose
from bench.report.sheet import plain
from bench.report.view import View
from bench.store.results import Store

if TYPE_CHECKING:
    import pandas as pd

SHOWN = tuple(metric for metric in DEFAULT if metric.k)  # in a printed table; the records also hold MRR and AUC


class Table:
    """Blocks of estimates, as records and in the forms in which people read them.

    Tests are computed for what a form shows: texts need the best and the second on the printed metrics, records and
    details everything.
    """

    def __init__(self, blocks: list[Block], metrics: tuple[Metric, ...], shown: tuple[Metric, ...]):
        self.blocks = blocks
        self.metrics = metrics
        self.shown = shown

    def __repr__(self) -> str:
        shown = "; ".join(
            f"{caption(block)[0]}, {len(block.group.rows)} rows on {block.group.candidates.label}"
            for block in self.blocks
        )
        return f"Table({shown})"

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        self._test(self.metrics, every_row=True)
        return records(self.blocks, self.metrics)

    def records(self) -> list[dict[str, Any]]:
        """One flat record for each data set, candidates, task, model and metric; what does not exist is None.

        A model that did not finish has records without numbers, with the reason as `did_not_finish`.
        """
        return [{key: plain(value) for key, value in record.items()} for record in self._records]

    def frame(self) -> "pd.DataFrame":
        """The records as a DataFrame; numbers that do not exist are NaN."""
        import pandas as pd

        return pd.DataFrame(self._records)

    def json(self) -> str:
        """The records as a JSON list."""
        return json.dumps(self.records(), indent=1)

    def csv(self) -> str:
        """The records as CSV with a header line; what does not exist is empty."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, fieldnames=list(self._records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records())
        return stream.getvalue()

    def text(self, width: int = 100, color: bool = False, details: bool = False) -> str:
        """For the terminal, at most `width` columns; `details` adds intervals and tests on the primary metric."""
        from bench.report.terminal import text

        self._test(self.shown, details)
        return text(self.blocks, self.shown, width, color, details)

    def markdown(self, details: bool = False) -> str:
        """GitHub's tables; `details` as for `text`."""
        from bench.report.markdown import markdown

        self._test(self.shown, details)
        return markdown(self.blocks, self.shown, details)

    def latex(self) -> str:
        """One `table` environment per block; needs the package booktabs."""
        from bench.report.latex import latex

        self._test(self.shown)
        return latex(self.blocks, self.shown)

    def html(self, details: bool = False) -> str:
        """One page without scripts; `details` as for `text`."""
        return self.layout("narrow", details=details).html()

    def layout(self, name: str, *, paper: bool = False, details: bool = False) -> View:
        """The table in a layout; its records gain `published` and `impossible` where published values are asked for.

        Args:
            name: "narrow", models as rows, or "paper", models as columns.
            paper: whether the values of the GenSR paper stand below ours.
            details: as for `text`; in the narrow layout only.

        Raises:
            UsageError: published values are asked for and there are none for these data sets.
        """
        from bench.report import layouts
        from bench.report.published import published

        values = published() if paper else None
        self._test(self.shown, details)
        if name == "paper":
            sheets = layouts.as_in_papers(self.blocks, self.shown, values)
        else:
            sheets = layouts.narrow(self.blocks, self.shown, values, details)
        return View(sheets, lambda: self._with_published() if paper else self.records())

    def against(self, baseline: str) -> View:
        """One model against all others, on the chosen metrics, else on the primary one.

        Args:
            baseline: registered name of the model, or what the table calls its row.

        Raises:
            UsageError: there is no such row, several, or nothing to compare it with.
        """
        from bench.report.chosen_pairs import against_all

        return against_all(self.blocks, baseline, self.shown if self.shown is not SHOWN else (PRIMARY,))

    def compare(self, first: str, second: str, margin: float = 0.01) -> View:
        """Two models with everything that is known of their difference.

        Args:
            first: registered name of a model, or what the table calls its row.
            second: the other one.
            margin: differences below it do not matter to the reader.

        Raises:
            UsageError: a name fits no row or several, or nothing was evaluated with both.
        """
        from bench.report.chosen_pairs import in_full

        return in_full(self.blocks, first, second, self.shown, margin)

    def _with_published(self) -> list[dict[str, Any]]:
        """The records with the published value of each, and whether it is impossible."""
        from bench.report.published import published

        values, found = published(), []
        for record in self.records():
            key, metric = (record["dataset"], record["task"], record["model"]), parse(record["metric"])
            printed = values.values.get(key, {}).get(metric)
            impossible = None if printed is None else (key, metric) in values.impossible
            found.append(record | {"published": printed, "impossible": impossible})
        return found

    def _test(self, metrics: tuple[Metric, ...], every_row: bool = False) -> None:
        for block in self.blocks:
            block.test(metrics)
            if every_row:
                block.test_all()


def table(
    store: Store,
    *,
    from_dirs: Sequence[str | Path] = (),
    dataset: str | Sequence[str] | None = None,
    candidates: str | Sequence[str] | None = None,
    budget: str | None = None,
    metrics: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    models: Sequence[str] | None = None,
) -> Table:
    """The comparison table of finished runs; see `comparable.select` for which ones.

    Args:
        store: the results folder; unread where `from_dirs` names others.
        from_dirs: folders of results, of one data set or of single runs.
        dataset: names of data sets.
        candidates: label ("uniform-99"), strategy ("uniform") or the start of a fingerprint.
        budget: "quick" or "full".
        metrics: names such as `R@20`; by default R and N at 5 and 10 are printed, the records also hold MRR and AUC.
        tasks: "rec", "search" or both.
        seeds: only runs with these seeds.
        models: rows in this order, by registered name, by what the table calls them, or by group; all by default.

    Raises:
        UsageError: nothing fits, or what fits must not be compared.
        RunError: ranks that cannot be right.
    """
    for task in tasks or ():
        if task not in TASKS:
            raise unknown("task", task, TASKS)
    chosen = tuple(dict.fromkeys(parse(name) for name in metrics)) if metrics else DEFAULT
    groups = select(
        store,
        [Path(folder) for folder in from_dirs],
        dataset=dataset,
        candidates=candidates,
        budget=budget,
        tasks=tasks,
        seeds=seeds,
    )
    if models:
        groups = choose(groups, models)
    blocks = [compared(group, chosen, tuple(tasks or TASKS)) for group in groups]
    blocks = [block for block in blocks if block.estimates]
    attach(blocks)
    if not blocks:
        raise UsageError(f"no finished run has rows for {' or '.join(tasks or TASKS)}; see `bench runs list`")
    return Table(blocks, chosen, chosen if metrics else SHOWN)


def markdown(store: Store) -> str:
    """The comparison table of the newest command of a results folder, as Markdown."""
    return table(store).markdown()
