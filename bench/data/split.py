"""Which events are trained on, which validate, which test; and what each of them may look back at."""

from dataclasses import dataclass

import numpy as np

from bench.data.log import TASKS, Log
from bench.errors import UsageError, unknown

SPLITS = ("leave-one-out", "last-day", "global-time", "given")
PARTS = ("train", "valid", "test")
_DAY_MS = 86_400_000
# KuaiSAR's clock: its days are days in Shanghai (no daylight saving there).
_SHANGHAI_MS = 8 * 3_600_000


@dataclass(frozen=True)
class LogSplit:
    """Row numbers into `log.events` for each part, ascending. `dropped` counts rows that serve no part, by reason."""

    log: Log
    name: str
    train: np.ndarray  # (n,) int64
    valid: np.ndarray
    test: np.ndarray
    dropped: dict[str, int]

    def rows(self, part: str, task: str | None = None) -> np.ndarray:
        """Rows of a part ('train', 'valid', 'test'), of one task or of both."""
        rows = getattr(self, part)
        return rows if task is None else rows[self.log.events.task[rows] == TASKS.index(task)]

    def counts(self) -> dict[str, int]:
        return {f"{part}/{task}": len(self.rows(part, task)) for part in PARTS for task in TASKS} | {
            f"dropped/{reason}": count for reason, count in self.dropped.items()
        }


def split(log: Log, name: str = "leave-one-out") -> LogSplit:
    """Split a Log.

    `leave-one-out`: the last event of each user and task is test, the second last validation; where every purchase is
    in both tasks (mode `mirror`) the last and second last event_id of the user are, in both tasks.
    `last-day`: the last full day (Asia/Shanghai) is test, the day before validation; a partial day after it is dropped.
    The data set's manifest may say otherwise (`last_day`): `partial` tests on the last day however short it is, `24h`
    on the last 24 hours and validates on the 24 hours before them.
    `global-time`: events after 90 % of all are test, those from 80 % validation.
    `given`: the split that the source brings (`events.part`).
    Training rows that are not earlier than the user's first held-out event are dropped and counted, so that no
    training history can hold a held-out event.
    """
    if name in ("last-day", "global-time") and log.manifest.get("times") == "order":
        raise UsageError(f"{log.name} has no times (order stands for them); use leave-one-out or given")
    if name == "leave-one-out":
        part, dropped = _leave_one_out(log)
    elif name == "last-day":
        part, dropped = _last_day(log)
    elif name == "global-time":
        part, dropped = _global_time(log)
    elif name == "given":
        if log.events.part is None:
            raise UsageError(f"{log.name} brings no split of its own; use one of {', '.join(SPLITS[:-1])}")
        part, dropped = log.events.part.copy(), {"history-only rows": int((log.events.part < 0).sum())}
    else:
        raise UsageError(f"unknown split '{name}'; known: {', '.join(SPLITS)}")
    user = log.events.user
    held = np.flatnonzero(part > 0)
    first_held = np.full(len(log.users) + 1, len(user), dtype=np.int64)
    np.minimum.at(first_held, user[held], held)
    late = (part == 0) & (np.arange(len(user)) > first_held[user])
    part[late] = -1
    dropped["training rows after the user's first held-out event"] = int(late.sum())
    part, repeats = _drop_repeats(log, part)
    dropped["held-out rows whose user and item are a training pair"] = repeats
    trained = np.zeros(len(log.users) + 1, dtype=bool)
    trained[user[part == 0]] = True
    cold = (part > 0) & ~trained[user]
    part[cold] = -1
    dropped["held-out rows of users without training rows"] = int(cold.sum())
    train, valid, test = (np.flatnonzero(part == code) for code in range(3))
    return LogSplit(log, name, train, valid, test, dropped)


def _leave_one_out(log: Log) -> tuple[np.ndarray, dict[str, int]]:
    events = log.events
    part = np.zeros(len(events), dtype=np.int8)
    short = 0
    # One sequence a user in mirror mode (the event is what is held out), else one a user and task.
    group_of_row = events.user.astype(np.int64) * 2 + (0 if log.mode == "mirror" else events.task)
    for task in (0,) if log.mode == "mirror" else (0, 1):
        rows = np.arange(len(events)) if log.mode == "mirror" else np.flatnonzero(events.task == task)
        if not len(rows):
            continue
        group, event = group_of_row[rows], events.event_id[rows]
        # Position of every event in its group, counted from the end: 0 is the last one.
        new_event = np.r_[True, (event[1:] != event[:-1]) | (group[1:] != group[:-1])]
        ordinal = np.cumsum(new_event)
        last = np.zeros(group.max() + 1, dtype=np.int64)
        np.maximum.at(last, group, ordinal)
        first = np.full(group.max() + 1, len(rows) + 1, dtype=np.int64)
        np.minimum.at(first, group, ordinal)
        from_end = last[group] - ordinal
        long_enough = last[group] - first[group] + 1 >= 3
        part[rows[(from_end == 0) & long_enough]] = 2
        part[rows[(from_end == 1) & long_enough]] = 1
        short += len(np.unique(group[~long_enough]))
    return part, {"users (per task) with fewer than three events, not held out": short}


def _last_day(log: Log) -> tuple[np.ndarray, dict[str, int]]:
    time = log.events.time
    variant = log.manifest.get("last_day", "full")
    if variant == "24h":
        # Days that end with the last event instead of at midnight.
        day = -((time.max() - time) // _DAY_MS)
    elif variant in ("full", "partial"):
        day = (time + _SHANGHAI_MS) // _DAY_MS
    else:
        raise unknown(f"last day in the manifest of {log.name}", variant, ("full", "partial", "24h"))
    last = day.max()
    # A day counts as full when events reach into its last hour.
    partial = (time.max() + _SHANGHAI_MS) % _DAY_MS < _DAY_MS - 3_600_000
    test_day = last - 1 if partial and variant == "full" else last
    part = np.zeros(len(time), dtype=np.int8)
    part[day == test_day] = 2
    part[day == test_day - 1] = 1
    part[day > test_day] = -1
    return part, {"rows of the partial last day": int((day > test_day).sum())}


def _global_time(log: Log) -> tuple[np.ndarray, dict[str, int]]:
    time = log.events.time
    ordered = np.sort(time)
    valid_from, test_from = ordered[int(0.8 * len(time))], ordered[int(0.9 * len(time))]
    part = np.zeros(len(time), dtype=np.int8)
    part[time >= valid_from] = 1
    part[time >= test_from] = 2
    return part, {}


def _drop_repeats(log: Log, part: np.ndarray) -> tuple[np.ndarray, int]:
    """Held-out rows whose (user, item) is also trained on are no test of ranking: drop them (real logs repeat)."""
    pair = log.events.user.astype(np.int64) * (len(log.items) + 1) + log.events.item
    # Sorting beats numpy's hash for tens of millions of mostly distinct pairs.
    trained, held = np.sort(pair[part == 0]), np.flatnonzero(part > 0)
    if not len(trained):
        return part, 0
    place = np.minimum(np.searchsorted(trained, pair[held]), len(trained) - 1)
    repeated = held[trained[place] == pair[held]]
    part[repeated] = -1
    return part, len(repeated)
