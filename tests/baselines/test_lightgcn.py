"""LightGCN: the graph, the propagation, BPR, and that both ways of training find a planted structure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.baselines.lightgcn import LightGCN
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.evaluation.scoring import RowValidation
from bench.ranker.blocks.graph import adjacency, bpr, initial, propagate, train_table
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


def test_padding_rows_are_zero_and_a_cold_item_keeps_a_share_of_its_start():
    users, items = np.array([1, 2, 3, 4, 5]), np.array([1, 2, 3, 4, 4])
    start = initial(USERS, ITEMS, 4, torch.Generator().manual_seed(0))
    tables = train_table(users, items, USERS, ITEMS, 4, 2, 6, 0.01, 0.0, torch.Generator().manual_seed(0))
    assert {name: tuple(value.shape) for name, value in tables.items()} == {
        "user": (USERS + 1, 4), "item": (ITEMS + 1, 4), "user_ego": (USERS + 1, 4), "item_ego": (ITEMS + 1, 4),
    }  # fmt: skip
    assert all(not value[0].any() for value in tables.values())
    # Item 7 was never clicked: it has no neighbours, so two hops add nothing to it.
    torch.testing.assert_close(tables["item"][7], tables["item_ego"][7] / 3)
    assert not torch.equal(tables["item_ego"][1], start[USERS + 1 + 1])


def test_fresh_bpr_is_ln_2():
    ego = initial(200, 300, 64, torch.Generator().manual_seed(0))
    pick = torch.Generator().manual_seed(1)
    user, positive, negative = (torch.randint(1, 200, (500,), generator=pick) for _ in range(3))
    assert float(bpr(ego[user], ego[201 + positive], ego[201 + negative])) == pytest.approx(math.log(2), abs=0.02)


def test_bpr_closed_form():
    user, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 5.0]])
    negative = torch.tensor([[0.5, 1.0]])
    assert float(bpr(user, positive, negative)) == pytest.approx(math.log1p(math.exp(-1.5)))
    several = torch.stack([negative, positive], 1)
    assert float(bpr(user, positive, several)) == pytest.approx((math.log1p(math.exp(-1.5)) + math.log(2)) / 2)


def blocks(groups: int = 4, users: int = 15, items: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users click seven of the ten items of their group; returns users, items and each user's three left items."""
    rng = np.random.default_rng(0)
    left, right, held = [], [], []
    for user in range(groups * users):
        mine = rng.permutation(items) + (user % groups) * items + 1
        left += [user + 1] * 7
        right += mine[:7].tolist()
        held.append(mine[7:])
    return np.array(left), np.array(right), np.array(held)


def test_the_table_learns_a_planted_block_structure():
    users, items, held = blocks()
    tables = train_table(users, items, 60, 40, 16, 2, 120, 0.02, 1e-4, torch.Generator().manual_seed(0), 128)
    scores = (tables["user"][1:] @ tables["item"][1:].T).numpy()
    rows = np.arange(60)
    own = scores[rows[:, None], held - 1].mean(1)
    foreign = np.stack([np.delete(scores[u], np.arange(10) + (u % 4) * 10) for u in rows])
    # An untrained table has the clicked item above a foreign one half the time.
    assert (own[:, None] > foreign).mean() > 0.97
    again = train_table(users, items, 60, 40, 16, 2, 2, 0.02, 1e-4, torch.Generator().manual_seed(0), 128)
    twice = train_table(users, items, 60, 40, 16, 2, 2, 0.02, 1e-4, torch.Generator().manual_seed(0), 128)
    assert all(torch.equal(again[name], twice[name]) for name in again)


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
    final = propagate(model._graph, model.ego.detach(), 3)
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
    assert model._graph.values().numel() == 2 * pairs
    held = batches.split.rows("test", "rec")
    events = batches.split.log.events
    plain = model._graph.to_dense()
    assert not plain[events.user[held], 21 + events.item[held]].any()


def test_first_loss_is_ln_2(fitted):
    model, batches, context = fitted
    fresh = LightGCN(model.config, context)
    train = TrainData(batches, ("rec",), 3)
    fresh.precompute(train)
    _, parts = fresh.loss(next(fresh.batches(train, 0, 1)))
    assert float(parts["bpr"].detach()) == pytest.approx(math.log(2), abs=0.03)
