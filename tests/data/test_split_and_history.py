"""Splits and histories against a slow reading of their definition, on random logs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batches
from bench.data.history import Guards, Histories, Window
from bench.data.log import TASKS
from bench.data.split import split
from bench.data.training import TrainData

SHAPES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n_users": st.integers(2, 8),
        "length": st.integers(3, 20),
        "mode": st.sampled_from(["disjoint", "mirror"]),
        "days": st.booleans(),
    }
)


@given(shape=SHAPES)
@settings(max_examples=25, deadline=None)
def test_leave_one_out(make_log, shape):
    log = make_log(**shape)
    events = log.events
    parts = split(log)
    held = {}
    for user in np.unique(events.user):
        rows = np.flatnonzero(events.user == user)
        groups = [rows] if shape["mode"] == "mirror" else [rows[events.task[rows] == code] for code in (0, 1)]
        for group in groups:
            order = list(dict.fromkeys(events.event_id[group].tolist()))
            if len(order) >= 3:
                held |= {row: "test" for row in group if events.event_id[row] == order[-1]}
                held |= {row: "valid" for row in group if events.event_id[row] == order[-2]}
    assert sorted(parts.test) == sorted(row for row, part in held.items() if part == "test")
    assert sorted(parts.valid) == sorted(row for row, part in held.items() if part == "valid")
    for row in range(len(events)):
        earlier = all(row < other for other in held if events.user[other] == events.user[row])
        assert (row in parts.train) == (row not in held and earlier)
    assert len(parts.train) + len(parts.valid) + len(parts.test) + sum(
        count for reason, count in parts.dropped.items() if "rows" in reason
    ) == len(events)


@given(shape=SHAPES, window=st.integers(0, 7), strict=st.booleans())
@settings(max_examples=25, deadline=None)
def test_histories_match_their_definition(make_log, shape, window, strict):
    log = make_log(**shape)
    events = log.events
    past = Histories(log, Guards(strict_time=strict)).gather(np.arange(len(events)), Window(window, window))
    for row in range(len(events)):
        allowed = [
            other
            for other in range(row)
            if events.user[other] == events.user[row]
            and events.event_id[other] != events.event_id[row]
            and events.item[other] != events.item[row]
            and (not strict or events.time[other] < events.time[row])
        ]
        rec = [other for other in allowed if events.task[other] == 0][-window or None :]
        src = [other for other in allowed if events.task[other] == 1][-window or None :]
        assert past.rec_items[row, : past.rec_len[row]].tolist() == events.item[rec].tolist()
        assert past.search_query[row, : past.search_len[row]].tolist() == events.query[src].tolist()
        assert past.search_items[row, : past.search_len[row], 0].tolist() == events.item[src].tolist()
        assert (past.rec_items[row, past.rec_len[row] :] == 0).all()
        merged = sorted(rec + src)
        n = len(merged)
        kinds = past.merged_task[row]
        assert (kinds[:n] == events.task[merged] + 1).all() and (kinds[n:] == 0).all()
        columns = [
            past.rec_items[row, c] if k == 1 else past.search_items[row, c, 0]
            for k, c in zip(kinds, past.merged_column[row], strict=True)
        ]
        assert columns[:n] == events.item[merged].tolist()


@pytest.mark.parametrize("days", [False, True])
def test_guards_off_plant_the_leak(make_log, days):
    """In mirror mode every search row follows its own twin: without the guards the target is in the history."""
    log = make_log(mode="mirror", days=days)
    rows = split(log).rows("test", "search")
    window = Window(0, 0)

    def leaked(guards: Guards) -> float:
        past = Histories(log, guards).gather(rows, window)
        return float((past.rec_items == log.events.item[rows][:, None]).any(1).mean())

    assert leaked(Guards()) == 0
    assert leaked(Guards(own_event=False, own_item=False)) == 1


def test_sessions_are_one_unit():
    import pandas as pd

    from bench.data.build import build

    # One user: a search with two clicks, a rec click, a search with one click.
    events = pd.DataFrame(
        {
            "act": [1, 1, 2, 3, 4],
            "session": [1, 1, 2, 3, 4],
            "user": "u",
            "item": ["a", "b", "c", "d", "e"],
            "time": [10, 10, 20, 30, 40],
            "query": ["x", "x", "", "y", ""],
            "task": [1, 1, 0, 1, 0],
        }
    )
    items = pd.DataFrame({"id": list("abcde"), "text": list("abcde")})
    queries = pd.DataFrame({"id": ["x", "y"], "text": ["x", "y"]})
    log = build("tiny", "natural", events, items, queries, seed=0)
    last = len(log.events) - 1
    past = Histories(log).gather(np.array([last, 1]), Window(3, 3))
    assert past.search_len.tolist() == [2, 0], "a click of a session does not see the session's other clicks"
    assert sorted(log.items.id[past.search_items[0, 0]].tolist()) == ["a", "b"]
    assert log.queries.id[past.search_query[0, :2]].tolist() == ["x", "y"]
    assert past.merged_task[0, :3].tolist() == [2, 1, 2]


def test_last_day_uses_shanghai_time_and_drops_a_partial_day(make_log):
    log = make_log(n_users=30, length=20)
    shanghai_day = (log.events.time + 8 * 3_600_000) // 86_400_000
    log.events.time[-1] = (shanghai_day.max() + 1) * 86_400_000 - 8 * 3_600_000 + 5 * 3_600_000  # 05:00 of one day more
    parts = split(log, "last-day")
    day = (log.events.time + 8 * 3_600_000) // 86_400_000
    assert set(day[parts.test]) == {day.max() - 1} and set(day[parts.valid]) == {day.max() - 2}
    assert (day[parts.train] < day.max() - 2).all()
    for task in TASKS:
        assert len(parts.rows("test", task)) > 0
    train_pairs = set(zip(log.events.user[parts.train], log.events.item[parts.train], strict=True))
    held = np.concatenate([parts.valid, parts.test])
    assert not train_pairs & set(zip(log.events.user[held], log.events.item[held], strict=True))


@pytest.mark.parametrize("task", [0, 1])
def test_a_log_of_one_task(make_log, task):
    log = make_log(only=task)
    past = Histories(log).gather(np.arange(len(log.events)), Window(3, 3))
    empty, full = (past.search_len, past.rec_len) if task == 0 else (past.rec_len, past.search_len)
    assert (empty == 0).all() and full.max() == 3
    batch = next(TrainData(Batches(split(log)), (TASKS[task],), 0).batches(8, 0, Window(3, 3), 0, 1))
    assert batch.cand.shape == (8, 1) and (batch.cand[:, 0] == batch.item).all()
