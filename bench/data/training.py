"""The training side of a split as models see it: streams of batches, and plain arrays."""

import copy
from typing import Literal

import numpy as np

from bench.data.batch import Batches
from bench.data.history import Window
from bench.data.log import WordBags
from bench.data.sampling import ItemWeights, SeenItems, few_unseen
from bench.data.sequences import SequenceStream
from bench.data.streams import EventStream
from bench.data.views import Augment, ViewStream
from bench.errors import NothingToReadError, RunError


class TrainData:
    """Training rows of the tasks at hand.

    Args:
        batches: makes the batches of the split.
        tasks: the tasks that are trained for ("rec", "search").
        seed: of every random choice of the streams.
    """

    def __init__(self, batches: Batches, tasks: tuple[str, ...], seed: int):
        self._batches = batches
        self.tasks = tasks
        self.seed = seed
        split = batches.split
        self._events = split.log.events
        self._rows = np.sort(np.concatenate([split.rows("train", task) for task in tasks]))
        n_items = len(split.log.items)
        # A model may not learn from its negatives what the held-out items are: only training pairs are excluded.
        self._seen = SeenItems(self._events.user[split.train], self._events.item[split.train], n_items)
        self._popularity: ItemWeights | None = None
        # Shared with the copies that `only` and `with_seed` make.
        self._left_out = {"rows": 0}

    def __len__(self) -> int:
        """Number of training rows of the tasks."""
        return len(self._rows)

    def only(self, *tasks: str) -> "TrainData":
        """The training rows of some tasks, as data of their own; histories and seen items stay those of all."""
        other = copy.copy(self)
        split = self._batches.split
        other.tasks, other._rows = tasks, np.sort(np.concatenate([split.rows("train", task) for task in tasks]))
        return other

    def with_seed(self, seed: int) -> "TrainData":
        """The same rows with other random choices."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def arrays(self, task: str | None = None) -> dict[str, np.ndarray]:
        """user, item, query, task, time, event_id of the training rows (of one of the two tasks, or of both).

        Rows of both tasks are there also for a model that serves one: searches are input of recommenders, too.
        """
        rows = self._batches.split.rows("train", task)
        return self._events.take(rows).columns()

    def review_words(self, of: Literal["item", "user"]) -> WordBags:
        """(n + 1,) bags of the words in the training reviews of each item or user, row 0 empty.

        A review belongs to its event; a training event is one that has a training row, of either task. So the bags
        hold no word of a held-out purchase, whatever the split.

        Raises:
            NothingToReadError: the data set has no reviews.
        """
        log = self._batches.split.log
        if log.reviews is None:
            raise NothingToReadError(f"{log.name} has no words of reviews")
        rows = self._batches.split.train
        # Twins and clicks of one event share its review: one row per event.
        event, first = np.unique(self._events.event_id[rows], return_index=True)
        owner = (self._events.item if of == "item" else self._events.user)[rows[first]]
        words, counts = log.reviews.words.take(event), log.reviews.counts.take(event)
        n_rows = len(log.items if of == "item" else log.users) + 1
        return WordBags.of(owner[words.owners()], words.values, counts.values, n_rows)

    def events(
        self,
        batch_size: int,
        *,
        negatives: int,
        window: Window,
        sampling: Literal["uniform", "popularity"] = "uniform",
    ) -> EventStream:
        """Stream of `Batch`: one training row each, with its history and its negatives.

        Args:
            batch_size: rows in a batch.
            negatives: items drawn for each row; 0 draws nothing.
            window: how much of the past a row carries.
            sampling: "uniform" over the items, or proportional to their "popularity" in training.

        Raises:
            RunError: no user has so many unseen items; rows of single users who have not are left out (`left_out`).
        """
        weights = self._item_weights() if sampling == "popularity" else None
        rows = self._with_negatives(self._rows, negatives, weights)
        return EventStream(self._batches, rows, self._seen, self.seed, batch_size, negatives, weights, window)

    def sequences(
        self, batch_size: int, *, length: int, negatives: int = 0, every_task: bool = False, clicks: int = 5
    ) -> SequenceStream:
        """Stream of `SequenceBatch`: windows of at most `length` acts of one user each.

        Args:
            batch_size: windows in a batch.
            length: most acts of a window.
            negatives: items drawn for each position; 0 draws nothing.
            every_task: whether training rows of the other task stand in the sequences, too (they carry their task).
            clicks: most items of an act.
        """
        rows = self._with_negatives(self._batches.split.train if every_task else self._rows, negatives)
        guards = self._batches.histories.guards
        return SequenceStream(self._events, rows, self._seen, guards, self.seed, batch_size, length, negatives, clicks)

    def views(
        self,
        batch_size: int,
        *,
        length: int,
        augment: Augment,
        negatives: int = 0,
        every_task: bool = False,
        clicks: int = 5,
    ) -> ViewStream:
        """Stream of `ViewPair`: two augmented views of the windows that `sequences` shows.

        Args:
            batch_size: windows in a batch.
            length: most acts of a window.
            augment: the operators and their rates.
            negatives: items drawn for each position of the window itself; 0 draws nothing.
            every_task: whether training rows of the other task stand in the sequences, too.
            clicks: most items of an act.
        """
        windows = self.sequences(batch_size, length=length, negatives=negatives, every_task=every_task, clicks=clicks)
        return ViewStream(windows, self.seed, augment)

    @property
    def left_out(self) -> int:
        """Most rows that a stream of this data has left out so far, because their users know nearly every item."""
        return self._left_out["rows"]

    def _with_negatives(self, rows: np.ndarray, negatives: int, weights: ItemWeights | None = None) -> np.ndarray:
        """The rows whose users have that many unseen items left.

        Raises:
            RunError: no row is left.
        """
        if not negatives:
            return rows
        few = few_unseen(self._events, rows, self._seen, negatives, weights)
        if len(rows) and few.all():
            raise RunError(
                f"the catalogue of {self._batches.split.log.name} is too small to draw negatives from: no user has "
                f"{negatives} items without a training event; train with fewer negatives"
            )
        self._left_out["rows"] = max(self.left_out, int(few.sum()))
        return rows[~few]

    def _item_weights(self) -> ItemWeights:
        if self._popularity is None:
            split = self._batches.split
            counts = np.bincount(self._events.item[split.train], minlength=len(split.log.items) + 1)
            self._popularity = ItemWeights(counts)
        return self._popularity
