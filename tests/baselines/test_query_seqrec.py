"""Query-SeqRec: its tokens, what it is trained to tell, the substitutes, and the fault of the official code."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.baselines import query_seqrec
from bench.baselines.query_seqrec import QueryItemGraph, QuerySeqRec, interleaved, labels
from bench.data.batch import Batches, SequenceBatch
from bench.data.catalog import Catalog
from bench.data.merged import Interleaved
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.contract import Context

ITEMS, QUERIES, CPU = 50, 6, torch.device("cpu")


class World:
    """A small log of both behaviours, and models on it."""

    def __init__(self, make_log, **options):
        log = make_log(n_users=20, n_items=ITEMS, length=20, n_queries=QUERIES, **options)
        self.catalog = Catalog(log)
        self.batches = Batches(split(log))
        self.train = TrainData(self.batches, ("rec",), 0)

    def model(self, **settings) -> QuerySeqRec:
        torch.manual_seed(0)
        small = {"dropout": 0.0, "batch_size": 64, "length": 12}
        model = QuerySeqRec(QuerySeqRec.Config(**small | settings), Context(self.catalog, tasks=("rec",)))
        model.precompute(self.train)
        return model

    def sequences(self, model: QuerySeqRec) -> SequenceBatch:
        return next(model.stream(self.train).batches(0, 1))


@pytest.fixture(scope="module")
def world(make_log) -> World:
    return World(make_log)


def row(*tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A row of tokens, items positive and queries negative: ids, is_query, mask (1, T)."""
    given = torch.tensor([tokens])
    return given.abs(), given < 0, given != 0


def state(model: QuerySeqRec, *tokens: int) -> torch.Tensor:
    return model.eval().states(*row(*tokens))[0, -1]


def test_the_size_of_the_network(world):
    model = world.model(length=50)
    d, words = 64, world.catalog.n_words
    block = (4 * d * d + 4 * d) + (2 * d * d + 2 * d) + 2 * 2 * d
    assert sum(p.numel() for p in model.parameters()) == (1 + ITEMS + words + 2 + 50) * d + 2 * block + 2 * d


def test_the_first_loss_is_ln_of_the_items(world):
    model = world.model()
    assert float(model.loss(world.sequences(model)).detach()) == pytest.approx(math.log(ITEMS), abs=0.1)


def test_a_query_is_the_mean_of_its_first_five_words_whatever_their_order(world):
    model = world.model(initial_std=0.5)
    words = torch.arange(1, 7)
    with torch.no_grad():
        model.bags[1] = words[:5] + ITEMS
        model.bags[2] = words[:5].flip(0) + ITEMS
        model.bags[3] = words[1:6] + ITEMS
        model.bags[4] = torch.tensor([1, 2, 0, 0, 0]) + ITEMS * torch.tensor([1, 1, 0, 0, 0])
    torch.testing.assert_close(state(model, 7, -1, 8), state(model, 7, -2, 8))
    assert (state(model, 7, -1, 8) - state(model, 7, -3, 8)).abs().max() > 1e-3
    seen = []
    model.encoder = torch.nn.Module()
    model.encoder.forward = lambda x, mask: seen.append(x) or x
    model.states(*row(7, -4))
    table, fixed = model.table.weight, model.positions.weight[1] + model.types.weight[1]
    torch.testing.assert_close(seen[0][0, 1], (table[ITEMS + 1] + table[ITEMS + 2]) / 2 + fixed)
    torch.testing.assert_close(seen[0][0, 0], table[7] + model.types.weight[0] + model.positions.weight[0])


def test_bags_hold_the_words_of_the_queries_behind_the_items(world):
    bags, words = world.model().bags, world.catalog.query_words
    assert bags.shape == (QUERIES + 1, 5) and not bags[0].any()
    for query in range(1, QUERIES + 1):
        assert bags[query][bags[query] > 0].tolist() == [ITEMS + w for w in words[query].tolist() if w][:5]


def test_a_query_before_the_last_item_counts_and_is_told_from_an_item(world):
    model = world.model(initial_std=0.5)
    assert (state(model, 3, 4, -2, 5) - state(model, 3, 4, 5)).abs().max() > 1e-3
    assert (state(model, 3, 4, -2, 5) - state(model, 3, 4, 2, 5)).abs().max() > 1e-3


def test_later_tokens_do_not_change_earlier_states(world):
    model = world.model(initial_std=0.5).eval()
    one, other = model.states(*row(3, -2, 5, 9)), model.states(*row(3, -2, 5, -4))
    torch.testing.assert_close(one[:, :3], other[:, :3], atol=0, rtol=0)
    assert (one[:, 3] - other[:, 3]).abs().max() > 1e-3


def test_the_first_token_of_a_history_counts_and_padding_does_not(world):
    model = world.model(initial_std=0.5).eval()
    rows = world.batches.split.rows("test", "rec")
    batch = world.batches.rows(rows, np.tile(np.arange(1, ITEMS + 1), (len(rows), 1)), model.window)
    past = batch.merged(12).interleaved(12)
    assert (past.length == 12).any()
    states = model.row_vectors(batch)
    for at in range(len(batch)):
        tokens = torch.where(past.is_query, -past.ids, past.ids)[at, : int(past.length[at])].tolist()
        torch.testing.assert_close(states[at], state(model, *tokens), atol=1e-5, rtol=1e-4)
        first = -(abs(tokens[0]) % QUERIES + 1) if tokens[0] < 0 else tokens[0] % ITEMS + 1
        assert (state(model, first, *tokens[1:]) - states[at]).abs().max() > 1e-5


def tokens_of(*rows: list[tuple[int, int]], width: int) -> Interleaved:
    """Rows of (token, unit), queries negative."""
    value, unit = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for at, entries in enumerate(rows):
        value[at, : len(entries)] = torch.tensor([token for token, _ in entries])
        unit[at, : len(entries)] = torch.tensor([number for _, number in entries])
    length = torch.tensor([len(entries) for entries in rows])
    return Interleaved(value.abs(), value < 0, (value < 0).long(), torch.zeros_like(value), unit, length)


TOKENS = tokens_of(
    [(4, 0), (5, 1), (-1, 2), (6, 2), (7, 2), (8, 3)],  # fills the window of five
    [(4, 0), (-1, 1), (6, 1), (9, 2)],
    width=6,
)


def test_labels_are_items_after_items_and_queries_and_never_queries():
    target = torch.ones(2, 4, dtype=torch.bool)
    expected = [[True, False, True, False, True], [False, True, True, False, False]]
    # From the first row: 4 to 5; 5 to the query is none; the query to 6; 7 is a further click of the same search; 7 to 8.
    assert labels(TOKENS, target).tolist() == expected


def test_acts_of_one_instant_are_labels_only_where_all_before_them_is_past():
    target = torch.ones(2, 4, dtype=torch.bool)
    target[0, 1] = target[1, 2] = False
    assert labels(TOKENS, target).tolist() == [[False, False, True, False, True], [False, True, False, False, False]]


def test_the_official_fault_trains_full_windows_at_their_queries_alone():
    target = torch.ones(2, 4, dtype=torch.bool)
    found = labels(TOKENS, target, released=True).tolist()
    assert found == [[False, False, True, False, False], [False, True, True, False, False]]


def test_released_is_the_same_where_no_sequence_fills_the_window(world):
    wide = {"length": 60, "p_item": 0.0, "p_query": 0.0}
    usual, released = (world.model(released=flag, **wide) for flag in (False, True))
    batch = world.sequences(usual)
    assert torch.equal(usual.loss(batch), released.loss(batch))
    narrow, faulty = (world.model(released=flag, p_item=0.0, p_query=0.0) for flag in (False, True))
    batch = world.sequences(narrow)
    assert not torch.equal(narrow.loss(batch), faulty.loss(batch))


def test_the_loss_in_closed_form(world):
    model = world.model(p_item=0.0, p_query=0.0, initial_std=0.3)
    batch = world.sequences(model)
    tokens = interleaved(batch, 13)
    losses = []
    for at in range(len(batch)):
        real = torch.where(tokens.is_query, -tokens.ids, tokens.ids)[at, : int(tokens.length[at])].tolist()
        if len(real) < 2:
            continue
        states = model.states(*row(*real[:-1]))[0]
        for place, following in enumerate(real[1:]):
            # All acts of this log have one click, so that every item is a label.
            if following > 0:
                logits = states[place] @ model.table.weight[1 : ITEMS + 1].T
                losses.append(torch.logsumexp(logits, 0) - logits[following - 1])
    torch.testing.assert_close(model.loss(batch), torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)


def test_both_behaviours_stand_in_the_sequences_in_order(world):
    batch = world.sequences(world.model())
    tokens = interleaved(batch, 13)
    assert set(batch.tasks[batch.mask].tolist()) == {0, 1} and tokens.is_query.any()
    assert (tokens.times[:, 1:] >= tokens.times[:, :-1])[tokens.mask[:, 1:]].all()
    after = tokens.is_query[:, :-1] & tokens.mask[:, 1:]
    assert not tokens.is_query[:, 1:][after].any(), "after a query stands its click"


EDGES = (np.array([1, 1, 2, 2, 3]), np.array([10, 11, 11, 12, 13]))  # queries, items


def test_substitutes_come_from_the_graph_or_from_anywhere():
    torch.manual_seed(0)
    graph = QueryItemGraph(*EDGES, n_queries=4, n_items=20, device=CPU)
    many = torch.ones(3000, dtype=torch.long)
    yes, no = torch.ones(3000, dtype=torch.bool), torch.zeros(3000, dtype=torch.bool)
    assert set(graph.items(many * 10, yes).tolist()) == {10, 11}
    assert set(graph.items(many * 11, yes).tolist()) == {10, 11, 12}
    assert set(graph.items(many * 13, yes).tolist()) == {13}
    assert set(graph.queries(many * 1, yes).tolist()) == {1, 2}
    assert set(graph.queries(many * 3, yes).tolist()) == {3}
    assert set(graph.items(many * 10, no).tolist()) == set(range(1, 21))
    assert set(graph.queries(many, no).tolist()) == {1, 2, 3, 4}
    # What no search led to has no neighbour.
    assert set(graph.items(many * 5, yes).tolist()) == set(range(1, 21))
    assert set(graph.queries(many * 4, yes).tolist()) == {1, 2, 3, 4}


def test_inputs_are_replaced_as_often_as_said_and_kinds_stay(world):
    model = world.model(p_item=0.5, p_query=0.2, p_graph=0.0)
    ids = torch.ones(200, 40, dtype=torch.long)
    is_query = (torch.arange(40) % 2 == 0).expand(200, -1)
    mask = (torch.arange(40) < 30).expand(200, -1)
    new = model.replaced(ids, is_query, mask)
    assert torch.equal(new[~mask], ids[~mask])
    items, queries = (new[mask & ~is_query] != 1).float().mean(), (new[mask & is_query] != 1).float().mean()
    assert abs(float(items) - 0.5 * (1 - 1 / ITEMS)) < 0.04 and abs(float(queries) - 0.2 * (1 - 1 / QUERIES)) < 0.03
    assert new[is_query].max() <= QUERIES and new.min() >= 1 and new.max() <= ITEMS


def test_without_augmentation_the_inputs_are_the_same_every_time(world):
    model = world.model(p_item=0.0, p_query=0.0)
    batch = world.sequences(model)
    tokens = interleaved(batch, 13)
    torch.testing.assert_close(model.replaced(tokens.ids, tokens.is_query, tokens.mask), tokens.ids)
    assert torch.equal(model.loss(batch), model.loss(batch))
    augmented = world.model()
    assert not torch.equal(augmented.loss(batch), augmented.loss(batch))


def test_labels_are_never_replaced(world, monkeypatch):
    """With every input replaced by any item the loss still asks for the true next items."""
    asked = []
    monkeypatch.setattr(query_seqrec, "full_softmax", lambda states, _, target: asked.append(target) or states.sum())
    model = world.model(p_item=1.0, p_query=1.0, p_graph=0.0)
    batch = world.sequences(model)
    model.loss(batch)
    tokens = interleaved(batch, 13)
    assert torch.equal(asked[0], tokens.ids[:, 1:][labels(tokens, batch.target)])


def test_the_graph_holds_training_searches_only(world):
    events, split_ = world.batches.split.log.events, world.batches.split
    rows = split_.rows("train", "search")
    pairs = set(zip(events.query[rows].tolist(), events.item[rows].tolist(), strict=True))
    offsets, values = world.model()._graph._of_query._offsets, world.model()._graph._of_query._values
    found = {(q, int(i)) for q in range(1, QUERIES + 1) for i in values[offsets[q] : offsets[q + 1]]}
    assert found == pairs


def test_a_log_without_searches_is_served(make_log):
    world = World(make_log, only=0)
    model = world.model(p_item=0.5)
    model.loss(world.sequences(model)).backward()
    rows = world.batches.split.rows("test", "rec")
    batch = world.batches.rows(rows, np.tile(np.arange(1, 11), (len(rows), 1)), model.window)
    assert torch.isfinite(model.eval().score(batch)).all()


def test_a_row_without_a_past_has_equal_scores(world):
    model = world.model().eval()
    rows = world.batches.split.rows("train", "rec")
    batch = world.batches.rows(rows, np.tile(np.arange(1, 11), (len(rows), 1)), model.window)
    batch = batch.take(batch.merged_len == 0)
    assert len(batch) and not model.score(batch).any()
    full = replace(batch, rec_items=torch.ones_like(batch.rec_items))
    assert not model.score(full).any(), "what stands in padding slots means nothing"
