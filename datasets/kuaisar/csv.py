"""KuaiSAR's CSV files as streams of Arrow batches: from a folder or the zip, columns by name, errors by place.

The release quotes fields that hold commas and line breaks, its documentation spells some columns differently, and some
copies write integers as `1684742000000.0`. All of that is read; what cannot be read stops with file, line and column.
"""

import csv
import io
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from bench.errors import RunError

_BLOCK = 16 << 20
_TYPES = {
    "integer": pa.int64(),
    "text": pa.string(),
    "label": pa.dictionary(pa.int32(), pa.string()),
    "clock": pa.timestamp("ms"),
}
_INTEGER = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d{1,18}\.0*")
# Milliseconds below this are 1973: a file in seconds. Above the second bound they are microseconds.
_SECONDS_BELOW, _MICROS_ABOVE = 10**11, 10**14
_DAY_MS = 86_400_000
_SHANGHAI_MS = 8 * 3_600_000


@dataclass(frozen=True)
class Column:
    """A column by all its spellings. `names` in order of preference; an optional column may be absent."""

    names: tuple[str, ...]
    kind: Literal["integer", "text", "label", "clock"] = "integer"  # label: text with few values; clock: readable time
    optional: bool = False


class Release:
    """The CSV files of one release: single files of a folder, or members of one zip."""

    def __init__(self, files: dict[str, Path]):
        self._files = files
        self._zip = next((path for path in files.values() if path.suffix == ".zip"), None)

    def path(self, name: str) -> str:
        """How messages name a file."""
        return f"{self._zip}:{name}" if self._zip else str(self._files[name])

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self._zip is None:
            return name in self._files
        with self._archive() as archive:
            return any(member.rpartition("/")[2] == name for member in archive.namelist())

    def _archive(self) -> zipfile.ZipFile:
        try:
            archive = zipfile.ZipFile(self._zip)  # type: ignore[arg-type]
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise RunError(f"{self._zip} is not a complete zip ({error}); download it again") from None
        # Nothing is unpacked here, so such a member could do no harm; but this is not what the publisher made.
        for name in archive.namelist():
            parts = name.replace("\\", "/").split("/")
            if ".." in parts or not parts[0] or parts[0].endswith(":"):
                raise RunError(f"{self._zip} holds '{name}', a path outside of it; download it again")
        return archive

    def open(self, name: str) -> IO[bytes]:
        """The bytes of a file, unpacked on the way."""
        if self._zip is None:
            return self._files[name].open("rb")
        try:
            archive = self._archive()
            members = [
                info
                for info in archive.infolist()
                if info.filename.rpartition("/")[2] == name and "__MACOSX" not in info.filename
            ]
            if len(members) != 1:
                raise RunError(f"{self._zip} holds {len(members)} files called {name}, expected one; download it again")
            if members[0].flag_bits & 1:
                raise RunError(
                    f"{self._zip} is encrypted ({name} asks for a password), which the published archive is not; "
                    "download it again, or unpack it yourself and put the folder there"
                )
            return archive.open(members[0])
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise RunError(f"{self._zip} is not a complete zip ({error}); download it again") from None

    def batches(self, name: str, columns: dict[str, Column]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first record from 0, batch) with the columns under the caller's names.

        Integers are int64, labels dictionaries, clocks timestamp[ms] without a zone. Absent optional columns are left
        out.

        Raises:
            RunError: with file, line and column, for everything that cannot be read as declared.
        """
        header, first = self._head(name)
        found = self._find(name, header, columns)
        # Integers that are written as 123.0 are read as text and converted; exponents (1.68e+12) have lost digits.
        converted = {
            spelling: pa.string()
            if columns[key].kind == "integer" and "." in first[header.index(spelling)]
            else _TYPES[columns[key].kind]
            for key, spelling in found.items()
        }
        record = 0
        try:
            with self.open(name) as stream:
                reader = arrow_csv.open_csv(
                    stream,
                    read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
                    parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                    convert_options=arrow_csv.ConvertOptions(
                        include_columns=list(converted),
                        column_types=converted,
                        null_values=[""],
                        strings_can_be_null=False,
                    ),
                )
                for batch in reader:
                    arrays = [
                        self._integers(name, record, key, found[key], column)
                        if columns[key].kind == "integer"
                        else column
                        for key, column in zip(found, batch.columns, strict=True)
                    ]
                    yield record, pa.RecordBatch.from_arrays(arrays, list(found))
                    record += len(batch)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            self._diagnose(name, header, {found[key]: columns[key] for key in found})
            raise RunError(f"{self.path(name)}: {error}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise RunError(f"{self.path(name)} cannot be read to its end ({error}); download it again") from None

    def fail(self, name: str, record: int, column: str, message: str) -> NoReturn:
        """Stop with the line of a record."""
        for number, (line, _) in enumerate(self._records(name)):
            if number == record + 1:
                raise RunError(f"{self.path(name)}, line {line}, column {column}: {message}")
        raise RunError(f"{self.path(name)}, record {record + 1}, column {column}: {message}")

    def check_times(self, name: str, record: int, column: str, times: np.ndarray, clock: pa.Array | None) -> None:
        """Times are milliseconds since 1970, not after tomorrow, and agree with the Beijing time beside them."""
        now = int(time.time() * 1000) + _DAY_MS
        bad = np.flatnonzero((times < _SECONDS_BELOW) | (times > now))
        if len(bad):
            value = int(times[bad[0]])
            if value < 0:
                message = f"{value} is a negative time"
            elif value < _SECONDS_BELOW:
                message = f"{value} looks like seconds, milliseconds since 1970 are expected"
            elif value > _MICROS_ABOVE:
                message = f"{value} looks like microseconds, milliseconds since 1970 are expected"
            else:
                message = f"{value} lies in the future"
            self.fail(name, record + int(bad[0]), column, message)
        if clock is None:
            return
        if clock.null_count:
            self.fail(name, record + _first_null(clock), "time", "is empty")
        shown = clock.cast(pa.int64()).to_numpy()
        local = times + _SHANGHAI_MS
        # Some copies show the date alone.
        same = (np.abs(shown - local) < 1000) | ((shown % _DAY_MS == 0) & (shown == local // _DAY_MS * _DAY_MS))
        if not same.all():
            row = int(np.argmin(same))
            self.fail(
                name,
                record + row,
                column,
                f"{int(times[row])} is {_shown(local[row])} in Beijing, but the row says {_shown(shown[row])} "
                "(check_time=false reads the timestamp alone)",
            )

    def _head(self, name: str) -> tuple[list[str], list[str]]:
        """Header and first record."""
        try:
            records = self._records(name)
            header = next(records, (0, []))[1]
            first = next(records, (0, []))[1]
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise RunError(f"{self.path(name)} cannot be read ({error}); download it again") from None
        if not header:
            raise RunError(f"{self.path(name)} is empty")
        if not first:
            raise RunError(f"{self.path(name)} has a header and no rows")
        if len(first) != len(header):
            raise RunError(f"{self.path(name)}, line 2: {len(first)} fields, the header has {len(header)}")
        return header, first

    def _find(self, name: str, header: list[str], columns: dict[str, Column]) -> dict[str, str]:
        positions = {}
        for key, column in columns.items():
            spelling = next((spelling for spelling in column.names if spelling in header), None)
            if spelling is not None:
                positions[key] = spelling
            elif not column.optional:
                wanted = " or ".join(column.names)
                raise RunError(f"{self.path(name)}, line 1: no column {wanted}; it has {', '.join(header)}")
        return positions

    def _integers(self, name: str, record: int, key: str, spelling: str, column: pa.Array) -> pa.Array:
        if pa.types.is_string(column.type):
            whole = pc.match_substring_regex(column, r"^-?\d{1,15}(\.0*)?$")
            if not pc.all(whole).as_py():
                row = int(np.argmin(whole.to_numpy(zero_copy_only=False)))
                self.fail(name, record + row, spelling, _not_integer(column[row].as_py()))
            # Exact: integers of up to 15 digits are whole numbers of a double.
            return column.cast(pa.float64()).cast(pa.int64())
        if column.null_count:
            self.fail(name, record + _first_null(column), spelling, "is empty")
        return column

    def _records(self, name: str) -> Iterator[tuple[int, list[str]]]:
        """(first line, fields) of every record, slowly; for headers and for messages."""
        limit = csv.field_size_limit(sys.maxsize)
        try:
            with self.open(name) as stream:
                text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
                reader = csv.reader(text, strict=True)
                line = 1
                while True:
                    try:
                        fields = next(reader)
                    except StopIteration:
                        return
                    except csv.Error as error:
                        raise RunError(f"{self.path(name)}, line {line}: not valid CSV ({error})") from None
                    if fields:
                        yield line, fields
                    line = reader.line_num + 1
        finally:
            csv.field_size_limit(limit)

    def _diagnose(self, name: str, header: list[str], columns: dict[str, Column]) -> None:
        """Find the first cell that is not what its column says."""
        checked = [(header.index(spelling), spelling, column.kind) for spelling, column in columns.items()]
        for line, fields in self._records(name):
            if line == 1:
                continue
            where = f"{self.path(name)}, line {line}"
            if len(fields) != len(header):
                raise RunError(f"{where}: {len(fields)} fields, the header has {len(header)}")
            for place, spelling, kind in checked:
                cell = fields[place]
                if kind == "integer" and not _INTEGER.fullmatch(cell):
                    raise RunError(f"{where}, column {spelling}: {_not_integer(cell)}")
                if kind == "clock" and not _is_clock(cell):
                    raise RunError(f"{where}, column {spelling}: '{cell[:40]}' is not a time like 2023-05-22 15:53:20")
            for place, cell in enumerate(fields):
                if re.search("[\udc80-\udcff]", cell):
                    raise RunError(f"{where}, column {header[place]}: is not UTF-8 text")


def word_ids(texts: pa.Array) -> tuple[pa.LargeListArray, np.ndarray]:
    """Lists of token ids that are written as text: `[20, 34, 3]`, also with blanks or line breaks between them.

    Returns (lists of int64, which texts are no such list). An empty text is an empty list.
    """
    good = pc.match_substring_regex(texts, r"^\s*\[?\s*(\d{1,18}([\s,]+\d{1,18})*)?\s*,?\s*\]?\s*$")
    bad = ~good.to_numpy(zero_copy_only=False)
    if bad.any():
        texts = pc.if_else(pa.array(bad), "", texts)
    plain = pc.utf8_trim(pc.replace_substring_regex(texts, r"[\[\]\s,]+", " "), " ")
    empty = pc.equal(plain, "").to_numpy(zero_copy_only=False)
    parts = pc.split_pattern(plain, " ")
    lengths = np.where(empty, 0, pc.list_value_length(parts).to_numpy(zero_copy_only=False)).astype(np.int64)
    values = pc.filter(parts.flatten(), pc.not_equal(parts.flatten(), "")).cast(pa.int64())
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)])), values), bad


def _first_null(column: pa.Array) -> int:
    return int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))


def _not_integer(cell: str) -> str:
    if re.fullmatch(r"-?\d+(\.\d+)?[eE][+-]?\d+", cell):
        return f"'{cell}' is written with an exponent, which loses digits; export the file with whole numbers"
    if _DECIMAL.fullmatch(cell):
        return f"'{cell}' has a decimal point, the rows before it have none"
    return f"'{cell[:40]}' is not an integer" if cell else "is empty"


def _is_clock(cell: str) -> bool:
    try:
        pa.scalar(cell).cast(pa.timestamp("ms"))
    except pa.ArrowInvalid:
        return False
    return True


def _shown(local_ms: int) -> str:
    return str(np.datetime64(int(local_ms), "ms")).replace("T", " ")
