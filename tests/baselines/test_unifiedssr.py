"""UnifiedSSR: what a state sees, its windows, its losses, its size, and the faults of the official code."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.unifiedssr.model import UnifiedSSR
from bench.baselines.unifiedssr.sessions import Sessions, session_regulariser
from bench.data.batch import Batch, Batches, SequenceBatch
from bench.data.catalog import Catalog
from bench.data.log import SEARCH
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS, USERS, QUERIES = 50, 20, 6
BOTH = ("rec", "search")


class World:
    """A small log of both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=USERS, n_items=ITEMS, length=20, n_queries=QUERIES)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))

    def model(self, tasks=BOTH, **settings) -> UnifiedSSR:
        torch.manual_seed(0)
        small = {"dropout": 0.0, "attention_dropout": 0.0, "history_rec": 8, "history_search": 8, "initial_std": 0.3}
        return UnifiedSSR(UnifiedSSR.Config(**small | settings), Context(self.catalog, tasks=tasks)).eval()

    def sequences(self, model: UnifiedSSR, tasks=BOTH) -> SequenceBatch:
        return next(iter(model.stream(TrainData(self.batches, tasks, 0)).batches(0, 1)))

    def rows(self, model: UnifiedSSR) -> Batch:
        rows = torch.cat([torch.as_tensor(self.batches.split.rows("test", task)) for task in BOTH]).numpy()
        return self.batches.rows(rows, torch.arange(1, ITEMS + 1).expand(len(rows), -1).numpy(), model.window)


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def run(model: UnifiedSSR, clicked: list[int], queries: list[int] | None = None) -> list[Tensor]:
    """States (T, d) of each branch for one row; place 0 has no product."""
    products = torch.tensor([[0, *clicked]])[..., None]
    asked = None if queries is None else torch.tensor([queries])
    mask = torch.ones(products.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        both = model.states(products, asked, torch.tensor([3]), mask)
    return [states[0] for states in both if states is not None]


def test_the_size_of_the_network(world):
    """As the official model with the same tables, but for its two rows of words (begin and end) that nothing reads."""
    model, d = world.model(), 32
    tables = (USERS + 1 + ITEMS + 1 + world.catalog.n_words + 1) * d
    layer = 2 * 4 * (d * d + d) + (4 * d * d + 3 * d) + 3 * 2 * d
    assert sum(p.numel() for p in model.parameters()) == tables + 2 * layer + 2 * d + (2 * d + 1) + 1


def test_the_first_loss(world):
    model = world.model(initial_std=1e-4)
    loss, parts = model.loss(world.sequences(model))
    for task in BOTH:
        assert float(parts[f"{task}/click"].detach()) == pytest.approx(5 * math.log(2), abs=0.05)
    expected = sum(parts[f"{t}/click"] + 0.1 * parts[f"{t}/session"] for t in BOTH)
    torch.testing.assert_close(loss, expected)
    without = world.model(session_weight=0.0)
    loss, parts = without.loss(world.sequences(without))
    torch.testing.assert_close(loss, parts["rec/click"] + parts["search/click"])


@pytest.mark.parametrize("queries", [None, [1, 2, 3, 4, 5]])
def test_later_acts_do_not_change_earlier_states_but_in_the_official_code(world, queries):
    for released in (False, True):
        model = world.model(released=released)
        other = None if queries is None else [*queries[:4], 6]
        pairs = zip(run(model, [3, 7, 9, 11], queries), run(model, [3, 7, 9, 30], other), strict=True)
        for one, two in pairs:
            assert ((one[:4] - two[:4]).abs().max() > 1e-4) == released
            assert (one[4] - two[4]).abs().max() > 1e-4


def test_no_label_is_seen_with_the_sessions(world):
    """The state that is trained to tell an act, sessions included, does not change with that act and later ones."""
    torch.manual_seed(1)
    states = torch.randn(2, 6, 32)
    place = torch.arange(6)[None]
    for hard in (False, True):
        sessions = Sessions(32, 2, 1.0, hard)
        torch.nn.init.normal_(sessions.offset.weight)
        later = states.clone()
        later[:, 4:] = torch.randn(2, 2, 32)
        one, two = sessions(states, place + 1, place)[0], sessions(later, place + 1, place)[0]
        torch.testing.assert_close(one[:, :4], two[:, :4], atol=0, rtol=0)


def test_training_and_scoring_see_the_same(world):
    """The loss of a sequence's last act is that of the score of the row with the same past."""
    model = world.model(session_weight=0.0)
    batch = world.sequences(model)
    recommended = batch.tasks[:, 0] != SEARCH
    row = int((recommended & (batch.length > 3)).nonzero()[0])
    n = int(batch.length[row])
    clicked = F.pad(batch.items[row, : n - 1], (1, 0))[None, :, None]
    states, _ = model.states(clicked, None, batch.user[row : row + 1], torch.ones(1, n, dtype=torch.bool))
    place = torch.arange(n)[None]
    in_training = model.sessions(states, place + 1, place)[0][0, -1]
    history = batch.items[row, : n - 1][None]
    empty = torch.zeros(1, 0, dtype=torch.long)
    alone = Batch(
        user=batch.user[row : row + 1],
        task=torch.zeros(1, dtype=torch.long),
        query=torch.zeros(1, dtype=torch.long),
        time=torch.zeros(1, dtype=torch.long),
        rec_items=F.pad(history, (0, 8 - n + 1), value=1),
        rec_times=torch.zeros(1, 8, dtype=torch.long),
        rec_len=torch.tensor([n - 1]),
        search_query=empty,
        search_items=empty[..., None],
        search_times=empty,
        search_len=torch.tensor([0]),
        merged_task=torch.zeros(1, 8, dtype=torch.long),
        merged_column=torch.arange(8)[None],
        cand=torch.arange(1, ITEMS + 1)[None],
    )
    expected = model.item(torch.arange(1, ITEMS + 1)) @ in_training
    torch.testing.assert_close(model.score(alone)[0], expected, atol=1e-4, rtol=1e-4)


def test_layers_are_stacked_but_in_the_official_code(world):
    for released in (False, True):
        one, two = world.model(layers=1, released=released), world.model(layers=2, released=released)
        model = world.model(layers=2, released=released)
        model.layers[0].load_state_dict(world.model(layers=2).layers[1].state_dict())
        same = torch.equal(run(model, [3, 7, 9])[0], run(two, [3, 7, 9])[0])
        assert same == released, "what the first layer does reaches the states"
        assert one.layers[0].own.weight.shape == two.layers[0].own.weight.shape


def test_every_parameter_trains_but_in_the_official_code(world):
    dead = {}
    for released in (False, True):
        model = world.model(released=released)
        model.loss(world.sequences(model))[0].backward()
        dead[released] = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not dead[False]
    assert {"sessions.offset.weight", "sessions.width"} <= dead[True]
    assert {name for name in dead[True] if name.startswith("layers.")} == {
        name for name, _ in world.model().named_parameters() if name.startswith("layers.0.")
    }


def test_windows_start_in_the_middle_of_their_parts():
    hard, soft = (Sessions(4, 2, 0.01, flag) for flag in (True, False))
    states = torch.randn(1, 18, 4)
    length = torch.tensor([[18]])
    inside = hard.windows(states, length)[0, 0]
    assert inside[0].nonzero().squeeze(1).tolist() == [3, 4, 5, 6]
    assert inside[1].nonzero().squeeze(1).tolist() == [12, 13, 14, 15]
    # Soft windows count a place by its middle.
    within = (soft.windows(states, length)[0, 0] > 0.5).nonzero().tolist()
    assert within == [[0, place] for place in range(2, 7)] + [[1, place] for place in range(11, 16)]


def test_the_regulariser_in_closed_form():
    torch.manual_seed(0)
    products, queries = torch.randn(3, 2, 4), torch.randn(3, 2, 4)

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    apart = [cos(each[:, 0], each[:, 1]).abs().mean() for each in (products, queries)]
    aligned = cos(products, queries).mean()
    torch.testing.assert_close(session_regulariser([products]), apart[0])
    torch.testing.assert_close(session_regulariser([products, queries]), sum(apart) - aligned)
    assert session_regulariser([products[:, :1]]) == 0


def test_the_share_of_products_stays_within_its_bounds(world):
    model = world.model()
    batch = world.sequences(model)
    for wanted, bound in ((5.0, 0.9), (-5.0, 0.1)):
        with torch.no_grad():
            model.product_share.fill_(wanted)
        model.loss(batch)
        assert float(model.product_share.detach()) == pytest.approx(bound)
    with torch.no_grad():
        model.product_share.fill_(5.0)
    rows = world.rows(model)
    beyond = model.score(rows)
    with torch.no_grad():
        model.product_share.fill_(0.9)
    torch.testing.assert_close(beyond, model.score(rows))


def test_queries_count_in_search_alone(world):
    model = world.model()
    rows = world.rows(model)
    before, search = model.score(rows), rows.task == SEARCH
    rows.query = torch.where(search, rows.query % QUERIES + 1, 2)
    moved = (model.score(rows) - before).abs().amax(1)
    assert (moved[~search] == 0).all() and (moved[search] > 0).all()
    rows.search_query = rows.search_query % QUERIES + 1
    moved = (model.score(rows) - before).abs().amax(1)
    assert (moved[~search] == 0).all()


def test_a_step_has_sequences_of_each_task(world):
    model = world.model(batch_size=7)
    stream = model.stream(TrainData(world.batches, BOTH, 0))
    batches = list(stream.batches(0, 2 * stream.steps_per_pass))
    for batch in batches:
        kinds = batch.tasks[batch.mask]
        assert set(kinds.tolist()) == {0, 1}
        searched = batch.tasks[:, 0] == SEARCH
        assert (batch.tasks == searched.long()[:, None])[batch.mask].all(), "a sequence is of one task"
    again = next(iter(stream.batches(3, 1)))
    torch.testing.assert_close(again.items, batches[3].items)
    alone = world.model(tasks=("search",), batch_size=7)
    batch = world.sequences(alone, ("search",))
    assert (batch.tasks[batch.mask] == SEARCH).all()
