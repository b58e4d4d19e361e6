"""Histories against a slow reading of their definition, on logs with overlapping acts, baskets, twins and repeats."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.build import build
from bench.data.history import Guards, Histories, Window
from bench.data.log import Log

CASES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n_users": st.integers(1, 3),
        "acts": st.integers(2, 12),
        "n_items": st.sampled_from([5, 30]),
        "instants": st.sampled_from([4, 300]),
        "mode": st.sampled_from(["mirror", "natural"]),
    }
)
LENGTHS = st.sampled_from([None, 0, 1, 3, 7])


def defined(log: Log, row: int, guards: Guards) -> list[tuple[int, list[int]]]:
    """(task, earlier rows) of every unit that the event `row` may see, in order."""
    events = log.events
    units: dict[tuple[int, int], list[int]] = {}
    for other in np.flatnonzero(events.user == events.user[row]):
        own = other if events.task[other] == 0 else events.event_id[other]
        units.setdefault((int(events.task[other]), int(own)), []).append(int(other))
    allowed = []
    for (task, _), rows in units.items():
        earlier = [r for r in rows if r < row and (not guards.strict_time or events.time[r] < events.time[row])]
        own_event = guards.own_event and events.event_id[rows[0]] == events.event_id[row]
        own_item = guards.own_item and events.item[row] in events.item[rows]
        if rows[0] in earlier and not own_event and not own_item:
            allowed.append((task, earlier))
    return sorted(allowed, key=lambda unit: unit[1][0])


@given(case=CASES, rec=LENGTHS, search=LENGTHS, clicks=st.integers(1, 5), switches=st.tuples(*[st.booleans()] * 3))
@settings(max_examples=60, deadline=None)
def test_histories_match_their_definition(make_messy, case, rec, search, clicks, switches):
    check(make_messy(**case), Guards(*switches), rec, search, clicks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["mirror", "natural"])
@pytest.mark.parametrize(
    "guards", [Guards(), Guards(strict_time=True), Guards(False, False), Guards(True, False, True)]
)
def test_histories_of_crowded_logs(make_messy, seed, mode, guards):
    """Few instants and many rows: every guard has something to do in every log."""
    log = make_messy(seed=seed, n_users=2, acts=14, n_items=12, instants=6, mode=mode)
    for rec, search, clicks in ((None, None, 5), (4, 3, 2)):
        check(log, guards, rec, search, clicks)


def check(log: Log, guards: Guards, rec: int | None, search: int | None, clicks: int) -> None:
    """Histories of all rows equal their definition."""
    events = log.events
    past = Histories(log, guards).gather(np.arange(len(events)), Window(rec, search, clicks))
    for row in range(len(events)):
        units = defined(log, row, guards)
        recs, searches = ([unit for unit in units if unit[0] == task] for task in (0, 1))
        recs = recs[len(recs) - rec :] if rec is not None and len(recs) > rec else recs
        searches = searches[len(searches) - search :] if search is not None and len(searches) > search else searches
        n, m = len(recs), len(searches)
        assert (past.rec_len[row], past.search_len[row]) == (n, m)
        first = [rows[0] for _, rows in recs]
        assert past.rec_items[row].tolist() == padded(events.item[first], past.rec_items.shape[1])
        assert past.rec_times[row].tolist() == padded(events.time[first], past.rec_items.shape[1])
        first = [rows[0] for _, rows in searches]
        width = past.search_query.shape[1]
        assert past.search_query[row].tolist() == padded(events.query[first], width)
        assert past.search_times[row].tolist() == padded(events.time[first], width)
        for column in range(width):
            shown = events.item[searches[column][1][:clicks]] if column < m else []
            assert past.search_items[row, column].tolist() == padded(shown, past.search_items.shape[2])
        merged = [unit for unit in units if unit in recs or unit in searches]
        tasks, columns = past.merged_task[row], past.merged_column[row]
        assert tasks.tolist() == padded([task for task, _ in merged], len(tasks))
        assert columns.tolist() == padded([(searches if t else recs).index((t, r)) for t, r in merged], len(columns))


def padded(values: Any, width: int) -> list[int]:
    return [int(value) for value in values] + [0] * (width - len(values))


def one_user(rows: list[tuple[int, str, int, int, str]], **manifest: Any) -> Log:
    """A log of rows (act, item, time, task, query) of one user."""
    events = pd.DataFrame(rows, columns=["act", "item", "time", "task", "query"]).assign(user="u")
    items = pd.DataFrame({"id": sorted(set(events["item"])), "text": ""})
    queries = pd.DataFrame({"id": ["x", "y"], "text": ["x", "y"]})
    return build("tiny", "natural", events, items, queries, seed=0, manifest=manifest)


def seen_by(log: Log, row: int, window: Window | None = None, guards: Guards | None = None) -> dict[str, list[str]]:
    """Items in the history of a row, by task."""
    past = Histories(log, guards).gather(np.array([row]), window or Window())
    named = {"rec": past.rec_items[0], "search": past.search_items[0].ravel()}
    return {task: log.items.id[items[items > 0]].tolist() for task, items in named.items()}


def test_sessions_are_one_unit():
    log = one_user(
        [(1, "a", 10, 1, "x"), (1, "b", 10, 1, "x"), (2, "c", 20, 0, ""), (3, "d", 30, 1, "y"), (4, "e", 40, 0, "")]
    )
    past = Histories(log).gather(np.array([len(log.events) - 1, 1]), Window(3, 3))
    assert past.search_len.tolist() == [2, 0], "a click of a session does not see the session's other clicks"
    assert sorted(log.items.id[past.search_items[0, 0]].tolist())[-2:] == ["a", "b"]
    assert log.queries.id[past.search_query[0, :2]].tolist() == ["x", "y"]
    assert past.merged_task[0, :3].tolist() == [1, 0, 1]


@pytest.mark.parametrize("task", [0, 1])
def test_items_of_one_basket_are_not_in_each_others_history(task):
    """Different items, so that the guard of the own item does not cover it."""
    query = "x" if task else ""
    basket = [(2, item, 20, task, query) for item in "bcd"]
    log = one_user([(1, "a", 10, 0, ""), *basket, (3, "e", 30, 0, "")])
    for row in range(1, 4):
        assert seen_by(log, row) == {"rec": ["a"], "search": []}
    # A session holds the item of each of its clicks, so that there the guard of the own item covers it.
    leaked = seen_by(log, 3, guards=Guards(own_event=False, own_item=task == 0))
    assert leaked != {"rec": ["a"], "search": []}, "with the guard off the basket is in the history"


def test_a_later_click_of_an_earlier_search_is_not_yet_known():
    log = one_user([(1, "a", 10, 1, "x"), (2, "b", 20, 0, ""), (1, "c", 30, 1, "x"), (3, "d", 40, 0, "")])
    assert seen_by(log, 1) == {"rec": [], "search": ["a"]}
    assert seen_by(log, 3) == {"rec": ["b"], "search": ["a", "c"]}


def test_a_click_of_the_same_instant_is_not_past_with_strict_time():
    rows = [(1, "a", 10, 1, "x"), (1, "b", 20, 1, "x"), (2, "c", 20, 0, ""), (3, "d", 30, 0, "")]
    strict = one_user(rows, strict_time=True)
    row = int(np.flatnonzero(strict.items.id[strict.events.item] == "c")[0])
    assert seen_by(strict, row) == {"rec": [], "search": ["a"]}
    assert seen_by(strict, 3) == {"rec": ["c"], "search": ["a", "b"]}


def test_a_window_of_none_and_of_all(make_log):
    log = make_log(n_users=3, length=50, n_items=60)
    rows = np.arange(len(log.events))
    past = Histories(log).gather(rows, Window(rec=0, search=None))
    assert past.rec_items.shape == (len(rows), 0) and (past.rec_len == 0).all()
    whole = Histories(log).gather(rows, Window(rec=1000, search=1000))
    assert (past.search_len == whole.search_len).all() and past.search_query.shape[1] == whole.search_len.max()
    assert (
        past.merged_task.shape[1] == past.search_query.shape[1] and (past.merged_task.sum(1) == past.search_len).all()
    )
