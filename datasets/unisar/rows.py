"""What UniSAR's release says, as flat arrays: its rows, its users' histories, and the events that both are about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.log import REC, SEARCH, TASKS
from bench.data.ragged import Ragged

PARTS = ("train", "val", "test")
# Lengths that the release documents for the stored negatives, by part.
NEGATIVES = (4, 99, 99)
WINDOW = 30
# Times below are seconds: as milliseconds they would lie before March 1973.
_MILLISECONDS_FROM = 1e11


@dataclass(frozen=True)
class Rows:
    """All rows of `dataset/*.pkl`, (n,) each: `rec_len`, `search_len` are the lengths of the history prefixes."""

    task: np.ndarray
    part: np.ndarray  # 0 train, 1 validation, 2 test
    user: np.ndarray
    item: np.ndarray
    rec_len: np.ndarray
    search_len: np.ndarray
    negatives: Ragged
    keyword: np.ndarray  # codes into `Release.queries`, -1 for rec
    time: np.ndarray | None  # as in the file; None where the release has no `ts`

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Entries:
    """The users' own histories, one entry a recommendation click or a clicked item of a session, in list order."""

    user: np.ndarray  # (n,)
    place: np.ndarray  # (n,) index in the user's list of clicks or of sessions
    item: np.ndarray
    time: np.ndarray  # ms, never descending within a user's list
    keyword: np.ndarray  # code of the query, -1 for rec
    users: np.ndarray  # (u,) users ascending
    lengths: np.ndarray  # (u,) length of each user's list
    facts: dict[str, int]

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Release:
    """A release as it was read."""

    rows: Rows
    rec: Entries
    src: Entries
    queries: list[str]  # word ids joined by blanks, by code
    unit: str  # of the stored times: "s" or "ms"
    query_vocab: int | None


def read_release(tables: dict[str, Path]) -> Release:
    """From the Parquet files that `unpickle` wrote, by name (`rec_train`, ..., `user_vocab`, ...)."""
    parts = [(task, part, pq.read_table(tables[f"{prefix}_{name}"]))
             for task, prefix in ((REC, "rec"), (SEARCH, "src")) for part, name in enumerate(PARTS)]  # fmt: skip
    users = pq.read_table(tables["user_vocab"])
    sessions = pq.read_table(tables["src_session_vocab_np"])
    coded = _Queries()
    session_code = coded.add(sessions.column("keyword"))
    keyword = [
        coded.add(table.column("keyword")) if task == SEARCH else np.full(len(table), -1) for task, _, table in parts
    ]
    with_time = all("ts" in table.column_names for _, _, table in parts)
    stamps = np.concatenate([_ragged(users.column(name)).values for name in ("rec_his_ts", "src_session_his_ts")])
    unit = "s" if not len(stamps) or np.median(stamps) < _MILLISECONDS_FROM else "ms"
    scale = 1000 if unit == "s" else 1
    rows = Rows(
        task=np.concatenate([np.full(len(table), task, dtype=np.int8) for task, _, table in parts]),
        part=np.concatenate([np.full(len(table), part, dtype=np.int8) for _, part, table in parts]),
        user=_joined(parts, "user_id"),
        item=_joined(parts, "item_id"),
        rec_len=_joined(parts, "rec_his"),
        search_len=_joined(parts, "src_session_his"),
        negatives=_ragged(
            pa.chunked_array([chunk for _, _, table in parts for chunk in table.column("neg_items").chunks])
        ),
        keyword=np.concatenate(keyword),
        time=_joined(parts, "ts") * scale if with_time else None,
    )
    user = users.column("user").to_numpy()
    order = np.argsort(user, kind="stable")
    lists = {name: _ragged(users.column(name)) for name in users.column_names if name != "user"}
    rec = _entries(user, order, lists["rec_his"], lists["rec_his_ts"], scale)
    src = _entries(user, order, lists["src_session_his"], lists["src_session_his_ts"], scale)
    vocabulary = len(pq.read_table(tables["query_vocab"])) if "query_vocab" in tables else None
    src = _clicks(src, _ragged(sessions.column("pos_items")), session_code)
    return Release(rows, rec, src, coded.texts(), unit, vocabulary)


class _Queries:
    """Codes of word lists, by first occurrence."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def add(self, column: pa.ChunkedArray) -> np.ndarray:
        texts = [" ".join(str(word) for word in words if word) for words in column.to_pylist()]
        return np.fromiter((self._codes.setdefault(text, len(self._codes)) for text in texts), np.int64, len(texts))

    def texts(self) -> list[str]:
        return list(self._codes)


def _joined(parts: list[tuple[int, int, pa.Table]], name: str) -> np.ndarray:
    return np.concatenate([table.column(name).to_numpy() for _, _, table in parts])


def _ragged(column: pa.ChunkedArray) -> Ragged:
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    offsets = lists.offsets.to_numpy()
    return Ragged(offsets.astype(np.int64) - offsets[0], lists.flatten().to_numpy())


def _entries(user: np.ndarray, order: np.ndarray, ids: Ragged, times: Ragged, scale: int) -> Entries:
    """The entries of one list of every user, users ascending; `item` holds what the list holds (items or sessions)."""
    lengths = np.minimum(ids.lengths, times.lengths)
    facts = {
        "entries": len(ids.values),
        "lists whose ids and times differ in length": int((ids.lengths != times.lengths).sum()),
    }
    counts = lengths[order]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(order)), counts)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    item = ids.values[ids.offsets[:-1][order][owner] + position]
    time = times.values[times.offsets[:-1][order][owner] + position] * scale
    back = (np.diff(time) < 0) & (np.diff(owner) == 0)
    facts["entries earlier than the one before them"] = int(back.sum())
    # The list's order counts, since prefix lengths refer to it: a time never runs back.
    time = pd.Series(time).groupby(owner).cummax().to_numpy() if back.any() else time
    return Entries(user[order][owner], position, item, time, np.full(len(item), -1), user[order], counts, facts)


def _clicks(entries: Entries, clicked: Ragged, query: np.ndarray) -> Entries:
    """Sessions expanded to their clicked items; the same item twice in a session counts once."""
    session = entries.item
    known = (session >= 0) & (session < len(clicked))
    lengths = np.where(known, clicked.lengths[np.where(known, session, 0)], 0)
    row = np.repeat(np.arange(len(session)), lengths)
    inner = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = clicked.values[clicked.offsets[:-1][session[row]] + inner]
    first = ~pd.DataFrame({"row": row, "item": item}).duplicated().to_numpy()
    row, item = row[first], item[first]
    facts = entries.facts | {
        "sessions that the session table lacks": int((~known).sum()),
        "sessions without a click (no event of ours)": int((known & (lengths == 0)).sum()),
        "repeated clicks in a session, counted once": int((~first).sum()),
    }
    return Entries(entries.user[row], entries.place[row], item, entries.time[row], query[session[row]],
                   entries.users, entries.lengths, facts)  # fmt: skip


def match(rows: Rows, which: np.ndarray, entries: Entries, length: np.ndarray) -> np.ndarray:
    """(len(which),) the entry that each row is about, -1 where the user's list lacks it; no entry serves two rows.

    A row and its entry have the same user and item. The entry right after the row's prefix (`length`, of all rows)
    comes first; what is left is paired in order.
    """
    wanted = pd.DataFrame({"user": rows.user[which], "item": rows.item[which], "place": length[which]})
    held = pd.DataFrame({"user": entries.user, "item": entries.item, "place": entries.place})
    entry = np.full(len(wanted), -1, dtype=np.int64)
    for keys in (["user", "item", "place"], ["user", "item"]):
        unmatched = wanted[entry < 0].sort_values(["user", "item", "place"], kind="stable")
        free = held[~held.index.isin(entry[entry >= 0])].sort_values(["user", "item", "place"], kind="stable")
        unmatched = unmatched.assign(nth=unmatched.groupby(keys).cumcount(), row=unmatched.index)
        free = free.assign(nth=free.groupby(keys).cumcount(), entry=free.index)
        pairs = unmatched.merge(free, on=[*keys, "nth"])
        entry[pairs["row"]] = pairs["entry"]
    return entry


def leak_rates(release: Release) -> dict[str, Any]:
    """How far the release's own histories and rows tell the answer, as shares of the rows of each part and task.

    `history`: the target stands in the prefix that the row uses (its last 30 entries, or all of it). `training pair`:
    the row's user and item are a training row of the same or of the other task.
    """
    rows = release.rows
    rates = {}
    inside = {
        "recommendation": _inside(rows, release.rec, rows.rec_len),
        "search": _inside(rows, release.src, rows.search_len),
    }
    size = int(max(rows.item.max(initial=0), 0)) + 1
    pair = rows.user * size + rows.item
    for task, name in enumerate(TASKS):
        for part, part_name in enumerate(PARTS):
            here = (rows.task == task) & (rows.part == part)
            if not here.any():
                continue
            facts = {}
            for kind, (window, whole) in inside.items():
                facts[f"target in the last {WINDOW} of its {kind} history"] = float(window[here].mean())
                facts[f"target anywhere in its {kind} history"] = float(whole[here].mean())
            if part:
                for other, other_name in enumerate(TASKS):
                    trained = (rows.task == other) & (rows.part == 0)
                    facts[f"user and item are a {other_name} training row"] = float(
                        np.isin(pair[here], pair[trained]).mean()
                    )
            rates[f"{name}/{part_name}"] = {key: round(value, 6) for key, value in facts.items()}
    return rates


def _inside(rows: Rows, entries: Entries, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) whether the row's item stands in the last WINDOW entries of its prefix, and anywhere in it."""
    keys = pd.MultiIndex.from_arrays(
        [np.concatenate([rows.user, entries.user]), np.concatenate([rows.item, entries.item])]
    )
    code = pd.factorize(keys)[0].astype(np.int64)
    own, held = code[: len(rows)], code[len(rows) :]
    span = int(max(length.max(initial=0), entries.place.max(initial=0))) + 2
    order = np.argsort(held * span + entries.place)
    ordered = (held * span + entries.place)[order]
    # The last entry of the same user and item before the end of the prefix.
    last = np.searchsorted(ordered, own * span + length) - 1
    if not len(ordered):
        return np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    position = ordered[np.maximum(last, 0)] - own * span
    whole = (last >= 0) & (position >= 0) & (position < length)
    return whole & (position >= length - WINDOW), whole


def checks(release: Release, n_items: int) -> dict[str, int]:
    """What an importer must know of the rows, as counts of rows."""
    rows = release.rows
    owner = rows.negatives.owners()
    negative = rows.negatives.values
    pair = pd.DataFrame({"row": owner, "item": negative})
    rank = {
        name: pd.Index(entries.users).get_indexer(rows.user)
        for name, entries in (("rec", release.rec), ("src", release.src))
    }
    long = [rows.rec_len > np.where(rank["rec"] >= 0, release.rec.lengths[rank["rec"]], 0),
            rows.search_len > np.where(rank["src"] >= 0, release.src.lengths[rank["src"]], 0)]  # fmt: skip
    test = pd.DataFrame({"user": rows.user, "task": rows.task})[rows.part == 2]
    return {
        "rows with another number of negatives than documented (4 train, 99 else)": int(
            (rows.negatives.lengths != np.asarray(NEGATIVES)[rows.part]).sum()
        ),
        "rows with the positive among the negatives": len(np.unique(owner[negative == rows.item[owner]])),
        "rows with a negative more than once": int(pair[pair.duplicated()]["row"].nunique()),
        "rows with an item id outside the item table": len(
            np.union1d(
                np.flatnonzero((rows.item < 1) | (rows.item > n_items)),
                owner[(negative < 1) | (negative > n_items)],
            )
        ),
        "rows of users without a history": int((rank["rec"] < 0).sum()),
        "rows whose recommendation prefix is longer than the list": int(long[0].sum()),
        "rows whose search prefix is longer than the list": int(long[1].sum()),
        "most test rows of a user and task": int(test.groupby(["user", "task"]).size().max()) if len(test) else 0,
    }
