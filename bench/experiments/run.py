"""`bench run`: every model on the same events, candidates and budget; what is there is not repeated."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.data import sources
from bench.data.log import TASKS
from bench.errors import BenchError, NothingToReadError, UsageError, unknown
from bench.evaluation.candidates import STRATEGIES, CandidateSet
from bench.experiments import settings
from bench.experiments.progress import Reporter
from bench.experiments.settings import Overrides
from bench.ranker import registry
from bench.store import environment
from bench.store.records import CommandRecord, RunRecord, now
from bench.store.results import Store


@dataclass
class Request:
    """Everything that `bench run` takes, in the words of the command line."""

    models: str
    dataset: Sequence[str] = ("ml-100k",)
    tasks: tuple[str, ...] | None = None
    split: str | None = None
    mode: str | None = None
    candidates: tuple[str, ...] = ("uniform",)
    candidate_seed: int = 0
    seeds: tuple[int, ...] = (0,)
    overrides: Overrides = field(default_factory=Overrides)
    budget: str = "quick"
    device: str = "auto"
    threads: int = 0
    force: bool = False
    trivial: bool = True
    out: str | Path = "results/local"
    data: str | Path | None = None
    tracking_uri: str | None = None
    debug: bool = False


@dataclass
class Outcome:
    """What a command did: its record, the runs by "<data set>/<run id>", and what failed with the reason."""

    command: CommandRecord
    store: Store
    runs: dict[str, RunRecord]
    fresh: int

    @property
    def failed(self) -> dict[str, str]:
        return self.command.failed


def run(request: Request, reporter: Reporter | None = None, table: Callable[[Store], str] | None = None) -> Outcome:
    """Check all of a request, then fit and rank; a model that fails does not stop the others.

    Args:
        table: makes the comparison table of a results folder as Markdown, for the MLflow view; None leaves it out.

    Raises:
        UsageError: something in the request cannot be; nothing has been started then.
    """
    reporter = reporter or Reporter()
    _check(request)
    store = Store(request.out)
    store.check_writable()
    # Everything below is heavy; a wrong request has been refused by now.
    from bench.experiments.fit import Job
    from bench.experiments.prepared_data import PreparedData, open_candidates, open_data, tasks_of

    threads = configure_torch(request.threads)
    device = settings.device(request.device)
    plan: list[tuple[PreparedData, list[Job], list[CandidateSet]]] = []
    for name in dict.fromkeys(request.dataset):
        prepared = open_data(
            name, root=request.data, split_name=request.split, mode=request.mode, overrides=request.overrides
        )
        tasks = tasks_of(prepared, request.tasks)
        names = registry.select(request.models, tasks, request.trivial)
        classes = {model: registry.get(model) for model in names}
        settings.check_train_keys(request.overrides, classes)
        request.overrides.check(
            names, list(request.dataset), {sources.entry(entry).name.rstrip(":"): entry for entry in request.dataset}
        )
        sets = [open_candidates(prepared, spec, tasks, request.candidate_seed) for spec in request.candidates]
        jobs = []
        for model, cls in classes.items():
            config = settings.model_config(cls, model, request.budget, request.overrides, prepared.entry.name)
            serves = tuple(task for task in tasks if task in cls.entry.tasks)  # type: ignore[attr-defined]
            jobs += [
                Job(model, cls, config, serves, seed, request.budget, prepared, device, threads)
                for seed in request.seeds
            ]
        plan.append((prepared, jobs, sets))
    command = CommandRecord(
        id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        line=environment.command_line(),
        started=now(),
        datasets=[prepared.name for prepared, _, _ in plan],
        models=list(dict.fromkeys(job.name for _, jobs, _ in plan for job in jobs)),
        seeds=list(request.seeds),
        budget=request.budget,
        candidates=[entry.fingerprint for _, _, sets in plan for entry in sets],
    )
    return _execute(request, plan, command, store, reporter, table)


def configure_torch(threads: int) -> int:
    """Set threads and deterministic kernels for this process; returns the number of threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads or allowed
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Deterministic kernels alone are what is wanted; filling every new tensor finds bugs and costs half the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return threads


def _execute(
    request: Request,
    plan: list,
    command: CommandRecord,
    store: Store,
    reporter: Reporter,
    table: Callable[[Store], str] | None,
) -> Outcome:
    from bench.experiments.prepared_data import cautions
    from bench.store.mlflow_view import Tracker

    tracker = Tracker(store, request.tracking_uri)
    tracker.start(command)
    runs: dict[str, RunRecord] = {}
    fresh = 0
    named = {part.strip() for part in request.models.split(",")}
    try:
        for prepared, jobs, sets in plan:
            for entry in sets:
                entry.save(store.candidates(prepared.name), prepared.split)
            reporter.note(_describe(prepared, sets, jobs))
            for caution in cautions(prepared, sets):
                reporter.warn(caution)
            for job in jobs:
                place = f"{prepared.name}/{job.id}"
                try:
                    with (
                        store.locked(prepared.name, job.id, lambda line: reporter.note(f"{line}; waiting for it")),
                        _cleared(store.part(prepared.name, job.id)),
                    ):
                        record, worked = _one(job, sets, store, reporter, request)
                except BenchError as error:
                    if isinstance(error, NothingToReadError) and job.name not in named:
                        reporter.note(f"{job.label}: left out: {error}")
                        continue
                    if request.debug:
                        raise
                    command.failed[place] = str(error)
                    reporter.warn(f"{job.label}: {error}")
                    tracker.fail(place, str(error), command)
                    continue
                fresh += worked
                runs[place] = record
                command.runs.append(place)
                tracker.log_run(store.folder(prepared.name, job.id), record, command)
                store.write_command(command)
        command.finished = now()
        store.write_command(command)
    except BaseException:
        tracker.finish(command, "", "KILLED")
        raise
    tracker.finish(command, _table(store, table, reporter) if runs and table else "")
    return Outcome(command, store, runs, fresh)


@contextmanager
def _cleared(part: Path) -> Iterator[None]:
    """Remove the folder of a run that fails, unless there is something in it to go on from."""
    try:
        yield
    except BenchError:
        if not (part / "checkpoint.pt").exists():
            shutil.rmtree(part, ignore_errors=True)
        raise


def _table(store: Store, table: Callable[[Store], str], reporter: Reporter) -> str:
    """The command's table for MLflow. The runs are complete without it, so what is wrong with it is a warning."""
    try:
        return table(store)
    except BenchError as error:
        reporter.warn(f"no table: {error}")
        return ""


def _one(
    job: Any, sets: list[CandidateSet], store: Store, reporter: Reporter, request: Request
) -> tuple[RunRecord, bool]:
    """Fit what is missing, rank what is missing; returns the record and whether there was anything to do."""
    from bench.experiments import fit

    name = job.prepared.name
    wanted = [entry for entry in sets if set(entry.meta["tasks"]) & set(job.tasks)]
    record = None if request.force else store.finished(name, job.id)
    if record is None:
        with reporter.fit(job.label) as view:
            ranker, record, folder = fit.fit(job, store, view, fresh=request.force, root=request.data)
            for entry in wanted:
                record.evaluations[entry.fingerprint] = fit.evaluate(ranker, job, entry, folder, view)
        record.finished = now()
        store.write(folder, record)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        store.publish(name, job.id)
        return record, True
    missing = [entry for entry in wanted if entry.fingerprint not in record.evaluations]
    if not missing:
        reporter.note(f"{job.label}: there already ({job.id})")
        return record, False
    folder = store.folder(name, job.id)
    ranker = fit.load(job, folder, request.data)
    with reporter.fit(f"{job.label} ranking") as view:
        for entry in missing:
            record.evaluations[entry.fingerprint] = fit.evaluate(ranker, job, entry, folder, view)
            store.write(folder, record)
    return record, True


def _check(request: Request) -> None:
    """Everything about a request that needs no data."""
    if not request.dataset:
        raise UsageError("no data set given; name one with --dataset, see `bench data list`")
    for name in request.dataset:
        sources.entry(name)
    for task in request.tasks or ():
        if task not in TASKS:
            raise unknown("task", task, TASKS)
    if not request.seeds:
        raise UsageError("no seeds given; --seeds 0 or --seeds 0,1,2")
    if not request.candidates:
        raise UsageError("no candidates given; --candidates uniform")
    for spec in request.candidates:
        if spec not in STRATEGIES and not spec.startswith("given:"):
            raise unknown("candidates", spec, [*STRATEGIES, "given:PATH"])
    registry.select(request.models, request.tasks or TASKS, request.trivial)


def _describe(prepared: Any, sets: list[CandidateSet], jobs: list) -> str:
    counts = prepared.split.counts()
    rows = ", ".join(f"{counts[f'test/{task}']} {task}" for task in prepared.tasks)
    lists = ", ".join(f"{entry.label} ({entry.fingerprint[:12]})" for entry in sets)
    made_up = f"; synthetic: {prepared.synthetic}" if prepared.synthetic else ""
    return f"{prepared.title}: test rows {rows}; candidates {lists}{made_up}; {len(jobs)} runs"
