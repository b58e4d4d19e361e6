"""Attention with dropout on a CPU, one product per head, against PyTorch's."""

import pytest
import torch

from bench.ranker.blocks.attention import MultiHeadAttention

ROWS, QUERIES, KEYS, D = 5, 4, 7, 12
GENERATOR = torch.Generator().manual_seed(0)


def layer(dropout: float, heads: int = 3) -> MultiHeadAttention:
    torch.manual_seed(1)
    made = MultiHeadAttention(D, heads, dropout)
    torch.nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("of_pairs", [False, True])
@pytest.mark.parametrize("itself", [False, True])
def test_heads_one_by_one_are_pytorchs_attention(of_pairs, itself):
    x = torch.randn(ROWS, QUERIES, D, generator=GENERATOR)
    keys = None if itself else torch.randn(ROWS, KEYS, D, generator=GENERATOR)
    length = QUERIES if itself else KEYS
    mask = torch.arange(length) < torch.tensor([0, 1, 2, 4, 3])[:, None]  # the first row may see nothing
    if of_pairs:
        mask = mask[:, None] & (torch.rand(ROWS, QUERIES, length, generator=GENERATOR) < 0.7)
    found = []
    for made in (layer(1e-9).train(), layer(0.0).train()):  # so small a probability drops nothing
        x.grad = None
        out = made(x.requires_grad_(), keys, mask)
        out.square().sum().backward()
        found.append((out.detach(), x.grad.clone(), made.weight.grad, made.bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_weights_are_dropped_and_scaled():
    """Values of 1 and an output layer that changes nothing show the sum of the kept weights."""
    made = layer(0.25, heads=1).train()
    with torch.no_grad():
        made.weight[2 * D :] = 0
        made.bias[2 * D :] = 1
        made.out.weight.copy_(torch.eye(D))
    x = torch.randn(400, QUERIES, D, generator=GENERATOR)
    kept = made(x, None, torch.ones(400, QUERIES, dtype=torch.bool))[..., 0].detach()
    assert kept.mean() == pytest.approx(1, abs=0.03) and kept.std() > 0.1
    torch.testing.assert_close(made.eval()(x, None, torch.ones(400, QUERIES, dtype=torch.bool))[..., 0], kept * 0 + 1)
