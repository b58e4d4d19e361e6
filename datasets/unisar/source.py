"""UniSAR's processed release: its rows, histories and stored negatives.

Shi et al., SIGIR 2024; repository TengShi-RUC/UniSAR. The folder holds `dataset/{rec,src}_{train,val,test}.pkl` and
`vocab/*.pkl`. The split is the release's own (`given`), the histories are its users' lists in its order, and the
stored negatives of the test rows become lists for `--candidates given:FILE` (the manifest names the file), so that
published numbers can be compared on identical candidates. What is odd about the release is counted in the manifest;
what our histories leave out (a row's own event and item) is a leak there.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.build import assemble, labels
from bench.data.log import TASKS, Entities, Log
from bench.data.ragged import Ragged
from bench.data.sources import FolderSource, SourceConfig, source
from bench.data.split import split
from bench.datasets.unisar import unpickle
from bench.datasets.unisar.events import released_events
from bench.datasets.unisar.rows import Release, checks, leak_rates, read_release
from bench.errors import RunError

_KINDS = {f"{task}_{part}": "rows" for task in ("rec", "src") for part in ("train", "val", "test")} | {
    "user_vocab": "users", "src_session_vocab_np": "sessions",
    "query_vocab": "queries", "user_vocab_np": "tables", "item_vocab_np": "tables",
}  # fmt: skip
# The Amazon release has no user features; without them and the item and query tables the rows can still be read.
_OPTIONAL = ("query_vocab", "user_vocab_np", "item_vocab_np")
# Columns of the item table and what the features of items are called here, as in the KuaiSAR that bench prepares.
_CATEGORIES = {"first_level_category_id": "first_level_category", "second_level_category_id": "second_level_category"}
_PUBLISHED = {"Amazon (Kindle)": {"users": 68_223, "items": 61_934}, "KuaiSAR": {"users": 22_700, "items": 673_415}}
NO_WORDS = "(no words)"
# How many times the processor time that a file may take the wall clock waits: a busy machine gives a small share of it.
_WAITING = 20


class Config(SourceConfig):
    """Settings of the release."""

    mode: Literal["natural"] = "natural"
    """The release says of each row which task it belongs to."""


@source("unisar-release:", title="UniSAR's release", split="given", cite="Shi et al., SIGIR 2024")
class UniSARRelease(FolderSource):
    """The release in the folder that the argument names."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """The pickles of `dataset/` and `vocab/`."""
        folder = self.folder
        files = {
            name: folder / ("dataset" if kind == "rows" else "vocab") / f"{name}.pkl" for name, kind in _KINDS.items()
        }
        missing = [path for name, path in files.items() if name not in _OPTIONAL and not path.is_file()]
        if missing:
            raise RunError(f"{missing[0]} is missing ({len(missing)} of {len(files) - len(_OPTIONAL)} needed files)")
        return {name: path for name, path in files.items() if path.is_file()}

    def prepare(self, files: dict[str, Path]) -> Log:
        """Unpickle in another process, merge the lists, write the stored negatives as candidates."""
        with tempfile.TemporaryDirectory(prefix="bench-unisar-") as scratch:
            tables = convert(files, Path(scratch))
            release = read_release(tables)
            features: dict[str, pa.Table] = {
                name: pq.read_table(tables[name]) for name in ("user_vocab_np", "item_vocab_np") if name in tables
            }
        _refuse(release)
        name = f"unisar-release:{files['user_vocab'].parent.parent.name}"
        log, rows = _log(name, release, features, self.config.seed)
        # Beside the prepared Logs; named by the Log, so that lists never meet another Log's rows.
        target = self.root.parent / "prepared" / f"{name.replace(':', '-')}-{log.fingerprint[:16]}.candidates.parquet"
        listed = _write_lists(log, release, rows, target)
        manifest = log.manifest | {"candidates": {"file": f"{target.parent.name}/{target.name}", **listed}}
        return Log(**{**vars(log), "manifest": manifest})


def convert(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Unpickle in a separate process without environment and network; returns the Parquet files it wrote.

    Raises:
        RunError: a file was refused (it asks for code, is damaged, or is not of the documented form).
    """
    targets = {name: folder / f"{name}.parquet" for name in files}
    command = [sys.executable, "-I", "-m", unpickle.__name__]
    for name, path in files.items():
        command += [_KINDS[name], str(path.resolve()), str(targets[name])]
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    folder_read = next(iter(files.values())).parent.parent
    # Where the system limits processor time, this is never reached.
    seconds = _WAITING * (1 + sum(unpickle.seconds_for(path.stat().st_size) for path in files.values()))
    try:
        done = subprocess.run(
            command, cwd=folder, env=kept, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"reading {folder_read} took longer than {seconds:.0f} s and was ended") from None
    if done.returncode == unpickle.REFUSED:
        raise RunError(f"{done.stderr.strip()}; a file of the release is a pickle of tables and lists, get it again")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RunError(f"reading {folder_read} failed in its process (exit {done.returncode}): {last[0]}")
    return targets


def _refuse(release: Release) -> None:
    """Raise a RunError for rows that no Log can hold."""
    rows = release.rows
    for bad, what in ((rows.user < 0, "a negative user id"), (rows.item < 1, "the item id 0 or below (0 is padding)"),
                      ((rows.rec_len < 0) | (rows.search_len < 0), "a negative prefix length")):  # fmt: skip
        if bad.any():
            raise RunError(f"{int(bad.sum()):,} rows of the release have {what}")
    if not len(rows):
        raise RunError("the release has no rows")


def _log(name: str, release: Release, features: dict[str, pa.Table], seed: int) -> tuple[Log, np.ndarray]:
    """The Log, and (events,) the release's row of each of its events, -1 for none."""
    events = released_events(release)
    rows = release.rows
    user_ids = np.unique(np.concatenate([release.rec.users, events.user]))
    held_out = rows.part[rows.negatives.owners()] > 0
    negatives = rows.negatives.values[held_out]
    # Stored negatives may be items without any event; the models of the release know them, too.
    item_ids = np.unique(np.concatenate([events.item, negatives[negatives > 0]]))
    item_table = features.get("item_vocab_np")
    n_items = len(item_table) - 1 if item_table is not None else int(item_ids.max())
    captions = _captions(item_table, item_ids)
    # Queries of events only: the session table has a row of padding, too.
    asked = np.unique(events.keyword[events.keyword >= 0])
    texts = sorted(release.queries[code] or NO_WORDS for code in asked)
    spoken = [[] if text == NO_WORDS else text.split() for text in texts]
    words = sorted({word for entry in [*captions, *spoken] for word in entry}, key=int)
    code_of = {word: code + 1 for code, word in enumerate(words)}
    categories, category_ids = _categories(item_table, item_ids)
    # -1 (no query) reads the last entry: 0.
    query_code = np.append(pd.Index(texts).get_indexer([text or NO_WORDS for text in release.queries]) + 1, 0)
    user = (np.searchsorted(user_ids, events.user) + 1).astype(np.int32)
    item = (np.searchsorted(item_ids, events.item) + 1).astype(np.int32)
    facts = {
        "counts": {
            "users": len(user_ids),
            "items": n_items,
            "queries": len(texts),
            "entries of query_vocab": release.query_vocab,
        },
        "published": _PUBLISHED,
        "time unit": release.unit,
        "events": events.facts,
        "histories": {"recommendation": release.rec.facts, "search": release.src.facts},
        "checks": checks(release, n_items),
        "leak rates": leak_rates(release),
        "not used": "stored negatives of training and validation rows: both are drawn as for every data set",
    }
    columns = {"act": events.act, "session": events.unit, "time": events.time, "task": events.task, "part": events.part}
    log = assemble(
        name,
        "natural",
        columns | {"user": user, "item": item, "query": query_code[events.keyword].astype(np.int32)},
        items=Entities(
            id=labels(item_ids),
            text=_column(" ".join(entry) for entry in captions),
            provenance=_column("word ids of the caption" if entry else "" for entry in captions),
            words=_coded(captions, code_of),
            categories=categories,
            features=_features(item_table, item_ids) | _levels(item_table, item_ids),
        ),
        queries=Entities(
            id=_column(texts), text=_column(" ".join(entry) for entry in spoken), words=_coded(spoken, code_of)
        ),
        users=Entities(id=labels(user_ids), features=_features(features.get("user_vocab_np"), user_ids)),
        words=Entities(id=_column(words)),
        categories=Entities(id=_column(category_ids)),
        seed=seed,
        # The Amazon release has no features; models publish settings for the two under these names.
        manifest={"release": facts, "same_data_as": "kuaisar" if "user_vocab_np" in features else "amazon-kindle"},
    )
    # No two events of a user share time and item, so that this order of both finds each event's row.
    rows_of = np.empty(len(user), dtype=np.int64)
    rows_of[np.lexsort((log.events.item, log.events.time, log.events.user))] = events.row[
        np.lexsort((item, events.time, user))
    ]
    return log, rows_of


def _captions(table: pa.Table | None, ids: np.ndarray) -> list[list[str]]:
    """Word ids of each item's caption, as text; empty lists without item features."""
    if table is None or "caption" not in table.column_names:
        return [[] for _ in ids]
    return [[str(word) for word in words] for words in _of(table, ids).column("caption").to_pylist()]


def _categories(table: pa.Table | None, ids: np.ndarray) -> tuple[Ragged, list[str]]:
    """Categories of each item, padding first, and their ids `level:number`; 0 is none."""
    levels = [name for name in _CATEGORIES if table is not None and name in table.column_names]
    rows = _of(table, ids) if table is not None else None
    numbers = (
        [(level, rows.column(name).to_numpy()) for level, name in enumerate(levels, 1)] if rows is not None else []
    )
    names = [f"{level}:{number}" for level, column in numbers for number in np.unique(column[column > 0])]
    code = {name: place + 1 for place, name in enumerate(names)}
    owner = np.concatenate([np.flatnonzero(column > 0) + 1 for _, column in numbers] or [np.empty(0, dtype=np.int64)])
    values = [code[f"{level}:{number}"] for level, column in numbers for number in column[column > 0]]
    return Ragged.from_pairs(owner, np.asarray(values, dtype=np.int32), len(ids) + 1), names


def _features(table: pa.Table | None, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of whole numbers by id as codes from 1, padding first; categories have a place of their own."""
    if table is None:
        return {}
    kept = _of(table, ids)
    plain = [
        name
        for name in kept.column_names
        if pa.types.is_integer(kept.schema.field(name).type) and name not in _CATEGORIES
    ]
    codes = {name: np.unique(kept.column(name).to_numpy(), return_inverse=True)[1] for name in plain}
    return {name: np.concatenate([[0], code + 1]).astype(np.int32) for name, code in codes.items()}


def _levels(table: pa.Table | None, ids: np.ndarray) -> dict[str, np.ndarray]:
    """The category of each level as a feature: codes from 1, 0 = none and padding."""
    if table is None:
        return {}
    kept = _of(table, ids)
    numbers = {_CATEGORIES[name]: kept.column(name).to_numpy() for name in kept.column_names if name in _CATEGORIES}
    return {
        name: np.unique(np.r_[0, column], return_inverse=True)[1].astype(np.int32) for name, column in numbers.items()
    }


def _of(table: pa.Table, ids: np.ndarray) -> pa.Table:
    """The lines of a table by id.

    Raises:
        RunError: it has no line for an id.
    """
    if int(ids.max()) >= len(table):
        raise RunError(f"the release's tables end at id {len(table) - 1}, but its rows speak of {ids.max()}")
    return table.take(pa.array(ids))


def _column(values: Iterable[str]) -> np.ndarray:
    return np.asarray(["", *values], dtype=object)


def _coded(lists: list[list[str]], code: dict[str, int]) -> Ragged:
    return Ragged.from_lists([[], *([code[word] for word in entry] for entry in lists)])


def _write_lists(log: Log, release: Release, rows_of: np.ndarray, target: Path) -> dict[str, Any]:
    """Write the stored candidates of the split's test rows (columns row, item) and say what became of them."""
    given = split(log, "given")
    rows, events = given.test, log.events
    source = rows_of[rows]
    known = np.searchsorted(log.items.id[1:].astype(np.int64), release.rows.negatives.take(source).values)
    known = np.minimum(known, len(log.items) - 1)
    stored = release.rows.negatives.take(source)
    owner = stored.owners()
    real = (log.items.id[1:].astype(np.int64)[known] == stored.values) & (known + 1 != events.item[rows][owner])
    pair = np.unique(owner[real] * (len(log.items) + 1) + known[real] + 1)
    everything = np.concatenate([pair, np.arange(len(rows)) * (len(log.items) + 1) + events.item[rows]])
    everything.sort()
    task = pd.Series(np.asarray(TASKS, dtype=object)[events.task[rows]])
    names = task + ":" + pd.Series(log.users.id[events.user[rows]]) + ":" + pd.Series(events.event_id[rows]).astype(str)
    repeat = names.groupby(names, sort=False).cumcount()
    names = names.where(repeat == 0, names + ":" + (repeat + 1).astype(str))
    row, item = np.divmod(everything, len(log.items) + 1)
    table = pa.table(
        {
            "row": pa.DictionaryArray.from_arrays(
                pa.array(row.astype(np.int32)), pa.array(names.tolist(), pa.string())
            ),
            "item": pa.DictionaryArray.from_arrays(
                pa.array(item.astype(np.int32)), pa.array(log.items.id.tolist(), pa.string())
            ),
        }
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        pq.write_table(table, scratch, compression="zstd")
        os.replace(scratch, target)
    except OSError as error:
        raise RunError(f"cannot write the stored candidates to {target}: {error.strerror or error}") from error
    return {
        "test rows of the release": int((release.rows.part == 2).sum()),
        "test rows with a list": len(rows),
        "stored negatives left out (the positive, repeats, the id 0)": len(stored.values) - len(pair),
        "split": given.dropped,
    }
