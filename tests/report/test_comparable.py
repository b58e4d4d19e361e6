"""Which runs stand in a table, and which mixtures are refused."""

from math import log2

import pytest

from bench.errors import UsageError
from bench.report.table import table
from bench.store.results import Store

from .results_by_hand import CHANGED, DATA, FIRST, OTHER, Folder, cells, draws, one


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
    folder.command(folder.run("b", 2))
    made = table(folder.store)
    assert models(made) == {"early", "b"} and set(made.frame()["budget"]) == {"quick"}
    assert set(made.frame()["fingerprint"]) == {FIRST}


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


def test_unfinished_and_hidden_runs_are_not_read(folder):
    places = [folder.run(model, 1) for model in "abc"]
    folder.command(*places)
    a, b, _ = (folder.store.folder(*place.split("/")) for place in places)
    a.rename(a.with_name(f".{a.name}"))
    b.rename(b.with_name(f"{b.name}.part"))
    assert models(table(folder.store)) == models(table(folder.store, from_dirs=[folder.store.root])) == {"c"}


def test_a_budget_that_is_asked_for_finds_its_command_and_keeps_closed_forms(folder):
    full = folder.run("a", draws(1), budget="full")
    most = folder.run("most", draws(2), group="trivial", config={}, budget="full")
    folder.command(full, most, budget="full")
    quick = folder.run("a", draws(3)), folder.run("b", draws(4))
    closed = folder.run("other", draws(5), group="trivial", config={})
    folder.command(*quick, closed)
    for budget, expected in (("full", {"a", "most", "other"}), ("quick", {"a", "b", "most", "other"})):
        made = table(folder.store, budget=budget)
        assert models(made) == expected and made.blocks[0].group.budget == budget
    mean = table(folder.store, budget="full").frame().query("model == 'a' and task == 'rec' and metric == 'R@10'")
    assert mean["mean"].item() == pytest.approx((draws(1) < 10).mean())


def test_without_a_command_a_closed_form_does_not_choose_the_budget(folder):
    folder.run("a", draws(1), budget="full")
    folder.run("most", draws(2), group="trivial", config={}, budget="quick")
    made = table(folder.store)
    assert models(made) == {"a", "most"} and made.blocks[0].group.budget == "full"
