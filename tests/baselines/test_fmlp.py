"""FMLP-Rec: its filters are a circular convolution over a fixed window, and only the last slot is trained."""

import math
from dataclasses import replace

import pytest
import torch

from bench.baselines.fmlp import FMLP, FilterLayer
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context


class World:
    """A small log of recommendation clicks, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=20, n_items=50, length=20, only=0)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))
        self.train = TrainData(self.batches, ("rec",), 0)

    def model(self, **settings) -> FMLP:
        torch.manual_seed(0)
        config = FMLP.Config(**{"dropout": 0.0, "batch_size": 64, "history_rec": 8} | settings)
        return FMLP(config, Context(self.catalog, tasks=("rec",)))

    def batch(self, model: FMLP) -> Batch:
        return next(model.stream(self.train).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def large_filters(model: FMLP, std: float = 1.0) -> FMLP:
    """The model with filters that outweigh the residual, in evaluation mode."""
    with torch.no_grad():
        for layer in model.layers:
            if isinstance(layer, FilterLayer):
                layer.weight.normal_(0, std, generator=torch.Generator().manual_seed(1))
    return model.eval()


def shifted(batch: Batch, column: int, by: int = 7) -> Batch:
    """The batch with another item in one column of the history."""
    items = batch.rec_items.clone()
    items[:, column] = (items[:, column] + by) % 50 + 1
    return replace(batch, rec_items=items)


def full(batch: Batch) -> Batch:
    """The rows whose history fills the window."""
    return batch.take(batch.rec_len == batch.rec_items.shape[1])


def test_the_published_size(world):
    model = world.model(history_rec=50)
    filters = 2 * (50 // 2 + 1) * 64 * 2
    networks = 2 * ((64 * 256 + 256) + (256 * 64 + 64))
    norms = (1 + 2 * 2) * 2 * 64
    tables = (50 + 1) * 64 + 50 * 64
    assert sum(p.numel() for p in model.parameters()) == filters + networks + norms + tables
    assert sum(p.numel() for n, p in model.named_parameters() if n.endswith(".weight") and p.dim() == 3) == filters


@pytest.mark.parametrize("length", [7, 8])
def test_a_filter_is_a_circular_convolution(length):
    layer = FilterLayer(length, 3, 0.0, 1.0)
    x = torch.randn(2, length, 3)
    kernel = torch.fft.irfft(torch.view_as_complex(layer.weight.detach()), n=length, dim=0)  # (L, d)
    expected = torch.zeros_like(x)
    for at in range(length):
        for shift in range(length):
            expected[:, at] += kernel[shift] * x[:, (at - shift) % length]
    torch.testing.assert_close(layer(x), torch.nn.functional.layer_norm(x + expected, (3,), eps=1e-12))


def test_filters_of_one_give_the_input_back():
    layer = FilterLayer(9, 4, 0.0, 1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 0.0]).expand_as(layer.weight))
    x = torch.randn(3, 9, 4)
    torch.testing.assert_close(layer(x), torch.nn.functional.layer_norm(2 * x, (4,), eps=1e-12))


def test_the_filters_look_ahead_so_only_the_last_slot_may_be_trained(world):
    model = large_filters(world.model())
    x = torch.randn(2, 8, 64)
    changed = x.clone()
    changed[:, -1] += 1
    assert (model.layers(x)[:, 0] - model.layers(changed)[:, 0]).abs().max() > 0.1


def test_without_filters_the_score_depends_on_the_last_click_alone(world):
    model, whole = world.model(), full(world.batch(world.model()))
    for layer in model.layers:
        if isinstance(layer, FilterLayer):
            torch.nn.init.zeros_(layer.weight)
    before = model.eval().row_vectors(whole)
    torch.testing.assert_close(model.row_vectors(shifted(whole, 3)), before, atol=0, rtol=0)
    assert (model.row_vectors(shifted(whole, -1)) - before).abs().amax(1).min() > 1e-3


def test_every_click_of_the_window_counts_the_first_one_too(world):
    model = large_filters(world.model())
    whole = full(world.batch(model))
    before = model.row_vectors(whole)
    for column in range(8):
        assert (model.row_vectors(shifted(whole, column)) - before).abs().amax(1).min() > 1e-4, column


def test_histories_stand_at_the_end_of_the_window(world):
    """A click counts by its distance from the end: by hand on a left-padded window."""
    model = large_filters(world.model())
    batch = world.batch(model)
    assert (batch.rec_len == 0).any() and (batch.rec_len == 3).any()
    window = torch.zeros(len(batch), 8, dtype=torch.long)
    for row, length in enumerate(batch.rec_len.tolist()):
        window[row, 8 - length :] = batch.rec_items[row, :length]
    x = model.norm(model.items(window) + model.positions.weight)
    torch.testing.assert_close(model.row_vectors(batch), model.layers(x)[:, -1])


def test_the_first_loss_is_2_ln_2(world):
    for negatives in (1, 5):
        model = world.model(negatives=negatives)
        assert float(model.loss(world.batch(model)).detach()) == pytest.approx(2 * math.log(2), abs=0.05)


def test_the_loss_in_closed_form(world):
    model = large_filters(world.model(negatives=3, initial_std=0.5))
    batch = world.batch(model)
    state, items = model.row_vectors(batch).double(), model.items.weight.double()
    positive = (state * items[batch.item]).sum(-1).sigmoid()
    negative = (state[:, None] * items[batch.negatives]).sum(-1).sigmoid()
    expected = (-positive.log() - (1 - negative).log().mean(1)).mean()
    assert float(model.loss(batch).detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_it_learns_a_few_clicks_by_heart(world):
    model = world.model(negatives=4)
    batch = world.batch(model)
    batch = batch.take((batch.rec_len > 0).nonzero()[:32, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    scores = model.eval().score(replace(batch, cand=torch.cat([batch.item[:, None], batch.negatives], 1)))
    assert float((scores.argmax(1) == 0).float().mean()) > 0.9
