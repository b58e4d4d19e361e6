"""The recommenders of IDGenRec and CoLLM learn two hundred clicks by heart."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR

from bench.baselines.collm import CoLLM
from bench.baselines.idgenrec.model import IDGenRec
from bench.data.batch import Batch
from bench.data.training import TrainData

from .language_world import World, scores


@pytest.fixture(scope="module")
def world(make_log) -> World:
    # Of twelve clicks of each of 20 users the last two are held out.
    return World(make_log(n_users=20, n_items=200, length=12, only=0))


def hit_rate(model, rows: Batch, others: Tensor) -> float:
    """HR@1 of the clicked items among (B, 20) others."""
    cand = torch.cat([rows.item[:, None], others], 1)
    found = scores(model, replace(rows, cand=cand, item=None, negatives=None, label=None))
    return float((found[:, :1] > found[:, 1:]).all(1).float().mean())


def learn(loss, parameters: list, stream, rate: float, steps: int) -> None:
    optimizer = Adam(parameters, rate)
    schedule = LinearLR(optimizer, 1.0, 0.02, steps)
    for batch in stream.batches(0, steps):
        optimizer.zero_grad()
        loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


@pytest.mark.slow
def test_the_recommender_of_idgenrec_learns_two_hundred_events_by_heart(world):
    model = world.model(IDGenRec, batch_size=50, history_rec=3)
    train = world.train(model)
    model.precompute(train)
    rows = next(train.events(1000, negatives=0, window=model.window).batches(0, 1))
    # The others may be other clicks of the same user.
    generator = torch.Generator().manual_seed(0)
    n_items = model.catalog.n_items
    steps = torch.rand(len(rows), n_items - 1, generator=generator).argsort(1)[:, :20] + 1
    others = (rows.item[:, None] - 1 + steps) % n_items + 1
    assert len(rows) == 200 and hit_rate(model, rows, others) < 0.3
    learn(model.loss, list(model.recommender.parameters()), model.stream(train), 3e-3, 500)
    # Who reads the user's name alone, and no history, gets to about .6.
    assert hit_rate(model, rows, others) > 0.9


@pytest.mark.slow
def test_collm_learns_two_hundred_events_by_heart_and_knows_them_still_when_its_slots_are_filled(world):
    model = world.model(CoLLM, batch_size=50, history_rec=3, negatives=10, cf_dim=16, expansion=4)
    train = world.train(model)
    model.precompute(train)
    # Its loss never sees a click of the user as a negative, so that nothing ranks one click of his above another.
    lists = TrainData(world.batches, model.context.tasks, seed=1).events(1000, negatives=20, window=model.window)
    rows = next(lists.batches(0, 1))
    language, _, fit = model.stages(train)
    language.start()
    assert len(rows) == 200 and hit_rate(model, rows, rows.negatives) < 0.3
    learn(language.loss, language.parameters()[0]["params"], language.stream(train), 1e-3, 400)
    assert hit_rate(model, rows, rows.negatives) > 0.9
    # What its random mapping puts into the slots disturbs the words, until it has learnt not to; the words rest.
    fit.start()
    assert hit_rate(model, rows, rows.negatives) < 0.7
    learn(fit.loss, fit.parameters()[0]["params"], fit.stream(train), 1e-3, 100)
    assert hit_rate(model, rows, rows.negatives) > 0.9
    # The words remember and not the slots: without titles of the past nothing is left.
    assert hit_rate(model, replace(rows, rec_len=torch.zeros_like(rows.rec_len)), rows.negatives) < 0.3
