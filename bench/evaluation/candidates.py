"""The shared sampler: for every evaluated row its positive and the negatives, the same for all models.

A candidate set depends on (seed, data set, task, row) only, is stored once, and carries a fingerprint that every result
repeats. The positive's column is uniform and is kept apart from what a model sees.
"""

import functools
import hashlib
import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data import hashing
from bench.data.log import SEARCH, TASKS
from bench.data.ragged import Ragged
from bench.data.sampling import ItemWeights, SeenItems, draw_negatives, few_unseen, first_seen, row_keys
from bench.data.split import LogSplit
from bench.errors import RunError, UsageError
from bench.files import write_atomically

STRATEGIES = ("uniform", "same-query", "shown", "popularity", "full")
# Strategies that need the query or the session of a row.
SEARCH_ONLY = ("same-query", "shown")
NEGATIVES = 99
# A list this many times longer than what is needed is drawn from rather than ordered.
_LONG = 8
# Users that a record names before it only counts them.
_NAMED = 20
# Rows, and entries of lists, that are held at a time.
_STEP, _ENTRIES = 20_000, 8_000_000


@dataclass(frozen=True, repr=False)
class CandidateSet:
    """Lists for R event rows of a split.

    `items` (R, C) int32 in shuffled order, 0 = no candidate (lists of an import may differ in length); None for the
    full catalogue, where every item that the user never seen is a negative. `position` (R,) is the positive's
    column.
    """

    rows: np.ndarray  # (R,) int64 rows of the log's events
    items: np.ndarray | None
    position: np.ndarray  # (R,) int64; for the full catalogue the positive's item id - 1
    meta: dict[str, Any]  # strategy, seed, negatives, data, split, part, tasks

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        of = f"{self.meta.get('part', 'test')} rows of {', '.join(self.meta.get('tasks', ()))}"
        return f"CandidateSet({self.label}, {len(self):,} {of}, seed {self.meta.get('seed')}, {self.fingerprint[:12]})"

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what was drawn, for whom and from what."""
        digest = hashlib.sha256(json.dumps(self.meta, sort_keys=True).encode())
        for part in (self.rows, self.items, self.position):
            if part is not None:
                digest.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @property
    def label(self) -> str:
        """How tables name it: the strategy and the number of negatives."""
        return self.meta["strategy"] if self.items is None else f"{self.meta['strategy']}-{self.items.shape[1] - 1}"

    def save(self, folder: Path, split: LogSplit) -> Path:
        """Write `<fingerprint>.parquet` (the lists), `.positions.parquet` (the answers) and `.json`, once.

        Raises:
            RunError: the folder cannot be written, or files of that name are there with another content.
        """
        stem = self.fingerprint[:16]
        target = folder / f"{stem}.json"
        events = split.log.events
        names = {"user": events.user, "event_id": events.event_id, "task": events.task, "query": events.query}
        lists = pa.table({name: column[self.rows] for name, column in names.items()})
        if self.items is not None:
            flat = pa.array(self.items.ravel())
            lists = lists.append_column("items", pa.FixedSizeListArray.from_arrays(flat, self.items.shape[1]))
        answers = pa.table(
            {"event_id": events.event_id[self.rows], "item": events.item[self.rows], "position": self.position}
        )
        record = {**self.meta, "fingerprint": self.fingerprint, "rows": len(self)}
        if target.exists():
            _check_kept(folder, stem, lists, answers, record)
            return target
        for name, table in ((f"{stem}.parquet", lists), (f"{stem}.positions.parquet", answers)):
            write_atomically(folder / name, functools.partial(pq.write_table, table, compression="zstd"))
        # The last of the three: where it stands, the others are there.
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_atomically(target, lambda scratch: scratch.write_text(text))
        return target


def _check_kept(folder: Path, stem: str, lists: pa.Table, answers: pa.Table, record: dict[str, Any]) -> None:
    """Raise RunError where the files under a fingerprint's name do not hold the set that has this fingerprint."""
    for name, expected in (
        (f"{stem}.parquet", lists),
        (f"{stem}.positions.parquet", answers),
        (f"{stem}.json", record),
    ):
        path = folder / name
        try:
            if isinstance(expected, dict):
                same = json.loads(path.read_bytes()) == json.loads(json.dumps(expected))
            else:
                same = pq.ParquetFile(path, page_checksum_verification=True).read().equals(expected)
        except (pa.ArrowException, OSError, ValueError):
            same = False
        if not same:
            raise RunError(
                f"{path} does not hold the candidates {stem} that it is named by; remove it and {stem}.json, "
                "and the next command writes them again"
            )


def draw(
    split: LogSplit,
    part: str = "test",
    tasks: tuple[str, ...] = TASKS,
    strategy: str = "uniform",
    seed: int = 0,
    negatives: int = NEGATIVES,
    workers: int = 1,
    chunk: int = 100_000,
    *,
    limit: int = 0,
) -> CandidateSet:
    """Draw the candidates of a part of a split.

    Negatives are items that the user never seen, in neither task and no part of the split. `uniform`: all alike;
    `popularity`: proportional to training events; `same-query`: first those that carry the row's query, then uniform
    (search rows only); `shown`: first those that the row's session displayed and nobody clicked, then uniform (search
    rows only); `full`: all of them. Neither the order of rows nor `workers` nor `chunk` changes the result.

    Rows whose users have fewer than `negatives` such items left are left out; `meta["left_out"]` counts them and names
    the users.

    Raises:
        UsageError: the strategy does not exist or does not fit the tasks, or more than half of the rows would be left out.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"unknown candidates '{strategy}'; known: {', '.join(STRATEGIES)}, given:PATH")
    log, events = split.log, split.log.events
    if strategy in SEARCH_ONLY:
        tasks = tuple(task for task in tasks if task == "search")
        if not tasks:
            raise UsageError(f"{strategy} candidates are for search rows; add search to --tasks or use uniform")
    if strategy == "shown" and log.shown is None:
        raise UsageError(f"{log.name} does not say what its searches displayed; use uniform or same-query candidates")
    rows = np.sort(np.concatenate([limited(split, split.rows(part, task), limit) for task in tasks]))
    if not len(rows):
        raise UsageError(f"{log.name} has no {part} rows for {' and '.join(tasks)} under the split {split.label}")
    meta = {
        "strategy": strategy,
        "seed": seed,
        "negatives": negatives,
        "data": log.fingerprint,
        "split": split.label,
        "part": part,
        "tasks": list(tasks),
        **({"rows_per_task": limit} if limit else {}),
    }
    item = events.item[rows]
    if strategy == "full":
        return CandidateSet(rows, None, item.astype(np.int64) - 1, meta | {"negatives": "all"})
    seen = seen_items(split)
    weights = None
    if strategy == "popularity":
        weights = ItemWeights(np.bincount(events.item[split.train], minlength=len(log.items) + 1))
    few = few_unseen(events, rows, seen, negatives, weights)
    if few.any():
        meta["left_out"] = _left_out(split, rows, few, part, negatives)
        rows = rows[~few]
    first = None
    if strategy == "same-query":
        first = _carriers(split), events.query
    elif strategy == "shown" and log.shown is not None:
        first = log.shown, events.session

    def lists(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _lists(split, chosen, seen, strategy, seed, negatives, weights, first)

    pieces = [rows[low : low + chunk] for low in range(0, len(rows), chunk)]
    with ThreadPoolExecutor(workers) as pool:
        drawn = list(pool.map(lists, pieces))
    items = np.concatenate([piece for piece, _ in drawn])
    position = np.concatenate([column for _, column in drawn])
    return CandidateSet(rows, items, position, meta)


def limited(split: LogSplit, rows: np.ndarray, limit: int) -> np.ndarray:
    """The `limit` rows with the smallest hashes, or all where there are no more or the limit is 0."""
    if not limit or len(rows) <= limit:
        return rows
    drawn = hashing.draw(hashing.key("rows", split.log.name), row_keys(split.log.events, rows))
    return rows[np.argpartition(drawn, limit - 1)[:limit]]


def _left_out(split: LogSplit, rows: np.ndarray, few: np.ndarray, part: str, negatives: int) -> dict[str, Any]:
    """What the record says of rows without enough negatives: their number, and whose they are.

    Raises:
        UsageError: they are more than half of the rows.
    """
    log = split.log
    users = np.unique(log.events.user[rows[few]])
    names = [str(name) for name in log.users.id[users[:_NAMED]]]
    more = f" and {len(users) - _NAMED:,} more" * (len(users) > _NAMED)
    if 2 * few.sum() > len(rows):
        raise UsageError(
            f"{log.name}: {int(few.sum()):,} of {len(rows):,} {part} rows have fewer than {negatives} items left that "
            f"their user never touched (users {', '.join(names)}{more}); the catalogue of {len(log.items):,} items is too "
            "small to draw from, use --candidates full"
        )
    return {"rows": int(few.sum()), "users": ", ".join(names) + more}


def seen_items(split: LogSplit) -> SeenItems:
    """Every (user, item) pair of the log: what may never be a negative. Made once for a split."""
    known = _SEEN.get(id(split))
    if known is None or known[0]() is not split:
        events, number = split.log.events, id(split)
        known = (
            weakref.ref(split, lambda _: _SEEN.pop(number, None)),
            SeenItems(events.user, events.item, len(split.log.items)),
        )
        _SEEN[number] = known
    return known[1]


_SEEN: dict[int, tuple[weakref.ref[LogSplit], SeenItems]] = {}  # by the identity of the split


def _lists(
    split: LogSplit,
    rows: np.ndarray,
    seen: SeenItems,
    strategy: str,
    seed: int,
    negatives: int,
    weights: ItemWeights | None,
    first: tuple[Ragged, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    events, keys = split.log.events, row_keys(split.log.events, rows)
    user, item = events.user[rows], events.item[rows]
    drawn = np.zeros((len(rows), negatives), dtype=np.int32)
    # Rows of each task have a stream of their own.
    for code, task in enumerate(TASKS):
        of_task = np.flatnonzero(events.task[rows] == code)
        if not len(of_task):
            continue
        purpose = hashing.key("candidates", seed, split.log.name, task, strategy)
        preferred = None
        if first is not None:
            lists, of_event = first
            which = of_event[rows[of_task]]
            preferred = _first(purpose, keys[of_task], user[of_task], item[of_task], seen, lists, which, negatives)
        rest = draw_negatives(purpose, keys[of_task], user[of_task], item[of_task], seen, negatives, weights, preferred)
        if preferred is not None:
            # Preferred items first, uniform ones in the places that are left.
            filler = np.cumsum(preferred == 0, axis=1) - 1
            rest = np.where(preferred > 0, preferred, np.take_along_axis(rest, np.maximum(filler, 0), 1))
        drawn[of_task] = rest
    # A second hash orders each list, so that the positive's column is uniform and tells nothing.
    everything = np.concatenate([item[:, None], drawn], axis=1).astype(np.int32)
    shuffle = hashing.draw(
        hashing.key("candidate-order", seed, split.log.name), keys[:, None], np.arange(negatives + 1)
    )
    order = np.argsort(shuffle, axis=1, kind="stable")
    return np.take_along_axis(everything, order, 1), np.argmin(order, axis=1)


def _carriers(split: LogSplit) -> Ragged:
    """For each query the items that carry it: by construction where queries are made from items, else by training clicks."""
    log = split.log
    if log.items.queries is not None:
        return log.items.queries.transposed(len(log.queries) + 1)
    rows = split.rows("train", "search")
    pair = np.unique(log.events.query[rows].astype(np.int64) * (len(log.items) + 1) + log.events.item[rows])
    return Ragged.from_pairs(
        pair // (len(log.items) + 1), (pair % (len(log.items) + 1)).astype(np.int32), len(log.queries) + 1
    )


def _first(
    purpose: np.uint64,
    keys: np.ndarray,
    user: np.ndarray,
    positive: np.ndarray,
    seen: SeenItems,
    lists: Ragged,
    which: np.ndarray,
    count: int,
) -> np.ndarray:
    """(R, count) up to `count` draw_negatives items of each row's list `which` (R,), in the order of a hash, right padded with 0.

    From a very long list (a query that very many items carry) items at random places are taken, instead of ordering it
    as a whole; only where that finds too few (the user touched most of them) the whole list decides.
    """
    purpose ^= np.uint64(SEARCH)
    lengths = lists.lengths[which]
    out = np.zeros((len(keys), count), dtype=np.int32)
    long = np.flatnonzero(lengths > _LONG * count)
    for low in range(0, len(long), _STEP):
        chunk = long[low : low + _STEP]
        values = hashing.draw(purpose, keys[chunk, None], np.arange(2 * count))
        index = (values % lengths[chunk, None].astype(np.uint64)).astype(np.int64)
        items = lists.values[lists.offsets[which[chunk]][:, None] + index]
        good = first_seen(items) & (items != positive[chunk, None]) & ~seen.contains(user[chunk, None], items)
        good &= np.cumsum(good, axis=1) <= count
        enough = good.sum(1) == count
        out[chunk[enough]] = items[enough][good[enough]].reshape(-1, count)
    whole = np.flatnonzero((lengths > 0) & (out[:, 0] == 0))
    # Pieces bound the memory; a row stays in one piece.
    pieces = np.cumsum(lengths[whole]) // _ENTRIES
    for piece in np.unique(pieces):
        chunk = whole[pieces == piece]
        items = lists.take(which[chunk])
        owner = np.repeat(np.arange(len(chunk)), items.lengths)
        fits = ~seen.contains(user[chunk][owner], items.values) & (items.values != positive[chunk][owner])
        owner, items_left = owner[fits], items.values[fits]
        order = np.lexsort((hashing.draw(purpose, keys[chunk][owner], items_left), owner))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(chunk)))])
        out[chunk] = Ragged(offsets, items_left[order]).padded(count)
    return out
