"""Tables: which runs stand in them, what their numbers are, when they refuse, and how they read."""

import csv
import io
import json
import math
import re
import subprocess
import sys
import zlib
from math import log2

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.data.log import file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.metrics import Metric
from bench.evaluation.ranks import Ranks
from bench.report.comparison import Estimate, Note
from bench.report.table import Table, table
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store

USERS = 120
FIRST, OTHER = "a1" * 32, "b2" * 32
DATA, CHANGED = "d0" * 32, "d1" * 32


class Folder:
    """A results folder that is filled by hand; time moves on by a second with every run and command."""

    def __init__(self, root):
        self.store = Store(root)
        self.clock = 0

    def tick(self):
        self.clock += 1
        return f"2030-01-01T{self.clock // 3600:02}:{self.clock // 60 % 60:02}:{self.clock % 60:02}.000+00:00"

    def run(
        self,
        model,
        better,
        *,
        tasks=("rec", "search"),
        seed=0,
        budget="quick",
        group="rec",
        config=None,
        code="c0",
        dataset="ml-100k",
        data=DATA,
        candidates=FIRST,
        label="uniform-99",
        title=None,
        tied=0,
        fit=None,
        evidence=None,
        leaks=None,
        kind="fit",
        users=None,
    ):
        """One finished run; `better` is the number of negatives above the positive, for each row or for each task."""
        users = np.arange(1, USERS + 1) if users is None else np.asarray(users)
        config = {"lr": 0.1, "epochs": 3} if config is None else config
        key = format(zlib.crc32(repr((model, seed, budget, config, code, data, tasks, dataset)).encode()), "012x")
        record = RunRecord(
            id=f"{model}-s{seed}-{key}",
            fit_key=key,
            kind=kind,
            model=model,
            title=title or model.upper(),
            group=group,
            tasks=list(tasks),
            seed=seed,
            budget=budget,
            config=config,
            device="cpu",
            threads=1,
            code=code,
            dataset={
                "name": dataset,
                "title": f"{dataset} (5-core)",
                "options": {},
                "fingerprint": data,
                "mode": "disjoint",
                "split": "leave-one-out",
                "synthetic": "queries (genre and decade)",
                "counts": {},
                "split_counts": {},
            },
            fit={"converged": True} if fit is None else fit,
            evidence=evidence or {},
        )
        n, parts = len(users), len(tasks)
        counts = [np.broadcast_to(better[t] if isinstance(better, dict) else better, n) for t in tasks]
        search = np.repeat([task == "search" for task in tasks], n)
        ranks = Ranks(
            user=np.tile(users, parts),
            event_id=np.tile(users, parts) * 10 + search,
            item=np.tile(users, parts),
            task=search,
            query=search,
            better=np.concatenate(counts),
            tied=np.full(n * parts, tied),
            candidates=np.full(n * parts, 100),
            meta={"model": model, "candidates": candidates},
        )
        name = f"ranks-{candidates[:16]}.parquet"
        folder = self.store.folder(dataset, record.id)
        if (folder / "run.json").exists():
            record = self.store.read(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ranks.save(folder / name)
        record.finished = self.tick()
        record.evaluations[candidates] = Evaluation(
            fingerprint=candidates,
            label=label,
            strategy=label.partition("-9")[0],
            seed=0,
            rows=dict.fromkeys(tasks, n),
            tie_rate={},
            leaks=leaks or {"zero:target in own history": 0, "share": 0.5},
            ranks=name,
            sha256=file_sha256(folder / name),
            seconds=1.0,
            finished=record.finished,
        )
        self.store.write(folder, record)
        return f"{dataset}/{record.id}"

    def command(self, *runs, candidates=(FIRST,), budget="quick", failed=None):
        started = self.tick()
        self.store.write_command(
            CommandRecord(
                id=started.replace(":", ""),
                line="bench run",
                started=started,
                budget=budget,
                candidates=list(candidates),
                datasets=list(dict.fromkeys(run.rpartition("/")[0] for run in runs)),
                models=[],
                seeds=[0],
                runs=list(runs),
                failed=failed or {},
                finished=self.tick(),
            )
        )


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "results")


def draws(seed, high=60, n=USERS):
    return np.random.default_rng(seed).integers(0, high, n)


def three(folder):
    """a is clearly the best, b and c are equal; `most` is trivial and serves recommendation only."""
    runs = [
        folder.run("a", draws(1, 8), group="unified"),
        folder.run("b", draws(2), group="unified"),
        folder.run("c", draws(2)),
        folder.run("most", draws(3, 90) + 5, tasks=("rec",), group="trivial", config={}),
    ]
    folder.command(*runs)
    return table(folder.store)


def cells(made, **wanted):
    frame = made.frame()
    for key, value in wanted.items():
        frame = frame[frame[key] == value]
    return frame


def one(made, **wanted):
    found = cells(made, **wanted)
    assert len(found) == 1, found
    return found.iloc[0]


# --- numbers


def test_means_and_intervals_equal_their_closed_forms(folder):
    better = draws(5, 20)
    folder.command(folder.run("a", better), folder.run("b", 9), folder.run("flat", 0, tied=99))
    made = table(folder.store)
    gain = np.where(better < 10, 1 / np.log2(better + 2), 0)
    row = one(made, model="a", task="rec", metric="N@10")
    low, high = stats.t.interval(0.95, USERS - 1, gain.mean(), stats.sem(gain))
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((gain.mean(), low, high))
    assert one(made, model="a", task="rec", metric="R@5")["mean"] == pytest.approx((better < 5).mean())
    assert one(made, model="a", task="search", metric="MRR")["mean"] == pytest.approx((1 / (better + 1)).mean())
    fixed = {
        metric: one(made, model="b", task="rec", metric=metric)["mean"] for metric in ("R@5", "R@10", "N@10", "AUC")
    }
    assert fixed == pytest.approx({"R@5": 0, "R@10": 1, "N@10": 1 / log2(11), "AUC": 90 / 99})
    chance = {metric: one(made, model="flat", task="rec", metric=metric)["mean"] for metric in ("R@5", "R@10", "AUC")}
    assert chance == pytest.approx({"R@5": 0.05, "R@10": 0.1, "AUC": 0.5})
    assert row["users"] == row["rows"] == USERS and math.isnan(row["std"])


def test_the_star_needs_a_best_model_that_both_tests_separate_from_the_second(folder):
    made = three(folder)
    best = one(made, model="a", task="rec", metric="N@10")
    assert best["significant"] and best["rank"] == 1 and best["difference"] > 0
    assert best["p"] < 0.05 and best["p_randomisation"] < 0.05
    assert not cells(made, model="b")["significant"].any() and not cells(made, model="c")["significant"].any()
    second = cells(made, task="rec", metric="N@10", rank=2)
    assert set(second["model"]) == {"b", "c"}  # equal means share a rank


def test_equal_models_and_chance_differences_get_no_star(tmp_path):
    equal = Folder(tmp_path / "equal")
    equal.command(equal.run("a", draws(1)), equal.run("b", draws(1)))
    made = table(equal.store)
    assert set(made.frame()["rank"]) == {1} and not made.frame()["significant"].any()
    assert one(made, model="b", task="rec", metric="N@10")["p"] == 1
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
    made = three(folder)
    gains = {m: np.where(b < 10, 1 / np.log2(b + 2), 0) for m, b in zip("ab", (draws(1, 8), draws(2)), strict=True)}
    row = one(made, model="b", task="search", metric="N@10")
    difference = gains["a"] - gains["b"]
    assert row["p"] == pytest.approx(stats.ttest_rel(gains["a"], gains["b"]).pvalue)
    assert row["effect"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["smallest_detectable"] == pytest.approx(2.8 * difference.std(ddof=1) / USERS**0.5)
    rec = cells(made, task="rec", metric="N@10").set_index("model")
    assert math.isnan(rec.loc["a", "p_holm"])
    # Three comparisons with the same p (the least that the randomisation test can give): each is tripled.
    assert rec.loc[["b", "c", "most"], "p_holm"].tolist() == pytest.approx([3 / 10_001] * 3)
    assert cells(made, metric="R@5")["p_holm"].isna().all()


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
    made = table(folder.store)
    gain = {
        seed: np.where(b < 10, 1 / np.log2(b + 2), 0) for seed, b in [*better.items(), ("b", worse), ("most", trivial)]
    }
    rows = cells(made, task="rec", metric="N@10").set_index("model")
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
    place = folder.run("b", 2)
    other = folder.run("c", 2, candidates=OTHER)
    (folder.store.folder(*place.split("/")) / f"ranks-{FIRST[:16]}.parquet").write_bytes(
        (folder.store.folder(*other.split("/")) / f"ranks-{OTHER[:16]}.parquet").read_bytes()
    )
    with pytest.raises(RunError, match=r"ranks-.* is not the file that run\.json describes"):
        table(folder.store)


# --- which runs


def models(made):
    return set(made.frame()["model"])


def test_nothing_there_says_what_to_do(folder, tmp_path):
    with pytest.raises(UsageError, match=r"no finished runs in .*; run something first: bench run --models"):
        table(folder.store)
    with pytest.raises(UsageError, match="no such folder"):
        table(folder.store, from_dirs=[tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="no finished runs in it"):
        table(folder.store, from_dirs=[tmp_path])


def test_the_newest_command_decides_candidates_and_budget_and_all_matching_runs_join(folder):
    folder.command(folder.run("a", 1, budget="full"), budget="full")
    folder.command(folder.run("early", 3))
    folder.command(folder.run("a", 1, candidates=OTHER), candidates=[OTHER])
    folder.run("elsewhere", 1, data=CHANGED, candidates=OTHER[::-1])
    folder.command(folder.run("b", 2), failed={"ml-100k/gone-s0-1": "gone: the loss became nan"})
    made = table(folder.store)
    assert models(made) == {"early", "b"} and set(made.frame()["budget"]) == {"quick"}
    assert set(made.frame()["fingerprint"]) == {FIRST}
    assert "failed: ml-100k/gone-s0-1: gone: the loss became nan" in made.text(200)


def test_options_choose_an_older_command(folder):
    folder.command(folder.run("a", 1, budget="full"), budget="full")
    folder.command(folder.run("b", 2, candidates=OTHER), candidates=[OTHER])
    folder.command(folder.run("k", 2, dataset="kuaisar", data=CHANGED, candidates="c3" * 32), candidates=["c3" * 32])
    assert models(table(folder.store)) == {"k"}
    assert models(table(folder.store, dataset="ml-100k")) == {"b"}
    assert models(table(folder.store, candidates=OTHER[:12])) == {"b"}
    assert models(table(folder.store, budget="full")) == {"a"}
    assert models(table(folder.store, dataset="ml-100k", candidates="uniform-99")) == {"b"}
    both = table(folder.store, dataset=["ml-100k", "kuaisar"])
    assert [block.group.dataset["name"] for block in both.blocks] == ["ml-100k", "kuaisar"]
    for options, words in [
        ({"dataset": "ml-10k"}, "did you mean ml-100k"),
        ({"candidates": "popularity"}, "no finished run on the candidates 'popularity'; there are uniform-99"),
        ({"budget": "ful"}, "did you mean full"),
        ({"seeds": [4]}, "seeds 4; there are 0"),
        ({"tasks": ["serch"]}, "did you mean search"),
        ({"metrics": ["ndcg@10"]}, "did you mean N@10"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            table(folder.store, **options)
        assert "\n" not in str(caught.value)


def test_closed_forms_and_imported_scores_stand_beside_every_budget(folder):
    folder.run("most", 50, group="trivial", config={"k": 3})
    folder.run("mine", 4, kind="imported", budget="", config={}, group="imported")
    folder.run("learner", 40, group="trivial", config={"epochs": 2})
    folder.command(folder.run("a", 1, budget="full"), budget="full")
    made = table(folder.store)
    assert models(made) == {"a", "most", "mine"}
    assert "scores made elsewhere" in one(made, model="mine", task="rec", metric="N@10")["notes"]


def test_the_newest_settings_and_sources_of_a_model_count(folder):
    folder.run("a", 9, config={"lr": 0.1, "epochs": 3})
    folder.run("a", 8, seed=1, config={"lr": 0.1, "epochs": 3})
    new = folder.run("a", 0, config={"lr": 0.2, "epochs": 3})
    folder.command(new, folder.run("b", 3, code="c1"))
    folder.run("b", 30, code="c0")  # finished later, but the newest command did not ask for it
    made = table(folder.store)
    assert one(made, model="a", task="rec", metric="N@10")["mean"] == 1
    assert set(cells(made, model="a")["seeds"]) == {"0"} and set(made.frame()["title"]) == {"A", "B"}
    assert one(made, model="b", task="rec", metric="R@5")["mean"] == 1
    assert "left out: 3 older runs" in made.text()


def test_without_a_command_the_newest_run_of_a_model_counts(folder):
    for number in range(5):
        folder.run("a", number, config={"lr": number, "epochs": 3})
    for made in (table(folder.store), table(folder.store, from_dirs=[folder.store.root])):
        assert set(made.frame()["title"]) == {"A"}
        assert one(made, model="a", task="rec", metric="N@10")["mean"] == pytest.approx(1 / log2(6))


def test_a_later_evaluation_on_other_candidates_stands_only_where_it_is_asked_for(folder):
    folder.command(folder.run("a", 1))
    folder.run("a", 5, candidates=OTHER, label="same-query-99")
    assert [block.group.candidates.label for block in table(folder.store).blocks] == ["uniform-99"]
    both = table(folder.store, candidates="same-query,uniform-99")
    assert [block.group.candidates.label for block in both.blocks] == ["same-query-99", "uniform-99"]


def test_two_settings_in_one_command_are_two_rows_with_the_difference_in_their_names(folder):
    runs = [folder.run("a", k, config={"lr": lr, "epochs": 3, "dim": 8}) for k, lr in ((1, 0.1), (2, 0.01))]
    folder.command(*runs)
    made = table(folder.store)
    assert set(made.frame()["title"]) == {"A (lr=0.1)", "A (lr=0.01)"}
    assert one(made, title="A (lr=0.1)", task="rec", metric="N@10")["rank"] == 1


def test_models_that_share_a_title_are_told_apart(folder):
    folder.command(folder.run("sasrec", 1, title="SASRec"), folder.run("recbole:SASRec", 2, title="SASRec"))
    assert set(table(folder.store).frame()["title"]) == {"SASRec (sasrec)", "SASRec (recbole:SASRec)"}


def test_several_candidate_sets_of_one_command_are_blocks_of_their_own(folder):
    runs = [folder.run("a", 1), folder.run("b", 2)]
    for model in "ab":
        folder.run(model, 5, candidates=OTHER, label="same-query-99")
    folder.command(*runs, candidates=[FIRST, OTHER])
    made = table(folder.store)
    assert [block.group.candidates.label for block in made.blocks] == ["same-query-99", "uniform-99"]
    assert one(made, model="a", task="rec", metric="N@10", candidates="uniform-99")["mean"] == pytest.approx(
        1 / log2(3)
    )


def test_mixed_candidates_data_and_budgets_are_refused_in_one_line(tmp_path):
    folders = [Folder(tmp_path / name) for name in ("x", "y", "z", "w")]
    x, y, z, w = folders
    x.command(x.run("a", 1))
    y.command(y.run("b", 2, candidates=OTHER), candidates=[OTHER])
    z.command(z.run("b", 2, data=CHANGED, candidates=OTHER, label="other-99"), candidates=[OTHER])
    w.command(w.run("b", 2, budget="full"), budget="full")

    def together(*chosen, **options):
        return table(x.store, from_dirs=[each.store.root for each in chosen], **options)

    for other, words in [
        (
            y,
            rf"^ml-100k: .*different candidates.*{FIRST[:12]}.*{OTHER[:12]}.*"
            rf"choose --candidates {FIRST[:12]} or --candidates {OTHER[:12]}",
        ),
        (z, rf"^ml-100k: .*different data, {DATA[:12]} .*{CHANGED[:12]} .*choose --candidates"),
        (w, "different budgets.*--budget full or --budget quick"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            together(x, other)
        assert "\n" not in str(caught.value)
    assert models(together(x, y, candidates=OTHER[:12])) == {"b"}
    assert models(together(x, w, budget="full")) == {"b"}


def test_other_folders_bring_several_data_sets_into_one_table(tmp_path):
    x, y = Folder(tmp_path / "x"), Folder(tmp_path / "y")
    x.run("a", 1)
    place = y.run("a", 3, dataset="kuaisar", data=CHANGED, candidates=OTHER)
    y.run("b", 9, dataset="kuaisar", data=CHANGED, candidates=OTHER)
    made = table(Store(tmp_path / "unused"), from_dirs=[x.store.root, y.store.root])
    assert [block.group.dataset["name"] for block in made.blocks] == ["kuaisar", "ml-100k"]
    assert one(made, dataset="kuaisar", model="a", task="rec", metric="N@10")["rank"] == 1
    text = made.text()
    assert "kuaisar (5-core)" in text and "ml-100k (5-core)" in text
    # A data set's folder or a single run's is enough.
    assert models(table(x.store, from_dirs=[y.store.folder("kuaisar")])) == {"a", "b"}
    assert models(table(x.store, from_dirs=[y.store.folder(*place.split("/"))])) == {"a"}


def test_unfinished_and_replaced_runs_are_not_read(folder):
    place = folder.run("a", 1)
    folder.command(place, folder.run("b", 2))
    kept = folder.store.folder(*place.split("/"))
    kept.rename(kept.with_name(f"{kept.name}.part"))
    assert models(table(folder.store)) == models(table(folder.store, from_dirs=[folder.store.root])) == {"b"}
    hidden = kept.with_name(f".{kept.name}.removed")
    kept.with_name(f"{kept.name}.part").rename(hidden)
    assert models(table(folder.store, from_dirs=[folder.store.root])) == {"b"} and hidden.exists()
    assert models(table(folder.store)) == {"b"} and not hidden.exists()


# --- forms


def plain(text):
    return re.sub(r"\033\[[0-9;]*m", "", text)


def line(text, start):
    return next(each for each in plain(text).splitlines() if each.startswith(start))


def test_text_marks_best_and_second_over_all_rows_and_names_what_was_compared(folder):
    made = three(folder)
    text = made.text()
    assert max(map(len, text.splitlines())) <= 100
    assert re.findall(r"\[1?\.\d{3}\]\*", line(text, "A ")) and line(text, "A ").count("]*") == 8
    assert line(text, "B ").count("(") == 8 == line(text, "C ").count("(")  # equal rows share the mark
    assert line(text, "MOST").count("-") == 4
    for words in (
        "leave-one-out",
        "mode disjoint",
        "budget quick",
        "seed 0",
        "uniform-99",
        FIRST[:12],
        "rec 120 rows of 120 users, search 120 rows of 120 users",
        "synthetic: queries (genre and decade)",
        "primary metric N@10",
    ):
        assert words in text
    groups = [each.split()[0] for each in text.splitlines() if re.match(r"\w+ -", each)]
    assert groups == ["rec", "unified", "trivial"]
    expected = one(made, model="b", task="rec", metric="R@5")["mean"]
    assert f"({expected:.3f})".replace("0.", ".") == line(text, "B ").split("|")[1].split()[0]


def test_colour_changes_marks_only(folder):
    made = three(folder)
    colored = made.text(color=True)
    assert [len(re.findall(rf"\033\[{code}m1?\.\d", colored)) for code in (1, 4)] == [8, 16]
    assert max(map(len, plain(colored).splitlines())) <= 100 and "\033" not in made.text()
    numbers = r"\.\d{3}"
    assert re.findall(numbers, plain(colored)) == re.findall(numbers, made.text())


def test_columns_align(folder):
    for text in (three(folder).text(), plain(three(folder).text(color=True))):
        rows = [line(text, name) for name in ("A ", "B ", "C ")]
        assert len({tuple(m.start() for m in re.finditer(r"\.\d{3}", row)) for row in rows}) == 1
        assert (
            len(
                {
                    tuple(i for i, c in enumerate(row) if c == "|")
                    for row in [*rows, line(text, "MOST"), line(text, "model")]
                }
            )
            == 1
        )


@pytest.mark.parametrize("width", [60, 80, 100])
def test_text_keeps_within_its_width_whatever_it_holds(folder, width):
    long = "A model with a title that goes on for very much longer than any table has room for in its first column"
    runs = [folder.run(f"m{i}", draws(i), title=f"{long} {i}", leaks={"zero:x": 3}, tied=1) for i in range(3)]
    folder.command(*runs)
    made = table(folder.store, metrics=["R@1", "R@5", "R@10", "R@20", "N@5", "N@10", "N@20", "MRR", "AUC"])
    for color in (False, True):
        text = plain(made.text(width, color))
        assert max(map(len, text.splitlines())) <= width
        assert sum(each.count("MRR") for each in text.splitlines()) == 2  # one column a task, wherever it stands
    assert max(map(len, made.text(100, details=True).splitlines())) <= 100


def test_metrics_and_tasks_can_be_chosen(folder):
    three(folder)
    assert "MRR" not in table(folder.store).text() and "MRR" in set(table(folder.store).frame()["metric"])
    made = table(folder.store, metrics=["MRR", "R@20"], tasks=["search"])
    assert set(made.frame()["metric"]) == {"MRR", "R@20"} and set(made.frame()["task"]) == {"search"}
    assert "MRR" in made.text() and "R@20" in made.text() and "MOST" not in made.text()


def test_footnotes_tell_what_a_reader_must_know(folder):
    folder.command(
        folder.run("a", draws(1), fit={"converged": False}, evidence={"backbone": "small-t5"}),
        folder.run("b", draws(2), leaks={"zero:target in own history": 12, "zero:none": 0}),
        folder.run("c", draws(3), tied=2, evidence={"backbone": {"name": "t5", "layers": 2}}),
    )
    made = table(folder.store)
    text = made.text(300)
    assert "A† " in text and "† stopped by the budget, not by early stopping: A" in text
    assert "!! LEAK: target in own history: 12 (B)" in text and "zero:none" not in text
    assert "backbone small-t5: A" in text and "backbone name t5, layers 2: C" in text
    assert "C 100% of rec rows" in text and "A 100%" not in text
    assert "LEAK" in one(made, model="b", task="rec", metric="N@10")["notes"]
    assert "\033[1;31m!! LEAK" in made.text(300, color=True)


def test_details_give_the_tests_of_every_row(folder):
    text = three(folder).text(details=True)
    assert "rec N@10: A against each" in text and "search N@10: A against each" in text
    assert max(map(len, text.splitlines())) <= 100
    row = [each for each in text.splitlines() if each.startswith("B ")][1].split()
    assert row.count("<.001") == 3


def test_json_and_csv_hold_the_same_flat_records(folder):
    made = three(folder)
    records = json.loads(made.json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    fields = {
        "dataset",
        "task",
        "model",
        "title",
        "metric",
        "mean",
        "std",
        "low",
        "high",
        "users",
        "rows",
        "candidates",
        "fingerprint",
        "seeds",
        "budget",
        "significant",
        "p",
        "p_randomisation",
        "p_holm",
        "difference",
        "effect",
        "smallest_detectable",
        "rank",
        "synthetic",
        "notes",
        "runs",
    }
    assert all(fields <= record.keys() for record in records)
    assert all(value is None or isinstance(value, str | int | float) for record in records for value in record.values())
    assert len(records) == 6 * (3 * 2 + 1) and records[0]["std"] is None and records[0]["seeds"] == "0"
    read = list(csv.DictReader(io.StringIO(made.csv())))
    assert [float(row["mean"]) for row in read] == [record["mean"] for record in records]
    frame = made.frame()
    assert isinstance(frame, pd.DataFrame) and len(frame) == len(records) and frame["mean"].dtype == float


def test_markdown_is_one_table_a_block(folder):
    rows = [each for each in three(folder).markdown().splitlines() if each.startswith("|")]
    assert len(rows) == 2 + 4 and len({row.count("|") for row in rows}) == 1 and rows[0].count("|") == 10
    best = next(row for row in rows if row.startswith("| A "))
    assert best.count("**") == 16 and best.count("\\*") == 8
    assert sum(row.count("<u>") for row in rows) == 16
    assert "**best**" in three(folder).markdown(details=True)


def test_latex_has_balanced_environments_and_equal_rows(folder):
    folder.command(
        folder.run("x_1", draws(1, 20), title="X_1 & co (lr=0.1)"), folder.run("b", draws(2), fit={"converged": False})
    )
    latex = table(folder.store).latex()
    opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", latex) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed) == ["table", "tabular"]
    assert r"X\_1 \& co" in latex and not re.search(
        r"(?<!\\)[#%_]", latex.replace(r"\label{tab:ml-100k-uniform-99}", "")
    )
    body = latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]
    rows = [each for each in body.splitlines() if each.endswith(r"\\") and "multicolumn" not in each]
    assert len(rows) == 3 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {8}
    assert latex.count(r"\textbf{.") == 8 and latex.count(r"\underline{.") == 8
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


def test_heavy_packages_wait_until_they_are_needed():
    heavy = ("scipy", "statsmodels", "pandas", "torch")
    script = f"import sys, bench.report.table, bench.report.render; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_of_one_row_compares_nothing(folder):
    folder.command(folder.run("a", draws(1)))
    made = table(folder.store)
    assert isinstance(made, Table) and cells(made)["p"].isna().all() and (cells(made)["rank"] == 1).all()
    assert all(isinstance(estimate, Estimate) for estimate in made.blocks[0].estimates.values())
    assert all(isinstance(note, Note) for note in made.blocks[0].notes)
    assert "]*" not in made.text(details=True)
