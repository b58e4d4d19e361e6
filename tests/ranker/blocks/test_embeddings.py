"""Embeddings of ids, features and words: padding is the zero vector, and looking up many ids is looking up each."""

import pytest
import torch

from bench.data.catalog import Catalog
from bench.ranker.blocks.attention import MultiHeadAttention
from bench.ranker.blocks.embeddings import FeatureEmbedding, QueryEmbedding, lookup
from bench.ranker.blocks.experts import CustomizedGateControl


@pytest.fixture(scope="module")
def tables(make_log) -> tuple[QueryEmbedding, FeatureEmbedding]:
    catalog = Catalog(make_log())
    torch.manual_seed(0)
    queries = QueryEmbedding(catalog, 4, 8)
    items = FeatureEmbedding(catalog.n_items + 1, catalog.item_features, 4, 8, queries, catalog.item_words)
    return queries, items


def test_padding_is_the_zero_vector_and_nothing_else_is(tables):
    for table in tables:
        vectors = table(torch.arange(table.rows))
        assert (vectors[0] == 0).all() and (vectors[1:].abs().sum(1) > 0).all()


@pytest.mark.parametrize("count", [3, 500])
def test_looking_up_many_ids_is_looking_up_each(tables, count):
    generator = torch.Generator().manual_seed(0)
    for table in tables:
        ids = [torch.randint(table.rows, shape, generator=generator) for shape in ((count,), (2, 1, 2))]
        vectors, places = lookup(table, *ids)
        for part, place in zip(ids, places, strict=True):
            assert place.shape == part.shape
            torch.testing.assert_close(vectors[place].flatten(0, -2), table(part.flatten()))


def test_a_row_that_may_see_nothing_gets_no_more_than_the_bias():
    attention = MultiHeadAttention(8, 2, 0.0)
    torch.nn.init.normal_(attention.out.bias)
    x = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = attention(x, None, mask)
    torch.testing.assert_close(out[1], attention.out.bias.expand(3, 8))
    out[1].sum().backward()
    assert (x.grad == 0).all()


def test_experts_are_dropped_in_training_only():
    experts = CustomizedGateControl(6, 4, 2, 2, 2, 0.5)
    x, context = torch.randn(5, 2, 4), torch.randn(5, 2)
    assert not torch.equal(experts(x, context, 0), experts(x, context, 0))
    experts.eval()
    assert torch.equal(experts(x, context, 0), experts(x, context, 0))
