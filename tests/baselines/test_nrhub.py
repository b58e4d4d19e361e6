"""NRHUB: its size, its three views against an implementation by hand, empty views, its first loss."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bench.baselines.nrhub import NRHUB
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS = 50


class World:
    """A small log of both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=20, n_items=ITEMS, length=16, n_queries=6)
        self.catalog = Catalog(log)
        self.train = TrainData(Batches(split(log)), ("rec",), 0)

    def model(self, **settings) -> NRHUB:
        torch.manual_seed(0)
        return NRHUB(NRHUB.Config(**{"dropout": 0.0} | settings), Context(self.catalog, tasks=("rec",))).eval()

    def batch(self, model: NRHUB) -> Batch:
        return next(model.stream(self.train).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture
def model(world) -> NRHUB:
    return world.model()


@pytest.fixture
def batch(world, model) -> Batch:
    return world.batch(model)


def full(batch: Batch) -> Batch:
    return batch.take((batch.rec_len > 1) & (batch.search_len > 1))


def test_the_size_is_that_of_the_tables_and_of_what_the_papers_describe(world, model):
    d, space, attention = 64, 200, 100
    tables = (ITEMS + 1 + world.catalog.n_words + 1) * d
    of_records = 3 * ((d + 1) * space + space)  # U with its bias, and v, for each view
    of_views = (space + 1) * attention + attention
    into_space = 2 * (d + 1) * space  # of views and of candidates
    assert sum(p.numel() for p in model.parameters()) == tables + of_records + of_views + into_space


def attended(attention: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """(n, d) -> (d,), and the weights sum to 1."""
    weights = torch.softmax(torch.tanh(attention.project(vectors)) @ attention.importance.weight[0], 0)
    assert float(weights.detach().sum()) == pytest.approx(1, abs=1e-5)
    return weights @ vectors


def by_hand(model: NRHUB, batch: Batch, row: int) -> torch.Tensor:
    """(K,) scores of one row, record by record."""
    clicks = [model.items.weight[i] for i in batch.rec_items[row][: batch.rec_len[row]]]
    queries, found = [], []
    for slot in range(int(batch.search_len[row])):
        words = model.query_words[batch.search_query[row, slot]]
        queries.append(model.words(words[words > 0]).mean(0))
        found += [model.items.weight[i] for i in batch.search_items[row, slot] if i > 0]
    views = {"rec": clicks, "query": queries, "search": found}
    pooled = [attended(model.records[name], torch.stack(records)) for name, records in views.items() if records]
    if not pooled:
        return torch.zeros(batch.cand.shape[1])
    user = attended(model.views, torch.tanh(model.view[0](torch.stack(pooled))))
    return torch.tanh(model.candidate[0](model.items(batch.cand[row]))) @ user


def test_scores_are_those_of_three_views_attended_to_by_hand(model, batch):
    scores = model.score(batch)
    assert (batch.rec_len == 0).any() and (batch.search_len == 0).any()
    assert ((batch.rec_len > 0) & (batch.search_len > 0)).any()
    for row in range(len(batch)):
        torch.testing.assert_close(scores[row], by_hand(model, batch, row), rtol=1e-4, atol=1e-5)


def test_order_within_a_view_does_not_count(model, batch):
    rows = full(batch)
    place = torch.arange(rows.rec_items.shape[1])
    backwards = (rows.rec_len[:, None] - 1 - place).where(rows.rec_mask, place)
    turned = replace(rows, rec_items=rows.rec_items.gather(1, backwards))
    assert (turned.rec_items != rows.rec_items).any()
    torch.testing.assert_close(model.score(turned), model.score(rows), rtol=1e-4, atol=1e-5)


def test_each_view_counts_by_itself(model, batch):
    rows = full(batch)
    usual = model.score(rows)
    other_items = torch.where(rows.search_click_mask, rows.search_items % ITEMS + 1, rows.search_items)
    other_queries = torch.where(rows.search_mask, rows.search_query % 6 + 1, 0)
    other_clicks = torch.where(rows.rec_mask, rows.rec_items % ITEMS + 1, rows.rec_items)
    for change in ({"search_items": other_items}, {"search_query": other_queries}, {"rec_items": other_clicks}):
        assert ((model.score(replace(rows, **change)) - usual).abs().amax(1) > 1e-6).all()


def test_without_any_record_nothing_is_preferred(model, batch):
    zero = torch.zeros_like(batch.rec_len)
    assert (model.score(replace(batch, rec_len=zero, search_len=zero)) == 0).all()


@pytest.mark.parametrize(("loss", "value"), [("softmax", math.log(5)), ("BCE", math.log(2))])
def test_the_first_loss_is_that_of_a_guess(world, loss, value):
    model = world.model(loss_type=loss)
    assert float(model.loss(world.batch(model)).detach()) == pytest.approx(value, abs=0.1)


def test_the_loss_is_the_cross_entropy_of_the_clicked_column(model, batch):
    expected = F.cross_entropy(model.score(batch), batch.label.argmax(1))
    torch.testing.assert_close(model.loss(batch), expected)


def test_the_whole_catalogue_is_ranked_by_the_same_vectors(model, batch):
    product = model.row_vectors(batch) @ model.item_vectors().T
    torch.testing.assert_close(product.gather(1, batch.cand), model.score(batch), rtol=1e-4, atol=1e-5)
