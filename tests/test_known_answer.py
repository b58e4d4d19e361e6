"""`benchmarks/known_answer.py`: its table, and that a scorer that reads the popularity finds it where it is planted."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "known_answer.py"))
VALUE, CHANCE = SCRIPT["VALUE"], SCRIPT["CHANCE"]
SMALL = {"users": 120, "items": 600, "events": 12_000, "topics": 8}


def test_the_table_has_shares_of_the_oracle_and_what_chance_allows():
    def line(model: str, world: str, seed: int, rec: float, search: float) -> dict:
        values = {"rec": {VALUE: rec, "half": 0.01}, "search": {VALUE: search, "half": 0.02}}
        return {"model": model, "world": world, "seed": seed} | values

    lines = [
        line("oracle", "planted", 0, 0.4, 0.6), line("gensr", "planted", 0, 0.3, 0.6), line("gensr", "planted", 1, 0.1, 0.6),
        line("oracle", "nothing", 0, 0.045, 0.046), line("gensr", "nothing", 0, 0.044, 0.047),
    ]  # fmt: skip
    shown = SCRIPT["table"](lines)
    assert "| planted | gensr | 2 | 0.200 | 50% | 0.600 | 100% |" in shown
    assert "| nothing | gensr | 1 | 0.044 |  | 0.047 |  |" in shown
    assert shown.endswith("Chance in one world: rec 0.045 ± 0.010, search 0.045 ± 0.020.")
    assert pytest.approx(0.045, abs=5e-4) == CHANCE


def test_a_scorer_finds_what_is_planted_and_nothing_where_nothing_is(tmp_path, monkeypatch):
    worlds = {name: settings | SMALL for name, settings in SCRIPT["WORLDS"].items()}
    monkeypatch.setitem(SCRIPT["run"].__globals__, "WORLDS", worlds)
    found = {
        (name, world): SCRIPT["run"](name, world, 0, False, tmp_path)
        for name in ("oracle", "popularity")
        for world in ("planted", "nothing")
    }
    for (name, world), values in found.items():
        for task in ("rec", "search"):
            away = values[task][VALUE] - CHANCE
            half = values[task]["half"]
            assert away > half if world == "planted" else abs(away) <= 1.6 * half, (name, world, task, values)
    assert found["oracle", "planted"]["search"][VALUE] > 2 * found["popularity", "planted"]["search"][VALUE]
