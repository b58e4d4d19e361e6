"""Candidate lists for models outside of bench, as a long table; scores come back through `bench.experiments.score_import`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bench.data.log import TASKS
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet, seen_items
from bench.evaluation.given import SUFFIXES, row_ids
from bench.experiments.prepared_data import PreparedData

_CHUNK = 2_000_000  # lines written at once


def check_target(path: Path) -> None:
    """Refuse a file name that cannot be written, before any work.

    Raises:
        UsageError: another ending. RunError: no such folder.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--out {path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {path.absolute().parent}")


def export_candidates(
    prepared: PreparedData, candidates: CandidateSet, path: Path, tasks: tuple[str, ...] = TASKS
) -> int:
    """Write the lists of the tasks as a long table and return the number of its lines.

    Columns: row, task, user, query (text), item, in the drawn order of each list. The facts of the set are in the
    metadata of the Parquet schema (`bench`), or beside a CSV in `<file>.json`. A file appears whole or not at all.
    """
    facts = {
        "dataset": prepared.name,
        "mode": prepared.log.mode,
        "fingerprint": candidates.fingerprint,
        "rows": len(candidates),
        **candidates.meta,
    }
    text = pa.string()
    schema = pa.schema(
        [(name, text) for name in ("row", "task", "user", "query", "item")], {"bench": json.dumps(facts)}
    )
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    lines = 0
    try:
        with (
            pq.ParquetWriter(scratch, schema, compression="zstd")
            if path.suffix == ".parquet"
            else pa.csv.CSVWriter(scratch, schema) as writer
        ):
            for table in _pieces(prepared, candidates, tasks, schema):
                writer.write_table(table)
                lines += len(table)
        if path.suffix == ".csv":
            path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another file with --out"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return lines


def keys(prepared: PreparedData, candidates: CandidateSet, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Keys (n,) of the candidates of the chosen rows in their drawn order, a chunk at a time.

    A key is place in the set * (items + 1) + item.
    """
    width = len(prepared.log.items) + 1
    columns = candidates.items.shape[1] if candidates.items is not None else width
    seen = seen_items(prepared.split) if candidates.items is None else None
    step = max(1, _CHUNK // columns)
    for low in range(0, len(chosen), step):
        chunk = chosen[low : low + step]
        if seen is None:
            items = candidates.items[chunk].astype(np.int64)  # type: ignore[index]
            valid = items > 0
        else:
            items = np.broadcast_to(np.arange(1, width), (len(chunk), width - 1))
            rows = candidates.rows[chunk]
            valid = ~seen.contains(prepared.log.events.user[rows][:, None], items)
            valid[np.arange(len(chunk)), candidates.position[chunk]] = True
        yield (chunk[:, None] * width + items)[valid]


def _pieces(
    prepared: PreparedData, candidates: CandidateSet, tasks: tuple[str, ...], schema: pa.Schema
) -> Iterator[pa.Table]:
    log, events, width = prepared.log, prepared.log.events, len(prepared.log.items) + 1
    names = row_ids(prepared.split, candidates.rows)
    queries = log.queries.text if log.queries.text is not None else log.queries.id
    chosen = np.flatnonzero(np.isin(events.task[candidates.rows], [TASKS.index(task) for task in tasks]))
    for chunk in keys(prepared, candidates, chosen):
        place, item = chunk // width, chunk % width
        rows = candidates.rows[place]
        columns = (
            names[place],
            np.asarray(TASKS, dtype=object)[events.task[rows]],
            np.asarray(log.users.id, dtype=object)[events.user[rows]],
            np.asarray(queries, dtype=object)[events.query[rows]],
            np.asarray(log.items.id, dtype=object)[item],
        )
        yield pa.table([pa.array(column, pa.string()) for column in columns], schema=schema)
