"""What a model reads: tensors only, right padded, lengths beside them.

Axes: B rows, Lr / Ls / La history positions (rec clicks, searches, both merged), Cs clicks of a search, K candidates.
Lengths are authoritative: what stands in a padding slot means nothing, and models must not look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from bench.data import hashing
from bench.data.history import Histories, Window
from bench.data.log import SEARCH, TASKS
from bench.data.sampling import SeenItems, draw_negatives, row_keys
from bench.data.split import LogSplit


@dataclass
class Batch:
    """B event rows, each with its past, its query and K candidates. All tensors int64 unless noted."""

    user: Tensor  # (B,)
    task: Tensor  # (B,) 0 = rec, 1 = search
    query: Tensor  # (B,) query id, 0 for rec
    time: Tensor  # (B,) ms
    rec_items: Tensor  # (B, Lr) oldest first
    rec_times: Tensor  # (B, Lr) ms
    rec_len: Tensor  # (B,)
    search_query: Tensor  # (B, Ls) query id of each past search
    search_items: Tensor  # (B, Ls, Cs) items clicked in it, 0 = none
    search_times: Tensor  # (B, Ls) ms
    search_len: Tensor  # (B,)
    merged_task: Tensor  # (B, La) task of each unit in merged order, coded as `task`
    merged_column: Tensor  # (B, La) column in rec_* or search_*
    cand: Tensor  # (B, K) item ids in shuffled order
    label: Tensor | None = None  # (B, K) float32, training only: 1 at the clicked item
    item: Tensor | None = None  # (B,) training only: the clicked item

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> "Batch":
        return replace(self, **{f.name: v.to(device) for f in fields(self) if (v := getattr(self, f.name)) is not None})

    def take(self, rows: Tensor) -> "Batch":
        """The rows (a mask or indices) as a batch of their own."""
        return replace(self, **{f.name: v[rows] for f in fields(self) if (v := getattr(self, f.name)) is not None})

    @property
    def rec_mask(self) -> Tensor:
        """(B, Lr) bool, True on real positions."""
        return _mask(self.rec_len, self.rec_items.shape[1])

    @property
    def search_mask(self) -> Tensor:
        """(B, Ls) bool."""
        return _mask(self.search_len, self.search_query.shape[1])

    @property
    def merged_len(self) -> Tensor:
        return self.rec_len + self.search_len

    @property
    def merged_mask(self) -> Tensor:
        """(B, La) bool."""
        return _mask(self.merged_len, self.merged_task.shape[1])

    @property
    def search_click_mask(self) -> Tensor:
        """(B, Ls, Cs) bool, True on clicked items of real searches."""
        return (self.search_items > 0) & self.search_mask[..., None]

    def merged(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last `length` units of both behaviours, oldest first, right padded.

        Returns (items, queries, tasks, mask), each (B, length): the clicked item (of a search its first), the query of
        a search (0 for rec), the task (0 = rec, 1 = search), and True on real positions; 0 in padding slots.
        """
        total = self.merged_len[:, None]
        kept = total.clamp(max=length)
        column = torch.arange(length, device=self.user.device)
        mask = column < kept
        place = (total - kept + column).clamp(max=self.merged_task.shape[1] - 1)
        task = torch.where(mask, self.merged_task.gather(1, place), 0)
        index = torch.where(mask, self.merged_column.gather(1, place), 0)
        rec = self.rec_items.gather(1, index.clamp(max=self.rec_items.shape[1] - 1))
        at = index.clamp(max=self.search_query.shape[1] - 1)
        search = mask & (task == SEARCH)
        items = torch.where(search, self.search_items[..., 0].gather(1, at), torch.where(mask, rec, 0))
        return items, torch.where(search, self.search_query.gather(1, at), 0), task, mask


@dataclass
class SequenceBatch:
    """Whole training sequences of B users, both behaviours in order (Cloze and all-position losses)."""

    user: Tensor  # (B,)
    items: Tensor  # (B, L) oldest first, right padded
    tasks: Tensor  # (B, L) 0 = rec, 1 = search
    queries: Tensor  # (B, L) 0 for rec
    times: Tensor  # (B, L) ms
    length: Tensor  # (B,)

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> "SequenceBatch":
        return SequenceBatch(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def mask(self) -> Tensor:
        return _mask(self.length, self.items.shape[1])


class Batches:
    """Makes batches of a split's rows. One object serves training and evaluation of every model on that split."""

    def __init__(self, split: LogSplit):
        self.split = split
        self.histories = Histories(split.log)

    def rows(self, rows: np.ndarray, cand: np.ndarray, window: Window) -> Batch:
        """Batch of event rows (B,) with candidates (B, K), without anything that tells the clicked item."""
        events = self.split.log.events
        past = self.histories.gather(rows, window)
        return Batch(
            user=_tensor(events.user[rows]),
            task=_tensor(events.task[rows]),
            query=_tensor(events.query[rows]),
            time=_tensor(events.time[rows]),
            cand=_tensor(cand),
            **{name: _tensor(value) for name, value in vars(past).items()},
        )


class TrainData:
    """The training side of a split, as models see it: shuffled batches, user sequences, plain arrays."""

    def __init__(self, batches: Batches, tasks: tuple[str, ...], seed: int):
        self._batches = batches
        self.tasks = tasks
        self.seed = seed
        split = batches.split
        self._events = split.log.events
        self._rows = np.sort(np.concatenate([split.rows("train", task) for task in tasks]))
        # A model may not learn from its negatives what the held-out items are: only training pairs are excluded.
        self._seen = SeenItems(self._events.user[split.train], self._events.item[split.train], len(split.log.items))
        self._keys: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of training rows of the tasks."""
        return len(self._rows)

    def arrays(self, task: str | None = None) -> dict[str, np.ndarray]:
        """user, item, query, task, time, event_id of the training rows (of one of the two tasks, or of both).

        Rows of both tasks are there also for a model that serves one: searches are input of recommenders, too.
        """
        rows = self._batches.split.rows("train", task)
        return self._events.take(rows).columns()

    def steps(self, batch_size: int) -> int:
        """Batches in one pass over the rows."""
        return -(-len(self._rows) // batch_size)

    def batches(
        self, batch_size: int, negatives: int, window: Window, start: int, count: int, popularity: bool = False
    ) -> Iterator[Batch]:
        """Steps `start` to `start + count` of the endless stream of shuffled passes over the training rows.

        Negatives are drawn anew in every pass, uniformly (or proportional to training popularity) from the items that
        the user has no training event with. The same (seed, step) gives the same batch, whatever was read before.
        """
        split, events = self._batches.split, self._events
        per_pass = self.steps(batch_size)
        if self._keys is None:
            self._keys = row_keys(events, self._rows)
        weights = None
        if popularity:
            weights = np.bincount(events.item[split.train], minlength=len(split.log.items) + 1)
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(start, start + count):
            number, place = divmod(step, per_pass)
            if number != current:
                current, order = number, _generator("shuffle", self.seed, number).permutation(len(self._rows))
            chosen = order[place * batch_size : (place + 1) * batch_size]
            rows, keys = self._rows[chosen], self._keys[chosen]
            item = events.item[rows]
            purpose = hashing.key("train-negatives", self.seed, number)
            drawn = draw_negatives(purpose, keys, events.user[rows], item, self._seen, negatives, weights)
            cand, column = _insert(item, drawn, hashing.draw(hashing.key("train-column", self.seed, number), keys))
            batch = self._batches.rows(rows, cand, window)
            batch.item = _tensor(item)
            label = np.zeros(cand.shape, dtype=np.float32)
            label[np.arange(len(rows)), column] = 1
            batch.label = torch.from_numpy(label)
            yield batch

    def sequences(
        self, batch_size: int, length: int, start: int, count: int, every_task: bool = False
    ) -> Iterator[SequenceBatch]:
        """Steps of the endless stream of shuffled passes over users: the last `length` training rows of each.

        The rows are those of the tasks at hand; with `every_task` the searches are in the sequence of a recommender,
        too.
        """
        events, pool = self._events, self._batches.split.train if every_task else self._rows
        users, first, counts = np.unique(events.user[pool], return_index=True, return_counts=True)
        per_pass = -(-len(users) // batch_size)
        for step in range(start, start + count):
            number, place = divmod(step, per_pass)
            order = _generator("shuffle-users", self.seed, number).permutation(len(users))
            chosen = order[place * batch_size : (place + 1) * batch_size]
            kept = np.minimum(counts[chosen], length)
            real = np.arange(length) < kept[:, None]
            at = np.where(real, (first[chosen] + counts[chosen] - kept)[:, None] + np.arange(length), 0)
            rows = pool[at]
            columns = {
                "items": events.item[rows],
                "tasks": events.task[rows],
                "queries": events.query[rows],
                "times": events.time[rows],
            }
            yield SequenceBatch(
                user=_tensor(users[chosen]),
                length=_tensor(kept),
                **{name: _tensor(np.where(real, value, 0)) for name, value in columns.items()},
            )

    def sequence_steps(self, batch_size: int, every_task: bool = False) -> int:
        """Batches in one pass over the users."""
        pool = self._batches.split.train if every_task else self._rows
        return -(-len(np.unique(self._events.user[pool])) // batch_size)


def task_codes(tasks: tuple[str, ...]) -> list[int]:
    return [TASKS.index(task) for task in tasks]


def _insert(item: np.ndarray, negatives: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the clicked item into a uniformly drawn column: (B, K) candidates and (B,) its column."""
    width = negatives.shape[1] + 1
    column = hashing.below(values, width)
    source = np.arange(width)[None, :] - (np.arange(width)[None, :] > column[:, None])
    cand = np.take_along_axis(np.concatenate([negatives, item[:, None]], 1), np.minimum(source, width - 1), 1)
    cand[np.arange(len(item)), column] = item
    return cand, column


def _generator(purpose: str, *parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=hashing.seed(purpose, *parts)))


def _mask(length: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=length.device) < length[:, None]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.long)
