"""Metrics against closed forms, a brute-force expectation, scikit-learn, and the identities of possible tables."""

import csv
from itertools import permutations
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import RunError, UsageError
from bench.evaluation.metrics import DEFAULT, PRIMARY, Metric, parse, values
from bench.evaluation.plausibility import check_identities
from bench.evaluation.ranks import count

ALL = [*DEFAULT, Metric("R", 1), Metric("N", 1), Metric("R", 3), Metric("N", 20), Metric("R", 500)]
PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "paper" / "published.csv"


def one(name, better, tied=0, candidates=100):
    return values(parse(name), np.array([better]), np.array([tied]), np.array([candidates]))[0]


def means(scores, position, metrics=DEFAULT):
    better, tied = count(scores, position)
    length = np.full(len(scores), scores.shape[1])
    return {str(metric): values(metric, better, tied, length).mean() for metric in metrics}


# --- closed forms


def test_a_constant_scorer_is_exactly_at_chance():
    found = {name: one(name, better=0, tied=99) for name in ("R@5", "R@10", "R@20", "MRR", "AUC")}
    harmonic = sum(1 / rank for rank in range(1, 101)) / 100
    assert found == {"R@5": 0.05, "R@10": 0.10, "R@20": 0.20, "MRR": pytest.approx(harmonic), "AUC": 0.5}
    for k, chance in ((5, 0.0295), (10, 0.0454), (20, 0.0704)):
        assert one(f"N@{k}", better=0, tied=99) == pytest.approx(chance, abs=5e-5)


@pytest.mark.parametrize("rank", [1, 2, 5, 6, 10, 11, 100])
def test_without_ties_the_textbook_formulas_hold(rank):
    for k in (5, 10):
        assert one(f"R@{k}", rank - 1) == (rank <= k)
        assert one(f"N@{k}", rank - 1) == pytest.approx((rank <= k) / log2(rank + 1), abs=1e-15)
    assert one("MRR", rank - 1) == pytest.approx(1 / rank)
    assert one("AUC", rank - 1) == pytest.approx((100 - rank) / 99)


def test_a_cut_off_may_exceed_the_list_and_a_list_may_have_no_negatives():
    assert one("R@500", better=3, tied=2, candidates=7) == 1
    assert one("R@1", better=0, candidates=1) == one("N@10", better=0, candidates=1) == 1
    assert np.isnan(one("AUC", better=0, candidates=1))
    assert all(values(metric, *np.zeros((3, 0), int)).shape == (0,) for metric in ALL)


def test_a_list_of_the_whole_catalogue_keeps_its_precision():
    assert one("MRR", better=699_998, candidates=700_000) == pytest.approx(1 / 699_999, rel=1e-6)


# --- the expectation over ties


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 7), st.integers(0, 4), st.integers(0, 5), st.sampled_from(ALL))
def test_values_are_the_mean_over_all_orders_of_the_tied_block(better, tied, worse, metric):
    candidates = better + tied + 1 + worse
    ranks = [better + 1 + order.index(0) for order in permutations(range(tied + 1))]  # 0 is the positive
    textbook = {
        "R": lambda rank: float(rank <= metric.k),
        "N": lambda rank: (rank <= metric.k) / log2(rank + 1),
        "MRR": lambda rank: 1 / rank,
        "AUC": lambda rank: (candidates - rank) / (candidates - 1) if candidates > 1 else np.nan,
    }[metric.kind]
    expected = np.mean([textbook(rank) for rank in ranks])
    assert one(str(metric), better, tied, candidates) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 12))
def test_any_scores_satisfy_the_identities(seed, candidates, levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(levels, size=(50, candidates)).astype(np.float32)
    assert check_identities(means(scores, generator.integers(candidates, size=50), ALL)) == []


# --- parity with scikit-learn, whose NDCG and AUC also handle ties


@pytest.mark.parametrize("levels", [None, 40, 3], ids=["no ties", "some ties", "many ties"])
def test_parity_with_scikit_learn(levels):
    from sklearn import metrics as reference

    generator = np.random.default_rng(1)
    n, candidates = 60, 100
    scores = generator.permuted(np.tile(np.arange(candidates), (n, 1)), axis=1).astype(np.float32)
    if levels:
        scores = scores // (candidates / levels)
        scores = scores.astype(np.float32)
    position = generator.integers(candidates, size=n)
    truth = np.eye(candidates)[position]
    better, tied = count(scores, position)
    assert (tied.max() > 0) == bool(levels)

    def of(name):
        return values(parse(name), better, tied, np.full(n, candidates))

    for row in range(n):
        expected, given_scores = truth[row : row + 1], scores[row : row + 1]
        for k in (1, 5, 10, 20):
            assert of(f"N@{k}")[row] == pytest.approx(reference.ndcg_score(expected, given_scores, k=k), abs=1e-12)
        assert of("AUC")[row] == pytest.approx(reference.roc_auc_score(expected[0], given_scores[0]), abs=1e-12)
        if not levels:
            reciprocal = reference.label_ranking_average_precision_score(expected, given_scores)
            assert of("MRR")[row] == pytest.approx(reciprocal)
    if not levels:
        for k in (1, 5, 10, 20):
            labels = np.arange(candidates)
            assert of(f"R@{k}").mean() == reference.top_k_accuracy_score(position, scores, k=k, labels=labels)


# --- names


@pytest.mark.parametrize("metric", ALL, ids=str)
def test_a_name_is_an_identity(metric):
    assert parse(str(metric)) == metric


def test_names_of_the_contract():
    assert [str(metric) for metric in DEFAULT] == ["R@5", "R@10", "N@5", "N@10", "MRR", "AUC"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("NDCG@10", "N@10"), ("recall@5", "R@5"), ("hr@20", "R@20"), ("n@10", "N@10"), ("N_5", "N@5"), ("R@05", "R@5"),
     ("R", "R@10"), ("mrr", "MRR"), ("MRR@10", "MRR"), ("auc", "AUC"), ("MR", "MRR"), ("N@10 ", "N@10")],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_a_suggestion(typed, meant):
    with pytest.raises(UsageError, match=rf"unknown metric '{typed}'; did you mean .*{meant}"):
        parse(typed)


@pytest.mark.parametrize("typed", ["", "N@0", "N@-1", "R@٥", "R@5\n", "MAP@10", "é"])
def test_nonsense_is_refused(typed):
    with pytest.raises(UsageError):
        parse(typed)


@pytest.mark.parametrize("wrong", [("R", None), ("MRR", 5), ("N", 0), ("P", 5)])
def test_a_metric_that_does_not_exist_cannot_be_made(wrong):
    with pytest.raises(UsageError):
        Metric(*wrong)


@pytest.mark.parametrize("counts", [(-1, 0, 100), (0, -1, 100), (60, 40, 100), (0, 0, 0)])
def test_impossible_counts_stop_with_the_row(counts):
    rows = np.array([(3, 2, 100), counts])
    with pytest.raises(RunError, match="row 1"):
        values(PRIMARY, *rows.T)


# --- identities


def row(r5, r10, n5, n10, **more):
    return {"R@5": r5, "R@10": r10, "N@5": n5, "N@10": n10} | {name.replace("_", "@"): v for name, v in more.items()}


def test_means_of_a_real_ranking_pass_and_each_planted_fault_is_named():
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(943, 100)).astype(np.float32)
    scores[:, 0] += 1
    good = means(scores, np.zeros(943, int), [*DEFAULT, Metric("R", 1)])
    assert check_identities(good) == []
    faults = {
        "R@10 = ": {"R@5": good["R@10"], "R@10": good["R@5"]},
        "N@10 = ": {"N@5": good["N@10"], "N@10": good["N@5"]},
        "N@5 - N@1 = ": {"N@5": good["R@5"] + 0.01},
        "N@10 - N@5 = ": {"N@10": good["N@5"] + 0.36 * (good["R@10"] - good["R@5"])},
        "is below R@1 = ": {"R@1": good["R@5"] + 0.01},
        "MRR = 0.1": {"MRR": 0.1},  # below R@1
        "MRR = 0.6": {"MRR": 0.6},
        "AUC = 1.2": {"AUC": 1.2},
        "R@5 = nan": {"R@5": float("nan")},
    }
    for words, fault in faults.items():
        found = check_identities(good | fault)
        assert any(words in line for line in found), (words, found)


def test_the_bound_on_the_first_rank_follows():
    n5, r5 = 0.42, 0.50
    bound = (n5 - r5 / log2(3)) / (1 - 1 / log2(3))
    assert check_identities({"R@1": bound + 1e-6, "R@5": r5, "N@5": n5}) == []
    assert check_identities({"R@1": bound - 1e-6, "R@5": r5, "N@5": n5})


def test_the_tolerance_covers_rounding_and_nothing_more():
    # 30 of 100 rows at rank 5, 10 more at rank 6: the slope is at its upper bound before rounding.
    exact = row(0.3, 0.4, 0.3 / log2(6), 0.3 / log2(6) + 0.1 / log2(7))
    printed = {name: round(value, 4) for name, value in exact.items()}
    assert check_identities(exact) == []
    assert check_identities(printed, tolerance=5e-5) == []
    assert check_identities(printed | {"N@10": printed["N@10"] + 0.001}, tolerance=5e-5)


def test_impossible_published_rows_are_found():
    if not PUBLISHED.exists():
        pytest.skip("the table of published values is not beside this checkout; planted faults are tested above")
    table: dict[tuple[str, ...], dict[str, float]] = {}
    with PUBLISHED.open() as stream:
        for line in csv.DictReader(stream):
            if line["value"]:
                table.setdefault((line["dataset"], line["task"], line["model"]), {})[line["metric"]] = float(
                    line["value"]
                )
    found = {key: check_identities(line, tolerance=5e-5) for key, line in table.items()}
    impossible = {key: words for key, words in found.items() if words}
    assert len(table) >= 50
    assert set(impossible) == {
        ("Amazon", "search", "GenSR"),
        ("KuaiSAR", "search", "GenSR"),
        ("KuaiSAR", "rec", "GRU4Rec"),
        ("KuaiSAR", "rec", "CoLLM"),
    }
    assert any("R@10 = 0.9664 is below R@5 = 0.9782" in words for words in impossible["Amazon", "search", "GenSR"])
    # With the two swapped cells exchanged, the Amazon row is possible.
    swapped = table["Amazon", "search", "GenSR"]
    assert check_identities(swapped | {"R@10": swapped["N@5"], "N@5": swapped["R@10"]}, tolerance=5e-5) == []
