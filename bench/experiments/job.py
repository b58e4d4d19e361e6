"""A job: one fit and its ranking as plain data, carried out by `execute` in any process that sees the folders."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import BenchError, RunError
from bench.experiments.fit_key import fit_key
from bench.experiments.prepared_data import CandidateChoice, DataChoice, candidates_of, open_choice
from bench.experiments.progress import FitView, Reporter
from bench.store import environment
from bench.store.records import REMEDY, Evaluation, RunRecord, now
from bench.store.results import Store, checksums, write_ranks

if TYPE_CHECKING:
    from bench.experiments.fitting import Fitting
    from bench.ranker.context import Listener
    from bench.ranker.ranker import Ranker


@dataclass(frozen=True)
class Job:
    """One fit with complete settings and what it is ranked on. Plain data: it can be pickled and sent anywhere."""

    model: str
    config: dict[str, Any]  # every setting of the model
    tasks: tuple[str, ...]  # that it serves
    seed: int
    budget: str
    data: DataChoice
    candidates: tuple[CandidateChoice, ...]
    device: str
    threads: int
    out: str  # absolute path of the results folder
    code: str  # hash of the sources that decide the fit
    validation_rows: int = 0  # at most so many per task, 0 means all
    force: bool = False  # fit anew although the run is there
    tuned: str = ""  # the search that found the settings, for the record
    command: str = ""  # the command line, for the record
    top_lists: bool = False  # also keep the best candidates of every row

    @cached_property
    def key(self) -> str:
        """Identity of the fit, see `fit_key`."""
        return fit_key(self)

    @property
    def id(self) -> str:
        """Name of the run's folder."""
        return f"{self.model.replace(':', '-')}-s{self.seed}-{self.key[:12]}"

    @property
    def path(self) -> str:
        """How commands name the run: "<data set>/<run id>"."""
        return f"{self.data.name}/{self.id}"

    @property
    def label(self) -> str:
        """For the terminal."""
        return f"{self.model} (seed {self.seed})"


@dataclass(frozen=True)
class JobResult:
    """What `execute` gives back: the run's record, and what there was to do for it."""

    record: RunRecord
    work: Literal["fitted", "ranked", "none"]


def execute(job: Job, listener: "Listener | None" = None, reporter: Reporter | None = None) -> JobResult:
    """Fit and rank what is missing of a job; the results are in its folder at the end.

    Everything that a job needs is opened here; what one process opens once serves its further jobs. While another
    process works on the same run, this one waits and uses its result.

    Args:
        job: what to do.
        listener: hears of every check of the fit; a string that it returns ends the fit and stands in the record as
            `ended_by`.
        reporter: shows the progress; silent by default.

    Raises:
        RunError: the data, the sources or the folders are not those of the job, or the model fails.
    """
    reporter = reporter or Reporter()
    store = Store(job.out)
    waited: list[str] = []

    def waiting(line: str) -> None:
        waited.append(line)
        reporter.note(f"{job.label}: {line}; waiting for it")

    with store.locked(job.data.name, job.id, waiting), _removed_on_failure(store.part(job.data.name, job.id)):
        record = None if job.force else store.finished(job.data.name, job.id)
        if record is None:
            return JobResult(_fit_and_rank(job, store, listener, reporter), "fitted")
        missing = unranked(record, job.candidates, job.top_lists)
        if missing:
            fitting = fitting_of(job, store.folder(job.data.name, job.id))
            record = rank_run(store, record, fitting, missing, reporter, job.label, job.top_lists)
            return JobResult(record, "ranked")
        by = "another process has finished it" if waited else "there already"
        reporter.note(f"{job.label}: {by} ({job.id})")
        return JobResult(record, "none")


def _fit_and_rank(job: Job, store: Store, listener: "Listener | None", reporter: Reporter) -> RunRecord:
    from bench.experiments.process import forget_peak_memory, peak_memory_mb

    forget_peak_memory()
    folder = store.part(job.data.name, job.id)
    if job.force:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder.parent}: {error.strerror}; {REMEDY}") from error
    started, clock = now(), time.perf_counter()
    fitting = fitting_of(job, folder)
    with reporter.fit(job.label, job.config.get("patience")) as view:
        model, facts, evidence = fitting.fit(view, listener, job.validation_rows)
        record = RunRecord(
            id=job.id,
            fit_key=job.key,
            kind="fit",
            model=job.model,
            title=model.entry.title,
            group=model.entry.group,
            tasks=list(job.tasks),
            seed=job.seed,
            budget=job.budget,
            config=job.config,
            dataset=fitting.prepared.record(),
            device=job.device,
            threads=job.threads,
            code=job.code,
            fit=facts,
            files=checksums(folder),
            evidence=evidence
            | ({"validation rows per task": job.validation_rows} if job.validation_rows else {})
            | ({"tuned": job.tuned} if job.tuned else {}),
            environment=environment.facts() | {"command": job.command},
            started=started,
            seconds=time.perf_counter() - clock,
            peak_memory_mb=peak_memory_mb(),
        )
        for choice in job.candidates:
            record.evaluations[choice.fingerprint] = _ranked(store, fitting, model, choice, view, job.top_lists)
    record.finished = now()
    store.write(folder, record)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    store.publish(job.data.name, job.id)
    return record


def unranked(record: RunRecord, choices: Sequence[CandidateChoice], top_lists: bool = False) -> list[CandidateChoice]:
    """The candidates on which a run is still to be ranked; with `top_lists` also those of which it has no lists."""
    there = {name: one for name, one in record.evaluations.items() if one.lists or not top_lists}
    return [choice for choice in choices if choice.fingerprint not in there]


def rank_run(
    store: Store,
    record: RunRecord,
    fitting: "Fitting",
    choices: list[CandidateChoice],
    reporter: Reporter,
    label: str,
    top_lists: bool = False,
) -> RunRecord:
    """Rank a finished fit on further candidates. The caller holds the run's lock.

    Args:
        store: the results folder.
        record: of the run; gets the evaluations and is written after each.
        fitting: the model and its data, with the folder of the run.
        choices: what to rank on.
        reporter: shows the progress.
        label: of the run, for the reporter.
        top_lists: also keep the best candidates of every row.

    Raises:
        RunError: the weights are not those of the record, or the model fails.
    """
    model = fitting.load()
    with reporter.fit(f"{label} ranking") as view:
        for choice in choices:
            record.evaluations[choice.fingerprint] = _ranked(store, fitting, model, choice, view, top_lists)
            store.write(fitting.folder, record)
    return record


def fitting_of(job: Job, folder: Path) -> "Fitting":
    """The job with its data opened and its model imported.

    Raises:
        RunError: the sources of this process are not those of the job.
    """
    from bench.experiments.process import configure_torch

    configure_torch(job.threads)
    from bench.experiments.code_hash import fit_sources
    from bench.experiments.fitting import Fitting
    from bench.ranker import registry

    cls = registry.get(job.model)
    here = fit_sources(cls.__module__, "backbone" in job.config)
    if here != job.code:
        raise RunError(f"{job.label} is meant for other sources ({job.code}) than those of this process ({here})")
    return Fitting(
        name=job.model,
        cls=cls,
        config=cls.Config(**job.config),
        tasks=job.tasks,
        seed=job.seed,
        prepared=open_choice(job.data),
        device=job.device,
        threads=job.threads,
        folder=folder,
    )


def _ranked(
    store: Store, fitting: "Fitting", model: "Ranker", choice: CandidateChoice, view: FitView, top_lists: bool
) -> Evaluation:
    """Rank the test rows on a candidate set; the ranks and the candidates are in the results folder afterwards."""
    clock = time.perf_counter()
    candidates = candidates_of(fitting.prepared, choice)
    candidates.save(store.candidates(fitting.prepared.name), fitting.prepared.split)
    ranks, lists = fitting.rank(model, candidates, view, top_lists)
    leaks = fitting.prepared.leaks(candidates)
    seconds = time.perf_counter() - clock
    return write_ranks(ranks, fitting.folder, fitting.name, candidates, leaks, seconds, lists)


@contextmanager
def _removed_on_failure(part: Path) -> Iterator[None]:
    """Remove the folder of a run that fails, unless there is something in it to go on from."""
    try:
        yield
    except BenchError:
        if not (part / "checkpoint.pt").exists():
            shutil.rmtree(part, ignore_errors=True)
        raise
