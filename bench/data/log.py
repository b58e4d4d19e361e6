"""The Log: the one form that all data take, as Parquet files with a manifest and a fingerprint.

A folder holds `events.parquet`, `items.parquet`, `queries.parquet`, `users.parquet`, `words.parquet`,
`categories.parquet` and `manifest.json`, and the events once more, uncompressed, in `events.arrow`: Parquet has to be
decoded into memory, an Arrow file is mapped, so that batches read the pages they need. Ids are dense from 1; 0 is
padding (for a query: "none"), so every entity table has a first row that stands for nothing.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.ragged import Ragged
from bench.errors import RunError
from bench.files import atomic_folder

REC, SEARCH = 0, 1
TASKS = ("rec", "search")
FORMAT = 2

Column = np.ndarray | Ragged


# Where a word of an item comes from ("text": of parts that the source does not tell apart); `Entities.word_origins` holds
# places in this list.
WORD_ORIGINS = ("text", "title", "description", "category", "brand", "reviews")


@dataclass(frozen=True)
class WordBags:
    """Distinct words and how often each occurs, one bag per row; both have the same offsets."""

    words: Ragged
    counts: Ragged

    def __len__(self) -> int:
        return len(self.words)

    def columns(self) -> dict[str, Ragged]:
        """Both lists by name."""
        return {"words": self.words, "counts": self.counts}

    @classmethod
    def of(cls, rows: np.ndarray, words: np.ndarray, counts: np.ndarray, n_rows: int) -> "WordBags":
        """Bags of rows 0 to `n_rows` - 1 from (row, word, count) entries (n,) in any order; equal pairs are added up."""
        width = int(words.max(initial=0)) + 1
        pairs, inverse = np.unique(rows.astype(np.int64) * width + words, return_inverse=True)
        total = np.bincount(inverse, weights=counts, minlength=len(pairs)).astype(np.int32)
        offsets = np.searchsorted(pairs, np.arange(n_rows + 1, dtype=np.int64) * width)
        return cls(Ragged(offsets, (pairs % width).astype(np.int32)), Ragged(offsets, total))


@dataclass(frozen=True)
class Events:
    """All events in the published total order (user, time, hash); one entry an event row.

    A row is one click. Rows of one real-world act (the purchase and the search made from it, the clicks of one search
    session) share `event_id`.
    """

    event_id: np.ndarray  # (E,) int64
    user: np.ndarray  # (E,) int32
    item: np.ndarray  # (E,) int32
    time: np.ndarray  # (E,) int64, milliseconds since 1970 UTC
    task: np.ndarray  # (E,) int8, 0 = rec, 1 = search
    query: np.ndarray  # (E,) int32, 0 for rec
    session: np.ndarray  # (E,) int64
    # (E,) int8, only of sources that bring a split of their own: 0 train, 1 validation, 2 test, -1 history only.
    part: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns that the source has, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def take(self, rows: np.ndarray) -> "Events":
        """The given rows, in that order."""
        return Events(**{name: column[rows] for name, column in self.columns().items()})


@dataclass(frozen=True)
class Entities:
    """A table of items, queries, users, words or categories; row 0 is padding.

    `id` are the original ids. `text`, `words` (ids into the word table), `categories`, `queries` (the queries that
    the data preparation could generate for an item) and `features` (small integer codes) are there where the data
    have them.
    """

    id: np.ndarray  # (n + 1,) str
    text: np.ndarray | None = None  # (n + 1,) str
    provenance: np.ndarray | None = None  # (n + 1,) str: where the text comes from
    words: Ragged | None = None
    word_origins: Ragged | None = None  # for each of `words` its place in WORD_ORIGINS
    categories: Ragged | None = None
    queries: Ragged | None = None
    features: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of entities, padding excluded."""
        return len(self.id) - 1

    def columns(self) -> dict[str, Column]:
        """The columns that the source has, by name."""
        named = {name: value for name, value in vars(self).items() if name != "features" and value is not None}
        return named | {f"feature:{name}": values for name, values in self.features.items()}


@dataclass(frozen=True)
class Log:
    """Events and entities of one prepared data set. `manifest` says where they come from; see `load` for its keys."""

    events: Events
    items: Entities
    queries: Entities
    users: Entities
    words: Entities
    categories: Entities
    manifest: dict[str, Any]
    # Items (ids) that a search session displayed and nobody clicked, by session (row 0 empty), where a source knows them.
    shown: Ragged | None = None
    # Words of the review that belongs to an event, by event_id (row 0 empty). They tell of held-out events, too: models
    # read them through `TrainData.review_words`, which holds those of training events only.
    reviews: WordBags | None = None

    def __repr__(self) -> str:
        sizes = f"{len(self.events):,} events, {len(self.users):,} users, {len(self.items):,} items"
        return f"Log({self.name}, {self.mode}: {sizes}, {len(self.queries):,} queries)"

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.manifest["name"]

    @property
    def mode(self) -> str:
        """`mirror` (a purchase is both a rec and a search event), `disjoint` (one of them) or `natural` (real logs)."""
        return self.manifest["mode"]

    @property
    def fingerprint(self) -> str:
        """Identity of the content, see `_fingerprint`."""
        return self.manifest["fingerprint"]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the events serve, in the order rec, search."""
        return tuple(name for code, name in enumerate(TASKS) if (self.events.task == code).any())

    def with_fingerprint(self) -> "Log":
        """The same Log with counts and the fingerprint of its content in the manifest."""
        counts = {
            "users": len(self.users),
            "items": len(self.items),
            "queries": len(self.queries),
            "words": len(self.words),
            "events": len(self.events),
            **{task: int((self.events.task == code).sum()) for code, task in enumerate(TASKS)},
        }
        manifest = {**self.manifest, "format": FORMAT, "counts": counts, "fingerprint": _fingerprint(self)}
        return Log(**{**vars(self), "manifest": manifest})

    def save(self, folder: Path) -> "Log":
        """Write all files and then the manifest into a new folder, and move it into place at once."""
        log = self.with_fingerprint()
        with atomic_folder(folder, "the prepared log") as scratch:
            files = {}
            for name, table in _tables(log).items():
                path = scratch / f"{name}.parquet"
                pq.write_table(table, path, compression="zstd")
                files[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            path = scratch / _MAPPED
            _write_mapped(pa.table(log.events.columns()), path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            manifest = {**log.manifest, "files": files}
            (scratch / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        return Log(**{**vars(log), "manifest": manifest, "events": _mapped_events(folder)})


def load(folder: Path) -> Log:
    """Read a Log and check every file against the manifest.

    Raises:
        RunError: a file is missing, truncated or changed, or the format is not ours.
    """
    mend = f"remove {folder} and prepare it again (bench data prepare)"
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        raise RunError(f"no prepared log at {folder}: manifest.json is missing; {mend}") from None
    except ValueError as error:
        raise RunError(f"{folder / 'manifest.json'} is not readable JSON ({error}); {mend}") from None
    if manifest.get("format") != FORMAT:
        raise RunError(f"{folder} has log format {manifest.get('format')}, this version reads {FORMAT}; {mend}")
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise RunError(f"{path} is missing; {mend}")
        if path.stat().st_size != facts["bytes"]:
            raise RunError(f"{path} has {path.stat().st_size} bytes, its manifest says {facts['bytes']}; {mend}")
        if file_sha256(path) != facts["sha256"]:
            raise RunError(f"{path} does not match its checksum; {mend}")
    tables = {name: _entities(_read(folder / f"{name}.parquet")) for name in _ENTITY_TABLES}
    shown = _read(folder / f"{_SHOWN}.parquet")["items"] if f"{_SHOWN}.parquet" in manifest["files"] else None
    bags = _read(folder / f"{_REVIEWS}.parquet") if f"{_REVIEWS}.parquet" in manifest["files"] else None
    reviews = WordBags(**bags) if bags is not None else None  # type: ignore[arg-type]  # both columns are lists
    return Log(_mapped_events(folder), manifest=manifest, shown=shown, reviews=reviews, **tables)  # type: ignore[arg-type]


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_MAPPED = "events.arrow"
_ENTITY_TABLES = ("items", "queries", "users", "words", "categories")
_SHOWN = "shown"
_REVIEWS = "reviews"


def _tables(log: Log) -> dict[str, pa.Table]:
    tables = {"events": pa.table(log.events.columns())}
    for name in _ENTITY_TABLES:
        columns = getattr(log, name).columns()
        tables[name] = pa.table({key: _arrow(column) for key, column in columns.items()})
    if log.shown is not None:
        tables[_SHOWN] = pa.table({"items": _arrow(log.shown)})
    if log.reviews is not None:
        tables[_REVIEWS] = pa.table({key: _arrow(column) for key, column in log.reviews.columns().items()})
    return tables


def _arrow(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        return pa.LargeListArray.from_arrays(pa.array(column.offsets), pa.array(column.values))
    return pa.array(column.tolist(), pa.large_string()) if column.dtype.kind in "OU" else pa.array(column)


def _write_mapped(table: pa.Table, path: Path) -> None:
    """One uncompressed record batch: each column is one stretch of the file."""
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(len(table), 1))


def _mapped_events(folder: Path) -> Events:
    """Events whose columns are read-only views of the mapped file."""
    path = folder / _MAPPED
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = (
            pa.RecordBatch.from_pylist([], schema=reader.schema)
            if reader.num_record_batches == 0
            else reader.get_batch(0)
        )
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is not a readable Arrow file ({error})") from None
    return Events(**{name: batch.column(name).to_numpy() for name in batch.schema.names})


def _read(path: Path) -> dict[str, Column]:
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} is not readable Parquet ({error})") from None
    return {name: _numpy(table.column(name).combine_chunks()) for name in table.column_names}


def _numpy(column: pa.Array) -> Column:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_large_list(column.type) or pa.types.is_list(column.type):
        return Ragged(np.asarray(column.offsets, dtype=np.int64), np.asarray(column.values))
    return column.to_numpy(zero_copy_only=False)


def _entities(columns: dict[str, Column]) -> Entities:
    prefix = "feature:"
    features = {name.removeprefix(prefix): columns.pop(name) for name in list(columns) if name.startswith(prefix)}
    return Entities(**columns, features=features)  # type: ignore[arg-type]


def _fingerprint(log: Log) -> str:
    """sha256 over name, mode and every column (name, type, bytes), independent of Parquet's encoding."""
    digest = hashlib.sha256(f"{log.name}:{log.mode}".encode())
    groups: dict[str, dict[str, Any]] = {"events": log.events.columns()}
    groups |= {name: getattr(log, name).columns() for name in _ENTITY_TABLES}
    groups |= {_SHOWN: {"items": log.shown}} if log.shown is not None else {}
    groups |= {_REVIEWS: log.reviews.columns()} if log.reviews is not None else {}
    for group, columns in groups.items():
        for name, column in sorted(columns.items()):
            parts = [column.offsets, column.values] if isinstance(column, Ragged) else [column]
            for part in parts:
                digest.update(f"{group}.{name}:{'str' if part.dtype.kind in 'OU' else part.dtype}:".encode())
                text = part.dtype.kind in "OU"
                digest.update("\0".join(part.tolist()).encode() if text else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
