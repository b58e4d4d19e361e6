"""From what KuaiSAR's system delivered to the clicks of a Log: positives, search sessions, users of both services, k-core.

Every step is counted. Arrays throughout: the full release has 19.7 million rows.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.data import hashing
from bench.data.build import five_core
from bench.data.log import REC, SEARCH
from bench.data.ragged import Ragged
from bench.datasets.kuaisar_csv import Column, Release, word_ids
from bench.errors import RunError

REC_FILE, SEARCH_FILE = "rec_inter.csv", "src_inter.csv"
_REC_COLUMNS = {
    "user": Column(("user_id",)),
    "item": Column(("item_id",)),
    "time": Column(("timestamp",)),
    "click": Column(("click",)),
    "clock": Column(("time",), "clock", optional=True),
}
_SEARCH_COLUMNS = {
    "user": Column(("user_id",)),
    "session": Column(("search_session_id",)),
    "time": Column(("search_session_timestamp",)),
    "source": Column(("search_session_source", "search_source"), "label"),
    "keyword": Column(("keyword",), "label"),
    "item": Column(("item_id",)),
    "click": Column(("click_cnt",)),
    "type": Column(("item_type",), "label"),
    "clock": Column(("time", "search_session_time"), "clock", optional=True),
}


class Rules(Protocol):
    """What may be chosen; see `bench.datasets.kuaisar.Config`."""

    seed: int
    core: int
    core_rounds: str
    core_rows: str
    core_scope: str
    item_types: str
    unclicked_sessions: str
    clicks: int
    check_time: bool


@dataclass(frozen=True)
class Queries:
    """Distinct keyword tuples: their text (token ids joined by blanks, sorted) and their token ids."""

    text: pa.Array  # (Q,) str
    words: Ragged  # Q lists of original token ids, int64


@dataclass(frozen=True)
class Clicks:
    """The clicks that remain, one entry a click, with original ids; `query` is a row of `queries` (-1 for rec).

    `act` numbers recommendation clicks and search sessions. `steps` counts what each step left; `raw` are the
    statistics of the files as the papers print them.
    """

    user: np.ndarray  # (E,) int64
    item: np.ndarray
    time: np.ndarray  # (E,) int64 ms
    task: np.ndarray  # (E,) int8
    query: np.ndarray  # (E,) int64
    act: np.ndarray  # (E,) int64
    queries: Queries
    steps: list[dict[str, Any]]
    raw: dict[str, int]


def read_clicks(release: Release, rules: Rules) -> Clicks:
    """Read both interaction files and apply the rules."""
    steps: list[dict[str, Any]] = []
    raw: dict[str, int] = {}
    rec = _read_rec(release, rules, raw)
    search, queries = _read_search(release, rules, raw)
    raw["users"] = len(np.union1d(rec["user"], search["user"]))
    raw["items"] = len(pd.unique(np.concatenate([rec["item"], search["item"]])))
    raw["actions"] = raw["rec actions"] + raw["search actions"]

    _count(steps, "rows of the files", rec, search)
    kept = np.isin(search["type"], [code for code, name in enumerate(search.pop("types")) if name in rules.item_types.split(",")])
    search = {name: column[kept] for name, column in search.items()}
    _count(steps, f"search rows of {rules.item_types}", rec, search)
    rec, search = _once(rec, ("user", "item", "time")), _once(search, ("act", "item"))
    _count(steps, "repeated (user, item, time) and (session, item) merged, a click wins", rec, search)
    worded = queries.words.lengths[search["query"]] > 0
    search = {name: column[worded] for name, column in search.items()}
    _count(steps, "sessions with a keyword", rec, search)
    if rules.unclicked_sessions == "first-item":
        search["click"] = np.maximum(search["click"], _first_of_unclicked(search))
    if rules.clicks:
        search["click"] = np.where(_within(search, rules.clicks, rules.seed), search["click"], 0)
    del search["row"], search["type"]

    rows = {name: np.concatenate([rec[name], search[name]]) for name in ("user", "item", "time", "click")}
    rows["task"] = np.repeat(np.asarray([REC, SEARCH], dtype=np.int8), [len(rec["user"]), len(search["user"])])
    rows["query"] = np.concatenate([np.full(len(rec["user"]), -1), search["query"]])
    rows["act"] = np.concatenate([np.arange(len(rec["user"])), search["act"] + len(rec["user"])])
    del rec, search
    rows = _take(rows, _core(rows, rules, steps))
    if not len(rows["user"]):
        before = steps[-2]
        raise RunError(
            f"{release.path(REC_FILE)} and {SEARCH_FILE}: no click is left by the {rules.core}-core; before it there were "
            f"{before['rec']:,} + {before['search']:,} clicks of {before['users']:,} users with both behaviours; lower core"
        )
    del rows["click"]
    return Clicks(**rows, queries=queries, steps=steps, raw=raw)


def _read_rec(release: Release, rules: Rules, raw: dict[str, int]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {"user": [], "item": [], "time": [], "click": []}
    for record, batch in release.batches(REC_FILE, _columns(_REC_COLUMNS, rules)):
        numbers = _numbers(release, REC_FILE, record, batch, ("user", "item", "time", "click"), _REC_COLUMNS)
        for name, part in parts.items():
            part.append(numbers[name].astype(np.int8) if name == "click" else numbers[name])
    rec = {name: np.concatenate(part) for name, part in parts.items()}
    raw["rec actions"] = len(rec["user"])
    raw["rec items"] = len(pd.unique(rec["item"]))
    raw["rec clicks"] = int((rec["click"] > 0).sum())
    return rec


def _read_search(release: Release, rules: Rules, raw: dict[str, int]) -> tuple[dict[str, Any], Queries]:
    """Rows with `act` (the session), `query`, `type` (code into `types`) and `row` (place in the file)."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("user", "session", "time", "item", "click")}
    labels: dict[str, list[pa.Array]] = {"source": [], "keyword": [], "type": []}
    for record, batch in release.batches(SEARCH_FILE, _columns(_SEARCH_COLUMNS, rules)):
        numbers = _numbers(release, SEARCH_FILE, record, batch, tuple(parts), _SEARCH_COLUMNS)
        for name, part in parts.items():
            part.append(numbers[name])
        _, bad = word_ids(batch["keyword"].dictionary.fill_null(""))
        if bad.any():
            codes = batch["keyword"].indices.fill_null(0).to_numpy(zero_copy_only=False)
            row = int(np.argmax(bad[codes]))
            release.fail(SEARCH_FILE, record + row, "keyword", f"'{batch['keyword'][row].as_py()[:40]}' is not a list of token ids")
        for name, chunks in labels.items():
            chunks.append(batch[name])
    search: dict[str, Any] = {name: np.concatenate(part) for name, part in parts.items()}
    search["click"] = np.minimum(search["click"], np.iinfo(np.int32).max).astype(np.int32)
    codes, texts = {}, {}
    for name, chunks in labels.items():
        codes[name], texts[name] = _unified(chunks)
    queries, of_text = _queries(texts["keyword"])
    search["query"] = of_text[codes["keyword"]]
    # The id of a session is used again: only all of these together are one session.
    search["act"] = _groups(search["user"], search.pop("session"), search["time"], search["query"], codes["source"])
    search["type"], search["types"] = codes["type"], texts["type"].to_pylist()
    search["row"] = np.arange(len(search["user"]))
    raw["search actions"] = len(search["user"])
    raw["search items"] = len(pd.unique(search["item"]))
    raw["queries"] = len(queries.text)
    raw["search sessions"] = int(search["act"].max()) + 1
    raw["search clicks"] = int((search["click"] > 0).sum())
    raw["search sessions with a click"] = len(pd.unique(search["act"][search["click"] > 0]))
    return search, queries


def _columns(columns: dict[str, Column], rules: Rules) -> dict[str, Column]:
    return columns if rules.check_time else {name: column for name, column in columns.items() if name != "clock"}


def _numbers(
    release: Release, name: str, record: int, batch: pa.RecordBatch, wanted: tuple[str, ...], columns: dict[str, Column]
) -> dict[str, np.ndarray]:
    numbers = {column: batch[column].to_numpy() for column in wanted}
    for column, values in numbers.items():
        if column != "time" and len(values) and values.min() < 0:
            row = int(np.argmin(values))
            release.fail(name, record + row, columns[column].names[0], f"{int(values[row])} is negative")
    clock = batch["clock"] if "clock" in batch.schema.names else None
    release.check_times(name, record, columns["time"].names[0], numbers["time"], clock)
    return numbers


def _unified(chunks: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
    """Codes of all chunks in one dictionary; empty cells are the text ''."""
    filled = [
        pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary)
        if not chunk.null_count
        else chunk.cast(pa.string()).fill_null("").dictionary_encode()
        for chunk in chunks
    ]
    whole = pa.chunked_array(filled).unify_dictionaries()
    return np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks]), whole.chunk(0).dictionary


def _queries(texts: pa.Array) -> tuple[Queries, np.ndarray]:
    """Distinct keyword tuples in sorted order, and the tuple of each raw spelling."""
    lists, _ = word_ids(texts)
    joined = pc.binary_join(pa.LargeListArray.from_arrays(lists.offsets, lists.flatten().cast(pa.string())), " ")
    coded = joined.dictionary_encode()
    order = pc.sort_indices(coded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_text = rank[coded.indices.to_numpy()]
    first = np.empty(len(order), dtype=np.int64)
    first[of_text[::-1]] = np.arange(len(of_text))[::-1]
    words = Ragged(lists.offsets.to_numpy(), lists.flatten().to_numpy()).take(first)
    return Queries(coded.dictionary.take(pa.array(order)), words), of_text


def _groups(*columns: np.ndarray) -> np.ndarray:
    """(n,) numbers from 0 of the distinct tuples; exact, by pairing two columns at a time."""
    code = pd.factorize(columns[0])[0].astype(np.int64)
    for column in columns[1:]:
        other, distinct = pd.factorize(column)
        code = pd.factorize(code * max(len(distinct), 1) + other)[0].astype(np.int64)
    return code


def _once(rows: dict[str, Any], key: tuple[str, ...]) -> dict[str, Any]:
    """One row for each distinct key: the first one, with the largest `click` of all."""
    arrays = {name: column for name, column in rows.items() if isinstance(column, np.ndarray)}
    group = _groups(*(rows[name] for name in key))
    first = ~pd.Series(group).duplicated().to_numpy()
    out = rows | {name: column[first] for name, column in arrays.items()}
    if len(group) and not first.all():
        largest = np.zeros(int(group.max()) + 1, dtype=rows["click"].dtype)
        np.maximum.at(largest, group, rows["click"])
        # Groups are numbered by first occurrence, so that their order is that of the kept rows.
        out["click"] = largest
    return out


def _first_of_unclicked(search: dict[str, np.ndarray]) -> np.ndarray:
    """1 at the first row (in the file) of each session without a click: the item that played by itself."""
    group = pd.factorize(search["act"])[0]
    clicked = np.bincount(group, weights=search["click"] > 0) > 0
    first = ~pd.Series(group).duplicated().to_numpy()
    return (first & ~clicked[group]).astype(search["click"].dtype)


def _within(search: dict[str, np.ndarray], limit: int, seed: int) -> np.ndarray:
    """Whether a row is among the `limit` most clicked ones of its session; ties are broken by a hash of user and item."""
    tie = hashing.draw(hashing.key("session-clicks", seed), search["user"], search["item"])
    rows = np.flatnonzero(search["click"] > 0)
    order = rows[np.lexsort((tie[rows], -search["click"][rows].astype(np.int64), search["act"][rows]))]
    act = search["act"][order]
    starts = np.flatnonzero(np.r_[True, act[1:] != act[:-1]]) if len(act) else np.zeros(0, dtype=np.int64)
    place = np.arange(len(act)) - np.repeat(starts, np.diff(np.r_[starts, len(act)]))
    keep = np.zeros(len(tie), dtype=bool)
    keep[order[place < limit]] = True
    return keep


def _core(rows: dict[str, np.ndarray], rules: Rules, steps: list[dict[str, Any]]) -> np.ndarray:
    """Rows that remain: clicks of users with both behaviours, in the k-core."""
    clicked = rows["click"] > 0
    _count_rows(steps, "clicks", rows, clicked)
    both = np.intersect1d(pd.unique(rows["user"][clicked & (rows["task"] == REC)]), pd.unique(rows["user"][clicked & (rows["task"] == SEARCH)]))
    kept = np.isin(rows["user"], both)
    _count_rows(steps, "clicks of users with both behaviours", rows, kept & clicked)
    if rules.core_rows == "clicks":
        kept &= clicked
    if rules.core > 1:
        codes = (REC, SEARCH) if rules.core_scope == "each-task" else (None,)
        for code in codes:
            part = np.flatnonzero(kept if code is None else kept & (rows["task"] == code))
            kept[part] = _k_core(rows["user"][part], rows["item"][part], rules.core, rules.core_rounds == "iterative")
    kept &= clicked
    scope = "of each task" if rules.core_scope == "each-task" else "on both tasks together"
    _count_rows(steps, f"{rules.core}-core {scope}, {rules.core_rounds}, counting {rules.core_rows}", rows, kept)
    return kept


def _k_core(user: np.ndarray, item: np.ndarray, minimum: int, iterative: bool) -> np.ndarray:
    if iterative:
        return five_core(user, item, minimum)
    user, item = pd.factorize(user)[0], pd.factorize(item)[0]
    return (np.bincount(user)[user] >= minimum) & (np.bincount(item)[item] >= minimum)


def _take(rows: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[kept] for name, column in rows.items()}


def _count(steps: list[dict[str, Any]], what: str, rec: dict[str, Any], search: dict[str, Any]) -> None:
    steps.append({"step": what, "rec": len(rec["user"]), "search": len(search["user"])})


def _count_rows(steps: list[dict[str, Any]], what: str, rows: dict[str, np.ndarray], mask: np.ndarray) -> None:
    search = mask & (rows["task"] == SEARCH)
    steps.append(
        {
            "step": what,
            "rec": int(mask.sum() - search.sum()),
            "search": int(search.sum()),
            "sessions": len(pd.unique(rows["act"][search])),
            "users": len(pd.unique(rows["user"][mask])),
            "items": len(pd.unique(rows["item"][mask])),
        }
    )
