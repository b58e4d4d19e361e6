"""The estimates and tests of a table, computed from the ranks files and from nothing else.

The unit is the user, the primary metric is declared beforehand (N@10 on each task), and every number is the mean over
users of the mean over seeds.

A mark on the best value says that it is better than every other, and holds its level for the table: in at most 5 % of the
tables with equally good models there is any mark at all.

- The best is compared with each of the others, with the variance of users and of seeds, and all of these comparisons have
  to be below the level; the randomisation test confirms the one with the second. That this needs no correction for having
  chosen the best after looking is shown by Gutmann and Maymin (Annals of Statistics 1987) and by Hung and Fithian
  (Annals of Statistics 2019).
- The tasks share the level, and within a task the metrics are tested in a fixed order, the primary first, until one fails.
- With one seed the mark speaks of these trained models, not of the methods.

The p-values of single pairs are adjusted by Holm over all pairs of the task.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from bench.errors import RunError
from bench.evaluation.finding import Finding
from bench.evaluation.metrics import DEFAULT, PRIMARY, Metric, PerUser
from bench.evaluation.metrics import values as metric_values
from bench.evaluation.plausibility import check_identities
from bench.evaluation.ranks import Ranks
from bench.evaluation.seed_variance import CLOSED_FORM, SeedVariance, of_difference, seed_spread
from bench.evaluation.significance import Comparison, compare, holm, mean_over_seeds
from bench.messages import comma_list, flat_list, one_line
from bench.report.pairs import Moments, PairMatrix, moments, pair_matrix
from bench.report.rows import ComparableRuns, RankedRun, Row
from bench.store.results import read_ranks

LEVEL = 0.05
MANY_TIES = 0.05
_TEST_SEED = 0
_EQUAL = 1e-12


@dataclass
class Estimate:
    """One model's value of one metric on one task.

    `rank` counts from 1 and equal means share one. `against` compares the best model with this one (the best
    itself: with the second); `Block.test` and `Block.test_all` fill it in, with the fields below it. `p_holm` is the
    p-value of that pair adjusted over all pairs of the task.
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
    methods: bool = False  # whether a mark is on the methods; else on these trained models


@dataclass(frozen=True)
class Note:
    """A remark on rows of a block, by label; `kind` is leak, chance, limit (stopped by the budget), fact or ties."""

    kind: str
    text: str
    rows: tuple[str, ...]


@dataclass
class Block:
    """One data set on one candidate set: estimates by (row number, task, metric). A task that a row lacks has none."""

    group: ComparableRuns
    tasks: tuple[str, ...]
    rows_of: dict[str, tuple[int, int]] = field(default_factory=dict)  # task -> users, evaluated rows
    estimates: dict[tuple[int, str, Metric], Estimate] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    ranks: dict[str, dict[int, list[Ranks]]] = field(default_factory=dict)  # task -> row number -> one per seed
    sequence: tuple[Metric, ...] = (PRIMARY,)  # in which metrics are tested
    moments: dict[tuple[str, Metric], Moments] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)  # grave ones that no note says, see `findings.attach`

    @property
    def level(self) -> float:
        """Level of a mark: the tasks share that of the table."""
        return LEVEL / max(1, len(self.tasks))

    def shown(self, number: int | None, task: str, metric: Metric) -> Estimate | str | None:
        """What stands in a cell: None where the row does not serve the task, empty text where it did not finish."""
        return "" if number is None else self.estimates.get((number, task, metric))

    def ordered(self, task: str, metric: Metric) -> list[int]:
        """Numbers of the rows that have the metric, the best first; rows with equal means in the table's order."""
        numbers = [number for number in self.ranks[task] if (number, task, metric) in self.estimates]
        return sorted(numbers, key=lambda number: (self.estimates[number, task, metric].rank, number))

    def test(self, metrics: tuple[Metric, ...]) -> None:
        """Compare the best with the others on every task and on these metrics, and on those that are tested before."""
        for task in self.tasks:
            standing = True
            last = max((place for place, metric in enumerate(self.sequence) if metric in metrics), default=-1)
            for metric in self.sequence[: last + 1]:
                if not (standing or metric in metrics):
                    continue
                best, *others = self.ordered(task, metric) or [0]
                if not others:
                    continue
                top = self.estimates[best, task, metric]
                if top.against is None:
                    second = self.estimates[others[0], task, metric]
                    top.against = second.against = self.compare(best, others[0], task, metric)
                    clear = second.rank > 1 and top.against.difference > 0 and top.against.p < self.level
                    pvalues = [self.p(best, number, task, metric) for number in others] if clear else [1.0]
                    # A NaN, where a difference never varies, is not below the level.
                    top.significant = standing and clear and all(p < self.level for p in pvalues)
                    top.methods = all(self.on_methods(best, number) for number in others)
                standing = standing and top.significant

    def test_all(self) -> None:
        """On the primary metric also compare the best with every other row; p-values adjusted over all pairs."""
        self.test((PRIMARY,))
        for task in self.tasks:
            best, *others = self.ordered(task, PRIMARY) or [0]
            if not others:
                continue
            adjusted = self._adjusted(task)
            for number in others:
                estimate = self.estimates[number, task, PRIMARY]
                estimate.against = estimate.against or self.compare(best, number, task, PRIMARY)
                estimate.p_holm = adjusted[frozenset((best, number))]

    def p(self, a: int, b: int, task: str, metric: Metric) -> float:
        """Two-sided p-value of a pair with the variance of users and seeds; NaN where nothing varies."""
        known = self.moments[task, metric]
        first, second = (known.numbers.index(number) for number in (a, b))
        seeds = known.seeds[first], known.seeds[second]
        if all(seeds) and seeds[0] != seeds[1]:
            return self.compare(a, b, task, metric).p_seeds
        return known.p(first, second)

    def pairs(self, task: str, metric: Metric = PRIMARY) -> PairMatrix:
        """All pairs of the rows that have the metric, each row on all of its seeds, in the order of the table."""
        known = self.moments[task, metric]
        rows = [self.group.rows[number] for number in known.numbers]
        return pair_matrix(known, task, str(metric), [row.model for row in rows], [row.label for row in rows])

    def against(self, baseline: int, task: str, metric: Metric = PRIMARY) -> list[tuple[int, Comparison, float]]:
        """A row that was named beforehand compared with each of the others, with Holm's adjustment over these.

        Returns:
            For each other row, in the order of the table, its number, the baseline against it, and the p-value.
        """
        others = [number for number in self.moments[task, metric].numbers if number != baseline]
        found = [self.compare(baseline, number, task, metric) for number in others]
        adjusted = holm([each.p for each in found])
        return [(n, each, float(p)) for n, each, p in zip(others, found, adjusted, strict=True)]

    def compare(self, a: int, b: int, task: str, metric: Metric) -> Comparison:
        """Compare rows on the seeds that both have; a closed form, or rows without a common seed, on all seeds."""
        runs, seeds = self._seeds(a, b, task, metric)
        first, second = (mean_over_seeds(each) for each in runs)
        return compare(first, second, _TEST_SEED, seeds)

    def on_methods(self, a: int, b: int) -> bool:
        """Whether a comparison of two rows is on the methods: each has several seeds, or is a closed form."""
        trained = [row for row in (self.group.rows[a], self.group.rows[b]) if not row.closed_form]
        common = set.intersection(*(set(row.seeds) for row in trained)) if trained else set()
        return all(len(common or row.seeds) > 1 for row in trained)

    def _seeds(self, a: int, b: int, task: str, metric: Metric) -> tuple[list[list[PerUser]], SeedVariance]:
        """The runs on which two rows are compared, and the variance of their difference over seeds."""
        rows = [self.group.rows[number] for number in (a, b)]
        by_seed = [dict(zip(row.seeds, self.ranks[task][n], strict=True)) for row, n in zip(rows, (a, b), strict=True)]
        common = sorted(by_seed[0].keys() & by_seed[1].keys())
        if common and not any(row.closed_form for row in rows):
            by_seed = [{seed: each[seed] for seed in common} for each in by_seed]
        runs = [[ranks.per_user(metric) for ranks in each.values()] for each in by_seed]
        spreads = [CLOSED_FORM if row.closed_form else seed_spread(each) for row, each in zip(rows, runs, strict=True)]
        return runs, of_difference(*spreads)

    def _adjusted(self, task: str) -> dict[frozenset[int], float]:
        """P-values of all pairs on the primary metric after Holm."""
        pairs = list(combinations(self.moments[task, PRIMARY].numbers, 2))
        adjusted = holm([self.p(*pair, task, PRIMARY) for pair in pairs])
        return {frozenset(pair): float(p) for pair, p in zip(pairs, adjusted, strict=True)}


def compared(group: ComparableRuns, metrics: tuple[Metric, ...], tasks: tuple[str, ...]) -> Block:
    """The estimates of runs that may be compared; tests follow with `Block.test` and `Block.test_all`.

    Raises:
        RunError: ranks are missing or on other rows, or their means are impossible.
    """
    ranks = [[_load(run) for run in row.runs] for row in group.rows]
    served = tuple(task for task in tasks if any(task in each.tasks for runs in ranks for each in runs))
    block = Block(group, served, sequence=tuple(dict.fromkeys((PRIMARY, *metrics))))
    for task in block.tasks:
        of_task = {number: [each.only(task) for each in runs] for number, runs in enumerate(ranks)}
        block.ranks[task] = {number: runs for number, runs in of_task.items() if len(runs[0])}
        _check_rows(block, task)
        _estimate_task(block, task, metrics)
    block.notes = _notes(block)
    return block


def synthetic(dataset: Mapping[str, Any]) -> str:
    """What is made up in a data set, for captions; empty when nothing is."""
    value = dataset.get("synthetic") or ""
    return value if isinstance(value, str) else comma_list(value)


def _load(run: RankedRun) -> Ranks:
    """The ranks of a run, verified against its record."""
    return read_ranks(run.folder, run.evaluation)


def _check_rows(block: Block, task: str) -> None:
    """Raise RunError where rows of a task were not evaluated on the same events; note how many there are."""
    rows, (first, *others) = block.group.rows, block.ranks[task]
    reference = np.sort(block.ranks[task][first][0].event_id)
    for number in (first, *others):
        for each in block.ranks[task][number]:
            if not np.array_equal(reference, np.sort(each.event_id)):
                raise RunError(
                    f"{rows[number].label} was evaluated on other {task} rows than {rows[first].label} "
                    f"({len(each)} and {len(reference)}); repeat that run with --force"
                )
    users, _ = block.ranks[task][first][0].per_user(PRIMARY)
    block.rows_of[task] = (len(users), len(reference))


def _estimate_task(block: Block, task: str, metrics: tuple[Metric, ...]) -> None:
    """The estimates of a task and the ranks of its rows on every metric; those of DEFAULT also serve as a check."""
    rows = block.group.rows
    for metric in dict.fromkeys((*metrics, PRIMARY, *DEFAULT)):
        values = {
            number: [each.per_user(metric) for each in runs]
            for number, runs in block.ranks[task].items()
            if all(run.evaluation.answers(metric) for run in rows[number].runs)
        }
        if not values:
            continue
        if not all(np.isfinite(each).all() for by_seed in values.values() for _, each in by_seed):
            continue  # AUC of a list without negatives
        estimates = {number: _estimate(by_seed, block.rows_of[task][1]) for number, by_seed in values.items()}
        seeds = [() if rows[number].closed_form else rows[number].seeds for number in values]
        block.moments[task, metric] = moments(list(values), list(values.values()), seeds)
        means = np.array([estimate.mean for estimate in estimates.values()])
        for number, estimate in estimates.items():
            estimate.rank = 1 + int((means > estimate.mean + _EQUAL).sum())
            block.estimates[number, task, metric] = estimate
    for number in block.ranks[task]:
        found = {metric: e.mean for (row, name, metric), e in block.estimates.items() if (row, name) == (number, task)}
        if wrong := check_identities(found):
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


def _notes(block: Block) -> list[Note]:
    """What a reader must know of the rows, the gravest first; equal remarks on several rows are one note."""
    labels: dict[tuple[str, str], dict[str, None]] = {}

    def add(kind: str, text: str, row: Row) -> None:
        labels.setdefault((kind, text), {})[row.label] = None

    rows = block.group.rows
    seeds = max((row.seeds for row in rows if not row.closed_form), key=len, default=())
    for number, row in enumerate(rows):
        for run in row.runs:
            for name, value in run.evaluation.leaks.items():
                if name.startswith("zero:") and value != 0:
                    add("leak", f"LEAK: {name.removeprefix('zero:')}: {value}", row)
            if run.record.fit.get("converged") is False:
                add("limit", "stopped by the budget, not by early stopping", row)
            if warning := run.record.evidence.get("warning"):
                add("chance", one_line(str(warning)), row)
            if backbone := run.record.evidence.get("backbone"):
                add("fact", f"backbone {one_line(_words(backbone))}", row)
            if run.record.kind == "imported":
                add("fact", "scores made elsewhere and imported", row)
            if depth := run.evaluation.depth:
                add("fact", f"lists of the best alone: MRR, AUC and cut-offs above {depth} are unknown", row)
        for task in block.tasks:
            if number not in block.ranks[task]:
                continue
            if chance := _at_chance(block, number, task):
                add("chance", chance, row)
            rate = np.mean([each.tie_rate for each in block.ranks[task][number]])
            if rate > MANY_TIES:
                add("ties", f"ties in {rate:.0%} of {task} rows", row)
        if row.seeds != seeds and not row.closed_form:
            used = "the common ones" if set(row.seeds) & set(seeds) else "all of each, as none is common"
            add("fact", f"seeds {flat_list(row.seeds)} where others have {flat_list(seeds)}, tests use {used}", row)
    order = {"leak": 0, "chance": 1, "limit": 2, "fact": 3, "ties": 4}
    notes = [Note(kind, text, tuple(rows)) for (kind, text), rows in labels.items()]
    return sorted(notes, key=lambda note: order[note.kind])


def _at_chance(block: Block, number: int, task: str) -> str:
    """A remark where a trained model's interval on the primary metric reaches down to a constant scorer; else empty."""
    row, estimate = block.group.rows[number], block.estimates.get((number, task, PRIMARY))
    if estimate is None or row.closed_form or any(run.record.kind != "fit" for run in row.runs):
        return ""
    ranks = block.ranks[task][number][0]
    constant = metric_values(PRIMARY, np.zeros_like(ranks.better), ranks.candidates - 1, ranks.candidates)
    if not estimate.low <= constant.mean():
        return ""
    return f"no better than chance on {task} ({PRIMARY} of a constant score: {constant.mean():.3f})"


def _words(value: Any) -> str:
    return comma_list(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
