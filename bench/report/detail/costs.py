"""What each row of a table costs: parameters, time, memory."""

from collections.abc import Iterable
from dataclasses import dataclass

from bench.report.marks import Block
from bench.report.rows import RankedRun


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
    return [_cost([run for run in row.runs if run.record.kind == "fit"]) for row in block.group.rows]


def _cost(runs: list[RankedRun]) -> Cost:
    return Cost(
        parameters=_mean(run.record.fit.get("parameters") for run in runs),
        training_seconds=_mean(run.record.fit.get("seconds") for run in runs),
        query_milliseconds=_mean(
            1000 * run.evaluation.seconds / rows if (rows := sum(run.evaluation.rows.values())) else None
            for run in runs
        ),
        peak_memory_mb=_mean(run.record.peak_memory_mb or None for run in runs),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
