"""The estimates of a table, computed from the ranks files and from nothing else.

The unit is the user, the primary metric is declared beforehand (N@10 on each task), and every number is the mean over
users of the mean over seeds. The best model carries a star where the paired t-test and the paired randomisation test
over users both separate it from the second at .05. On the primary metric the best is compared with every other model,
with Holm's adjustment over these comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.errors import RunError
from bench.evaluation.metrics import DEFAULT, PRIMARY, Metric, PerUser, check_identities
from bench.evaluation.ranks import Ranks
from bench.evaluation.significance import Comparison, compare, holm, mean_over_seeds
from bench.report.selection import Entry, Group, Row, commas
from bench.store.results import read_ranks

LEVEL = 0.05
MANY_TIES = 0.05
_TEST_SEED = 0
_EQUAL = 1e-12


@dataclass
class Estimate:
    """One model's value of one metric on one task.

    `rank` counts from 1 and equal means share one. `against` compares the best model with this one (the best
    itself: with the second); it is there for every model on the primary metric, and for the best and the second on
    the others.
    """

    mean: float
    std: float  # over the means of the seeds; NaN for one seed
    low: float  # 95 % interval of the mean over users (Student's t)
    high: float
    users: int
    rows: int
    rank: int = 0
    against: Comparison | None = None
    p_holm: float = float("nan")
    significant: bool = False


@dataclass(frozen=True)
class Note:
    """A remark on rows of a block, by label; `kind` is leak, limit (stopped by the budget), fact or ties."""

    kind: str
    text: str
    rows: tuple[str, ...]


@dataclass
class Block:
    """One data set on one candidate set: estimates by (row number, task, metric). A task that a row lacks has none."""

    group: Group
    tasks: tuple[str, ...]
    estimates: dict[tuple[int, str, Metric], Estimate]
    rows_of: dict[str, tuple[int, int]]  # task -> users, evaluated rows
    notes: list[Note] = field(default_factory=list)


def compared(group: Group, metrics: tuple[Metric, ...], tasks: tuple[str, ...]) -> Block:
    """The estimates of a group.

    Raises:
        RunError: ranks are missing or on other rows, or their means are impossible.
    """
    ranks = [[_load(entry) for entry in row.entries] for row in group.rows]
    served = tuple(task for task in tasks if any(task in each.tasks for runs in ranks for each in runs))
    block = Block(group, served, {}, {})
    for task in served:
        _fill(block, task, [[each.only(task) for each in runs] for runs in ranks], metrics)
    block.notes = _notes(group, served, ranks)
    return block


def synthetic(dataset: Mapping[str, Any]) -> str:
    """What is made up in a data set, for captions; empty when nothing is."""
    value = dataset.get("synthetic") or ""
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _load(entry: Entry) -> Ranks:
    return read_ranks(entry.folder, entry.evaluation)


def _fill(block: Block, task: str, ranks: list[list[Ranks]], metrics: tuple[Metric, ...]) -> None:
    """The estimates of a task; `ranks` holds for each row of the block the ranks of its seeds, cut to the task."""
    rows = block.group.rows
    present = [number for number, runs in enumerate(ranks) if len(runs[0])]
    acts = {number: [np.sort(each.event_id) for each in ranks[number]] for number in present}
    reference = acts[present[0]][0]
    for number in present:
        if not all(np.array_equal(reference, each) for each in acts[number]):
            raise RunError(
                f"{rows[number].label} was evaluated on other {task} rows than {rows[present[0]].label} "
                f"({len(acts[number][0])} and {len(reference)}); repeat that run with --force"
            )
    block.rows_of[task] = (len(np.unique(ranks[present[0]][0].user)), len(reference))
    for metric in dict.fromkeys((*metrics, PRIMARY, *DEFAULT)):
        values = {
            number: {seed: each.per_user(metric) for seed, each in zip(rows[number].seeds, ranks[number], strict=True)}
            for number in present
        }
        if not all(np.isfinite(each).all() for by_seed in values.values() for _, each in by_seed.values()):
            continue  # AUC of a list without negatives
        estimates = {number: _estimate(list(by_seed.values()), len(reference)) for number, by_seed in values.items()}
        if metric in metrics or metric == PRIMARY:
            _compare(estimates, values, rows, metric)
        block.estimates |= {(number, task, metric): estimate for number, estimate in estimates.items()}
    for number in present:
        means = {metric: f.mean for (row, name, metric), f in block.estimates.items() if (row, name) == (number, task)}
        if wrong := check_identities(means):
            raise RunError(
                f"{rows[number].label}, {task}: {'; '.join(wrong)}; no ranking gives that, so "
                "this is an error in bench: please report it with the run's folder"
            )


def _estimate(runs: list[PerUser], rows: int) -> Estimate:
    """Mean over users of the mean over seeds, with its spread."""
    values = mean_over_seeds(runs)[1]
    mean, n = float(values.mean()), len(values)
    half = float("nan")
    if n > 1:
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / n**0.5)
    seeds = np.array([each.mean() for _, each in runs])
    std = float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")
    return Estimate(mean, std, mean - half, mean + half, n, rows)


def _compare(
    estimates: dict[int, Estimate], values: dict[int, dict[int, PerUser]], rows: Sequence[Row], metric: Metric
) -> None:
    """Ranks of the rows, the test of the best against the second and, on the primary metric, against all."""
    means = np.array([estimate.mean for estimate in estimates.values()])
    for estimate in estimates.values():
        estimate.rank = 1 + int((means > estimate.mean + _EQUAL).sum())
    best, *others = sorted(estimates, key=lambda number: (estimates[number].rank, number))
    for number in others if metric == PRIMARY else others[:1]:
        estimates[number].against = _paired(values[best], values[number], rows[best], rows[number])
    if not others:
        return
    top, against = estimates[best], estimates[others[0]].against
    assert against is not None
    top.against = against
    top.significant = estimates[others[0]].rank > 1 and against.difference > 0 and against.p < LEVEL
    if metric == PRIMARY:
        adjusted = holm([estimates[number].against.p for number in others])  # type: ignore[union-attr]
        for number, p in zip(others, adjusted, strict=True):
            estimates[number].p_holm = float(p)


def _paired(a: Mapping[int, PerUser], b: Mapping[int, PerUser], first: Row, second: Row) -> Comparison:
    """Compare rows on the seeds that both have; a closed form, or rows without a common seed, on all seeds of each."""
    common = a.keys() & b.keys()
    if common and not first.closed_form and not second.closed_form:
        a, b = ({seed: each[seed] for seed in sorted(common)} for each in (a, b))
    return compare(mean_over_seeds(list(a.values())), mean_over_seeds(list(b.values())), _TEST_SEED)


def _notes(group: Group, tasks: tuple[str, ...], ranks: list[list[Ranks]]) -> list[Note]:
    """What a reader must know of the rows, the gravest first; equal remarks on several rows are one note."""
    found: dict[tuple[str, str], dict[str, None]] = {}

    def add(kind: str, text: str, row: Row) -> None:
        found.setdefault((kind, text), {})[row.label] = None

    seeds = max((row.seeds for row in group.rows if not row.closed_form), key=len, default=())
    for row, runs in zip(group.rows, ranks, strict=True):
        for entry in row.entries:
            for name, value in entry.evaluation.leaks.items():
                if name.startswith("zero:") and value != 0:
                    add("leak", f"LEAK: {name.removeprefix('zero:')}: {value}", row)
            if entry.record.fit.get("converged") is False:
                add("limit", "stopped by the budget, not by early stopping", row)
            if backbone := entry.record.evidence.get("backbone"):
                add("fact", f"backbone {_words(backbone)}", row)
            if entry.record.kind == "imported":
                add("fact", "scores made elsewhere and imported", row)
        for task in tasks:
            rates = [each.only(task).tie_rate for each in runs if task in each.tasks]
            if rates and np.mean(rates) > MANY_TIES:
                add("ties", f"ties in {np.mean(rates):.0%} of {task} rows", row)
        if row.seeds != seeds and not row.closed_form:
            used = "the common ones" if set(row.seeds) & set(seeds) else "all of each, as none is common"
            add("fact", f"seeds {commas(row.seeds)} where others have {commas(seeds)}, tests use {used}", row)
    order = {"leak": 0, "limit": 1, "fact": 2, "ties": 3}
    notes = [Note(kind, text, tuple(rows)) for (kind, text), rows in found.items()]
    return sorted(notes, key=lambda note: order[note.kind])


def _words(value: Any) -> str:
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
