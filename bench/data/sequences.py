"""Training over whole user sequences: every act once a pass, under the same guards as histories.

A sequence holds one unit per act (`event_id`): a purchase and its twin, the clicks of one search and the items of one
basket are one unit each. In every pass a unit shows one of its training rows, its target row, and the passes take turns
over its rows. Of the rows with one (user, item) pair a pass keeps one, so that no position has its own item before it.
A user's units are cut into windows of at most `length`, at a place drawn for (seed, pass, user); each unit stands in
one window of a pass.

With `strict_time` the units of one instant stand in an order drawn per pass, and `instant` numbers the groups: the
first unit of a group may be a target, for which all positions before it are its past.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.data import hashing
from bench.data.batch import SequenceBatch, tensor
from bench.data.history import Guards
from bench.data.log import Events
from bench.data.ragged import Ragged
from bench.data.sampling import SeenItems, draw_negatives, row_keys
from bench.data.streams import Passes


class SequenceStream:
    """Windows of training sequences, shuffled anew in every pass.

    Args:
        events: all events of the Log.
        rows: (n,) training rows, ascending.
        seen: pairs that are never drawn as negatives.
        guards: those of the histories.
        length: most units of a window, L.
        negatives: items drawn for each position; 0 draws nothing.
        clicks: most items of a unit.
    """

    def __init__(
        self,
        events: Events,
        rows: np.ndarray,
        seen: SeenItems,
        guards: Guards,
        seed: int,
        batch_size: int,
        length: int,
        negatives: int = 0,
        clicks: int = 5,
    ):
        self._events = events
        self._seen = seen
        self._guards = guards
        self._seed = seed
        self._length = length
        self._negatives = negatives
        self._units = _Units(events, rows, guards)
        self._clicks = min(clicks, self._units.most_rows)
        capacity = self._units.capacity
        windows = np.where(capacity > length, -(-(capacity + 1) // length), 1)
        self._windows = windows
        self._user = np.repeat(np.arange(len(windows)), windows)
        self._number = np.arange(len(self._user)) - np.repeat(np.cumsum(windows) - windows, windows)
        self._passes = Passes("shuffle-windows", seed, len(self._user), batch_size)
        self._drawn = _Pass(-1, np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the windows of all users."""
        return self._passes.steps

    def batches(self, start: int, count: int) -> Iterator[SequenceBatch]:
        """Steps `start` to `start + count` (exclusive); the same (seed, step) gives the same batch."""
        for step in range(start, start + count):
            number, chosen = self._passes.entries(step)
            yield self._batch(number, chosen)

    def windows(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Of a step: the number of its pass, and user ids and window numbers, (B,) each."""
        number, chosen = self._passes.entries(step)
        return number, self._units.users[self._user[chosen]], self._number[chosen]

    def _batch(self, number: int, chosen: np.ndarray) -> SequenceBatch:
        events, length = self._events, self._length
        drawn = self._pass(number)
        user, window = self._user[chosen], self._number[chosen]
        first, stop, cut = drawn.offsets[user], drawn.offsets[user + 1], drawn.cut[user]
        begin = np.where(window == 0, first, first + cut + (window - 1) * length)
        end = np.minimum(first + cut + window * length, stop)
        # Fewer distinct items than windows in this pass: show the user's last units once more.
        begin = np.where(begin < stop, begin, np.maximum(stop - length, first))
        end = np.maximum(end, begin)
        size = end - begin
        real = np.arange(length) < size[:, None]
        rows = drawn.rows[np.where(real, begin[:, None] + np.arange(length), 0)]
        time = np.where(real, events.time[rows], 0)
        instant = np.broadcast_to(np.arange(length), rows.shape)
        if self._guards.strict_time:
            instant = np.cumsum(np.diff(time, axis=1, prepend=time[:, :1]) != 0, axis=1)
        item = np.where(real, events.item[rows], 0)
        negatives = None
        if self._negatives:
            negatives = np.zeros((*rows.shape, self._negatives), dtype=np.int64)
            flat = rows[real]
            purpose = hashing.key("sequence-negatives", self._seed, number)
            keys = row_keys(events, flat)
            owner, positive = events.user[flat], events.item[flat]
            negatives[real] = draw_negatives(purpose, keys, owner, positive, self._seen, self._negatives)
        return SequenceBatch(
            user=tensor(self._units.users[user]),
            items=tensor(item),
            clicks=tensor(self._clicked(rows, real, item)),
            tasks=tensor(np.where(real, events.task[rows], 0)),
            queries=tensor(np.where(real, events.query[rows], 0)),
            times=tensor(time),
            event_ids=tensor(np.where(real, events.event_id[rows], 0)),
            instant=tensor(np.where(real, instant, 0)),
            length=tensor(size),
            negatives=None if negatives is None else tensor(negatives),
        )

    def _pass(self, number: int) -> "_Pass":
        """Target rows of a pass in the order of the sequences, and where each user's windows are cut."""
        if self._drawn.number == number:
            return self._drawn
        events = self._events
        rows = self._units.targets(self._seed, number)
        if self._units.repeats:
            rows = _one_per_pair(events, rows, hashing.key("sequence-repeats", self._seed, number))
        if self._guards.strict_time:
            order = hashing.draw(hashing.key("sequence-order", self._seed, number), row_keys(events, rows))
            rows = rows[np.lexsort((order, events.time[rows], events.user[rows]))]
        users = self._units.users
        offsets = np.append(np.searchsorted(events.user[rows], users), len(rows))
        size = np.diff(offsets)
        low = np.maximum(size - (self._windows - 1) * self._length, 1)
        high = np.minimum(self._length, size)
        draw = hashing.draw(hashing.key("sequence-windows", self._seed, number), users)
        cut = low + hashing.below(draw, np.maximum(high - low + 1, 1))
        self._drawn = _Pass(number, rows, offsets, cut)
        return self._drawn

    def _clicked(self, rows: np.ndarray, real: np.ndarray, item: np.ndarray) -> np.ndarray:
        """(B, L, C) items of each unit: the target first, then those clicked before the next position.

        An item that is the target of a later position is left out.
        """
        out = np.zeros((*rows.shape, self._clicks), dtype=np.int64)
        out[..., 0] = item
        if self._clicks == 1:
            return out
        events = self._events
        position = np.flatnonzero(real)
        target = rows.ravel()[position]
        following = np.full(rows.shape, len(events), dtype=np.int64)
        following[:, :-1] = np.where(real[:, 1:], rows[:, 1:], len(events))
        following = following.ravel()[position]
        members = self._units.members(target)
        owner, row = members.owners(), members.values
        seen = target[owner]
        good = (row != seen) & (events.task[row] == events.task[seen]) & (events.item[row] != events.item[seen])
        if self._guards.strict_time:
            later = np.append(events.time, np.iinfo(np.int64).max)[following][owner]
            good &= (events.time[row] <= events.time[seen]) | (events.time[row] < later)
        else:
            good &= row < following[owner]
        if self._guards.own_item:
            width = rows.shape[1]
            batch = position // width
            pair = batch * (self._seen.n_items + 1) + events.item[target]
            order = np.argsort(pair, kind="stable")
            wanted = batch[owner] * (self._seen.n_items + 1) + events.item[row]
            match = np.minimum(np.searchsorted(pair[order], wanted), len(pair) - 1)
            good &= ~((pair[order][match] == wanted) & (position[order][match] > position[owner]))
        owner, row = owner[good], row[good]
        column = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1
        fits = column < self._clicks
        out.reshape(-1, self._clicks)[position[owner[fits]], column[fits]] = events.item[row[fits]]
        return out


@dataclass(frozen=True)
class _Pass:
    number: int
    rows: np.ndarray  # (n,) target rows, user by user
    offsets: np.ndarray  # (U + 1,) where each user's rows begin
    cut: np.ndarray  # (U,) units of the user's first window


class _Units:
    """Acts of the training rows: their rows, and which of them a pass shows.

    Attributes:
        users: (U,) ids of the users with a training row, ascending.
        capacity: (U,) most units that a pass can show of a user.
        repeats: whether a (user, item) pair stands in several units.
        most_rows: rows of the largest unit.
    """

    def __init__(self, events: Events, rows: np.ndarray, guards: Guards):
        self._events = events
        act = events.event_id[rows] if guards.own_event else rows
        order = np.lexsort((rows, act, events.user[rows]))
        sorted_user, sorted_act = events.user[rows][order], act[order]
        new = np.r_[True, (sorted_act[1:] != sorted_act[:-1]) | (sorted_user[1:] != sorted_user[:-1])][: len(rows)]
        self._rows = Ragged(np.append(np.flatnonzero(new), len(rows)).astype(np.int64), rows[order])
        self._act = sorted_act[new]
        self._unit_of_row = np.zeros(len(events), dtype=np.int64)
        self._unit_of_row[rows[order]] = np.cumsum(new) - 1
        self.most_rows = int(self._rows.lengths.max(initial=1))
        self.users, units = np.unique(sorted_user[new], return_counts=True)
        # Distinct (unit, item) and (user, item) pairs: more of the former say that an item is in several units.
        n_items = int(events.item.max(initial=0)) + 1
        pairs = np.unique(sorted_user.astype(np.int64) * n_items + events.item[self._rows.values])
        of_units = np.unique((np.cumsum(new) - 1) * n_items + events.item[self._rows.values])
        self.repeats = guards.own_item and len(of_units) > len(pairs)
        items = np.bincount(np.searchsorted(self.users, pairs // n_items), minlength=len(self.users))
        self.capacity = np.minimum(units, items) if self.repeats else units

    def targets(self, seed: int, number: int) -> np.ndarray:
        """(units,) the target row of every unit in pass `number`, ascending."""
        phase = hashing.draw(hashing.key("sequence-target", seed), self._act) >> np.uint64(1)
        lengths = self._rows.lengths
        turn = (phase % lengths.astype(np.uint64)).astype(np.int64) + number
        return np.sort(self._rows.values[self._rows.offsets[:-1] + turn % lengths])

    def members(self, rows: np.ndarray) -> Ragged:
        """For each of the target rows (n,) all rows of its unit, ascending."""
        return self._rows.take(self._unit_of_row[rows])


def _one_per_pair(events: Events, rows: np.ndarray, purpose: np.uint64) -> np.ndarray:
    """One row of each (user, item) pair, chosen by hash, ascending."""
    draw = hashing.draw(purpose, row_keys(events, rows))
    order = np.lexsort((draw, events.item[rows], events.user[rows]))
    user, item = events.user[rows][order], events.item[rows][order]
    return np.sort(rows[order[np.r_[True, (user[1:] != user[:-1]) | (item[1:] != item[:-1])][: len(rows)]]])
