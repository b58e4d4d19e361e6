"""The best candidates of every row, and the measures that are made of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batches
from bench.data.history import Window
from bench.data.split import split
from bench.errors import RunError
from bench.evaluation.beyond_accuracy import agreement, beyond_accuracy, gini
from bench.evaluation.candidates import draw, seen_items
from bench.evaluation.scoring import rank
from bench.evaluation.top_lists import DEPTH, TopCollector, TopLists

WINDOW = Window()


class ByItem:
    """Scores that depend on the item alone; offered as a plain score, in two steps, and as inner products."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, batch):
        return self.scores[batch.cand]

    def encode(self, batch):
        return torch.zeros(len(batch), 1)

    def score_items(self, encoded, cand):
        return self.scores[cand]


class Products(ByItem):
    def encode(self, batch):
        return torch.ones(len(batch), 1)

    row_vectors = encode

    def item_vectors(self):
        return self.scores[:, None]

    def score_items(self, encoded, cand):
        return encoded * self.scores[cand]


def collected(batches, candidates, scorer):
    events = batches.split.log.events
    top = TopCollector(events.event_id[candidates.rows], events.task[candidates.rows])
    ranks = rank(scorer, batches, candidates, WINDOW, rows_per_batch=5, top=top)
    return ranks, top.lists({})


def by_sorting(items, scores):
    """The lists by a full sort of each row; the scores differ."""
    out = np.zeros((len(items), DEPTH), dtype=np.int32)
    for row, own in enumerate(items):
        best = sorted(own[own > 0], key=lambda item: -scores[item])[:DEPTH]
        out[row, : len(best)] = best
    return out


@pytest.mark.parametrize("negatives", [4, 25])
@pytest.mark.parametrize("strategy", ["uniform", "full"])
def test_lists_are_those_of_a_full_sort(make_log, strategy, negatives):
    batches = Batches(split(make_log(3, n_users=20, n_items=60, length=10)))
    log = batches.split.log
    candidates = draw(batches.split, "test", log.tasks, strategy, 0, negatives=negatives)
    scores = torch.randn(len(log.items) + 1, generator=torch.Generator().manual_seed(1))
    items = candidates.items
    if items is None:
        every = np.arange(1, len(log.items) + 1)
        user, positive = (getattr(log.events, name)[candidates.rows] for name in ("user", "item"))
        hidden = seen_items(batches.split).contains(user[:, None], every) & (every != positive[:, None])
        items = np.where(hidden, 0, every)
    expected = by_sorting(items, scores.numpy())
    for scorer in (ByItem(scores), Products(scores)):
        ranks, lists = collected(batches, candidates, scorer)
        assert np.array_equal(lists.items, expected)
        # The two files of an evaluation agree: a positive with r items above it stands in place r.
        place = np.where(ranks.better < DEPTH, ranks.better, 0)
        found = lists.items[np.arange(len(lists)), place] == ranks.item
        assert np.array_equal(found, ranks.better < DEPTH)
        assert np.array_equal(lists.event_id, ranks.event_id) and np.array_equal(lists.task, ranks.task)


def test_ties_are_in_an_order_of_their_own_for_each_row():
    n, width = 3000, 40
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((n, width)), axis=1) + 1
    scores = torch.zeros(n, width)
    scores[:, 0] = 1.0  # one item of each row is above the tied ones
    made = []
    for order in (np.arange(width), np.r_[0, rng.permutation(width - 1) + 1]):
        top = TopCollector(np.arange(n), np.zeros(n, dtype=np.int8))
        top.add(0, scores, items[:, order])
        made.append(top.lists({}).items)
    assert np.array_equal(*made), "the order of the candidates decides"
    assert (made[0][:, 0] == items[:, 0]).all()
    # Each item has one chance in `width` at each place; 4.5 standard deviations.
    counts = np.bincount(made[0][:, 1:].ravel(), minlength=width + 1)[1:]
    expected = (DEPTH - 1) * n / width
    assert np.abs(counts - expected).max() < 4.5 * expected**0.5


def test_a_file_gives_back_what_was_saved_and_the_same_bytes(tmp_path):
    lists = TopLists(np.arange(4), np.array([0, 0, 1, 1], dtype=np.int8), np.arange(40, dtype=np.int32).reshape(4, 10))
    for name in ("a", "b"):
        lists.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = TopLists.load(tmp_path / "a")
    for name in ("event_id", "task", "items"):
        assert np.array_equal(getattr(again, name), getattr(lists, name))
    (tmp_path / "a").write_bytes(b"PAR1")
    for name, says in (("a", "does not hold lists"), ("missing", "no lists at")):
        with pytest.raises(RunError, match=says):
            TopLists.load(tmp_path / name)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40).filter(any))
@settings(max_examples=100, deadline=None)
def test_gini_is_half_the_mean_difference_over_the_mean(counts):
    x = np.array(counts, dtype=float)
    assert gini(np.array(counts)) == pytest.approx(np.abs(x[:, None] - x).mean() / (2 * x.mean()), abs=1e-12)


def test_measures_in_closed_form():
    events = np.array([0, 6, 1, 0, 1])  # 8 events in a catalogue of 4
    same = beyond_accuracy(np.array([[1], [1]]), events)
    assert (same.coverage, same.gini, same.popularity) == (0.25, 0.75, 6.0)
    assert same.novelty == pytest.approx(np.log2(12 / 7))
    each = beyond_accuracy(np.array([[1, 2, 0], [3, 4, 0]]), events)
    assert (each.coverage, each.gini, each.popularity) == (1.0, 0.0, 2.0)
    assert each.novelty == pytest.approx(np.log2([12 / 7, 6, 12, 6]).mean())
    with pytest.raises(RunError, match="empty"):
        beyond_accuracy(np.zeros((2, 3), dtype=int), events)


def test_agreement_counts_items_in_any_order():
    def lists(*rows):
        items = np.zeros((len(rows), DEPTH), dtype=np.int32)
        for number, row in enumerate(rows):
            items[number, : len(row)] = row
        return TopLists(np.arange(len(rows)), np.zeros(len(rows), dtype=np.int8), items)

    full = list(range(1, 11))
    assert agreement(lists(full), lists(full[::-1])) == 1.0
    assert agreement(lists(full), lists(range(11, 21))) == 0.0
    assert agreement(lists(full, [1, 2]), lists(range(6, 16), [2, 3])) == pytest.approx((0.5 + 0.5) / 2)
    with pytest.raises(RunError, match="different rows"):
        agreement(lists(full), lists(full, full))
