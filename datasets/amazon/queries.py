"""Queries from category paths, and the events of purchases that are searched by them.

The recipe is that of Van Gysel et al. (CIKM 2016) and Ai et al. (SIGIR 2017): the words of a category path, each once,
the special ones last. Where their scripts differ from each other, a setting says which is followed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.data import hashing
from bench.data.ragged import Ragged
from bench.datasets.amazon.words import STOP_WORDS, Stem, path_words


@dataclass
class PathQueries:
    """Queries of each product, sorted and distinct, and what was met on the way."""

    lists: list[list[str]]
    counts: dict[str, int]


def path_queries(
    paths: Sequence[list[list[str]]],
    stem: Stem,
    vocabulary: set[str] | None,
    *,
    top_level: bool,
    stop_words: bool,
) -> PathQueries:
    """Queries of products from their category paths.

    Paths of one level are ignored; the levels are joined, cut to words and stemmed; words outside the vocabulary are
    dropped; of a repeated word the LAST occurrence stays. A path that would lose all of its words keeps them, so that
    whether a product can be searched depends on its metadata alone, never on who reviewed it.

    Args:
        paths: for each product its paths, each a list of level names.
        stem: brings a word into its normal form.
        vocabulary: stems that occur in training reviews; None = all words.
        top_level: keep the first level (Ai et al.) or drop it (Van Gysel et al.).
        stop_words: drop function words.
    """
    counts = dict.fromkeys(
        (
            "category paths",
            "category paths of one level, ignored",
            "category paths whose words are in no training review, kept whole",
        ),
        0,
    )
    made: dict[tuple[str, ...], str] = {}
    lists = []
    for of_product in paths:
        queries = set()
        for path in of_product:
            counts["category paths"] += 1
            if len(path) < 2:
                counts["category paths of one level, ignored"] += 1
                continue
            key = tuple(path)
            if key not in made:
                words = [stem(word) for word in path_words(path if top_level else path[1:])]
                if stop_words:
                    words = [word for word in words if word not in STOP_WORDS]
                known = words if vocabulary is None else [word for word in words if word in vocabulary]
                if words and not known:
                    counts["category paths whose words are in no training review, kept whole"] += 1
                made[key] = " ".join(last_occurrences(known or words))
            if made[key]:
                queries.add(made[key])
        lists.append(sorted(queries))
    return PathQueries(lists, counts)


def last_occurrences(words: Sequence[str]) -> list[str]:
    """Each word once, at the place where it occurs last: camera photo digital camera -> photo digital camera."""
    return list(dict.fromkeys(reversed(words)))[::-1]


def drawn_queries(
    user: np.ndarray, item: np.ndarray, carried: Ragged, seed: int, lists: np.ndarray | None = None
) -> np.ndarray:
    """One query for each purchase out of a list, by the hash of user and item under `path:`.

    Args:
        user: (n,) codes that depend on the ids only, not on the order of rows.
        item: (n,) such codes.
        carried: lists of queries.
        seed: of the hash.
        lists: (n,) the list of `carried` that a purchase draws from; default its item's.

    Returns:
        (n,) values of `carried`, -1 where the list is empty.
    """
    lists = item if lists is None else lists
    choices = carried.lengths[lists]
    number = hashing.below(hashing.draw(hashing.key("path", seed), user, item), np.maximum(choices, 1))
    out = np.full(len(item), -1, dtype=np.int64)
    some = choices > 0
    out[some] = carried.values[carried.offsets[lists[some]] + number[some]]
    return out


def task_events(purchases: pd.DataFrame, user: np.ndarray, item: np.ndarray, mode: str, seed: int) -> pd.DataFrame:
    """Events of purchases (`act`, `user`, `item`, `time`, `query`; "" where there is none).

    `mirror`: each purchase is a recommendation and, where it has a query, a search of the same act. `disjoint`: the
    hash of user and item (codes as above) under `task:` gives it to one task; without a query it is always a
    recommendation. `natural`: recommendations only.
    """
    searched = (purchases["query"] != "").to_numpy()
    rec = purchases.assign(task=0, query="")
    if mode == "natural":
        return rec
    if mode == "mirror":
        return pd.concat([rec, purchases[searched].assign(task=1)], ignore_index=True)
    # A prefix of its own: with the hash of the path, the task would decide the query.
    search = (hashing.below(hashing.draw(hashing.key("task", seed), user, item), 2) == 1) & searched
    return purchases.assign(task=search.astype(np.int8), query=purchases["query"].where(search, ""))
