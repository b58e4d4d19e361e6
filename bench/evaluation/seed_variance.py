"""How much a difference of two methods varies because each seed trains another model.

A mean over users and seeds varies for two reasons: other users would have come, and other seeds would have been drawn.
The first is what the paired t-test over users counts. The second is estimated from the spread Q of the seeds' means, with
few degrees of freedom. A difference D is significant at a level when

    D^2 > t(users - 1)^2 * variance of users + t(f)^2 * A

with the quantiles t of the level and A the part of Q that counts. With A = Q this is Banerjee's test of two unequal variances
(Sankhya 1960), which never exceeds its level. Quantiles are added instead of variances because three seeds leave a quantile
of 4, against 2 for the users. The degrees of freedom f of two models whose seeds vary differently are Welch's (Biometrika
1947).

Of Q a part b is no variance of the methods: with a finite number of users even equally good models differ in their
means, and the test over users counts that already. So Q counts where it is clearly more than b: not at all below m b, in
full where 4 (Q - m b) is more than Q. A small b cannot do much harm, so m is 2 there; the larger b is beside the variance of
users, the more an overlooked variance of seeds would cost, and m falls to 0. Two seeds cannot tell Q from b: m is 0.
A is never below 0: the variance of seeds makes a comparison stricter than the t-test over users and never looser.
`benchmarks/significance.py` measures level and power, `docs/significance.md` explains both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.evaluation.metrics import PerUser

# Where the spread of seeds begins to count, in units of what users explain of it: `_LARGEST` for a small share b of the
# variance of users, `_START - _SLOPE` b for a larger one. Beyond, it counts `_STEEP` fold until it counts in full.
# The values keep the level in `benchmarks/significance_theory.py`.
_LARGEST, _START, _SLOPE, _STEEP = 2.0, 2.4, 5.0, 4.0
_HALVINGS = 45


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
    if min(a.freedom, b.freedom) < 2:
        freedom = 1.0  # of two seeds; Welch's formula promises more than it holds
    return SeedVariance(variance, a.by_users + b.by_users, freedom, True)


def two_sided_p(difference: ArrayLike, of_users: ArrayLike, users: int, seeds: SeedVariance) -> NDArray[np.float64]:
    """Two-sided p-value of no difference; NaN where nothing varies and there is a difference.

    Args:
        difference: of the means.
        of_users: variance of the mean difference over users.
        users: how many.
        seeds: variance over seeds.
    """
    from scipy.special import stdtr

    squared, of_users = np.square(difference), np.asarray(of_users, dtype=np.float64)
    added = counted(of_users, seeds)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without seeds; and the smallest that a p-value with seeds can be.
        alone = 2 * stdtr(users - 1, -np.sqrt(squared / of_users))
    alone = np.where(of_users > 0, alone, np.where((squared > 0) & (added == 0), np.nan, 1.0))
    if not added.any():
        return alone
    low, high = np.full(np.broadcast(squared, added).shape, -700.0), np.zeros(np.broadcast(squared, added).shape)
    for _ in range(_HALVINGS):  # the logarithm of the level whose least significant difference is the one at hand
        middle = (low + high) / 2
        found = squared > _least_squared(of_users, users, added, seeds.freedom, np.exp(middle))
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return np.where(added > 0, np.exp(high), alone)


def half_width(of_users: float, users: int, seeds: SeedVariance, level: float) -> float:
    """Half of the interval with confidence 1 - level: the difference whose p-value is the level."""
    return float(_least_squared(of_users, users, counted(of_users, seeds), seeds.freedom, level)) ** 0.5


def counted(of_users: ArrayLike, seeds: SeedVariance) -> NDArray[np.float64]:
    """The part A of the spread of seeds that counts beside the variance of users, of the shape of `of_users`."""
    of_users = np.asarray(of_users, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(of_users > 0, seeds.by_users / of_users, np.inf)
    begins = np.clip(_START - _SLOPE * share, 0.0, _LARGEST) if seeds.freedom >= 2 else np.zeros_like(share)
    return np.clip(_STEEP * (seeds.variance - begins * seeds.by_users), 0.0, seeds.variance)


def _least_squared(
    of_users: ArrayLike, users: int, added: NDArray[np.float64], freedom: float, level: ArrayLike
) -> NDArray[np.float64]:
    """Square of the least difference that is significant at a level."""
    from scipy.special import ndtri, stdtrit

    tail = np.asarray(level) / 2
    of_seeds = ndtri(tail) if np.isinf(freedom) else stdtrit(freedom, tail)
    with np.errstate(over="ignore"):
        least = np.square(stdtrit(users - 1, tail)) * of_users + np.square(of_seeds) * added
    return np.asarray(least, dtype=np.float64)
