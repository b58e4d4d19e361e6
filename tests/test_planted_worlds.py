"""The two planted worlds of `benchmarks/planted_worlds.py`: what is masked, how it is tested, and two models in them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from bench.data.batch import Batches
from bench.data.history import Window
from bench.data.log import REC, SEARCH
from bench.data.split import split
from bench.data.training import TrainData

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "planted_worlds.py"))
WORLDS = {(world.question, world.task, name): world for world in SCRIPT["WORLDS"] for name in world.models}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts(make_log):
    return split(make_log(n_users=20, n_items=50, length=16, n_queries=6))


def test_histories_of_the_own_behaviour_lack_the_other_and_nothing_else(parts):
    rows, window = np.sort(parts.train)[-60:], Window(rec=5, search=5)
    cand = np.ones((60, 1), dtype=np.int64)
    usual, own = (cls(parts).rows(rows, cand, window) for cls in (Batches, SCRIPT["OwnBehaviour"]))
    for code, length, items, other in (
        (REC, "rec_len", "rec_items", "search_len"),
        (SEARCH, "search_len", "search_items", "rec_len"),
    ):
        of_task = usual.task == code
        assert of_task.any() and (getattr(usual, other)[of_task] > 0).any()
        assert (getattr(own, other)[of_task] == 0).all()
        assert (getattr(own, length) == getattr(usual, length))[of_task].all()
        assert (getattr(own, items) == getattr(usual, items))[of_task].all()
    acts, kept = usual.merged(10), own.merged(10)
    for row in range(60):
        same = acts.tasks[row, : acts.length[row]] == usual.task[row]
        assert kept.length[row] == same.sum()
        assert kept.items[row, : kept.length[row]].tolist() == acts.items[row, : acts.length[row]][same].tolist()
        assert kept.queries[row, : kept.length[row]].tolist() == acts.queries[row, : acts.length[row]][same].tolist()


def test_sequences_of_the_own_behaviour_hold_one_task(parts):
    both, own = (
        next(iter(cls(Batches(parts), ("rec",), 0).sequences(64, length=20, every_task=True).batches(0, 1)))
        for cls in (TrainData, SCRIPT["OwnTrainData"])
    )
    assert set(both.tasks[both.mask].tolist()) == {REC, SEARCH} and set(own.tasks[own.mask].tolist()) == {REC}


def test_the_table_is_a_paired_t_test_over_the_worlds_under_holm():
    rng = np.random.default_rng(0)
    values = {(model, variant): rng.random(5) for model in ("a", "b") for variant in SCRIPT["VARIANTS"]["sharing"]}
    values["a", "both tasks"] = values["a", "one task"] + 1 + 0.01 * rng.random(5)
    lines = [
        {
            "world": "sharing",
            "task": "rec",
            "model": model,
            "strength": 0.9,
            "variant": variant,
            "seed": seed,
            "N@10": value,
        }
        for (model, variant), found in values.items()
        for seed, value in enumerate(found)
    ]
    rows = {row["model"]: row for row in SCRIPT["summary"]([*lines, lines[0] | {"model": "one seed alone"}])}
    assert rows.keys() == {"a", "b"}
    expected = {m: ttest_rel(values[m, "both tasks"], values[m, "one task"]) for m in "ab"}
    for model, row in rows.items():
        interval = expected[model].confidence_interval(0.95)
        assert row["p"] == pytest.approx(expected[model].pvalue)
        assert row["difference"] - row["half"] == pytest.approx(interval.low)
    assert rows["a"]["holm"] == pytest.approx(2 * rows["a"]["p"]) and rows["b"]["holm"] == pytest.approx(rows["b"]["p"])
    assert SCRIPT["table"](lines).count("| a |") == 1 and "< .001" in SCRIPT["table"](lines)


def test_what_is_chosen_goes_over_the_settings_of_a_model_and_those_over_the_common_steps():
    settings_of = SCRIPT["settings_of"]
    assert settings_of("jsr", 200, {}) == {"max_steps": 200, "steps_per_epoch": 66}
    assert settings_of("bsr", 200, {})["max_steps"] == 450
    assert settings_of("bsr", 200, {"max_steps": 30, "warmup": 1}) == {
        "max_steps": 30, "steps_per_epoch": 10, "warmup": 1, "history_rec": 10,
    }  # fmt: skip


def test_every_world_asks_models_that_can_answer():
    jobs = list(SCRIPT["plan"](["seqrec", "jsr", "unisar"], seeds=1))
    asked = {(job["world"], job["task"], job["model"]) for job in jobs}
    assert asked == {
        ("history", "rec", "seqrec"),
        ("history", "rec", "unisar"),
        ("history", "search", "unisar"),
        ("sharing", "rec", "jsr"),
        ("sharing", "rec", "unisar"),
    }
    assert len(jobs) == len(asked) * 2 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "name", "least", "most"), [("history", "seqrec", 0.1, 0.03), ("sharing", "jsr", 0.05, 0.05)]
)
def test_the_effect_is_there_with_the_planted_strength_and_gone_without(question, name, least, most, tmp_path):
    differences = {}
    for strength in SCRIPT["STRENGTHS"]:
        values = [
            SCRIPT["run"](
                name,
                WORLDS[question, "rec", name],
                strength,
                0,
                variant,
                SCRIPT["settings_of"](name, 200, {"steps_per_epoch": 100}),
                tmp_path,
            )["N@10"]
            for variant in SCRIPT["VARIANTS"][question]
        ]
        differences[strength] = values[0] - values[1]
    # `most` is four standard errors of a difference of two uniform ranks, over more than 700 and 270 rows.
    assert differences[0.9] > least and abs(differences[0.0]) < most, differences
