"""Level and power of the star for two models and endless users, by theory, and the most that any test could reach.

    python benchmarks/significance_theory.py

With many users a difference of two means is normal and the spread of the seeds' means is a multiple of chi-square, so two
numbers decide: b, the spread that finitely many users explain, and r, the variance of seeds, both as shares of the variance
over users. The first table has the highest level over r from 0 to 200, however the seeds' variance is spread over the two
models, and the power without variance of seeds as a share of the t-test's, for differences of 1, 2 and 2.8 standard errors.

The second table has what no test can exceed that sees the same two numbers, knows b, holds the level at every r and is
confirmed by the t-test over users: a linear programme over the chances of rejecting (Neyman and Pearson). It must hold the
level at 26 values of r only, so the true limit is no higher. A test whose level is a little above can lie a little above.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import chdtr, chdtri, ndtr, ndtri

from bench.evaluation.seed_variance import SeedSpread, half_width, of_difference

MANY = 10**9
DIFFERENCES = (1.0, 2.0, 2.8)
SHARES = (
    0.02,
    0.05,
    0.08,
    0.18,
    0.27,
)  # b; .08 and .05 are the default of significance.py with 3 and 5 seeds, .27 its hard case
RATIOS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 8.0, 20.0, 60.0, 200.0)
DRAWS = 2000


def found(limits: NDArray[np.float64], ratio: float, difference: float) -> float:
    """Chance that a normal difference with variance 1 + ratio is beyond limits, (n,), equally likely."""
    scale = (1 + ratio) ** 0.5
    return float(np.mean(ndtr((difference - limits) / scale) + ndtr((-difference - limits) / scale)))


def limits(share: float, ratio: float, part: float, freedom: int, level: float) -> NDArray[np.float64]:
    """Least significant differences over draws of the seeds' spread; the first model has a part of their variance."""
    chances = (np.random.default_rng(0).permuted(np.tile(np.arange(DRAWS), (2, 1)), axis=1) + 0.5) / DRAWS
    first, second = chdtri(freedom, chances) / freedom
    half = share / 2
    pairs = zip((half + ratio * part) * first, (half + ratio * (1 - part)) * second, strict=True)
    spreads = (of_difference(*(SeedSpread(float(q), half, freedom, True) for q in pair)) for pair in pairs)
    return np.array([half_width(1.0, MANY, each, level) for each in spreads])


def measured(share: float, freedom: int, level: float) -> str:
    """The highest level, where it is, and the power without variance of seeds."""
    levels = {
        (ratio, part): found(limits(share, ratio, part, freedom, level), ratio, 0.0)
        for ratio in RATIOS
        for part in (0.5, 1.0)
    }
    worst = max(levels, key=lambda place: levels[place])
    alone, own = np.array([-ndtri(level / 2)]), limits(share, 0.0, 0.5, freedom, level)
    ratios = (found(own, 0.0, each) / found(alone, 0.0, each) for each in DIFFERENCES)
    return f"{levels[worst]:.4f} | {worst[0]:g} | " + " | ".join(f"{each:.3f}" for each in ratios)


def ceiling(share: float, freedom: int, difference: float, level: float) -> float:
    """The most power of any test that the t-test confirms, as a share of the t-test's.

    The programme on a coarse grid gives the prices of the levels. With any prices the bound holds (weak duality), here on
    a grid that is ten times as fine.
    """
    start = float(-ndtri(level / 2))
    ratios = np.append(0.0, np.geomspace(0.003, 100, 25))

    def chances(fine: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the cells beyond the t-test's limit, without a difference at each ratio (n, cells), and with one (cells,)."""
        edges = np.append(np.linspace(start, 4.5, 60 * fine), np.geomspace(4.51, 80, 20 * fine))
        spreads = np.append(0.0, np.geomspace(share / 20, share * 3000, 50 * fine))

        def of(ratio: float, shift: float) -> NDArray[np.float64]:
            scale = (1 + ratio) ** 0.5
            below = ndtr((edges - shift) / scale) - ndtr((-edges - shift) / scale)
            of_spread = chdtr(freedom, freedom * spreads / (share + ratio))
            return np.outer(np.diff(below, append=1.0), np.diff(of_spread, append=1.0)).ravel()

        return np.array([of(ratio, 0.0) for ratio in ratios]), of(0.0, difference)

    equal, better = chances(1)
    solved = linprog(-better, A_ub=equal, b_ub=np.full(len(ratios), level), bounds=(0, 1), method="highs")
    prices = np.maximum(0.0, -solved.ineqlin.marginals)
    equal, better = chances(10)
    most = level * prices.sum() + np.maximum(0.0, better - prices @ equal).sum()
    return float(most / found(np.array([start]), 0.0, difference))


def main() -> None:
    """Print both tables."""
    print(
        "| level | seeds | b | highest level | at r | power, 1 | 2 | 2.8 standard errors |\n|---|---|---|---|---|---|---|---|"
    )
    for level in (0.05, 0.025):
        for seeds in (2, 3, 5):
            for share in SHARES:
                print(f"| {level} | {seeds} | {share} | {measured(share, seeds - 1, level)} |", flush=True)
    print("\n| seeds | b | no test exceeds, 1 | 2 | 2.8 standard errors |\n|---|---|---|---|---|")
    for seeds in (3, 5):
        for share in SHARES:
            most = (ceiling(share, 2 * (seeds - 1), each, 0.05) for each in DIFFERENCES)
            print(f"| {seeds} | {share} | " + " | ".join(f"{each:.3f}" for each in most) + " |", flush=True)


if __name__ == "__main__":
    main()
