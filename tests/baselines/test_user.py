"""USER: sessions, the history that candidates meet, what the official code mixes up, and its size."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.baselines.user import USER, Words, _age, _place_in_session
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.log import SEARCH
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS, USERS, QUERIES = 60, 24, 8
SMALL = {"d": 16, "heads": 2, "hidden": 32, "dropout": 0.0, "batch_size": 64}


class World:
    """A small log whose users have both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=USERS, n_items=ITEMS, length=16, n_queries=QUERIES)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))

    def model(self, tasks=("rec", "search"), **settings) -> USER:
        torch.manual_seed(0)
        return USER(USER.Config(**SMALL | settings), Context(self.catalog, tasks=tasks)).eval()

    def batch(self, tasks=("rec", "search"), **settings) -> Batch:
        model = self.model(tasks, **settings)
        return next(model.stream(TrainData(self.batches, tasks, 0)).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def scores(model: USER, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.score(batch)


def test_the_size_of_the_network(world):
    """Itemised; the official layers are wider: eight heads of width 64 and a network of width 2048, see the last lines."""
    model, d, hidden = world.model(d=100, heads=4, hidden=200), 100, 200
    layer = 4 * (d * d + d) + (2 * d * hidden + hidden + d) + 2 * 2 * d
    tokens = 1 + world.catalog.n_words + ITEMS
    coattention, attention = d * d + 2 * d * d + d, d * d + d + d
    positions = (model.text.tokens.shape[1] + 2 * 61) * d
    expected = (tokens + USERS + 1) * d + 3 * layer + coattention + attention + positions + 5
    assert sum(p.numel() for p in model.parameters()) == expected
    released = world.model(d=100, heads=4, hidden=200, released=True)
    assert sum(p.numel() for p in released.parameters()) == expected - positions
    wide = world.model(d=100, heads=4, hidden=2048)
    per_layer = 2 * d * 2048 + 2048 + d - (2 * d * hidden + hidden + d)
    assert sum(p.numel() for p in wide.parameters()) == expected + 3 * per_layer


def test_recommendations_do_not_read_the_query_nor_searches_the_user(world):
    model, batch = world.model(), world.batch()
    search = batch.task == SEARCH
    moved = (scores(model, batch) - scores(model, replace(batch, query=batch.query % QUERIES + 1))).abs().amax(1)
    assert (moved[~search] == 0).all() and (moved[search] > 0).any()
    moved = (scores(model, batch) - scores(model, replace(batch, user=batch.user % USERS + 1))).abs().amax(1)
    assert (moved[search] == 0).all() and (moved[~search] > 0).all()


def test_the_first_loss_is_that_of_equal_scores(world):
    """And the tanh bounds it from below: at best +1 against four times -1."""
    model, batch = world.model(), world.batch()
    with torch.no_grad():
        model.out.weight.zero_()
    assert float(model.loss(batch).detach()) == pytest.approx(math.log(5), abs=1e-5)
    assert float(world.model().loss(batch).detach()) > math.log(1 + 4 * math.exp(-2))


def test_the_four_cosines_bound_the_score(world):
    model, batch = world.model(), world.batch()
    bound = float(model.out.weight.abs().sum() + model.out.bias.abs().sum())
    assert (scores(model, batch).abs() <= bound + 1e-5).all()


def shuffled_within_sessions(batch: Batch, gap: float) -> Batch:
    """Recommendation histories alone, with the items of each session in reverse order; the times stay."""
    past = batch.merged(batch.merged_task.shape[1])
    sessions = past.sessions(round(gap * 1000))
    items = past.items.clone()
    for row in range(len(batch)):
        for number in sessions[row][past.mask[row]].unique():
            at = ((sessions[row] == number) & past.mask[row]).nonzero().squeeze(1)
            items[row, at] = past.items[row, at.flip(0)]
    return replace(batch, rec_items=items[:, : batch.rec_items.shape[1]])


def of_clicks_alone(batch: Batch) -> Batch:
    rows = (batch.rec_len > 2) & (batch.search_len == 0)
    return batch.take(rows)


@pytest.mark.parametrize("positions", ["in the session", "from now", "zero", "none (released)"])
def test_order_within_a_session_counts_by_positions_alone(make_log, positions):
    """Rows have several past sessions, most of several acts, and no current one."""
    gap = 30_000.0  # the log has an act every seven hours or so
    log = make_log(n_users=USERS, n_items=ITEMS, length=16, n_queries=QUERIES, only=0)
    torch.manual_seed(0)
    released = positions == "none (released)"
    settings = SMALL | {"gap": gap, "released": released}
    model = USER(USER.Config(**settings), Context(Catalog(log), tasks=("rec",))).eval()
    if not released:
        with torch.no_grad():
            for table, name in zip(model.positions, ("in the session", "from now"), strict=True):
                table.mul_(name == positions)
    batch = of_clicks_alone(next(model.stream(TrainData(Batches(split(log)), ("rec",), 0)).batches(0, 1)))
    batch = replace(batch, time=batch.time + 10**12)  # the last session is over
    other = shuffled_within_sessions(batch, gap)
    shuffled = (batch.rec_items != other.rec_items).any(1)
    several = batch.merged(batch.merged_task.shape[1]).sessions(round(gap * 1000)).amax(1) > 0
    assert (shuffled & several).sum() > 10
    moved = (scores(model, batch) - scores(model, other)).abs().amax(1)
    if positions in ("in the session", "from now"):
        assert (moved[shuffled] > 1e-5).all()
    else:
        assert (moved < 1e-5).all()


def test_a_past_act_of_either_kind_moves_both_tasks(world):
    model, batch = world.model(), world.batch()
    both = batch.take((batch.rec_len > 1) & (batch.search_len > 1))
    before = scores(model, both)
    for other in (
        replace(both, rec_items=both.rec_items % ITEMS + 1),
        replace(both, search_query=both.search_query % QUERIES + 1),
        replace(both, search_items=torch.where(both.search_items > 0, both.search_items % ITEMS + 1, 0)),
    ):
        moved = (scores(model, other) - before).abs().amax(1)
        assert (moved[both.task == 0] > 0).all() and (moved[both.task == 1] > 0).all()


def test_a_row_is_the_same_alone_and_in_a_batch_but_not_in_the_official_code(world):
    batch = world.batch()
    rows = (batch.merged_len > 2).nonzero().squeeze(1)[:6]
    batch = replace(batch.take(rows), time=batch.time.take(rows) + 10**12)  # the last session is over
    for released in (False, True):
        model = world.model(released=released)
        alone = torch.cat([scores(model, batch.take(torch.tensor([row]))) for row in range(len(batch))])
        assert torch.allclose(scores(model, batch), alone, atol=1e-5) is not released


def test_candidates_meet_their_own_history_in_one_layer(world):
    """Each candidate in a pass of its own over [past sessions; candidate] gives the same state."""
    model = world.model()
    torch.manual_seed(1)
    encoded, asking = torch.randn(3, 5, 16), torch.randn(3, 4, 16)
    past = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    together = model._ask(asking, encoded, past)
    for candidate in range(4):
        sequence = torch.cat([encoded, asking[:, candidate : candidate + 1]], 1)
        seen = torch.cat([past, torch.ones(3, 1, dtype=torch.bool)], 1)
        torch.testing.assert_close(model.history(sequence, seen)[:, -1], together[:, candidate], atol=1e-5, rtol=1e-4)


def test_coattention_in_closed_form(world):
    coattention = world.model().coattention
    torch.manual_seed(2)
    q, d = torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    masks = torch.tensor([[True, True, False]]), torch.tensor([[True, True, True, False]])
    found = coattention(Words(q, masks[0]), Words(d, masks[1]))[0]
    affinity = torch.tanh(q[0, :2] @ coattention.weight @ d[0, :3].T)
    query, item = affinity.sum(1).softmax(0) @ q[0, :2], affinity.sum(0).softmax(0) @ d[0, :3]
    torch.testing.assert_close(found, coattention.linear(torch.cat([query, item])), atol=1e-5, rtol=1e-4)


def test_places_and_ages():
    sessions = torch.tensor([[0, 0, 1, 1, 1, 2]])
    assert _place_in_session(sessions).tolist() == [[0, 1, 0, 1, 2, 0]]
    assert _age(torch.tensor([[True, True, True, False]])).tolist() == [[3, 2, 1, 0]]


def test_sessions_are_apart(world):
    """In the layer within sessions an act of an earlier session does not reach the intent; by the history layer it does."""
    batch = world.batch()
    batch = batch.take((batch.rec_len > 2) & (batch.search_len == 0))
    narrow, wide = world.model(gap=1.0), world.model(gap=1e9)
    seen = {}
    for name, model in (("narrow", narrow), ("wide", wide)):
        inputs: list[Tensor] = []
        model.session.register_forward_hook(lambda module, args, output, kept=inputs: kept.append(args[1]))
        scores(model, batch)
        seen[name] = torch.cat([mask.flatten() for mask in inputs]).float().mean()
    assert seen["narrow"] < seen["wide"]
