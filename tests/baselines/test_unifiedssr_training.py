"""UnifiedSSR: what the loss may see of later acts, that scoring sees the same, and what the official code leaves out."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.baselines.unifiedssr.model import UnifiedSSR
from bench.data.batch import Batch, Batches, SequenceBatch
from bench.data.catalog import Catalog
from bench.data.log import SEARCH
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS, USERS, QUERIES = 50, 20, 6
BOTH = ("rec", "search")
PAST = 8  # acts of a history


class World:
    """A small log of both behaviours, and models on it whose windows are not where they start."""

    def __init__(self, make_log):
        log = make_log(n_users=USERS, n_items=ITEMS, length=20, n_queries=QUERIES)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))

    def model(self, **settings) -> UnifiedSSR:
        torch.manual_seed(0)
        small = {"dropout": 0.0, "attention_dropout": 0.0, "initial_std": 0.3}
        small |= {"history_rec": PAST, "history_search": PAST}
        model = UnifiedSSR(UnifiedSSR.Config(**small | settings), Context(self.catalog, tasks=BOTH)).eval()
        torch.nn.init.normal_(model.sessions.offset.weight, std=0.05)
        return model

    def sequences(self, model: UnifiedSSR) -> SequenceBatch:
        return next(iter(model.stream(TrainData(self.batches, BOTH, 0)).batches(0, 1)))

    def rows(self, model: UnifiedSSR) -> Batch:
        rows = torch.cat([torch.as_tensor(self.batches.split.rows("test", task)) for task in BOTH]).numpy()
        return self.batches.rows(rows, torch.arange(1, ITEMS + 1).expand(len(rows), -1).numpy(), model.window)


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def click_losses(model: UnifiedSSR, batch: SequenceBatch) -> Tensor:
    with torch.no_grad():
        parts = model.loss(batch)[1]
    return torch.stack([parts["rec/click"], parts["search/click"]])


def searches(batch: SequenceBatch) -> SequenceBatch:
    rows = batch.tasks[:, 0] == SEARCH
    return SequenceBatch(**{name: value[rows] for name, value in vars(batch).items() if value is not None})


def trained_states(model: UnifiedSSR, batch: SequenceBatch) -> tuple[list[Tensor], list[Tensor]]:
    """States that the loss of a batch of searches reads, (B, T, d) of each branch, and these before the windows."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = model.sessions.register_forward_hook(lambda module, args, output: calls.append((output[0], args[0])))
    with torch.no_grad():
        model.loss(batch)
    hook.remove()
    asked = [call for call in calls if call[0].shape == call[1].shape]  # at every place, not of the whole sequence
    return [states for states, _ in asked], [bare for _, bare in asked]


@pytest.mark.parametrize("released", [False, True])
def test_the_loss_of_early_acts_does_not_see_later_ones_but_in_the_official_code(world, released):
    """Places 0 to 3 alone are targets; every later act is exchanged."""
    model = world.model(released=released)
    batch = world.sequences(model)
    instant = batch.instant.clone()
    instant[:, 4:] = instant[:, 3:4]
    batch = replace(batch, instant=instant)
    assert not batch.target[:, 4:].any() and batch.target[:, 3].any() and (batch.length > 5).any()
    later = torch.arange(batch.items.shape[1])[None] > 3
    assert batch.negatives is not None
    other = replace(
        batch,
        items=torch.where(later, batch.items % ITEMS + 1, batch.items),
        clicks=torch.where(later[..., None], batch.clicks % ITEMS + 1, batch.clicks),
        queries=torch.where(later, batch.queries % QUERIES + 1, batch.queries),
        negatives=torch.where(later[..., None], batch.negatives % ITEMS + 1, batch.negatives),
    )
    moved = (click_losses(model, batch) - click_losses(model, other)).abs()
    assert (moved > 1e-3).all() if released else (moved < 1e-5).all()


def test_the_official_code_trains_early_places_within_the_windows_of_the_whole_sequence(world):
    model = world.model(released=True)
    batch = searches(world.sequences(model))
    trained, encoded = trained_states(model, batch)
    with torch.no_grad():
        inside = [model.sessions.windows(states, batch.length[:, None])[:, 0].amax(1) for states in encoded]
    assert len(trained) == len(encoded) == 2 and 0 < inside[0][batch.mask].mean() < 1
    for states, bare, own in zip(trained, encoded, inside, strict=True):
        torch.testing.assert_close(states[batch.mask], (bare * (1 + own[..., None]))[batch.mask])


def test_searches_are_scored_with_what_both_branches_were_trained_on(world):
    """The score at the last act of a sequence weighs the products with the states that its loss reads there."""
    model = world.model()
    with torch.no_grad():
        model.product_share.fill_(0.3)
    batch = searches(world.sequences(model))
    products, asked = trained_states(model, batch)[0]
    rows, last = torch.arange(len(batch)), batch.length - 1
    assert (last > 3).any() and (last == 0).any() and (batch.queries[rows, last] > 0).all()
    items = model.items.weight[1:] * model.config.d**0.5
    with torch.no_grad():
        expected = 0.3 * products[rows, last] @ items.T + 0.7 * asked[rows, last] @ items.T
    empty = torch.zeros(len(batch), 0, dtype=torch.long)
    alone = Batch(
        user=batch.user,
        task=torch.full_like(batch.user, SEARCH),
        query=batch.queries[rows, last],
        time=torch.zeros_like(batch.user),
        rec_items=empty,
        rec_times=empty,
        rec_len=torch.zeros_like(batch.user),
        search_query=batch.queries[:, :PAST],  # the act itself stands in the padding, where nobody may look
        search_items=batch.clicks[:, :PAST],
        search_times=batch.times[:, :PAST],
        search_len=last,
        merged_task=torch.full_like(batch.times[:, :PAST], SEARCH),
        merged_column=torch.arange(PAST).expand(len(batch), -1),
        cand=torch.arange(1, ITEMS + 1).expand(len(batch), -1),
    )
    with torch.no_grad():
        torch.testing.assert_close(model.score(alone), expected, atol=1e-4, rtol=1e-4)


def test_weight_0_leaves_out_the_windows_in_the_official_code_alone(world):
    """There the score is the product of item and encoded state, and nothing is lost on sessions."""
    rows = world.rows(world.model())
    rows = rows.take(rows.task != SEARCH)

    def scores(**settings) -> Tensor:
        with torch.no_grad():
            return world.model(**settings).score(rows)

    bare = world.model(released=True, session_weight=0.0)
    encoded: list[Tensor] = []
    bare.norm.register_forward_hook(lambda module, args, output: encoded.append(output))
    with torch.no_grad():
        found = bare.score(rows)
        by_hand = encoded[0][torch.arange(len(rows)), rows.rec_len] @ bare.item(torch.arange(1, ITEMS + 1)).T
        assert bare.loss(world.sequences(bare))[1]["rec/session"] == 0
    torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)
    assert ((found - scores(released=True, session_weight=0.1)).abs().amax(1) > 1e-2).all()
    torch.testing.assert_close(scores(session_weight=0.0), scores(session_weight=0.1))
