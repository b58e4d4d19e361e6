"""What a split and the candidates will make of an own log, before a run is started."""

import numpy as np
import pandas as pd

from bench.data.build import assemble
from bench.data.few_users import few_test_users
from bench.data.log import Entities, Log
from bench.data.sampling import SeenItems, few_unseen
from bench.data.split import LogSplit, split
from bench.datasets.own_log.codes import EventCodes, acts_and_sessions
from bench.errors import UsageError
from bench.messages import comma_list

SPLIT = "leave-one-out"
NEGATIVES = 99
_SHOWN = 5


def outline(codes: EventCodes, catalogue: int) -> Log:
    """A Log with the events and ids of `codes` and without texts: enough for a split.

    Args:
        codes: the events; rows that repeat an earlier one are left out.
        catalogue: number of items, those that nobody clicked included.
    """
    table = codes.table[~codes.repeated]
    act, session = acts_and_sessions(table)
    columns = {name: table[name].to_numpy() for name in ("user", "item", "query", "time", "task")}
    unclicked = np.full(catalogue - len(codes.items), "", dtype=object)
    return assemble(
        "log",
        "natural",
        columns | {"act": act, "session": session},
        items=Entities(np.concatenate([_ids(codes.items), unclicked])),
        queries=Entities(_ids(codes.queries)),
        users=Entities(_ids(codes.users)),
        words=Entities(_ids(codes.queries[:0])),
        categories=Entities(_ids(codes.queries[:0])),
        seed=0,
    )


def outlook(log: Log) -> tuple[list[str], bool]:
    """Notes on the test rows of a Log, and whether there are any under the split that own logs have by default."""
    try:
        parts = split(log, SPLIT)
    except UsageError as error:
        return [str(error).removeprefix(f"{log.name}: "), *_other_splits(log)], False
    if not len(parts.test):
        return [f"no test rows under the split {SPLIT}, because {_because(parts)}", *_other_splits(log)], False
    notes = []
    for task in log.tasks:
        rows = len(parts.rows("test", task))
        noun = "row" if rows == 1 else "rows"
        because = "" if rows else f", because {_because(parts)}"
        notes.append(f"{task}: {rows:,} test {noun} under the split {SPLIT}{because}")
    return notes + few_test_users(parts) + _without_negatives(parts), True


def _because(parts: LogSplit) -> str:
    reasons = [f"{reason}: {count:,}" for reason, count in parts.dropped.items() if count]
    return comma_list(reasons) or "the log has too few events"


def _other_splits(log: Log) -> list[str]:
    """The splits by time that give test rows where leave-one-out does not."""
    notes = []
    for name in ("global-time", "last-day"):
        try:
            rows = len(split(log, name).test)
        except UsageError:
            continue
        if rows:
            notes.append(f"--split {name} would give {rows:,} test rows")
    return notes


def _without_negatives(parts: LogSplit) -> list[str]:
    """How many test rows the default candidates leave out, and whose they are."""
    log, events = parts.log, parts.log.events
    seen = SeenItems(events.user, events.item, len(log.items))
    short = few_unseen(events, parts.test, seen, NEGATIVES)
    if not short.any():
        return []
    users = np.unique(events.user[parts.test][short])
    names = comma_list(log.users.id[users[:_SHOWN]]) + (f" and {len(users) - _SHOWN:,} more" * (len(users) > _SHOWN))
    many = 2 * short.sum() > len(parts.test)
    then = "uniform candidates cannot be drawn" if many else "uniform candidates leave such rows out"
    return [
        f"{int(short.sum()):,} of {len(parts.test):,} test rows have fewer than {NEGATIVES} items left that their user "
        f"never touched (users {names}; the catalogue has {len(log.items):,} items); {then}, --candidates full ranks all"
    ]


def _ids(ids: pd.Index) -> np.ndarray:
    return np.concatenate([np.asarray([""], dtype=object), ids.to_numpy(dtype=object)])
