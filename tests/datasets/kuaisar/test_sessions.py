"""Search sessions: what is clicked, what is displayed, and what the core leaves."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data import sources
from bench.data.batch import Batches
from bench.data.build import dense
from bench.data.log import Log
from bench.data.ragged import Ragged
from bench.data.split import split
from bench.datasets.kuaisar.csv import word_ids
from bench.datasets.kuaisar.interactions import groups
from bench.errors import RunError
from bench.evaluation.candidates import draw
from bench.evaluation.leaks import counters

from .release_files import T0, by_hand, numbers, records, sessions_of


def displayed(folder: Path, log: Log) -> Counter:
    """(user, time, words of the query, item) that a session of the log displayed and nobody clicked, row by row."""
    sessions: dict = defaultdict(dict)
    for row in records(folder / "src_inter.csv"):
        if row["item_type"] in ("VIDEO", "IMAGE_ATLAS"):
            who = (row["user_id"], row["search_session_timestamp"], row["keyword"])
            clicks = sessions[*who, row["search_session_id"], row["search_session_source"]]
            clicks[row["item_id"]] = max(clicks.get(row["item_id"], 0), int(row["click_cnt"]))
    items = set(log.items.id.tolist())
    events = log.events
    search = events.task == 1
    text = [" ".join(numbers(key)) for key in log.queries.text]
    left = {
        (log.users.id[user], str(time), text[query])
        for user, time, query in zip(events.user[search], events.time[search], events.query[search], strict=True)
    }
    return Counter(
        (user, time, " ".join(numbers(keyword)), item)
        for (user, time, keyword, *_), clicks in sessions.items()
        if (user, time, " ".join(numbers(keyword))) in left and any(clicks[item] and item in items for item in clicks)
        for item, count in clicks.items()
        if not count and item in items
    )


def test_what_sessions_displayed_is_kept_and_becomes_hard_negatives(plain, release, place):
    events, shown = plain.events, plain.shown
    first = {session: row for row, session in reversed(list(enumerate(events.session.tolist())))}
    ours = Counter(
        (
            plain.users.id[events.user[first[session]]],
            str(events.time[first[session]]),
            plain.queries.text[events.query[first[session]]],
            plain.items.id[item],
        )
        for session in range(1, len(shown))
        for item in shown[session].tolist()
    )
    assert sum(ours.values()) > 300 and ours == displayed(release, plain)
    assert sum(ours.values()) == plain.manifest["shown in the sessions and not clicked"]
    again = place()
    assert np.array_equal(again.shown.values, shown.values) and np.array_equal(again.shown.offsets, shown.offsets)

    parts = split(plain, "last-day")
    chosen = draw(parts, strategy="shown", negatives=19)
    assert draw(parts, strategy="shown", negatives=19, chunk=7, workers=2).fingerprint == chosen.fingerprint
    assert (events.task[chosen.rows] == 1).all() and chosen.label == "shown-19"
    met = 0
    for row, items in zip(chosen.rows, chosen.items, strict=True):
        mine = set(events.item[events.user == events.user[row]].tolist())
        free = set(shown[events.session[row]].tolist()) - mine
        negatives = set(items.tolist()) - {int(events.item[row])}
        assert len(negatives & free) == min(19, len(free)) and not negatives & mine
        met += len(free)
    assert met
    found = counters(Batches(parts), chosen)
    assert found["negatives that the session displayed (mean)"] == pytest.approx(met / len(chosen))


def test_a_click_that_is_cut_is_not_among_what_was_displayed(place):
    cut = place(clicks=1)
    events, shown = cut.events, cut.shown
    whole = displayed(place.folder, cut)
    assert whole and len(shown.values) <= sum(whole.values())
    for session in np.unique(events.session[events.task == 1])[:200]:
        assert not set(shown[session].tolist()) & set(events.item[events.session == session].tolist())


def test_sessions(tmp_path):
    a, b = ("[1, 2]", "USER_INPUT"), ("[1,2, 3]", "USER_INPUT")
    search = [
        (1, 9, T0, a[1], a[0], 11, 0, "VIDEO"),
        (1, 9, T0 + 5000, a[1], a[0], 12, 1, "VIDEO"),  # the same id again, later: another session
        (1, 9, T0, a[1], a[0], 13, 2, "IMAGE_ATLAS"),  # rows of a session are not contiguous
        (1, 9, T0, a[1], a[0], 11, 1, "VIDEO"),  # repeated with a click: it counts once, as a click
        (1, 9, T0, b[1], b[0], 14, 1, "VIDEO"),  # another keyword: another session
        (1, 9, T0, "HOT_LIST", a[0], 15, 1, "VIDEO"),  # another source, too
        (1, 9, T0, a[1], a[0], 16, 1, "USER"),  # no video
        (1, 9, T0 + 9000, a[1], "[]", 17, 1, "VIDEO"),  # no keyword
        (1, 9, T0 + 9500, a[1], a[0], 18, 0, "VIDEO"),  # no click: the first item played by itself
        (1, 9, T0 + 9500, a[1], a[0], 19, 0, "VIDEO"),
        (2, 9, T0, a[1], a[0], 11, 1, "VIDEO"),  # no recommendation click: not a user of both
    ]
    rec = [(1, 21, T0, 1), (1, 21, T0, 0), (1, 22, T0, 0), (2, 23, T0, 0)]
    by_hand(tmp_path / "kuaisar" / "KuaiSAR_v2", search, rec)
    log = sources.load("kuaisar", {"core": 0}, tmp_path)
    expected = [(0, "1 2", [11, 13]), (0, "1 2", [15]), (0, "1 2 3", [14]), (5, "1 2", [12])]
    assert sessions_of(log) == expected
    assert log.users.id.tolist() == ["", "1"]
    assert (log.events.task == 0).sum() == 1
    assert log.categories.id.tolist() == ["", "2:3"] and log.items.text[1] == "Funny 11 5"
    log = sources.load("kuaisar", {"core": 0, "unclicked_sessions": "first-item"}, tmp_path)
    assert sessions_of(log) == [*expected, (9, "1 2", [18])]
    log = sources.load("kuaisar", {"core": 0, "item_types": "VIDEO,IMAGE_ATLAS,USER"}, tmp_path)
    assert (0, "1 2", [11, 13, 16]) in sessions_of(log)


@pytest.mark.parametrize("limit", [5, 2, 0])
def test_most_clicked_items_of_a_session_are_kept(tmp_path, limit):
    search = [(1, 1, T0, "USER_INPUT", "[1]", 10 + count, count, "VIDEO") for count in range(1, 9)]
    by_hand(tmp_path / "kuaisar" / "KuaiSAR_v2", search, [(1, 99, T0, 1)])
    log = sources.load("kuaisar", {"core": 0, "clicks": limit}, tmp_path)
    kept = limit or 8
    assert sessions_of(log) == [(0, "1", [10 + count for count in range(9 - kept, 9)])]


def test_variants_of_the_core(place):
    counts = {}
    for options in (
        {},
        {"core_rounds": "once"},
        {"core_rows": "exposures"},
        {"core_scope": "each-task"},
        {"core": 0},
        {"core": 8},
    ):
        log = place(**options)
        counts[tuple(options.items())] = len(log.events)
        users, items = np.bincount(log.events.user)[1:], np.bincount(log.events.item)[1:]
        if options in ({}, {"core": 8}):
            assert min(users.min(), items.min()) >= options.get("core", 5)
        assert log.manifest["config"] | options == log.manifest["config"]
    assert len(set(counts.values())) == len(counts), counts
    assert counts[(("core", 0),)] == max(counts.values())
    with pytest.raises(RunError, match="no click is left by the 500-core; before it there were"):
        place(core=500)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-(2**40), 2**40), st.sampled_from([0, 10**17, -(10**17)])), max_size=30
    )
)
def test_groups_are_tuples_by_first_occurrence(rows):
    columns = [np.asarray(column, dtype=np.int64) for column in zip(*rows, strict=True)] or [
        np.zeros(0, dtype=np.int64)
    ] * 3
    number: dict = {}
    assert groups(*columns).tolist() == [number.setdefault(row, len(number)) for row in rows]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 10**9), max_size=5), st.sampled_from([", ", ",", " ", ",\n", "\n "])),
        max_size=8,
    )
)
def test_token_lists(entries):
    texts = pa.array([f"[{separator.join(map(str, ids))}]" for ids, separator in entries], pa.string())
    lists, bad = word_ids(texts)
    assert lists.to_pylist() == [ids for ids, _ in entries] and not bad.any()
    broken = pa.array(["[1, x]", "1.5", "[1;2]", "", "3"], pa.string())
    lists, bad = word_ids(broken)
    assert bad.tolist() == [True, True, True, False, False] and lists.to_pylist() == [[], [], [], [], [3]]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8), st.data())
def test_ragged_take_and_cut(lists, data):
    ragged = Ragged.from_lists(lists)
    rows = np.asarray(data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10)), dtype=np.int64)
    taken = ragged.take(rows)
    assert [taken[row].tolist() for row in range(len(taken))] == [lists[row] for row in rows]
    width = data.draw(st.integers(0, 6))
    cut = ragged.cut(width)
    assert [cut[row].tolist() for row in range(len(cut))] == [entry[:width] for entry in lists]


def test_dense():
    ids, code = dense(np.asarray([7, 103_656_000_000, 7, 2]))
    assert ids.tolist() == [2, 7, 103_656_000_000] and code.tolist() == [2, 3, 2, 1]
