"""Whether the star of a table holds its level, and what it costs in power: simulated tables of equally good methods.

    python benchmarks/significance.py                        # all cells, about 2,000 tables each, and the power
    python benchmarks/significance.py --tables 500 --part level
    python benchmarks/significance.py --figure power.png     # the power curves as a figure

A table has one task. A method's value for a user is: what the user is like + how the method suits the user + what the
seed does to the model (the same for all users, with the standard deviation in question) + what this model gives this
user. Values are those of N@10: they lie on its 11 levels, so that many are tied, and a third of the users have three rows.
Whether a table has a star is decided by the rule of `bench.report.marks.Block.test`, repeated here for one task
on the same statistics. What seeds do to a model and how much better one is move all of its values alike, so the tables of
a line, with all deviations or all differences, are made of the same draws.

The share of users' variance that changes with the seed (--inner) is .1 by default; .5 is a hard case.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from bench.evaluation.metrics import PRIMARY
from bench.evaluation.significance import FLIPS, randomisation_p
from bench.report.pairs import Moments, moments

LEVELS = np.sort(np.append(1 / np.log2(np.arange(1, 11) + 1), 0.0))
# Of each method's deviations from the users' common part, on the scale before rounding to levels.
SPREAD = 0.25
LEVEL = 0.05
DEVIATIONS = (0.0, 0.001, 0.003, 0.005)  # of the seeds of a method
# Of so many users the share of extreme sign flips is the t-test's p-value but for the chance of drawing FLIPS of them; where
# seven standard errors of that do not matter they are not drawn.
MANY = 10_000
EFFECTS = (1.0, 2.0, 2.8, 3.6)  # in standard errors over users


@dataclass(frozen=True)
class Drawn:
    """A table without variance of seeds, from which those with it follow: what seeds do is the same for all users."""

    values: NDArray[np.float64]  # (m, u) means over seeds
    means: NDArray[np.float64]  # (m, s) over users
    known: Moments

    def with_differences(self, by: NDArray[np.float64]) -> "Drawn":
        """The table when each model and seed is better by so much, (m, s)."""
        seeds, means = self.means.shape[1], self.means + by
        spreads = self.known.spreads
        if seeds > 1:
            variances = means.var(axis=1, ddof=1) / seeds
            spreads = tuple(replace(one, variance=float(v)) for one, v in zip(spreads, variances, strict=True))
        known = replace(self.known, means=self.known.means + by.mean(axis=1), spreads=spreads)
        return Drawn(self.values + by.mean(axis=1)[:, None], means, known)


def drawn(generator: np.random.Generator, models: int, seeds: int, users: int, inner: float) -> Drawn:
    """Values of equally good models whose seeds differ by chance alone."""
    user = np.repeat(np.arange(users), np.where(np.arange(users) % 3 == 0, 3, 1))
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    rows = np.diff(np.append(starts, len(user)))
    common = generator.normal(0.4, 0.25, users).astype(np.float32)
    runs = []
    for _ in range(models):
        own = common + SPREAD * (1 - inner) ** 0.5 * generator.standard_normal(users, dtype=np.float32)
        noise = SPREAD * inner**0.5 * generator.standard_normal((seeds, len(user)), dtype=np.float32)
        values = _levels(own[user] + noise, generator)
        runs.append(np.add.reduceat(values, starts, axis=1) / rows)
    ids = np.arange(users)
    by_seed = [[(ids, each) for each in run] for run in runs]
    known = moments(range(models), by_seed, [tuple(range(seeds))] * models)
    return Drawn(np.stack([run.mean(axis=0) for run in runs]), np.stack([run.mean(axis=1) for run in runs]), known)


def _levels(values: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float64]:
    """Values on the levels of N@10, rounded up or down by chance so that their means stay."""
    clipped = np.clip(values, 0, 1)
    above = np.clip(np.searchsorted(LEVELS, clipped.ravel()), 1, len(LEVELS) - 1).reshape(clipped.shape)
    low, high = LEVELS[above - 1], LEVELS[above]
    return np.where(generator.random(clipped.shape, dtype=np.float32) * (high - low) < clipped - low, high, low)


def starred(table: Drawn, level: float = LEVEL) -> bool:
    """Whether the best carries a star: the rule of `Block.test` on one task."""
    known = table.known
    best, *others = np.argsort(-known.means, kind="stable")
    if any(known.p(best, other) >= level for other in others):
        return False
    if known.users > MANY and known.p(best, others[0]) < level - 7 * (level / FLIPS) ** 0.5:
        return True
    return randomisation_p(table.values[best] - table.values[others[0]], 0) < level


def paired_t(known: Moments) -> float:
    """P-value of the paired t-test over users of the first two models."""
    from scipy.special import stdtr

    statistic = abs(known.means[0] - known.means[1]) / known.of_users(0, 1) ** 0.5
    return float(2 * stdtr(known.users - 1, -statistic))


def interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share."""
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


def level(tables: int, inner: float, users: int, counts: list[int], seed_counts: list[int], uneven: bool) -> None:
    """Share of tables with any star where all methods are equally good."""
    words = f"{users:,} users, {inner:.0%} of the variance within a user changes with the seed"
    print(f"\n{words}{', seeds vary unevenly' if uneven else ''}: share of tables with any star [95 % interval]")
    print("| models | seeds | " + " | ".join(f"seeds apart by {each:g}" for each in DEVIATIONS) + " |")
    print("|---|---|---|---|---|---|")
    for models, seeds in product(counts, seed_counts):
        factor = np.ones((models, 1))
        if uneven:  # the first method's seeds vary twice as much, and the last method's not at all
            factor[0], factor[-1] = 2.0, 0.0
        generator = np.random.default_rng([models, seeds, users, int(100 * inner), int(uneven)])
        hits = np.zeros(len(DEVIATIONS), dtype=int)
        for _ in range(tables):
            table = drawn(generator, models, seeds, users, inner)
            apart = factor * generator.standard_normal((models, seeds))
            hits += [starred(table.with_differences(deviation * apart)) for deviation in DEVIATIONS]
        cells = []
        for each in hits:
            low, high = interval(int(each), tables)
            cells.append(f"{each / tables:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {models} | {seeds} | " + " | ".join(cells) + " |", flush=True)


def power(tables: int, inner: float, sizes: list[int], seed_counts: list[int], figure: Path | None) -> None:
    """Power of the star for two models, beside that of the paired t-test on the same tables, without variance of seeds."""
    print(f"\npower for two models, seeds apart by 0, {inner:.0%} of the variance within a user changes with the seed")
    print("| users | seeds | difference | star | paired t-test | ratio |")
    print("|---|---|---|---|---|---|")
    curves: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for users, seeds in product(sizes, seed_counts):
        many = tables if users < 1000 else max(200, tables // 5)
        generator = np.random.default_rng([users, seeds, int(100 * inner)])
        probe = drawn(generator, 2, seeds, users, inner)
        deviation = probe.known.of_users(0, 1) ** 0.5
        ahead = np.array([[1.0], [0.0]]) * np.ones(seeds)
        star, t = np.zeros(len(EFFECTS)), np.zeros(len(EFFECTS))
        for _ in range(many):
            table = drawn(generator, 2, seeds, users, inner)
            better = [table.with_differences(steps * deviation * ahead) for steps in EFFECTS]
            star += [starred(each) for each in better]
            t += [paired_t(each.known) < LEVEL for each in better]
        star, t = star / many, t / many
        for steps, found, by_t in zip(EFFECTS, star, t, strict=True):
            curves.setdefault((users, seeds), []).append((steps * deviation, found, by_t))
            print(
                f"| {users:,} | {seeds} | {steps * deviation:.4f} | {found:.3f} | {by_t:.3f} | {found / by_t:.3f} |",
                flush=True,
            )
    if figure:
        draw(curves, figure)


def draw(curves: dict[tuple[int, int], list[tuple[float, float, float]]], path: Path) -> None:
    """The power curves as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(users for users, _ in curves))
    sheet, axes = pyplot.subplots(1, len(sizes), figsize=(9, 3), sharey=True, layout="constrained")
    for axis, size in zip(axes, sizes, strict=True):
        for (users, seeds), points in curves.items():
            if users == size:
                x, star, t = zip(*points, strict=True)
                (line,) = axis.plot(x, star, marker="o", label=f"star, {seeds} seed{'s' * (seeds > 1)}")
                axis.plot(x, t, linestyle=":", color=line.get_color())
        axis.set(title=f"{size:,} users", xlabel=f"difference of {PRIMARY}")
    axes[0].set_ylabel("share found")
    axes[-1].legend(title="dotted: paired t-test", fontsize="small")
    sheet.savefig(path, dpi=120)


def main() -> None:
    """Print the tables of the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--users", type=int, default=943, help="of the part on the level")
    parser.add_argument(
        "--models", type=int, nargs="+", default=[2, 12, 22], help="in a table, of the part on the level"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 5], help="of each model")
    parser.add_argument("--inner", type=float, default=0.1)
    parser.add_argument("--part", choices=["level", "uneven", "power"], help="only this part")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[943, 22_700, 68_223], help="users of the part on power"
    )
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    started = time.perf_counter()
    print(f"{given.tables:,} tables a cell")
    if given.part in (None, "level"):
        level(given.tables, given.inner, given.users, given.models, given.seeds, False)
    if given.part in (None, "uneven"):
        level(given.tables, given.inner, given.users, given.models, given.seeds, True)
    if given.part in (None, "power"):
        power(given.tables, given.inner, given.sizes, given.seeds, given.figure)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
