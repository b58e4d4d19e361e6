"""Ranking losses against loops and against each other."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.ranker.blocks.losses import bce, bpr, full_softmax, of_products, sampled_softmax


def scores(seed, rows=4, others=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, generator=generator), torch.randn(rows, others, generator=generator)


@given(st.integers(0, 1000))
@settings(deadline=None)
def test_bce_and_bpr_are_means_over_pairs(seed):
    positive, negative = scores(seed)
    wanted = [math.log1p(math.exp(-p)) for p in positive.tolist()]
    others = [math.log1p(math.exp(n)) for n in negative.flatten().tolist()]
    assert float(bce(positive, negative)) == pytest.approx(sum(wanted + others) / 16, rel=1e-5)
    pairs = [
        math.log1p(math.exp(n - p)) for p, row in zip(positive.tolist(), negative.tolist(), strict=True) for n in row
    ]
    assert float(bpr(positive, negative)) == pytest.approx(sum(pairs) / 12, rel=1e-5)


def test_bpr_closed_form():
    positive, negative = torch.tensor([2.0]), torch.tensor([[0.5, 2.0]])
    assert float(bpr(positive, negative)) == pytest.approx((math.log1p(math.exp(-1.5)) + math.log(2)) / 2)


@given(st.integers(0, 1000))
@settings(deadline=None)
def test_a_sample_of_the_whole_catalogue_is_the_full_softmax(seed):
    generator = torch.Generator().manual_seed(seed)
    queries, items = torch.randn(5, 6, generator=generator), torch.randn(12, 6, generator=generator)
    target = torch.randint(1, 12, (5,), generator=generator)
    full = full_softmax(queries, items, target)
    logits = queries @ items.T
    assert float(full) == pytest.approx(float(F.cross_entropy(logits[:, 1:], target - 1)), rel=1e-5)
    everything = torch.arange(1, 12)
    sampled = sampled_softmax(
        logits.gather(1, target[:, None]).squeeze(1), logits[:, 1:], torch.zeros(5), torch.zeros(11),
        hit=everything == target[:, None],
    )  # fmt: skip
    torch.testing.assert_close(sampled, full)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_log_q_makes_the_partition_function_right_for_any_distribution(alpha):
    """The mean of exp(logit - log q) over samples drawn by q is the sum over the catalogue."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, generator=generator)
    weights = torch.rand(50, generator=generator) ** alpha
    q = weights / weights.sum()
    n = 200_000
    drawn = torch.multinomial(q, n, replacement=True, generator=generator)
    positive = torch.tensor([-100.0])  # no share of the sum
    log_q = (n * q).log()
    loss = sampled_softmax(positive, logits[drawn][None], torch.zeros(1), log_q[drawn])
    assert float(loss) - 100 == pytest.approx(float(logits.logsumexp(0)), abs=0.02)


def test_a_hit_among_the_samples_does_not_compete_with_the_click():
    positive, negative = torch.tensor([1.0]), torch.tensor([[1.0, 0.0]])
    hit = torch.tensor([[True, False]])
    loss = sampled_softmax(positive, negative, torch.zeros(1), torch.zeros(2), hit)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1)))


def test_losses_of_products_by_their_names():
    generator = torch.Generator().manual_seed(0)
    rows, items = torch.randn(4, 5, generator=generator), torch.randn(9, 5, generator=generator)
    clicked, negatives = torch.tensor([1, 8, 3, 3]), torch.randint(1, 9, (4, 3), generator=generator)
    positive = torch.stack([rows[b] @ items[clicked[b]] for b in range(4)])
    negative = torch.stack([torch.stack([rows[b] @ items[n] for n in negatives[b]]) for b in range(4)])
    both = torch.cat([positive[:, None], negative], 1)
    expected = {
        "CE": -(rows @ items[1:].T).log_softmax(1)[torch.arange(4), clicked - 1].mean(),
        "sampled-CE": -both.log_softmax(1)[:, 0].mean(),
        "BCE": bce(positive, negative),
        "BPR": bpr(positive, negative),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(of_products(kind, rows, items, clicked, negatives), value)
    for kind in ("sampled-CE", "BCE", "BPR"):
        with pytest.raises(ValueError, match="set negatives to at least 1"):
            of_products(kind, rows, items, clicked, None)
