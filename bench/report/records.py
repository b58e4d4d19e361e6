"""The flat records behind a table: one for each data set, candidates, task, model and metric."""

from collections.abc import Iterable
from typing import Any

from bench.evaluation.metrics import Metric
from bench.messages import flat_list
from bench.report.findings import of_row
from bench.report.marks import Block, Estimate, synthetic
from bench.report.rows import ComparableRuns, Row, UnfinishedRow


def records(blocks: Iterable[Block], metrics: tuple[Metric, ...]) -> list[dict[str, Any]]:
    """The records of blocks that are tested on every row; a number that does not exist is NaN.

    A model that did not finish has records without numbers for the tasks that it serves, with the reason.
    """
    found: list[dict[str, Any]] = []
    for block in blocks:
        for task in block.tasks:
            for number, row in block.group.printed():
                if isinstance(row, UnfinishedRow):
                    found += [_unfinished(block, row, task, metric) for metric in metrics if task in row.tasks]
                    continue
                estimates = [(metric, block.shown(number, task, metric)) for metric in metrics]
                found += [_record(block, row, task, metric, e) for metric, e in estimates if isinstance(e, Estimate)]
    return found


def _record(block: Block, row: Row, task: str, metric: Metric, estimate: Estimate) -> dict[str, Any]:
    group, against, nan = block.group, estimate.against, float("nan")
    return {
        **_about(block, row, task, metric),
        "mean": estimate.mean,
        "std": estimate.std,
        "low": estimate.low,
        "high": estimate.high,
        "users": estimate.users,
        "rows": estimate.rows,
        "rank": estimate.rank,
        "significant": estimate.significant,
        "claim": ("methods" if estimate.methods else "trained models") if estimate.significant else "",
        "difference": against.difference if against else nan,
        "p": against.p_t if against else nan,
        "p_randomisation": against.p_randomisation if against else nan,
        "p_seeds": against.p_seeds if against else nan,
        "p_holm": estimate.p_holm,
        "effect": against.effect if against else nan,
        "wins": against.wins if against else None,
        "ties": against.ties if against else None,
        "losses": against.losses if against else None,
        "smallest_detectable": against.detectable if against else nan,
        "equivalent_within": against.within if against else nan,
        **_on(group),
        "seeds": flat_list(row.seeds),
        "budget": flat_list(sorted({run.record.budget for run in row.runs})),
        "notes": of_row(block, row.label),
        "runs": flat_list([run.record.id for run in row.runs]),
        "did_not_finish": "; ".join(
            line for each in group.seeds_missing if each.label == row.label for line in each.lines()
        ),
    }


def _unfinished(block: Block, row: UnfinishedRow, task: str, metric: Metric) -> dict[str, Any]:
    """The record of a row without numbers."""
    nothing = float("nan")
    numbers = ("mean", "std", "low", "high", "users", "rows", "rank")
    tests = ("difference", "p", "p_randomisation", "p_seeds", "p_holm", "effect", "wins", "ties", "losses")
    return {
        **_about(block, row, task, metric),
        **dict.fromkeys(numbers, nothing),
        "significant": False,
        "claim": "",
        **dict.fromkeys((*tests, "smallest_detectable", "equivalent_within"), nothing),
        **_on(block.group),
        "seeds": flat_list(row.reasons),
        "budget": block.group.budget,
        "notes": "",
        "runs": flat_list(row.runs),
        "did_not_finish": "; ".join(row.lines()),
    }


def _about(block: Block, row: Row | UnfinishedRow, task: str, metric: Metric) -> dict[str, Any]:
    """What a record is about."""
    return {
        "dataset": block.group.dataset["name"],
        "task": task,
        "model": row.model,
        "title": row.label,
        "group": row.group,
        "metric": str(metric),
    }


def _on(group: ComparableRuns) -> dict[str, Any]:
    """The data and the candidates of a record."""
    return {
        "candidates": group.candidates.label,
        "candidate_seed": group.candidates.seed,
        "fingerprint": group.candidates.fingerprint,
        "data": group.dataset["fingerprint"],
        "split": group.dataset["split"],
        "mode": group.dataset.get("mode", ""),
        "synthetic": synthetic(group.dataset),
    }
