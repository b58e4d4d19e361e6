"""What is wrong with a folder of own logs: all of it in one pass, by file, row and column."""

import difflib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.log import TASKS
from bench.datasets.own_log.sheet import COLUMNS, FEATURE, FORMS, REQUIRED, Problem, Sheet, read_sheet

DAY_MS = 86_400_000
# Times below are before March 1973 if they are milliseconds (and any time since 1970 if they are seconds); times above
# lie after the year 5138 (and are any time since 1973 if they are microseconds).
_EARLIEST, _LATEST = 100_000_000_000, 100_000_000_000_000


@dataclass
class Inspection:
    """A folder's sheets by kind, its problems (nothing is built while there are any) and notes that stop nothing."""

    folder: Path
    sheets: dict[str, Sheet]
    problems: list[Problem]
    notes: list[str]

    def summary(self) -> str:
        events = self.sheets["events"].table
        tasks = events["task"].value_counts()
        parts = [f"{int(tasks.get(task, 0)):,} {task} events" for task in TASKS]
        return f"{', '.join(parts)}, {events['user'].nunique():,} users, {events['item'].nunique():,} items"


def find_files(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The files of a folder by kind ("events", "items", "queries", "users"), and what is wrong with the choice."""
    files: dict[str, Path] = {}
    problems = []
    for kind in COLUMNS:
        found = [folder / f"{kind}{form}" for form in FORMS if (folder / f"{kind}{form}").is_file()]
        if len(found) > 1:
            problems.append(Problem(kind, f"there are {' and '.join(path.name for path in found)}; keep one of them"))
        if found:
            files[kind] = found[0]
    if "events" not in files:
        near = difflib.get_close_matches("events.csv", [path.name for path in folder.iterdir()], n=1)
        guess = f" (is it {near[0]}? rename it)" if near else ""
        problems.append(Problem("events", f"the folder has no events.csv, events.csv.gz or events.parquet{guess}"))
    return files, problems


def inspect(folder: Path, now: float | None = None) -> Inspection:
    """Read a folder and look at everything; `now` (seconds since 1970) tells what lies in the future."""
    files, problems = find_files(folder)
    sheets = {kind: read_sheet(path, kind) for kind, path in files.items()}
    for kind, sheet in sheets.items():
        for column in REQUIRED[kind]:
            if column != "time" and column in sheet.table:
                _ids(sheet, column)
        if kind != "events" and REQUIRED[kind][0] in sheet.table:
            _unique(sheet, REQUIRED[kind][0])
    events = sheets.get("events")
    if events is not None:
        _times(events, time.time() if now is None else now)
        _tasks(events)
        for kind, what in (("items", "item"), ("users", "user"), ("queries", "query")):
            other = sheets.get(kind)
            if other is not None and len(other) and what in other.table and what in events.table:
                unknown = (events.table[what] != "") & ~events.table[what].isin(other.table[what])
                events.flag(unknown, what, f"unknown {what}, not in {other.name}")
    problems += [problem for sheet in sheets.values() for problem in sheet.problems]
    notes = [f"{sheet.name}: not used: {', '.join(sheet.unused)}" for sheet in sheets.values() if sheet.unused]
    read = {path.name for path in files.values()}
    ignored = sorted(path.name for path in folder.iterdir() if path.name.endswith(FORMS) and path.name not in read)
    notes += [f"not read: {', '.join(ignored)}"] if ignored else []
    if not problems:
        notes += _notes(sheets)
    return Inspection(folder, sheets, problems, notes)


def _ids(sheet: Sheet, column: str) -> None:
    values = sheet.table[column].astype(str)
    sheet.flag(values.str.strip() == "", column, "no value", value=False)
    sheet.flag(
        values.str.contains("\n", regex=False), column, "a line break inside an id (a quote that is not closed?)"
    )
    sheet.flag((values != values.str.strip()) & (values.str.strip() != ""), column, "blanks around an id")
    sheet.flag(
        values.str.fullmatch(r"-?\d+(\.\d+)?[eE][+-]?\d+"),
        column,
        "an id in exponent notation: a spreadsheet has rounded it",
    )


def _unique(sheet: Sheet, column: str) -> None:
    sheet.flag(sheet.table[column].duplicated() & (sheet.table[column] != ""), column, "duplicate id")


def _times(sheet: Sheet, now: float) -> None:
    """Check the times and make them int64."""
    if "time" not in sheet.table:
        return
    texts = sheet.table["time"].astype(str)
    whole = texts.str.fullmatch(r"-?\d{1,18}").to_numpy(bool)
    sheet.flag(~whole, "time", "no whole number of milliseconds since 1970 (UTC)")
    times = pd.to_numeric(texts.where(whole, "0")).to_numpy(np.int64)
    sheet.flag(whole & (times < 0), "time", "negative time")
    sheet.flag(
        whole & (times >= 0) & (times < _EARLIEST), "time", "seconds instead of milliseconds? (multiply by 1000)"
    )
    future = whole & (times > now * 1000 + DAY_MS)
    sheet.flag(future & (times >= _LATEST), "time", "microseconds or nanoseconds instead of milliseconds?")
    sheet.flag(future & (times < _LATEST), "time", "a time in the future")
    sheet.table["time"] = times


def _tasks(sheet: Sheet) -> None:
    """Check task and query against each other; fill in the columns that may be missing."""
    table = sheet.table
    given = "task" in table
    for column in ("query", "session", "event"):
        if column not in table:
            table[column] = ""
    query = table["query"].str.strip()
    if not given:
        table["task"] = np.where(query != "", "search", "rec")
    known = ~sheet.flag(~table["task"].isin(TASKS), "task", "unknown task (rec or search)")
    sheet.flag(
        known & (table["task"] == "search") & (query == ""), "query", "a search event without a query", value=False
    )
    sheet.flag(known & (table["task"] == "rec") & (query != ""), "query", "a rec event with a query")


def _notes(sheets: dict[str, Sheet]) -> list[str]:
    """What is worth knowing of a folder without problems."""
    events = sheets["events"].table
    notes = []
    twice = int(events.duplicated().sum())
    if twice:
        notes.append(f"{twice:,} events are there more than once in all columns; each is used once")
    per_user = events.groupby(["user", "task"]).size()
    for task in TASKS:
        if (events["task"] == task).any():
            long = int((per_user[:, task] >= 3).sum())
            notes.append(f"{task}: {long:,} users have three events or more, as leave-one-out needs")
        else:
            notes.append(f"no {task} events; models of {task} cannot be compared on this log")
    ties = int(events.duplicated(["user", "time"], keep=False).sum())
    notes.append(f"{ties / len(events):.1%} of the events share user and time with another; a hash orders those")
    items = sheets.get("items")
    if items is None or not {"text", "words"} & set(items.table):
        notes.append("items have no text; models that read text see ids only")
    elif "text" in items.table:
        notes.append(f"{(items.table['text'] != '').mean():.1%} of the items have a text")
    features = [f"{kind}.{name}" for kind, sheet in sheets.items() for name in sheet.table if name.startswith(FEATURE)]
    return notes + ([f"features: {', '.join(features)}"] if features else [])
