"""Single test rows of a table: who asked what, what they did before, where each model ranks what they clicked.

Of all rows a sample is taken, the same for every model of a task: for each model the rows that it loses and wins most
against the best other model, and some rows by a hash. Values are those of the first seed of each model.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.hashing import draw, key
from bench.data.history import Past, Window
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks
from bench.evaluation.top_lists import TopLists
from bench.messages import shortened
from bench.report.detail.data import TableData
from bench.report.marks import Block

HISTORY = 12  # last events that are shown
_TEXT = 70  # letters of an item's text
_ANY = 12  # rows by a hash
_PURPOSE = key("report-rows")


@dataclass
class SingleRows:
    """A sample of one task's rows, as plain data for a page.

    Attributes:
        task: rec or search.
        models: numbers of the table's rows that have values.
        references: for each of them the number of the model that it is compared with at first.
        of: how many rows the task has.
        rows: by row: `user`, `query`, `positive` (an index into `items`), `history` (a list of pairs: an index into
            `items` or -1, and the query that led there or ""), `places` (for each model the negatives above and those
            tied), `values` (for each model the primary metric), `lists` (for each model with lists up to ten indices).
        items: texts of the items that occur.
    """

    task: str
    models: tuple[int, ...]
    references: tuple[int, ...]
    of: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)


def single_rows(
    block: Block, task: str, data: TableData | None, lists: dict[int, TopLists], each_way: int
) -> SingleRows:
    """The sample of a task.

    Args:
        block: of the table.
        task: rec or search.
        data: for texts and histories; None shows numbers only.
        lists: as `task_lists` gives them.
        each_way: losses and wins of each model, so many of each at most.
    """
    ranks = {number: _sorted(runs[0]) for number, runs in block.ranks[task].items()}
    order = [number for number in block.ordered(task, PRIMARY) if number in ranks]
    models = tuple(ranks)
    references = tuple(next((other for other in order if other != number), number) for number in models)
    values = {number: each.values(PRIMARY) for number, each in ranks.items()}
    first = ranks[models[0]]
    chosen = _sample(first, models, references, values, each_way)
    sample = SingleRows(task, models, references, len(first))
    texts = _Texts(data, sample.items)
    pasts = _histories(first.rows(chosen), data)
    for place, row in enumerate(chosen):
        query = int(first.query[row])
        sample.rows.append(
            {
                "user": data.user_text(int(first.user[row])) if data else str(first.user[row]),
                "query": "" if query == 0 else data.query_text(query) if data else f"query {query}",
                "positive": texts.index(int(first.item[row])),
                "history": [(texts.index(item) if item else -1, asked) for item, asked in pasts[place]]
                if pasts
                else [],
                "places": [[int(ranks[n].better[row]), int(ranks[n].tied[row])] for n in models],
                "values": [round(float(values[n][row]), 4) for n in models],
                "lists": [
                    [texts.index(int(item)) for item in lists[n].items[row] if item] if n in lists else None
                    for n in models
                ],
            }
        )
    return sample


def _sample(
    ranks: Ranks,
    models: tuple[int, ...],
    references: tuple[int, ...],
    values: dict[int, NDArray[np.float64]],
    each_way: int,
) -> NDArray[np.integer]:
    """Rows that are shown, ascending. Of equal differences a hash of the row decides."""
    shuffled = np.argsort(draw(_PURPOSE, ranks.event_id, ranks.item), kind="stable")
    chosen = set(shuffled[:_ANY].tolist())
    for number, other in zip(models, references, strict=True):
        difference = (values[number] - values[other])[shuffled]
        ascending = shuffled[np.argsort(difference, kind="stable")]
        losses, wins = int((difference < 0).sum()), int((difference > 0).sum())
        chosen.update(ascending[: min(each_way, losses)].tolist())
        chosen.update(ascending[len(ascending) - min(each_way, wins) :].tolist())
    return np.array(sorted(chosen), dtype=np.int64)


class _Texts:
    """Gives each item that occurs an index into a list of texts."""

    def __init__(self, data: TableData | None, texts: list[str]):
        self._data, self._texts, self._known = data, texts, dict[int, int]()

    def index(self, item: int) -> int:
        """Index of an item's text."""
        if item not in self._known:
            self._known[item] = len(self._texts)
            self._texts.append(shortened(self._data.item_text(item), _TEXT) if self._data else f"item {item}")
        return self._known[item]


def _histories(ranks: Ranks, data: TableData | None) -> list[list[tuple[int, str]]]:
    """For each row its last units, oldest first: an item (0 where a search has none that may be seen) and its query."""
    if data is None:
        return []
    window = Window(rec=HISTORY, search=HISTORY, clicks=1)
    return [
        _units(past, row, data)
        for past in data.pasts(data.event_rows(ranks), window)
        for row in range(len(past.rec_len))
    ]


def _units(past: Past, row: int, data: TableData) -> list[tuple[int, str]]:
    length = int(past.rec_len[row] + past.search_len[row])
    units = []
    for task, column in zip(past.merged_task[row, :length], past.merged_column[row, :length], strict=True):
        if task:
            units.append((int(past.search_items[row, column, 0]), data.query_text(int(past.search_query[row, column]))))
        else:
            units.append((int(past.rec_items[row, column]), ""))
    return units[-HISTORY:]


def _sorted(ranks: Ranks) -> Ranks:
    return ranks.rows(np.lexsort((ranks.item, ranks.event_id)))
