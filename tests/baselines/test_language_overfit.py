"""The recommender of IDGenRec learns two hundred clicks by heart."""

from dataclasses import replace

import pytest
import torch

from bench.baselines.idgenrec.model import IDGenRec
from bench.data.batch import Batch

from .language_world import World, scores


def hit_rate(model, rows: Batch) -> float:
    """HR@1 of the clicked items among 20 others, which may be other clicks of the same user."""
    generator = torch.Generator().manual_seed(0)
    n_items = model.catalog.n_items
    steps = torch.rand(len(rows), n_items - 1, generator=generator).argsort(1)[:, :20] + 1
    cand = torch.cat([rows.item[:, None], (rows.item[:, None] - 1 + steps) % n_items + 1], 1)
    found = scores(model, replace(rows, cand=cand, item=None, negatives=None, label=None))
    return float((found[:, :1] > found[:, 1:]).all(1).float().mean())


@pytest.mark.slow
def test_the_recommender_of_idgenrec_learns_two_hundred_events_by_heart(make_log):
    # Of twelve clicks of each of 20 users the last two are held out.
    world = World(make_log(n_users=20, n_items=200, length=12, only=0))
    model = world.model(IDGenRec, batch_size=50, history_rec=3)
    train = world.train(model)
    model.precompute(train)
    rows = next(train.events(1000, negatives=0, window=model.window).batches(0, 1))
    assert len(rows) == 200 and hit_rate(model, rows) < 0.3
    optimizer = torch.optim.Adam(model.recommender.parameters(), 3e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 500)
    for batch in model.stream(train).batches(0, 500):
        optimizer.zero_grad()
        model.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.recommender.parameters(), 1.0)
        optimizer.step()
        slower.step()
    # Who reads the user's name alone, and no history, gets to about .6.
    assert hit_rate(model, rows) > 0.9
