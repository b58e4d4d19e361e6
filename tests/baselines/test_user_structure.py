"""USER: both layers above the texts by hand, which act is of the current session, the mixture of the official code."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.user import USER
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS, USERS, QUERIES = 60, 24, 8
BOTH = ("rec", "search")
SMALL = {"d": 16, "heads": 2, "hidden": 32, "dropout": 0.0}


class World:
    """A small log whose users have both behaviours, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=USERS, n_items=ITEMS, length=16, n_queries=QUERIES)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))

    def model(self, **settings) -> USER:
        torch.manual_seed(0)
        return USER(USER.Config(**SMALL | settings), Context(self.catalog, tasks=BOTH)).eval()

    def batch(self, rows: int = 64) -> Batch:
        model = self.model(batch_size=rows)
        return next(model.stream(TrainData(self.batches, BOTH, 0)).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def represented(model: USER, batch: Batch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = model.represent(batch)
    return found.input, found.hidden


def cosines(intents: list[Tensor], sides: list[Tensor]) -> Tensor:
    return torch.stack([F.cosine_similarity(intent, side, dim=-1) for intent in intents for side in sides], -1)


@pytest.mark.parametrize("released", [False, True])
def test_intents_and_candidates_by_hand(world, released):
    """Two past sessions of two acts and three, a current one of two acts, a padding slot; each sequence on its own."""
    model = world.model(released=released)
    torch.manual_seed(1)
    acts, now, candidates = torch.randn(1, 8, 16), torch.randn(1, 16), torch.randn(1, 3, 16)
    sessions = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 0]])
    mask, current = torch.arange(8)[None] < 7, sessions == 2
    place, age = torch.zeros(3, 16), torch.zeros(8, 16)
    if model.positions is not None:
        torch.nn.init.normal_(model.positions)
        place, age = model.positions.detach()[0, :3], model.positions.detach()[1, :8]

    def alone(*vectors: Tensor) -> Tensor:
        sequence = torch.cat(vectors)[None]
        return model.session(sequence, torch.ones(sequence.shape[:2], dtype=torch.bool))[0]

    def in_history(past: Tensor, asking: Tensor) -> Tensor:
        sequence = torch.cat([past + age[3:].flip(0), (asking + age[0])[None]])[None]  # the last act but two is 3 old
        return model.history(sequence, torch.ones(sequence.shape[:2], dtype=torch.bool))[0, -1]

    with torch.no_grad():
        vectors, found = model._match(acts, mask, sessions, current, now, candidates)
        past = torch.cat([alone(acts[0, :2] + place[:2]), alone(acts[0, 2:5] + place)])
        intent = alone(alone(now + place[2], acts[0, 5:7] + place[:2]))[0]
        both = [intent, in_history(past, intent)]
        sides = [candidates[0], torch.stack([in_history(past, each) for each in candidates[0]])]
    torch.testing.assert_close(found[0], cosines(both, sides), atol=1e-5, rtol=1e-4)
    compared = torch.cat([F.normalize(each, dim=-1).expand(3, -1) for each in (*both, *sides)], -1)
    torch.testing.assert_close(vectors[0], compared, atol=1e-5, rtol=1e-4)


def test_a_pause_longer_than_the_gap_ends_the_current_session(world, monkeypatch):
    """The acts of the current session are those of the last one, or none a millisecond later."""
    gap = 30_000.0
    model, batch = world.model(gap=gap), world.batch()
    batch = batch.take(batch.merged_len > 3)
    past = batch.merged(batch.merged_task.shape[1])
    sessions, last = past.sessions(round(gap * 1000)), past.length - 1
    of_last = past.mask & (sessions == sessions.gather(1, last[:, None]))
    assert (of_last.sum(1) > 1).any() and (of_last.sum(1) < past.length).any()
    sizes: list[int] = []
    match = model._match

    def spy(acts: Tensor, mask: Tensor, sessions: Tensor, current: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        sizes.extend(current.sum(1).tolist())
        return match(acts, mask, sessions, current, *others)

    monkeypatch.setattr(model, "_match", spy)
    for late, expected in ((0, of_last.sum(1)), (1, torch.zeros_like(last))):
        sizes.clear()
        time = past.times.gather(1, last[:, None]).squeeze(1) + round(gap * 1000) + late
        represented(model, replace(batch, time=time))
        assert sorted(sizes) == sorted(expected.tolist())


def test_the_official_code_gives_a_candidate_the_history_of_row_i_modulo_the_batch(world):
    """Candidate number i of the whole batch, more rows than a part has; each history alone with what meets it."""
    model, batch = world.model(released=True), world.batch(rows=150)
    rows, n = batch.cand.shape
    assert rows == 150 and n == 5 and len(batch.merged_len.unique()) > 8
    intents, sides = [], []
    for row in range(rows):
        own = batch.take(torch.tensor([row]))
        met = batch.cand.flatten()[torch.arange(n) * rows + row]
        vectors = represented(model, replace(own, cand=met[None]))[0][0].view(n, 4, 16)
        intents.append(vectors[0, :2])  # (2, d)
        sides.append(vectors[:, 2:])  # (n, 2, d)
    side = torch.stack(sides, 1).flatten(0, 1).view(rows, n, 2, 16)  # candidate i at place i
    by_hand = torch.einsum("bid,bkcd->bkic", torch.stack(intents), side).flatten(2)
    torch.testing.assert_close(represented(model, batch)[1], by_hand, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("released", [False, True])
def test_each_candidate_has_four_cosines(world, released):
    model, batch = world.model(released=released), world.batch()
    found = represented(model, batch)[1]
    assert found.shape == (*batch.cand.shape, 4)
    assert (found.abs() <= 1 + 1e-5).all()


@pytest.mark.parametrize("released", [False, True])
def test_the_order_of_words_counts_but_in_the_official_code(world, released):
    """The words of every item in reverse order, behind the item's own token."""
    model, batch = world.model(released=released), world.batch()
    items = slice(1, model.text.n_items)
    assert (model.text.tokens[items] > 0).all() and model.text.tokens.shape[1] == 4, "a token and three words"
    with torch.no_grad():
        before = model.score(batch)
        model.text.tokens[items, 1:] = model.text.tokens[items, 1:].flip(1)
        moved = (model.score(batch) - before).abs()
    assert (moved < 1e-5).all() if released else (moved.amax(1) > 1e-4).all()
