"""The past of an event: what its user did before it, gathered for many events at once.

The history of an event row holds the user's earlier units in the published order: recommendation clicks, and searches
(query and clicked items). A unit never shares the event's `event_id` (its twin, or the clicks of the same session)
and, for a guard, never holds the event's own item. Row numbers come from the split; a training row precedes its user's
first held-out event, so its history cannot hold one.
"""

from dataclasses import dataclass

import numpy as np

from bench.data.log import REC, SEARCH, Log
from bench.data.ragged import Ragged


@dataclass(frozen=True)
class Window:
    """How much of the past a model reads: the last `rec` clicks and the last `search` searches (0 = all of them)."""

    rec: int = 30
    search: int = 30
    clicks: int = 5


@dataclass(frozen=True)
class Guards:
    """Leak guards. All on, except in tests that plant the leak; `strict_time` also drops units of the same instant."""

    own_event: bool = True
    own_item: bool = True
    strict_time: bool = False


@dataclass(frozen=True)
class Past:
    """Histories of B rows as right-padded arrays, oldest first."""

    rec_items: np.ndarray  # (B, Lr) int64
    rec_times: np.ndarray  # (B, Lr) int64 ms
    rec_len: np.ndarray  # (B,)
    search_query: np.ndarray  # (B, Ls) int64
    search_items: np.ndarray  # (B, Ls, Cs) int64
    search_times: np.ndarray  # (B, Ls) int64 ms
    search_len: np.ndarray  # (B,)
    merged_task: np.ndarray  # (B, Lr + Ls) int64: 0 = rec, 1 = search; 0 in padding slots
    merged_column: np.ndarray  # (B, Lr + Ls) int64: column in rec_* or search_*


class Histories:
    """Units of a Log in order, and the gather over them.

    A unit is a rec event row or a search session (rows that share event_id and task search). `unit_*` arrays hold one
    entry a unit, sorted by (user, position of the unit's first row).
    """

    def __init__(self, log: Log, guards: Guards | None = None):
        self.guards = guards or Guards(strict_time=log.manifest.get("strict_time", False))
        events = log.events
        self.events = events
        n_users = len(log.users) + 1
        search = np.flatnonzero(events.task == SEARCH)
        _, first, inverse = np.unique(events.event_id[search], return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        clicks = Ragged.from_pairs(place[inverse], events.item[search], len(first))
        self._views = {
            REC: _View(events, np.flatnonzero(events.task == REC), n_users),
            SEARCH: _View(events, search[first[order]], n_users),
        }
        self._clicks = clicks

    def gather(self, rows: np.ndarray, window: Window) -> Past:
        """Histories of event rows `rows` (B,) under `window`."""
        rec, rec_real = self._last(rows, REC, window.rec)
        search, search_real = self._last(rows, SEARCH, window.search)
        rec_rows, search_rows = self._views[REC].at(rec), self._views[SEARCH].at(search)
        events = self.events
        rec_items = np.where(rec_real, events.item[rec_rows], 0).astype(np.int64)
        search_query = np.where(search_real, events.query[search_rows], 0).astype(np.int64)
        rec_times = np.where(rec_real, events.time[rec_rows], 0)
        search_times = np.where(search_real, events.time[search_rows], 0)
        task, column = _merge(rec_rows, rec_real, search_rows, search_real)
        return Past(
            rec_items=rec_items,
            rec_times=rec_times,
            rec_len=rec_real.sum(1),
            search_query=search_query,
            search_items=self._clicked(search, search_real, window.clicks),
            search_times=search_times,
            search_len=search_real.sum(1),
            merged_task=task,
            merged_column=column,
        )

    def _clicked(self, units: np.ndarray, real: np.ndarray, width: int) -> np.ndarray:
        width = min(width, int(self._clicks.lengths.max(initial=1)))
        out = np.zeros((*units.shape, max(width, 1)), dtype=np.int64)
        if not len(self._clicks.values):
            return out
        start, stop = self._clicks.offsets[units], self._clicks.offsets[units + 1]
        for column in range(width):
            inside = real & (start + column < stop)
            out[..., column] = np.where(inside, self._clicks.values[np.minimum(start + column, stop - 1)], 0)
        return out

    def _last(self, rows: np.ndarray, task: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) unit numbers of the last `length` allowed units before each row, left aligned, and which are real."""
        view, events = self._views[task], self.events
        user, event, item = events.user[rows], events.event_id[rows], events.item[rows]
        start = view.offsets[user]
        stop = np.searchsorted(view.rows, rows, side="left")
        if self.guards.strict_time and len(view.rows):
            stop = view.before_time(user, events.time[rows])
        stop = np.maximum(stop, start)
        wanted = length or max(int((stop - start).max(initial=0)), 1)
        if not len(view.rows):
            return np.zeros((len(rows), wanted), dtype=np.int64), np.zeros((len(rows), wanted), dtype=bool)
        # Read a little more than asked for, since the guards may take some away; more again where that was not enough.
        slack = 4
        while True:
            span = wanted + slack
            units = stop[:, None] - span + np.arange(span)
            real = units >= start[:, None]
            units = np.where(real, units, 0)
            if self.guards.own_event:
                real &= events.event_id[view.rows[units]] != event[:, None]
            if self.guards.own_item:
                real &= ~self._holds(task, units, item)
            short = (real.sum(1) < wanted) & (stop - start > span)
            if not short.any():
                break
            slack *= 4
        return _left_align(units, real, wanted)

    def _holds(self, task: int, units: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(B, L) whether a unit holds the row's item."""
        if task == REC:
            return self.events.item[self._views[REC].rows[units]] == item[:, None]
        start, stop = self._clicks.offsets[units], self._clicks.offsets[units + 1]
        held = np.zeros(units.shape, dtype=bool)
        for column in range(int(self._clicks.lengths.max(initial=0))):
            inside = start + column < stop
            held |= inside & (self._clicks.values[np.minimum(start + column, stop - 1)] == item[:, None])
        return held


class _View:
    """Event rows of one kind (ascending) with the offsets of each user."""

    def __init__(self, events, rows: np.ndarray, n_users: int):
        self.rows = rows
        self.offsets = np.searchsorted(events.user[rows], np.arange(n_users + 1)).astype(np.int64)
        self._time = events.time[rows]
        self._user = events.user[rows].astype(np.int64)
        self._keys: np.ndarray | None = None

    def at(self, units: np.ndarray) -> np.ndarray:
        """Event rows of unit numbers; 0 (and never read) where a log has no event of this kind."""
        return self.rows[units] if len(self.rows) else np.zeros_like(units)

    def before_time(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """First unit of each user that is not strictly earlier than `time`."""
        if self._keys is None:
            # (user, time) is ascending; one integer key a unit makes the search vectorised.
            self._low = self._time.min(initial=0)
            self._span = int(self._time.max(initial=0) - self._low) + 2
            self._keys = self._user * self._span + (self._time - self._low)
        offset = np.clip(time - self._low, 0, self._span - 1)
        return np.searchsorted(self._keys, user.astype(np.int64) * self._span + offset, side="left")


def _left_align(units: np.ndarray, real: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the last `width` real entries of each row, moved to the left in their order."""
    from_end = np.cumsum(real[:, ::-1], axis=1)[:, ::-1]
    real = real & (from_end <= width)
    count = real.sum(1)
    out = np.zeros((len(units), width), dtype=np.int64)
    out_real = np.arange(width) < count[:, None]
    out[out_real] = units[real]
    return out, out_real


def _merge(rec_rows, rec_real, search_rows, search_real) -> tuple[np.ndarray, np.ndarray]:
    """Merged order of both behaviours: (B, Lr + Ls) tasks and columns, right padded."""
    n_rec, n_search = rec_rows.shape[1], search_rows.shape[1]
    rows = np.concatenate(
        [
            np.where(rec_real, rec_rows, np.iinfo(np.int64).max),
            np.where(search_real, search_rows, np.iinfo(np.int64).max),
        ],
        axis=1,
    )
    real = np.concatenate([rec_real, search_real], axis=1)
    task = np.concatenate([np.full(rec_real.shape, REC), np.full(search_real.shape, SEARCH)], axis=1)
    column = np.concatenate(
        [np.broadcast_to(np.arange(n_rec), rec_rows.shape), np.broadcast_to(np.arange(n_search), search_rows.shape)],
        axis=1,
    )
    order = np.argsort(rows, axis=1, kind="stable")
    real = np.take_along_axis(real, order, 1)
    task = np.where(real, np.take_along_axis(task, order, 1), 0).astype(np.int64)
    return task, np.where(real, np.take_along_axis(column, order, 1), 0).astype(np.int64)
