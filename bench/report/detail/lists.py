"""Measures beyond accuracy of a table's rows, where their runs keep the best candidates of every row."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bench.errors import RunError
from bench.evaluation.beyond_accuracy import BeyondAccuracy, agreement, beyond_accuracy
from bench.evaluation.top_lists import TopLists
from bench.report.detail.data import TableData, task_code
from bench.report.marks import Block
from bench.store.results import read_lists


@dataclass(frozen=True)
class ListMeasures:
    """Measures of the first seed of each row that keeps lists, on one task.

    Attributes:
        task: rec or search.
        numbers: rows of the table.
        measures: of each of them.
        agreement: (m, m) share of a list's items that two models have in common, mean over rows.
    """

    task: str
    numbers: tuple[int, ...]
    measures: tuple[BeyondAccuracy, ...]
    agreement: NDArray[np.float64]


def task_lists(block: Block, task: str) -> dict[int, TopLists]:
    """By row of the table the lists of its first seed on a task, where they were kept, sorted by event and item.

    Raises:
        RunError: a file is missing or changed, or its rows are not those of the ranks.
    """
    found = {}
    for number, ranks in block.ranks[task].items():
        run = block.group.rows[number].runs[0]
        lists = read_lists(run.folder, run.evaluation)
        if lists is None:
            continue
        lists = lists.rows(lists.task == task_code(task))
        if not np.array_equal(lists.event_id, ranks[0].event_id):
            raise RunError(
                f"{run.folder / run.evaluation.lists} holds other rows than the ranks beside it; rank it again"
            )
        # Searches of one session share an event: the item of the ranks, which stand in the same order, tells them apart.
        found[number] = lists.rows(np.lexsort((ranks[0].item, ranks[0].event_id)))
    return found


def list_measures(lists: dict[int, TopLists], task: str, data: TableData) -> ListMeasures | None:
    """The measures on a task; None where no row keeps lists of it."""
    if not lists:
        return None
    each = list(lists.values())
    shared = np.eye(len(each))
    for a, b in combinations(range(len(each)), 2):
        shared[a, b] = shared[b, a] = agreement(each[a], each[b])
    measures = tuple(beyond_accuracy(one.items, data.item_events) for one in each)
    return ListMeasures(task, tuple(lists), measures, shared)
