"""Scores that were made elsewhere: checked against the candidates, ranked, and kept as a run beside the fits."""

import hashlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.data.log import TASKS, file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import CandidateSet
from bench.evaluation.given import TREC, LongTable, as_numbers, read_long, row_codes, row_ids
from bench.evaluation.ranks import Ranks
from bench.evaluation.trec import read_run
from bench.experiments.candidate_export import keys
from bench.experiments.prepared_data import PreparedData
from bench.experiments.top_import import rank_top_lists
from bench.messages import one_line
from bench.ranker import registry
from bench.store import environment
from bench.store.records import RunRecord, now
from bench.store.results import Store, write_ranks

LONGEST_NAME = 80


def check_name(name: str) -> str:
    """The model name of imported scores: what tables select by. Returns it made of letters, digits, dots and dashes.

    Raises:
        UsageError: nothing is left of it, it is long or holds control characters, or a model of bench has it.
    """
    if name != one_line(name):
        raise UsageError(
            f"--name '{one_line(name)}': the name holds a line break or other characters that do not print"
        )
    if len(name) > LONGEST_NAME:
        raise UsageError(f"--name: the name has {len(name)} characters, at most {LONGEST_NAME} are possible")
    short = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
    if not short:
        raise UsageError(f"--name '{name}': expected a name with letters or digits")
    if short in registry.entries():
        raise UsageError(
            f"--name {name}: a model of bench is called '{short}'; choose another name, such as '{name} (theirs)'"
        )
    return short


def import_scores(
    store: Store,
    prepared: PreparedData,
    candidates: CandidateSet,
    path: Path,
    name: str,
    seed: int = 0,
    *,
    tasks: tuple[str, ...] | None = None,
    top: bool = False,
) -> RunRecord:
    """Rank a file of scores (columns row, item, score, or a TREC run) and keep the ranks as a run.

    Within a task every (row, item) of the candidates must be there exactly once. Without `tasks` the file may leave out
    a task as a whole; with them it must have those tasks, and lines of another one are left aside. Scores are compared
    as float64, so that no tie is made here. With `top` the file holds the best items only (`top_import`); what it leaves
    open stands in the record.

    Raises:
        RunError: the file does not fit the candidates, or scores of that name and seed are there already.
    """
    short, started, clock = check_name(name), now(), time.perf_counter()
    lists = rank_top_lists(path, prepared, candidates, tasks or prepared.tasks) if top else None
    ranks = lists.ranks if lists else rank_scores(path, prepared, candidates, tasks)
    digest = file_sha256(path)
    run = f"{short}-imported-{digest[:12]}"
    for _, other in store.runs():
        same = (
            other.kind == "imported"
            and other.model == short
            and other.seed == seed
            and candidates.fingerprint in other.evaluations
        )
        if same and other.id != run:
            raise RunError(
                f"scores of '{name}' with seed {seed} on these candidates are there already ({other.id}); "
                f"remove them (bench runs remove {other.id}) or give another --name or --seed"
            )
    parts = [
        "imported",
        digest,
        short,
        str(seed),
        prepared.log.fingerprint,
        prepared.split.label,
        candidates.fingerprint,
    ]
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
        evidence={"scores file": path.name, "scores sha256": digest}
        | ({"top lists": list(lists.account)} if lists else {}),
        environment=environment.facts() | {"command": environment.command_line()},
        started=started,
    )
    with store.locked(prepared.name, run):
        candidates.save(store.candidates(prepared.name), prepared.split)
        part = store.part(prepared.name, run)
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            leaks = prepared.leaks(candidates)
            evaluation = write_ranks(ranks, part, short, candidates, leaks, time.perf_counter() - clock)
            evaluation.depth = lists.depth if lists else 0
            record.evaluations[candidates.fingerprint] = evaluation
            record.finished, record.seconds = now(), time.perf_counter() - clock
            store.write(part, record)
            store.publish(prepared.name, run)
        except OSError as error:
            raise RunError(
                f"cannot write to {part}: {error.strerror or error}; choose another folder with --out"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return record


def rank_scores(
    path: Path, prepared: PreparedData, candidates: CandidateSet, tasks: tuple[str, ...] | None = None
) -> Ranks:
    """Ranks of a file of scores; see `import_scores`."""
    table = read_run(path) if path.suffix == TREC else read_long(path, ("row", "item", "score"), numbers=("score",))
    split, events, width = prepared.split, prepared.log.events, len(prepared.log.items) + 1
    row, item = row_codes(table, split, candidates.rows)
    score, broken = as_numbers(table, "score")
    if broken.any():
        raise RunError(f"{path}: {table.problem(broken, 'score', 'no finite number')}")
    task = events.task[candidates.rows]
    # A model may serve one task only: then no row of the other one is there.
    present = [
        name for code, name in enumerate(TASKS) if (task[row] == code).any() and (tasks is None or name in tasks)
    ]
    if absent := [name for name in tasks or () if name not in present] or ([] if present else list(TASKS)):
        raise RunError(f"{path} has no line for a {' or '.join(absent)} row; change --tasks or score those rows")
    served = np.isin(task, [TASKS.index(name) for name in present])
    line = np.flatnonzero(served[row])
    row, item, score = row[line], item[line], score[line]
    expected = np.concatenate(list(keys(prepared, candidates, np.flatnonzero(served))))
    expected.sort()
    pair = row * width + item
    order = np.argsort(pair, kind="stable")
    pair = pair[order]
    names = row_ids(split, candidates.rows)
    problems = _mismatch(
        table,
        pair,
        line[order],
        expected,
        lambda key: f"'{names[key // width]}', item '{prepared.log.items.id[key % width]}'",
    )
    if problems:
        which = f"{candidates.label} ({candidates.fingerprint[:12]})"
        raise RunError(f"{path} does not fit the candidates {which}: {'; '.join(problems)}")
    row, score = row[order], score[order]
    positive = np.full(len(candidates), np.nan)
    at = np.searchsorted(pair, np.flatnonzero(served) * width + events.item[candidates.rows[served]])
    positive[served] = score[at]
    above, level = score > positive[row], score == positive[row]
    better, tied, listed = (
        np.bincount(row[of], minlength=len(candidates))[served] for of in (above, level, slice(None))
    )
    kept = candidates.rows[served]
    return Ranks(
        user=events.user[kept],
        event_id=events.event_id[kept],
        item=events.item[kept],
        task=events.task[kept],
        query=events.query[kept],
        better=better.astype(np.int32),
        tied=(tied - 1).astype(np.int32),
        candidates=listed.astype(np.int32),
    )


def _mismatch(
    table: LongTable,
    pair: np.ndarray,
    line: np.ndarray,
    expected: np.ndarray,
    name: Callable[[int], str],
) -> list[str]:
    """What is wrong between a file and the candidates, a sentence a kind.

    Args:
        table: the file.
        pair: sorted keys of its entries, (n,).
        line: where each stands, (n,).
        expected: sorted keys of the candidates.
        name: key -> "row, item" for people.
    """
    problems = []
    again = np.r_[False, pair[1:] == pair[:-1]]
    if again.any():
        first = f"first in {table.place(int(line[again][0]))}: {name(int(pair[again][0]))}"
        problems.append(f"{int(again.sum()):,} (row, item) pairs are repeated, {first}")
    strange = expected[np.minimum(np.searchsorted(expected, pair), len(expected) - 1)] != pair
    if strange.any():
        first = f"first in {table.place(int(line[strange][0]))}: {name(int(pair[strange][0]))}"
        problems.append(f"{int(strange.sum()):,} entries are no candidates of their row, {first}")
    missing = pair[np.minimum(np.searchsorted(pair, expected), len(pair) - 1)] != expected
    if missing.any():
        problems.append(
            f"{int(missing.sum()):,} (row, item) pairs have no score, first {name(int(expected[missing][0]))}; a list of "
            "the best alone does not say where the clicked item stands when it is not among them (--top takes one for what it says)"
        )
    return problems
