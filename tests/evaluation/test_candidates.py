"""The shared sampler and the loop over it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.data import hashing
from bench.data.batch import Batches
from bench.data.history import Guards, Histories, Window
from bench.data.sampling import ItemWeights, SeenItems, draw_negatives
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError, UsageError
from bench.evaluation import candidates, leaks
from bench.evaluation.candidates import draw
from bench.evaluation.metrics import Metric
from bench.evaluation.scoring import RowValidation, rank
from bench.evaluation.top_lists import TopCollector


@pytest.mark.parametrize("strategy", ["uniform", "popularity", "same-query"])
def test_workers_chunks_and_raw_order_change_nothing(make_log, strategy):
    plain = draw(split(make_log()), strategy=strategy, negatives=9)
    for workers, chunk in ((1, 1), (2, 5), (7, 3)):
        again = draw(split(make_log(shuffle=chunk)), strategy=strategy, negatives=9, workers=workers, chunk=chunk)
        assert again.fingerprint == plain.fingerprint
    assert draw(split(make_log()), strategy=strategy, negatives=9, seed=1).fingerprint != plain.fingerprint


@given(
    seed=st.integers(0, 10_000),
    strategy=st.sampled_from(["uniform", "popularity", "same-query"]),
    mode=st.sampled_from(["disjoint", "mirror"]),
)
@settings(max_examples=20, deadline=None)
def test_negatives_are_distinct_and_never_touched(make_log, seed, strategy, mode):
    log = make_log(seed=seed, mode=mode, n_users=20)
    parts = split(log)
    chosen = draw(parts, strategy=strategy, negatives=9, seed=seed)
    events = log.events
    for row, items, position in zip(chosen.rows, chosen.items, chosen.position, strict=True):
        assert items[position] == events.item[row]
        negatives = set(items.tolist()) - {events.item[row]}
        assert len(negatives) == 9
        assert not negatives & set(events.item[events.user == events.user[row]].tolist())


def test_position_is_uniform_and_apart(make_log):
    log = make_log(n_users=1500, n_items=60, length=6)
    position = draw(split(log), negatives=19).position
    assert stats.chisquare(np.bincount(position, minlength=20)).pvalue > 1e-4
    # Same list, other seed: the column must move.
    assert (draw(split(log), negatives=19, seed=1).position != position).mean() > 0.9


@pytest.mark.parametrize("long", [8, 0], ids=["whole lists", "long lists"])
def test_same_query_comes_first(make_log, monkeypatch, long):
    monkeypatch.setattr(candidates, "_LONG", long)
    log = make_log(n_users=30)
    parts = split(log)
    chosen = draw(parts, strategy="same-query", negatives=9)
    monkeypatch.setattr(candidates, "_STEP", 3)
    monkeypatch.setattr(candidates, "_ENTRIES", 7)
    assert draw(parts, strategy="same-query", negatives=9, chunk=11, workers=2).fingerprint == chosen.fingerprint
    events = log.events
    for row, items in zip(chosen.rows, chosen.items, strict=True):
        carriers = {item for item in range(1, 41) if events.query[row] in log.items.queries[item]}
        free = carriers - set(events.item[events.user == events.user[row]].tolist())
        assert len((set(items.tolist()) - {events.item[row]}) & carriers) == min(9, len(free))


def test_same_query_draws_from_long_lists_evenly(make_log, monkeypatch):
    """Each of the carriers of a row is as likely as any other, whichever way the list is drawn."""
    parts = split(make_log(n_users=40))
    events = parts.log.events
    for long in (8, 0):
        monkeypatch.setattr(candidates, "_LONG", long)
        seen, expected = np.zeros(41), np.zeros(41)
        for seed in range(60):
            chosen = draw(parts, strategy="same-query", negatives=2, seed=seed)
            for row, items in zip(chosen.rows, chosen.items, strict=True):
                mine = set(events.item[events.user == events.user[row]].tolist())
                free = [i for i in range(1, 41) if events.query[row] in parts.log.items.queries[i] and i not in mine]
                if len(free) > 2:
                    seen[list(set(items.tolist()) & set(free))] += 1
                    expected[free] += 2 / len(free)
        real = expected > 5
        assert stats.chisquare(seen[real], expected[real] * seen[real].sum() / expected[real].sum()).pvalue > 1e-4


def test_popularity_follows_training_counts(make_log):
    log = make_log(n_users=3000, n_items=30, length=5)
    parts = split(log)
    drawn = draw(parts, strategy="popularity", negatives=1)
    column = 1 - drawn.position
    counts = np.bincount(drawn.items[np.arange(len(drawn)), column], minlength=31)[1:]
    weights = np.bincount(log.events.item[parts.train], minlength=31)[1:]
    assert np.corrcoef(counts, weights)[0, 1] > 0.3


def test_clear_refusals(make_log):
    parts = split(make_log())
    with pytest.raises(UsageError, match=r"\d+ of \d+ test rows have fewer than 39 items left .*--candidates full"):
        draw(parts, negatives=39)
    with pytest.raises(UsageError, match="same-query candidates are for search rows"):
        draw(parts, tasks=("rec",), strategy="same-query")
    with pytest.raises(UsageError, match="does not say what its searches displayed"):
        draw(parts, strategy="shown")
    with pytest.raises(UsageError, match="unknown candidates"):
        draw(parts, strategy="unifrom")


def _constant(batch):
    return torch.zeros(batch.cand.shape)


def test_constant_scorer_is_exactly_at_chance(make_log):
    batches = Batches(split(make_log(n_items=200, n_users=60)))
    ranks = rank(_constant, batches, draw(batches.split), Window())
    for task in ("rec", "search"):
        assert ranks.only(task).mean(Metric("R", 5)) == pytest.approx(0.05, abs=1e-12)
        assert ranks.only(task).mean(Metric("R", 10)) == pytest.approx(0.10, abs=1e-12)


def test_full_catalogue_equals_counting_by_hand(make_log):
    log = make_log()
    batches = Batches(split(log))
    values = torch.arange(41).float() % 7

    def score(batch):
        return values[batch.cand]

    ranks = rank(score, batches, draw(batches.split, strategy="full"), Window())
    events = log.events
    for row, better, tied, listed in zip(
        np.sort(batches.split.test), ranks.better, ranks.tied, ranks.candidates, strict=True
    ):
        free = set(range(1, 41)) - set(events.item[events.user == events.user[row]].tolist())
        own = values[events.item[row]]
        assert better == sum(values[item] > own for item in free)
        assert tied == sum(values[item] == own for item in free)
        assert listed == len(free) + 1


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda b: torch.full(b.cand.shape, float("nan")), "score nan in row"),
        (lambda b: torch.zeros(len(b), 3), "shape"),
        (lambda b: torch.zeros(b.cand.shape, dtype=torch.float16), "float16"),
    ],
)
def test_broken_scores_stop_with_the_model_named(make_log, broken, words):
    batches = Batches(split(make_log(n_items=200, n_users=60)))
    with pytest.raises(RunError, match=words) as caught:
        rank(broken, batches, draw(batches.split), Window(), model="twin")
    assert "twin" in str(caught.value)


def test_a_broken_score_is_named_by_its_row_of_the_candidates(make_log):
    batches = Batches(split(make_log(n_items=200, n_users=60)))
    calls = []

    def score(batch):
        scores = torch.zeros(batch.cand.shape)
        calls.append(len(batch))
        if len(calls) == 3:
            scores[4, 2] = float("inf")
        return scores

    with pytest.raises(RunError, match="score inf in row 24, candidate 2;"):
        rank(score, batches, draw(batches.split), Window(), rows_per_batch=10)


@pytest.mark.parametrize("mode", ["disjoint", "mirror"])
@pytest.mark.parametrize("days", [False, True])
def test_leak_counters_are_zero(make_log, mode, days):
    batches = Batches(split(make_log(mode=mode, days=days, n_items=200, n_users=60)))
    counted = leaks.counters(batches, draw(batches.split))
    assert {name: value for name, value in counted.items() if name.startswith("zero:") and value} == {}
    assert 0 <= counted["share of training later than the test event"] <= 1


def test_leak_counters_find_planted_leaks(make_log):
    log = make_log(mode="mirror", days=True, n_items=200, n_users=60)
    batches = Batches(split(log))
    batches.histories = Histories(log, Guards(own_event=False, own_item=False))
    chosen = draw(batches.split)
    assert leaks.counters(batches, chosen)[leaks.TARGET_IN_HISTORY] > 0
    # A touched item among the negatives, and a held-out pair in training.
    chosen.items[0, (chosen.position[0] + 1) % 100] = log.events.item[
        log.events.user == log.events.user[chosen.rows[0]]
    ][0]
    assert leaks.counters(batches, chosen)[leaks.FALSE_NEGATIVES] == 1
    parts = batches.split
    planted = type(parts)(
        log, parts.name, np.sort(np.r_[parts.train, parts.test[:1]]), parts.valid, parts.test, parts.dropped
    )
    counted = leaks.split_counters(Batches(planted))
    assert counted[leaks.HELD_OUT_IN_TRAINING] >= 1 and counted[leaks.HELD_OUT_IN_TRAINING_HISTORY] == 1


def test_training_batches(make_log):
    log = make_log(n_users=40, n_items=60)
    parts = split(log)
    train = TrainData(Batches(parts), ("rec", "search"), seed=3)
    stream = train.events(32, negatives=4, window=Window(5, 5))
    steps = stream.steps_per_pass
    first = list(stream.batches(0, steps))
    assert sum(len(batch) for batch in first) == len(train) == len(parts.train)
    trained = {(u, i) for u, i in zip(log.events.user[parts.train], log.events.item[parts.train], strict=True)}
    columns = []
    for batch in first:
        assert (batch.label.sum(1) == 1).all()
        assert (batch.cand.gather(1, batch.label.argmax(1, keepdim=True))[:, 0] == batch.item).all()
        columns += batch.label.argmax(1).tolist()
        negative = batch.label == 0
        for user, items, mask in zip(batch.user.tolist(), batch.cand, negative, strict=True):
            chosen = items[mask].tolist()
            assert len(set(chosen)) == 4 and not {(user, item) for item in chosen} & trained
    assert stats.chisquare(np.bincount(columns, minlength=5)).pvalue > 1e-4
    # Any step can be read on its own; a new pass draws new negatives and a new order.
    alone = next(stream.batches(steps + 1, 1))
    second = list(stream.batches(steps, 2))[1]
    assert torch.equal(alone.cand, second.cand) and torch.equal(alone.rec_items, second.rec_items)
    assert not torch.equal(first[1].item, second.item)


def test_validation_ranks_a_catalogue_as_a_whole_that_is_too_small_to_draw_from(make_log):
    batches = Batches(split(make_log()))
    valid = RowValidation(batches, ("rec",), Window())
    assert valid.candidates.label == "full" and len(batches.split.log.items) < 99
    values = valid.evaluate(lambda batch: torch.zeros(batch.cand.shape))
    # A constant scorer gets the mean gain over all places of the list.
    assert 0 < values["rec/N@10"] == values["mean/N@10"] < 0.3
    large = Batches(split(make_log(n_items=300)))
    assert RowValidation(large, ("rec",), Window()).candidates.label == "uniform-99"


def test_validation_rows_and_negatives_follow_limit_and_seed(make_log):
    batches = Batches(split(make_log(n_items=300, n_users=30)))
    every, few, other = (
        RowValidation(batches, ("rec", "search"), Window(), seed=seed, limit=limit).candidates
        for seed, limit in ((0, 0), (0, 7), (1, 0))
    )
    assert len(every) > 40 and few.meta["tasks"] == every.meta["tasks"]
    events = batches.split.log.events
    assert np.bincount(events.task[few.rows]).tolist() == [7, 7] and set(few.rows) < set(every.rows)
    assert np.array_equal(every.rows, other.rows) and not np.array_equal(every.items, other.items)


def test_the_mean_that_selects_is_that_of_the_tasks_and_nobody_can_change_what_is_remembered(make_log):
    batches = Batches(split(make_log(n_items=300, n_users=30)))
    valid = RowValidation(batches, ("rec", "search"), Window(), state=lambda: "one")

    def score(batch):
        return torch.where(batch.task[:, None] == 0, batch.cand, -batch.cand).float()

    values = valid.evaluate(score)
    assert values["rec/N@10"] != values["search/N@10"]
    assert values["mean/N@10"] == pytest.approx((values["rec/N@10"] + values["search/N@10"]) / 2)
    expected = dict(values)
    values.clear()
    again = valid.evaluate(score)
    assert again == expected
    again.clear()
    assert valid.evaluate(score) == expected


def test_shorter_lists_are_ranked_by_what_they_hold(make_log):
    """Padding is no candidate: not in the counts, not in the lists of the best, and its scores do not matter."""
    batches = Batches(split(make_log(n_items=200, n_users=60)))
    drawn = draw(batches.split, negatives=12)
    rng = np.random.default_rng(0)
    kept = rng.integers(2, 14, len(drawn))
    items = np.zeros_like(drawn.items)
    for row, (own, place, size) in enumerate(zip(drawn.items, drawn.position, kept, strict=True)):
        items[row, :size] = [own[place], *np.delete(own, place)[: size - 1]]
    lists = replace(drawn, items=items, position=np.zeros_like(drawn.position))
    events = batches.split.log.events
    top = TopCollector(events.event_id[lists.rows], events.task[lists.rows])
    done = []

    def score(batch):
        scores = -batch.cand.float()
        return torch.where(batch.cand == 0, float("nan"), scores)

    ranks = rank(score, batches, lists, Window(), rows_per_batch=32, top=top, tick=lambda *at: done.append(at))
    assert np.array_equal(ranks.candidates, kept) and not ranks.tied.any()
    best = [sorted(own[own > 0])[:10] for own in items]
    assert [list(own[own > 0]) for own in top.lists({}).items] == best
    assert [
        own.index(item) for own, item in zip([sorted(own[own > 0]) for own in items], ranks.item, strict=True)
    ] == list(ranks.better)
    assert done[-1] == (len(lists), len(lists)) and [at for at, _ in done[:-1]] == list(range(32, len(lists), 32))


def test_validation_scores_a_state_once(make_log):
    batches, state, scored = Batches(split(make_log())), "first", []

    def score(batch):
        scored.append(state)
        return batch.cand.float() if state == "first" else -batch.cand.float()

    valid = RowValidation(batches, ("rec",), Window(), state=lambda: state)
    first = valid.evaluate(score)
    assert valid.evaluate(score) == first and scored == ["first"]
    state = "second"
    assert valid.evaluate(score) != first and scored == ["first", "second"]
    without = RowValidation(batches, ("rec",), Window())
    assert without.evaluate(score) == without.evaluate(score) and scored[2:] == ["second", "second"]


@pytest.mark.parametrize(
    ("count", "weighted", "taken"), [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (6, 0, 0), (5, 1, 2)]
)
def test_negatives_are_the_first_that_a_rows_stream_has_to_offer(count, weighted, taken):
    """Whatever is drawn at once: the stream of a row is read item by item here."""
    rng = np.random.default_rng(count)
    n_rows, n_items, purpose = 60, 20, hashing.key("test", count)
    seen = SeenItems(rng.integers(1, 6, 50), rng.integers(1, n_items + 1, 50), n_items)
    weights = ItemWeights(np.r_[0, rng.integers(1, 9, n_items)]) if weighted else None
    rows = rng.integers(0, 2**63, n_rows).astype(np.uint64)
    user, positive = rng.integers(1, 7, n_rows), rng.integers(1, n_items + 1, n_rows)
    barred = [
        {item for item in range(1, n_items + 1) if seen.contains(user[row], np.array([item]))[0]} | {int(positive[row])}
        for row in range(n_rows)
    ]
    left = [rng.permutation(sorted(set(range(1, n_items + 1)) - items)) for items in barred]
    has = np.stack([items[:taken] for items in left]) if taken else None
    drawn = draw_negatives(purpose, rows, user, positive, seen, count, weights, has)
    assert drawn.shape == (n_rows, count) and drawn.dtype == np.int32
    for row in range(n_rows):
        values = hashing.draw(purpose, rows[row : row + 1], np.arange(4000))
        items = hashing.below(values, n_items) + 1 if weights is None else weights.items(values)
        closed = barred[row] | (set(has[row].tolist()) if has is not None else set())
        offered = [item for item in dict.fromkeys(items.tolist()) if item not in closed]
        assert drawn[row].tolist() == offered[:count]


@pytest.mark.parametrize("known", [True, False])
def test_a_user_with_just_enough_items_left_is_served_and_with_one_less_refused(known):
    """Six items, three seen: two are left beside an unseen positive, three beside a seen one."""
    seen = SeenItems(np.ones(3, dtype=int), np.array([1, 2, 3]), 6)
    row, user, positive = np.array([7], dtype=np.uint64), np.array([1]), np.array([3 if known else 4])
    left = {4, 5, 6} - {int(positive[0])}
    drawn = draw_negatives(hashing.key("test"), row, user, positive, seen, len(left))
    assert set(drawn[0].tolist()) == left
    with pytest.raises(RunError, match=f"has only {len(left)} items left .* {len(left) + 1} are needed"):
        draw_negatives(hashing.key("test"), row, user, positive, seen, len(left) + 1)
