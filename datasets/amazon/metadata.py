"""Amazon product metadata: 2014 (Python literals, nested `categories`) and 2018 (JSON, one flat `category` list).

Lines are read one by one in Python: the 2014 form needs a literal evaluator per line, which is why lines of products
that nobody reviewed are passed over unread.
"""

import ast
import csv
import html
import io
import json
import re
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.datasets.amazon.files import DAMAGE, damaged, open_bytes, stream_lines
from bench.datasets.amazon.markup import clean
from bench.errors import RunError

_ASIN = re.compile(r"""["']asin["']\s*:\s*["']([^"']+)["']""")
# A level of the category tree is a short name; the 2018 crawl lets the product's feature sentences follow it in the
# same list.
_LONGEST_LEVEL = 60
_SENTENCE_ENDS = (".", "!", "?", ";", ":")


@dataclass
class Product:
    """Cleaned metadata of one product. `paths` are its category paths, general to special."""

    title: str = ""
    description: str = ""
    paths: list[list[str]] = field(default_factory=list)


@dataclass
class Metadata:
    """Products by asin, and what was met on the way, by name."""

    products: dict[str, Product]
    counts: dict[str, int]


def read_metadata(path: Path, wanted: Container[str]) -> Metadata:
    """Metadata of the products in `wanted`; of a product that occurs twice the first record counts.

    Raises:
        RunError: a line is neither of the two forms, or has no asin; with the line.
    """
    products: dict[str, Product] = {}
    counts = dict.fromkeys(
        (
            "metadata lines",
            "repeated metadata records, the first is kept",
            "category lists cut at markup or a sentence",
            "titles that are markup alone",
            "descriptions that are markup alone",
        ),
        0,
    )
    for number, text in stream_lines(path):
        counts["metadata lines"] += 1
        quick = _ASIN.search(text)
        if quick and quick[1] not in wanted:
            continue
        record = _record(path, number, text)
        asin = record.get("asin")
        if not isinstance(asin, str) or not asin:
            raise RunError(f"{path}, line {number}: no asin")
        if asin not in wanted:
            continue
        if asin in products:
            counts["repeated metadata records, the first is kept"] += 1
            continue
        paths, cut = _paths(path, number, record)
        counts["category lists cut at markup or a sentence"] += cut
        description = record.get("description") or ""
        if isinstance(description, list):
            description = " ".join(str(entry) for entry in description)
        given = {"titles": str(record.get("title") or ""), "descriptions": str(description)}
        cleaned = {name: clean(value) for name, value in given.items()}
        for name, value in given.items():
            counts[f"{name} that are markup alone"] += bool(value.strip()) and not cleaned[name]
        products[asin] = Product(cleaned["titles"], cleaned["descriptions"], paths)
    if not counts["metadata lines"]:
        raise RunError(f"{path} is empty; it should hold product metadata")
    return Metadata(products, counts)


def _record(path: Path, number: int, text: str) -> dict[str, Any]:
    """One line as a dict: JSON, else a Python literal. Nothing in it is ever run."""
    try:
        record = json.loads(text)
    except ValueError:
        try:
            record = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise RunError(f"{path}, line {number}: neither JSON (2018) nor a Python literal (2014)") from None
    if not isinstance(record, dict):
        raise RunError(f"{path}, line {number}: not a record of fields")
    return record


def _paths(path: Path, number: int, record: dict[str, Any]) -> tuple[list[list[str]], int]:
    """Category paths of a record, and how many lists had to be cut."""
    nested = record.get("categories")
    lists = nested if nested is not None else [record.get("category") or []]
    if not isinstance(lists, list) or not all(isinstance(entry, list) for entry in lists):
        raise RunError(f"{path}, line {number}: `categories` is no list of lists and `category` no list")
    paths, cut = [], 0
    for entry in lists:
        levels = [str(level) for level in entry]
        # Only the 2018 list holds more than the path.
        kept = levels if nested is not None else levels[: _path_length(levels)]
        cut += len(kept) < len(levels)
        kept = [name for name in (clean(level) for level in kept) if name]
        if kept:
            paths.append(kept)
    return paths, cut


def _path_length(levels: list[str]) -> int:
    """Number of levels before the first one that is markup or a sentence."""
    for place, level in enumerate(levels):
        name = html.unescape(level).strip()
        if "<" in name or len(name) > _LONGEST_LEVEL or name.endswith(_SENTENCE_ENDS):
            return place
    return len(levels)


def read_titles(path: Path) -> dict[str, str]:
    """Titles from a CSV file with the columns `asin` and `title`; of an asin that occurs twice the first title counts.

    Raises:
        RunError: a column is missing, a row is short or the text is not UTF-8; with the line.
    """
    for _ in stream_lines(path):
        pass  # names a line that is not UTF-8
    titles: dict[str, str] = {}
    try:
        with open_bytes(path) as stream:
            reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""))
            header = next(reader, [])
            for name in ("asin", "title"):
                if name not in header:
                    raise RunError(f"{path}, line 1: no column {name}; the columns are {', '.join(header) or 'none'}")
            asin, title = header.index("asin"), header.index("title")
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise RunError(
                        f"{path}, line {reader.line_num}: {len(values)} fields, the header has {len(header)}"
                    )
                name = clean(values[title])
                if name:
                    titles.setdefault(values[asin], name)
    except csv.Error as error:
        raise RunError(f"{path}, line {reader.line_num}: {error}") from None
    except DAMAGE as error:
        raise damaged(path, error) from None
    return titles
