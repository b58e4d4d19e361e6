"""How much a difference of two methods varies because each seed trains another model.

A mean over users and seeds varies for two reasons: other users would have come, and other seeds would have been drawn.
The first is what the paired t-test over users counts. The second is estimated from the spread of the seeds' means, with
few degrees of freedom. Both are added as Behrens and Fisher add two unequal variances: the p-value is the chance that
t * sqrt(users + seeds) exceeds the difference, averaged over the values that the seeds' variance may have given its
estimate (the generalised p-value of Tsui and Weerahandi, JASA 1989). The degrees of freedom of two models whose seeds
vary differently are Welch's (Biometrika 1947).

Of the spread of the seeds' means a part is no variance of the methods: with a finite number of users even equally good
models differ in their means. The t-test over users counts it already, so it is subtracted, and what is left is never
below 0: the variance of seeds makes a comparison stricter than the t-test over users and never looser.
`benchmarks/significance.py` simulates what that gives, `docs/significance.md` explains it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.evaluation.metrics import PerUser

# Equally likely values that stand for the distribution of a variance of seeds, and the degrees of freedom between which
# they are interpolated.
_VALUES = 100
_LARGEST_FREEDOM = 1024.0
_STEPS = 200


@dataclass(frozen=True)
class SeedSpread:
    """How the mean over users of one model varies over its seeds.

    A closed form does not depend on a seed: its variance is 0 and known to be.
    """

    variance: float  # of the mean over seeds
    by_users: float  # the part of it that the users explain, which the test over users counts already
    freedom: float  # degrees of freedom of the estimate; inf where it is known
    known: bool  # whether there is an estimate: a closed form, or at least two seeds


@dataclass(frozen=True)
class SeedVariance:
    """Variance over seeds of the difference of two models.

    `known` is False where a model has one seed: nothing can then be said of the methods, and all is 0.
    """

    variance: float = 0.0
    by_users: float = 0.0
    freedom: float = float("inf")
    known: bool = False

    @property
    def excess(self) -> float:
        """The estimate of what the variance of seeds adds to that of users."""
        return max(0.0, self.variance - self.by_users)


NO_SEEDS = SeedVariance()
CLOSED_FORM = SeedSpread(0.0, 0.0, float("inf"), True)


def seed_spread(runs: Sequence[PerUser]) -> SeedSpread:
    """The spread of a model over its seeds.

    Args:
        runs: one seed each, all on the same users in the same order.
    """
    seeds = len(runs)
    if seeds < 2:
        return SeedSpread(0.0, 0.0, float("inf"), False)
    values = np.stack([each for _, each in runs])  # (s, u)
    means = values.mean(axis=1)
    variance = float(means.var(ddof=1)) / seeds
    users = values.shape[1]
    if users < 2 or variance == 0.0:
        return SeedSpread(variance, 0.0, seeds - 1, True)
    values -= values.mean(axis=0)
    values -= (means - means.mean())[:, None]
    residual = float(np.square(values).sum()) / ((seeds - 1) * (users - 1))
    return SeedSpread(variance, residual / users / seeds, seeds - 1, True)


def of_difference(a: SeedSpread, b: SeedSpread) -> SeedVariance:
    """The variance over seeds of the difference of two models; their seeds are independent draws."""
    if not (a.known and b.known):
        return NO_SEEDS
    variance = a.variance + b.variance
    if variance == 0.0:
        return SeedVariance(known=True)
    freedom = variance**2 / (a.variance**2 / a.freedom + b.variance**2 / b.freedom)
    return SeedVariance(variance, a.by_users + b.by_users, freedom, True)


def two_sided_p(difference: ArrayLike, of_users: ArrayLike, users: int, seeds: SeedVariance) -> NDArray[np.float64]:
    """Two-sided p-value of no difference; NaN where nothing varies and there is a difference.

    Args:
        difference: of the means.
        of_users: variance of the mean difference over users.
        users: how many.
        seeds: variance over seeds.
    """
    return _p(np.abs(difference), of_users, users, _added(seeds))


def half_width(of_users: float, users: int, seeds: SeedVariance, level: float) -> float:
    """Half of the interval with confidence 1 - level: the difference whose p-value is the level."""
    added = _added(seeds)
    from scipy.special import stdtrit

    largest = of_users + float(added.max())
    if largest == 0.0:
        return 0.0
    quantile = float(stdtrit(users - 1, 1 - level / 2))
    low, high = quantile * of_users**0.5, quantile * largest**0.5
    for _ in range(60):  # the p-value falls as the difference grows
        middle = (low + high) / 2
        low, high = (middle, high) if _p(middle, of_users, users, added) > level else (low, middle)
    return high


def _p(difference: ArrayLike, of_users: ArrayLike, users: int, added: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.asarray(difference)[..., None] / np.sqrt(np.asarray(of_users)[..., None] + added)
    p = 2 * stdtr(users - 1, -statistic).mean(axis=-1)
    return np.where(np.isinf(statistic).all(axis=-1), np.nan, np.where(np.isnan(p), 1.0, p))


def _added(seeds: SeedVariance) -> NDArray[np.float64]:
    """Equally likely values (k,) of what seeds add to the variance of users; a single 0 where they add nothing."""
    if seeds.variance == 0.0:
        return np.zeros(1)
    if np.isinf(seeds.freedom):
        return np.array([seeds.excess])
    grid, table = _inverse_chi_square()
    place = np.interp(np.log(seeds.freedom), grid, np.arange(len(grid)))
    low = min(int(place), len(grid) - 2)
    factors = np.exp(table[low] + (place - low) * (table[low + 1] - table[low]))
    return np.maximum(0.0, seeds.variance * factors - seeds.by_users)


@lru_cache(maxsize=1)
def _inverse_chi_square() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of degrees of freedom f (g,) and of quantiles of f / chi-square with f degrees of freedom (g, k)."""
    from scipy.special import chdtri

    freedom = np.geomspace(1.0, _LARGEST_FREEDOM, _STEPS)
    chance = (np.arange(_VALUES) + 0.5) / _VALUES
    quantiles = chdtri(freedom[:, None], chance)  # ascending chance of exceeding: descending values
    return np.log(freedom), np.log(freedom[:, None] / quantiles)
