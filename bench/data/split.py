"""Which events are trained on, which validate, which test; and what each of them may look back at."""

from dataclasses import dataclass

import numpy as np

from bench.data.log import TASKS, Log
from bench.errors import UsageError, unknown

SPLITS = ("leave-one-out", "last-day", "global-time", "given")
PARTS = ("train", "valid", "test")
_DAY_MS = 86_400_000
_TRAIN, _VALID, _TEST, _NOWHERE = 0, 1, 2, -1


@dataclass(frozen=True)
class LogSplit:
    """Row numbers into `log.events` for each part, ascending. `dropped` counts rows that serve no part, by reason."""

    log: Log
    name: str
    train: np.ndarray  # (n,) int64
    valid: np.ndarray
    test: np.ndarray
    dropped: dict[str, int]
    # Of `last-day`: the time zone whose days are meant.
    time_zone: str | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part)):,} {part}" for part in PARTS)
        return f"LogSplit({self.log.name}, {self.label}: {sizes}, {sum(self.dropped.values()):,} dropped)"

    @property
    def label(self) -> str:
        """The name with the time zone where it matters, as `split` reads it: what records and tables say."""
        return f"{self.name}:{self.time_zone}" if self.time_zone else self.name

    def rows(self, part: str, task: str | None = None) -> np.ndarray:
        """Rows of a part ('train', 'valid', 'test'), of one task or of both."""
        rows = getattr(self, part)
        return rows if task is None else rows[self.log.events.task[rows] == TASKS.index(task)]

    def counts(self) -> dict[str, int]:
        """Rows by part and task, and dropped rows by reason."""
        return {f"{part}/{task}": len(self.rows(part, task)) for part in PARTS for task in TASKS} | {
            f"dropped/{reason}": count for reason, count in self.dropped.items()
        }


def split(log: Log, name: str = "leave-one-out", *, allow_empty: bool = False) -> LogSplit:
    """Split a Log.

    `leave-one-out`: the last event (act) of each user and task is test, the second last validation; where every
    purchase is in both tasks (mode `mirror`) the last and second last event of the user are, in both tasks.
    `last-day`: the last full day is test, the day before validation; a partial day after it is dropped. Days are those
    of the time zone in the name (`last-day:Europe/Berlin`), else of the data set (`time_zone` in the manifest), else
    UTC. The manifest may say otherwise (`last_day`): `partial` tests on the last day however short it is, `24h` on the
    last 24 hours and validates on the 24 hours before them.
    `global-time`: events after 90 % of all are test, those from 80 % validation.
    `given`: the split that the source brings (`events.part`).

    Rows that would tell a model what is held out, or test nothing, are dropped and counted: training rows that are not
    earlier than the user's first held-out event, so that no training history can hold a held-out event; rows of an
    event that goes on in a later part; held-out rows whose user and item are a training pair, validation rows whose
    user and item are a test pair; held-out rows of users without training rows.

    Args:
        log: the Log.
        name: of the split.
        allow_empty: whether a split without test rows is returned.

    Raises:
        UsageError: the name or its time zone is unknown, the data do not have what the split needs, or no test row is
            left; the message says why.
    """
    name, _, zone = name.partition(":")
    if name not in SPLITS:
        raise UsageError(f"unknown split '{name}'; known: {', '.join(SPLITS)}")
    if zone and name != "last-day":
        raise UsageError(f"the split {name} takes no time zone, only last-day does")
    if name in ("last-day", "global-time") and log.manifest.get("times") == "order":
        raise UsageError(f"{log.name} has no times (order stands for them); use leave-one-out or given")
    if name == "given" and log.events.part is None:
        raise UsageError(f"{log.name} brings no split of its own; use one of {', '.join(SPLITS[:-1])}")
    time_zone = (zone or log.manifest.get("time_zone", "UTC")) if name == "last-day" else None
    dropped: dict[str, int] = {}
    part = np.zeros(0, dtype=np.int8)
    if len(log.events):
        if name == "leave-one-out":
            part, dropped = _leave_one_out(log)
        elif time_zone:
            part, dropped = _last_day(log, time_zone)
        elif name == "global-time":
            part, dropped = _global_time(log)
        elif log.events.part is not None:
            part, dropped = log.events.part.copy(), {"history-only rows": int((log.events.part < 0).sum())}
    held = int((part == _TEST).sum())
    dropped |= _drop_leaks(log, part)
    train, valid, test = (np.flatnonzero(part == code) for code in (_TRAIN, _VALID, _TEST))
    result = LogSplit(log, name, train, valid, test, dropped, time_zone)
    if not len(result.test) and not allow_empty:
        raise UsageError(f"{log.name}: no test rows under the split {result.label}, because {_reason(result, held)}")
    return result


def _reason(result: LogSplit, held: int) -> str:
    """Why a split has no test rows; `held` of them there were before any was dropped."""
    events, counts = result.log.events, result.dropped
    if not len(events):
        return "the log has no events"
    if held:
        causes = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items() if count)
        same = "; all events have one time" if events.time.min() == events.time.max() else ""
        return f"none of {held:,} is left ({causes}){same}"
    if result.name == "leave-one-out":
        return "no user has three events of a task" if result.log.mode != "mirror" else "no user has three events"
    if result.name == "given":
        return "the source marks none"
    return "no event falls on the day to test on"


def _drop_leaks(log: Log, part: np.ndarray) -> dict[str, int]:
    """Set the rows that no part may hold to -1 in `part` (E,); their number by reason."""
    user, event = log.events.user, log.events.event_id
    dropped = {}

    def drop(reason: str, rows: np.ndarray) -> None:
        part[rows] = _NOWHERE
        dropped[reason] = len(rows)

    held = np.flatnonzero(part > _TRAIN)
    first_held = np.full(len(log.users) + 1, len(user), dtype=np.int64)
    np.minimum.at(first_held, user[held], held)
    late = (part == _TRAIN) & (np.arange(len(user)) > first_held[user])
    drop("training rows after the user's first held-out event", np.flatnonzero(late))
    last_part = np.full(int(event.max(initial=0)) + 1, _NOWHERE, dtype=np.int8)
    np.maximum.at(last_part, event, part)
    drop("rows of an event that goes on in a later part", np.flatnonzero((part >= 0) & (part < last_part[event])))
    pair = user.astype(np.int64) * (len(log.items) + 1) + log.events.item
    drop("held-out rows whose user and item are a training pair", _repeated(pair, part > _TRAIN, part == _TRAIN))
    drop("validation rows whose user and item are a test pair", _repeated(pair, part == _VALID, part == _TEST))
    trained = np.zeros(len(log.users) + 1, dtype=bool)
    trained[user[part == _TRAIN]] = True
    drop("held-out rows of users without training rows", np.flatnonzero((part > _TRAIN) & ~trained[user]))
    return dropped


def _leave_one_out(log: Log) -> tuple[np.ndarray, dict[str, int]]:
    events = log.events
    part = np.zeros(len(events), dtype=np.int8)
    short = 0
    # One sequence per user in mirror mode (the event is what is held out), else one per user and task.
    for task in (None,) if log.mode == "mirror" else (0, 1):
        rows = np.arange(len(events)) if task is None else np.flatnonzero(events.task == task)
        # An event stands where its first row does, whatever its user does before it ends.
        _, first, of_row = np.unique(events.event_id[rows], return_index=True, return_inverse=True)
        order = np.argsort(first)
        user = events.user[rows[first[order]]]
        end = np.searchsorted(user, user, side="right")
        from_end = end - 1 - np.arange(len(user))
        length = end - np.searchsorted(user, user)
        of_event = np.select([length < 3, from_end == 0, from_end == 1], [_TRAIN, _TEST, _VALID], _TRAIN)
        by_number = np.empty(len(order), dtype=np.int8)
        by_number[order] = of_event
        part[rows] = by_number[of_row]
        short += len(np.unique(user[length < 3]))
    return part, {"users (per task) with fewer than three events, not held out": short}


def _last_day(log: Log, time_zone: str) -> tuple[np.ndarray, dict[str, int]]:
    time = log.events.time
    variant = log.manifest.get("last_day", "full")
    if variant not in ("full", "partial", "24h"):
        raise unknown(f"last day in the manifest of {log.name}", variant, ("full", "partial", "24h"))
    local = local_times(time, time_zone)
    # Days that end at midnight, or with the last event.
    day = -((time.max() - time) // _DAY_MS) if variant == "24h" else local // _DAY_MS
    last = day.max()
    # A day counts as full when events reach into its last hour.
    partial = local.max() % _DAY_MS < _DAY_MS - 3_600_000
    test_day = last - 1 if partial and variant == "full" else last
    part = np.zeros(len(time), dtype=np.int8)
    part[day == test_day] = _TEST
    part[day == test_day - 1] = _VALID
    part[day > test_day] = _NOWHERE
    return part, {"rows of the partial last day": int((day > test_day).sum())}


def local_times(time: np.ndarray, time_zone: str) -> np.ndarray:
    """Wall-clock times of a zone, (n,) ms since its 1970, daylight saving included.

    Args:
        time: (n,) ms since 1970 UTC.
        time_zone: a name of the IANA data base ("UTC", "Asia/Shanghai").

    Raises:
        UsageError: the zone is unknown.
    """
    from zoneinfo import ZoneInfo

    import pandas as pd

    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"unknown time zone '{time_zone}'; names are those of the IANA data base (Asia/Tokyo)"
        ) from None
    if time_zone == "UTC":
        return time
    local = pd.to_datetime(time, unit="ms", utc=True).tz_convert(zone).tz_localize(None)
    return local.as_unit("ms").asi8


def _global_time(log: Log) -> tuple[np.ndarray, dict[str, int]]:
    time = log.events.time
    ordered = np.sort(time)
    valid_from, test_from = ordered[int(0.8 * len(time))], ordered[int(0.9 * len(time))]
    part = np.zeros(len(time), dtype=np.int8)
    part[time >= valid_from] = _VALID
    part[time >= test_from] = _TEST
    return part, {}


def _repeated(pair: np.ndarray, looked_at: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Rows of the mask `looked_at` whose pair also stands in the mask `known`: they test no ranking (real logs repeat)."""
    # Sorting beats numpy's hash for tens of millions of mostly distinct pairs.
    wanted, there = np.flatnonzero(looked_at), np.sort(pair[known])
    if not len(there):
        return wanted[:0]
    index = np.minimum(np.searchsorted(there, pair[wanted]), len(there) - 1)
    return wanted[there[index] == pair[wanted]]
