"""The past of an event: what its user did before it, gathered for many events at once.

The history of an event row holds the user's earlier units in the published order: recommendation clicks, and searches
(query and clicked items). A unit never shares the event's `event_id` (its twin, or the clicks of the same session)
and, for a guard, never holds the event's own item. Row numbers come from the split; a training row precedes its user's
first held-out event, so its history cannot hold one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.data.log import REC, SEARCH, Events, Log
from bench.data.ragged import Ragged


@dataclass(frozen=True)
class Window:
    """How much of the past a model reads: the last `rec` clicks, the last `search` searches, `clicks` items of each.

    0 = none, None = all.
    """

    rec: int | None = 30
    search: int | None = 30
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

    A unit is a rec event row or a search session (rows that share event_id and task search). A session stands where
    its first row does; of its clicks an event sees those that are earlier than itself.

    Args:
        log: the Log.
        guards: default all, with `strict_time` where the Log's manifest says so.
    """

    def __init__(self, log: Log, guards: Guards | None = None):
        self.guards = guards or Guards(strict_time=log.manifest.get("strict_time", False))
        events = log.events
        self.events = events
        n_users, n_items = len(log.users) + 1, len(log.items) + 1
        rec, search = (np.flatnonzero(events.task == task) for task in (REC, SEARCH))
        _, first, inverse = np.unique(events.event_id[search], return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
        clicked = Ragged.from_pairs(number[inverse], search, len(first))
        singles = Ragged(np.arange(len(rec) + 1, dtype=np.int64), rec)
        self._units = {
            REC: _Units(events, singles, n_users, n_items),
            SEARCH: _Units(events, clicked, n_users, n_items),
        }

    def gather(self, rows: np.ndarray, window: Window) -> Past:
        """Histories of event rows.

        Args:
            rows: (B,) rows of the Log's events.
            window: how much of the past is read.
        """
        rec, rec_real = self._last(rows, REC, window.rec)
        search, search_real = self._last(rows, SEARCH, window.search)
        of_rec, of_search = self._units[REC], self._units[SEARCH]
        if search_real.any():
            task, column = _merge(of_rec.at("row", rec), rec_real, of_search.at("row", search), search_real)
        else:
            columns = np.arange(rec.shape[1] + search.shape[1])
            column = np.where(columns < rec_real.sum(1)[:, None], columns, 0)
            task = np.zeros_like(column)
        return Past(
            rec_items=np.where(rec_real, of_rec.at("item", rec), 0).astype(np.int64),
            rec_times=np.where(rec_real, of_rec.at("time", rec), 0),
            rec_len=rec_real.sum(1),
            search_query=np.where(search_real, of_search.at("query", search), 0).astype(np.int64),
            search_items=self._clicked(rows, search, search_real, window.clicks),
            search_times=np.where(search_real, of_search.at("time", search), 0),
            search_len=search_real.sum(1),
            merged_task=task,
            merged_column=column,
        )

    def _clicked(self, rows: np.ndarray, units: np.ndarray, real: np.ndarray, width: int) -> np.ndarray:
        """(B, L, C) items of the searches `units` (B, L) that are earlier than each row, the first `width` of them."""
        searches, events = self._units[SEARCH], self.events
        width = max(min(width, searches.most_rows), 1)
        out = np.zeros((*units.shape, width), dtype=np.int64)
        if not units.size or not len(searches.row):
            return out
        out[..., 0] = np.where(real, searches.item[units], 0)
        start, stop = searches.rows.offsets[units], searches.rows.offsets[units + 1]
        for column in range(1, width):
            inside = real & (start + column < stop)
            click = searches.rows.values[np.minimum(start + column, stop - 1)]
            # A session may go on while its user does other things.
            if searches.overlap or not self.guards.own_event:
                inside &= click < rows[:, None]
            if self.guards.strict_time and searches.last_longer:
                inside &= events.time[click] < events.time[rows][:, None]
            out[..., column] = np.where(inside, events.item[click], 0)
        return out

    def _last(self, rows: np.ndarray, task: int, length: int | None) -> tuple[np.ndarray, np.ndarray]:
        """(B, L) unit numbers of the last `length` allowed units before each row, left aligned, and which are real."""
        units, events = self._units[task], self.events
        if length == 0:
            return np.zeros((len(rows), 0), dtype=np.int64), np.zeros((len(rows), 0), dtype=bool)
        start = units.offsets[events.user[rows]]
        if self.guards.strict_time:
            stop = np.maximum(units.before_time(events.user[rows], events.time[rows]), start)
        else:
            stop = np.maximum(np.searchsorted(units.row, rows, side="left"), start)
        wanted = max(int((stop - start).max(initial=0)), 1) if length is None else length
        if not len(units.row):
            return np.zeros((len(rows), wanted), dtype=np.int64), np.zeros((len(rows), wanted), dtype=bool)
        first = np.maximum(stop - wanted, start)
        column = np.arange(wanted)
        real = column < (stop - first)[:, None]
        last = np.where(real, first[:, None] + column, 0)
        # Most rows have nothing to hide in their window. The others are read again, with more of their past.
        again = np.flatnonzero((real & self._hidden(rows, last, first, units)).any(1))
        if len(again):
            last[again], real[again] = self._without_hidden(rows[again], start[again], stop[again], wanted, units)
        return last, real

    def _without_hidden(
        self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray, wanted: int, units: "_Units"
    ) -> tuple[np.ndarray, np.ndarray]:
        """The last `wanted` units in [start, stop) of each row that the guards let through, as `_last` returns them."""
        slack = 4
        while True:
            span = wanted + slack
            first = stop - span
            last = first[:, None] + np.arange(span)
            real = last >= start[:, None]
            last = np.where(real, last, 0)
            real &= ~self._hidden(rows, last, first, units)
            short = (real.sum(1) < wanted) & (stop - start > span)
            if not short.any():
                return _left_align(last, real, wanted)
            slack *= 4

    def _hidden(self, rows: np.ndarray, last: np.ndarray, first: np.ndarray, units: "_Units") -> np.ndarray:
        """(B, L) whether a guard keeps a unit from the row: it is of the row's own event, or holds its own item.

        Column c of `last` is unit `first` + c where it is real.
        """
        events = self.events
        hidden = np.zeros(last.shape, dtype=bool)
        if self.guards.own_event:
            hidden |= units.event[last] == events.event_id[rows][:, None]
        if self.guards.own_item and units.most_rows == 1:
            hidden |= units.item[last] == events.item[rows][:, None]
        elif self.guards.own_item:
            holding = units.holding(events.user[rows], events.item[rows])
            owner, unit = holding.owners(), holding.values
            column = unit - first[owner]
            there = (column >= 0) & (column < last.shape[1])
            hidden[owner[there], column[there]] = True
        return hidden


class _Units:
    """Units of one task, ascending, with the offsets of each user.

    Attributes:
        rows: event rows of each unit, ascending.
        row, item, time, query, event: (U,) of its first row.
        offsets: (n_users + 1,) where a user's units begin.
        most_rows: rows of the largest unit.
        overlap: whether rows of other units may stand between those of a unit.
        last_longer: whether the rows of a unit may have different times.
    """

    def __init__(self, events: Events, rows: Ragged, n_users: int, n_items: int):
        self.rows = rows
        self.row = rows.values[rows.offsets[:-1]]
        self.item, self.time = events.item[self.row], events.time[self.row]
        self.query, self.event = events.query[self.row], events.event_id[self.row]
        self._user = events.user[self.row].astype(np.int64)
        self.offsets = np.searchsorted(self._user, np.arange(n_users + 1)).astype(np.int64)
        self.most_rows = int(rows.lengths.max(initial=1))
        last = rows.values[rows.offsets[1:] - 1]
        self.overlap = bool((last - self.row >= rows.lengths).any())
        self.last_longer = bool((events.time[last] != self.time).any())
        self._events = events
        self._n_items = n_items

    def at(self, name: str, units: np.ndarray) -> np.ndarray:
        """An attribute of unit numbers; 0 (and never read) where a log has no unit."""
        column: np.ndarray = getattr(self, name)
        return column[units] if len(column) else np.zeros(units.shape, dtype=column.dtype)

    def before_time(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """First unit of each user that is not strictly earlier than `time`."""
        low, span, keys = self._time_keys
        offset = np.clip(time - low, 0, span - 1)
        return np.searchsorted(keys, user.astype(np.int64) * span + offset, side="left")

    @cached_property
    def _time_keys(self) -> tuple[int, int, np.ndarray]:
        # (user, time) is ascending; one integer key per unit makes the search vectorised.
        low = int(self.time.min(initial=0))
        span = int(self.time.max(initial=0)) - low + 2
        return low, span, self._user * span + (self.time - low)

    def holding(self, user: np.ndarray, item: np.ndarray) -> Ragged:
        """For each (user, item) the units that hold it."""
        pairs, units = self._pairs
        wanted = user.astype(np.int64) * self._n_items + item
        start, stop = np.searchsorted(pairs, wanted), np.searchsorted(pairs, wanted, side="right")
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        index = np.repeat(start - offsets[:-1], stop - start) + np.arange(offsets[-1])
        return Ragged(offsets, units[index])

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted (user, item) keys of all rows of the units, and the units."""
        owner, row = self.rows.owners(), self.rows.values
        pairs = self._user[owner] * self._n_items + self._events.item[row]
        order = np.argsort(pairs, kind="stable")
        return pairs[order], owner[order]


def _left_align(units: np.ndarray, real: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the last `width` real entries of each row, moved to the left in their order."""
    from_end = np.cumsum(real[:, ::-1], axis=1)[:, ::-1]
    real = real & (from_end <= width)
    count = real.sum(1)
    out = np.zeros((len(units), width), dtype=np.int64)
    out_real = np.arange(width) < count[:, None]
    out[out_real] = units[real]
    return out, out_real


def _merge(
    rec_rows: np.ndarray, rec_real: np.ndarray, search_rows: np.ndarray, search_real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Merged order of both behaviours: (B, Lr + Ls) tasks and columns, right padded.

    Rows are (B, Lr) and (B, Ls) event rows, ascending and left aligned, no row in both; `*_real` says which are real.
    """
    n_rec, width = rec_rows.shape[1], rec_rows.shape[1] + search_rows.shape[1]
    columns = np.arange(width)
    real = columns < (rec_real.sum(1) + search_real.sum(1))[:, None]
    task = np.zeros(real.shape, dtype=np.int64)
    # One number holds the row and the column, so that a plain sort, which is much faster than an argsort, orders both.
    bits = width.bit_length()
    padding = np.iinfo(np.int64).max >> bits
    rows = np.concatenate([np.where(rec_real, rec_rows, padding), np.where(search_real, search_rows, padding)], axis=1)
    column = np.sort(rows << bits | columns, axis=1) & ((1 << bits) - 1)
    searched = real & (column >= n_rec)
    task[searched] = SEARCH
    return task, np.where(real, column, 0) - n_rec * searched
