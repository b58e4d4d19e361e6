"""BERT4Rec: what is hidden and learnt, that the whole history counts, and its losses."""

import math
from dataclasses import replace

import pytest
import torch

from bench.baselines.bert4rec import BERT4Rec
from bench.data.batch import Batch, Batches, SequenceBatch
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS = 50


class World:
    """A small log of recommendation clicks, and models on it."""

    def __init__(self, make_log):
        log = make_log(n_users=20, n_items=ITEMS, length=20, only=0)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))
        self.train = TrainData(self.batches, ("rec",), 0)

    def model(self, **settings) -> BERT4Rec:
        torch.manual_seed(0)
        small = {"dropout": 0.0, "attention_dropout": 0.0, "batch_size": 64, "history_rec": 8}
        return BERT4Rec(BERT4Rec.Config(**small | settings), Context(self.catalog, tasks=("rec",)))

    def sequences(self, model: BERT4Rec) -> SequenceBatch:
        return next(model.stream(self.train).batches(0, 1))

    def rows(self, model: BERT4Rec, part: str = "test") -> Batch:
        rows = self.batches.split.rows(part, "rec")
        cand = torch.arange(1, ITEMS + 1).expand(len(rows), -1).numpy()
        return self.batches.rows(rows, cand, model.window)


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def test_the_published_size(world):
    model = world.model(history_rec=49)
    d, n = 64, ITEMS
    layer = (4 * d * d + 4 * d) + (d * 4 * d + 4 * d + 4 * d * d + d) + 2 * 2 * d
    head = d * d + d + 2 * d
    assert sum(p.numel() for p in model.parameters()) == (n + 2) * d + 50 * d + 2 * d + 2 * layer + head + n + 1


def test_the_first_cross_entropy_is_ln_of_the_items(world):
    model = world.model()
    assert float(model.loss(world.sequences(model)).detach()) == pytest.approx(math.log(ITEMS), abs=0.05)


@pytest.mark.parametrize(
    ("loss_type", "value"), [("BCE", math.log(2)), ("BPR", math.log(2)), ("sampled-CE", math.log(6))]
)
def test_the_first_sampled_losses(world, loss_type, value):
    model = world.model(loss_type=loss_type, negatives=5)
    batch = world.sequences(model)
    assert batch.negatives is not None and batch.negatives.shape[-1] == 5
    assert float(model.loss(batch).detach()) == pytest.approx(value, abs=0.05)


def test_cross_entropy_draws_no_negatives(world):
    assert world.sequences(world.model()).negatives is None


def test_every_item_of_a_full_history_changes_the_scores_the_first_one_too(world):
    model = world.model(initial_std=0.2).eval()
    batch = world.rows(model)
    batch = batch.take(batch.rec_len == 8)
    assert len(batch) > 5
    before = model.score(batch)
    for column in range(8):
        items = batch.rec_items.clone()
        items[:, column] = items[:, column] % ITEMS + 1
        assert (model.score(replace(batch, rec_items=items)) - before).abs().amax(1).min() > 1e-4, column


def test_a_history_of_one_click_counts(world):
    model = world.model(initial_std=0.2).eval()
    batch = world.rows(model, "train")
    batch = batch.take(batch.rec_len == 1)
    other = replace(batch, rec_items=batch.rec_items % ITEMS + 1)
    assert (model.score(other) - model.score(batch)).abs().amax(1).min() > 1e-4


def test_order_counts(world):
    model = world.model(initial_std=0.2).eval()
    batch = world.rows(model)
    swapped = batch.rec_items.clone()
    swapped[:, [2, 3]] = swapped[:, [3, 2]]
    assert (model.score(replace(batch, rec_items=swapped)) - model.score(batch)).abs().amax(1).min() > 1e-4


def test_the_mask_is_no_item(world):
    model = world.model()
    assert model.item_vectors().shape == (ITEMS + 1, 65)
    assert model.items.weight.shape[0] == ITEMS + 2 and model.mask_id == ITEMS + 1


def test_scores_are_the_products_plus_the_bias_at_a_mask_behind_the_history(world):
    model = world.model().eval()
    torch.nn.init.normal_(model.item_bias)
    batch = world.rows(model, "train")
    for row in range(0, len(batch), 97):
        length = int(batch.rec_len[row])
        ids = torch.cat([batch.rec_items[row, :length], torch.tensor([model.mask_id])])[None]
        state = model.head(model.states(ids, torch.ones_like(ids, dtype=torch.bool))[:, -1])
        expected = state @ model.items.weight[1 : ITEMS + 1].T + model.item_bias[1:]
        torch.testing.assert_close(model.score(batch)[row], expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_number_of_hidden_clicks_is_their_share_and_never_none(world, share):
    model = world.model(mask_share=share, last_only=0.0)
    mask = torch.arange(20) < torch.arange(1, 21)[:, None]  # lengths 1 to 20
    hidden = model.hidden(mask)
    assert not (hidden & ~mask).any(), "padding is never hidden"
    expected = (share * mask.sum(1)).round().clamp(min=1)
    assert torch.equal(hidden.sum(1), expected.long())


def test_every_position_is_hidden_at_times_the_first_and_the_last_too(world):
    model = world.model(mask_share=0.2, last_only=0.0)
    mask = torch.ones(2000, 10, dtype=torch.bool)
    share = model.hidden(mask).float().mean(0)
    assert (share - 0.2).abs().max() < 5 * (0.16 / 2000) ** 0.5
    assert not torch.equal(model.hidden(mask), model.hidden(mask)), "masks are drawn anew"


def test_a_share_of_the_sequences_hides_the_last_click_alone(world):
    model = world.model(mask_share=0.6, last_only=0.3)
    mask = torch.arange(10) < torch.tensor([4, 10]).repeat(2000)[:, None]
    hidden = model.hidden(mask)
    alone = hidden.sum(1) == 1
    assert abs(float(alone.float().mean()) - 0.3) < 5 * (0.21 / 4000) ** 0.5
    assert torch.equal(hidden[alone].long().argmax(1), mask[alone].sum(1) - 1)


def test_the_loss_reads_hidden_clicks_as_labels_only(world):
    """With all clicks hidden the states know nothing of them, so that the loss is that of positions alone."""
    model = world.model(mask_share=1.0, last_only=0.0)
    batch = world.sequences(model)
    states = model.states(torch.where(batch.mask, model.mask_id, 0), batch.mask)
    logits = model.head(states[batch.mask]) @ model.items.weight[1 : ITEMS + 1].T + model.item_bias[1:]
    expected = torch.nn.functional.cross_entropy(logits, batch.items[batch.mask] - 1)
    torch.testing.assert_close(model.loss(batch), expected)


def test_the_last_training_click_of_each_user_is_a_label_and_no_held_out_click_is(world):
    model = world.model()
    stream, split_ = model.stream(world.train), world.batches.split
    shown = set()
    for batch in stream.batches(0, stream.steps_per_pass):
        users = batch.user[:, None].expand_as(batch.items)[batch.mask]
        shown |= set(zip(users.tolist(), batch.items[batch.mask].tolist(), strict=True))
    events, rows = split_.log.events, split_.rows("train", "rec")
    assert shown == set(zip(events.user[rows].tolist(), events.item[rows].tolist(), strict=True))


def test_it_learns_a_few_clicks_by_heart(world):
    model = world.model(mask_share=0.2, last_only=0.5)
    everything = world.sequences(model)
    few = {name: value[:16] for name, value in vars(everything).items() if value is not None}
    batch = SequenceBatch(**few)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    last = (batch.length - 1)[:, None]
    hidden = torch.zeros_like(batch.mask).scatter(1, last, True)
    states = model.eval().states(batch.items.masked_fill(hidden, model.mask_id), batch.mask)
    scores = model._predictions(states[hidden]) @ model.item_vectors()[1:].T
    assert float((scores.argmax(1) + 1 == batch.items[hidden]).float().mean()) > 0.9
