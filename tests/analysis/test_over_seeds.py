"""Seeds taken together, against scipy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.analysis.over_seeds import differences, interval


def test_the_interval_is_that_of_students_t() -> None:
    values = np.array([0.3, 0.5, 0.1, 0.2])
    assert interval(values) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), stats.sem(values)))
    assert np.isnan(interval(values[:1])).all()


def test_models_are_paired_by_seed_within_a_group() -> None:
    draws = np.random.default_rng(0)
    lines = [
        {"task": task, "model": model, "seed": seed, "score": draws.normal()}
        for task in ("rec", "search")
        for model, seeds in (("A", (0, 1, 2)), ("B", (2, 1, 0)), ("C", (1, 2, 3)))
        for seed in seeds
    ]
    frame = pd.DataFrame(lines)
    found = differences(frame, ("task",), ("score",))
    assert found[["task", "first", "second"]].to_numpy().tolist() == [
        [task, *pair] for task in ("rec", "search") for pair in (("A", "B"), ("A", "C"), ("B", "C"))
    ]
    assert found["seeds"].tolist() == [3, 2, 2] * 2
    of = {name: part.set_index("seed")["score"] for name, part in frame[frame["task"] == "search"].groupby("model")}
    expected = stats.ttest_rel(of["A"].loc[[0, 1, 2]], of["B"].loc[[0, 1, 2]])
    line = found.iloc[3]
    assert line["p"] == pytest.approx(expected.pvalue)
    assert (line["low"], line["high"]) == pytest.approx(tuple(expected.confidence_interval()))


def test_one_model_has_no_pair_one_seed_no_test_and_equal_models_no_difference() -> None:
    frame = pd.DataFrame({"task": "rec", "model": ["A", "A", "B", "B"], "seed": [0, 1, 0, 1], "x": [1.0, 2, 1, 2]})
    assert not len(differences(frame[:2], ("task",), ("x",)))
    assert np.isnan(differences(frame[frame["seed"] == 0], ("task",), ("x",))["p"]).all()
    assert differences(frame, ("task",), ("x",))["p"].tolist() == [1.0]
    constant = frame.assign(x=[1.0, 2, 0, 1])
    assert differences(constant, ("task",), ("x",))["p"].tolist() == [0.0]
