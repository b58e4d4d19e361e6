"""JSR: its size, its two towers, what the tasks share and what they do not."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.baselines.jsr import JSR
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.log import REC, SEARCH
from bench.data.ragged import Ragged
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import NothingToReadError
from bench.ranker.contract import Context

ITEMS, USERS = 50, 20


class World:
    """A small log of both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=USERS, n_items=ITEMS, length=16, n_queries=6)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))

    def model(self, tasks=("rec", "search"), **settings) -> JSR:
        torch.manual_seed(0)
        return JSR(JSR.Config(**{"dropout": 0.0} | settings), Context(self.catalog, tasks=tasks)).eval()

    def batch(self, model: JSR) -> Batch:
        data = TrainData(self.batches, model.context.tasks, 0)
        return next(model.stream(data).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


@pytest.fixture
def model(world) -> JSR:
    return world.model()


@pytest.fixture
def batch(world, model) -> Batch:
    return world.batch(model)


@pytest.mark.parametrize("item", ["text", "id", "both"])
def test_the_size_is_that_of_the_shared_tables_and_two_networks(world, item):
    model, d, hidden = world.model(item=item), 64, 64
    rows = (USERS + 1) + (world.catalog.n_words + 1) + (0 if item == "text" else ITEMS + 1)
    importance = world.catalog.n_words + 1
    network = (d + 1) * hidden + (hidden + 1) * hidden + (hidden + 1)
    assert sum(p.numel() for p in model.parameters()) == rows * d + importance + 2 * network


def by_hand(model: JSR, batch: Batch, row: int) -> list[float]:
    """Scores of one row's candidates, word by word."""

    def text(words: torch.Tensor) -> torch.Tensor:
        real = words[words > 0]
        weights = torch.softmax(model.importance.importance.weight[real, 0], 0)
        return sum(w * model.words.weight[word] for w, word in zip(weights, real, strict=True))

    search, user = bool(batch.task[row] == SEARCH), model.users.weight[batch.user[row]]
    left = text(model.query_words[batch.query[row]]) if search else user
    tower, scores = model.towers[batch.task[row]], []
    for item in batch.cand[row]:
        by_id = model.items.weight[item] if model.config.item != "text" else 0
        product = left * (by_id + text(model.item_words[item]) if model.config.item != "id" else by_id)
        for layer in tower:
            product = layer(product)
        scores.append(float(product))
    return scores


@pytest.mark.parametrize("item", ["text", "id", "both"])
@torch.no_grad()
def test_scores_are_those_of_the_formulas(world, batch, item):
    model = world.model(item=item)
    torch.nn.init.normal_(model.importance.importance.weight)
    scores = model.score(batch)
    for row in range(40):
        assert scores[row].tolist() == pytest.approx(by_hand(model, batch, row), abs=1e-5)


def test_search_is_not_personal_and_recommendation_knows_no_query(model, batch):
    usual, search = model.score(batch), batch.task == SEARCH
    other_user = model.score(replace(batch, user=batch.user % USERS + 1))
    other_query = model.score(replace(batch, query=torch.where(search, batch.query % 6 + 1, 3)))
    torch.testing.assert_close(other_user[search], usual[search], rtol=0, atol=0)
    torch.testing.assert_close(other_query[~search], usual[~search], rtol=0, atol=0)
    assert ((other_user - usual).abs().amax(1) > 0)[~search].all()
    assert ((other_query - usual).abs().amax(1) > 0)[search].all()


def test_a_step_on_searches_alone_moves_the_items_that_are_recommended(world, model, batch):
    rec = batch.take(batch.task == REC)
    before = model.score(rec)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(batch.take(batch.task == SEARCH))[0].backward()
    assert model.users.weight.grad is None or not model.users.weight.grad.any()
    assert not any(p.grad is not None and p.grad.any() for p in model.towers[REC].parameters())
    optimizer.step()
    assert ((model.score(rec) - before).abs().amax(1) > 0).all()


def test_without_weight_the_search_loss_is_absent(world):
    model = world.model(search_weight=0.0)
    batch = world.batch(model)
    loss, _ = model.loss(batch)
    torch.testing.assert_close(loss, model.loss(batch.take(batch.task == REC))[0])
    loss.backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.towers[SEARCH].parameters())


@pytest.mark.parametrize("kind", ["BPR", "BCE"])
def test_the_loss_is_the_sum_of_both_tasks(world, kind):
    model = world.model(loss_type=kind, search_weight=0.5)
    batch = world.batch(model)
    scores, expected = model.score(batch), {}
    for code, task in ((REC, "rec"), (SEARCH, "search")):
        of_task, label = scores[batch.task == code], batch.label[batch.task == code]
        if kind == "BCE":
            expected[task] = F.binary_cross_entropy_with_logits(of_task, label)
        else:
            pairs = [F.logsigmoid(s[y == 1] - s[y == 0]) for s, y in zip(of_task, label, strict=True)]
            expected[task] = -torch.stack(pairs).mean()
    loss, parts = model.loss(batch)
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(loss, expected["rec"] + 0.5 * expected["search"])


def test_the_first_loss_is_that_of_a_guess(model, batch):
    _, parts = model.loss(batch)
    assert {task: float(value.detach()) for task, value in parts.items()} == pytest.approx(
        {"rec": math.log(2), "search": math.log(2)}, abs=0.05
    )


def test_one_task_alone_bears_no_weight(world):
    model = world.model(tasks=("search",), search_weight=0.1)
    loss, parts = model.loss(world.batch(model))
    assert set(parts) == {"search"}
    torch.testing.assert_close(loss, parts["search"])


def test_what_cannot_be_read_is_said():
    nothing = Ragged(np.zeros(22, dtype=np.int64), np.zeros(0, dtype=np.int32))
    words = {"item_words": torch.zeros(21, 1, dtype=torch.long), "query_words": torch.zeros(7, 1, dtype=torch.long)}
    sizes = {"n_users": 4, "n_items": 20, "n_queries": 6, "n_words": 0}
    catalog = SimpleNamespace(name="mute", item_word_lists=nothing, query_word_lists=nothing, **words, **sizes)
    with pytest.raises(NothingToReadError, match="the queries of mute have no words"):
        JSR(JSR.Config(item="id"), Context(catalog))
    with pytest.raises(NothingToReadError, match=r"the items of mute have no words; set jsr.item to id"):
        JSR(JSR.Config(), Context(catalog, tasks=("rec",)))
    JSR(JSR.Config(item="id"), Context(catalog, tasks=("rec",)))
