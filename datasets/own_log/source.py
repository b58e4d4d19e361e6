"""A user's own logs: `events` and optionally `items`, `queries`, `users`, as CSV or Parquet in one folder.

The columns are documented in docs/own-logs.md; `bench data check DIR` says what is wrong with a folder.
"""

from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from pydantic import PositiveInt, field_validator

from bench.data.build import build, k_core
from bench.data.log import SEARCH, TASKS, Log
from bench.data.sources import Source, SourceConfig, source
from bench.data.words import tokenize, word_rules
from bench.datasets.own_log.check import Inspection, inspect
from bench.datasets.own_log.codes import acts_and_sessions
from bench.datasets.own_log.columns import FEATURE, KEYS
from bench.datasets.own_log.formats import find_files
from bench.errors import RunError, UsageError


class Config(SourceConfig):
    """How a folder becomes a Log."""

    mode: Literal["natural"] = "natural"
    """Whether an event is rec or search stands in the log."""
    core: PositiveInt = 1
    """Iterative k-core over all events: users and items with fewer events are left out; 1 keeps all."""
    unclicked_items: bool = True
    """Keep items of the file of items that nobody clicked as candidates. A k-core above 1 leaves them out."""
    time_zone: str = "UTC"
    """Where days begin and end for the split `last-day`: a name such as Europe/Berlin."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("no time zone of that name; names are such as UTC, Europe/Berlin or Asia/Tokyo") from None
        return name


@source("log:", title="own logs", split="leave-one-out")
class OwnLog(Source):
    """A folder of own logs."""

    Config = Config

    def raw_files(self) -> dict[str, Path]:
        """The files of the folder by name.

        Raises:
            UsageError: the name has no folder. RunError: there is no such folder, or its files cannot be used.
        """
        files, problems = find_files(self.folder())
        if problems:
            raise RunError(f"{self.folder()}: {problems[0]}")
        return files

    def folder(self) -> Path:
        """The folder that the name's argument means: a path, or a folder under the data root's `log`.

        Raises:
            UsageError: the name has no folder. RunError: there is no such folder.
        """
        if not self.argument:
            raise UsageError("log: needs the folder of the log, log:DIR")
        given = Path(self.argument).expanduser()
        folder = next((path for path in (given, self.root / given) if path.is_dir()), None)
        if folder is None:
            raise RunError(f"log:{given}: there is no folder {given}, nor {self.root / given}")
        return folder.resolve()

    def prepare(self, files: dict[str, Path]) -> Log:
        """Read and check the folder, and build the Log.

        Raises:
            RunError: the folder has a problem, or the k-core leaves no event.
        """
        folder = self.folder()
        inspection = inspect(folder, split=False)
        if inspection.codes is None:
            first, more = inspection.problems[0], len(inspection.problems) - 1
            others = f"; and {more} further problem{'s' if more > 1 else ''}" if more else ""
            raise RunError(f"{folder}: {first}{others}; `bench data check {self.argument}` lists all of them")
        steps = {"events": len(inspection.codes.table)}
        codes = inspection.codes.table[~inspection.codes.repeated]
        steps["without exact duplicates"] = len(codes)
        if self.config.core > 1:
            codes = codes[k_core(codes["user"].to_numpy(), codes["item"].to_numpy(), self.config.core)]
            steps[f"{self.config.core}-core"] = len(codes)
        if codes.empty:
            raise RunError(
                f"{folder}: no event is left after the {self.config.core}-core; lower it with --set log.core=1"
            )
        act, session = acts_and_sessions(codes)
        events = inspection.files["events"].table.loc[codes.index]
        events = events.assign(act=act, session=session, task=(events["task"] == TASKS[SEARCH]).astype(np.int8))
        keep_unclicked = self.config.unclicked_items and self.config.core == 1
        items = _entities(inspection, "items", events, unclicked=keep_unclicked)
        items["text"] = items.get("text", pd.Series("", index=items.index))
        if "words" in items:
            # Words of items without a text of their own stand for it.
            items["text"] = items["text"].where(items["text"] != "", items["words"].str.join(" "))
        items["provenance"] = np.where(items["text"] != "", "text column", "")
        queries = _entities(inspection, "queries", events)
        queries["text"] = queries.get("text", queries["id"])
        queries["text"] = queries["text"].where(queries["text"] != "", queries["id"])
        own_words = [name for name, table in (("items", items), ("queries", queries)) if "words" in table]
        for table in (items, queries):
            given = table["words"] if "words" in table else [[]] * len(table)
            table["words"] = [words or tokenize(text) for words, text in zip(given, table["text"], strict=True)]
        return build(
            f"log:{folder.name}",
            "natural",
            events,
            items,
            queries,
            _entities(inspection, "users", events) if "users" in inspection.files else None,
            seed=self.config.seed,
            manifest={
                "steps": steps,
                "notes": inspection.notes,
                "time_zone": self.config.time_zone,
                "words": word_rules() | {"words of one's own": ", ".join(own_words) or "none"},
                "remarks": _remarks(inspection, self.config, keep_unclicked),
            },
            unclicked_items=keep_unclicked,
        )


def _remarks(inspection: Inspection, config: Config, kept: bool) -> list[str]:
    """What a run says of the catalogue: what became of the items that occur in no event."""
    count = inspection.unclicked()
    if not count:
        return []
    if kept:
        return [f"{count:,} items that nobody clicked are candidates, too"]
    reason = f"core={config.core}" if config.unclicked_items else "unclicked_items=false"
    return [f"{count:,} items that nobody clicked are left out ({reason})"]


def _entities(inspection: Inspection, name: str, events: pd.DataFrame, unclicked: bool = False) -> pd.DataFrame:
    """Rows of a file: `id` and its columns, of the entities that occur in events; ids alone without a file.

    Args:
        inspection: holds the files.
        name: of the file ("items", "queries", "users").
        events: what occurs.
        unclicked: keep the entities that do not occur, too.
    """
    key = KEYS[name]
    ids = pd.Index(events[key].unique())
    ids = ids[ids != ""]
    file = inspection.files.get(name)
    if file is None:
        return pd.DataFrame({"id": ids.astype(str)})
    table = file.table.rename(columns={key: "id"})
    if not unclicked:
        table = table[table["id"].isin(ids)]
    columns = [column for column in table if column in ("text", "words", "categories") or column.startswith(FEATURE)]
    return table[["id", *columns]].reset_index(drop=True)
