"""The primary metric by kinds of rows: popular and rare items, short and long histories, cold users, new queries."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.history import Window
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks
from bench.evaluation.significance import mean_over_seeds
from bench.report.detail.data import TableData
from bench.report.marks import Block

_EDGES = (0, 1, 5, 20, 100)
_COUNTS = ("0", "1 to 4", "5 to 19", "20 to 99", "100 or more")


@dataclass(frozen=True)
class Cell:
    """One model on the rows of one stratum; the interval is that of the mean over users (normal, 95 %)."""

    number: int  # of the row in the table
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """Rows of a task that share something."""

    name: str
    rows: int
    users: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Strata:
    """One way to divide the rows of a task; strata without rows are left out."""

    title: str
    strata: tuple[Stratum, ...]


def strata(block: Block, task: str, data: TableData) -> list[Strata]:
    """All divisions of a task's rows in which there is more than one stratum, and those with one, which say so."""
    first = next(iter(block.ranks[task].values()))[0]
    return [_divided(block, task, title, names, codes) for title, names, codes in _codes(first, task, data)]


def _codes(ranks: Ranks, task: str, data: TableData) -> list[tuple[str, tuple[str, ...], Callable]]:
    """Title, names of the strata, and a function that gives ranks their strata."""

    def binned(counts: NDArray[np.integer]) -> NDArray[np.integer]:
        return np.digitize(counts, _EDGES) - 1

    def history(each: Ranks) -> NDArray[np.integer]:
        everything = Window(rec=None, search=None, clicks=1)
        lengths = [past.rec_len + past.search_len for past in data.pasts(data.event_rows(each), everything)]
        return binned(np.concatenate(lengths))

    divisions: list[tuple[str, tuple[str, ...], Callable]] = [
        ("training events of the item", _COUNTS, lambda each: binned(data.item_events[each.item])),
        ("length of the history", _COUNTS, history),
        (
            "user",
            ("cold: no training event", "seen in training"),
            lambda each: (data.user_events[each.user] > 0).astype(int),
        ),
    ]
    if task == "search":
        names = ("not in training", "in training")
        divisions.append(("query", names, lambda each: data.trained_queries[each.query].astype(int)))
    return divisions


def _divided(block: Block, task: str, title: str, names: tuple[str, ...], codes: Callable) -> Strata:
    first = next(iter(block.ranks[task].values()))[0]
    of_first = codes(first)
    order = np.lexsort((first.item, first.event_id))
    found = []
    for code, name in enumerate(names):
        chosen = of_first == code
        if not chosen.any():
            continue
        cells = []
        for number, runs in block.ranks[task].items():
            kept = [_only(each, first, order, chosen) for each in runs]
            _, values = mean_over_seeds([each.per_user(PRIMARY) for each in kept])
            half = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            mean = float(values.mean())
            cells.append(Cell(number, mean, mean - half, mean + half))
        found.append(Stratum(name, int(chosen.sum()), len(np.unique(first.user[chosen])), tuple(cells)))
    return Strata(title, tuple(found))


def _only(ranks: Ranks, first: Ranks, order: NDArray[np.integer], chosen: NDArray[np.bool_]) -> Ranks:
    """The rows of `ranks` that are chosen in `first`, which holds the same rows in an order of its own."""
    if np.array_equal(ranks.event_id, first.event_id) and np.array_equal(ranks.item, first.item):
        return ranks.rows(chosen)
    mask = np.empty(len(ranks), dtype=bool)
    mask[np.lexsort((ranks.item, ranks.event_id))] = chosen[order]
    return ranks.rows(mask)
