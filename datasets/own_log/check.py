"""What is wrong with a folder of own logs: all of it in one pass, by file, row and column."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.data.log import TASKS
from bench.datasets.own_log.codes import EventCodes, event_codes
from bench.datasets.own_log.columns import KEYS, REQUIRED, kind_of
from bench.datasets.own_log.formats import find_files, unread_files
from bench.datasets.own_log.notes import event_notes, text_notes
from bench.datasets.own_log.outlook import outline, outlook
from bench.datasets.own_log.problem import Problem, quoted
from bench.datasets.own_log.read import LogFile, read_file
from bench.datasets.own_log.spelling import (
    meant_by,
    plain_id,
    rounded_by_spreadsheet,
    spelled_differently,
)
from bench.datasets.own_log.times import check_times

_ONE_LINE = ("id", "label", "feature")
_LINE_BREAK = "[\r\n]"
_OPEN_QUOTE = "(a quote that is not closed?)"


@dataclass
class Inspection:
    """What was read of a folder and what is to be said of it.

    Attributes:
        folder: where the files are.
        files: the files by name ("events", "items", "queries", "users").
        problems: what must be mended; nothing is built while there are any.
        notes: what is worth knowing and stops nothing.
        codes: the events as numbers; None where there are problems.
        has_test_rows: whether the default split gives any; None where that was not looked at.
    """

    folder: Path
    files: dict[str, LogFile]
    problems: list[Problem]
    notes: list[str]
    codes: EventCodes | None = None
    has_test_rows: bool | None = None

    def summary(self) -> str:
        """Events, users and items in one line."""
        events = self.files["events"]
        assert self.codes is not None
        counts = np.bincount(self.codes.table["task"], minlength=len(TASKS))
        parts = [f"{count:,} {task} events" for task, count in zip(TASKS, counts, strict=True)]
        users, items = (len(events.coded(column)[1]) for column in ("user", "item"))
        return f"{', '.join(parts)}, {users:,} users, {items:,} items"

    def unclicked(self) -> int:
        """Number of items in the file of items that occur in no event."""
        items = self.files.get("items")
        return 0 if items is None else int((~items.table["item"].isin(self.files["events"].coded("item")[1])).sum())


def inspect(folder: Path, now: float | None = None, *, split: bool = True) -> Inspection:
    """Read a folder and look at everything.

    Args:
        folder: holds the files.
        now: seconds since 1970; later events lie in the future. Default: the clock.
        split: whether to say what the default split and its candidates will leave.
    """
    paths, problems = find_files(folder)
    files = {name: read_file(path, name) for name, path in paths.items()}
    for name, file in files.items():
        _check_lines(file, name)
        for column in REQUIRED[name]:
            if column != "time" and column in file:
                _check_ids(file, column)
        if name in KEYS and KEYS[name] in file:
            codes, values = file.coded(KEYS[name])
            repeated = pd.Series(codes).duplicated().to_numpy() & np.asarray(values != "")[codes]
            file.flag(repeated, KEYS[name], "duplicate id")
    events = files.get("events")
    if events is not None and len(events.table.columns):
        _check_tasks(events)
        if "time" in events:
            check_times(events, time.time() if now is None else now)
        for name, key in KEYS.items():
            if name in files and key in files[name] and len(files[name]) and key in events:
                _check_known(events, files[name], key)
    problems += [problem for file in files.values() for problem in file.problems]
    notes = [f"{file.name}: not used: {', '.join(file.unused)}" for file in files.values() if file.unused]
    if ignored := unread_files(folder, paths):
        notes.append(f"not read: {', '.join(ignored)}")
    notes += [f"{file.name}, {note}" for file in files.values() for note in file.notes]
    inspection = Inspection(folder, files, problems, notes)
    if not problems:
        events_by_code = event_codes(files["events"])
        inspection.codes = events_by_code
        notes += event_notes(files["events"], events_by_code, "queries" in files)
        notes += text_notes(files, events_by_code.queries, inspection.unclicked())
        if split:
            catalogue = len(events_by_code.items) + inspection.unclicked()
            further, inspection.has_test_rows = outlook(outline(events_by_code, catalogue))
            notes += further
    return inspection


def _check_lines(file: LogFile, name: str) -> None:
    """No value but a text may go over several lines."""
    for column in file.table:
        kind = kind_of(name, column)
        if kind == "time":
            # Times are all different: no list of distinct values for them.
            broken = np.asarray(pc.match_substring_regex(pa.array(file.table[column], pa.string()), _LINE_BREAK))
            file.flag(broken, column, f"a line break inside a time {_OPEN_QUOTE}")
        elif kind in _ONE_LINE:
            what = "an id" if kind == "id" else "a value"
            broken = _matches(file.coded(column)[1], _LINE_BREAK)
            file.flag_values(broken, column, f"a line break inside {what} {_OPEN_QUOTE}")


def _check_ids(file: LogFile, column: str) -> None:
    _, values = file.coded(column)
    inner = _trimmed(values)
    empty = np.asarray(inner == "")
    broken = _matches(values, _LINE_BREAK)
    file.flag_values(empty, column, "no value", value=False)
    file.flag_values(np.asarray(inner != values) & ~empty & ~broken, column, "blanks around an id")
    _note_rounded(file, column)
    if spellings := spelled_differently(values, plain_id(values)):
        apart = "blanks, leading zeros or a decimal point alone tell them apart"
        file.notes.append(f"column {column}: {spellings}; {apart}")


def _note_rounded(file: LogFile, column: str) -> None:
    codes, values = file.coded(column)
    if rounded := rounded_by_spreadsheet(values, np.bincount(codes, minlength=len(values))):
        file.notes.append(
            f"column {column}: ids such as {quoted(rounded)} look as a spreadsheet writes long numbers, which it rounds; "
            "export the column as text"
        )


def _check_tasks(events: LogFile) -> None:
    """Check task and query against each other; fill in the columns that may be missing."""
    for column in ("query", "session", "event"):
        if column in events:
            _note_rounded(events, column)
            events.replace_values(column, np.asarray(_trimmed(events.coded(column)[1]) == ""), "")
        else:
            events.add_constant(column, "")
    codes, values = events.coded("query")
    has_query = np.asarray(values != "")[codes]
    if "task" not in events:
        events.table["task"] = pd.Series(np.where(has_query, "search", "rec"), dtype="str")
    task_codes, tasks = events.coded("task")
    events.flag_values(~tasks.isin(TASKS), "task", "unknown task (rec or search)")
    search, rec = (np.asarray(tasks == task)[task_codes] for task in ("search", "rec"))
    events.flag(search & ~has_query, "query", "a search event without a query", value=False)
    events.flag(rec & has_query, "query", "a rec event with a query")


def _check_known(events: LogFile, file: LogFile, key: str) -> None:
    """Report ids of events that the file of their entities does not hold, with what they seem to mean."""
    _, values = events.coded(key)
    known = file.coded(key)[1]
    unknown = (values != "") & ~values.isin(known)
    if not unknown.any():
        return
    hint = meant_by(values[unknown], known)
    events.flag_values(unknown, key, f"unknown {key}, not in {file.name}{hint}")
    _report_swallowed(file, key, values[unknown])


def _report_swallowed(file: LogFile, key: str, unknown: pd.Index) -> None:
    """Report a text over several lines that holds the row of an id which is missing: its quote is not closed."""
    wanted = set(unknown)
    texts = pa.array(file.table["text"] if "text" in file else [], pa.string())
    for row in np.flatnonzero(np.asarray(pc.match_substring_regex(texts, _LINE_BREAK))):
        lines = texts[int(row)].as_py().splitlines()[1:]
        parts = [part.strip(' "') for line in lines for part in line.split(",")]
        swallowed = next((part for part in parts if part in wanted), None)
        if swallowed is not None:
            what = f"a quote that opens here is not closed, the text goes on into the row of {key} {quoted(swallowed)}"
            file.problems.append(Problem(file.name, what, "text", int(file.rows[row])))
            return


def _matches(values: pd.Index, pattern: str) -> np.ndarray:
    return np.asarray(pc.match_substring_regex(_array(values), pattern))


def _trimmed(values: pd.Index) -> pd.Index:
    return pd.Index(pc.utf8_trim_whitespace(_array(values)).to_pandas())


def _array(values: pd.Index) -> pa.Array:
    return pa.array(values.to_numpy(dtype=object), pa.string())
