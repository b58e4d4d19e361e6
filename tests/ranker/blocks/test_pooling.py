"""Pooling: definitions written as loops, and padding that holds anything."""

import pytest
import torch

from bench.ranker.blocks.pooling import AdditiveAttention, TargetAttention, TermImportance, masked_mean, weighted_mean

LENGTHS = torch.tensor([3, 1, 0, 5])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.arange(5) < LENGTHS[:, None]


def pooled_by(name: str, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    if name == "mean":
        return masked_mean(x, mask)
    if name == "additive":
        return AdditiveAttention(6, 4)(x, mask)
    if name == "target":
        return TargetAttention(6)(x, mask, torch.randn(4, 2, 6)).flatten(1)
    terms = TermImportance(9)
    torch.nn.init.normal_(terms.importance.weight)
    return terms(x, torch.arange(1, 6).expand(4, 5) * mask)


@pytest.mark.parametrize("name", ["mean", "additive", "term", "target"])
def test_padding_never_reaches_a_result_and_empty_rows_are_zero(name, x, mask):
    usual = pooled_by(name, x, mask)
    junk = x.masked_fill(~mask[..., None], 1e4)
    torch.testing.assert_close(pooled_by(name, junk, mask), usual, rtol=0, atol=0)
    assert (usual[2] == 0).all() and (usual[[0, 1, 3]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", ["mean", "additive", "term"])
def test_what_is_not_a_number_in_padding_stays_there(name, x, mask):
    broken = x.masked_fill(~mask[..., None], torch.nan)
    assert torch.isfinite(pooled_by(name, broken, mask)).all()


@pytest.mark.parametrize("name", ["mean", "additive", "term", "target"])
def test_gradients_of_empty_rows_are_finite_and_zero(name, x, mask):
    x.requires_grad_()
    pooled_by(name, x, mask).square().sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad[~mask] == 0).all()
    assert (x.grad[mask].abs().sum(-1) > 0).all()


def test_additive_attention_is_its_formula(x, mask):
    attention = AdditiveAttention(6, 4)
    pooled = attention(x, mask)
    weight, bias = attention.project.weight, attention.project.bias
    for row in (0, 1, 3):
        real = x[row, : LENGTHS[row]]
        scores = torch.stack([torch.tanh(weight @ vector + bias) @ attention.importance.weight[0] for vector in real])
        torch.testing.assert_close(pooled[row], scores.softmax(0) @ real)


def test_term_importance_starts_as_the_mean_and_weighs_words_by_their_numbers(x, mask):
    words = torch.tensor([[4, 2, 4, 0, 0], [7, 0, 0, 0, 0], [0] * 5, [1, 2, 3, 4, 5]])
    terms = TermImportance(9)
    torch.testing.assert_close(terms(x, words), masked_mean(x, mask))
    with torch.no_grad():
        terms.importance.weight[2] = 20.0
    torch.testing.assert_close(terms(x, words)[0], x[0, 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms(x, words)[3], x[3, 1], rtol=1e-4, atol=1e-4)


def test_weights_of_any_shape_before_the_sequence(x, mask):
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    stacked = weighted_mean(torch.stack([x, 2 * x]), torch.stack([scores, scores]), torch.stack([mask, mask]))
    torch.testing.assert_close(stacked[1], 2 * stacked[0])
    torch.testing.assert_close(stacked[0], weighted_mean(x, scores, mask))
