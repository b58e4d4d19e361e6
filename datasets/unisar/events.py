"""The events behind UniSAR's release: each user's two lists merged into one order, and the rows about them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.data.log import REC, SEARCH
from bench.datasets.unisar.rows import Entries, Release, match


@dataclass(frozen=True)
class ReleasedEvents:
    """Events in order, (n,) each: by user and time, a click before a search of the same time, then as in the list.

    (Clicks come first in UniSAR's own merging of both lists, too.) `time` (ms) is the release's, moved by as many
    milliseconds as it takes to make the units of a user differ, so that no later sort can change the order. The clicks
    of a session are one unit and share its time. `row` is the release's row about the event, -1 for none; `part` is
    that row's part, -1 for history only.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    task: np.ndarray
    keyword: np.ndarray  # code of the query, -1 for rec
    unit: np.ndarray
    act: np.ndarray
    row: np.ndarray
    part: np.ndarray
    facts: dict[str, int]


def released_events(release: Release) -> ReleasedEvents:
    """Merge the lists and find each row's event.

    A purchase and the search of it (same user, item and time) are one act. A row whose target is not in the list that
    it is about becomes an event of its own after the prefixes that it names.
    """
    rows = release.rows
    facts = {}
    pieces = []
    for task, entries, length in ((REC, release.rec, rows.rec_len), (SEARCH, release.src, rows.search_len)):
        which = np.flatnonzero(rows.task == task)
        found = match(rows, which, entries, length)
        row = np.full(len(entries), -1)
        row[found[found >= 0]] = which[found >= 0]
        word = "search" if task == SEARCH else "recommendation"
        facts[f"{word} rows whose target is in the user's list"] = int((found >= 0).sum())
        facts[f"{word} rows whose target is not (events of their own)"] = int((found < 0).sum())
        if task == SEARCH:
            other = rows.keyword[row] != entries.keyword
            facts["search rows with another query than their session (the row's is used)"] = int(
                (other & (row >= 0)).sum()
            )
        listed = {
            "user": entries.user,
            "item": entries.item,
            "time": entries.time,
            "place": entries.place,
            "keyword": np.where(row >= 0, rows.keyword[row], entries.keyword),
            "row": row,
        }
        alone = which[found < 0]
        unlisted = {
            "user": rows.user[alone],
            "item": rows.item[alone],
            "time": _after_prefix(release, alone),
            "place": alone,
            "keyword": rows.keyword[alone],
            "row": alone,
        }
        # At the same time clicks come before searches, and both before what is in no list.
        pieces += [
            pd.DataFrame(listed).assign(task=task, kind=task),
            pd.DataFrame(unlisted).assign(task=task, kind=2 + task),
        ]
    table = pd.concat(pieces, ignore_index=True).sort_values(
        ["user", "time", "kind", "place", "item"], ignore_index=True
    )
    table["unit"] = table.groupby(["user", "kind", "place"], sort=False).ngroup()
    table["act"] = _acts(table)
    time = _distinct_times(table)
    facts["events moved in time to keep the order"] = int((time != table["time"]).sum())
    facts["clicks that are the same act as a search (same user, item and time)"] = int(
        (table["act"] != table["unit"]).sum()
    )
    column = {name: table[name].to_numpy() for name in table}
    part = np.where(column["row"] >= 0, rows.part[column["row"]], -1).astype(np.int8)
    facts |= _prefixes(table, release)
    as_they_are = {name: column[name] for name in ("user", "item", "keyword", "unit", "act", "row")}
    return ReleasedEvents(**as_they_are, time=time, task=column["task"].astype(np.int8), part=part, facts=facts)


def _after_prefix(release: Release, which: np.ndarray) -> np.ndarray:
    """(n,) ms for rows that are in no list: their own time if the release has one, never before their prefixes end."""
    rows = release.rows
    time = rows.time[which] if rows.time is not None else np.zeros(len(which), dtype=np.int64)
    for entries, length in ((release.rec, rows.rec_len), (release.src, rows.search_len)):
        time = np.maximum(time, _time_of(entries, rows.user[which], length[which] - 1))
    return time


def _time_of(entries: Entries, user: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(n,) ms of the last entry of `user` at or before `place`; 0 where there is none."""
    if not len(entries):
        return np.zeros(len(user), dtype=np.int64)
    span = int(max(entries.place.max(), place.max(initial=0))) + 2
    at = np.searchsorted(entries.user * span + entries.place, user * span + place, side="right") - 1
    return np.where((at >= 0) & (entries.user[np.maximum(at, 0)] == user), entries.time[np.maximum(at, 0)], 0)


def _acts(table: pd.DataFrame) -> np.ndarray:
    """(n,) the unit of the search that a click was made from, else the event's own unit."""
    keys = ["user", "item", "time"]
    searches = table.loc[table["task"] == SEARCH, [*keys, "unit"]].drop_duplicates(keys)
    twin = table[keys].merge(searches, on=keys, how="left")["unit"].to_numpy()
    is_twin = (table["task"] == REC).to_numpy() & ~np.isnan(twin)
    return np.where(is_twin, np.nan_to_num(twin), table["unit"]).astype(np.int64)


def _distinct_times(table: pd.DataFrame) -> np.ndarray:
    """(n,) ms: the smallest times, none earlier than its own, that rise from unit to unit of a user."""
    units = table.drop_duplicates("unit")
    rank = units.groupby("user", sort=False).cumcount()
    moved = (units["time"] - rank).groupby(units["user"], sort=False).cummax() + rank
    return moved.to_numpy()[pd.factorize(table["unit"])[0]]


def _prefixes(table: pd.DataFrame, release: Release) -> dict[str, int]:
    """How our histories compare with the rows' prefix lengths: whole pasts, own act left out."""
    rows = release.rows
    units = table.drop_duplicates("unit")
    counts = {}
    agree = np.ones(int((table["row"] >= 0).sum()), dtype=bool)
    about = table[table["row"] >= 0]
    for task, length, word in ((REC, rows.rec_len, "recommendation"), (SEARCH, rows.search_len, "search")):
        of_task = (units["task"] == task).astype(np.int64)
        before = (of_task.groupby(units["user"], sort=False).cumsum() - of_task).set_axis(units["unit"])
        mine = before.reindex(about["unit"]).to_numpy()
        # The click of the same act stands before its search and is no history of it.
        if task == REC:
            twins = units.loc[units["act"] != units["unit"]].groupby("act").size()
            mine = mine - np.where(about["task"] == SEARCH, twins.reindex(about["unit"]).fillna(0).to_numpy(), 0)
        said = length[about["row"]]
        agree &= mine == said
        counts[f"rows whose {word} history is longer here than the release's prefix"] = int((mine > said).sum())
        counts[f"rows whose {word} history is shorter here than the release's prefix"] = int((mine < said).sum())
    return {"rows whose histories have the lengths of the release's prefixes": int(agree.sum())} | counts
