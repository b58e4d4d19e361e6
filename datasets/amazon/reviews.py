"""Amazon reviews in their three public forms, as streams of Arrow batches.

2014 (`reviews_<Category>_5.json`) and 2018 (`<Category>_5.json`) are JSON lines, `kindle_reviews.csv` is the dump on
Kaggle. All of them name a purchase by reviewerID, asin and unixReviewTime, in seconds and always at midnight UTC.
"""

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from bench.datasets.amazon.files import DAMAGE, damaged, open_bytes, stream_lines
from bench.errors import RunError

KEYS = {"reviewerID": pa.string(), "asin": pa.string(), "unixReviewTime": pa.int64()}
TEXTS = {"summary": pa.string(), "reviewText": pa.string()}
# Longest line that is read: far above any review.
_BLOCK = 16 << 20
# In seconds this is the year 5138; as milliseconds it would be 1973, before there were reviews.
_MILLISECONDS_FROM = 10**11


@dataclass(frozen=True)
class Reviews:
    """One reviews file."""

    path: Path

    @property
    def is_csv(self) -> bool:
        """Whether it is Kaggle's dump; else it has one JSON record per line."""
        return ".csv" in self.path.suffixes

    def purchases(self) -> pd.DataFrame:
        """Every row: `user`, `item` (original ids, categorical), `time` (int64 ms UTC), in the order of the file.

        Raises:
            RunError: a row cannot be read, has no id, or a time that is negative, in the future or not in seconds.
        """
        batches = [batch.select(list(KEYS)) for batch in self.batches(texts=False)]
        if not sum(len(batch) for batch in batches):
            raise RunError(f"{self.path} holds no reviews")
        table = pa.Table.from_batches(batches)
        seconds = table["unixReviewTime"].to_numpy()
        bad = np.flatnonzero((seconds < 0) | (seconds > time.time() + 86_400))
        if len(bad):
            value = int(seconds[bad[0]])
            what = "is negative" if value < 0 else "lies in the future"
            if value >= _MILLISECONDS_FROM:
                what = "looks like milliseconds, seconds are expected"
            self._fail(int(bad[0]), "unixReviewTime", f"{value} {what}")
        user, item = (table[name].combine_chunks().dictionary_encode() for name in ("reviewerID", "asin"))
        return pd.DataFrame({"user": user.to_pandas(), "item": item.to_pandas(), "time": seconds * 1000})

    def texts(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """Summary and text of chosen rows, a piece of the file at a time.

        Args:
            wanted: (rows of the file,) bool.

        Yields:
            (n,) numbers of rows, (n,) string array "summary text".
        """
        low = 0
        for batch in self.batches(texts=True):
            inside = wanted[low : low + len(batch)]
            rows = np.flatnonzero(inside)
            if len(rows):
                chosen = batch.filter(pa.array(inside))
                parts = [chosen.column(name) for name in TEXTS]
                joined = pc.binary_join_element_wise(*parts, " ", null_handling="replace", null_replacement="")
                yield rows + low, joined
            low += len(batch)

    def batches(self, texts: bool) -> Iterator[pa.RecordBatch]:
        """Batches with the columns of KEYS, and of TEXTS if asked for; checked, in the order of the file."""
        types = KEYS | (TEXTS if texts else {})
        try:
            with open_bytes(self.path) as stream:
                reader = self._csv(stream, types) if self.is_csv else self._json(stream, types)
                for batch in reader:
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        column.validate(full=True)  # Arrow reads bytes that are not UTF-8 without a word
                        if name in KEYS and (
                            column.null_count or (name != "unixReviewTime" and pc.any(pc.equal(column, "")).as_py())
                        ):
                            self._diagnose()
                    yield batch
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
            self._diagnose(str(error))
        except DAMAGE as error:
            raise damaged(self.path, error) from None

    def _json(self, stream: Any, types: dict[str, pa.DataType]) -> Any:
        return arrow_json.open_json(
            stream,
            read_options=arrow_json.ReadOptions(block_size=_BLOCK),
            parse_options=arrow_json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore"),
        )

    def _csv(self, stream: Any, types: dict[str, pa.DataType]) -> Any:
        return arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(types), column_types=types, null_values=[""], strings_can_be_null=False
            ),
        )

    def _fail(self, row: int, column: str, message: str) -> NoReturn:
        for number, (line, _) in enumerate(self._records()):
            if number == row:
                raise RunError(f"{self.path}, line {line}, column {column}: {message}")
        raise RunError(f"{self.path}, row {row + 1}, column {column}: {message}")

    def _diagnose(self, message: str = "a row cannot be read") -> NoReturn:
        """Read the file again, slowly, to name the line that the fast reader did not accept."""
        any_row = False
        for line, record in self._records():
            any_row = True
            for name, kind in KEYS.items():
                value = record.get(name)
                where = f"{self.path}, line {line}, column {name}"
                if value is None or value == "":
                    raise RunError(f"{where}: missing; a review needs {', '.join(KEYS)}")
                if kind == pa.int64():
                    if not str(value).strip().lstrip("-").isdecimal() or (isinstance(value, str) and not self.is_csv):
                        raise RunError(f"{where}: {value!r} is no whole number of seconds")
                elif not isinstance(value, str):
                    raise RunError(f"{where}: {value!r} is no text")
        if not any_row:
            raise RunError(f"{self.path} is empty; it should hold reviews")
        raise RunError(f"{self.path}: {' '.join(message.split())}")

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, record) by the standard library: for messages only."""
        if not self.is_csv:
            for number, text in stream_lines(self.path):
                try:
                    record = json.loads(text)
                except ValueError as error:
                    raise RunError(f"{self.path}, line {number}: not JSON ({error})") from None
                if not isinstance(record, dict):
                    raise RunError(f"{self.path}, line {number}: not a JSON object")
                yield number, record
            return
        for _ in stream_lines(self.path):
            pass  # names a line that is not UTF-8
        with open_bytes(self.path) as stream:
            reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
            header = next(reader, [])
            missing = [name for name in KEYS if name not in header]
            if missing:
                raise RunError(
                    f"{self.path}, line 1: no column {missing[0]}; the columns are {', '.join(header) or 'none'}"
                )
            last = reader.line_num
            for values in reader:
                line, last = last + 1, reader.line_num
                if values and len(values) != len(header):
                    raise RunError(f"{self.path}, line {line}: {len(values)} fields, the header has {len(header)}")
                if values:
                    yield line, dict(zip(header, values, strict=True))
