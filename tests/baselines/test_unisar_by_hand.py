"""UniSAR: its wiring followed row by row, from the histories to the score and to each part of the loss.

The parts themselves (transitions, fusion, pooling, experts, alignments) are held against torch's layers and closed forms
in test_unisar.py; here they are joined by hand. Some searches of the batch have several clicked items, some none.
"""

from dataclasses import replace
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines.unisar.model import Transitions, UniSAR
from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.blocks.lengths import trim
from bench.ranker.contract import Context

ITEMS, QUERIES = 60, 8
KINDS = ("rec", "search")
WEIGHTS = {"click": 1.0, "pairs": 0.2, "transitions": 0.5}
SEARCH_WEIGHT = 0.3


@pytest.fixture(scope="module")
def model_and_batch(make_log) -> tuple[UniSAR, Batch]:
    log = make_log(n_users=24, n_items=ITEMS, length=16, n_queries=QUERIES)
    config = UniSAR.Config(
        dropout=0.0,
        batch_size=64,
        pair_weight=WEIGHTS["pairs"],
        pair_temperature=0.3,
        pair_negatives=1000,  # all items and all queries: nothing is left to chance
        transition_weight=WEIGHTS["transitions"],
        search_weight=SEARCH_WEIGHT,
    )
    torch.manual_seed(0)
    model = UniSAR(config, Context(Catalog(log), tasks=KINDS)).eval()
    train = TrainData(Batches(split(log)), KINDS, 0)
    return model, with_several_clicks(next(model.stream(train).batches(0, 1)))


@pytest.fixture
def model(model_and_batch) -> UniSAR:
    return model_and_batch[0]


@pytest.fixture
def batch(model_and_batch) -> Batch:
    return model_and_batch[1]


def with_several_clicks(batch: Batch) -> Batch:
    """The batch after about half of its searches gained one or two clicked items and some lost all."""
    (first,) = batch.search_items.unbind(2)  # (B, Ls)
    second = torch.where((first > 0) & (first % 2 == 0), (first + 17) % ITEMS + 1, 0)
    third = torch.where((first > 0) & (first % 4 == 0), (first + 30) % ITEMS + 1, 0)
    items = torch.stack([first, second, third], 2) * (first % 7 > 0)[..., None]
    counts = (items > 0).sum(2)[batch.search_mask]
    assert set(counts.tolist()) == {0, 1, 2, 3}
    return replace(batch, search_items=items)


def histories(model: UniSAR, batch: Batch, row: int) -> tuple[Batch, Tensor, Tensor]:
    """One row without padding, its embedded clicks (1, Lr, d), and its searches (1, Ls, d): query + mean of the clicks."""
    part = trim(batch.take(torch.tensor([row])))
    clicks = torch.zeros(1, part.rec_items.shape[1], 64)
    searches = torch.zeros(1, part.search_query.shape[1], 64)
    for slot in range(int(part.rec_len)):
        clicks[0, slot] = model.items(part.rec_items[:, slot])[0]
    for slot in range(int(part.search_len)):
        searches[0, slot] = model.queries(part.search_query[:, slot])[0]
        found = part.search_items[0, slot][part.search_items[0, slot] > 0]
        if len(found):
            searches[0, slot] += torch.stack([model.items(item[None])[0] for item in found]).mean(0)
    return part, clicks, searches


def transitions(model: UniSAR, batch: Batch, row: int) -> dict[str, Transitions]:
    return dict(zip(KINDS, model.transition(*histories(model, batch, row)), strict=True))


@torch.no_grad()
def test_the_score_of_a_row_is_what_its_parts_make_of_it_by_hand(model, batch):
    scores = model.score(batch)
    several = ((batch.search_items > 0).sum(2) > 1).any(1)
    chosen = (several & (batch.rec_len > 1), batch.search_len == 0, batch.rec_len == 0)
    rows = [((batch.task == code) & some).nonzero().ravel()[:4].tolist() for code in (0, 1) for some in chosen]
    assert all(rows)
    for row in chain(*rows):
        task, candidates = int(batch.task[row]), model.items(batch.cand[row])[None]  # (1, K, d)
        pooled = []
        for kind, (within, across, mask) in transitions(model, batch, row).items():
            fused = model.fusion[kind](within, mask, across, mask)
            pooled.append(model.pooling[kind](fused, mask, candidates))
        query = model.queries(batch.query[row : row + 1]) if task == 1 else model.no_query
        user = model.users(batch.user[row : row + 1])
        mixed = model.experts(torch.cat([*pooled, candidates], -1), torch.cat([user, query], -1), task)
        expected = model.towers[task](mixed)[0, :, 0]
        torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_loss_aligns_the_mean_of_across_with_the_mean_of_within_for_each_task(model, batch):
    _, parts = model.loss(batch)
    for code, task in enumerate(KINDS):
        rows = ((batch.task == code) & (batch.rec_len > 0) & (batch.search_len > 0)).nonzero().ravel().tolist()
        assert len(rows) > 4
        each = [transitions(model, batch, row) for row in rows]
        expected = torch.zeros(())
        for kind in KINDS:
            across = torch.stack([into[kind].across[0].mean(0) for into in each])  # (n, d), a row has no padding
            within = torch.stack([into[kind].within[0].mean(0) for into in each])
            expected += model.transitions[kind](across, within)
        torch.testing.assert_close(parts[f"{task}/transitions"], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_pair_loss_of_a_task_is_that_of_all_clicks_in_the_searches_of_its_rows(model, batch):
    _, parts = model.loss(batch)
    items, queries = model.items(torch.arange(ITEMS + 1)), model.queries(torch.arange(QUERIES + 1))

    def one(query: int, item: int) -> Tensor:
        losses = []
        for left, right, others in ((queries[query], items[item], items), (items[item], queries[query], queries)):
            similarity = torch.cat([right[None], others[1:]]) @ (left @ model.pairs.weight)
            logits = torch.tanh(similarity) / model.pairs.temperature
            losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
        return torch.stack(losses).mean()

    means = []
    for code, task in enumerate(KINDS):
        losses = []
        for row in (batch.task == code).nonzero().ravel().tolist():
            for slot in range(int(batch.search_len[row])):
                query, found = int(batch.search_query[row, slot]), batch.search_items[row, slot].tolist()
                losses += [one(query, item) for item in found if item]
        means.append(torch.stack(losses).mean())
        torch.testing.assert_close(parts[f"{task}/pairs"], means[-1])
    assert abs(means[0] - means[1]) > 1e-3  # so that neither can stand for the other
    drawn = model.pairs.of_histories(batch, model.queries, model.items, 1000, 2)
    torch.testing.assert_close(torch.stack(drawn), torch.stack(means))


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_parts_and_search_has_a_weight_of_its_own(model, batch):
    total, parts = model.loss(batch)
    assert set(parts) == {f"{task}/{name}" for task in KINDS for name in WEIGHTS}
    logits = model.score(batch)
    for code, task in enumerate(KINDS):
        rows = batch.task == code
        clicks = F.binary_cross_entropy_with_logits(logits[rows], batch.label[rows])
        torch.testing.assert_close(parts[f"{task}/click"], clicks)
    rec, search = (sum(weight * parts[f"{task}/{name}"] for name, weight in WEIGHTS.items()) for task in KINDS)
    torch.testing.assert_close(total, rec + SEARCH_WEIGHT * search)
