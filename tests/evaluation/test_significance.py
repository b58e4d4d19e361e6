"""Tests of the tests: calibration under a simulated null, power, and agreement with exact enumeration."""

from itertools import product

import numpy as np
import pytest

from bench.data.hashing import seed
from bench.errors import RunError
from bench.evaluation import significance
from bench.evaluation.metrics import PRIMARY, values
from bench.evaluation.seed_variance import SeedVariance
from bench.evaluation.significance import FLIPS, Comparison, compare, holm, mean_over_seeds, randomisation_p

USERS = 200


def n10(generator, strength, users=USERS):
    """N@10 of lists whose positive is `strength` standard deviations above 99 negatives."""
    ahead = generator.normal(size=(users, 99)) > generator.normal(strength, size=(users, 1))
    better = ahead.sum(axis=1)
    return values(PRIMARY, better, np.zeros(users, int), np.full(users, 100))


def per_user(values):
    return np.arange(1, len(values) + 1), np.asarray(values, dtype=float)


@pytest.fixture(scope="module")
def null():
    """400 comparisons of two equally good models."""
    generator = np.random.default_rng(11)
    draws = [(n10(generator, 1.0), n10(generator, 1.0)) for _ in range(400)]
    return [compare(per_user(a), per_user(b), seed=trial) for trial, (a, b) in enumerate(draws)]


@pytest.mark.parametrize("name", ["p_t", "p_randomisation"])
def test_p_values_are_calibrated_when_nothing_differs(null, name):
    p = np.array([getattr(comparison, name) for comparison in null])
    assert 0.02 <= (p < 0.05).mean() <= 0.085  # .05 with a standard deviation of .011
    assert 0.42 <= (p < 0.5).mean() <= 0.58
    from scipy.stats import kstest

    assert kstest(p, "uniform").pvalue > 0.001


def test_the_interval_covers_and_agrees_with_the_t_test(null):
    covered = np.array([comparison.low <= 0 <= comparison.high for comparison in null])
    assert 0.915 <= covered.mean() <= 0.98
    assert np.array_equal(covered, [comparison.p_t > 0.05 for comparison in null])


def test_the_two_tests_agree(null):
    t, randomised = np.array([(comparison.p_t, comparison.p_randomisation) for comparison in null]).T
    assert np.abs(t - randomised).max() < 0.03
    assert [comparison.p for comparison in null] == np.maximum(t, randomised).tolist()


def test_a_better_model_is_found_and_the_sign_follows_the_order():
    generator = np.random.default_rng(2)
    a, b = per_user(n10(generator, 1.6, 2000)), per_user(n10(generator, 1.0, 2000))
    forth, back = compare(a, b, seed=0), compare(b, a, seed=0)
    assert forth.difference > 0 and forth.low > 0 and forth.p < 0.001 and forth.effect > 0
    assert forth.difference == pytest.approx(forth.mean_a - forth.mean_b)
    assert (back.difference, back.low, back.effect) == pytest.approx((-forth.difference, -forth.high, -forth.effect))
    assert back.p_randomisation == forth.p_randomisation == 1 / (1 + FLIPS)


def test_the_detectable_difference_is_detected_four_times_in_five():
    generator = np.random.default_rng(3)
    shift, found = 2.8 / USERS**0.5, []
    for trial in range(400):
        noise = generator.normal(size=USERS)
        found.append(compare(per_user(noise + shift), per_user(np.zeros(USERS)), seed=trial).p_t < 0.05)
    assert 0.74 <= np.mean(found) <= 0.86
    measured = compare(per_user(noise), per_user(np.zeros(USERS)), seed=0).detectable
    assert measured == pytest.approx(shift, rel=0.15)


@pytest.mark.parametrize("draw", [0, 3, 4, 7])
def test_the_randomisation_test_estimates_the_exact_one(draw):
    generator = np.random.default_rng(draw)
    differences = generator.choice([-0.2, 0.0, 0.1, 0.3], size=12)  # many sums are equal but for rounding
    signs = np.array(list(product([1, -1], repeat=12)))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    estimate = randomisation_p(differences, seed=0)
    assert abs(estimate - exact) < 4 * (exact * (1 - exact) / FLIPS) ** 0.5
    assert 0.01 < exact < 0.99
    assert randomisation_p(differences, seed=0) == estimate != randomisation_p(differences, seed=1)


def test_a_chunk_is_an_implementation_detail():
    generator = np.random.default_rng(6)
    many = generator.normal(0.004, 0.3, size=30_000)  # several chunks
    t = compare(per_user(many), per_user(np.zeros(len(many))), seed=0)
    assert abs(t.p_t - t.p_randomisation) < 0.02


def test_known_numbers():
    a, b = per_user([0.5, 0.7, 0.9, 0.4]), per_user([0.4, 0.5, 0.6, 0.4])
    found = compare(a, b, seed=0)
    # Differences .1 .2 .3 .0: mean .15, standard deviation sqrt(.05 / 3), t = .15 / (sd / 2), 3 degrees of freedom.
    deviation = (0.05 / 3) ** 0.5
    assert (found.n, found.difference, found.effect) == (4, pytest.approx(0.15), pytest.approx(0.15 / deviation))
    assert found.high - found.difference == pytest.approx(3.182446 * deviation / 2, rel=1e-6)
    assert found.p_t == pytest.approx(0.1027, abs=5e-4)
    assert found.detectable == pytest.approx(1.4 * deviation)
    assert found.p_randomisation == pytest.approx(0.25, abs=0.02)  # 2 of the 8 signs of the three that differ


# --- degenerate cases


def test_identical_models_do_not_differ():
    same = per_user(n10(np.random.default_rng(0), 1.0))
    found = compare(same, (same[0], same[1] + 1e-16), seed=0)
    assert (found.difference, found.low, found.high, found.effect) == (0, 0, 0, 0)
    assert found.p_t == found.p_randomisation == found.p == 1


@pytest.mark.parametrize("users", [0, 1])
def test_too_few_users_give_nan(users):
    found = compare(per_user([0.5] * users), per_user([0.2] * users), seed=0)
    assert found.n == users and np.isnan([found.p_t, found.p_randomisation, found.p, found.low, found.effect]).all()
    assert users == 0 or found.difference == pytest.approx(0.3)


@pytest.mark.filterwarnings("error")
def test_a_constant_difference_has_no_t_test():
    found = compare(per_user([0.2, 0.4, 0.6]), per_user([0.3, 0.5, 0.7]), seed=0)
    assert np.isnan(found.p_t) and np.isnan(found.p) and found.effect == -np.inf
    assert found.low == found.high == pytest.approx(-0.1)
    assert found.p_randomisation == pytest.approx(0.25, abs=0.02)


def test_rounding_is_neither_a_win_nor_a_spread():
    constant = compare(per_user([0.3, 0.2, 0.7, 0.9]), per_user([0.1, 0.0, 0.5, 0.7]), seed=0)
    assert len({0.3 - 0.1, 0.2 - 0.0, 0.7 - 0.5, 0.9 - 0.7}) > 1, "equal but for rounding"
    assert np.isnan(constant.p_t) and (constant.low, constant.high) == (pytest.approx(0.2), pytest.approx(0.2))
    found = compare(per_user([0.1 + 1e-15, 0.5 - 1e-15, 0.7]), per_user([0.1, 0.5, 0.6]), seed=0)
    assert (found.wins, found.losses, found.ties) == (1, 0, 2)


def test_equal_means_over_seeds_are_no_proof_where_seeds_vary():
    seeds = SeedVariance(0.01, 0.0, 2.0, True)
    same = per_user(n10(np.random.default_rng(0), 1.0))
    found = compare(same, same, seed=0, seeds=seeds)
    assert found.methods and found.low < 0 < found.high and found.within > 0.1
    assert found.detectable == pytest.approx(2.8 * 0.1) and found.p == 1


@pytest.mark.parametrize(
    ("users", "words"),
    [([1, 2, 4], "share 2"), ([2, 1, 3], "share 3"), ([1, 2], "3 and 2 users share 2"), ([1, 2, 3, 4], "share 3")],
)
def test_other_users_are_refused(users, words):
    with pytest.raises(RunError, match=words):
        compare(([1, 2, 3], [0.1, 0.2, 0.3]), (users, np.zeros(len(users))), seed=0)


def test_repeated_users_and_missing_values_are_refused():
    with pytest.raises(RunError, match="twice"):
        compare(([1, 1], [0.1, 0.2]), ([1, 1], [0.1, 0.2]), seed=0)
    with pytest.raises(RunError, match="run 1: the value of user 2 is nan"):
        compare(([1, 2], [0.1, 0.2]), ([1, 2], [0.1, np.nan]), seed=0)


# --- families and seeds


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04: times 4, 3, 2, 1 gives .02 .03 .06 .04, and the last may not fall below .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)
    adjusted = holm([0.01, np.nan, 0.02])
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.04]) and np.isnan(adjusted[1])


def test_seeds_are_averaged_within_a_user():
    users, values = mean_over_seeds([([3, 5], [0.0, 1.0]), ([3, 5], [1.0, 1.0]), ([3, 5], [0.5, 0.4])])
    assert users.tolist() == [3, 5] and values == pytest.approx([0.5, 0.8])
    with pytest.raises(RunError, match="share 1"):
        mean_over_seeds([([3, 5], [0.0, 1.0]), ([3, 6], [1.0, 1.0])])
    with pytest.raises(RunError, match="no run"):
        mean_over_seeds([])


def test_a_comparison_is_plain_numbers():
    found = compare(per_user([0.5, 0.7, 0.1]), per_user([0.4, 0.5, 0.3]), seed=0)
    assert {type(value) for value in vars(found).values()} == {int, float, bool}
    assert isinstance(found, Comparison)


def test_holm_equals_statsmodels():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    generator = np.random.default_rng(4)
    for size in (1, 2, 3, 10, 25):
        for scale in (1.0, 0.01):
            p = generator.random(size) * scale
            p[size // 2 :] = p[size // 2]  # ties
            assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)
    p = generator.random(8)
    p[3] = np.nan
    expected = multipletests(np.where(np.isnan(p), 1, p), method="holm")[1]
    assert np.isnan(holm(p)[3]) and np.delete(holm(p), 3) == pytest.approx(np.delete(expected, 3))


@pytest.mark.parametrize("multiple", [0, 1, 5, 99])
@pytest.mark.parametrize(("n", "flips"), [(1, 50), (9, 101), (1003, 3000), (40_011, 700)])
def test_signs_come_from_the_stream_of_bytes_of_the_generator(monkeypatch, n, flips, multiple):
    """The sums of all flips by the plain definition: a sign per user, from one byte for eight of them."""
    monkeypatch.setattr(significance, "_BLOCK_BYTES", 2**22)  # several blocks
    values = np.random.default_rng(n).normal(size=n)
    if multiple:  # differences of a recall, of a mean recall over seeds, of an AUC
        values = np.random.default_rng(n).integers(1, multiple + 1, n) * np.sign(values) / multiple
        values[0] = 1 / multiple
        assert len(significance._small_multiples(values)[1]) == n
    elif n > 1:
        assert not len(significance._small_multiples(values)[1])
    groups = -(-n // 8)
    generator = np.random.default_rng(seed("significance", 5))
    chunk = max(1, 2**20 // groups)
    expected = []
    for start in range(0, flips, chunk):
        draws = generator.integers(256, size=(min(chunk, flips - start), groups), dtype=np.uint8)
        signs = 1.0 - 2.0 * np.unpackbits(draws, axis=1)[:, :n]
        expected.append(signs @ values)
    sums = np.concatenate(list(significance._signed_sums(values, 5, flips)))
    assert sums == pytest.approx(np.concatenate(expected), abs=1e-9)


def test_flips_that_are_not_drawn_would_not_have_counted(monkeypatch):
    generator = np.random.default_rng(8)
    for shift in (0.0, 0.2, 0.5, 2.0):
        differences = generator.normal(shift, 1, 400)
        quick = randomisation_p(differences, seed=3)
        with monkeypatch.context() as patch:
            patch.setattr(significance, "_NEGLIGIBLE", 0.0)
            assert randomisation_p(differences, seed=3) == quick
    with monkeypatch.context() as patch:
        patch.setattr(significance, "_signed_sums", lambda *_: pytest.fail("drawn"))
        assert randomisation_p(np.full(400, 1.0), seed=0) == 1 / (1 + FLIPS)
