"""Candidate lists and scores that were made elsewhere: a long table, one line a (row, item), as CSV or Parquet.

A row of the evaluation is named `task:user:event_id` with the user's original id (and `:2`, `:3`, ... where one search
led to several clicks); items are named by their original ids. Nothing of this tells which item was clicked.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bench.data import hashing
from bench.data.log import TASKS
from bench.data.ragged import Ragged
from bench.data.sampling import row_keys
from bench.data.split import LogSplit
from bench.errors import RunError
from bench.evaluation.candidates import CandidateSet

SUFFIXES = (".parquet", ".csv")
TREC = ".trec"  # of a run in the format of trec_eval
_ID_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)


@dataclass(frozen=True)
class LongTable:
    """A file's columns as text, (n,) each, and how its lines are counted."""

    path: Path
    columns: dict[str, pa.ChunkedArray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, index: int) -> str:
        """Where an entry stands: line of a CSV (the header is line 1) or a TREC run, entry of a Parquet file (from 0)."""
        if self.path.suffix == TREC:
            return f"line {index + 1}"
        return f"line {index + 2}" if self.path.suffix == ".csv" else f"entry {index}"

    def codes(self, column: str, known: pd.Index) -> np.ndarray:
        """(n,) place of each value in `known`, -1 where it is not there."""
        coded = self.columns[column].combine_chunks().dictionary_encode()
        if isinstance(coded, pa.ChunkedArray):
            coded = coded.chunk(0) if coded.num_chunks else pa.array([], pa.string()).dictionary_encode()
        codes = known.get_indexer(pd.Index(coded.dictionary.to_pylist(), dtype=object))
        return codes[coded.indices.to_numpy(zero_copy_only=False)] if len(codes) else np.empty(0, dtype=np.int64)

    def problem(self, bad: np.ndarray, column: str, what: str) -> str:
        """One sentence on the entries where `bad` (n,) is True: how many, and the first with its place and value."""
        first = int(bad.argmax())
        where = f"{self.place(first)}, column {column}: '{self.columns[column][first].as_py()}'"
        return f"{what} in {int(bad.sum()):,} of {len(self):,} entries, first in {where}"


def read_lists(path: Path, split: LogSplit, tasks: tuple[str, ...]) -> CandidateSet:
    """Candidate lists of the test rows of `tasks`, from columns row and item, or user, task and item.

    Lists may differ in length. Their order is drawn by a hash, so that the positive's column tells nothing; neither the
    order of the lines nor the form of the file changes the fingerprint. Rows of other tasks are left aside, and a task
    without any list is left out.

    Raises:
        RunError: the file is not readable, an id is unknown or twice in a list, a row has no list, or a list lacks its
            positive.
    """
    table = read_long(path, ("item",), either=(("row",), ("user", "task")))
    events = split.log.events
    everything = np.sort(split.test)
    row, problems = _rows(table, split, everything)
    item = _items(table, split, problems)
    _refuse(path, problems)
    present = [
        task for code, task in enumerate(TASKS) if task in tasks and (events.task[everything[row]] == code).any()
    ]
    if not present:
        raise RunError(f"{path} has no list for a {' or '.join(tasks)} row")
    wanted = np.isin(events.task[everything], [TASKS.index(task) for task in present])
    line = np.flatnonzero(wanted[row])
    rows = everything[wanted]
    row, item = (np.cumsum(wanted) - 1)[row[line]], item[line]

    pair = row * (len(split.log.items) + 1) + item
    keys, counts = np.unique(pair, return_counts=True)
    names = row_ids(split, rows)
    if (counts > 1).any():
        twice = int(line[np.flatnonzero(pair == keys[counts > 1][0])[1]])
        problems.append(
            f"{int((counts > 1).sum()):,} items stand in a list more than once, first in {table.place(twice)}"
        )
    lengths = np.bincount(row, minlength=len(rows))
    _rows_problem(problems, lengths == 0, names, "have no list")
    _rows_problem(problems, lengths == 1, names, "have a list of a single item")
    positive = np.arange(len(rows)) * (len(split.log.items) + 1) + events.item[rows]
    _rows_problem(problems, ~np.isin(positive, keys) & (lengths > 0), names, "lack the clicked item in their list")
    _refuse(path, problems)

    shuffle = hashing.draw(hashing.key("candidate-order", "given", split.log.name), row_keys(events, rows)[row], item)
    order = np.lexsort((shuffle, row))
    items = Ragged(np.concatenate([[0], np.cumsum(lengths)]), item[order].astype(np.int32)).padded()
    position = np.argmax(items == events.item[rows][:, None], axis=1)
    meta = {
        "strategy": "given",
        "seed": 0,
        "negatives": items.shape[1] - 1,
        "source": hashlib.sha256(keys.tobytes()).hexdigest(),
        "data": split.log.fingerprint,
        "split": split.label,
        "part": "test",
        "tasks": present,
    }
    return CandidateSet(rows, items, position, meta)


def row_ids(split: LogSplit, rows: np.ndarray) -> np.ndarray:
    """(R,) str: a name for each event row that other programs can carry; `rows` ascending, whole tasks of a part."""
    events = split.log.events
    return row_names(split, events.task[rows], events.user[rows], events.event_id[rows])


def row_names(split: LogSplit, task: np.ndarray, user: np.ndarray, event_id: np.ndarray) -> np.ndarray:
    """`row_ids` from the columns of ranks, (R,) each, in the order in which the rows were ranked."""
    tasks = pd.Series(np.asarray(TASKS, dtype=object)[task])
    users = pd.Series(np.asarray(split.log.users.id, dtype=object)[user])
    names = tasks + ":" + users + ":" + pd.Series(event_id).astype(str)
    repeat = names.groupby(names, sort=False).cumcount()
    return names.where(repeat == 0, names + ":" + (repeat + 1).astype(str)).to_numpy(object)


def read_long(
    path: Path, names: tuple[str, ...], either: tuple[tuple[str, ...], ...] = (), numbers: tuple[str, ...] = ()
) -> LongTable:
    """Columns of a CSV or Parquet file; ids become text.

    Args:
        path: of the file, ending in one of SUFFIXES.
        names: columns that must be there.
        either: sets of columns of which one must be there; the first that is there is read, too.
        numbers: those of `names` that may be numbers with a fraction.

    Raises:
        RunError: the file or a column is missing, not readable, or has gaps.
    """
    if path.suffix not in SUFFIXES:
        raise RunError(f"{path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    try:
        header = _header(path)
        chosen = next((group for group in either if set(group) <= set(header)), None)
        wanted = (*(chosen or ()), *names)
        missing = [name for name in names if name not in header]
        if missing or (either and chosen is None):
            needed = " or ".join(" and ".join((*group, *names)) for group in either or ((),))
            raise RunError(f"{path} has the columns {', '.join(header)}; needed are {needed}")
        table = _read(path, wanted)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not readable ({' '.join(str(error).split())})") from None
    columns = {}
    for name in wanted:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if column.null_count:
            raise RunError(f"{path}: column {name} has {column.null_count:,} gaps")
        if name not in numbers and not any(fits(column.type) for fits in _ID_TYPES):
            raise RunError(f"{path}: column {name} is {column.type}; ids must be text or whole numbers")
        columns[name] = column if name in numbers else column.cast(pa.string())
    if not table.num_rows:
        raise RunError(f"{path} is empty")
    return LongTable(path, columns)


def row_codes(table: LongTable, split: LogSplit, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) places of the entries' rows in `rows` and item ids, both known.

    Raises:
        RunError: unknown rows or items.
    """
    problems: list[str] = []
    row, problems = _rows(table, split, rows)
    item = _items(table, split, problems)
    _refuse(table.path, problems)
    return row, item


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return pq.read_schema(path).names
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return next(csv.reader(stream), [])


def _read(path: Path, names: tuple[str, ...]) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path, columns=list(names))
    # One thread and no skipped lines, so that line numbers in messages are right.
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),
        parse_options=pa.csv.ParseOptions(ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=list(names), strings_can_be_null=False
        ),
    )


def _rows(table: LongTable, split: LogSplit, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(n,) place of each entry's row in `rows`, by its name or by user and task; and what is wrong."""
    if "row" in table.columns:
        codes = table.codes("row", pd.Index(row_ids(split, rows), dtype=object))
        unknown = codes < 0
        return codes, [table.problem(unknown, "row", "no such test row")] if unknown.any() else []
    events, problems = split.log.events, []
    user = table.codes("user", pd.Index(split.log.users.id, dtype=object))
    task = table.codes("task", pd.Index(TASKS, dtype=object))
    if (user <= 0).any():
        problems.append(table.problem(user <= 0, "user", "unknown user"))
    if (task < 0).any():
        problems.append(table.problem(task < 0, "task", "unknown task (rec or search)"))
    key = events.user[rows].astype(np.int64) * len(TASKS) + events.task[rows]
    order = np.argsort(key, kind="stable")
    wanted = user * len(TASKS) + task
    low, high = np.searchsorted(key[order], wanted), np.searchsorted(key[order], wanted, side="right")
    good = (user > 0) & (task >= 0)
    if (good & (high - low > 1)).any():
        problems.append(
            table.problem(
                good & (high - low > 1),
                "user",
                "users with several rows of a task, which only a column row can tell apart,",
            )
        )
    if (good & (high == low)).any():
        problems.append(table.problem(good & (high == low), "user", "users without a test row of that task"))
    return order[np.minimum(low, len(order) - 1)], problems


def _items(table: LongTable, split: LogSplit, problems: list[str]) -> np.ndarray:
    """(n,) item ids, int64; place 0 of the log's table is padding and no item."""
    item = table.codes("item", pd.Index(split.log.items.id, dtype=object))
    if (item <= 0).any():
        problems.append(table.problem(item <= 0, "item", "unknown item"))
    return item.astype(np.int64)


def _rows_problem(problems: list[str], bad: np.ndarray, names: np.ndarray, what: str) -> None:
    if bad.any():
        problems.append(f"{int(bad.sum()):,} of {len(bad):,} test rows {what}, first '{names[int(bad.argmax())]}'")


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise RunError(f"{path}: {'; '.join(problems)}")


def as_numbers(table: LongTable, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 values of a column and where they are no finite number."""
    values = table.columns[column]
    try:
        numbers = pc.cast(values, pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        numbers = pd.to_numeric(pd.Series(values.to_pylist()), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return numbers, ~np.isfinite(numbers)
