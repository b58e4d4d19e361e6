"""Paired comparison of two models on the same users.

The paired t-test is the primary test and a paired randomisation test confirms it; Wilcoxon and sign tests are left
out because their type-1 error is inflated at the sample sizes of this field (Ihemelandu and Ekstrand, SIGIR 2023). A
p-value never stands alone: difference, interval, effect size, the smallest detectable difference and the margin within
which the two are equivalent come with it.

Where both models have several seeds, the interval and `p_seeds` also count that another seed gives another model
(`bench.evaluation.seed_variance`), and speak of the methods instead of these trained models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.data.hashing import seed as named_seed
from bench.errors import RunError
from bench.evaluation.metrics import PerUser
from bench.evaluation.seed_variance import NO_SEEDS, SeedVariance, half_width, two_sided_p

FLIPS = 10_000
# Rounding in a mean over rows or seeds: differences below it are no difference.
_ROUNDING = 1e-12
# Random bytes that are held at a time, and words of eight bytes per flip that are turned together.
_BLOCK_BYTES = 2**27
_WORDS_AT_ONCE = 64
# Binary digits of the multiples of a unit up to which counting signs is quicker than looking sums up.
_PLANES = 8
# Sums under random signs that are proven to stay below the observed one, but for a chance of 1e-12, are not drawn.
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Model a against model b on `n` users; `difference` = mean a - mean b.

    `low`, `high`, `p_seeds`, `detectable` and `within` count the variance of users and of seeds; `p_t`,
    `p_randomisation` and `effect` that of users alone. With one seed a model the two are the same.

    Degenerate cases: without any difference both p are 1, effect size and interval 0. With fewer than two users all but
    the means is NaN. When all users differ by the same amount there is no spread to estimate: the interval is that
    amount, the effect size infinite and the t-test's p NaN; the randomisation test stays valid.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float  # 95 % interval of the difference
    high: float
    p_t: float  # two-sided paired t-test
    p_randomisation: float  # two-sided, FLIPS sign flips, add-one estimate
    effect: float  # Cohen's d for pairs: mean / standard deviation of the differences
    detectable: float  # smallest difference found with power .8 at the two-sided level .05
    p_seeds: float  # two-sided, with the variance of seeds where there are several; else p_t
    within: float  # smallest margin m such that |a - b| < m is shown at .05 (two one-sided tests)
    methods: bool = False  # whether the statement is on the methods; else on these trained models
    wins: int = 0  # users for whom a is better
    losses: int = 0  # users for whom b is better

    @property
    def ties(self) -> int:
        """Users for whom the two are equal."""
        return self.n - self.wins - self.losses

    @property
    def p(self) -> float:
        """The largest of the p-values: below a level only when the randomisation test confirms the others."""
        return float(np.max([self.p_t, self.p_seeds, self.p_randomisation]))

    def equivalent(self, margin: float) -> bool:
        """Whether the two differ by less than the margin, with 95 % confidence (Schuirmann's two one-sided tests)."""
        return self.within < margin


def compare(a: PerUser, b: PerUser, seed: int, seeds: SeedVariance = NO_SEEDS) -> Comparison:
    """Compare two models by their per-user values (`Ranks.per_user`), each the mean over its seeds.

    Args:
        a: user ids, ascending, (u,), and values, (u,), of one model.
        b: the same of the other model.
        seed: seed of the randomisation test.
        seeds: variance of their difference over seeds; without it the comparison is on these trained models.

    Raises:
        RunError: the models were not evaluated on the same users, or a value is not finite.
    """
    first, second = (values for _, values in _same_users([a, b]))
    differences = first - second
    n, nan = len(differences), float("nan")
    means = (float(first.mean()), float(second.mean())) if n else (nan, nan)
    known: dict[str, Any] = {"n": n, "mean_a": means[0], "mean_b": means[1], "methods": seeds.known}
    known |= {"wins": int((differences >= _ROUNDING).sum()), "losses": int((differences <= -_ROUNDING).sum())}
    if n < 2:
        none: dict[str, Any] = dict.fromkeys(
            ("low", "high", "p_t", "p_randomisation", "effect", "detectable", "p_seeds", "within"), nan
        )
        return Comparison(difference=means[0] - means[1], **none, **known)
    if np.abs(differences).max() < _ROUNDING and not seeds.variance:
        none = dict.fromkeys(("difference", "low", "high", "effect", "detectable", "within"), 0.0)
        return Comparison(p_t=1.0, p_randomisation=1.0, p_seeds=1.0, **none, **known)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    varies = float(np.ptp(differences)) >= _ROUNDING
    of_users = deviation**2 / n if varies else 0.0
    p_t, p_seeds = (float(two_sided_p(mean, of_users, n, each)) for each in (NO_SEEDS, seeds))
    half, narrow = (float(half_width(of_users, n, seeds, level)) for level in (0.05, 0.1))
    return Comparison(
        difference=mean,
        low=mean - half,
        high=mean + half,
        p_t=p_t,
        p_randomisation=randomisation_p(differences, seed),
        effect=mean / deviation if varies else float(np.copysign(np.inf, mean)) if mean else 0.0,
        detectable=2.8 * (of_users + seeds.excess) ** 0.5,  # 1.96 + .84, the normal quantiles of .975 and .8
        p_seeds=p_seeds,
        within=abs(mean) + narrow,
        **known,
    )


def randomisation_p(differences: NDArray[np.float64], seed: int, flips: int = FLIPS) -> float:
    """Two-sided p-value of a zero mean under random signs of the differences, (n,): (1 + extreme) / (1 + flips).

    The add-one estimate counts the observed signs as one of the draws, so that p is never 0 and the test never exceeds
    its level.
    """
    nonzero = differences[np.abs(differences) >= _ROUNDING]  # the sign of a zero changes nothing
    observed = abs(nonzero.sum())
    # Sums that differ only in the order of their additions must count as equal.
    limit = observed - 1e-9 * np.abs(nonzero).sum()
    # Hoeffding (JASA 1963, theorem 2): P(|sum| >= limit) <= 2 exp(-limit^2 / (2 sum of squares)), for each flip.
    if limit > 0 and 2 * flips * np.exp(-(limit**2) / (2 * np.square(nonzero).sum())) < _NEGLIGIBLE:
        return 1 / (1 + flips)
    extreme = sum(int((np.abs(sums) >= limit).sum()) for sums in _signed_sums(nonzero, seed, flips))
    return (1 + extreme) / (1 + flips)


def _signed_sums(values: NDArray[np.float64], seed: int, flips: int) -> Iterator[NDArray[np.float64]]:
    """Sums of the values under random signs, in blocks of flips.

    One random byte gives the signs of a group of eight values. The 256 possible sums of a group are tabulated, so that
    a flip costs one look-up per group. Groups are added one after the other for a block of flips: the table of one
    group (2 KB) stays in the fastest cache, which the tables of all groups do not. Small multiples of a unit, such as
    the differences of Recall@k or AUC, need no table: their signs are counted.
    """
    groups = max(1, -(-len(values) // 8))
    unit, multiples = _small_multiples(values)
    if len(multiples):
        yield from _counted_sums(values, unit, multiples, _random_bytes(seed, flips, groups))
        return
    padded = np.zeros((groups, 8))
    padded.flat[: len(values)] = values
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)
    table = padded @ signs.T  # (groups, 256)
    for draws in _random_bytes(seed, flips, groups):
        sums, found, index = np.zeros(len(draws)), np.empty(len(draws)), np.empty(len(draws), dtype=np.intp)
        words = draws.view(np.uint64)
        for first in range(0, words.shape[1], _WORDS_AT_ONCE):
            # Transposed as words of eight groups: reading single columns would fetch the whole array for each.
            turned = np.ascontiguousarray(words[:, first : first + _WORDS_AT_ONCE].T)  # (w, block)
            by_group = turned.view(np.uint8).reshape(len(turned), len(draws), 8)
            for number, group_sums in enumerate(table[8 * first : 8 * (first + len(turned))]):
                # Clipping a byte to 0..255 changes nothing; with it numpy writes into `found` without a copy.
                np.copyto(index, by_group[number // 8, :, number % 8])
                sums += group_sums.take(index, out=found, mode="clip")
        yield sums


def _small_multiples(values: NDArray[np.float64]) -> tuple[float, NDArray[np.int64]]:
    """The smallest size among the values and how often each size holds it; no multiples where they are not small integers."""
    sizes = np.abs(values)
    unit = float(sizes.min(initial=np.inf))
    multiples = np.rint(sizes / unit)
    fits = multiples.max(initial=0) < 2**_PLANES and np.abs(multiples * unit - sizes).max(initial=0) < _ROUNDING
    return unit, multiples.astype(np.int64) if fits else np.empty(0, dtype=np.int64)


def _counted_sums(
    values: NDArray[np.float64], unit: float, multiples: NDArray[np.int64], random: Iterator[NDArray[np.uint8]]
) -> Iterator[NDArray[np.float64]]:
    """What `_signed_sums` yields for multiples of a unit: for each binary digit of the multiples, turned signs are counted."""
    for draws in random:
        words = draws.view(np.uint64)
        words ^= _packed(values < 0, draws.shape[1])
        total = np.zeros(len(draws), dtype=np.int64)
        for digit in range(int(multiples.max()).bit_length()):
            holds = (multiples >> digit & 1).astype(bool)
            turned = np.bitwise_count(words & _packed(holds, draws.shape[1])).sum(axis=1, dtype=np.int64)
            total += (int(holds.sum()) - 2 * turned) << digit
        yield unit * total.astype(np.float64)


def _packed(bits: NDArray[np.bool_], width: int) -> NDArray[np.uint64]:
    """Bits (n,) in the order of the random ones, as words of together `width` bytes; 0 after the last bit."""
    packed = np.zeros(width, dtype=np.uint8)
    packed[: -(-len(bits) // 8)] = np.packbits(bits)
    return packed.view(np.uint64)


def _random_bytes(seed: int, flips: int, groups: int) -> Iterator[NDArray[np.uint8]]:
    """Random bytes (block, groups filled up with zeros to a multiple of 8), in blocks of together `flips` rows.

    They are the raw output of the bit generator, which numpy keeps stable, and equal to `Generator.integers(256,
    dtype=np.uint8)` called for chunks of 2**20 bytes: such a call reads whole 32-bit words and drops what is left.
    """
    bits = np.random.default_rng(named_seed("significance", seed)).bit_generator
    chunk = max(1, 2**20 // groups)
    # An even number of chunks takes whole 64-bit words, so that no half is carried into the next block.
    block = 2 * chunk * max(1, _BLOCK_BYTES // (2 * chunk * groups))
    for start in range(0, flips, block):
        stop = min(start + block, flips)
        rows = [min(chunk, stop - low) for low in range(start, stop, chunk)]
        words = [-(-count * groups // 4) for count in rows]  # of 32 bits
        raw = bits.random_raw(-(-sum(words) // 2)).astype("<u8", copy=False).view(np.uint8)
        draws = np.zeros((stop - start, -(-groups // 8) * 8), dtype=np.uint8)
        low = offset = 0
        for count, used in zip(rows, words, strict=True):
            draws[low : low + count, :groups] = raw[offset : offset + count * groups].reshape(count, groups)
            low, offset = low + count, offset + 4 * used
        yield draws


def mean_over_seeds(runs: Sequence[PerUser]) -> PerUser:
    """Per-user mean over runs of one model with different seeds: users (u,), values (u,).

    Raises:
        RunError: no run, or the runs were not evaluated on the same users.
    """
    if not runs:
        raise RunError("no run to average over seeds")
    same = _same_users(runs)
    return same[0][0], np.mean([values for _, values in same], axis=0)


def holm(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjustment of the p-values of one family, (m,), in their order (Holm, Scand. J. Stat. 1979).

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than those before it, and cut at 1. A NaN stays
    NaN and still counts as a comparison, so that it cannot make the others look better.
    """
    p = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")
    steps = np.where(np.isnan(p), 1.0, p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def _same_users(runs: Sequence[PerUser]) -> list[PerUser]:
    """The runs with float64 values, once it is sure that their users are equal, distinct and in the same order."""
    checked = [(np.asarray(users), np.asarray(values, dtype=np.float64)) for users, values in runs]
    users = checked[0][0]
    for number, (others, values) in enumerate(checked):
        if others.shape != values.shape or others.ndim != 1:
            raise RunError(f"run {number}: {others.shape} users and {values.shape} values")
        if not np.array_equal(users, others):
            shared = len(np.intersect1d(users, others))
            raise RunError(
                "a paired comparison needs the same users in the same order: "
                f"{len(users)} and {len(others)} users share {shared}; evaluate both on the same candidates"
            )
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).argmax())
            raise RunError(f"run {number}: the value of user {others[row]} is {values[row]}")
    # Users come in ascending order from `Ranks.per_user`; only other orders need to be sorted.
    if not (users[1:] > users[:-1]).all() and len(np.unique(users)) < len(users):
        raise RunError("a user appears twice: average the rows of a user first (Ranks.per_user)")
    return checked
