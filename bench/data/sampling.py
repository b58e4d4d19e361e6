"""The engine that draws items a user has not seen: evaluation candidates and the training negatives of every stream.

Every row owns an endless stream of draws keyed by (purpose, row); the first `count` distinct unseen items of the
stream are taken. So the result depends neither on the order of rows nor on how they are cut into chunks.
"""

import numpy as np

from bench.data import hashing
from bench.data.log import Events
from bench.errors import RunError


class SeenItems:
    """The set of (user, item) pairs that may not be drawn."""

    def __init__(self, user: np.ndarray, item: np.ndarray, n_items: int):
        self.n_items = n_items
        # Sorting and dropping equal neighbours: np.unique hashes, which is slower on millions of keys.
        keys = np.sort(user.astype(np.int64) * (n_items + 1) + item)
        self._keys = keys[np.r_[True, keys[1:] != keys[:-1]]] if len(keys) else keys
        owners = self._keys // (n_items + 1)
        self._count = np.bincount(owners) if len(owners) else np.zeros(1, dtype=np.int64)

    def contains(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each pair (broadcast together) is in the set."""
        wanted = np.asarray(user).astype(np.int64) * (self.n_items + 1) + item
        if not len(self._keys):
            return np.zeros(wanted.shape, dtype=bool)
        index = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return self._keys[index] == wanted

    def count(self, user: np.ndarray) -> np.ndarray:
        """Number of distinct items of each user."""
        return np.where(user < len(self._count), self._count[np.minimum(user, len(self._count) - 1)], 0)

    def of(self, user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All items of users (R,): the places in `user` (n,), ascending, and the items (n,), ascending per place."""
        first = np.searchsorted(self._keys, np.asarray(user).astype(np.int64) * (self.n_items + 1))
        counts = self.count(user)
        owner = np.repeat(np.arange(len(first)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self._keys[np.repeat(first, counts) + within] % (self.n_items + 1)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Users (P,) and items (P,) of all pairs, sorted."""
        return np.divmod(self._keys, self.n_items + 1)


class ItemWeights:
    """Relative probability of each item to be drawn; the table is made once and serves any number of draws.

    Args:
        weights: (n_items + 1,) not negative; entry 0 (padding) is ignored.
    """

    def __init__(self, weights: np.ndarray):
        self.n_items = len(weights) - 1
        # (n_items + 1,) items that can be drawn at all, and their number.
        self.drawable = np.asarray(weights) > 0
        self.drawable[0] = False
        self.possible = int(self.drawable.sum())
        cumulative = np.cumsum(weights[1:].astype(np.float64))
        self._cumulative = cumulative / cumulative[-1]

    def items(self, values: np.ndarray) -> np.ndarray:
        """Map uniform uint64 to item ids."""
        drawn = np.searchsorted(self._cumulative, (values >> np.uint64(11)) * 2.0**-53, side="right") + 1
        return np.minimum(drawn, self.n_items)


def row_keys(events: Events, rows: np.ndarray) -> np.ndarray:
    """uint64 identity of event rows, independent of where they stand in a file."""
    columns = (events.user, events.event_id, events.item, events.task, events.query)
    return hashing.draw(np.uint64(0), *(column[rows] for column in columns))


def few_unseen(
    events: Events, rows: np.ndarray, seen: SeenItems, count: int, weights: ItemWeights | None = None
) -> np.ndarray:
    """(R,) bool: event rows for which fewer than `count` items are left that their user has not seen.

    Args:
        events: all events of the Log.
        rows: (R,) rows of `events` whose user and item are in `seen`.
        seen: the pairs that may not be drawn.
        count: number of negatives that are needed.
        weights: relative probability of each item; items with 0 are not left for anybody.
    """
    user = events.user[rows]
    if weights is None:
        return seen.n_items - seen.count(user) < count
    owner, item = seen.pairs()
    drawable = weights.drawable[item]
    touched = np.bincount(owner[drawable], minlength=int(user.max(initial=0)) + 1)
    return weights.possible - touched[user] < count


def draw_negatives(
    purpose: np.uint64,
    rows: np.ndarray,
    user: np.ndarray,
    positive: np.ndarray,
    seen: SeenItems,
    count: int,
    weights: ItemWeights | None = None,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """(R, count) int32: for each row the first `count` distinct items of its stream that its user never touched.

    Args:
        purpose: key of the purpose (`hashing.key`).
        rows: (R,) uint64 row identities.
        user: (R,) whose rows they are.
        positive: (R,) items that are never drawn.
        seen: pairs that are never drawn.
        count: items per row.
        weights: relative probability of each item; default uniform.
        taken: (R, T) items that the row has already and that may not be drawn again, 0 = none. Where they leave fewer
            than `count` items, all of these are drawn, and zeros follow.

    Raises:
        RunError: a user has fewer than `count` items left, taken ones included; `few_unseen` says so beforehand.
    """
    if not count:
        return np.zeros((len(rows), 0), dtype=np.int32)
    n_items = seen.n_items
    possible = n_items if weights is None else weights.possible
    extra = 0 if taken is None else (taken > 0).sum(1)
    # The clicked item, too, may not be drawn. Whether it is among the seen ones matters only where few are left.
    available = n_items - seen.count(user) - 1
    close = available < count + extra
    if close.any():
        available[close] += seen.contains(user[close], positive[close])
    if len(rows) and available.min() < count:
        worst = int(np.argmin(available))
        raise RunError(
            f"user {int(user[worst])} has only {int(available[worst])} items left that the user never touched, {count} are needed as "
            f"negatives; the catalogue has {n_items} items, too small to draw from; use --candidates full"
        )
    # Where items are taken fewer are needed; all that are left will do.
    wanted = np.minimum(count, available - extra)
    out = np.zeros((len(rows), count), dtype=np.int32)
    open_rows = np.arange(len(rows))
    span = count + count // 4 + 2
    while len(open_rows):
        if span > 4096 * max(n_items, 64):
            raise RunError(
                f"cannot draw {count} distinct items out of {possible} with a weight above 0 for user "
                f"{int(user[open_rows[0]])}; use --candidates uniform"
            )
        # Bound the memory of one step; rows are independent of each other, so chunks change nothing.
        step = max(1, 16_000_000 // span)
        unfinished = []
        for low in range(0, len(open_rows), step):
            chunk = open_rows[low : low + step]
            values = hashing.draw(purpose, rows[chunk, None], np.arange(span))
            items = hashing.below(values, n_items) + 1 if weights is None else weights.items(values)
            good = ~seen.contains(user[chunk, None], items) & (items != positive[chunk, None])
            if count > 1:  # the first good one cannot be a repetition
                good &= first_seen(items)
            if taken is not None:
                for column in range(taken.shape[1]):
                    good &= items != taken[chunk, column][:, None]
            order = np.cumsum(good, axis=1)
            good &= order <= count
            done = good.sum(1) == wanted[chunk]
            if taken is None:
                out[chunk[done]] = items[done][good[done]].reshape(-1, count)
            else:
                row, slot = np.nonzero(good & done[:, None])
                out[chunk[row], order[row, slot] - 1] = items[row, slot]
            unfinished.append(chunk[~done])
        open_rows = np.concatenate(unfinished)
        span *= 2
    return out


def first_seen(items: np.ndarray) -> np.ndarray:
    """(R, S) whether an entry is the first of its value in its row."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, 1)
    fresh = np.ones_like(ordered, dtype=bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    out = np.empty_like(fresh)
    np.put_along_axis(out, order, fresh, 1)
    return out
