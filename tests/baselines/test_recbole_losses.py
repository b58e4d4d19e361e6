"""The losses of SASRec and GRU4Rec beside RecBole's: their first values, what they read, and that RecBole's stay."""

import importlib.util
import math

import pytest
import torch

from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker import registry
from bench.ranker.contract import Batch, Context

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="RecBole is not installed"),
]
NAMES, ITEMS = ["sasrec", "gru4rec"], 60


@pytest.fixture(scope="module")
def world(make_log):
    """(name, settings) -> a model and its first training batch."""
    log = make_log(n_users=20, n_items=ITEMS, length=16)
    train = TrainData(Batches(split(log)), ("rec",), 0)

    def build(name: str, **settings) -> tuple[torch.nn.Module, Batch]:
        cls = registry.get(name)
        config = cls.Config(**{"batch_size": 64, "history_rec": 6} | settings)
        model = cls(config, Context(Catalog(log), seed=0, tasks=("rec",)))
        return model.eval(), next(model.stream(train).batches(0, 1))

    return build


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("loss_type", "first"), [("BCE", math.log(2)), ("sampled-CE", math.log(6)), ("BPR", math.log(2))]
)
def test_first_values(world, name, loss_type, first):
    model, batch = world(name, loss_type=loss_type, negatives=5)
    assert batch.negatives.shape == (64, 5)
    assert float(model.loss(batch).detach()) == pytest.approx(first, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_binary_cross_entropy_is_that_of_the_scores(world, name):
    model, batch = world(name, loss_type="BCE", negatives=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch = batch.take(batch.rec_len > 0)
    items = torch.cat([batch.item[:, None], batch.negatives], 1)
    scores = model.score_items(model.encode(batch), items)
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1
    expected = -(labels * scores.sigmoid().log() + (1 - labels) * (1 - scores.sigmoid()).log()).mean()
    torch.testing.assert_close(model.loss(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bpr_is_recboles_and_reads_each_history_once(world, name):
    from recbole.model.loss import BPRLoss

    model, batch = world(name, loss_type="BPR", negatives=7)
    batch = batch.take(batch.rec_len > 0)
    read = []
    model.net.item_embedding.register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    ours = model.loss(batch)
    assert max(read) <= len(batch) * model.config.history_rec
    rows = batch.take(torch.arange(len(batch)).repeat_interleave(7))
    states = model.net.forward(rows.rec_items.long(), rows.rec_len.long())
    other = batch.negatives.flatten().long()
    positive, negative = ((states * model.net.item_embedding(of.long())).sum(-1) for of in (rows.item, other))
    torch.testing.assert_close(ours, BPRLoss()(positive, negative))


@pytest.mark.parametrize("name", NAMES)
def test_cross_entropy_is_over_the_items_without_padding_and_draws_nothing(world, name):
    model, batch = world(name)
    assert batch.negatives is None or not batch.negatives.shape[1]
    assert float(model.loss(batch).detach()) == pytest.approx(math.log(ITEMS), abs=0.1)
    read = batch.take(batch.rec_len > 0)
    logits = model.score_items(model.encode(read), torch.arange(1, ITEMS + 1).expand(len(read), -1))
    expected = torch.nn.functional.cross_entropy(logits, read.item - 1)
    torch.testing.assert_close(model.loss(batch), expected)
    with torch.no_grad():
        model.net.item_embedding.weight[0] += 3.0 * (name == "gru4rec")  # SASRec reads it in padding slots, masked
    torch.testing.assert_close(model.loss(batch), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
def test_the_record_names_the_loss_that_was_taken(world, name, loss_type):
    model, _ = world(name, loss_type=loss_type, negatives=3)
    assert model.evidence()["recbole settings"]["loss_type"] == loss_type


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_a_past_do_not_train(world, name):
    model, batch = world(name, loss_type="sampled-CE", negatives=3)
    empty = batch.take(batch.rec_len == 0)
    assert len(empty) and float(model.loss(empty).detach()) == 0
    model.loss(empty).backward()
    torch.testing.assert_close(model.loss(batch), model.loss(batch.take(batch.rec_len > 0)))
