"""LightGCN: the graph, the propagation, BPR, and that both ways of training find a planted structure."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.baselines.lightgcn import LightGCN
from bench.data.batch import Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.scoring import RowValidation
from bench.ranker.blocks.graph import GraphTable, TableConfig, adjacency, click_table, initial, propagate
from bench.ranker.blocks.losses import bpr
from bench.ranker.context import InMemory, Silent
from bench.ranker.contract import Context

USERS, ITEMS = 5, 7


def edges(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 25)
    return rng.integers(1, USERS + 1, count), rng.integers(1, ITEMS + 1, count)


def dense(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The normalised adjacency, written out entry by entry."""
    size = USERS + ITEMS + 2
    plain = np.zeros((size, size))
    for user, item in zip(users, items, strict=True):
        plain[user, USERS + 1 + item] = plain[USERS + 1 + item, user] = 1
    degree = plain.sum(1)
    return np.array(
        [
            [plain[i, j] / math.sqrt(degree[i] * degree[j]) if plain[i, j] else 0 for j in range(size)]
            for i in range(size)
        ]
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_adjacency_is_the_symmetric_bipartite_graph(seed):
    users, items = edges(seed)
    matrix = adjacency(users, items, USERS, ITEMS).to_dense().numpy()
    np.testing.assert_allclose(matrix, dense(users, items), atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)
    cut = USERS + 1
    assert not matrix[:cut, :cut].any() and not matrix[cut:, cut:].any()
    assert not matrix[0].any() and not matrix[cut].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_propagation_is_the_mean_of_matrix_powers(seed, layers):
    users, items = edges(seed)
    reference = dense(users, items)
    expected = sum(np.linalg.matrix_power(reference, power) for power in range(layers + 1)) / (layers + 1)
    one_hot = torch.eye(len(reference))
    found = propagate(adjacency(users, items, USERS, ITEMS), one_hot, layers)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_gradient_of_propagation_is_that_of_the_dense_product():
    users, items = edges(3)
    matrix = adjacency(users, items, USERS, ITEMS)
    ego = torch.randn(USERS + ITEMS + 2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(ego.shape, generator=torch.Generator().manual_seed(1))
    (propagate(matrix, ego, 2) * weight).sum().backward()
    plain = matrix.to_dense()
    power = (torch.eye(len(plain)) + plain + plain @ plain) / 3
    torch.testing.assert_close(ego.grad, power.T @ weight)


def clicked(users: np.ndarray, items: np.ndarray, n_items: int) -> tuple[Context, TrainData]:
    """A log of recommendation clicks in this order; the last two of each user are held out."""
    time = np.arange(len(users))
    events = pd.DataFrame({"act": time, "user": users.astype(str), "item": items.astype(str), "time": time})
    known = pd.DataFrame({"id": [str(item) for item in range(1, n_items + 1)]}).assign(text="")
    queries = pd.DataFrame({"id": ["q"], "text": ["q"]})
    log = build("clicks", "disjoint", events.assign(task=0, query=""), known, queries, seed=0)
    return Context(Catalog(log), seed=3), TrainData(Batches(split(log)), ("rec", "search"), 3)


def blocks(groups: int = 4, users: int = 60, size: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Users click nine of the ten items of their group: (users, 9) items."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(size)[:9] + (user % groups) * size + 1 for user in range(users)])


@pytest.fixture(scope="module")
def planted() -> tuple[Context, TrainData]:
    items = blocks()
    items[0, -1] = 41  # clicked once, after the training
    return clicked(np.repeat(np.arange(60), 9), items.ravel(), 41)


SMALL = TableConfig(dim=16, epochs=2, lr=0.02, batch_size=128)


def test_padding_rows_are_zero_and_a_cold_item_keeps_a_share_of_its_start(planted):
    context, train = planted
    tables = click_table(context, train, SMALL)
    assert {name: tuple(value.shape) for name, value in tables.items()} == {
        "user": (61, 16), "item": (42, 16), "user_ego": (61, 16), "item_ego": (42, 16),
    }  # fmt: skip
    assert all(not value[0].any() for value in tables.values())
    # An item that was never clicked has no neighbours, so two hops add nothing to it.
    (cold,) = np.setdiff1d(np.arange(1, 42), train.arrays("rec")["item"])
    torch.testing.assert_close(tables["item"][cold], tables["item_ego"][cold] / 3)
    start = initial(60, 41, 16, context.generator("lightgcn"))
    assert not torch.equal(tables["item_ego"][1], start[61 + 1])


def test_the_table_learns_a_planted_block_structure(planted):
    context, train = planted
    tables = click_table(context, train, TableConfig(dim=16, epochs=120, lr=0.02, batch_size=128))
    scores = (tables["user"][1:] @ tables["item"][1:].T).numpy()
    log = train._batches.split.log
    item_group = (log.items.id[1:].astype(int) - 1) // 10
    user_group = log.users.id[1:].astype(int) % 4
    seen = np.zeros((61, 42), dtype=bool)
    clicks = train.arrays("rec")
    seen[clicks["user"], clicks["item"]] = True
    wins = []
    for user in range(60):
        inside = item_group == user_group[user]
        foreign = scores[user][~inside]
        wins += [(scores[user][item] > foreign).mean() for item in np.flatnonzero(inside & ~seen[user + 1, 1:])]
    assert len(wins) == 60 * 3
    # An untrained table has an unseen item of the group above a foreign one half the time.
    assert np.mean(wins) > 0.97


def test_the_table_is_the_same_bytes_again_and_others_with_another_seed(planted):
    context, train = planted
    first, again = (click_table(Context(context.catalog, seed=3), train, SMALL) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = click_table(Context(context.catalog, seed=4), train, SMALL)
    assert not torch.equal(first["item"], other["item"])


def test_the_table_never_trains_on_a_seen_item_as_a_negative(planted, monkeypatch):
    context, train = Context(planted[0].catalog, seed=3), planted[1]
    loss, batches = GraphTable.loss, []
    monkeypatch.setattr(GraphTable, "loss", lambda self, batch: batches.append(batch) or loss(self, batch))
    click_table(context, train, SMALL)
    pairs = {(int(u), int(i)) for u, i in zip(*(train.arrays()[name] for name in ("user", "item")), strict=True)}
    drawn = [(int(u), int(i)) for b in batches for u, row in zip(b.user, b.negatives, strict=True) for i in row]
    assert len(drawn) == 2 * len(train.arrays("rec")["user"]) and not pairs & set(drawn)


def test_an_interrupted_table_resumes_to_the_same_bytes(planted):
    context, train = planted
    expected = click_table(context, train, SMALL)
    store, steps = InMemory(), []

    def listen(self, epoch, *rest):
        steps.append(epoch)
        if len(steps) == 7:
            raise KeyboardInterrupt

    one = Context(context.catalog, seed=3, checkpoints=store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Silent, "step", listen)
        with pytest.raises(KeyboardInterrupt):
            click_table(one, train, SMALL)
        resumed = click_table(one, train, SMALL)
    assert steps[:7] == [1, 1, 1, 1, 2, 2, 2] and steps[7:] == [2, 2, 2, 2], "the first epoch is not repeated"
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert "stages" not in store.load(), "it is no checkpoint of the fit"


def test_fresh_bpr_is_ln_2():
    ego = initial(200, 300, 64, torch.Generator().manual_seed(0))
    pick = torch.Generator().manual_seed(1)
    user, positive, negative = (torch.randint(1, 200, (500,), generator=pick) for _ in range(3))
    wanted, other = ((ego[user] * ego[201 + item]).sum(-1) for item in (positive, negative))
    assert float(bpr(wanted, other[:, None])) == pytest.approx(math.log(2), abs=0.02)


@pytest.fixture(scope="module")
def fitted(make_log):
    log = make_log(n_users=20, n_items=150, length=20)
    batches = Batches(split(log))
    context = Context(Catalog(log), seed=3, tasks=("rec",))
    model = LightGCN(LightGCN.Config(epochs=3, lr=0.01, batch_size=64, dim=8), context)
    model.fit(TrainData(batches, ("rec",), 3), RowValidation(batches, ("rec",), model.window))
    return model, batches, context


def test_scores_are_inner_products_of_propagated_rows_and_survive_saving(fitted):
    model, batches, context = fitted
    rows = batches.split.rows("test", "rec")[:6]
    batch = batches.rows(rows, np.tile(np.arange(1, 9), (6, 1)), model.window)
    final = propagate(model.table._graph, model.table.ego.detach(), 3)
    users, items = final[: 20 + 1], final[20 + 1 :]
    torch.testing.assert_close(model.score(batch), torch.einsum("bd,bkd->bk", users[batch.user], items[batch.cand]))
    fresh = LightGCN(model.config, context)
    fresh.load_state(model.state())
    fresh.eval()
    assert torch.equal(fresh.score(batch), model.score(batch))


def test_search_clicks_are_no_edges(fitted):
    model, batches, _ = fitted
    clicks = TrainData(batches, ("rec",), 3).arrays("rec")
    pairs = len(np.unique(np.stack([clicks["user"], clicks["item"]]), axis=1).T)
    assert model.table._graph.values().numel() == 2 * pairs
    held = batches.split.rows("test", "rec")
    events = batches.split.log.events
    plain = model.table._graph.to_dense()
    assert not plain[events.user[held], 21 + events.item[held]].any()


def test_first_loss_is_ln_2(fitted):
    model, batches, context = fitted
    fresh = LightGCN(model.config, context)
    train = TrainData(batches, ("rec",), 3)
    fresh.precompute(train)
    _, parts = fresh.loss(next(fresh.stream(train).batches(0, 1)))
    assert float(parts["bpr"].detach()) == pytest.approx(math.log(2), abs=0.03)
