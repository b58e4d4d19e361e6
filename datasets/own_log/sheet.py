"""One file of a user's own log, CSV or Parquet, read so that everything that is wrong with it can be said at once."""

import csv
import difflib
import gzip
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

FORMS = (".csv", ".csv.gz", ".parquet")
FEATURE = "feature:"
# What a column holds: an id or a text is text in the end, a list is text apart from Parquet's own lists.
ID, TEXT, TIME, WORDS, CATEGORIES = "id", "text", "time", "words", "categories"
SEPARATORS = {WORDS: None, CATEGORIES: "|"}
# For each file its columns and what they hold; those in REQUIRED must be there.
COLUMNS = {
    "events": {"user": ID, "item": ID, "time": TIME, "task": TEXT, "query": TEXT, "session": TEXT, "event": TEXT},
    "items": {"item": ID, "text": TEXT, "words": WORDS, "categories": CATEGORIES},
    "queries": {"query": ID, "text": TEXT, "words": WORDS},
    "users": {"user": ID},
}
REQUIRED = {"events": ("user", "item", "time"), "items": ("item",), "queries": ("query",), "users": ("user",)}


@dataclass(frozen=True)
class Problem:
    """Something that must be mended: where it is first (`row` counts as `Sheet.rows` does), and how often it occurs."""

    file: str
    what: str
    column: str = ""
    row: int | None = None
    value: str | None = None
    count: int = 1

    def __str__(self) -> str:
        place = self.file + (f", row {self.row}" if self.row is not None else "")
        place += f", column {self.column}" if self.column else ""
        value = f": '{self.value[:60]}'" if self.value is not None else ""
        more = f" ({self.count:,} such rows)" if self.count > 1 else ""
        return f"{place}: {self.what}{value}{more}"


@dataclass
class Sheet:
    """The known columns of a file, and what was wrong with it.

    `rows` (n,) numbers of the rows as a person counts them: in a CSV the header is row 1 (a value with line breaks is
    still one row), in Parquet the first row is row 1.
    """

    name: str
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def flag(self, bad: np.ndarray | pd.Series, column: str, what: str, value: bool = True) -> np.ndarray:
        """Report the rows where `bad` (n,) is True as one problem, with the first row's value; returns `bad`."""
        bad = np.asarray(bad, dtype=bool)
        if bad.any():
            first = int(bad.argmax())
            shown = str(self.table[column].iloc[first]) if value else None
            self.problems.append(Problem(self.name, what, column, int(self.rows[first]), shown, int(bad.sum())))
        return bad


def read_sheet(path: Path, kind: str) -> Sheet:
    """Read `path` as the file `kind` ("events", ...); never raises for what the file contains."""
    sheet = Sheet(path.name)
    try:
        if path.stat().st_size == 0:
            raise ValueError("the file is empty (0 bytes)")
        raw = _parquet(path, sheet) if path.suffix == ".parquet" else _csv(path, sheet)
    except (ValueError, OSError, EOFError, zlib.error, pa.ArrowException) as error:
        what = "truncated gzip file; copy it again" if isinstance(error, EOFError) else " ".join(str(error).split())
        sheet.problems.append(
            Problem(path.name, what if isinstance(error, (ValueError, EOFError)) else f"not readable ({what})")
        )
        return sheet
    known = COLUMNS[kind]
    featured = kind in ("items", "users")
    names = [name.strip() for name in raw.column_names]
    for name in sorted({name for name in names if names.count(name) > 1}):
        sheet.problems.append(Problem(path.name, "the column is there twice", name))
    raw = raw.rename_columns(names)
    sheet.unused = [name for name in names if name not in known and not (featured and name.startswith(FEATURE))]
    for name in REQUIRED[kind]:
        if name not in names:
            near = difflib.get_close_matches(name, sheet.unused, n=1, cutoff=0.4)
            near = near or [other for other in sheet.unused if name in other.lower()][:1]
            guess = f" (is it '{near[0]}'? rename it)" if near else ""
            sheet.problems.append(
                Problem(path.name, f"the column is missing{guess}; there are {', '.join(names)}", name)
            )
    if not raw.num_rows:
        sheet.problems.append(Problem(path.name, "the file has no rows"))
    columns = {}
    for name in dict.fromkeys(names):
        if name in sheet.unused:
            continue
        column = _column(raw.column(names.index(name)), known.get(name, TEXT))
        if isinstance(column, str):
            sheet.problems.append(Problem(path.name, column, name))
        else:
            columns[name] = column
    sheet.table = pd.DataFrame(columns, index=pd.RangeIndex(raw.num_rows))
    return sheet


def _csv(path: Path, sheet: Sheet) -> pa.Table:
    """All columns as text; rows with a wrong number of values are reported and left out."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        lines = [number for number, line in enumerate(content.split(b"\n"), 1) if _replaced(line) != line]
        sheet.problems.append(
            Problem(path.name, "the text is not UTF-8; convert the file", row=lines[0], count=len(lines))
        )
        content = _replaced(content)
    if not content.strip():
        raise ValueError("the file is empty")
    skipped: list[tuple[int, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        skipped.append((row.number, row.actual_columns))
        return "skip"

    names = next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), [])
    table = pa.csv.read_csv(
        io.BytesIO(content if content.endswith(b"\n") else content + b"\n"),
        # One thread, so that the numbers of rows are right.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 26),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    if skipped:
        what = f"expected {table.num_columns} values, found {skipped[0][1]}"
        sheet.problems.append(Problem(path.name, what, row=skipped[0][0], count=len(skipped)))
    numbers = np.setdiff1d(np.arange(2, table.num_rows + len(skipped) + 2), [number for number, _ in skipped])
    blank = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        blank &= np.asarray(pa.compute.equal(column, ""))
    sheet.rows = numbers[~blank]
    return table.filter(pa.array(~blank))


def _replaced(text: bytes) -> bytes:
    return text.decode("utf-8", errors="replace").encode()


def _parquet(path: Path, sheet: Sheet) -> pa.Table:
    table = pq.read_table(path)
    sheet.rows = np.arange(1, table.num_rows + 1)
    return table


def _column(column: pa.ChunkedArray, holds: str) -> pd.Series | str:
    """A column as text, int64 or lists of text; or a sentence on why its type is wrong."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if holds == TIME:
        if pa.types.is_timestamp(kind):
            return pd.Series(column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64()).to_pandas())
        if pa.types.is_integer(kind) or text:
            return pd.Series(column.cast(pa.string()).fill_null("").to_pandas())
        return f"wrong type {kind}; times are whole numbers of milliseconds since 1970 (UTC) or timestamps"
    if holds in SEPARATORS:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return pd.Series([[str(entry) for entry in entries or ()] for entries in column.to_pylist()], dtype=object)
        if not text:
            return f"wrong type {kind}; needed are lists of text, or text"
        parts = (value.split(SEPARATORS[holds]) for value in column.fill_null("").to_pylist())
        return pd.Series([[part.strip() for part in entry if part.strip()] for entry in parts], dtype=object)
    if (
        not text
        and not pa.types.is_integer(kind)
        and not (pa.types.is_boolean(kind) and holds == TEXT)
        and not pa.types.is_null(kind)
    ):
        return f"wrong type {kind}; needed is text or whole numbers"
    return pd.Series(column.cast(pa.string()).fill_null("").to_pandas())
