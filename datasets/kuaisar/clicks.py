"""From what KuaiSAR's system delivered to the clicks of a Log: positives, sessions, users of both services, k-core.

Every step is counted. Arrays throughout: the full release has 19.7 million rows.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from bench.data import hashing
from bench.data.build import k_core
from bench.data.log import REC, SEARCH
from bench.datasets.kuaisar.csv import Release
from bench.datasets.kuaisar.interactions import (
    REC_FILE,
    SEARCH_FILE,
    Queries,
    Rows,
    SearchRows,
    groups,
    read_rec,
    read_search,
)
from bench.errors import RunError, unknown

_Rows = TypeVar("_Rows", bound=Rows)
# What a search result can be, by the release's documentation.
_ITEM_TYPES = ("VIDEO", "USER", "IMAGE_ATLAS", "LIVE", "COMMODITY", "MUSIC", "ADVERT")


class Rules(Protocol):
    """What may be chosen; see `bench.datasets.kuaisar.source.Config`."""

    # Properties, because the settings that are chosen from a few words are narrower than str.
    @property
    def seed(self) -> int:
        """Breaks ties."""

    @property
    def core(self) -> int:
        """Fewest clicks of a user and of an item."""

    @property
    def core_rounds(self) -> str:
        """`iterative` or `once`."""

    @property
    def core_rows(self) -> str:
        """`clicks` or `exposures`."""

    @property
    def core_scope(self) -> str:
        """`union` or `each-task`."""

    @property
    def item_types(self) -> str:
        """Kinds of search results, by comma."""

    @property
    def unclicked_sessions(self) -> str:
        """`drop` or `first-item`."""

    @property
    def clicks(self) -> int:
        """Most clicks of a session; 0 = all."""

    @property
    def check_time(self) -> bool:
        """Whether the readable time is compared."""


@dataclass(frozen=True)
class Clicks:
    """The clicks that remain, one entry a click, with original ids; `query` is a row of `queries` (-1 for rec).

    `act` numbers recommendation clicks and search sessions. `steps` counts what each step left; `raw` are the
    statistics of the files as the papers print them.
    """

    user: np.ndarray  # (E,) int64
    item: np.ndarray
    time: np.ndarray  # (E,) int64 ms
    task: np.ndarray  # (E,) int8
    query: np.ndarray  # (E,) int64
    act: np.ndarray  # (E,) int64
    # What the remaining sessions displayed of the remaining items and nobody clicked: (S,) `act` and item.
    shown_act: np.ndarray
    shown_item: np.ndarray
    queries: Queries
    steps: list[dict[str, Any]]
    raw: dict[str, int]


def read_clicks(release: Release, rules: Rules) -> Clicks:
    """Read both interaction files and apply the rules."""
    wanted = rules.item_types.split(",")
    for name in wanted:
        if name not in _ITEM_TYPES:
            raise unknown("item type", name, _ITEM_TYPES)
    steps: list[dict[str, Any]] = []
    raw: dict[str, int] = {}
    rec = read_rec(release, rules.check_time, raw)
    search, queries, kinds = read_search(release, rules.check_time, raw)
    raw["users"] = len(np.union1d(rec.user, search.user))
    raw["items"] = len(pd.unique(np.concatenate([rec.item, search.item])))
    raw["actions"] = raw["rec actions"] + raw["search actions"]

    _count(steps, "rows of the files", rec, search)
    search = search.take(np.isin(search.kind, [code for code, name in enumerate(kinds) if name in wanted]))
    _count(steps, f"search rows of {rules.item_types}", rec, search)
    rec, search = _once(rec, ("user", "item", "time")), _once(search, ("act", "item"))
    _count(steps, "repeated (user, item, time) and (session, item) merged, a click wins", rec, search)
    search = search.take(queries.words.lengths[search.query] > 0)
    _count(steps, "sessions with a keyword", rec, search)
    unclicked = search.click == 0
    if rules.unclicked_sessions == "first-item":
        search = replace(search, click=np.maximum(search.click, _first_of_unclicked(search)))
        unclicked &= search.click == 0
    if rules.clicks:
        search = replace(search, click=np.where(_within(search, rules.clicks, rules.seed), search.click, 0))
    shown_act, shown_item = search.act[unclicked] + len(rec), search.item[unclicked]

    rows = _union(rec, search)
    del rec, search
    rows = rows.take(_core(rows, rules, steps))
    if not len(rows):
        before = steps[-2]
        raise RunError(
            f"{release.path(REC_FILE)} and {SEARCH_FILE}: no click is left by the {rules.core}-core; before it "
            f"there were {before['rec']:,} + {before['search']:,} clicks of {before['users']:,} users with both "
            "behaviours; lower core"
        )
    there = np.isin(shown_item, rows.item) & np.isin(shown_act, rows.act)
    return Clicks(
        user=rows.user,
        item=rows.item,
        time=rows.time,
        task=rows.task,
        query=rows.query,
        act=rows.act,
        shown_act=shown_act[there],
        shown_item=shown_item[there],
        queries=queries,
        steps=steps,
        raw=raw,
    )


@dataclass(frozen=True)
class _TaskRows(Rows):
    """Rows of both services in one table."""

    task: np.ndarray  # (R,) int8
    query: np.ndarray  # (R,) int64, -1 in recommendation
    act: np.ndarray  # (R,) int64; a row of its own in recommendation


def _union(rec: Rows, search: SearchRows) -> _TaskRows:
    """Recommendation rows first, each an act of its own, then the sessions."""
    return _TaskRows(
        user=np.concatenate([rec.user, search.user]),
        item=np.concatenate([rec.item, search.item]),
        time=np.concatenate([rec.time, search.time]),
        click=np.concatenate([rec.click, search.click]),
        task=np.repeat(np.asarray([REC, SEARCH], dtype=np.int8), [len(rec), len(search)]),
        query=np.concatenate([np.full(len(rec), -1), search.query]),
        act=np.concatenate([np.arange(len(rec)), search.act + len(rec)]),
    )


def _once(rows: _Rows, key: tuple[str, ...]) -> _Rows:
    """One row for each distinct key: the first one, with the largest `click` of all."""
    group = groups(*(getattr(rows, name) for name in key))
    first = _first(group)
    if not len(group) or first.all():
        return rows
    largest = np.zeros(int(group.max()) + 1, dtype=rows.click.dtype)
    np.maximum.at(largest, group, rows.click)
    # Groups are numbered by first occurrence, so that their order is that of the kept rows.
    return replace(rows.take(first), click=largest)


def _first(group: np.ndarray) -> np.ndarray:
    """Whether a row is the first of its group, for groups that are numbered by first occurrence."""
    return np.diff(np.maximum.accumulate(group), prepend=-1) > 0


def _first_of_unclicked(search: SearchRows) -> np.ndarray:
    """1 at the first row (in the file) of each session without a click: the item that played by itself."""
    group = pd.factorize(search.act)[0]
    clicked = np.bincount(group, weights=search.click > 0) > 0
    return (_first(group) & ~clicked[group]).astype(search.click.dtype)


def _within(search: SearchRows, limit: int, seed: int) -> np.ndarray:
    """Whether a row is among the `limit` most clicked of its session; a hash of user and item breaks ties."""
    tie = hashing.draw(hashing.key("session-clicks", seed), search.user, search.item)
    rows = np.flatnonzero(search.click > 0)
    order = rows[np.lexsort((tie[rows], -search.click[rows].astype(np.int64), search.act[rows]))]
    act = search.act[order]
    starts = np.flatnonzero(np.r_[True, act[1:] != act[:-1]]) if len(act) else np.zeros(0, dtype=np.int64)
    position = np.arange(len(act)) - np.repeat(starts, np.diff(np.r_[starts, len(act)]))
    keep = np.zeros(len(tie), dtype=bool)
    keep[order[position < limit]] = True
    return keep


def _core(rows: _TaskRows, rules: Rules, steps: list[dict[str, Any]]) -> np.ndarray:
    """Rows that remain: clicks of users with both behaviours, in the k-core."""
    clicked = rows.click > 0
    _count_rows(steps, "clicks", rows, clicked)
    of_task = [pd.unique(rows.user[clicked & (rows.task == code)]) for code in (REC, SEARCH)]
    both = np.intersect1d(*of_task)
    kept = np.isin(rows.user, both)
    _count_rows(steps, "clicks of users with both behaviours", rows, kept & clicked)
    if rules.core_rows == "clicks":
        kept &= clicked
    if rules.core > 1:
        codes = (REC, SEARCH) if rules.core_scope == "each-task" else (None,)
        for code in codes:
            part = np.flatnonzero(kept if code is None else kept & (rows.task == code))
            kept[part] = _k_core(rows.user[part], rows.item[part], rules.core, rules.core_rounds == "iterative")
    kept &= clicked
    scope = "of each task" if rules.core_scope == "each-task" else "on both tasks together"
    _count_rows(steps, f"{rules.core}-core {scope}, {rules.core_rounds}, counting {rules.core_rows}", rows, kept)
    return kept


def _k_core(user: np.ndarray, item: np.ndarray, minimum: int, iterative: bool) -> np.ndarray:
    if iterative:
        return k_core(user, item, minimum)
    user, item = pd.factorize(user)[0], pd.factorize(item)[0]
    return (np.bincount(user)[user] >= minimum) & (np.bincount(item)[item] >= minimum)


def _count(steps: list[dict[str, Any]], what: str, rec: Rows, search: Rows) -> None:
    steps.append({"step": what, "rec": len(rec), "search": len(search)})


def _count_rows(steps: list[dict[str, Any]], what: str, rows: _TaskRows, mask: np.ndarray) -> None:
    search = mask & (rows.task == SEARCH)
    steps.append(
        {
            "step": what,
            "rec": int(mask.sum() - search.sum()),
            "search": int(search.sum()),
            "sessions": len(pd.unique(rows.act[search])),
            "users": len(pd.unique(rows.user[mask])),
            "items": len(pd.unique(rows.item[mask])),
        }
    )
