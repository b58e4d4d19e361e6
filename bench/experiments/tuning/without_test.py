"""The data of a search: a prepared log of its own in which no test row is left, so that no trial can open one.

Taken out are the rows of the test part, all rows of their events, and every other row of a user and an item that is a
test pair; the reviews of those events and what their sessions displayed go with them. Ids, training rows and
validation rows stay as they are. The negatives of a validation row may now hold an item that its user touches in a
test row, since nothing here knows of it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.data import log as logs
from bench.data import sources, split
from bench.data.log import Log, WordBags
from bench.data.ragged import Ragged
from bench.data.split import PARTS, LogSplit
from bench.errors import RunError
from bench.experiments.prepared_data import PreparedData
from bench.files import exclusive_folder


@dataclass(frozen=True)
class SearchData:
    """A log without test rows as plain data."""

    name: str  # of the data set
    options: dict[str, Any]
    folder: str
    fingerprint: str
    root: str

    def open(self) -> PreparedData:
        """Open it; the split has training and validation rows only.

        Raises:
            RunError: it is missing or damaged, or holds other data.
        """
        log = logs.load(Path(self.folder))
        if log.fingerprint != self.fingerprint:
            raise RunError(f"{self.folder} holds other data than the search is meant for; remove that folder")
        chosen = split.split(log, "given", allow_empty=True)
        entry = sources.entry(self.name)
        return PreparedData(self.name, entry, self.options, log, chosen, Path(self.root))


def search_data(prepared: PreparedData) -> SearchData:
    """The data of a search on a data set and its split, written once below the data folder."""
    root = sources.data_root(prepared.root)
    label = prepared.split.label.replace("/", "-").replace(":", "-")
    folder = root / "without-test" / f"{prepared.entry.name.rstrip(':')}-{prepared.log.fingerprint[:16]}-{label}"
    with exclusive_folder(folder, "the log without test rows"):
        if not (folder / "manifest.json").exists():
            without_test(prepared.split).save(folder)
    log = logs.load(folder)
    return SearchData(prepared.name, prepared.options, str(folder), log.fingerprint, str(root))


def without_test(of: LogSplit) -> Log:
    """The log of a split without everything that belongs to its test rows, and with the split as `given` parts."""
    log, events = of.log, of.log.events
    pair = events.user.astype(np.int64) * (len(log.items) + 1) + events.item
    gone = np.isin(events.event_id, events.event_id[of.test]) | np.isin(pair, pair[of.test])
    part = np.full(len(events), -1, dtype=np.int8)
    for code, name in enumerate(PARTS):
        part[of.rows(name)] = code
    kept = np.flatnonzero(~gone)
    known = replace(events, part=part).take(kept)
    lost_events, lost_sessions = np.unique(events.event_id[gone]), np.setdiff1d(events.session[gone], known.session)
    reviews = log.reviews and WordBags(
        _emptied(log.reviews.words, lost_events), _emptied(log.reviews.counts, lost_events)
    )
    shown = None if log.shown is None else _emptied(log.shown, lost_sessions)
    manifest = {name: value for name, value in log.manifest.items() if name not in ("files", "fingerprint", "counts")}
    manifest |= {"without_test": {"data": log.fingerprint, "split": of.label, "rows": int(gone.sum())}}
    return replace(log, events=known, manifest=manifest, reviews=reviews, shown=shown)


def _emptied(lists: Ragged, rows: np.ndarray) -> Ragged:
    """Ragged lists with nothing in some rows."""
    keep = ~np.isin(np.arange(len(lists)), rows)
    lengths = np.where(keep, lists.lengths, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(offsets, lists.values[np.repeat(keep, lists.lengths)])
