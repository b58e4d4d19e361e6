"""The variance of seeds: what it adds to a comparison, and that it holds its level."""

import numpy as np
import pytest
from scipy import stats

from bench.evaluation.seed_variance import (
    CLOSED_FORM,
    NO_SEEDS,
    SeedSpread,
    SeedVariance,
    counted,
    half_width,
    of_difference,
    seed_spread,
    two_sided_p,
)
from bench.evaluation.significance import compare, mean_over_seeds


def runs_of(generator, seeds, users, apart, inner=0.1):
    own = generator.normal(0.4, 0.2, users)
    ids = np.arange(users)
    moved = apart * generator.standard_normal(seeds)
    return [(ids, own + each + inner * generator.standard_normal(users)) for each in moved]


def compared(a, b):
    return compare(mean_over_seeds(a), mean_over_seeds(b), 0, of_difference(seed_spread(a), seed_spread(b)))


def test_spread_has_its_closed_form():
    a = runs_of(np.random.default_rng(1), 3, 50, 0.1)
    values = np.stack([each for _, each in a])
    spread = seed_spread(a)
    assert spread.variance == pytest.approx(values.mean(1).var(ddof=1) / 3) and spread.freedom == 2
    residuals = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    assert spread.by_users == pytest.approx((residuals**2).sum() / (2 * 49) / 50 / 3)


def test_without_seeds_the_p_value_is_that_of_the_t_test():
    generator = np.random.default_rng(2)
    a, b = (generator.normal(size=40) for _ in range(2))
    p = two_sided_p((a - b).mean(), (a - b).var(ddof=1) / 40, 40, NO_SEEDS)
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    half = half_width((a - b).var(ddof=1) / 40, 40, NO_SEEDS, 0.05)
    assert half == pytest.approx(stats.t.ppf(0.975, 39) * stats.sem(a - b))


def test_variances_add_up_and_their_freedom_is_welchs():
    a, b = SeedSpread(0.02, 0.004, 2.0, True), SeedSpread(0.01, 0.003, 4.0, True)
    both = of_difference(a, b)
    assert (both.variance, both.by_users) == (pytest.approx(0.03), pytest.approx(0.007)) and both.known
    assert both.freedom == pytest.approx(0.03**2 / (0.02**2 / 2 + 0.01**2 / 4))
    assert both.excess == pytest.approx(0.023) and SeedVariance(0.001, 0.002, 2.0, True).excess == 0


def test_what_the_users_explain_of_the_seeds_is_not_counted_twice():
    """A variance of seeds, part of which the users explain, adds less than one of which they explain nothing."""
    users, less, more = 0.1, SeedVariance(0.012, 0.005, 3.0, True), SeedVariance(0.012, 0.0, 3.0, True)
    alone, some, all_of_it = (float(two_sided_p(0.7, users, 200, each)) for each in (NO_SEEDS, less, more))
    assert alone < some < all_of_it
    widths = [half_width(users, 200, each, 0.05) for each in (NO_SEEDS, less, more)]
    assert widths == sorted(widths) and widths[0] < widths[1] < widths[2]
    # Nothing is left of a variance that the users explain in full.
    explained = SeedVariance(0.005, 0.006, 3.0, True)
    assert float(two_sided_p(0.7, users, 200, explained)) == pytest.approx(alone)


def test_seeds_alone_give_welchs_test():
    """With endless users only seeds vary, and the p-value is the t-test's with Welch's degrees of freedom."""
    seeds = SeedVariance(0.01, 0.0, 4.0, True)
    for difference in (0.1, 0.25, 0.4):
        p = two_sided_p(difference, 0.0, 10**9, seeds)
        assert p == pytest.approx(2 * stats.t.sf(difference / 0.1, 4), rel=0.03)


def test_a_spread_that_users_explain_does_not_count_and_a_large_one_counts_in_full():
    """What users explain is .05 of their variance: nothing counts below twice that, everything above 8/3 of it."""
    spreads = np.array([0.0, 0.05, 0.1, 0.11, 0.14, 1.0])
    found = [float(counted(1.0, SeedVariance(q, 0.05, 4.0, True))) for q in spreads]
    assert found == pytest.approx([0, 0, 0, 0.04, 0.14, 1.0])
    # The larger the share that users explain, the earlier the spread counts; at half of their variance all of it does.
    assert float(counted(0.2, SeedVariance(0.08, 0.05, 4.0, True))) > 0
    assert float(counted(0.1, SeedVariance(0.04, 0.05, 4.0, True))) == pytest.approx(0.04)


def test_two_seeds_count_in_full_with_one_degree_of_freedom():
    two, three = SeedSpread(0.01, 0.05, 1, True), SeedSpread(0.01, 0.05, 2, True)
    assert of_difference(two, three).freedom == 1
    assert float(counted(1.0, of_difference(two, three))) == pytest.approx(0.02)
    assert float(counted(1.0, of_difference(three, three))) == 0


def test_the_interval_ends_where_the_p_value_is_the_level():
    for variance, freedom in ((0.0, np.inf), (0.3, 4.0), (5.0, 2.3), (5.0, 1.0), (0.3, np.inf)):
        seeds = SeedVariance(variance, 0.02, freedom, True)
        for level in (0.1, 0.05, 0.001):
            half = half_width(1.0, 200, seeds, level)
            assert two_sided_p([-half, half], 1.0, 200, seeds) == pytest.approx([level, level], rel=1e-6)
    assert two_sided_p([0.0, 1e9], 1.0, 200, seeds) == pytest.approx([1.0, 0.0], abs=1e-9)
    assert np.isnan(two_sided_p(1.0, 0.0, 200, SeedVariance(known=True)))


@pytest.mark.parametrize("ratio", [0.0, 0.03, 0.1, 0.3, 1.0, 8.0])
def test_three_seeds_hold_the_level_and_nineteen_twentieths_of_the_power(ratio):
    """Normal differences with endless users: the spread is a multiple of chi-square, .08 of it by users."""
    generator = np.random.default_rng(7)
    first, second = generator.chisquare(2, (2, 1500)) / 2 * (0.04 + ratio / 2)
    spreads = [[SeedSpread(q, 0.04, 2, True) for q in pair] for pair in zip(first, second, strict=True)]
    limits = np.array([half_width(1.0, 10**9, of_difference(*pair), 0.05) for pair in spreads])

    def found(limits, difference):
        scale = (1 + ratio) ** 0.5
        return np.mean(stats.norm.sf((limits - difference) / scale) + stats.norm.sf((limits + difference) / scale))

    assert found(limits, 0.0) <= 0.0515
    if ratio == 0.0:
        for difference in (1.0, 2.0):
            assert found(limits, difference) >= 0.95 * found(stats.norm.isf(0.025), difference)


def test_seeds_make_a_comparison_stricter_and_never_looser():
    generator = np.random.default_rng(3)
    for apart in (0.0, 0.01, 0.1):
        found = compared(runs_of(generator, 3, 400, apart), runs_of(generator, 3, 400, apart))
        assert found.methods and found.p_seeds >= found.p_t - 1e-12
        assert found.low <= found.difference <= found.high
        assert (found.p_seeds < 0.05) == (found.low > 0 or found.high < 0)


def test_one_seed_speaks_of_trained_models_and_a_closed_form_has_no_seed():
    generator = np.random.default_rng(4)
    one, three = runs_of(generator, 1, 30, 0.1), runs_of(generator, 3, 30, 0.1)
    assert not compared(one, three).methods and compared(one, three).p_seeds == compared(one, three).p_t
    known = of_difference(CLOSED_FORM, seed_spread(three))
    assert known.known and known.freedom == pytest.approx(2)
    assert of_difference(CLOSED_FORM, CLOSED_FORM) == SeedVariance(known=True)


def test_equal_methods_whose_seeds_differ_are_told_apart_in_one_of_twenty_comparisons():
    """The t-test over users fails here, which is why seeds count."""
    generator = np.random.default_rng(5)
    pairs = [[runs_of(generator, 3, 300, 0.04) for _ in range(2)] for _ in range(400)]
    found = []
    for a, b in pairs:
        differences = mean_over_seeds(a)[1] - mean_over_seeds(b)[1]
        of_users = differences.var(ddof=1) / 300
        seeds = of_difference(seed_spread(a), seed_spread(b))
        found.append([two_sided_p(differences.mean(), of_users, 300, each) for each in (NO_SEEDS, seeds)])
    users_alone, both = (np.array(found) < 0.05).mean(axis=0)
    assert users_alone > 0.2 and both <= 0.07


def test_equivalence_is_two_one_sided_tests():
    generator = np.random.default_rng(6)
    a, b = ((np.arange(200), generator.normal(size=200)) for _ in range(2))
    found = compare(a, b, 0)
    margin = found.within
    larger = max(
        stats.ttest_1samp(a[1] - b[1], side, alternative=way).pvalue
        for side, way in ((-margin, "greater"), (margin, "less"))
    )
    assert larger == pytest.approx(0.05)
    assert found.equivalent(margin * 1.01) and not found.equivalent(margin * 0.99)
