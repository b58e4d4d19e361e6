"""Logs of tests as prepared data, and what a finding says at a glance."""

import numpy as np

from bench.data.log import Log
from bench.data.sources import SourceEntry
from bench.data.split import split
from bench.experiments.prepared_data import PreparedData


def prepared_of(log: Log, *, synthetic: str = "", keep_repeated: bool = False) -> PreparedData:
    """A log with its leave-one-out split.

    Args:
        log: what is prepared.
        synthetic: what its caption says.
        keep_repeated: as a careless split would, also test rows whose user had the item before.
    """
    chosen = split(log)
    if keep_repeated:
        events = log.events
        last = {}
        for row in range(len(events)):
            last[int(events.user[row]), int(events.task[row])] = row
        test = np.sort(np.fromiter(last.values(), dtype=np.int64))
        chosen = type(chosen)(**{**vars(chosen), "test": test})
    entry = SourceEntry("tastes", "Tastes", "", "leave-one-out", synthetic, "items", "", "bench")
    return PreparedData("tastes", entry, {}, log, chosen)


def loud(findings) -> list[str]:
    """Checks that found something grave, in the order of the findings."""
    return [finding.check for finding in findings if finding.severity != "note"]
