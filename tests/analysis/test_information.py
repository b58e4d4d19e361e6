"""Estimates of mutual information against values that are known."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.analysis.information import (
    LN2,
    EstimatorConfig,
    bernoulli,
    donsker_varadhan,
    entropy,
    estimate,
    exact_information,
    fixed,
    info_nce,
)
from bench.analysis.mutual_information import remark

SHORT = EstimatorConfig(steps=800, patience=3)


def gaussians(information: float, dimensions: int, pairs: int = 50_000) -> tuple[Tensor, Tensor]:
    """X and Y with so many nats between them, shared out evenly over the dimensions."""
    correlation = np.sqrt(1 - np.exp(-2 * information / dimensions))
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(pairs, dimensions, generator=generator)
    noise = torch.randn(pairs, dimensions, generator=generator)
    return x, correlation * x + np.sqrt(1 - correlation**2) * noise


def close(value: float, known: float) -> bool:
    return abs(value - known) <= max(0.15 * known, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [1, 5, 20])
@pytest.mark.parametrize("information", [0.0, 0.1, 0.25, 0.5, 1.0, 2.0])
def test_mine_recovers_the_information_of_gaussians(information: float, dimensions: int) -> None:
    x, y = gaussians(information, dimensions)
    assert close(estimate(x, fixed(y), seed=0).value, information)


@pytest.mark.parametrize("bound", ["mine", "infonce"])
def test_both_bounds_of_a_small_sample_of_gaussians(bound: Literal["mine", "infonce"]) -> None:
    x, y = gaussians(1.0, 2, 8000)
    assert close(estimate(x, fixed(y), seed=0, bound=bound, config=SHORT).value, 1.0)


def test_independent_variables_share_nothing() -> None:
    x, y = gaussians(0.0, 2, 4000)
    assert close(estimate(x, fixed(y), seed=0, config=SHORT).value, 0.0)


def test_the_answer_of_a_model_with_known_probabilities() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8000, 4, generator=generator)
    probability = torch.sigmoid(2.5 * x[:, 0] - 2 * x[:, 1])
    exact = exact_information(probability.double().numpy())
    assert 0.2 < exact < LN2
    value = estimate(x, bernoulli(probability), seed=0, config=SHORT).value
    assert close(value, exact) and value <= LN2
    assert remark(value, float(entropy(float(probability.mean()))), 10.0) == ""


def test_the_same_seed_gives_the_same_estimate_and_leaves_the_generator_alone() -> None:
    x, y = gaussians(0.5, 2, 2000)
    config = EstimatorConfig(steps=100)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = estimate(x, fixed(y), seed=1, config=config)
    assert torch.equal(torch.get_rng_state(), before)
    assert estimate(x, fixed(y), seed=1, config=config) == first
    assert estimate(x, fixed(y), seed=2, config=config) != first


def test_rows_of_a_user_stay_in_one_part() -> None:
    """Each user has one point and an outcome of its own; only who has seen the user can know it."""
    generator = torch.Generator().manual_seed(0)
    users = np.repeat(np.arange(300), 10)
    x = torch.randn(300, 8, generator=generator)[users]
    y = torch.bernoulli(torch.full((300,), 0.5), generator=generator)[users][:, None]
    split = estimate(x, fixed(y), users, seed=0, config=SHORT).value
    mixed = estimate(x, fixed(y), None, seed=0, config=SHORT).value
    assert mixed > 0.3 and split < 0.1


def test_bounds_of_a_matrix_of_values() -> None:
    values = torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).double()
    off = values[~torch.eye(7, dtype=torch.bool)]
    assert float(donsker_varadhan(values)) == pytest.approx(float(values.diagonal().mean() - off.exp().mean().log()))
    by_hand = np.mean([float(values[i, i] - values[i].exp().mean().log()) for i in range(7)])
    assert float(info_nce(values)) == pytest.approx(by_hand) and by_hand <= np.log(7)


def test_what_no_estimate_can_show_is_said() -> None:
    x, y = gaussians(2.0, 1, 60)
    few = estimate(x, fixed(y), seed=0, config=EstimatorConfig(steps=20))
    assert few.ceiling == pytest.approx(np.log(few.pairs) - 2)
    assert "ln 2 at most" in remark(0.9, LN2, 10.0) and "so many pairs" in remark(0.5, LN2, 0.4)
    assert exact_information(np.array([0.0, 1.0])) == pytest.approx(LN2) and exact_information(
        np.full(5, 0.3)
    ) == pytest.approx(0)
