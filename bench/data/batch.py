"""What a model reads: tensors only, right padded, lengths beside them.

Axes: B rows, Lr / Ls / La history positions (rec clicks, searches, both merged), Cs clicks of a search, K candidates.
Lengths are authoritative: what stands in a padding slot means nothing, and models must not look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from bench.data.history import Histories, Window
from bench.data.log import SEARCH, TASKS
from bench.data.merged import MergedHistory, length_mask
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
    negatives: Tensor | None = None  # (B, K - 1) training only: the drawn items, apart from the clicked one

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return _shapes(self)

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device; itself where it is there."""
        if self.user.device == torch.device(device):
            return self
        return replace(self, **{name: value.to(device) for name, value in _tensors(self)})

    def take(self, rows: Tensor) -> "Batch":
        """The rows (a mask or indices) as a batch of their own."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        return replace(self, **{name: value.index_select(0, index) for name, value in _tensors(self)})

    @property
    def rec_mask(self) -> Tensor:
        """(B, Lr) bool, True on real positions."""
        return length_mask(self.rec_len, self.rec_items.shape[1])

    @property
    def search_mask(self) -> Tensor:
        """(B, Ls) bool."""
        return length_mask(self.search_len, self.search_query.shape[1])

    @property
    def merged_len(self) -> Tensor:
        """(B,)."""
        return self.rec_len + self.search_len

    @property
    def merged_mask(self) -> Tensor:
        """(B, La) bool."""
        return length_mask(self.merged_len, self.merged_task.shape[1])

    @property
    def search_click_mask(self) -> Tensor:
        """(B, Ls, Cs) bool, True on clicked items of real searches."""
        return (self.search_items > 0) & self.search_mask[..., None]

    def merged(self, length: int) -> MergedHistory:
        """The last `length` acts of both behaviours, L = `length` positions."""
        total = self.merged_len[:, None]
        kept = total.clamp(max=length)
        column = torch.arange(length, device=self.user.device)
        mask = column < kept  # (B, L)
        position = total - kept + column
        task = torch.where(mask, _pick(self.merged_task, position), 0)
        index = torch.where(mask, _pick(self.merged_column, position), 0)
        search = task == SEARCH
        rec = mask & ~search
        clicks = torch.where(search[..., None], _pick(self.search_items, index), 0)  # (B, L, Cs)
        clicks[..., 0] += torch.where(rec, _pick(self.rec_items, index), 0)
        times = torch.where(search, _pick(self.search_times, index), _pick(self.rec_times, index))
        return MergedHistory(
            clicks=clicks,
            queries=torch.where(search, _pick(self.search_query, index), 0),
            tasks=task,
            times=torch.where(mask, times, 0),
            length=kept[:, 0],
        )


@dataclass
class SequenceBatch:
    """Windows of B training sequences, one position per act, oldest first, right padded (see `bench.data.sequences`).

    All tensors int64 unless noted; 0 in padding slots.
    """

    user: Tensor  # (B,)
    items: Tensor  # (B, L) the target of each position
    clicks: Tensor  # (B, L, C) all items of the act that later positions may know, the target first, 0 = none
    tasks: Tensor  # (B, L) 0 = rec, 1 = search
    queries: Tensor  # (B, L) 0 for rec
    times: Tensor  # (B, L) ms
    event_ids: Tensor  # (B, L)
    instant: Tensor  # (B, L) positions of one number may not see each other; ascending from 0
    length: Tensor  # (B,)
    negatives: Tensor | None = None  # (B, L, N) items drawn for each position
    masked: Tensor | None = None  # (B, L) bool, views only: True where the unit is hidden

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return _shapes(self)

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """The batch on a device; itself where it is there."""
        if self.user.device == torch.device(device):
            return self
        return replace(self, **{name: value.to(device) for name, value in _tensors(self)})

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True on real positions."""
        return length_mask(self.length, self.items.shape[1])

    @property
    def target(self) -> Tensor:
        """(B, L) bool, where a causal loss may be taken: positions whose past is everything before them.

        All real positions; with `strict_time` the first of each instant. A model without a start token has nothing to
        predict position 0 from.
        """
        first = torch.ones_like(self.instant, dtype=torch.bool)
        first[:, 1:] = self.instant[:, 1:] != self.instant[:, :-1]
        return first & self.mask

    @property
    def past_mask(self) -> Tensor:
        """(B, L, L) bool, True where position j (last axis) is past of position i."""
        return (self.instant[:, None, :] < self.instant[:, :, None]) & self.mask[:, None, :]


@dataclass
class ViewPair:
    """Two augmented views of the same B training sequences, row by row, and the sequences themselves."""

    first: SequenceBatch
    second: SequenceBatch
    sequence: SequenceBatch

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device | str) -> "ViewPair":
        """All three on a device."""
        return ViewPair(self.first.to(device), self.second.to(device), self.sequence.to(device))


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
            user=tensor(events.user[rows]),
            task=tensor(events.task[rows]),
            query=tensor(events.query[rows]),
            time=tensor(events.time[rows]),
            cand=tensor(cand),
            **{name: tensor(value) for name, value in vars(past).items()},
        )


def task_codes(tasks: tuple[str, ...]) -> list[int]:
    """Codes of tasks by name: 0 = rec, 1 = search."""
    return [TASKS.index(task) for task in tasks]


def _tensors(batch: "Batch | SequenceBatch") -> Iterator[tuple[str, Tensor]]:
    return ((each.name, value) for each in fields(batch) if (value := getattr(batch, each.name)) is not None)


def _shapes(batch: "Batch | SequenceBatch") -> str:
    """One line: the class, its rows, and the shape of each tensor."""
    shapes = (
        f"{name} {'x'.join(str(size) for size in value.shape[1:])}"
        for name, value in _tensors(batch)
        if value.dim() > 1
    )
    return f"{type(batch).__name__}({len(batch)} rows; {', '.join(shapes)})"


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, L, ...) entries of `values` (B, W, ...) at `index` (B, L), cut to the width; zeros where W is 0."""
    if values.shape[1] == 0:
        return values.new_zeros((*index.shape, *values.shape[2:]))
    index = index.clamp(max=values.shape[1] - 1)
    index = index.reshape(*index.shape, *[1] * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, index)


def tensor(values: np.ndarray) -> Tensor:
    """int64 tensor of an array of integers."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
