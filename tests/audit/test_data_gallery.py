"""The audit of data finds each planted fault and is silent on sound data."""

from dataclasses import replace

import numpy as np
import pytest

from bench.audit.data import audit_data, retied
from bench.data.history import Guards, Histories
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.leaks import FALSE_NEGATIVES, TARGET_IN_HISTORY

from . import gallery
from .prepared import loud, prepared_of


def found(prepared, candidates=None):
    return audit_data(prepared, candidates or draw(prepared.split))


@pytest.fixture(scope="module")
def prepared():
    return prepared_of(gallery.tastes())


def test_sound_data_are_sound(prepared):
    findings = found(prepared)
    assert loud(findings) == [], [finding.line() for finding in findings]
    assert {finding.check for finding in findings} <= {"future", "draws", "easy negatives"}


def test_targets_in_a_few_histories_are_found():
    """3 % of the users come back to an item; the split drops such rows, and a reader without guards would not."""
    log = gallery.tastes(again=0.03)
    prepared = prepared_of(log, keep_repeated=True)
    prepared.batches.histories = Histories(log, Guards(own_item=False))
    findings = found(prepared)
    assert {"leaks", "copies"} <= set(loud(findings)), [finding.line() for finding in findings]
    (counter,) = [each for each in findings if each.sentence == TARGET_IN_HISTORY.removeprefix("zero:")]
    assert counter.severity == "severe"
    (copies, *_) = [each for each in findings if each.check == "copies"]
    assert copies.severity == "severe" and "of 110 test rows" in copies.evidence
    # With the guards of the harness, and with the split that drops repeated pairs, the same data are sound.
    assert "copies" not in loud(found(prepared_of(log)))


def test_a_clicked_item_that_always_comes_first_is_found(prepared):
    sound = draw(prepared.split)
    first = np.argsort(np.arange(sound.items.shape[1])[None] != sound.position[:, None], axis=1, kind="stable")
    told = CandidateSet(
        sound.rows, np.take_along_axis(sound.items, first, 1), np.zeros_like(sound.position), sound.meta
    )
    findings = [each for each in found(prepared, told) if each.check == "positions"]
    assert [each.severity for each in findings] == ["severe", "severe"]
    assert "column 0 in 100.0% of the lists of 100" in findings[0].evidence
    # Also where it is first in one list of five.
    some = np.arange(len(sound)) % 5 == 0
    items = np.where(some[:, None], told.items, sound.items)
    mixed = CandidateSet(sound.rows, items, np.where(some, 0, sound.position), sound.meta)
    assert "positions" in loud(found(prepared, mixed))


def test_negatives_that_the_user_touched_are_found(prepared):
    sound, events = draw(prepared.split), prepared.log.events
    items = sound.items.copy()
    column = (sound.position + 1) % items.shape[1]
    for place, row in enumerate(sound.rows[:20]):
        other = events.item[(events.user == events.user[row]) & (events.item != events.item[row])]
        items[place, column[place]] = other[0]
    findings = found(prepared, replace(sound, items=items))
    (leak,) = [each for each in findings if each.check == "leaks"]
    assert leak.sentence == FALSE_NEGATIVES.removeprefix("zero:") and leak.evidence == "20 times"


def test_negatives_from_the_history_make_avoiding_it_a_winner(prepared):
    """A list of what the user has seen: a copy detector falls below chance."""
    sound, events = draw(prepared.split), prepared.log.events
    items = sound.items.copy()
    for place, row in enumerate(sound.rows):
        earlier = np.flatnonzero((events.user == events.user[row]) & (np.arange(len(events)) < row))
        columns = np.delete(np.arange(items.shape[1]), sound.position[place])[: len(earlier)]
        items[place, columns] = events.item[earlier]
    findings = [each for each in found(prepared, replace(sound, items=items)) if each.check == "copies"]
    assert findings and all(each.severity == "warning" for each in findings)


def test_events_of_one_time_are_found():
    findings = found(prepared_of(gallery.tastes(days=True)))
    (ties,) = [each for each in findings if each.check == "tie orders"]
    assert ties.severity == "warning" and "between 5 orders" in ties.evidence


def test_another_order_of_ties_keeps_everything_else(prepared):
    log = gallery.tastes(days=True)
    other = retied(log, 1)
    for events in (log.events, other.events):
        assert (np.lexsort((events.time, events.user)) == np.arange(len(events))).all()
    assert not np.array_equal(log.events.item, other.events.item)
    rows = [
        np.sort(np.array(list(zip(e.user, e.time, e.item, strict=True)), order="C"), axis=0)
        for e in (log.events, other.events)
    ]
    assert np.array_equal(*rows)
    # Without ties nothing moves.
    assert np.array_equal(retied(prepared.log, 1).events.item, prepared.log.events.item)


def test_few_users_and_made_up_queries_are_said(make_log):
    prepared = prepared_of(make_log(0), synthetic="queries")
    checks = {finding.check: finding.severity for finding in found(prepared, draw(prepared.split, strategy="full"))}
    assert checks["few users"] == "warning" and checks["synthetic"] == "note"
