"""Batches and the lists that models read off them."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batch, Batches
from bench.data.build import build
from bench.data.history import Window
from bench.data.merged import session_numbers
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError


@pytest.fixture(scope="module")
def batch(make_messy) -> Batch:
    log = make_messy(n_users=5, acts=30, n_items=60)
    data = TrainData(Batches(split(log)), ("rec", "search"), 0)
    (rows,) = data.events(200, negatives=3, window=Window(6, 5, 4)).batches(0, 1)
    return rows


def units_of(batch: Batch, row: int) -> list[tuple[int, int, list[int], int]]:
    """(task, query, items, time) of the merged history, unit by unit."""
    units = []
    for task, column in zip(batch.merged_task[row], batch.merged_column[row], strict=True):
        if len(units) == batch.merged_len[row]:
            break
        c = int(column)
        if task == 0:
            units.append((0, 0, [int(batch.rec_items[row, c])], int(batch.rec_times[row, c])))
        else:
            clicks = [int(item) for item in batch.search_items[row, c] if item > 0]
            units.append((1, int(batch.search_query[row, c]), clicks, int(batch.search_times[row, c])))
    return units


@pytest.mark.parametrize("length", [1, 4, 11, 30])
def test_merged_history_has_times_and_all_clicks(batch, length):
    history = batch.merged(length)
    assert history.clicks.shape[:2] == (len(batch), length)
    several = 0
    for row in range(len(batch)):
        units = units_of(batch, row)[-length:]
        n = len(units)
        assert history.length[row] == n and history.mask[row].tolist() == [True] * n + [False] * (length - n)
        for i, (task, query, items, time) in enumerate(units):
            assert (history.tasks[row, i], history.queries[row, i], history.times[row, i]) == (task, query, time)
            assert history.clicks[row, i][history.clicks[row, i] > 0].tolist() == items
            assert history.items[row, i] == items[0]
            several += len(items) > 1
        for name in ("clicks", "queries", "tasks", "times"):
            assert (getattr(history, name)[row, n:] == 0).all(), name
    assert several


@pytest.mark.parametrize("length", [1, 5, 40])
def test_interleaved_units_are_query_click_click(batch, length):
    tokens = batch.merged(9).interleaved(length)
    for row in range(len(batch)):
        wanted = []
        for place, (task, query, items, time) in enumerate(units_of(batch, row)[-9:]):
            wanted += [(query, True, 1, time, place)] if task else []
            wanted += [(item, False, task, time, place) for item in items]
        wanted = wanted[-length:]
        n = len(wanted)
        assert tokens.length[row] == n and int(tokens.mask[row].sum()) == n
        columns = (tokens.ids, tokens.is_query, tokens.tasks, tokens.times, tokens.unit)
        assert list(zip(*(column[row, :n].tolist() for column in columns), strict=True)) == wanted
        assert not any(column[row, n:].any() for column in columns)


@pytest.mark.parametrize("length", [1, 6, 40])
def test_last_clicks_are_clicked_items_with_their_queries(batch, length):
    clicks = batch.merged(9).last_clicks(length)
    for row in range(len(batch)):
        wanted = [(item, query) for _, query, items, _ in units_of(batch, row)[-9:] for item in items][-length:]
        n = len(wanted)
        assert clicks.length[row] == n
        assert list(zip(clicks.items[row, :n].tolist(), clicks.queries[row, :n].tolist(), strict=True)) == wanted
        assert not clicks.items[row, n:].any() and not clicks.queries[row, n:].any()


@given(
    pauses=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    gap=st.integers(0, 60),
    padding=st.integers(0, 3),
)
@settings(deadline=None)
def test_a_session_ends_at_a_longer_pause(pauses, gap, padding):
    times = np.cumsum(pauses)
    numbers = [0]
    for pause in pauses[1:]:
        numbers.append(numbers[-1] + (pause > gap))
    tensor = torch.tensor([[*times, *[0] * padding]])
    mask = torch.tensor([[True] * len(pauses) + [False] * padding])
    assert session_numbers(tensor, mask, gap).tolist() == [numbers + [0] * padding]


def test_negatives_stand_apart_from_the_clicked_item(batch):
    rest = batch.cand[batch.label == 0].view(len(batch), 3)
    assert torch.equal(rest.sort(1).values, batch.negatives.sort(1).values)
    assert torch.equal(batch.cand[batch.label == 1], batch.item)
    assert not (batch.negatives == batch.item[:, None]).any()


def test_without_negatives_nothing_is_drawn(make_messy, monkeypatch):
    from bench.data import hashing

    data = TrainData(Batches(split(make_messy())), ("rec",), 0)
    stream = data.events(8, negatives=0, window=Window())
    monkeypatch.setattr(hashing, "draw", lambda *_: pytest.fail("a number was drawn"))
    (rows,) = stream.batches(0, 1)
    assert rows.cand.shape == (len(rows), 1) and rows.negatives.shape == (len(rows), 0)
    assert torch.equal(rows.cand[:, 0], rows.item) and (rows.label == 1).all()


@pytest.mark.parametrize("window", [Window(0, 0), Window(0, 3), Window(3, 0)])
def test_a_model_that_reads_no_history_gets_none(make_messy, window):
    data = TrainData(Batches(split(make_messy())), ("rec", "search"), 0)
    (rows,) = data.events(50, negatives=2, window=window).batches(0, 1)
    assert rows.rec_items.shape[1] == window.rec and rows.search_query.shape[1] == window.search
    history = rows.merged(4)
    assert (history.length == rows.merged_len.clamp(max=4)).all()
    assert set(history.tasks[history.mask].tolist()) <= {0 if window.rec else 1}
    assert (rows.merged_len > 0).any() == (window != Window(0, 0))


def test_a_batch_prints_on_one_short_line(batch):
    assert repr(batch).startswith("Batch(") and len(repr(batch)) < 400 and "\n" not in repr(batch)


def test_a_user_who_knows_nearly_every_item_is_left_out_of_training_and_counted():
    events = [(n, "all", f"i{n}", n) for n in range(12)] + [(100 + n, "few", f"i{n}", n) for n in range(6)]
    table = pd.DataFrame(events, columns=["act", "user", "item", "time"]).assign(query="", task=0)
    items = pd.DataFrame({"id": [f"i{n}" for n in range(12)], "text": ""})
    queries = pd.DataFrame({"id": [], "text": []}, dtype=str)
    log = build("tiny", "natural", table, items, queries, seed=0)
    data = TrainData(Batches(split(log)), ("rec",), 0)
    few = int(np.flatnonzero(log.users.id == "few")[0])
    data.events(50, negatives=2, window=Window())
    assert data.left_out == 0 and len(data) == 14
    (rows,) = data.events(50, negatives=4, window=Window()).batches(0, 1)
    assert set(rows.user.tolist()) == {few} and len(rows) == 4
    assert data.left_out == 10
    (windows,) = data.sequences(50, length=20, negatives=4).batches(0, 1)
    assert windows.user.tolist() == [few]
    with pytest.raises(RunError, match="train with fewer negatives"):
        data.events(50, negatives=9, window=Window())


def test_a_batch_is_moved_only_where_it_is_not_and_cut_alike_by_mask_and_by_number(batch):
    assert batch.to("cpu") is batch and batch.to(torch.device("cpu")) is batch
    assert batch.to("meta").user.device.type == "meta"
    mask = batch.rec_len > 2
    assert 0 < mask.sum() < len(batch)
    by_mask, by_number = batch.take(mask), batch.take(torch.nonzero(mask).flatten())
    for name, value in vars(by_mask).items():
        assert torch.equal(value, getattr(by_number, name)) and torch.equal(value, getattr(batch, name)[mask]), name
