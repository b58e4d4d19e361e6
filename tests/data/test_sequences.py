"""Sequence windows and their views: every training event is a target, and no position sees what it may not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batches, SequenceBatch
from bench.data.log import TASKS
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.data.views import Augment, augmented

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n_users": st.integers(1, 5),
        "acts": st.integers(4, 25),
        "n_items": st.sampled_from([14, 40, 200]),
        "instants": st.sampled_from([3, 20, 1000]),
        "mode": st.sampled_from(["mirror", "natural"]),
        "strict": st.booleans(),
    }
)
TASK_SETS = st.sampled_from([("rec",), ("search",), ("rec", "search")])


def trained(log, tasks: tuple[str, ...], seed: int = 0) -> tuple[LogSplit, TrainData]:
    parts = split(log)
    return parts, TrainData(Batches(parts), tasks, seed)


def events_of(batch: SequenceBatch) -> list[tuple[int, int, int, int]]:
    """(event_id, item, task, position) of every target of a batch."""
    at = batch.target.nonzero()
    columns = (batch.event_ids, batch.items, batch.tasks)
    return list(zip(*(column[at[:, 0], at[:, 1]].tolist() for column in columns), at[:, 1].tolist(), strict=True))


@given(case=CASES, tasks=TASK_SETS, length=st.integers(2, 9), every=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_position_sees_a_twin_a_held_out_event_or_the_same_instant(make_messy, case, tasks, length, every):
    log = make_messy(**case)
    parts, data = trained(log, tasks)
    events = log.events
    pool = parts.train if every else np.concatenate([parts.rows("train", task) for task in tasks])
    if not len(pool):
        return
    allowed = set(
        zip(*(c[pool].tolist() for c in (events.user, events.event_id, events.item, events.task)), strict=True)
    )
    row_of = {key: row for row, key in enumerate(zip(events.event_id, events.item, events.task, strict=True))}
    stream = data.sequences(3, length=length, every_task=every)
    for batch in stream.batches(0, 2 * stream.steps_per_pass):
        assert (batch.clicks[..., 0] == batch.items).all()
        target, past = batch.target, batch.past_mask
        for b in range(len(batch)):
            n = int(batch.length[b])
            assert 1 <= n <= length and (batch.items[b, n:] == 0).all() and (batch.clicks[b, n:] == 0).all()
            ids, times, own = batch.event_ids[b], batch.times[b], batch.items[b]
            assert len(set(ids[:n].tolist())) == n, "an act and its twin are one unit"
            assert (times[:n].diff() >= 0).all()
            for i in range(n):
                key = (int(ids[i]), int(own[i]), int(batch.tasks[b, i]))
                row = row_of[key]
                assert (int(batch.user[b]), *key) in allowed, "never a held-out event"
                assert int(times[i]) == events.time[row] and int(batch.queries[b, i]) == events.query[row]
                for clicked in batch.clicks[b, i][batch.clicks[b, i] > 0].tolist():
                    assert (int(batch.user[b]), key[0], clicked, key[2]) in allowed
                before = torch.arange(length) < i
                assert not (past[b, i] & ~before).any()
                if target[b, i]:
                    assert (past[b, i] == before).all()
                if not case["strict"]:
                    assert target[b, i] and (past[b, i] == before).all()
                seen = past[b, i]
                assert int(own[i]) not in batch.clicks[b][seen].tolist(), "the own item"
                for j in seen.nonzero().flatten().tolist():
                    assert case["strict"] or row_of[(int(ids[j]), int(own[j]), int(batch.tasks[b, j]))] < row
                    for clicked in batch.clicks[b, j][batch.clicks[b, j] > 0].tolist():
                        other = row_of[(int(ids[j]), clicked, int(batch.tasks[b, j]))]
                        assert events.time[other] < times[i] if case["strict"] else other < row, "not yet clicked"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", ["mirror", "natural"])
@pytest.mark.parametrize("tasks", [("rec",), ("search",), ("rec", "search")])
def test_over_enough_passes_every_training_event_is_a_target(make_messy, mode, strict, tasks):
    log = make_messy(n_users=3, acts=40, n_items=90, instants=80, mode=mode, strict=strict)
    parts, data = trained(log, tasks)
    rows = np.concatenate([parts.rows("train", task) for task in tasks])
    wanted = set(
        zip(
            log.events.event_id[rows].tolist(),
            log.events.item[rows].tolist(),
            log.events.task[rows].tolist(),
            strict=True,
        )
    )
    stream = data.sequences(4, length=7)
    shown, with_past = set(), set()
    for batch in stream.batches(0, 80 * stream.steps_per_pass):
        for event, item, task, position in events_of(batch):
            shown.add((event, item, task))
            if position > 0:
                with_past.add((event, item, task))
    assert shown == wanted
    # Without a start token all but the first instant of each user.
    first = {
        user: log.events.time[rows][log.events.user[rows] == user].min() for user in np.unique(log.events.user[rows])
    }
    late = {
        key
        for key, user, time in zip(
            zip(
                log.events.event_id[rows].tolist(),
                log.events.item[rows].tolist(),
                log.events.task[rows].tolist(),
                strict=True,
            ),
            log.events.user[rows].tolist(),
            log.events.time[rows].tolist(),
            strict=True,
        )
        if time > first[user] + 3000
    }
    assert late <= with_past


def test_a_pass_shows_each_act_once_and_a_few_passes_all_rows(make_log):
    """Without repeats: as many positions as acts in every pass, and in mirror mode two passes show both twins."""
    log = make_log(mode="mirror", n_users=20, length=30)
    parts, data = trained(log, TASKS)
    acts = np.unique(log.events.event_id[parts.train])
    stream = data.sequences(8, length=10)
    shown = []
    for number in range(2):
        batches = list(stream.batches(number * stream.steps_per_pass, stream.steps_per_pass))
        ids = np.concatenate([batch.event_ids[batch.mask].numpy() for batch in batches])
        assert sorted(ids) == acts.tolist()
        shown += [entry[:3] for batch in batches for entry in events_of(batch)]
    assert len(shown) == len(set(shown)) == len(parts.train)


def test_steps_do_not_depend_on_what_was_read_before(make_messy):
    _, data = trained(make_messy(acts=40, n_items=70), TASKS)
    augment = Augment()
    whole = list(data.views(3, length=6, augment=augment, negatives=2).batches(0, 25))
    again = data.views(3, length=6, augment=augment, negatives=2)
    for step in (24, 3, 11):
        (pair,) = again.batches(step, 1)
        for name in ("first", "second", "sequence"):
            for key, value in vars(getattr(whole[step], name)).items():
                other = getattr(getattr(pair, name), key)
                assert value is other is None or torch.equal(value, other), (name, key)


def test_negatives_are_unseen_distinct_and_new_in_every_pass(make_messy):
    log = make_messy(n_items=60, acts=20)
    parts, data = trained(log, TASKS)
    seen = set(zip(log.events.user[parts.train].tolist(), log.events.item[parts.train].tolist(), strict=True))
    stream = data.sequences(50, length=30, negatives=5)
    first, second = stream.batches(0, 2 * stream.steps_per_pass)
    assert first.negatives.shape == (*first.items.shape, 5)
    assert (first.negatives[~first.mask] == 0).all()
    drawn = {}
    for batch in (first, second):
        for b, i in batch.mask.nonzero().tolist():
            row = batch.negatives[b, i].tolist()
            assert len(set(row)) == 5 and not {(int(batch.user[b]), item) for item in row} & seen and min(row) > 0
            drawn.setdefault((int(batch.event_ids[b, i]), int(batch.items[b, i])), []).append(row)
    twice = [rows for rows in drawn.values() if len(rows) == 2]
    assert twice and any(a != b for a, b in twice)


def test_each_operator_of_a_view(make_log):
    log = make_log(n_users=40, length=25, n_items=80)
    _, data = trained(log, TASKS)
    stream = data.sequences(40, length=20)
    (batch,) = stream.batches(0, 1)
    keys = np.arange(len(batch)).astype(np.uint64)
    n = batch.length
    crop = augmented(batch, Augment(0.5, None, None), keys)
    mask = augmented(batch, Augment(None, 0.3, None), keys)
    order = augmented(batch, Augment(None, None, 0.5), keys)
    moved = 0
    for b in range(len(batch)):
        items = batch.items[b, : n[b]].tolist()
        part = crop.items[b, : crop.length[b]].tolist()
        assert len(part) == max(1, int(0.5 * int(n[b])))
        assert any(items[i : i + len(part)] == part for i in range(len(items)))
        hidden = mask.masked[b]
        assert int(hidden.sum()) == int(0.3 * int(n[b])) and not hidden[n[b] :].any()
        assert (mask.items[b][hidden] == 0).all() and torch.equal(mask.items[b][~hidden], batch.items[b][~hidden])
        assert mask.length[b] == n[b]
        shuffled = order.items[b, : n[b]].tolist()
        assert sorted(shuffled) == sorted(items)
        changed = [i for i in range(len(items)) if items[i] != shuffled[i]]
        assert not changed or changed[-1] - changed[0] < int(0.5 * int(n[b]))
        moved += bool(changed)
        place = {item: i for i, item in enumerate(items)}
        assert order.times[b, : n[b]].tolist() == [int(batch.times[b, place[item]]) for item in shuffled]
    assert moved > len(batch) // 2


def test_views_use_all_operators_and_differ(make_log):
    _, data = trained(make_log(n_users=200, length=25, n_items=80), TASKS)
    (pair,) = data.views(400, length=20, augment=Augment()).batches(0, 1)
    hidden = pair.first.masked.any(1)
    cropped = pair.first.length < pair.sequence.length
    assert torch.equal(pair.first.user, pair.second.user) and len(pair) == len(pair.sequence)
    for share in (hidden, cropped, ~hidden & ~cropped):
        assert 0.25 < share.float().mean() < 0.42
    assert (pair.first.items != pair.second.items).any(1).float().mean() > 0.8


@pytest.mark.parametrize("rates", [(1.5, 0.1, 0.1), (0.5, -0.1, None), (None, None, None)])
def test_rates_of_views_are_checked(rates):
    with pytest.raises(ValueError, match="rates of augmentation"):
        Augment(*rates)
