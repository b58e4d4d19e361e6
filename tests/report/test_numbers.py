"""The numbers of a table: means, intervals, tests, and what makes them an error."""

import math
from dataclasses import replace
from itertools import combinations
from math import log2

import numpy as np
import pytest
from scipy import stats

from bench.data.log import file_sha256
from bench.errors import RunError
from bench.evaluation.metrics import Metric
from bench.evaluation.ranks import Ranks
from bench.report.table import table

from .results_by_hand import FIRST, OTHER, USERS, Folder, cells, draws, one, three


def test_means_and_intervals_equal_their_closed_forms(folder):
    better = draws(5, 20)
    folder.command(folder.run("a", better), folder.run("b", 9), folder.run("flat", 0, tied=99))
    result = table(folder.store)
    gain = np.where(better < 10, 1 / np.log2(better + 2), 0)
    row = one(result, model="a", task="rec", metric="N@10")
    low, high = stats.t.interval(0.95, USERS - 1, gain.mean(), stats.sem(gain))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((gain.mean(), low, high))
    assert one(result, model="a", task="rec", metric="R@5")["mean"] == pytest.approx((better < 5).mean())
    assert one(result, model="a", task="search", metric="MRR")["mean"] == pytest.approx((1 / (better + 1)).mean())
    fixed = {
        metric: one(result, model="b", task="rec", metric=metric)["mean"] for metric in ("R@5", "R@10", "N@10", "AUC")
    }
    assert fixed == pytest.approx({"R@5": 0, "R@10": 1, "N@10": 1 / log2(11), "AUC": 90 / 99})
    chance = {metric: one(result, model="flat", task="rec", metric=metric)["mean"] for metric in ("R@5", "R@10", "AUC")}
    assert chance == pytest.approx({"R@5": 0.05, "R@10": 0.1, "AUC": 0.5})
    assert row["users"] == row["rows"] == USERS and math.isnan(row["std"])


def test_the_star_needs_a_best_model_that_both_tests_separate_from_the_second(folder):
    result = three(folder)
    best = one(result, model="a", task="rec", metric="N@10")
    assert best["significant"] and best["rank"] == 1 and best["difference"] > 0
    assert best["p"] < 0.05 and best["p_randomisation"] < 0.05
    assert not cells(result, model="b")["significant"].any() and not cells(result, model="c")["significant"].any()
    second = cells(result, task="rec", metric="N@10", rank=2)
    assert set(second["model"]) == {"b", "c"}  # equal means share a rank


def test_equal_models_and_chance_differences_get_no_star(tmp_path):
    equal = Folder(tmp_path / "equal")
    equal.command(equal.run("a", draws(1)), equal.run("b", draws(1)))
    result = table(equal.store)
    assert set(result.frame()["rank"]) == {1} and not result.frame()["significant"].any()
    assert one(result, model="b", task="rec", metric="N@10")["p"] == 1
    better = draws(1)
    nearly = better.copy()
    nearly[np.flatnonzero(better == 1)[:2]] = 0
    close = Folder(tmp_path / "close")
    close.command(close.run("a", nearly), close.run("b", better))
    best = one(table(close.store), model="a", task="rec", metric="N@10")
    assert best["rank"] == 1 and best["difference"] > 0 and not best["significant"] and best["p"] > 0.05


def test_a_star_needs_the_randomisation_test_too(folder, monkeypatch):
    import bench.evaluation.significance as significance

    monkeypatch.setattr(significance, "randomisation_p", lambda *_args, **_kwargs: 0.2)
    best = one(three(folder), model="a", task="rec", metric="N@10")
    assert best["p"] < 0.05 and not best["significant"]


def test_tests_and_holm_equal_an_independent_computation(folder):
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    result = three(folder)
    gains = {m: np.where(b < 10, 1 / np.log2(b + 2), 0) for m, b in zip("ab", (draws(1, 8), draws(2)), strict=True)}
    row = one(result, model="b", task="search", metric="N@10")
    difference = gains["a"] - gains["b"]
    assert row["p"] == pytest.approx(stats.ttest_rel(gains["a"], gains["b"]).pvalue)
    assert row["effect"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["smallest_detectable"] == pytest.approx(2.8 * difference.std(ddof=1) / USERS**0.5)
    rec = cells(result, task="rec", metric="N@10").set_index("model")
    assert math.isnan(rec.loc["a", "p_holm"])
    # Adjusted over all six pairs, not only over those with the best, which was chosen after looking.
    gains |= {"c": gains["b"], "most": np.where(draws(3, 90) + 5 < 10, 1 / np.log2(draws(3, 90) + 7), 0)}
    pairs = list(combinations("abc", 2)) + [(name, "most") for name in "abc"]
    raw = [1.0 if pair == ("b", "c") else stats.ttest_rel(*(gains[name] for name in pair)).pvalue for pair in pairs]
    adjusted = dict(zip(pairs, multipletests(raw, method="holm")[1], strict=True))
    expected = [adjusted["a", name] for name in ("b", "c", "most")]
    assert rec.loc[["b", "c", "most"], "p_holm"].tolist() == pytest.approx(expected)
    assert cells(result, metric="R@5")["p_holm"].isna().all()


def test_seeds_are_averaged_per_user_first_and_their_spread_is_reported(folder):
    runs = [draws(seed, 30) for seed in (1, 2, 3)]
    places = [folder.run("a", better, seed=seed) for seed, better in enumerate(runs)]
    places += [folder.run("b", draws(9, 30), seed=seed) for seed in range(3)]
    folder.command(*places)
    row = one(table(folder.store), model="a", task="rec", metric="R@10")
    values = np.array([better < 10 for better in runs], dtype=float)
    assert row["mean"] == pytest.approx(values.mean())
    assert row["std"] == pytest.approx(values.mean(1).std(ddof=1))
    low, high = stats.t.interval(0.95, USERS - 1, values.mean(), stats.sem(values.mean(0)))
    assert (row["low"], row["high"]) == pytest.approx((low, high)) and row["seeds"] == "0,1,2"
    fewer = one(table(folder.store, seeds=[1]), model="a", task="rec", metric="R@10")
    assert fewer["seeds"] == "1" and fewer["mean"] == pytest.approx(values[1].mean())
    assert one(table(folder.store), model="b", task="rec", metric="N@10")["std"] == 0


def test_rows_with_other_seeds_are_compared_on_the_common_ones_and_flagged(folder):
    better = {seed: draws(seed, 10) for seed in range(3)}
    places = [folder.run("a", better[seed], seed=seed) for seed in range(3)]
    worse, trivial = draws(8), draws(9, 80)
    places += [folder.run("b", worse, seed=1), folder.run("most", trivial, group="trivial", config={})]
    folder.command(*places)
    result = table(folder.store)
    gain = {
        seed: np.where(b < 10, 1 / np.log2(b + 2), 0) for seed, b in [*better.items(), ("b", worse), ("most", trivial)]
    }
    rows = cells(result, task="rec", metric="N@10").set_index("model")
    assert rows.loc["b", "difference"] == pytest.approx((gain[1] - gain["b"]).mean())
    assert (
        "seeds 1 where others have 0,1,2" in rows.loc["b", "notes"] and "where others" not in rows.loc["most", "notes"]
    )
    every = np.mean([gain[seed] for seed in range(3)], axis=0)
    assert rows.loc["most", "difference"] == pytest.approx((every - gain["most"]).mean())
    assert rows.loc["a", "mean"] == pytest.approx(every.mean())


def test_impossible_means_are_an_error_that_names_the_row(folder, monkeypatch):
    folder.command(folder.run("a", draws(1)), folder.run("b", draws(2)))
    honest = Ranks.per_user

    def broken(self, metric):
        users, values = honest(self, metric)
        return users, values + 0.4 if metric == Metric("N", 10) else values

    monkeypatch.setattr(Ranks, "per_user", broken)
    with pytest.raises(RunError, match=r"^A, rec: .*N@10.*error in bench"):
        table(folder.store)


def test_ranks_on_other_rows_or_candidates_are_an_error(folder):
    folder.command(folder.run("a", 1), folder.run("b", 2, users=np.arange(2, USERS + 1)))
    with pytest.raises(RunError, match=r"B was evaluated on other rec rows than A \(119 and 120\)"):
        table(folder.store)
    folder.run("b", 2, users=np.arange(2, USERS + 2))
    with pytest.raises(RunError, match=r"B was evaluated on other rec rows than A \(120 and 120\)"):
        table(folder.store)
    place = folder.run("b", 2)
    other = folder.run("c", 2, candidates=OTHER)
    (folder.store.folder(*place.split("/")) / f"ranks-{FIRST[:16]}.parquet").write_bytes(
        (folder.store.folder(*other.split("/")) / f"ranks-{OTHER[:16]}.parquet").read_bytes()
    )
    with pytest.raises(RunError, match="is not the file that run"):
        table(folder.store)


def test_ranks_that_say_other_candidates_than_their_record_are_an_error(folder):
    run = folder.store.folder(*folder.run("a", 1).split("/"))
    record = folder.store.read(run)
    path = run / record.evaluations[FIRST].ranks
    replace(Ranks.load(path), meta={"candidates": OTHER}).save(path)
    record.evaluations[FIRST] = replace(record.evaluations[FIRST], sha256=file_sha256(path))
    folder.store.write(run, record)
    with pytest.raises(RunError, match="holds ranks on other candidates"):
        table(folder.store)


@pytest.mark.parametrize("column", ["better", "tied"])
def test_ranks_that_were_altered_after_the_run_are_an_error(folder, column):
    place = folder.run("a", draws(1))
    (path,) = folder.store.folder(*place.split("/")).glob("ranks-*.parquet")
    ranks = Ranks.load(path)
    replace(ranks, **{column: np.ones_like(ranks.better)}).save(path)
    with pytest.raises(RunError, match="is not the file that run"):
        table(folder.store)


def test_a_trained_model_at_chance_is_named(folder):
    ranks = np.tile(np.arange(100), 2)[:USERS]  # the positive anywhere: what a constant scorer expects, row by row
    folder.command(
        folder.run("lost", {"rec": ranks, "search": draws(1, 8)}),
        folder.run("flat", 0, tied=99),
        folder.run("good", draws(2, 8)),
        folder.run("copies", 0, tied=99, group="trivial", config={}),
        folder.run("theirs", 0, tied=99, kind="imported", group="imported", budget="", config={}),
    )
    result = table(folder.store)
    noted = [(note.text.split(" (")[0], note.rows) for note in result.blocks[0].notes if note.kind == "chance"]
    assert noted == [("no better than chance on rec", ("FLAT", "LOST")), ("no better than chance on search", ("FLAT",))]
    assert "!! no better than chance on rec (N@10 of a constant score: 0.045): FLAT, LOST" in result.text(200)
    assert "no better than chance" in one(result, model="lost", task="rec", metric="N@10")["notes"]


def test_texts_test_only_what_they_show(folder, monkeypatch):
    import bench.report.marks as comparison

    calls = []
    monkeypatch.setattr(comparison, "compare", lambda *given, true=comparison.compare: calls.append(1) or true(*given))
    result = three(folder)
    assert calls == []
    result.text()
    assert len(calls) == 2 * 4  # best against second, two tasks, four printed metrics
    result.text(details=True)
    assert len(calls) == 8 + 2 + 1  # on the primary metric against all others: three more rows on rec, two on search
    result.records()
    assert len(calls) == 11 + 2 * 2  # MRR and AUC
    result.json()
    assert len(calls) == 15
