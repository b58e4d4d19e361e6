"""What RecBole's networks of SASRec, GRU4Rec and DIN make of a history."""

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.ranker import registry
from bench.ranker.contract import Context

from .language_world import World, scores

LENGTH = 6

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed"),
]


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log(n_users=20, n_items=130, length=16, only=0))


def shaken(name: str, world: World) -> Any:
    """A model with random weights, biases included, so that nothing is equal because it is zero."""
    cls = registry.get(name)
    model = cls(cls.Config(history_rec=LENGTH), Context(world.catalog, seed=0, tasks=("rec",)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def full(model: Any, world: World) -> Batch:
    """Rows whose histories fill the window."""
    batch = world.batch(model)
    assert (batch.rec_len == LENGTH).all() and len(batch) == 5
    return batch


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("early", [LENGTH - 2, 0])
def test_swapping_two_neighbours_of_the_history_changes_every_score(name, early, world):
    model = shaken(name, world)
    batch = full(model, world)
    order = torch.arange(LENGTH)
    order[[early, early + 1]] = order[[early + 1, early]]
    swapped = replace(batch, rec_items=batch.rec_items[:, order])
    assert ((scores(model, swapped) - scores(model, batch)).abs() > 1e-4).all()


def test_the_states_of_sasrec_see_no_later_click(world):
    model = shaken("sasrec", world)
    batch = full(model, world)
    kept: list[list[Tensor]] = []
    handle = model.net.trm_encoder.register_forward_hook(lambda _, args, layers: kept.append(layers))
    for place in range(LENGTH):
        other = torch.where(torch.arange(LENGTH) == place, batch.rec_items % world.catalog.n_items + 1, batch.rec_items)
        scores(model, batch)
        scores(model, replace(batch, rec_items=other))
        first, second = kept[-2:]
        assert len(first) >= 2, "each block gives its states"
        for before, after in zip(first, second, strict=True):
            changed = (before - after).abs().amax((0, 2))  # (L,)
            assert torch.equal(before[:, :place], after[:, :place]) and (changed[place:] > 1e-4).all()
    handle.remove()


def test_din_pools_another_vector_for_each_candidate(world):
    model = shaken("din", world)
    batch = full(model, world)
    pooled: list[Tensor] = []
    handle = model.net.attention.register_forward_hook(lambda _, args, out: pooled.append(out))
    scores(model, batch)
    handle.remove()
    vectors = torch.cat(pooled).view(*batch.cand.shape, -1)  # (B, K, d)
    pairs = torch.cdist(vectors, vectors) + torch.eye(vectors.shape[1])
    assert (pairs > 1e-2).all(), "no two candidates share one"
    # And it is what the scoring network reads.
    torch.testing.assert_close(model.represent(batch).input[..., : vectors.shape[-1]], vectors)
