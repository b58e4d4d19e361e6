"""Counters that say whether a number can be trusted, stored with every evaluation.

Keys that start with `zero:` must be 0; the others are facts to read beside the result.
"""

from typing import Any

import numpy as np

from bench.data.batch import Batches
from bench.data.history import Window
from bench.data.log import SEARCH, TASKS
from bench.data.split import LogSplit
from bench.evaluation.candidates import CandidateSet, seen_items

TARGET_IN_HISTORY = "zero:target in own history"
HELD_OUT_IN_TRAINING = "zero:held-out pair in training"
HELD_OUT_IN_TRAINING_HISTORY = "zero:held-out event in a training history"
FALSE_NEGATIVES = "zero:negatives the user touched"
NOT_AVAILABLE = "not available (the data have no times)"


def counters(batches: Batches, candidates: CandidateSet) -> dict[str, Any]:
    """All counters of a split with one candidate set."""
    return split_counters(batches) | candidate_counters(batches.split, candidates)


def split_counters(batches: Batches) -> dict[str, Any]:
    """What depends on data and split only. Histories are those that models get, 100 units deep."""
    split, log = batches.split, batches.split.log
    events = log.events
    held = np.sort(np.concatenate([split.valid, split.test]))
    pair = events.user.astype(np.int64) * (len(log.items) + 1) + events.item
    first_held = np.full(len(log.users) + 1, len(events), dtype=np.int64)
    np.minimum.at(first_held, events.user[held], held)
    trained_users = np.isin(events.user[split.test], np.unique(events.user[split.train]))
    trained_items = np.isin(events.item[split.test], np.unique(events.item[split.train]))
    timed = log.manifest.get("times") != "order"
    return {
        TARGET_IN_HISTORY: _target_in_history(batches, held) + _target_in_history(batches, split.train),
        HELD_OUT_IN_TRAINING: int(np.isin(pair[held], pair[split.train]).sum()),
        HELD_OUT_IN_TRAINING_HISTORY: int((split.train > first_held[events.user[split.train]]).sum()),
        "share of training later than the test event": _future_share(split) if timed else NOT_AVAILABLE,
        "share of test rows with a time tie before them": _boundary_ties(split) if timed else NOT_AVAILABLE,
        "duplicate (user, item) rows": _duplicates(split),
        "items with text": float(np.mean([bool(text) for text in log.items.text[1:]]))
        if log.items.text is not None
        else 0.0,
        "test rows of users without training": int((~trained_users).sum()),
        "test rows of items without training": int((~trained_items).sum()),
    }


def candidate_counters(split: LogSplit, candidates: CandidateSet) -> dict[str, Any]:
    """What depends on the candidates."""
    if candidates.items is None:
        return {FALSE_NEGATIVES: 0}
    log, events = split.log, split.log.events
    negative = candidates.items > 0
    negative[np.arange(len(candidates)), candidates.position] = False
    seen = seen_items(split).contains(events.user[candidates.rows][:, None], candidates.items) & negative
    facts: dict[str, Any] = {FALSE_NEGATIVES: int(seen.sum())}
    if left_out := candidates.meta.get("left_out"):
        facts["rows left out, too few items that their users never touched"] = left_out["rows"]
        facts["users of the rows left out"] = left_out["users"]
    search = events.task[candidates.rows] == SEARCH
    if search.any() and log.items.queries is not None:
        width = len(log.queries) + 1
        carried = np.unique(log.items.queries.owners() * width + log.items.queries.values)
        wanted = candidates.items[search].astype(np.int64) * width + events.query[candidates.rows[search]][:, None]
        facts["negatives that carry the query (mean)"] = float(
            (np.isin(wanted, carried) & negative[search]).sum(1).mean()
        )
    if search.any() and log.shown is not None:
        session = events.session[candidates.rows]
        displayed = np.unique(log.shown.owners() * (len(log.items) + 1) + log.shown.values)
        wanted = session[search][:, None] * (len(log.items) + 1) + candidates.items[search]
        facts["negatives that the session displayed (mean)"] = float(
            (np.isin(wanted, displayed) & negative[search]).sum(1).mean()
        )
    return facts


def _target_in_history(batches: Batches, rows: np.ndarray, chunk: int = 8192) -> int:
    """Rows whose own item occurs in the history that a model would read."""
    leaks = 0
    item = batches.split.log.events.item
    for low in range(0, len(rows), chunk):
        part = rows[low : low + chunk]
        past = batches.histories.gather(part, Window(rec=100, search=100, clicks=100))
        in_rec = (past.rec_items == item[part][:, None]).any(1)
        in_search = (past.search_items == item[part][:, None, None]).any((1, 2))
        leaks += int((in_rec | in_search).sum())
    return leaks


def _future_share(split: LogSplit) -> float:
    """Mean over test rows of the share of training rows with a later time."""
    events = split.log.events
    if not len(split.test) or not len(split.train):
        return float("nan")
    times = np.sort(events.time[split.train])
    return float(1 - np.searchsorted(times, events.time[split.test], side="right").mean() / len(times))


def _boundary_ties(split: LogSplit) -> float:
    """Share of test rows that share user and time with the event before them, other than their own twin."""
    events = split.log.events
    rows = split.test[split.test > 0]
    before = rows - 1
    tie = (events.user[rows] == events.user[before]) & (events.time[rows] == events.time[before])
    tie &= events.event_id[rows] != events.event_id[before]
    return float(tie.mean()) if len(rows) else float("nan")


def _duplicates(split: LogSplit) -> int:
    events = split.log.events
    total = 0
    for code in range(len(TASKS)):
        of_task = events.task == code
        pair = events.user[of_task].astype(np.int64) * (len(split.log.items) + 1) + events.item[of_task]
        total += len(pair) - len(np.unique(pair))
    return total
