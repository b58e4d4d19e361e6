"""The worlds of `benchmarks/search_worlds.py`: their test, and that attention over the history finds a planted taste."""

import runpy
from pathlib import Path

import pytest
from scipy import stats

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "search_worlds.py"))
# Queries say nothing, so that the history is all there is.
SMALL = {"users": 100, "items": 200, "events": 14_000, "vague": 1.0}


def test_differences_are_taken_in_each_world_and_adjusted_over_the_models():
    values = {"qem": [0.40, 0.42, 0.38], "hem": [0.45, 0.48, 0.42], "zam": [0.41, 0.41, 0.39]}
    lines = [
        {"taste": 0.9, "model": model, "seed": seed, SCRIPT["VALUE"]: value}
        for model, of_seed in values.items()
        for seed, value in enumerate(of_seed)
    ]
    hem, zam = SCRIPT["summary"](lines)
    assert (hem["model"], zam["model"], hem["worlds"]) == ("hem", "zam", 3)
    assert hem["difference"] == pytest.approx(0.05) and hem["low"] < 0.05 < hem["high"]
    assert hem["p"] == pytest.approx(stats.ttest_rel(values["hem"], values["qem"]).pvalue)
    assert hem["holm"] == pytest.approx(min(1, 2 * hem["p"])) and zam["holm"] >= zam["p"]
    assert hem["beats"] == (hem["holm"] < 0.05) and not zam["beats"]
    assert "| 0.9 | hem | 3 | 0.450 | 0.400 | +0.050" in SCRIPT["table"](lines)


def test_a_model_that_is_worse_is_not_marked_however_sure_that_is():
    values = {"qem": [0.40, 0.42, 0.38, 0.41], "hem": [0.50, 0.52, 0.48, 0.51], "zam": [0.301, 0.32, 0.28, 0.309]}
    lines = [
        {"taste": 0.9, "model": model, "seed": seed, SCRIPT["VALUE"]: value + 0.0001 * seed * (model == "hem")}
        for model, of_seed in values.items()
        for seed, value in enumerate(of_seed)
    ]
    hem, zam = SCRIPT["summary"](lines)
    assert hem["holm"] < 0.001 and zam["holm"] < 0.001
    assert (hem["beats"], zam["beats"]) == (True, False)


def test_zams_attention_does_not_settle_on_its_zero_vector(tmp_path, monkeypatch):
    monkeypatch.setitem(SCRIPT["run"].__globals__, "WORLD", SCRIPT["WORLD"] | SMALL)
    settings = {"max_steps": 200, "check_every": 100}
    found = {name: SCRIPT["run"](name, 0.9, 0, settings, tmp_path)[SCRIPT["VALUE"]] for name in ("qem", "zam")}
    assert found["zam"] > found["qem"] + 0.05, found
