"""All pairs of a table's rows on one metric: differences, intervals, p-values, from the moments of the rows.

The moments of a metric are the means of the rows, their covariance over users and the spread of each row over its seeds.
Every comparison but the randomisation test follows from them, so that no value of a user is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.metrics import PerUser
from bench.evaluation.seed_variance import (
    CLOSED_FORM,
    SeedSpread,
    SeedVariance,
    half_width,
    of_difference,
    seed_spread,
    two_sided_p,
)
from bench.evaluation.significance import holm, mean_over_seeds

# Differences of covariances below this are rounding.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Moments:
    """What the comparisons of m rows on one metric are made of."""

    numbers: tuple[int, ...]  # of the rows in the table
    users: int
    means: NDArray[np.float64]  # (m,)
    covariance: NDArray[np.float64]  # (m, m) over users, of the means over seeds
    spreads: tuple[SeedSpread, ...]
    seeds: tuple[tuple[int, ...], ...]  # () for a closed form

    def of_users(self, a: int, b: int) -> float:
        """Variance over users of the difference of the rows at two places."""
        variance = self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b]
        return max(0.0, float(variance)) / self.users if variance > _ROUNDING else 0.0

    def of_seeds(self, a: int, b: int) -> SeedVariance:
        """Variance over seeds of the difference of the rows at two places."""
        return of_difference(self.spreads[a], self.spreads[b])

    def p(self, a: int, b: int) -> float:
        """Two-sided p-value of no difference between the rows at two places."""
        if self.users < 2:
            return float("nan")
        difference = self.means[a] - self.means[b]
        return float(two_sided_p(difference, self.of_users(a, b), self.users, self.of_seeds(a, b)))


@dataclass(frozen=True)
class PairMatrix:
    """All pairs of m rows on one metric; every matrix is (m, m), row minus column.

    `p_family` is Holm's adjustment over all pairs: where it is below .05 for some pairs, the chance that any of them is
    false is at most 5 %, whichever of them a reader looks at.
    """

    task: str
    metric: str
    models: tuple[str, ...]
    labels: tuple[str, ...]
    users: int
    difference: NDArray[np.float64]
    low: NDArray[np.float64]  # 95 % interval
    high: NDArray[np.float64]
    p: NDArray[np.float64]
    p_family: NDArray[np.float64]
    within: NDArray[np.float64]  # equivalent within this margin at .05
    methods: NDArray[np.bool_]  # whether the statement is on the methods; else on these trained models


def moments(numbers: Sequence[int], runs: Sequence[Sequence[PerUser]], seeds: Sequence[tuple[int, ...]]) -> Moments:
    """The moments of some rows on a metric.

    Args:
        numbers: of the rows in the table.
        runs: for each row one (users, values) a seed, all on the same users.
        seeds: for each row its seeds; () for a closed form, which no seed changes.
    """
    values = np.stack([mean_over_seeds(each)[1] for each in runs])  # (m, u)
    means = values.mean(axis=1)
    values -= means[:, None]
    users = values.shape[1]
    spreads = tuple(seed_spread(each) if own else CLOSED_FORM for each, own in zip(runs, seeds, strict=True))
    return Moments(tuple(numbers), users, means, values @ values.T / max(1, users - 1), spreads, tuple(seeds))


def pair_matrix(known: Moments, task: str, metric: str, models: Sequence[str], labels: Sequence[str]) -> PairMatrix:
    """All pairs of the rows.

    Args:
        known: their moments.
        task: rec or search.
        metric: printed name of the metric.
        models: registered name of each row.
        labels: what each row is called in the table.
    """
    m = len(known.means)
    p, half, narrow, methods = np.ones((m, m)), np.zeros((m, m)), np.zeros((m, m)), np.eye(m, dtype=bool)
    pairs = list(combinations(range(m), 2))
    for a, b in pairs:
        of_users, of_seeds = known.of_users(a, b), known.of_seeds(a, b)
        p[a, b] = p[b, a] = known.p(a, b)
        methods[a, b] = methods[b, a] = of_seeds.known
        if known.users > 1:
            half[a, b] = half[b, a] = half_width(of_users, known.users, of_seeds, 0.05)
            narrow[a, b] = narrow[b, a] = half_width(of_users, known.users, of_seeds, 0.1)
    family = np.ones((m, m))
    for (a, b), adjusted in zip(pairs, holm([p[pair] for pair in pairs]), strict=True):
        family[a, b] = family[b, a] = adjusted
    difference = known.means[:, None] - known.means[None, :]
    return PairMatrix(
        task,
        metric,
        tuple(models),
        tuple(labels),
        known.users,
        difference,
        difference - half,
        difference + half,
        p,
        family,
        np.abs(difference) + narrow,
        methods,
    )
