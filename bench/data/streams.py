"""What a model trains on: endless seeded streams of batches, and the stream of event rows.

A stream is addressed by step: the same (seed, step) gives the same batch, whatever was read before, so that an
interrupted fit goes on where it stopped. A pass is one round over what the stream is made of, in an order of its own.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from bench.data import hashing
from bench.data.batch import Batch, Batches, SequenceBatch, ViewPair, tensor
from bench.data.history import Window
from bench.data.sampling import ItemWeights, SeenItems, draw_negatives, row_keys


class Stream(Protocol):
    """An endless sequence of training batches, addressed by step."""

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass."""

    def batches(self, start: int, count: int) -> Iterator[Batch | SequenceBatch | ViewPair]:
        """Steps `start` to `start + count` (exclusive); the same (seed, step) gives the same batch."""


class Passes:
    """Shuffled passes over `size` entries, `batch_size` at a time; keeps the order of the pass read last."""

    def __init__(self, purpose: str, seed: int, size: int, batch_size: int):
        self.purpose = purpose
        self.seed = seed
        self.size = size
        self.batch_size = batch_size
        self._number = -1
        self._order = np.empty(0, dtype=np.int64)

    @property
    def steps(self) -> int:
        """Batches in one pass; the last one may be smaller."""
        return -(-self.size // self.batch_size)

    def entries(self, step: int) -> tuple[int, np.ndarray]:
        """Number of the pass that `step` lies in, and its entries, (at most batch_size,) int64."""
        number, position = divmod(step, self.steps)
        if number != self._number:
            generator = np.random.Generator(np.random.Philox(key=hashing.seed(self.purpose, self.seed, number)))
            self._number, self._order = number, generator.permutation(self.size)
        return number, self._order[position * self.batch_size : (position + 1) * self.batch_size]


class EventStream:
    """Event rows with their histories and K = 1 + negatives candidates.

    Negatives are drawn anew in every pass from the items that the user has no training event with. Without negatives
    the clicked item is the only candidate and nothing is drawn.

    Args:
        batches: makes the batches of the split.
        rows: (n,) the event rows of a pass.
        seen: pairs that are never drawn.
        weights: relative probability of each item; None = uniform.
        window: how much of the past a row carries.
    """

    def __init__(
        self,
        batches: Batches,
        rows: np.ndarray,
        seen: SeenItems,
        seed: int,
        batch_size: int,
        negatives: int,
        weights: ItemWeights | None,
        window: Window,
    ):
        self._batches = batches
        self._rows = rows
        self._keys = row_keys(batches.split.log.events, rows)
        self._seen = seen
        self._seed = seed
        self._negatives = negatives
        self._weights = weights
        self._window = window
        self._passes = Passes("shuffle", seed, len(rows), batch_size)

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the rows."""
        return self._passes.steps

    def batches(self, start: int, count: int) -> Iterator[Batch]:
        """Steps `start` to `start + count` (exclusive); the same (seed, step) gives the same batch."""
        events = self._batches.split.log.events
        for step in range(start, start + count):
            number, chosen = self._passes.entries(step)
            rows, keys = self._rows[chosen], self._keys[chosen]
            item = events.item[rows]
            cand, label, drawn = self._candidates(number, keys, events.user[rows], item)
            batch = self._batches.rows(rows, cand, self._window)
            batch.item, batch.negatives, batch.label = tensor(item), tensor(drawn), torch.from_numpy(label)
            yield batch

    def _candidates(
        self, number: int, keys: np.ndarray, user: np.ndarray, item: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Candidates (B, K) of a pass's rows, their labels (B, K) float32, and the negatives among them (B, K - 1)."""
        if not self._negatives:
            return item[:, None], np.ones((len(item), 1), dtype=np.float32), np.zeros((len(item), 0), dtype=np.int32)
        purpose = hashing.key("train-negatives", self._seed, number)
        drawn = draw_negatives(purpose, keys, user, item, self._seen, self._negatives, self._weights)
        cand, column = _insert(item, drawn, hashing.draw(hashing.key("train-column", self._seed, number), keys))
        label = np.zeros(cand.shape, dtype=np.float32)
        label[np.arange(len(item)), column] = 1
        return cand, label, drawn


def _insert(item: np.ndarray, negatives: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the clicked item into a uniformly drawn column: (B, K) candidates and (B,) its column."""
    width = negatives.shape[1] + 1
    column = hashing.below(values, width)
    columns = np.arange(width)
    source = np.minimum(columns - (columns > column[:, None]), width - 2)
    shifted = np.take_along_axis(negatives, source, 1)
    return np.where(columns == column[:, None], item[:, None], shifted), column
