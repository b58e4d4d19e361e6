"""The prepared data behind a table, where they are on this machine. Nothing is prepared or downloaded for it."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.history import Past, Window
from bench.data.log import TASKS, Log
from bench.data.sources import data_root
from bench.errors import BenchError
from bench.evaluation.ranks import Ranks
from bench.experiments.prepared_data import DataChoice, PreparedData, open_choice, prepared_folder
from bench.store.records import DatasetFacts

_ROWS = 4096  # histories that are gathered at a time


class TableData:
    """What a report looks up in the data of a table.

    Args:
        prepared: the opened data set.
    """

    def __init__(self, prepared: PreparedData):
        self._prepared = prepared

    @property
    def log(self) -> Log:
        """Events, items, queries and users."""
        return self._prepared.log

    @cached_property
    def item_events(self) -> np.ndarray:
        """Training events of each item in both tasks, (N + 1,)."""
        events = self.log.events
        return np.bincount(events.item[self._prepared.split.train], minlength=len(self.log.items) + 1)

    @cached_property
    def user_events(self) -> np.ndarray:
        """Training events of each user in both tasks, (U + 1,)."""
        events = self.log.events
        return np.bincount(events.user[self._prepared.split.train], minlength=len(self.log.users) + 1)

    @cached_property
    def trained_queries(self) -> np.ndarray:
        """Whether a query occurs in training, (Q + 1,)."""
        events = self.log.events
        return np.bincount(events.query[self._prepared.split.train], minlength=len(self.log.queries) + 1) > 0

    def event_rows(self, ranks: Ranks) -> np.ndarray:
        """Row of the log for each row of ranks of one task, (n,)."""
        (task,) = ranks.tasks
        events = self.log.events
        test = self._prepared.split.rows("test", task)
        known = pd.MultiIndex.from_arrays([events.event_id[test], events.item[test]])
        return test[known.get_indexer(pd.MultiIndex.from_arrays([ranks.event_id, ranks.item]))]

    def pasts(self, rows: np.ndarray, window: Window) -> Iterator[Past]:
        """Histories of event rows, in parts."""
        for low in range(0, len(rows), _ROWS):
            yield self._prepared.batches.histories.gather(rows[low : low + _ROWS], window)

    def item_text(self, item: int) -> str:
        """What people call an item: its text, else its original id."""
        return _text(self.log.items.text, self.log.items.id, item)

    def query_text(self, query: int) -> str:
        """The words of a query, else its original id."""
        return _text(self.log.queries.text, self.log.queries.id, query)

    def user_text(self, user: int) -> str:
        """The original id of a user."""
        return str(self.log.users.id[user])


def open_table_data(facts: DatasetFacts, root: str | Path | None) -> TableData | str:
    """The data that runs were made on; one line that says why where they are not there.

    Args:
        facts: what the runs' records say of the data.
        root: data folder; None for the default one.
    """
    folder = prepared_folder(facts["fingerprint"], root)
    if folder is None:
        return f"the prepared data of {facts['name']} ({facts['fingerprint'][:12]}) are not under {data_root(root)}"
    choice = DataChoice(
        facts["name"],
        facts.get("options", {}),
        str(folder),
        facts["fingerprint"],
        facts["split"],
        str(data_root(root)),
    )
    try:
        return TableData(open_choice(choice))
    except BenchError as error:
        return str(error)


def task_code(task: str) -> int:
    """0 for rec, 1 for search."""
    return TASKS.index(task)


def _text(texts: np.ndarray | None, ids: np.ndarray, number: int) -> str:
    return (str(texts[number]) if texts is not None else "") or str(ids[number])
