"""KuaiSAR's two interaction files as arrays: what was delivered, what was searched, which rows are one session."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.data.ragged import Ragged
from bench.datasets.kuaisar.csv import Column, Release, word_ids

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
_INTEGERS = 2**62


@dataclass(frozen=True)
class Queries:
    """Distinct keyword tuples: their text (token ids joined by blanks, sorted) and their token ids."""

    text: pa.Array  # (Q,) str
    words: Ragged  # Q lists of original token ids, int64


@dataclass(frozen=True)
class Rows:
    """Delivered items, one row each; all columns have R entries."""

    user: np.ndarray  # (R,) int64
    item: np.ndarray  # (R,) int64
    time: np.ndarray  # (R,) int64 ms
    click: np.ndarray  # (R,) int8 or int32, number of clicks

    def __len__(self) -> int:
        return len(self.user)

    def take(self, chosen: np.ndarray) -> Self:
        """The rows of a mask (R,) or of row numbers."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: column[chosen] for name, column in columns.items()})


@dataclass(frozen=True)
class SearchRows(Rows):
    """Search results: which session they belong to, what was searched, and what they are."""

    act: np.ndarray  # (R,) int64, number of the session
    query: np.ndarray  # (R,) int64, row of `Queries`
    kind: np.ndarray  # (R,) int, code of the item's type


def read_rec(release: Release, check_time: bool, raw: dict[str, int]) -> Rows:
    """Every row that the recommender delivered, `click` 0 or 1; adds its statistics to `raw`."""
    parts: dict[str, list[np.ndarray]] = {"user": [], "item": [], "time": [], "click": []}
    for record, batch in release.batches(REC_FILE, _columns(_REC_COLUMNS, check_time)):
        numbers = _numbers(release, REC_FILE, record, batch, ("user", "item", "time", "click"), _REC_COLUMNS)
        for name, part in parts.items():
            part.append((numbers[name] > 0).astype(np.int8) if name == "click" else numbers[name])
    rec = Rows(**{name: np.concatenate(part) for name, part in parts.items()})
    raw["rec actions"] = len(rec)
    raw["rec items"] = len(pd.unique(rec.item))
    raw["rec clicks"] = int((rec.click > 0).sum())
    return rec


def read_search(release: Release, check_time: bool, raw: dict[str, int]) -> tuple[SearchRows, Queries, list[str]]:
    """Every search result, the distinct queries, and the names of the codes in `kind`; adds their statistics to `raw`."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("user", "session", "time", "item", "click")}
    labels: dict[str, list[pa.Array]] = {"source": [], "keyword": [], "type": []}
    for record, batch in release.batches(SEARCH_FILE, _columns(_SEARCH_COLUMNS, check_time)):
        numbers = _numbers(release, SEARCH_FILE, record, batch, tuple(parts), _SEARCH_COLUMNS)
        for name, part in parts.items():
            part.append(numbers[name])
        _, bad = word_ids(batch["keyword"].dictionary.fill_null(""))
        if bad.any():
            codes = batch["keyword"].indices.fill_null(0).to_numpy(zero_copy_only=False)
            row = int(np.argmax(bad[codes]))
            release.fail(
                SEARCH_FILE,
                record + row,
                "keyword",
                f"'{batch['keyword'][row].as_py()[:40]}' is not a list of token ids",
            )
        for name, chunks in labels.items():
            chunks.append(batch[name])
    column = {name: np.concatenate(part) for name, part in parts.items()}
    codes, texts = {}, {}
    for name, chunks in labels.items():
        codes[name], texts[name] = _unified(chunks)
    queries, of_text = _queries(texts["keyword"])
    query = of_text[codes["keyword"]]
    search = SearchRows(
        user=column["user"],
        item=column["item"],
        time=column["time"],
        click=np.minimum(column["click"], np.iinfo(np.int32).max).astype(np.int32),
        # The id of a session is used again: only all of these together are one session.
        act=groups(column["user"], column["session"], column["time"], query, codes["source"]),
        query=query,
        kind=codes["type"],
    )
    raw["search actions"] = len(search)
    raw["search items"] = len(pd.unique(search.item))
    raw["queries"] = len(queries.text)
    raw["search sessions"] = int(search.act.max()) + 1
    raw["search clicks"] = int((search.click > 0).sum())
    raw["search sessions with a click"] = len(pd.unique(search.act[search.click > 0]))
    return search, queries, texts["type"].to_pylist()


def _columns(columns: dict[str, Column], check_time: bool) -> dict[str, Column]:
    return columns if check_time else {name: column for name, column in columns.items() if name != "clock"}


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


def groups(*columns: np.ndarray) -> np.ndarray:
    """(n,) numbers from 0 of the distinct tuples, in the order of their first occurrence.

    Exact: columns are packed into one integer, which is renumbered whenever the next column would not fit.
    """
    code, width = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        low = int(column.min(initial=0))
        span = int(column.max(initial=0)) - low + 1
        values = column.astype(np.int64) - low
        if width * span > _INTEGERS:
            code, distinct = pd.factorize(code)
            width = len(distinct)
        if width * span > _INTEGERS:
            values, distinct = pd.factorize(values)
            span = len(distinct)
        code, width = code * span + values, width * span
    return pd.factorize(code)[0].astype(np.int64)
