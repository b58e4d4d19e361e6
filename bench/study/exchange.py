"""The door for models outside of bench: candidates go out as a long table, scores come back and stand in the same tables."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bench.data.log import TASKS, file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet, touched_by
from bench.evaluation.given import SUFFIXES, LongTable, as_numbers, read_long, row_codes, row_ids
from bench.evaluation.ranks import Ranks
from bench.ranker import registry
from bench.study import environment
from bench.study.data import Prepared
from bench.study.store import Evaluation, RunRecord, Store

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


def export_candidates(prepared: Prepared, candidates: CandidateSet, path: Path) -> int:
    """Write the lists as a long table and return the number of its lines.

    Columns: row, task, user, query (text), item, in the drawn order of each list. The facts of the set are in the Parquet schema's
    metadata (`bench`), or beside a CSV in `<file>.json`. A file appears whole or not at all.
    """
    facts = {
        "dataset": prepared.name,
        "mode": prepared.log.mode,
        "fingerprint": candidates.fingerprint,
        "rows": len(candidates),
        **candidates.meta,
    }
    text = pa.string()
    schema = pa.schema([(name, text) for name in ("row", "task", "user", "query", "item")], {"bench": json.dumps(facts)})
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    lines = 0
    try:
        with pq.ParquetWriter(scratch, schema, compression="zstd") if path.suffix == ".parquet" else pa.csv.CSVWriter(
            scratch, schema
        ) as writer:
            for table in _pieces(prepared, candidates, schema):
                writer.write_table(table)
                lines += len(table)
        if path.suffix == ".csv":
            path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; free space or choose another file with --out") from error
    finally:
        scratch.unlink(missing_ok=True)
    return lines


def check_name(name: str) -> str:
    """The model name of imported scores: what tables select by. Returns it made of letters, digits, dots and dashes.

    Raises:
        UsageError: nothing is left of it, or a model of bench has it.
    """
    short = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    if not short:
        raise UsageError(f"--name '{name}': expected a name with letters or digits")
    if short in registry.entries():
        raise UsageError(f"--name {name}: a model of bench is called '{short}'; choose another name, such as '{name} (theirs)'")
    return short


def import_scores(
    store: Store, prepared: Prepared, candidates: CandidateSet, path: Path, name: str, seed: int = 0
) -> RunRecord:
    """Rank a file of scores (columns row, item, score) and keep the ranks as a run.

    A task may be left out as a whole; within a task every (row, item) of the candidates must be there exactly once.
    Scores are compared as float64, so that no tie is made here.

    Raises:
        RunError: the file does not fit the candidates, or scores of that name and seed are there already.
    """
    short, started, clock = check_name(name), _now(), time.perf_counter()
    ranks = read_ranks(path, prepared, candidates)
    digest = file_sha256(path)
    run = f"{short}-imported-{digest[:12]}"
    for _, other in store.runs():
        same = other.kind == "imported" and other.model == short and other.seed == seed and candidates.fingerprint in other.evaluations
        if same and other.id != run:
            raise RunError(
                f"scores of '{name}' with seed {seed} on these candidates are there already ({other.id}); "
                f"remove them (bench runs remove {other.id}) or give another --name or --seed"
            )
    ranks = Ranks(**{**vars(ranks), "meta": {"model": short, "candidates": candidates.fingerprint}})
    file = f"ranks-{candidates.fingerprint[:16]}.parquet"
    evaluation = Evaluation(
        fingerprint=candidates.fingerprint,
        label=candidates.label,
        strategy=candidates.meta["strategy"],
        seed=candidates.meta["seed"],
        rows={task: len(ranks.only(task)) for task in ranks.tasks},
        tie_rate={task: ranks.only(task).tie_rate for task in ranks.tasks},
        leaks=prepared.leaks(candidates),
        ranks=file,
        seconds=time.perf_counter() - clock,
        finished=_now(),
    )
    parts = ["imported", digest, short, str(seed), prepared.log.fingerprint, prepared.split.name, candidates.fingerprint]
    record = RunRecord(
        id=run,
        fit_key=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        kind="imported",
        model=short,
        title=name,
        group="imported",
        tasks=list(ranks.tasks),
        seed=seed,
        budget="",
        config={},
        dataset=prepared.record(),
        device="",
        threads=0,
        code="",
        evidence={"scores file": path.name, "scores sha256": digest},
        evaluations={candidates.fingerprint: evaluation},
        environment=environment.facts() | {"command": environment.command_line()},
        started=started,
        finished=_now(),
        seconds=time.perf_counter() - clock,
    )
    with store.locked(prepared.name, run):
        candidates.save(store.candidates(prepared.name), prepared.split)
        part = store.part(prepared.name, run)
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            ranks.save(part / file)
            store.write(part, record)
            store.publish(prepared.name, run)
        except OSError as error:
            raise RunError(f"cannot write to {part}: {error.strerror or error}; choose another folder with --out") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return record


def read_ranks(path: Path, prepared: Prepared, candidates: CandidateSet) -> Ranks:
    """Ranks of a file of scores; see `import_scores`."""
    table = read_long(path, ("row", "item", "score"), numbers=("score",))
    split, events, width = prepared.split, prepared.log.events, len(prepared.log.items) + 1
    row, item = row_codes(table, split, candidates.rows)
    score, broken = as_numbers(table, "score")
    if broken.any():
        raise RunError(f"{path}: {table.problem(broken, 'score', 'no finite number')}")
    # A model may serve one task only: then no row of the other one is there.
    present = np.unique(events.task[candidates.rows[row]])
    served = np.isin(events.task[candidates.rows], present)
    expected = np.concatenate([part for _, part in _pairs(prepared, candidates, np.flatnonzero(served))])
    expected.sort()
    pair = row * width + item
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    problems = _mismatch(table, pair, order, expected, lambda key: (row_ids(split, candidates.rows)[key // width], key % width), prepared)
    if problems:
        raise RunError(f"{path} does not fit the candidates {candidates.label} ({candidates.fingerprint[:12]}): {'; '.join(problems)}")
    row, score = row[order], score[order]
    positive = np.full(len(candidates), np.nan)
    at = np.searchsorted(pair, np.flatnonzero(served) * width + events.item[candidates.rows[served]])
    positive[served] = score[at]
    better = np.bincount(row[score > positive[row]], minlength=len(candidates))[served]
    tied = np.bincount(row[score == positive[row]], minlength=len(candidates))[served] - 1
    listed = np.bincount(row, minlength=len(candidates))[served]
    kept = candidates.rows[served]
    taken: dict[str, Any] = {column: getattr(events, column)[kept] for column in ("user", "event_id", "item", "task", "query")}
    return Ranks(**taken, better=better, tied=tied, candidates=listed)


def _mismatch(table: LongTable, pair: np.ndarray, order: np.ndarray, expected: np.ndarray, name: Any, prepared: Prepared) -> list[str]:
    """What is wrong between the sorted keys of a file and those of the candidates, a sentence a kind."""
    problems, items = [], prepared.log.items.id
    again = np.r_[False, pair[1:] == pair[:-1]]
    if again.any():
        row, item = name(pair[again][0])
        problems.append(
            f"{int(again.sum()):,} (row, item) pairs are repeated, first in {table.place(int(order[again][0]))}: '{row}', item '{items[item]}'"
        )
    place = np.minimum(np.searchsorted(expected, pair), len(expected) - 1)
    strange = expected[place] != pair
    if strange.any():
        row, item = name(pair[strange][0])
        first = table.place(int(order[strange][0]))
        problems.append(f"{int(strange.sum()):,} entries are no candidates of their row, first in {first}: '{row}', item '{items[item]}'")
    found = np.minimum(np.searchsorted(pair, expected), len(pair) - 1)
    missing = pair[found] != expected
    if missing.any():
        row, item = name(expected[missing][0])
        problems.append(f"{int(missing.sum()):,} (row, item) pairs have no score, first '{row}', item '{items[item]}'")
    return problems


def _pairs(prepared: Prepared, candidates: CandidateSet, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row numbers (r,), keys (n,)) of the candidates of the chosen rows in their drawn order, a chunk at a time.

    A key is place in the set * (items + 1) + item.
    """
    width = len(prepared.log.items) + 1
    columns = candidates.items.shape[1] if candidates.items is not None else width
    touched = touched_by(prepared.split) if candidates.items is None else None
    step = max(1, _CHUNK // columns)
    for low in range(0, len(chosen), step):
        part = chosen[low : low + step]
        if touched is None:
            items = candidates.items[part].astype(np.int64)  # type: ignore[index]
            valid = items > 0
        else:
            items = np.broadcast_to(np.arange(1, width), (len(part), width - 1))
            rows = candidates.rows[part]
            valid = ~touched.contains(prepared.log.events.user[rows][:, None], items)
            valid[np.arange(len(part)), candidates.position[part]] = True
        yield part, (part[:, None] * width + items)[valid]


def _pieces(prepared: Prepared, candidates: CandidateSet, schema: pa.Schema) -> Iterator[pa.Table]:
    log, events, width = prepared.log, prepared.log.events, len(prepared.log.items) + 1
    names = row_ids(prepared.split, candidates.rows)
    queries = log.queries.text if log.queries.text is not None else log.queries.id
    for _, keys in _pairs(prepared, candidates, np.arange(len(candidates))):
        place, item = keys // width, keys % width
        rows = candidates.rows[place]
        columns = (
            names[place],
            np.asarray(TASKS, dtype=object)[events.task[rows]],
            np.asarray(log.users.id, dtype=object)[events.user[rows]],
            np.asarray(queries, dtype=object)[events.query[rows]],
            np.asarray(log.items.id, dtype=object)[item],
        )
        yield pa.table([pa.array(column, pa.string()) for column in columns], schema=schema)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
