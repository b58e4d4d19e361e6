"""A small log with a planted structure, made here, on which a model can be examined within seconds.

40 users with a taste each (six clusters of ten items), 60 items that carry words, categories, features and queries,
twelve queries. Among the users are some that never search and some that only search; some searches have two clicks.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from bench.data import hashing
from bench.data.batch import Batch, Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.log import TASKS, Log
from bench.data.sampling import SeenItems, draw_negatives, row_keys
from bench.data.split import LogSplit, split
from bench.data.training import TrainData

USERS, ITEMS, QUERIES, CLUSTERS = 40, 60, 12, 6
NO_SEARCH, ONLY_SEARCH = range(0, 4), range(4, 8)
_THEMES = ("garden", "kitchen", "winter", "travel", "music", "office")
_KINDS = ("classic", "modern")
_DAY_MS = 86_400_000


@lru_cache(maxsize=1)
def log() -> Log:
    """The planted log, the same in every process."""
    items = pd.DataFrame(
        {
            "id": [f"item{i:02d}" for i in range(ITEMS)],
            "text": [f"{_THEMES[i % CLUSTERS]} {_KINDS[i // CLUSTERS % 2]} article number{i}" for i in range(ITEMS)],
            "categories": [[_THEMES[i % CLUSTERS], _KINDS[i // CLUSTERS % 2]] for i in range(ITEMS)],
            "queries": [[_query(i % CLUSTERS, i // CLUSTERS % 2)] for i in range(ITEMS)],
            "feature:brand": [f"brand{i % 4}" for i in range(ITEMS)],
        }
    )
    pairs = [(theme, kind) for theme in range(CLUSTERS) for kind in range(len(_KINDS))]
    texts = [f"{_THEMES[theme]} {_KINDS[kind]}" for theme, kind in pairs]
    queries = pd.DataFrame({"id": [_query(*pair) for pair in pairs], "text": texts})
    ages = [f"age{u % 3}" for u in range(USERS)]
    users = pd.DataFrame({"id": [f"user{u:02d}" for u in range(USERS)], "feature:age": ages})
    return build("planted", "natural", pd.DataFrame(_events()), items, queries, users, seed=0)


def _query(theme: int, kind: int) -> str:
    return f"query-{_THEMES[theme]}-{_KINDS[kind]}"


def _events() -> list[dict[str, object]]:
    """Six purchases and five searches per user in mixed order; two thirds of the items are of the user's taste."""
    generator = np.random.Generator(np.random.Philox(key=hashing.seed("planted")))
    rows: list[dict[str, object]] = []
    for user in range(USERS):
        taste = user % CLUSTERS
        liked = generator.permutation(np.arange(taste, ITEMS, CLUSTERS))
        others = generator.permutation(np.setdiff1d(np.arange(ITEMS), liked))
        pool = iter(generator.permutation(np.concatenate([liked[:9], others[:5]])))
        tasks = [0] * (0 if user in ONLY_SEARCH else 6) + [1] * (0 if user in NO_SEARCH else 5)
        for place, task in enumerate(generator.permutation(tasks)):
            act, time = f"act-{user}-{place}", 1_600_000_000_000 + (place * USERS + user) * _DAY_MS
            item = int(next(pool))
            query = _query(item % CLUSTERS, item // CLUSTERS % 2) if task else ""
            common = {"act": act, "user": f"user{user:02d}", "time": time, "task": int(task), "query": query}
            rows.append(common | {"item": f"item{item:02d}"})
            if task and place % 4 == 0:
                # A second click of the same search.
                rows.append(common | {"item": f"item{int(next(pool)):02d}"})
    return rows


class Planted:
    """The planted log with its split, and the batches that the checks look at."""

    negatives = 8

    def __init__(self) -> None:
        self.log = log()
        self.split: LogSplit = split(self.log)
        self.batches = Batches(self.split)
        self.catalog = Catalog(self.log)
        self._seen = SeenItems(self.log.events.user, self.log.events.item, len(self.log.items))

    def train(self, tasks: tuple[str, ...], seed: int = 0) -> TrainData:
        """The training events of the tasks."""
        return TrainData(self.batches, tasks, seed)

    def scoring(self, tasks: tuple[str, ...], window: Window, rows_per_task: int = 12) -> Batch:
        """Rows of all kinds, tasks mixed: test rows, and first events of users, whose histories are empty."""
        events = self.log.events
        chosen = []
        for task in tasks:
            everything = np.sort(np.concatenate([self.split.rows(part, task) for part in ("train", "test")]))
            _, first = np.unique(events.user[everything], return_index=True)
            test = self.split.rows("test", task)
            own = "user{:02d}".format
            special = [own(user) for user in (NO_SEARCH[0], NO_SEARCH[1], ONLY_SEARCH[0], ONLY_SEARCH[1])]
            of_special = np.isin(self.log.users.id[events.user[test]], special)
            ordered = np.concatenate([everything[first[-2:]], test[of_special], test[~of_special]])
            chosen.append(ordered[:rows_per_task])
        # Rows of the tasks alternate, so that neighbours in the batch differ in kind.
        rows = np.stack(chosen, axis=1).ravel()
        return self.batches.rows(rows, self.lists(rows, self.negatives), window)

    def lists(self, rows: np.ndarray, negatives: int) -> np.ndarray:
        """(R, 1 + negatives) candidates of event rows: the clicked item and drawn ones, in a hashed order."""
        events, keys = self.log.events, row_keys(self.log.events, rows)
        user, item = events.user[rows], events.item[rows]
        drawn = draw_negatives(hashing.key("planted-candidates"), keys, user, item, self._seen, negatives)
        everything = np.concatenate([item[:, None], drawn], axis=1)
        order = np.argsort(hashing.draw(hashing.key("planted-order"), keys[:, None], np.arange(negatives + 1)), axis=1)
        return np.take_along_axis(everything, order, 1)

    def last_training_rows(self, tasks: tuple[str, ...], window: Window, negatives: int) -> Batch:
        """The last training event of every user with at least three, with its item: what sequence losses learn."""
        events = self.log.events
        rows = np.sort(np.concatenate([self.split.rows("train", task) for task in tasks]))
        _, start, count = np.unique(events.user[rows], return_index=True, return_counts=True)
        rows = rows[(start + count - 1)[count >= 3]]
        batch = self.batches.rows(rows, self.lists(rows, negatives), window)
        batch.item = torch.as_tensor(events.item[rows], dtype=torch.long)
        return batch


@lru_cache(maxsize=1)
def planted() -> Planted:
    """The planted data, made once per process."""
    return Planted()


def task_rows(batch: Batch, task: str) -> torch.Tensor:
    """(B,) bool: the rows of a task."""
    return batch.task == TASKS.index(task)


def rows_with_past(batch: Batch) -> torch.Tensor:
    """(B,) bool: the rows with a past of each kind that the model's window lets in."""
    rows = torch.ones_like(batch.task, dtype=torch.bool)
    for columns, length in ((batch.rec_items, batch.rec_len), (batch.search_query, batch.search_len)):
        if columns.shape[1]:
            rows &= length > 0
    return rows
