"""The lemma's inequality: closed form against simulation, where it holds and where it does not."""

import numpy as np
import pytest

from bench.analysis import lemma


@pytest.mark.parametrize("seed", range(3))
def test_closed_form_and_simulation_agree(seed: int) -> None:
    table = lemma.table(seed=seed)
    for name in ("generative", "discriminative"):
        off = (table[f"{name} simulated"] - table[f"{name} information"]) / table[f"{name} standard error"]
        assert off.abs().max() < 4.5


@pytest.mark.parametrize("dimensions", [3, 8, 30])
def test_the_inequality_holds_for_shrinking_estimates_and_fails_for_one_that_overshoots(dimensions: int) -> None:
    table = lemma.table(dimensions).set_index("case")
    assert table["smaller error"].all()
    assert table.loc["both shrink towards zero", "more information"]
    assert not table.loc["the worse one overshoots", "more information"]
    assert not table.loc["both overshoot", "more information"]


def test_information_of_a_signal_without_noise_of_its_own() -> None:
    draws = np.random.default_rng(0)
    signal, noise = 2 * draws.standard_normal(100_000), draws.standard_normal(100_000)
    value, error = lemma.simulated(signal, noise)
    assert value == pytest.approx(0.5 * np.log(5), abs=4 * error)
