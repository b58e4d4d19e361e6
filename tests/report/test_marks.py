"""Which values carry a star, and what the line below the table says of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.evaluation.finding import SEVERITIES
from bench.evaluation.metrics import PRIMARY, Metric
from bench.report import findings
from bench.report.table import table

from .results_by_hand import CHANGED, FIRST, OTHER, USERS, draws, one, three


def test_one_seed_speaks_of_trained_models(folder):
    assert "these trained models, not the methods" in three(folder).text(300)
    assert one(three(folder), model="a", task="rec", metric="N@10")["claim"] == "trained models"


def test_seeds_that_differ_more_than_the_models_take_the_star_away(folder):
    sets = {"a": (3, 12, 40), "b": (9, 30, 50)}
    for model, highs in sets.items():
        for seed, high in enumerate(highs):
            folder.run(model, draws(seed + 10 * len(model), high), seed=seed)
    for number in range(3):
        folder.run("c", draws(50 + number, 90), seed=number)
    made = table(folder.store)
    best = one(made, model="a", task="rec", metric="N@10")
    assert best["rank"] == 1 and best["p"] < 0.025 and best["p_seeds"] > 0.025 and not best["significant"]


def test_seeds_that_agree_leave_the_star_and_it_is_on_the_methods(folder):
    for model, high in (("a", 6), ("b", 60)):
        for seed in range(3):
            folder.run(model, draws(seed, high), seed=seed)
    folder.run("most", draws(3, 90), group="trivial", config={})
    made = table(folder.store)
    assert one(made, model="a", task="rec", metric="N@10")["claim"] == "methods"
    assert "the best method is better" in made.text(300) and "not the methods" not in made.text(300)


@pytest.mark.parametrize(("seeds", "words"), [(1, "as there is one seed"), (3, "variance of users and seeds")])
def test_without_a_star_the_line_below_says_what_one_would_have_meant(folder, seeds, words):
    for model in ("a", "b"):
        for seed in range(seeds):
            folder.run(model, draws(seed + 10 * len(model), 60), seed=seed)
    made = table(folder.store)
    assert not made.frame()["significant"].any() and words in made.text(300)


def test_a_third_model_as_good_as_the_best_takes_the_star_away(folder):
    better = draws(1, 12)
    almost = better.copy()
    almost[:2] = 60
    folder.command(folder.run("a", better), folder.run("b", almost), folder.run("c", draws(2)))
    assert not table(folder.store).frame()["significant"].any()


def test_a_third_model_that_varies_more_takes_the_star_away_though_its_mean_is_the_lowest(folder):
    third = np.full(USERS, 60)
    third[:45] = 0
    second = np.where(np.arange(USERS) < 100, 4, 3)
    runs = [folder.run("a", 3), folder.run("b", second), folder.run("c", third)]
    folder.command(*runs[:2])
    assert one(table(folder.store, models=["a", "b"]), model="a", task="rec", metric="N@10")["significant"]
    made = table(folder.store)
    ranks = {model: one(made, model=model, task="rec", metric="N@10")["rank"] for model in "abc"}
    assert ranks == {"a": 1, "b": 2, "c": 3} and not one(made, model="a", task="rec", metric="N@10")["significant"]


def test_a_third_model_whose_difference_never_varies_takes_the_star_away(folder):
    """Without any spread there is no test, and a star needs all of them."""
    folder.command(folder.run("a", 0), folder.run("b", np.arange(USERS) % 2), folder.run("c", 1))
    made = table(folder.store)
    assert one(made, model="a", task="rec", metric="N@10")["rank"] == 1
    assert not one(made, model="a", task="rec", metric="N@10")["significant"]
    assert one(table(folder.store, models=["a", "b"]), model="a", task="rec", metric="N@10")["significant"]


@pytest.mark.parametrize(
    ("seeds", "claim"),
    [
        ({"a": (0, 1, 2), "b": (0, 1, 2), "c": (0, 1, 2)}, "methods"),
        ({"a": (0, 1, 2), "b": (0, 1, 2), "c": (1,)}, "trained models"),
        ({"a": (0, 1, 2), "b": (2, 3, 4), "c": (0, 1, 2)}, "trained models"),  # one seed in common
        ({"a": (0, 1, 2), "b": (3, 4), "c": (3, 4)}, "methods"),  # none in common: all of each
    ],
)
def test_a_star_is_on_methods_where_every_pair_has_several_seeds(folder, seeds, claim):
    for model, high in (("a", 6), ("b", 40), ("c", 60)):
        for seed in seeds[model]:
            folder.run(model, draws(seed, high), seed=seed)
    block = table(folder.store).blocks[0]
    best = one(table(folder.store), model="a", task="rec", metric="N@10")
    assert best["significant"] and best["claim"] == claim
    numbers = {row.model: number for number, row in enumerate(block.group.rows)}
    for other in "bc":
        found = block.compare(numbers["a"], numbers[other], "rec", PRIMARY)
        assert block.p(numbers["a"], numbers[other], "rec", PRIMARY) == pytest.approx(found.p_seeds, rel=1e-6, abs=0)


def between_the_levels(folder):
    """a is better than b for 31 users and worse for 16 on both tasks: p is about .03."""
    better = np.full(USERS, 9)
    worse = better.copy()
    worse[:31] = 10
    better[31:47] = 10
    folder.command(folder.run("a", better), folder.run("b", worse))


def test_the_tasks_share_the_level_of_a_table_and_of_pairs_that_were_named(folder):
    between_the_levels(folder)
    for tasks, star in ((None, False), (["rec"], True)):
        made = table(folder.store, tasks=tasks)
        best = one(made, model="a", task="rec", metric="N@10")
        assert 0.025 < best["p"] < 0.05 and best["significant"] == star
        assert [each["significant"] for each in made.against("a").records() if each["task"] == "rec"] == [star]
        decided = next(line for line in made.compare("a", "b").text(200).splitlines() if "differ (level" in line)
        assert ("yes" in decided) == star and ("no" in decided.split(")")[1]) != star


def test_a_named_model_speaks_of_methods_only_where_all_pairs_do(folder):
    for model, seeds in (("a", (0, 1, 2)), ("b", (0,)), ("c", (0, 1, 2))):
        for seed in seeds:
            folder.run(model, draws(seed, 20), seed=seed)
    made = table(folder.store)
    assert [row.model for row in made.blocks[0].group.rows] == ["a", "b", "c"]
    assert "on these trained models" in made.against("a").text(200)
    assert "on the methods" in table(folder.store, models=["a", "c"]).against("a").text(200)


def test_rounding_in_a_mean_gives_no_order(folder):
    """The same values of the users in other orders."""
    better, generator = draws(4, 12), np.random.default_rng(0)
    folder.command(*(folder.run(f"m{number}", generator.permutation(better)) for number in range(12)))
    made = table(folder.store)
    numbers = [each.mean for (_, task, metric), each in made.blocks[0].estimates.items() if metric == PRIMARY]
    assert len(set(numbers)) > 1, "the means differ by rounding"
    assert set(made.frame()["rank"]) == {1}


def test_a_secondary_metric_needs_the_primary(folder):
    """a is better within the first five and equal in N@10: there is no star on R@5."""
    a, b = np.full(USERS, 4), np.full(USERS, 7)
    b[:12] = 0
    folder.command(folder.run("a", a), folder.run("b", b))
    made = table(folder.store)
    recall = one(made, model="a", task="rec", metric="R@5")
    assert recall["rank"] == 1 and recall["p"] < 0.001 and not recall["significant"]


def test_pairs_hold_every_difference_both_ways(folder):
    block = three(folder).blocks[0]
    pairs = block.pairs("rec")
    assert pairs.models == tuple(row.model for row in block.group.rows)
    assert np.array_equal(pairs.difference, -pairs.difference.T) and np.array_equal(pairs.p, pairs.p.T)
    a, b = (pairs.models.index(name) for name in "ab")
    found = block.compare(a, b, "rec", PRIMARY)
    assert pairs.difference[a, b] == pytest.approx(found.difference)
    assert (pairs.low[a, b], pairs.high[a, b]) == pytest.approx((found.low, found.high))
    assert pairs.p[a, b] == pytest.approx(found.p_t) and pairs.within[a, b] == pytest.approx(found.within)
    assert (pairs.p_family >= pairs.p - 1e-15).all() and not pairs.methods[a, b]


def test_pairs_count_the_seeds_of_a_model_beside_a_closed_form(folder):
    for seed, high in enumerate((20, 40, 60)):
        folder.run("a", draws(seed, high), seed=seed)
        folder.run("b", draws(9 + seed, high + 9), seed=seed)
    folder.run("most", draws(3, 40), group="trivial", config={})
    block = table(folder.store).blocks[0]
    pairs = block.pairs("rec")
    a, b, most = (pairs.models.index(name) for name in ("a", "b", "most"))
    found = block.compare(a, most, "rec", PRIMARY)
    assert found.methods and pairs.methods.all()
    assert pairs.p[a, most] == pytest.approx(found.p_seeds, rel=1e-6) and found.p_seeds > 1.5 * found.p_t
    # Holm over the three pairs, by hand.
    order = sorted([(a, b), (a, most), (b, most)], key=lambda pair: pairs.p[pair])
    highest = 0.0
    for times, pair in zip((3, 2, 1), order, strict=True):
        highest = max(highest, min(1.0, times * pairs.p[pair]))
        assert pairs.p_family[pair] == pairs.p_family[pair[::-1]] == pytest.approx(highest, rel=1e-9)


def test_p_values_of_the_records_are_adjusted_over_all_pairs(folder):
    folder.command(*(folder.run(name, draws(number, 24 + 9 * number)) for number, name in enumerate("abc")))
    made = table(folder.store)
    pairs = made.blocks[0].pairs("rec")
    for other in (name for name in pairs.models if one(made, model=name, task="rec", metric="N@10")["rank"] > 1):
        record = one(made, model=other, task="rec", metric="N@10")
        best = next(n for n in pairs.models if one(made, model=n, task="rec", metric="N@10")["rank"] == 1)
        place = pairs.models.index(best), pairs.models.index(other)
        assert record["p_holm"] == pytest.approx(pairs.p_family[place], rel=1e-9)
        assert 1e-6 < pairs.p[place] < record["p_holm"]


def test_a_baseline_is_compared_with_all_others(folder):
    block = three(folder).blocks[0]
    names = [row.model for row in block.group.rows]
    against = {names[number]: (each, p) for number, each, p in block.against(names.index("a"), "rec")}
    assert set(against) == {"b", "c", "most"}
    assert all(each.difference > 0 and p == pytest.approx(3 * each.p) for each, p in against.values())
    assert block.against(names.index("a"), "search", Metric("R", 5))[0][1].difference > 0


def test_findings_are_plain_data_with_the_gravest_first(folder):
    folder.command(
        folder.run("a", draws(1), fit={"converged": False}),
        folder.run("b", draws(2), leaks={"zero:target in own history": 12}),
        failed={"ml-100k/gone-s0-1": "the loss is nan"},
    )
    found = findings.of_table(table(folder.store).blocks)
    assert [each.severity for each in found] == sorted((each.severity for each in found), key=SEVERITIES.index)
    assert found[0].severity == "severe" and found[0].rows == ("B",) and "12" in found[0].sentence
    assert {each.check for each in found} >= {"leaks", "convergence", "failed"}
    assert all("\n" not in each.line() and each.fix for each in found)


def checks(folder, **options):
    return {each.check for each in findings.of_table(table(folder.store, **options).blocks)}


def test_a_constant_scorer_and_one_that_is_told_are_found_and_their_sound_twins_are_not(folder):
    folder.command(folder.run("flat", 0, tied=99), folder.run("told", 0), folder.run("sound", draws(1, 8)))
    found = findings.of_table(table(folder.store).blocks)
    named = {(each.check, each.rows) for each in found if each.severity == "severe" and each.check != "chance"}
    assert named == {("constant scores", ("FLAT",)), ("always first", ("TOLD",))}


def test_scores_that_are_constant_or_told_with_one_seed_only_are_not_called_so(folder):
    for seed, (flat, told) in enumerate(((99, 0), (0, 9))):
        folder.run("flat", 0 if flat else draws(1, 8), tied=flat, seed=seed)
        folder.run("told", told, seed=seed)
    folder.run("constant", 0, tied=99, group="trivial", config={})
    assert not {"constant scores", "always first"} & checks(folder)


@pytest.mark.parametrize("doubtful", ["uniform-99", "full"])
def test_an_order_is_reversed_only_where_both_tables_are_sure_of_theirs(folder, doubtful):
    for model, few, many in (("a", 8, 60), ("b", 60, 8)):
        for label, seed, high, candidates in (("uniform-99", 1, few, FIRST), ("full", 2, many, OTHER)):
            # Two users apart, in the same direction, say nothing.
            values = np.where(np.arange(USERS) < 118, 3, high // 8) if label == doubtful else draws(seed, high)
            folder.run(model, values, candidates=candidates, label=label)
    assert "sampled against full" not in checks(folder, candidates="uniform-99,full")


def test_rankings_of_different_data_are_not_held_against_each_other(folder):
    for model, few, many in (("a", 8, 60), ("b", 60, 8)):
        folder.run(model, draws(1, few))
        folder.run(model, draws(2, many), candidates=OTHER, label="full", dataset="other", data=CHANGED)
    assert "sampled against full" not in checks(folder, dataset="ml-100k,other", candidates="uniform-99,full")


def test_an_order_that_the_full_ranking_reverses_is_found(folder):
    for model, few, many in (("a", 8, 60), ("b", 60, 8)):
        folder.run(model, draws(1, few))
        folder.run(model, draws(2, many), candidates=OTHER, label="full")
    assert "sampled against full" in checks(folder, candidates="uniform-99,full")
    assert "sampled against full" not in checks(folder, candidates="uniform-99")


def test_an_order_that_the_full_ranking_keeps_is_not_found(folder):
    for model, few, many in (("a", 8, 8), ("b", 60, 60)):
        folder.run(model, draws(1, few))
        folder.run(model, draws(2, many), candidates=OTHER, label="full")
    assert "sampled against full" not in checks(folder, candidates="uniform-99,full")


def test_the_command_ends_with_1_only_where_something_is_severe(folder):
    folder.command(folder.run("sound", draws(1, 8)))
    words = ["audit", "table", "--out", str(folder.store.root)]
    calm = CliRunner().invoke(main, words)
    assert calm.exit_code == 0 and "0 of them severe" in calm.output
    folder.command(folder.run("told", 0))
    alarmed = CliRunner().invoke(main, [*words, "--format", "json"])
    assert alarmed.exit_code == 1 and json.loads(alarmed.output)[0]["check"] == "always first"
