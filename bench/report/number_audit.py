"""Published numbers that no ranking can have: relations between metrics of one row of a table.

With one relevant item per list, recall grows with the cut-off, NDCG lies between bounds that recall sets, and what a
deeper cut-off adds to NDCG is bounded by what it adds to recall (`metrics.check_identities`). A row that breaks one
of these relations by more than rounding holds a wrong number, whatever the models and data were.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from bench.errors import RunError, UsageError
from bench.evaluation.metrics import Metric, parse
from bench.evaluation.plausibility import check_identities
from bench.messages import comma_list, one_line, reason

COLUMNS = ("dataset", "task", "model", "metric", "value")
_EMPTY = frozenset({"", "-", "–", "—", "nan", "NaN", "n/a"})


@dataclass(frozen=True)
class ImpossibleRow:
    """A row of a published table that no ranking can have."""

    dataset: str
    task: str
    model: str
    relation: str  # every relation that is broken, with the numbers
    suggestion: str  # the exchange of two cells that repairs the row; empty where none does


@dataclass(frozen=True)
class PublishedRow:
    """The metrics of one model on one task, and by how much rounding may have moved each of them."""

    dataset: str
    task: str
    model: str
    values: dict[Metric, float]
    rounding: float


def audit_numbers(path: Path) -> tuple[int, list[ImpossibleRow]]:
    """Number of rows in a file of published numbers, and those that are impossible.

    Args:
        path: CSV in long format with the columns of COLUMNS; others are left aside.

    Raises:
        UsageError: there is no such file, or a column is missing.
        RunError: a value is no number, or stands in the file twice with different numbers.
    """
    rows = list(read_published(path))
    return len(rows), [finding for row in rows if (finding := _impossible(row))]


def read_published(path: Path) -> Iterator[PublishedRow]:
    """The rows of a file of published numbers; see `audit_numbers`."""
    texts: dict[tuple[str, str, str], dict[Metric, str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise UsageError(f"{path}: the column {missing[0]} is missing; expected {comma_list(COLUMNS)}")
            for line in reader:
                where = f"{path}, line {reader.line_num}"
                value = (line["value"] or "").strip()
                if value in _EMPTY:
                    continue
                try:
                    float(value)
                except ValueError:
                    raise RunError(f"{where}: the value '{one_line(value)}' is no number") from None
                key = (line["dataset"] or "", line["task"] or "", line["model"] or "")
                try:
                    metric = parse((line["metric"] or "").strip())
                except UsageError as error:
                    raise RunError(f"{where}: {error}") from None
                if texts.setdefault(key, {}).setdefault(metric, value) != value:
                    raise RunError(f"{where}: {metric} of {comma_list(key)} is there twice with different values")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    for (dataset, task, model), values in texts.items():
        decimals = min(len(text.partition(".")[2]) for text in values.values())
        numbers = {metric: float(text) for metric, text in values.items()}
        yield PublishedRow(dataset, task, model, numbers, 0.5 * 10.0**-decimals)


def broken_metrics(row: ImpossibleRow) -> set[Metric]:
    """The metrics that the broken relations of a row are on; at least one of their values is wrong."""
    return {parse(name) for name in re.findall(r"[RN]@[0-9]+|MRR|AUC", row.relation)}


def _impossible(row: PublishedRow) -> ImpossibleRow | None:
    tolerance = row.rounding * (1 + 1e-9)
    relations = check_identities(row.values, tolerance)
    if not relations:
        return None
    swaps = []
    for a, b in combinations(row.values, 2):
        swapped = row.values | {a: row.values[b], b: row.values[a]}
        if row.values[a] != row.values[b] and not check_identities(swapped, tolerance):
            swaps.append(f"{a} and {b}")
    suggestion = f"the row is possible with {' or with '.join(swaps)} exchanged" if swaps else ""
    return ImpossibleRow(row.dataset, row.task, row.model, "; ".join(relations), suggestion)
