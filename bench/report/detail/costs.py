"""What runs and the rows of a table cost: parameters, time, memory."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.report.marks import Block
from bench.store.records import Evaluation, RunRecord


@dataclass(frozen=True)
class Cost:
    """Means over the seeds of a row; None where the records do not say. Times are those of the machine and its load."""

    parameters: float | None
    training_seconds: float | None
    query_milliseconds: float | None  # to rank one test row with its candidates
    peak_memory_mb: float | None


KINDS = {
    "parameters": "trainable parameters",
    "training_seconds": "training time, s",
    "query_milliseconds": "time to rank one row, ms",
    "peak_memory_mb": "peak memory of the process, MB",
}


def costs(block: Block) -> list[Cost]:
    """The cost of each row of a table, in its order. Scores that were made elsewhere have none."""
    fits = [[run for run in row.runs if run.record.kind == "fit"] for row in block.group.rows]
    return [cost([run.record for run in runs], [run.evaluation for run in runs]) for runs in fits]


def cost(fits: list[RunRecord], evaluations: Iterable[Evaluation]) -> Cost:
    """Mean cost of fits and of their evaluations."""
    return Cost(
        parameters=_mean(record.fit.get("parameters") for record in fits),
        training_seconds=_mean(record.fit.get("seconds") for record in fits),
        query_milliseconds=_mean(
            1000 * evaluation.seconds / rows if (rows := sum(evaluation.rows.values())) else None
            for evaluation in evaluations
        ),
        peak_memory_mb=_mean(record.peak_memory_mb or None for record in fits),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
