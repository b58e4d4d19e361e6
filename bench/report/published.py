"""The values that the GenSR paper prints (Zhao et al., SIGIR 2025, Tables 2 and 3), to stand beside ours.

`published.csv` holds them as printed and `published_names.csv` maps the names of its data sets and models to ours.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.evaluation.metrics import Metric
from bench.report.number_audit import audit_numbers, broken_metrics, read_published

SOURCE = "Zhao et al., SIGIR 2025, Tables 2 and 3"
_VALUES = Path(__file__).with_name("published.csv")
_NAMES = Path(__file__).with_name("published_names.csv")
Key = tuple[str, str, str]  # our name of the data set, task, our name of the model


@dataclass(frozen=True)
class Published:
    """Printed values by our names, those of them that no ranking can have, and whom we do not have."""

    values: dict[Key, dict[Metric, float]]
    impossible: frozenset[tuple[Key, Metric]]
    elsewhere: dict[tuple[str, str], tuple[str, ...]]  # (data set, task) -> models without a name here

    @property
    def datasets(self) -> tuple[str, ...]:
        """Our names of the data sets."""
        return tuple(dict.fromkeys(dataset for dataset, _, _ in self.values))


@cache
def published() -> Published:
    """What the paper prints; a cell is impossible where a relation that its row breaks names it."""
    with _NAMES.open(encoding="utf-8", newline="") as stream:
        names = {(line["kind"], line["published"]): line["name"] for line in csv.DictReader(stream)}
    found = {(each.dataset, each.task, each.model): broken_metrics(each) for each in audit_numbers(_VALUES)[1]}
    values: dict[Key, dict[Metric, float]] = {}
    impossible: set[tuple[Key, Metric]] = set()
    elsewhere: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in read_published(_VALUES):
        dataset, model = names["dataset", row.dataset], names["model", row.model]
        if not model:
            elsewhere[dataset, row.task] = (*elsewhere.get((dataset, row.task), ()), row.model)
            continue
        key = (dataset, row.task, model)
        values[key] = row.values
        impossible |= {(key, metric) for metric in found.get((row.dataset, row.task, row.model), ())}
    return Published(values, frozenset(impossible), elsewhere)
