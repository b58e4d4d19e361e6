"""Rows of a trained tensor: what indexing gives, with gradients that are the same in every run."""

import pytest
import torch
import torch.nn.functional as F

from bench.ranker.blocks.rows import rows_of
from bench.testing.repeats import repeated_rows


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3)])
def test_rows_are_those_of_indexing_and_so_are_their_gradients(shape):
    table = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[1, 1, 0], [6, 2, 1]])
    assert torch.equal(rows_of(table, ids), table[ids])
    weight = torch.randn_like(table[ids])
    expected, found = (
        torch.autograd.grad((rows * weight).sum(), table)[0] for rows in (table[ids], rows_of(table, ids))
    )
    assert torch.allclose(expected, found)


@pytest.mark.parametrize("shape", [(50,), (50, 64)])
def test_gradients_on_two_threads_are_the_same_bytes_every_time(two_threads, shape):
    table = torch.randn(shape, requires_grad=True)
    ids = torch.randint(50, (40_000,))
    weight = torch.randn(len(ids), *shape[1:])
    first, *others = (torch.autograd.grad((rows_of(table, ids) * weight).sum(), table)[0] for _ in range(4))
    assert all(torch.equal(first, other) for other in others)


def test_the_check_of_a_loss_finds_indexing_with_repeated_ids_and_nothing_else():
    table = torch.randn(5, 2, requires_grad=True)
    once, twice, mask = torch.tensor([0, 3]), torch.tensor([3, 0, 3]), torch.tensor([True, False, True, True, False])
    for rows in (
        table[once],
        table[mask],
        F.embedding(twice, table),
        rows_of(table, twice),
        table.detach()[twice] + table[0],
    ):
        assert repeated_rows(rows.sum()) == []
    assert repeated_rows(table[twice].exp().sum()) == [(5, 2)]
    assert repeated_rows(table[twice, 1].sum()) == [(5,)]
    assert repeated_rows(table[twice, torch.tensor([0, 0, 1])].sum()) == []
