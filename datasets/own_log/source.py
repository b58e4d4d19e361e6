"""A user's own logs: `events` and optionally `items`, `queries`, `users`, as CSV or Parquet in one folder.

The columns are documented in docs/own-logs.md; `bench data check DIR` says what is wrong with a folder.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from bench.data.build import build, k_core, tokenize
from bench.data.log import SEARCH, TASKS, Log
from bench.data.sources import Source, SourceConfig, source
from bench.datasets.own_log.check import Inspection, find_files, inspect
from bench.datasets.own_log.sheet import FEATURE, Sheet
from bench.errors import RunError, UsageError


class Config(SourceConfig):
    """`core`: the iterative k-core over all events (1 = all of them)."""

    mode: Literal["natural"] = "natural"
    core: Annotated[int, Field(ge=1)] = 1


@source("log:", title="own logs", split="leave-one-out")
class OwnLog(Source):
    Config = Config

    def raw_files(self) -> dict[str, Path]:
        files, problems = find_files(self.folder())
        if problems:
            raise RunError(f"{self.folder()}: {problems[0]}")
        return files

    def folder(self) -> Path:
        """The folder that the name's argument means: a path, or a folder under the data root's `log`."""
        if not self.argument:
            raise UsageError("log: needs the folder of the log, log:DIR")
        given = Path(self.argument).expanduser()
        found = next((path for path in (given, self.root / given) if path.is_dir()), None)
        if found is None:
            raise RunError(f"log:{given}: there is no folder {given}, nor {self.root / given}")
        return found.resolve()

    def prepare(self, files: dict[str, Path]) -> Log:
        folder = self.folder()
        found = inspect(folder)
        if found.problems:
            first, more = found.problems[0], len(found.problems) - 1
            others = f"; and {more} further problem{'s' if more > 1 else ''}" if more else ""
            raise RunError(f"{folder}: {first}{others}; `bench data check {self.argument}` lists all of them")
        events = found.sheets["events"].table
        steps = {"events": len(events)}
        events = events.drop_duplicates()
        steps["without exact duplicates"] = len(events)
        if self.config.core > 1:
            events = events[k_core(events["user"].to_numpy(), events["item"].to_numpy(), self.config.core)]
            steps[f"{self.config.core}-core"] = len(events)
        if events.empty:
            raise RunError(
                f"{folder}: no event is left after the {self.config.core}-core; lower it with --set log.core=1"
            )
        items = _entities(found, "items", "item", events)
        items["text"] = items.get("text", pd.Series("", index=items.index))
        if "words" in items:
            # Words of items without a text of their own stand for it.
            items["text"] = items["text"].where(items["text"] != "", items["words"].str.join(" "))
        items["provenance"] = np.where(items["text"] != "", "text column", "")
        queries = _entities(found, "queries", "query", events)
        queries["text"] = queries.get("text", queries["id"])
        queries["text"] = queries["text"].where(queries["text"] != "", queries["id"])
        for table in (items, queries):
            if "words" in table:
                table["words"] = [
                    words or tokenize(text) for words, text in zip(table["words"], table["text"], strict=True)
                ]
        return build(
            f"log:{folder.name}",
            "natural",
            _with_acts(events),
            items,
            queries,
            _entities(found, "users", "user", events) if "users" in found.sheets else None,
            seed=self.config.seed,
            manifest={"steps": steps, "notes": found.notes},
        )


def _with_acts(events: pd.DataFrame) -> pd.DataFrame:
    """Events with `act` and `session` for `build`, `task` as a code.

    An act is what a user did once: the rows of one `event`, else the clicks of one search session on one query, else a
    row.
    """
    named = (events["event"] != "").to_numpy()
    session = (events["session"] != "").to_numpy()
    of_session = ~named & session & (events["task"] == TASKS[SEARCH]).to_numpy()
    kind = np.select([named, of_session], [1, 2], 0)
    first = np.where(named, events["event"], np.where(of_session, events["session"], ""))
    keys = pd.DataFrame(
        {
            "kind": kind,
            "user": np.where(kind > 0, events["user"], ""),
            "key": first,
            "query": np.where(kind == 2, events["query"], ""),
            "row": np.where(kind > 0, 0, np.arange(len(events))),
        }
    )
    act = keys.groupby(list(keys), sort=False).ngroup().to_numpy()
    alone = pd.DataFrame(
        {"user": events["user"].to_numpy(), "session": events["session"].to_numpy(), "act": np.where(session, -1, act)}
    )
    return events.assign(
        act=act,
        session=alone.groupby(list(alone), sort=False).ngroup().to_numpy(),
        task=(events["task"] == TASKS[SEARCH]).astype(np.int8),
    )


def _entities(found: Inspection, kind: str, key: str, events: pd.DataFrame) -> pd.DataFrame:
    """A file's rows for the entities that occur in events: `id` and the file's columns; ids alone without a file."""
    ids = pd.Index(events[key].unique())
    ids = ids[ids != ""]
    sheet: Sheet | None = found.sheets.get(kind)
    if sheet is None:
        return pd.DataFrame({"id": ids.astype(str)})
    table = sheet.table.rename(columns={key: "id"})
    table = table[table["id"].isin(ids)].reset_index(drop=True)
    return table[
        ["id", *(name for name in table if name in ("text", "words", "categories") or name.startswith(FEATURE))]
    ]
