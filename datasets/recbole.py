"""Any data set in RecBole's atomic files: `<name>.inter`, and where they exist `<name>.item` and `<name>.user`.

Format: tab separated, first line `field:type`, types token, token_seq (separated by blanks), float and float_seq
(https://recbole.io/docs/user_guide/data/atomic_files.html). Without `queries` the data serve recommendation only; with
it a purchase is searched by one value of that item field, after Ai et al. (SIGIR 2017).
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from pydantic import PositiveInt

from bench.data import hashing
from bench.data.build import build, k_core
from bench.data.log import Log
from bench.data.sources import FolderSource, SourceConfig, source
from bench.data.words import tokenize
from bench.errors import RunError

TYPES = ("token", "token_seq", "float", "float_seq")
# In seconds the year 5138, in milliseconds March 1973: no log's times lie on the wrong side of it.
_MILLISECONDS_FROM = 1e11


class Config(SourceConfig):
    """How atomic files become a Log."""

    mode: Literal["disjoint", "mirror"] = "disjoint"
    """With `queries`: whether a row is an event of one task, chosen by a hash, or of both."""
    user: str = "user_id"
    """Field of the user in the .inter file."""
    item: str = "item_id"
    """Field of the item."""
    time: str = "timestamp"
    """Field of the time."""
    time_unit: Literal["s", "ms"] = "s"
    """What the times count."""
    core: PositiveInt = 5
    """Iterative k-core: fewest rows of a user and of an item; 1 keeps all."""
    text: str = ""
    """Item fields that make an item's text, by comma; empty: all token_seq fields."""
    queries: str = ""
    """The item field (token or token_seq) whose values become queries; empty: no searches."""


@plain(frozen=True)
class Atomic:
    """One atomic file: its fields as text, (n,) each, and their types. The table's index is the line of the file."""

    path: Path
    table: pd.DataFrame
    types: dict[str, str]

    def values(self, field: str, types: Iterable[str] = TYPES) -> pd.Series:
        """A field, checked to be there with one of `types`.

        Raises:
            RunError: it is not.
        """
        if field not in self.types:
            raise RunError(
                f"{self.path} has no field '{field}'; its fields are {', '.join(self.types)} (--set recbole.<setting>)"
            )
        if self.types[field] not in types:
            raise RunError(f"{self.path}: field '{field}' is {self.types[field]}, needed is {' or '.join(types)}")
        return self.table[field]

    def numbers(self, field: str) -> np.ndarray:
        """(n,) float64 of a float field.

        Raises:
            RunError: a value is no finite number.
        """
        texts = self.values(field, ("float",))
        found = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        self.refuse(~np.isfinite(found), field, "no number")
        return found

    def ids(self, field: str) -> pd.Series:
        """A token field without gaps."""
        texts = self.values(field, ("token",))
        self.refuse((texts == "").to_numpy(), field, "empty")
        return texts

    def refuse(self, bad: np.ndarray, field: str, what: str) -> None:
        """Raise a RunError on the rows where `bad` (n,) is True: how many, and the first with line and value."""
        if bad.any():
            first = self.table.index[int(bad.argmax())]
            more = f" ({int(bad.sum()):,} such rows)" if bad.sum() > 1 else ""
            raise RunError(f"{self.path}, line {first}, field {field}: {what}: '{self.table[field].loc[first]}'{more}")


def read_atomic(path: Path) -> Atomic:
    """Read an atomic file.

    Raises:
        RunError: it is not readable, a type is unknown, a line has another number of fields than the first; with the
        line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}") from None
    if not content.strip():
        raise RunError(f"{path} is empty")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RunError(f"{path}, line {line}: the text is not UTF-8; convert the file") from None
    bad: list[tuple[int, int, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        bad.append((row.number, row.actual_columns, row.expected_columns))
        return "skip"

    heads = content.decode("utf-8-sig").partition("\n")[0].rstrip("\r").split("\t")
    read = pa.csv.read_csv(
        io.BytesIO(content if content.endswith(b"\n") else content + b"\n"),
        # One thread, so that the numbers of lines are right.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=1 << 26),
        parse_options=pa.csv.ParseOptions(
            delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=note
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(heads, pa.string()), strings_can_be_null=False
        ),
    )
    if bad:
        line, found, expected = bad[0]
        more = f" ({len(bad):,} such lines)" if len(bad) > 1 else ""
        raise RunError(f"{path}, line {line}: {found} fields, expected {expected}{more}")
    types = {}
    for head in heads:
        field, colon, kind = head.partition(":")
        if not colon or kind not in TYPES:
            raise RunError(f"{path}, line 1: '{head}' is not FIELD:TYPE with a type of {', '.join(TYPES)}")
        if field in types:
            raise RunError(f"{path}, line 1: the field '{field}' is there twice")
        types[field] = kind
    table = pd.DataFrame({field: column.to_pandas() for field, column in zip(types, read.columns, strict=True)})
    table.index = pd.RangeIndex(2, len(table) + 2)
    table = table[~(table == "").all(axis=1)]
    if table.empty:
        raise RunError(f"{path} has no rows below its first line")
    return Atomic(path, table, types)


@source(
    "recbole:",
    title="RecBole atomic files",
    split="leave-one-out",
    synthetic="queries (values of an item field)",
)
class RecBoleFiles(FolderSource):
    """The atomic files of the folder that the argument names."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """The .inter file, and .item and .user where there are any."""
        folder = self.folder
        found = sorted(folder.glob("*.inter"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise RunError(
                f"{folder} must hold one .inter file, found {names}; RecBole's split benchmark files are not read"
            )
        stem = found[0].name.removesuffix(".inter")
        files = {kind: folder / f"{stem}.{kind}" for kind in ("inter", "item", "user")}
        return {kind: path for kind, path in files.items() if path.exists()}

    def prepare(self, files: dict[str, Path]) -> Log:
        """Rows as clicks, with searches from an item field where one is named."""
        config: Config = self.config
        inter = read_atomic(files["inter"])
        rows = _interactions(inter, config)
        raw = len(rows)
        rows = rows[k_core(rows["user"].to_numpy(), rows["item"].to_numpy(), config.core)]
        if rows.empty:
            raise RunError(
                f"{inter.path}: nothing is left of {raw:,} rows after the {config.core}-core; "
                "lower it with --set recbole.core=1"
            )
        item_file = read_atomic(files["item"]) if "item" in files else None
        user_file = read_atomic(files["user"]) if "user" in files else None
        items, text_fields = _items(item_file, pd.Index(rows["item"].unique()), config)
        users = _features(user_file, config.user, pd.Index(rows["user"].unique())) if user_file else None
        events = _events(rows, items, config)
        queries = pd.DataFrame({"id": sorted({key for keys in items.get("queries", ()) for key in keys})}, dtype=str)
        queries["text"] = queries["id"]
        used = {config.user, config.item, config.time, config.queries, *text_fields}
        facts = {
            "steps": {
                "rows": raw,
                f"{config.core}-core": len(rows),
                "rows without a query": int((rows["item"].isin(_mute(items))).sum()),
            },
            "fields": {
                file.path.name: {field: _role(field, kind, used, file is inter) for field, kind in file.types.items()}
                for file in (inter, item_file, user_file)
                if file is not None
            },
        }
        mode = config.mode if config.queries else "natural"
        if not config.queries:
            facts["synthetic"] = ""
        name = f"recbole:{inter.path.name.removesuffix('.inter')}"
        return build(name, mode, events, items, queries, users, seed=config.seed, manifest=facts)


def _interactions(inter: Atomic, config: Config) -> pd.DataFrame:
    """Columns user, item (text) and time (int64 ms)."""
    if config.time not in inter.types:
        raise RunError(
            f"{inter.path} has no time field '{config.time}' (its fields: {', '.join(inter.types)}); "
            "name it with --set recbole.time=FIELD; interactions without times can be read as sequences"
        )
    time = inter.numbers(config.time)
    inter.refuse(time < 0, config.time, "negative time")
    if config.time_unit == "s":
        inter.refuse(time >= _MILLISECONDS_FROM, config.time, "no time in seconds (--set recbole.time_unit=ms?)")
        time = time * 1000
    else:
        inter.refuse(time < _MILLISECONDS_FROM, config.time, "no time in milliseconds (--set recbole.time_unit=s?)")
    return pd.DataFrame(
        {"user": inter.ids(config.user), "item": inter.ids(config.item), "time": np.round(time).astype(np.int64)}
    )


def _events(rows: pd.DataFrame, items: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows as events of one task or both; one value of the item's query field is drawn for each."""
    events = rows.assign(act=np.arange(len(rows)), task=0, query="")
    if not config.queries:
        return events
    row = [pd.util.hash_array(rows[name].to_numpy(object)) for name in ("user", "item")] + [rows["time"].to_numpy()]
    keys = items.set_index("id")["queries"].reindex(rows["item"])
    counts = keys.str.len().to_numpy()
    number = hashing.below(hashing.draw(hashing.key("path", config.seed), *row), np.maximum(counts, 1))
    query = np.asarray([entry[index] if entry else "" for entry, index in zip(keys, number, strict=True)], dtype=object)
    can_search = counts > 0
    if config.mode == "mirror":
        return pd.concat([events, events.assign(task=1, query=query)[can_search]], ignore_index=True)
    # Each random choice hashes under a prefix of its own: with one hash the task would decide the query.
    search = can_search & (hashing.below(hashing.draw(hashing.key("task", config.seed), *row), 2) == 1)
    return events.assign(task=search.astype(np.int8), query=np.where(search, query, ""))


def _items(file: Atomic | None, ids: pd.Index, config: Config) -> tuple[pd.DataFrame, list[str]]:
    """Items of the events: text, its provenance, queries, features; and the fields that make the text."""
    if file is None:
        if config.queries or config.text:
            raise RunError(
                f"recbole.{'queries' if config.queries else 'text'} names an item field, but there is no .item file"
            )
        return pd.DataFrame({"id": ids, "text": "", "provenance": ""}), []
    features = _features(file, config.item, ids)
    fields = [field.strip() for field in config.text.split(",") if field.strip()]
    fields = fields or [field for field, kind in file.types.items() if kind == "token_seq"]
    texts = {field: _of(file, config.item, field, ids, ("token", "token_seq")) for field in fields}
    joined = [" ".join(part for part in parts if part) for parts in zip(*texts.values(), strict=True)] if texts else ""
    origin = [
        ", ".join(f for f, part in zip(fields, parts, strict=True) if part)
        for parts in zip(*texts.values(), strict=True)
    ]
    table = features.assign(text=joined, provenance=origin if texts else "")
    if config.queries:
        values = _of(file, config.item, config.queries, ids, ("token", "token_seq"))
        whole = file.types[config.queries] == "token"
        table["queries"] = [
            ([entry] if entry else []) if whole else list(dict.fromkeys(entry.split())) for entry in values
        ]
        table["categories"] = table["queries"]
    table["words"] = [tokenize(text) for text in table["text"]]
    return table, fields


def _features(file: Atomic, key: str, ids: pd.Index) -> pd.DataFrame:
    """Table `id` and `feature:<field>` for each further token field; entities that the file lacks have the value ""."""
    listed = file.ids(key)
    file.refuse(listed.duplicated().to_numpy(), key, "duplicate id")
    tokens = [field for field, kind in file.types.items() if kind == "token" and field != key]
    return pd.DataFrame({"id": ids} | {f"feature:{field}": _of(file, key, field, ids, TYPES) for field in tokens})


def _of(file: Atomic, key: str, field: str, ids: pd.Index, types: Iterable[str]) -> np.ndarray:
    """(len(ids),) values of a field for `ids`, "" where the file does not list one."""
    values = file.values(field, types).set_axis(file.table[key])
    return values.reindex(ids).fillna("").to_numpy(object)


def _mute(items: pd.DataFrame) -> pd.Series:
    """Ids of items without any query."""
    return items.loc[[not keys for keys in items["queries"]], "id"] if "queries" in items else items["id"]


def _role(field: str, kind: str, used: set[Any], interaction: bool) -> str:
    """What became of a field, for the manifest."""
    if field in used or (kind == "token" and not interaction):
        return f"{kind}, used"
    return f"{kind}, not used"
