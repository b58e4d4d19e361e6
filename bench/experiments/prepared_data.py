"""A data set as a command uses it: Log, split, batches, candidates; opened once."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import sources, split
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.log import TASKS, Log
from bench.data.split import LogSplit
from bench.errors import UsageError
from bench.evaluation import leaks
from bench.evaluation.candidates import SEARCH_ONLY, CandidateSet, draw
from bench.experiments.settings import Overrides
from bench.store import environment


@dataclass
class PreparedData:
    """An opened data set."""

    name: str
    entry: sources.SourceEntry
    options: dict[str, Any]
    log: Log
    split: LogSplit
    batches: Batches
    catalog: Catalog
    root: str | Path | None = None
    _leaks: dict[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with test rows."""
        return tuple(task for task in TASKS if len(self.split.rows("test", task)))

    @property
    def synthetic(self) -> str:
        """What is made up in the data, for every caption; generated raw files say so of themselves."""
        return self.log.manifest.get("synthetic", self.entry.synthetic)

    def leaks(self, candidates: CandidateSet) -> dict[str, Any]:
        """All counters; those of the split are counted once."""
        if not self._leaks:
            self._leaks = self._split_leaks()
        return self._leaks | leaks.candidate_counters(self.split, candidates)

    def _split_leaks(self) -> dict[str, Any]:
        """Minutes on millions of rows, and the same for every command on this Log, split and code: kept under the root."""
        code = environment.source_hash(leaks.__name__)
        label = self.split.label.replace("/", "-").replace(":", "-")
        path = sources.data_root(self.root) / "cache" / f"leaks-{self.log.fingerprint[:24]}-{label}-{code}.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            counted = leaks.split_counters(self.batches)
        with suppress(OSError):  # a cache that cannot be written costs time, never a result
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            scratch.write_text(json.dumps(counted))
            os.replace(scratch, path)
        return counted

    def record(self) -> dict[str, Any]:
        """What a run's record says of the data."""
        return {
            "name": self.name,
            "title": self.entry.title,
            "options": self.options,
            "fingerprint": self.log.fingerprint,
            "mode": self.log.mode,
            "split": self.split.label,
            "synthetic": self.synthetic,
            "counts": self.log.manifest["counts"],
            "split_counts": self.split.counts(),
        }


def open_data(
    name: str,
    *,
    root: str | Path | None = None,
    split_name: str | None = None,
    mode: str | None = None,
    overrides: Overrides | None = None,
) -> PreparedData:
    """Load (or prepare) a data set and split it; the split is the source's own unless one is asked for."""
    entry = sources.entry(name)
    given = overrides or Overrides()
    options = given.of(entry.name.rstrip(":")) | given.of(name) | ({"mode": mode} if mode else {})
    log = sources.load(name, options, root)
    chosen = split.split(log, split_name or entry.split)
    text_split = log.manifest["config"].get("text_split", "every")
    if text_split not in ("every", chosen.name):
        raise UsageError(
            f"{name} was prepared with the text of the {text_split} split and would leak under {chosen.name}; "
            f"set {entry.name.rstrip(':')}.text_split=every or {chosen.name}"
        )
    return PreparedData(name, entry, options, log, chosen, Batches(chosen), Catalog(log), root)


def tasks_of(prepared: PreparedData, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The tasks of a command on a data set.

    Raises:
        UsageError: the data have no test rows for a task that was asked for.
    """
    if asked is None:
        return prepared.tasks
    missing = [task for task in asked if task not in prepared.tasks]
    if missing:
        raise UsageError(
            f"{prepared.name} has no {missing[0]} rows to test under the split {prepared.split.label}; "
            f"see `bench data stats {prepared.name}`"
        )
    return tuple(task for task in TASKS if task in asked)


def open_candidates(prepared: PreparedData, spec: str, tasks: tuple[str, ...], seed: int) -> CandidateSet:
    """The test candidates of a strategy name or `given:PATH`, for a command on `tasks`.

    They are drawn for all tasks of the data set, whatever the command asks for, so that the runs of one task and the
    runs of both are ranked on the same set.
    """
    if spec.startswith("given:"):
        from bench.evaluation.given import read_lists

        made = read_lists(Path(spec.removeprefix("given:")), prepared.split, prepared.tasks)
        if not set(made.meta["tasks"]) & set(tasks):
            raise UsageError(f"--candidates {spec}: the file has lists for {' and '.join(made.meta['tasks'])} only")
        return made
    if spec in SEARCH_ONLY and "search" not in tasks:
        raise UsageError(f"{spec} candidates are for search rows; add search to --tasks or use uniform")
    return draw(prepared.split, "test", prepared.tasks, spec, seed)
