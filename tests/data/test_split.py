"""Splits against a slow reading of their definition, and what no split may do."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batches
from bench.data.build import build
from bench.data.history import Guards, Histories, Window
from bench.data.log import TASKS, Log
from bench.data.split import local_times, split
from bench.data.training import TrainData
from bench.errors import UsageError

HOUR, DAY = 3_600_000, 86_400_000
MESSY = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "n_users": st.integers(1, 5),
        "acts": st.integers(1, 15),
        "n_items": st.sampled_from([6, 30]),
        "instants": st.sampled_from([3, 200_000]),
        "mode": st.sampled_from(["mirror", "natural"]),
    }
)
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
    parts = split(log, allow_empty=True)
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


@pytest.mark.parametrize("days", [False, True])
def test_guards_off_plant_the_leak(make_log, days):
    """In mirror mode every search row follows its own twin: without the guards the target is in the history."""
    log = make_log(mode="mirror", days=days)
    rows = split(log).rows("test", "search")
    window = Window(None, None)

    def leaked(guards: Guards) -> float:
        past = Histories(log, guards).gather(rows, window)
        return float((past.rec_items == log.events.item[rows][:, None]).any(1).mean())

    assert leaked(Guards()) == 0
    assert leaked(Guards(own_event=False, own_item=False)) == 1


@pytest.mark.parametrize(
    ("name", "manifest", "hours"),
    [
        ("last-day", {}, 0),
        ("last-day", {"time_zone": "Asia/Shanghai"}, 8),
        ("last-day:Asia/Tokyo", {"time_zone": "Asia/Shanghai"}, 9),
        ("last-day:America/Phoenix", {}, -7),
    ],
)
def test_last_day_cuts_days_of_its_time_zone_and_drops_a_partial_day(make_log, name, manifest, hours):
    log = make_log(n_users=30, length=20)
    log.manifest.update(manifest)
    offset, hour = hours * HOUR, HOUR
    local_day = (log.events.time + offset) // DAY
    log.events.time[-1] = (local_day.max() + 1) * DAY - offset + 5 * hour  # 05:00 of one day more
    parts = split(log, name)
    day = (log.events.time + offset) // DAY
    assert set(day[parts.test]) == {day.max() - 1} and set(day[parts.valid]) == {day.max() - 2}
    assert (day[parts.train] < day.max() - 2).all() and parts.dropped["rows of the partial last day"] == 1
    for task in TASKS:
        assert len(parts.rows("test", task)) > 0
    assert parts.label == f"last-day:{parts.time_zone}" and split(log, parts.label).label == parts.label


def test_a_full_last_day_is_the_test_day(make_log):
    log = make_log(n_users=30, length=20)
    last = log.events.time.max() // DAY
    np.minimum(log.events.time, (last + 1) * DAY - 2 * HOUR, out=log.events.time)
    log.events.time[-1] = (last + 1) * DAY - HOUR // 2
    assert set(log.events.time[split(log, "last-day").test] // DAY) == {last}
    log.events.time[-1] = (last + 1) * DAY - HOUR - 1
    assert set(log.events.time[split(log, "last-day").test] // DAY) == {last - 1}
    log.manifest["last_day"] = "partial"
    assert set(log.events.time[split(log, "last-day").test] // DAY) == {last}


def test_local_times_follow_daylight_saving():
    times = np.array([1_711_843_200_000, 1_711_850_400_000])  # 2024-03-31 00:00 and 02:00 UTC
    berlin = local_times(times, "Europe/Berlin")
    assert ((berlin - times) // HOUR).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("last-day:Mars/Olympus", "unknown time zone 'Mars/Olympus'"),
        ("last-day:../etc", "unknown time zone"),
        ("leave-one-out:UTC", "takes no time zone"),
        ("random", "unknown split 'random'; known: leave-one-out"),
        ("given", "brings no split of its own"),
    ],
)
def test_wrong_names_are_one_line(make_log, name, message):
    with pytest.raises(UsageError, match=message) as caught:
        split(make_log(), name)
    assert "\n" not in str(caught.value)


def test_leave_one_out_holds_out_acts_not_rows():
    """The last search has three clicks and another act between them; all of it is test."""
    rows = [(1, "a", 1, 1), (2, "b", 2, 1), (3, "c", 3, 1), (4, "d", 4, 1), (4, "e", 6, 1), (4, "f", 7, 1)]
    log = acts([*rows, (5, "g", 5, 0), (6, "h", 8, 0)])
    parts = split(log)
    named = {part: sorted(log.items.id[log.events.item[parts.rows(part)]]) for part in ("train", "valid", "test")}
    assert named["test"] == ["d", "e", "f"] and named["valid"] == ["c"]
    assert named["train"] == ["a", "b"]
    assert parts.dropped["training rows after the user's first held-out event"] == 2


def test_three_clicks_of_one_session_are_one_event():
    log = acts([(1, "a", 1, 1), (1, "b", 1, 1), (1, "c", 1, 1)])
    with pytest.raises(UsageError, match="because no user has three events of a task"):
        split(log)


def test_a_validation_pair_that_is_the_test_pair_is_dropped_and_counted():
    """Users click their last item twice."""
    log = acts([(n, item, n, 0) for n, item in enumerate("abcdd")])
    parts = split(log)
    assert parts.dropped["validation rows whose user and item are a test pair"] == 1
    assert len(parts.valid) == 0 and log.items.id[log.events.item[parts.test]].tolist() == ["d"]
    # The pair is the same whatever the task; another user's pair is another.
    log = acts(
        [(n, item, n, task) for n, (item, task) in enumerate(zip("abcdwxyd", (0, 0, 0, 0, 1, 1, 1, 1), strict=True))]
    )
    assert split(log).dropped["validation rows whose user and item are a test pair"] == 0


def test_an_event_is_in_one_part():
    """The boundary of global time falls into a search; its clicks before the boundary are not trained on."""
    rows = [(n, f"i{n}", n, 1) for n in range(18)]
    log = acts([*rows[:15], (99, "x", 14, 1), (99, "y", 19, 1), *rows[15:]])
    parts = split(log, "global-time")
    part_of = {log.items.id[log.events.item[row]]: part for part in ("train", "test") for row in parts.rows(part)}
    assert part_of["y"] == "test" and "x" not in part_of
    assert parts.dropped["rows of an event that goes on in a later part"] == 1


@pytest.mark.parametrize("name", ["leave-one-out", "last-day", "global-time", "given"])
@given(case=MESSY)
@settings(max_examples=25, deadline=None)
def test_what_holds_under_every_split(make_messy, name, case):
    log = make_messy(**case)
    events = log.events
    if name == "given":
        part = np.random.default_rng(case["seed"]).integers(-1, 3, len(events)).astype(np.int8)
        log = replace(log, events=replace(events, part=part))
    parts = split(log, name, allow_empty=True)
    pairs, acts_of = {}, {}
    for part in ("train", "valid", "test"):
        rows = parts.rows(part)
        pairs[part] = set(zip(events.user[rows].tolist(), events.item[rows].tolist(), strict=True))
        acts_of[part] = set(events.event_id[rows].tolist())
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not pairs[first] & pairs[second] and not acts_of[first] & acts_of[second]
    held = np.concatenate([parts.valid, parts.test])
    for row in held:
        assert not ((events.user[parts.train] == events.user[row]) & (parts.train > row)).any()
    assert set(events.user[held]) <= set(events.user[parts.train])
    lost = sum(count for reason, count in parts.dropped.items() if "rows" in reason)
    assert len(parts.train) + len(held) + lost == len(events)


@pytest.mark.parametrize(
    ("name", "rows", "because"),
    [
        ("leave-one-out", [(n, f"i{n % 2}", n, 0, n // 2) for n in range(200)], "no user has three events of a task"),
        ("global-time", [(n, f"i{n}", 5, 0, n % 3) for n in range(30)], "users without training rows: 30.*one time"),
        ("last-day", [(n, f"i{n}", n, 0, n % 3) for n in range(30)], "no event falls on the day to test on"),
        ("global-time", [(n, f"i{n}", n, 0, n) for n in range(30)], "none of 3 is left .*users without training rows"),
        ("leave-one-out", [], "the log has no events"),
        ("global-time", [], "the log has no events"),
    ],
)
def test_a_split_without_test_rows_says_why(name, rows, because):
    log = acts(rows)
    with pytest.raises(UsageError, match=f"tiny: no test rows under the split {name}.*, because .*{because}") as caught:
        split(log, name)
    assert "\n" not in str(caught.value)
    assert len(split(log, name, allow_empty=True).test) == 0


def acts(rows: list[tuple]) -> Log:
    """A natural log of rows (act, item, time, task[, user])."""
    full = [(*row, 0)[:5] for row in rows]
    events = pd.DataFrame(full, columns=["act", "item", "time", "task", "user"])
    events["task"] = events["task"].astype(np.int8)
    events["query"] = np.where(events["task"] == 1, "x", "")
    events[["user", "item"]] = events[["user", "item"]].astype(str)
    items = pd.DataFrame({"id": sorted(set(events["item"])), "text": ""})
    return build("tiny", "natural", events, items, pd.DataFrame({"id": ["x"], "text": ["x"]}), seed=0)


@pytest.mark.parametrize("task", [0, 1])
def test_a_log_of_one_task(make_log, task):
    log = make_log(only=task)
    past = Histories(log).gather(np.arange(len(log.events)), Window(3, 3))
    empty, full = (past.search_len, past.rec_len) if task == 0 else (past.rec_len, past.search_len)
    assert (empty == 0).all() and full.max() == 3
    stream = TrainData(Batches(split(log)), (TASKS[task],), 0).events(8, negatives=0, window=Window(3, 3))
    batch = next(stream.batches(0, 1))
    assert batch.cand.shape == (8, 1) and (batch.cand[:, 0] == batch.item).all()
