"""From raw tables to a Log: dense ids, the published total order, vocabularies. Every data source goes through here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.data import hashing
from bench.data.log import WORD_ORIGINS, Entities, Events, Log, WordBags
from bench.data.ragged import Ragged
from bench.data.words import tokenize, word_rules


@dataclass(frozen=True)
class ReviewCounts:
    """How often the review of an act has each word: one entry (n,) per (act, word)."""

    words: np.ndarray  # (W,) str
    act: np.ndarray  # (n,) as the column `act` of the events
    word: np.ndarray  # (n,) places in `words`
    count: np.ndarray  # (n,)


def build(
    name: str,
    mode: str,
    events: pd.DataFrame,
    items: pd.DataFrame,
    queries: pd.DataFrame,
    users: pd.DataFrame | None = None,
    *,
    seed: int,
    manifest: dict[str, Any] | None = None,
    reviews: ReviewCounts | None = None,
    unclicked_items: bool = False,
) -> Log:
    """Assemble a Log.

    Args:
        name: of the data set.
        mode: `mirror`, `disjoint` or `natural`, see `Log.mode`.
        events: columns `act` (any key of the real-world act), `user`, `item` (original ids), `time` (int64 ms), `task`
            (0/1), `query` (key into `queries`, "" for rec) and optionally `session` and `part` (0 train, 1
            validation, 2 test, -1 history only: the split `given`). Row order does not matter.
        items: `id`, `text`, and optionally `provenance`, `words` (lists of strings; default: tokens of the text),
            `word_origins` (for each of `words` one of WORD_ORIGINS), `categories` (lists of strings), `queries` (lists
            of query keys that the item carries), `feature:<name>`. Only items that occur in events are kept, but for `unclicked_items`.
        queries: `id`, `text`, optionally `words`.
        users: `id`, optionally `feature:<name>`.
        seed: of the `order:` hash that breaks ties in time.
        manifest: further facts.
        reviews: words of the reviews that belong to acts. Those that no item and no query has are left out.
        unclicked_items: whether items without an event stay as candidates; their number stands in the manifest.
    """
    user_ids, user = _dense(events["user"])
    item_ids, item = _dense(events["item"], items["id"] if unclicked_items else None)
    if unclicked_items:
        manifest = (manifest or {}) | {"items without an event": len(item_ids) - events["item"].nunique()}
    query_rows = events["query"] != ""
    used = set(events.loc[query_rows, "query"])
    if "queries" in items:
        used |= {
            key for keys, kept in zip(items["queries"], items["id"].isin(item_ids), strict=True) if kept for key in keys
        }
    query_ids = sorted_ids(pd.Index(list(used)))
    query = np.zeros(len(events), dtype=np.int32)
    query[query_rows] = query_ids.get_indexer(events.loc[query_rows, "query"]) + 1

    item_rows = items.set_index("id").reindex(item_ids)
    query_table = queries.set_index("id").reindex(query_ids)
    item_words = _word_lists(item_rows)
    query_words = _word_lists(query_table)
    vocabulary = sorted_ids(pd.Index(list({word for words in [*item_words, *query_words] for word in words})))
    categories = item_rows["categories"].tolist() if "categories" in item_rows else [[] for _ in range(len(item_ids))]
    category_ids = sorted_ids(pd.Index(list({entry for entries in categories for entry in entries})))
    item_table = Entities(
        id=_with_padding(item_ids),
        text=_with_padding(item_rows["text"].fillna("")),
        provenance=_with_padding(item_rows["provenance"]) if "provenance" in item_rows else None,
        words=_codes(item_words, vocabulary),
        word_origins=_word_origins(item_rows, item_words),
        categories=_codes(categories, category_ids),
        queries=_codes(item_rows["queries"].tolist(), query_ids) if "queries" in item_rows else None,
        features=_features(item_rows),
    )
    user_rows = users.set_index("id").reindex(user_ids) if users is not None else None
    act = pd.factorize(events["act"])[0]
    columns = {
        "act": act,
        "user": user,
        "item": item,
        "time": events["time"].to_numpy(np.int64),
        "task": events["task"].to_numpy(np.int8),
        "query": query,
        "session": pd.factorize(events["session"])[0] if "session" in events else act,
    }
    if "part" in events:
        columns["part"] = events["part"].to_numpy(np.int8)
    if "words" not in items or "words" not in queries:
        manifest = {"words": word_rules(), **(manifest or {})}
    return assemble(
        name,
        mode,
        columns,
        reviews=_known_words(reviews, vocabulary, events["act"]) if reviews is not None else None,
        items=item_table,
        queries=Entities(
            id=_with_padding(query_ids), text=_with_padding(query_table["text"]), words=_codes(query_words, vocabulary)
        ),
        users=Entities(id=_with_padding(user_ids), features=_features(user_rows) if user_rows is not None else {}),
        words=Entities(id=_with_padding(vocabulary)),
        categories=Entities(id=_with_padding(category_ids)),
        seed=seed,
        manifest=manifest,
    )


def assemble(
    name: str,
    mode: str,
    events: dict[str, np.ndarray],
    *,
    items: Entities,
    queries: Entities,
    users: Entities,
    words: Entities,
    categories: Entities,
    seed: int,
    manifest: dict[str, Any] | None = None,
    shown: tuple[np.ndarray, np.ndarray] | None = None,
    reviews: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Log:
    """A Log from columns that are codes already: the way of data too large for lists of strings.

    Args:
        name: as in `build`, as are `mode`, `seed` and `manifest`.
        mode: see `name`.
        seed: see `name`.
        manifest: see `name`.
        events: arrays (E,) in any order. `user`, `item` int32 from 1 and `query` int32 (0 for rec) are rows of the
            entity tables; `time` int64 ms; `task` int8; `act` and `session` any integers; optionally `part`.
        items: the whole table, row 0 padding, sorted by original id; so are the other four.
        queries: as `items`.
        users: as `items`.
        words: as `items`.
        categories: as `items`.
        reviews: acts (n,), as in `events`, words (n,) and how often the act's review has each.
        shown: sessions (n,), as in `events`, and items (n,) that they displayed and nobody clicked; each pair once.
    """
    ordered, sessions, acts = _ordered(events, seed)
    facts = {"name": name, "mode": mode, "order_seed": seed, **(manifest or {})}
    displayed = None
    if shown is not None:
        session = sessions.get_indexer(shown[0])
        there = session >= 0
        # Sorted, so that the order of the raw rows does not matter.
        order = np.lexsort((shown[1][there], session[there]))
        displayed = Ragged.from_pairs(
            session[there][order] + 1, shown[1][there][order].astype(np.int32), len(sessions) + 1
        )
    bags = None
    if reviews is not None:
        act = acts.get_indexer(reviews[0])
        there = act >= 0
        bags = WordBags.of(act[there] + 1, reviews[1][there], reviews[2][there], len(acts) + 1)
    return Log(ordered, items, queries, users, words, categories, facts, displayed, bags).with_fingerprint()


def dense(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct integers ascending, and the code of each entry, int32 from 1."""
    distinct = np.sort(pd.unique(ids))
    return distinct, (np.searchsorted(distinct, ids) + 1).astype(np.int32)


def labels(ids: np.ndarray) -> np.ndarray:
    """(n + 1,) str: integers (or an Arrow array of strings) as the `id` or `text` column of a table, padding first."""
    column = pa.array(ids) if isinstance(ids, np.ndarray) else ids
    texts = column.cast(pa.large_string()).to_numpy(zero_copy_only=False)
    return np.concatenate([np.asarray([""], dtype=object), texts])


def _ordered(columns: dict[str, np.ndarray], seed: int) -> tuple[Events, pd.Index, pd.Index]:
    """Events in the published total order, acts and sessions numbered in that order from 1.

    Also the sessions' and the acts' own numbers, in that order.
    """
    user, item = columns["user"], columns["item"]
    tie = hashing.draw(hashing.key("order", seed), user, item)
    # Rows that agree on all of these are equal, so that the order of the raw rows never matters.
    order = _lexsort((user, columns["time"]), (tie, item, columns["query"], columns["task"]))
    session, sessions = pd.factorize(columns["session"][order])
    act, acts = pd.factorize(columns["act"][order])
    events = Events(
        event_id=act.astype(np.int64) + 1,
        user=user[order],
        item=item[order],
        time=columns["time"][order],
        task=columns["task"][order],
        query=columns["query"][order],
        session=session.astype(np.int64) + 1,
        part=columns["part"][order] if "part" in columns else None,
    )
    return events, pd.Index(sessions), pd.Index(acts)


def _lexsort(first: tuple[np.ndarray, ...], then: tuple[np.ndarray, ...]) -> np.ndarray:
    """(n,) order by the columns of `first`, and by those of `then` where rows agree in `first`; few rows should.

    Sorting by six columns takes three times as long as by two.
    """
    order = np.lexsort(first[::-1])
    same = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in first:
        same &= column[order[1:]] == column[order[:-1]]
    # Places that agree with a neighbour; blocks of them keep their places as a whole.
    tied = np.flatnonzero(np.r_[same, False] | np.r_[False, same]) if len(order) else order
    block = np.cumsum(np.r_[True, ~same])[tied] if len(order) else order
    rows = order[tied]
    order[tied] = rows[np.lexsort((*(column[rows] for column in then[::-1]), block))]
    return order


def k_core(users: np.ndarray, items: np.ndarray, minimum: int = 5) -> np.ndarray:
    """(rows,) mask of the iterative k-core: every remaining user and item has at least `minimum` rows."""
    keep = np.ones(len(users), dtype=bool)
    user, item = pd.factorize(users)[0], pd.factorize(items)[0]
    while True:
        n_user = np.bincount(user[keep], minlength=user.max(initial=0) + 1)
        n_item = np.bincount(item[keep], minlength=item.max(initial=0) + 1)
        refined = keep & (n_user[user] >= minimum) & (n_item[item] >= minimum)
        if (refined == keep).all():
            return keep
        keep = refined


def sorted_ids(ids: pd.Index) -> pd.Index:
    """Numeric order where all ids are integers, else alphabetical: never the order of the file."""
    texts = pd.Index(ids.astype(str).unique())
    if len(texts) and texts.str.fullmatch(r"-?\d{1,18}").all():
        return texts[np.lexsort((texts, texts.astype(np.int64)))]
    return texts.sort_values()


def _dense(column: pd.Series, others: pd.Series | None = None) -> tuple[pd.Index, np.ndarray]:
    """Distinct ids of a column (and of `others`) in order, and the code of each entry of the column, from 1."""
    ids = pd.Index(column.astype(str).unique())
    ids = sorted_ids(ids if others is None else ids.union(pd.Index(others.astype(str).unique())))
    return ids, (ids.get_indexer(column.astype(str)) + 1).astype(np.int32)


def _with_padding(values: Sequence | pd.Index | pd.Series) -> np.ndarray:
    return np.asarray(["", *(str(value) for value in values)], dtype=object)


def _word_lists(table: pd.DataFrame) -> list[list[str]]:
    return table["words"].tolist() if "words" in table else [tokenize(text) for text in table["text"].fillna("")]


def _word_origins(table: pd.DataFrame, words: list[list[str]]) -> Ragged | None:
    """Origin of each word of each item, or None where the source does not say."""
    if "word_origins" not in table:
        return None
    lists = [entry if isinstance(entry, list) else [] for entry in table["word_origins"]]
    if [len(entry) for entry in lists] != [len(entry) for entry in words]:
        raise ValueError("`word_origins` must name one origin for each of `words`")
    codes = {origin: code for code, origin in enumerate(WORD_ORIGINS)}
    return Ragged.from_lists([[], *([codes[origin] for origin in entry] for entry in lists)])


def _known_words(
    reviews: ReviewCounts, vocabulary: pd.Index, acts: pd.Series
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Acts as numbered by the events' factorisation, word ids and counts of the words that the vocabulary has."""
    word = vocabulary.get_indexer(pd.Index(reviews.words))[reviews.word] + 1
    act = pd.Index(acts.unique()).get_indexer(reviews.act)
    known = (word > 0) & (act >= 0)
    return act[known], word[known], reviews.count[known]


def _codes(lists: list[list[str]], ids: pd.Index) -> Ragged:
    position = {key: code + 1 for code, key in enumerate(ids)}
    return Ragged.from_lists([[], *([position[key] for key in entry] for entry in lists)])


def _features(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Codes from 1 in sorted order of the values; 0 for padding."""
    prefix = "feature:"
    features = {}
    for name in sorted(column for column in table.columns if column.startswith(prefix)):
        values = table[name].astype(str)
        ids = sorted_ids(pd.Index(values.unique()))
        features[name.removeprefix(prefix)] = np.concatenate([[0], ids.get_indexer(values) + 1]).astype(np.int32)
    return features
