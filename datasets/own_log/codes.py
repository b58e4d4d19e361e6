"""Events as numbers: codes of users, items and queries as in the Log, and which rows are one act of a user."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bench.data.build import sorted_ids
from bench.data.log import SEARCH, TASKS
from bench.datasets.own_log.read import LogFile


@dataclass(frozen=True)
class EventCodes:
    """The rows of an events file (n,).

    Attributes:
        table: int columns `user`, `item`, `query`, `session`, `event` (0 = no value, else from 1), `time` (ms), `task`.
            `user`, `item` and `query` are the places of their ids in the sorted lists below.
        users, items, queries: ids, sorted as in a Log.
    """

    table: pd.DataFrame
    users: pd.Index
    items: pd.Index
    queries: pd.Index

    @cached_property
    def tied(self) -> np.ndarray:
        """(n,) rows that share user and time with another row."""
        user, time = self.table["user"].to_numpy(np.int64), self.table["time"].to_numpy()
        span = int(time.max(initial=0)) + 1
        if (len(self.users) + 1) * span >= 2**62:  # one number holds both only after the times are counted
            time, distinct = pd.factorize(time)
            span = len(distinct)
        return pd.Series(user * span + time).duplicated(keep=False).to_numpy()

    @cached_property
    def repeated(self) -> np.ndarray:
        """(n,) rows that agree in all columns with an earlier one."""
        out = np.zeros(len(self.table), dtype=bool)
        out[self.tied] = self.table[self.tied].duplicated().to_numpy()
        return out


def event_codes(events: LogFile) -> EventCodes:
    """Codes of a file without problems, whose times are numbers and whose columns are all there."""
    codes = {"time": events.table["time"].to_numpy(np.int64)}
    ids = {}
    for column in ("user", "item", "query"):
        codes[column], ids[column] = _sorted_codes(*events.coded(column))
    for column in ("session", "event"):
        codes[column] = _codes(*events.coded(column))
    row_task, names = events.coded("task")
    codes["task"] = (names == TASKS[SEARCH]).astype(np.int8)[row_task]
    return EventCodes(pd.DataFrame(codes), ids["user"], ids["item"], ids["query"])


def acts_and_sessions(events: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) of the act and of the session of each row; equal numbers mean the same one.

    An act is what a user did once: the rows of one `event`, else the clicks of one search session on one query, else a
    row. A row without a session is a session of its own act.

    Args:
        events: rows of `EventCodes.table`.
    """
    n = len(events)
    user, session, query, event = (events[name].to_numpy() for name in ("user", "session", "query", "event"))
    act = np.arange(n)
    named = np.flatnonzero(event > 0)
    act[named] = n + _groups(user[named], event[named])
    searched = np.flatnonzero((event == 0) & (session > 0) & (events["task"] == SEARCH).to_numpy())
    act[searched] = 2 * n + _groups(user[searched], session[searched], query[searched])
    of_session = act.copy()
    inside = np.flatnonzero(session > 0)
    of_session[inside] = 3 * n + _groups(user[inside], session[inside])
    return act, of_session


def _sorted_codes(codes: np.ndarray, values: pd.Index) -> tuple[np.ndarray, pd.Index]:
    ids = sorted_ids(values[values != ""])
    return (ids.get_indexer(values) + 1).astype(np.int32)[codes], ids


def _codes(codes: np.ndarray, values: pd.Index) -> np.ndarray:
    number = np.arange(1, len(values) + 1)
    number[np.asarray(values == "")] = 0
    return number[codes]


def _groups(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """(n,) equal numbers below n for rows that agree in all columns of whole numbers."""
    group = first.astype(np.int64)
    for column in others:
        group = pd.factorize(group * (int(column.max(initial=0)) + 1) + column)[0]
    return group
