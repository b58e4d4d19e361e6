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

from .results_by_hand import OTHER, USERS, draws, one, three


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


def test_a_third_model_as_good_as_the_best_takes_the_star_away(folder):
    better = draws(1, 12)
    almost = better.copy()
    almost[:2] = 60
    folder.command(folder.run("a", better), folder.run("b", almost), folder.run("c", draws(2)))
    assert not table(folder.store).frame()["significant"].any()


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
