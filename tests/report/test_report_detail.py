"""What the report shows of single rows, strata, curves and both ways of ranking, held to its definition."""

import json

import numpy as np
import pytest

from bench.evaluation.metrics import PRIMARY
from bench.evaluation.top_lists import DEPTH
from bench.report.detail.curves import curves
from bench.report.detail.lists import task_lists
from bench.report.detail.other_candidates import both_ways
from bench.report.detail.single_rows import single_rows
from bench.report.detail.strata import strata
from bench.report.table import table
from bench.store.results import CURVE

TASKS = ("rec", "search")


def test_strata_divide_the_rows(block, data):
    """Every row is in one stratum; strata of users, weighted by their users, give the mean in the table."""
    for task in TASKS:
        for divided in strata(block, task, data):
            assert sum(stratum.rows for stratum in divided.strata) == block.rows_of[task][1]
            for stratum in divided.strata:
                assert [cell.number for cell in stratum.cells] == list(block.ranks[task])
        (of_users,) = [each for each in strata(block, task, data) if each.title == "user"]
        users = np.array([stratum.users for stratum in of_users.strata])
        assert users.sum() == block.rows_of[task][0]
        for place, number in enumerate(block.ranks[task]):
            means = np.array([stratum.cells[place].mean for stratum in of_users.strata])
            whole = block.estimates[number, task, PRIMARY].mean
            assert means @ users / users.sum() == pytest.approx(whole, abs=1e-12)


def test_strata_are_what_they_are_called(block, data):
    """Against counts by a loop over the events of the log."""
    events, test = data.log.events, block.ranks["search"][next(iter(block.ranks["search"]))][0]
    split = data._prepared.split
    queries = set(events.query[split.train].tolist())
    seen = sum(int(query) in queries for query in test.query)
    (divided,) = [each for each in strata(block, "search", data) if each.title == "query"]
    rows = {stratum.name: stratum.rows for stratum in divided.strata}
    assert rows.get("in training", 0) == seen and rows.get("not in training", 0) == len(test) - seen
    (divided,) = [each for each in strata(block, "search", data) if each.title.startswith("training events")]
    counts = [int((events.item[split.train] == item).sum()) for item in test.item]
    rows = {stratum.name: stratum.rows for stratum in divided.strata}
    inside = np.array([5 <= count < 20 for count in counts])
    assert rows["5 to 19"] == inside.sum() > 0
    (stratum,) = [each for each in divided.strata if each.name == "5 to 19"]
    for cell in stratum.cells:
        by_user = {}
        for runs in block.ranks["search"][cell.number]:
            for user, value in zip(runs.user[inside], runs.values(PRIMARY)[inside], strict=True):
                by_user.setdefault(int(user), []).append(value)
        assert cell.mean == pytest.approx(np.mean([np.mean(values) for values in by_user.values()]), abs=1e-12)


def test_single_rows_are_the_largest_losses_and_wins(block, data):
    for task in TASKS:
        lists = task_lists(block, task)
        sample = single_rows(block, task, data, lists, each_way=3)
        assert len(sample.rows) < sample.of
        values = {n: runs[0].values(PRIMARY) for n, runs in block.ranks[task].items()}
        for place, (number, other) in enumerate(zip(sample.models, sample.references, strict=True)):
            gaps = np.sort(values[number] - values[other])
            there = sample.models.index(other)
            shown = np.sort([row["values"][place] - row["values"][there] for row in sample.rows])
            for edge in (slice(None, 3), slice(-3, None)):
                assert shown[edge] == pytest.approx(gaps[edge], abs=1e-4)
        for row in sample.rows:
            for (better, tied), best in zip(row["places"], row["lists"], strict=True):
                # The list and the place of the clicked item are of the same row.
                if better + tied < DEPTH:
                    assert row["positive"] in best[better : better + tied + 1]
                elif better >= DEPTH:
                    assert row["positive"] not in best
            assert row["positive"] not in [item for item, _ in row["history"]]
            assert (row["query"] != "") == (task == "search")


def test_sampled_and_full_ranking_are_those_of_two_tables(store, block):
    (full,) = table(store, candidates="full").blocks
    for task in TASKS:
        both, back = both_ways(block, task), both_ways(full, task)
        for number, drawn, on_full in zip(both.numbers, both.on_drawn, both.on_full, strict=True):
            assert drawn == pytest.approx(block.estimates[number, task, PRIMARY].mean, abs=1e-12)
            assert on_full == pytest.approx(full.estimates[number, task, PRIMARY].mean, abs=1e-12)
        assert back.reversed == both.reversed
        assert (*back.on_drawn, *back.on_full) == pytest.approx((*both.on_drawn, *both.on_full), abs=1e-12)
        for a, b in both.reversed:
            places = both.numbers.index(a), both.numbers.index(b)
            assert both.on_drawn[places[0]] > both.on_drawn[places[1]]
            assert both.on_full[places[0]] < both.on_full[places[1]]


def test_curves_hold_the_lines_of_the_files(block):
    points = curves(block)
    (run, *_) = next(row for row in block.group.rows if row.model == "lightgcn").runs
    lines = [json.loads(line) for line in (run.folder / CURVE).read_text().splitlines()]
    losses = [point.value for point in points if point.name == "train/loss" and point.seed == run.record.seed]
    assert losses == pytest.approx([line["train/loss"] for line in lines], rel=1e-5)
