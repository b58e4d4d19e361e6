"""A data set as a command uses it: Log, split, batches, candidates; opened once."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data import log as logs
from bench.data import sources, split
from bench.data.few_users import few_test_users
from bench.data.log import TASKS, Log
from bench.data.split import LogSplit
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import SEARCH_ONLY, CandidateSet, draw
from bench.experiments.code_hash import module_sources
from bench.experiments.settings import Overrides
from bench.files import write_atomically
from bench.store.records import DatasetFacts

if TYPE_CHECKING:
    from bench.data.batch import Batches
    from bench.data.catalog import Catalog

_REMEMBERED = 8  # data sets that a process holds open


@dataclass(frozen=True)
class DataChoice:
    """A prepared data set and its split as plain data."""

    name: str  # as on the command line
    options: dict[str, Any]  # of the data source
    folder: str  # absolute path of the prepared log
    fingerprint: str  # of the log
    split: str
    root: str  # absolute path of the data folder


@dataclass(frozen=True)
class CandidateChoice:
    """Test candidates as plain data."""

    spec: str  # a strategy or `given:PATH` with an absolute path
    tasks: tuple[str, ...]  # of the command
    seed: int
    fingerprint: str


@dataclass
class PreparedData:
    """An opened data set. What needs torch is made when it is asked for."""

    name: str
    entry: sources.SourceEntry
    options: dict[str, Any]
    log: Log
    split: LogSplit
    root: str | Path | None = None
    _leaks: dict[str, Any] = field(default_factory=dict, repr=False)
    _candidates: dict[CandidateChoice, CandidateSet] = field(default_factory=dict, repr=False)

    @cached_property
    def batches(self) -> "Batches":
        """Tensors of rows."""
        from bench.data.batch import Batches

        return Batches(self.split)

    @cached_property
    def catalog(self) -> "Catalog":
        """Tensors of items, queries and users."""
        from bench.data.catalog import Catalog

        return Catalog(self.log)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with test rows."""
        return tuple(task for task in TASKS if len(self.split.rows("test", task)))

    @property
    def title(self) -> str:
        """What captions call the data: the source's title and, where the name has one, its argument."""
        argument = self.name.removeprefix(self.entry.name) if self.entry.name.endswith(":") else ""
        return f"{self.entry.title}: {argument}" if argument else self.entry.title

    @property
    def synthetic(self) -> str:
        """What is made up in the data, for every caption; generated raw files say so of themselves."""
        return self.log.manifest.get("synthetic", self.entry.synthetic)

    def leaks(self, candidates: CandidateSet) -> dict[str, Any]:
        """All counters; those of the split are counted once."""
        from bench.evaluation import leaks

        if not self._leaks:
            self._leaks = self._split_leaks()
        return self._leaks | leaks.candidate_counters(self.split, candidates)

    def _split_leaks(self) -> dict[str, Any]:
        """Minutes on millions of rows, and the same for every command on this Log, split and code: kept under the root."""
        from bench.evaluation import leaks

        code = module_sources(leaks.__name__)
        label = self.split.label.replace("/", "-").replace(":", "-")
        path = sources.data_root(self.root) / "cache" / f"leaks-{self.log.fingerprint[:24]}-{label}-{code}.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            counted = leaks.split_counters(self.batches)
        with suppress(RunError):  # a cache that cannot be written costs time, never a result
            write_atomically(path, lambda scratch: scratch.write_text(json.dumps(counted)))
        return counted

    def candidate_tasks(self, choice: CandidateChoice) -> tuple[str, ...]:
        """Tasks whose rows have lists in a candidate set."""
        return tuple(candidates_of(self, choice).meta["tasks"])

    def choice(self) -> DataChoice:
        """This data set as plain data, from which `open_choice` opens it in any process.

        Raises:
            RunError: the log is not stored under the data folder.
        """
        root = sources.data_root(self.root)
        folder = log_folder(self.log, root)
        if folder is None:
            raise RunError(f"the prepared log of {self.name} is no longer under {root}; repeat the command")
        return DataChoice(self.name, self.options, str(folder), self.log.fingerprint, self.split.label, str(root))

    def record(self) -> DatasetFacts:
        """What a run's record says of the data."""
        return {
            "name": self.name,
            "title": self.title,
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
    """Load (or prepare) a data set and split it, also for the further jobs of this process.

    Args:
        name: of the data set, with its argument.
        root: data folder; None for the default one.
        split_name: None for the source's own.
        mode: of the preparation; None for the source's own.
        overrides: settings by name; those of this data set are used.

    Raises:
        UsageError: an unknown name, setting or split. RunError: raw files are missing or bad, the log is damaged.
    """
    entry = sources.entry(name)
    given = overrides or Overrides()
    options = given.of_data(name) | ({"mode": mode} if mode else {})
    log = sources.load(name, options, root)
    chosen = split.split(log, split_name or entry.split)
    text_split = log.manifest["config"].get("text_split", "every")
    if text_split not in ("every", chosen.name):
        raise UsageError(
            f"{name} was prepared with the text of the {text_split} split and would leak under {chosen.name}; "
            f"set {entry.name.rstrip(':')}.text_split=every or {chosen.name}"
        )
    prepared = PreparedData(name, entry, options, log, chosen, root)
    _remember(prepared)
    return prepared


def open_choice(choice: DataChoice) -> PreparedData:
    """The data set of a job, opened once per process; its raw files are not needed.

    Raises:
        RunError: the log is missing, damaged, or another one than the job is meant for.
    """
    opened = _OPENED.get(_identity(choice.name, choice.fingerprint, choice.split, choice.options))
    if opened is not None:
        return opened
    log = logs.load(Path(choice.folder))
    if log.fingerprint != choice.fingerprint:
        raise RunError(f"{choice.folder} holds other data ({log.fingerprint[:12]}) than the job is meant for")
    chosen = split.split(log, choice.split)
    entry = sources.entry(choice.name)
    prepared = PreparedData(choice.name, entry, choice.options, log, chosen, Path(choice.root))
    _remember(prepared)
    return prepared


_OPENED: OrderedDict[str, PreparedData] = OrderedDict()


def _remember(prepared: PreparedData) -> None:
    identity = _identity(prepared.name, prepared.log.fingerprint, prepared.split.label, prepared.options)
    _OPENED[identity] = prepared
    _OPENED.move_to_end(identity)
    while len(_OPENED) > _REMEMBERED:
        _OPENED.popitem(last=False)


def _identity(name: str, fingerprint: str, split_name: str, options: dict[str, Any]) -> str:
    return json.dumps([name, fingerprint, split_name, options], sort_keys=True, default=str)


def log_folder(log: Log, root: str | Path | None = None) -> Path | None:
    """The folder under the data root that holds this log; None where it is not stored."""
    return prepared_folder(log.fingerprint, root)


def prepared_folder(fingerprint: str, root: str | Path | None = None) -> Path | None:
    """The folder under the data root with the prepared log of this fingerprint; None where there is none."""
    for path in sorted((sources.data_root(root) / "prepared").glob("*/manifest.json")):
        try:
            if json.loads(path.read_text()).get("fingerprint") == fingerprint:
                return path.parent
        except (OSError, ValueError):
            continue  # another log's folder: `bench data prepare` of that one says what is wrong with it
    return None


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


def cautions(prepared: PreparedData, candidate_sets: Sequence[CandidateSet]) -> list[str]:
    """What a reader of the results has to know of the test rows: too few of them, and which were left out."""
    notes = [f"{prepared.name}: {note}" for note in few_test_users(prepared.split)]
    for candidates in candidate_sets:
        if left_out := candidates.meta.get("left_out"):
            notes.append(
                f"{prepared.name}: {candidates.label} candidates leave out {left_out['rows']:,} test rows, whose users have "
                f"too few items left that they never touched (users {left_out['users']})"
            )
    return notes


def open_candidates(prepared: PreparedData, spec: str, tasks: tuple[str, ...], seed: int) -> CandidateSet:
    """The test candidates of a strategy name or `given:PATH`, for a command on `tasks`.

    They are drawn for all tasks of the data set, whatever the command asks for, so that the runs of one task and the
    runs of both are ranked on the same set.

    Raises:
        UsageError: the strategy does not fit the data or the tasks. RunError: the file is not readable.
    """
    if spec.startswith("given:"):
        from bench.evaluation.given import read_lists

        lists = read_lists(Path(spec.removeprefix("given:")), prepared.split, prepared.tasks)
        if not set(lists.meta["tasks"]) & set(tasks):
            raise UsageError(f"--candidates {spec}: the file has lists for {' and '.join(lists.meta['tasks'])} only")
        return lists
    if spec in SEARCH_ONLY and "search" not in tasks:
        raise UsageError(f"{spec} candidates are for search rows; add search to --tasks or use uniform")
    return draw(prepared.split, "test", prepared.tasks, spec, seed)


def choose_candidates(prepared: PreparedData, spec: str, tasks: tuple[str, ...], seed: int) -> CandidateChoice:
    """Test candidates as plain data; arguments and errors as in `open_candidates`."""
    candidates = open_candidates(prepared, spec, tasks, seed)
    if spec.startswith("given:"):
        spec = f"given:{Path(spec.removeprefix('given:')).resolve()}"
    choice = CandidateChoice(spec, tasks, seed, candidates.fingerprint)
    prepared._candidates[choice] = candidates
    return choice


def candidates_of(prepared: PreparedData, choice: CandidateChoice) -> CandidateSet:
    """The candidates of a job, drawn or read once per process.

    Raises:
        RunError: they are not those that the job is meant for.
    """
    if choice not in prepared._candidates:
        candidates = open_candidates(prepared, choice.spec, choice.tasks, choice.seed)
        if candidates.fingerprint != choice.fingerprint:
            raise RunError(
                f"the {choice.spec} candidates of {prepared.name} are now {candidates.fingerprint[:12]}, the job is meant "
                f"for {choice.fingerprint[:12]}"
            )
        prepared._candidates[choice] = candidates
    return prepared._candidates[choice]
