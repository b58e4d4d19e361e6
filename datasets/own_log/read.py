"""One file of an own log, CSV or Parquet, read so that everything that is wrong with it can be said at once."""

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
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from bench.datasets.own_log.columns import REQUIRED, SEPARATORS, Kind, kind_of
from bench.datasets.own_log.formats import SNIFFED_BYTES, wrong_bytes, wrong_separator
from bench.datasets.own_log.problem import Problem
from bench.datasets.own_log.quotes import find_open_quote

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _Unreadable(ValueError):
    """The file cannot be read as a table; the text says why and what to do."""

    def __init__(self, what: str, row: int | None = None, value: str | None = None):
        super().__init__(what)
        self.row, self.value = row, value


@dataclass
class LogFile:
    """The columns of one file that are used, and what is wrong with them.

    Attributes:
        name: of the file.
        table: (n rows) the columns that are used: text, or lists of text. Nothing is missing: "" stands for no value.
        rows: (n,) int64, number of each row as a person counts: in a CSV the header is row 1 (a value with line breaks
            is still in one row), in Parquet the first row is row 1.
        problems: what must be mended.
        notes: what is worth knowing and stops nothing.
        unused: names of columns that are not used.
    """

    name: str
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    _coded: dict[str, tuple[np.ndarray, pd.Index]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, column: str) -> bool:
        return column in self.table

    def coded(self, column: str) -> tuple[np.ndarray, pd.Index]:
        """Codes (n,) and distinct values (d,) of a column of text, in the order in which they appear."""
        if column not in self._coded:
            codes, values = pd.factorize(self.table[column])
            self._coded[column] = codes, pd.Index(values, dtype=self.table[column].dtype)
        return self._coded[column]

    def add_constant(self, column: str, value: str) -> None:
        """Give all rows one value in a column that the file does not have."""
        self.table[column] = pd.Series(value, index=self.table.index, dtype="str")
        self._coded[column] = np.zeros(len(self), dtype=np.int64), pd.Index([value], dtype=self.table[column].dtype)

    def replace_values(self, column: str, chosen: np.ndarray, value: str) -> None:
        """Put `value` in place of the distinct values (d,) of `coded` that are chosen."""
        codes, values = self.coded(column)
        if (chosen & np.asarray(values != value)).any():
            self.table[column] = self.table[column].where(~chosen[codes], value)
            del self._coded[column]

    def flag(self, bad: np.ndarray, column: str, what: str, value: bool = True) -> None:
        """Report the rows where `bad` (n,) is True as one problem, with the first row's value."""
        if bad.any():
            first = int(bad.argmax())
            shown = str(self.table[column].iloc[first]) if value else None
            self.problems.append(Problem(self.name, what, column, int(self.rows[first]), shown, int(bad.sum())))

    def flag_values(self, bad: np.ndarray, column: str, what: str, value: bool = True) -> None:
        """As `flag`, for the distinct values (d,) of `coded`."""
        bad = np.asarray(bad, dtype=bool)
        if bad.any():
            self.flag(bad[self.coded(column)[0]], column, what, value)


def read_file(path: Path, file: str) -> LogFile:
    """Read `path` as one of the files ("events", "items", ...).

    What the file contains raises nothing: it becomes problems of the returned `LogFile`.
    """
    log_file = LogFile(path.name)
    try:
        raw = _parquet(path, log_file) if path.suffix == ".parquet" else _csv(path, file, log_file)
    except _Unreadable as error:
        log_file.problems.append(Problem(path.name, str(error), row=error.row, value=error.value))
        return log_file
    except (EOFError, zlib.error):
        log_file.problems.append(Problem(path.name, "truncated gzip file; copy it again"))
        return log_file
    except (ValueError, OSError, pa.ArrowException) as error:
        what = " ".join(str(error).split())[:200]
        log_file.problems.append(Problem(path.name, f"not readable ({what})"))
        return log_file
    names = [name.strip() for name in raw.column_names]
    for name in sorted({name for name in names if names.count(name) > 1}):
        log_file.problems.append(Problem(path.name, "the column is there twice", name))
    log_file.unused = [name for name in names if kind_of(file, name) is None]
    for name in REQUIRED[file]:
        if name not in names:
            log_file.problems.append(Problem(path.name, _missing(name, names, log_file.unused), name))
    if not raw.num_rows:
        log_file.problems.append(Problem(path.name, "the file has no rows"))
    columns = {}
    for name in dict.fromkeys(names):
        kind = kind_of(file, name)
        if kind is None:
            continue
        try:
            columns[name] = _column(raw.column(names.index(name)), kind)
        except _Unreadable as error:
            log_file.problems.append(Problem(path.name, str(error), name))
    log_file.table = pd.DataFrame(columns, index=pd.RangeIndex(raw.num_rows))
    return log_file


def _missing(name: str, names: list[str], unused: list[str]) -> str:
    near = difflib.get_close_matches(name, unused, n=1, cutoff=0.4)
    near = near or [other for other in unused if name in other.lower()][:1]
    guess = f" (is it '{near[0]}'? rename it)" if near else ""
    return f"the column is missing{guess}; there are {', '.join(names)}"[:300]


def _csv(path: Path, file: str, log_file: LogFile) -> pa.Table:
    """All columns as text; rows with a wrong number of values are reported and left out."""
    content = _content(path)
    if not content.strip():
        raise _Unreadable("the file is empty")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        lines = [number for number, line in enumerate(content.split(b"\n"), 1) if _replaced(line) != line]
        log_file.problems.append(
            Problem(path.name, "the text is not UTF-8; convert the file", row=lines[0], count=len(lines))
        )
        content = _replaced(content)
    content = content.removeprefix(_BYTE_ORDER_MARK)
    header = content[: content.find(b"\n")] if b"\n" in content else content
    if advice := wrong_separator(header.decode().rstrip("\r"), file, path.name):
        raise _Unreadable(advice)
    if quote := find_open_quote(content):
        raise _Unreadable("a quote that opens here is not closed", quote.row, quote.text)
    skipped: list[tuple[int, int]] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        skipped.append((row.number, row.actual_columns))
        return "skip"

    names = next(csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")), [])
    table = pa.csv.read_csv(
        io.BytesIO(content if content.endswith(b"\n") else content + b"\n"),
        # One thread, so that the numbers of rows are right.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 26),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=skip),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=False
        ),
    )
    if skipped:
        what = f"expected {table.num_columns} values, found {skipped[0][1]}"
        log_file.problems.append(Problem(path.name, what, row=skipped[0][0], count=len(skipped)))
    numbers = np.arange(2, table.num_rows + len(skipped) + 2)
    numbers = np.delete(numbers, [number - 2 for number, _ in skipped])
    blank = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        blank &= np.asarray(pc.equal(column, ""))
    log_file.rows = numbers[~blank]
    return table.filter(pa.array(~blank)) if blank.any() else table


def _content(path: Path) -> bytes:
    """The bytes of a CSV file, unpacked.

    Raises:
        _Unreadable: the bytes are of another format.
    """
    content = path.read_bytes()
    if not content:
        raise _Unreadable("the file is empty (0 bytes)")
    if advice := wrong_bytes(path.name, content[:SNIFFED_BYTES]):
        raise _Unreadable(advice)
    if path.suffix == ".gz":
        content = gzip.decompress(content)
        if advice := wrong_bytes(path.name.removesuffix(".gz"), content[:SNIFFED_BYTES]):
            raise _Unreadable(f"unpacked, {advice}")
    return content


def _replaced(text: bytes) -> bytes:
    return text.decode("utf-8", errors="replace").encode()


def _parquet(path: Path, log_file: LogFile) -> pa.Table:
    with path.open("rb") as stream:
        head = stream.read(SNIFFED_BYTES)
    if not head:
        raise _Unreadable("the file is empty (0 bytes)")
    if advice := wrong_bytes(path.name, head):
        raise _Unreadable(advice)
    table = pq.read_table(path)
    log_file.rows = np.arange(1, table.num_rows + 1)
    return table


def _column(column: pa.ChunkedArray, kind: Kind) -> pd.Series:
    """A column as text, or as lists of text.

    Raises:
        _Unreadable: the column's type cannot be used; the text says which types can.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    is_text = any(test(column.type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    if kind == "time":
        return _text(_times(column, is_text))
    if kind in SEPARATORS:
        return _lists(column, is_text, SEPARATORS[kind])
    whole = pa.types.is_integer(column.type) or (pa.types.is_boolean(column.type) and kind == "feature")
    if not (is_text or whole or pa.types.is_null(column.type)):
        floats = " (whole numbers become floats in pandas where a value is missing)"
        hint = floats if pa.types.is_floating(column.type) else ""
        raise _Unreadable(f"wrong type {column.type}; needed is text or whole numbers{hint}")
    return _text(column)


def _text(column: pa.ChunkedArray) -> pd.Series:
    return pd.Series(column.cast(pa.string()).fill_null("").to_pandas(), dtype="str")


def _lists(column: pa.ChunkedArray, is_text: bool, separator: str | None) -> pd.Series:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return pd.Series([[str(entry) for entry in entries or ()] for entries in column.to_pylist()], dtype=object)
    if not is_text:
        raise _Unreadable(f"wrong type {column.type}; needed are lists of text, or text")
    parts = (value.split(separator) for value in column.fill_null("").to_pylist())
    return pd.Series([[part.strip() for part in entry if part.strip()] for entry in parts], dtype=object)


def _times(column: pa.ChunkedArray, is_text: bool) -> pa.ChunkedArray:
    """Times as text of milliseconds; what is missing stays missing."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_floating(column.type):
        values = column.to_numpy().astype(np.float64)  # NaN is a missing time
        whole = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
        texts = np.char.mod("%.3f", values)
        texts[whole] = values[whole].astype(np.int64).astype(str)
        return pa.chunked_array([pa.array(texts, pa.string(), mask=np.isnan(values))])
    if is_text or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column
    raise _Unreadable(
        f"wrong type {column.type}; times are whole numbers of milliseconds since 1970 (UTC) or timestamps"
    )
