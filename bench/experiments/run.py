"""`bench run`: every model on the same events, candidates and budget; what is there is not repeated."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data import sources
from bench.data.log import TASKS
from bench.errors import BenchError, NothingToReadError, UsageError, unknown
from bench.evaluation.candidates import STRATEGIES
from bench.experiments import settings
from bench.experiments.executors.choose import Placement
from bench.experiments.progress import Reporter
from bench.experiments.settings import Overrides
from bench.messages import split_commas
from bench.ranker import registry
from bench.store import environment
from bench.store.records import CommandRecord, RunRecord, now
from bench.store.results import Store

if TYPE_CHECKING:
    from bench.evaluation.candidates import CandidateSet
    from bench.experiments.job import Job
    from bench.experiments.plan import DatasetPlan


@dataclass
class RunRequest:
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
    validation_rows: int = 0
    tuned: bool = False
    device: str = "auto"
    threads: int = 0
    force: bool = False
    trivial: bool = True
    out: str | Path = "results/local"
    data: str | Path | None = None
    tracking_uri: str | None = None
    placement: Placement = field(default_factory=Placement)
    debug: bool = False
    top_lists: bool = False


@dataclass
class CommandResult:
    """What a command did: its record, the runs by "<data set>/<run id>", how many are new, and what failed and why.

    `asked` has the runs of each request, failed ones too.
    """

    command: CommandRecord
    store: Store
    runs: dict[str, RunRecord]
    fresh: int
    asked: list[list[str]]

    @property
    def failed(self) -> dict[str, str]:
        """One line for each run that failed, by "<data set>/<run id>"."""
        return self.command.failed


def run(
    request: RunRequest, reporter: Reporter | None = None, table: Callable[[Store], str] | None = None
) -> CommandResult:
    """Check all of a request, then fit and rank; a model that fails does not stop the others.

    Args:
        request: the words of the command.
        reporter: shows the progress; silent by default.
        table: makes the comparison table of a results folder as Markdown, for the MLflow view; None leaves it out.

    Raises:
        UsageError: something in the request cannot be; nothing has been started then.
    """
    return run_together([request], reporter, table)


def run_together(
    requests: Sequence[RunRequest], reporter: Reporter | None = None, table: Callable[[Store], str] | None = None
) -> CommandResult:
    """Requests that differ in models and settings alone, as one command: what two of them share is fitted once.

    Args:
        requests: at least one.
        reporter: as in `run`.
        table: as in `run`.

    Raises:
        UsageError: something in a request cannot be; nothing has been started then.
    """
    reporter = reporter or Reporter()
    request = requests[0]
    for each in requests:
        check(each)
    store = Store(request.out)
    store.check_writable()
    # Everything below is heavy; a wrong request has been refused by now.
    from bench.experiments.plan import plan_together

    plans = plan_together(requests)
    everything = [part for of_request in plans for part in of_request]
    command = CommandRecord(
        id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        line=environment.command_line(),
        started=now(),
        datasets=list(dict.fromkeys(plan.prepared.name for plan in everything)),
        models=list(dict.fromkeys(job.model for plan in everything for job in plan.jobs)),
        seeds=list(request.seeds),
        budget=request.budget,
        candidates=list(dict.fromkeys(choice.fingerprint for plan in everything for choice in plan.candidates)),
    )
    named = {name for each in requests for name in split_commas(each.models)}
    runs, fresh = _execute_plans(request, everything, named, command, store, reporter, table)
    asked = [[job.path for part in of_request for job in part.jobs] for of_request in plans]
    return CommandResult(command, store, runs, fresh, asked)


def _execute_plans(
    request: RunRequest,
    plans: "list[DatasetPlan]",
    named: set[str],
    command: CommandRecord,
    store: Store,
    reporter: Reporter,
    table: Callable[[Store], str] | None,
) -> tuple[dict[str, RunRecord], int]:
    """Runs by path, and how many of them are new. A model that is not `named` may be left out where it has nothing to read."""
    from bench.experiments.tracking import CommandTracker

    tracker = CommandTracker(store, request.tracking_uri, command)
    runs: dict[str, RunRecord] = {}
    fresh = 0
    try:
        jobs = list({job.path: job for plan in plans for job in plan.jobs}.values())
        _announce(plans, jobs, reporter)
        with closing(request.placement.make(request.debug).run(jobs, reporter)) as outcomes:
            for outcome in outcomes:
                job, result, error = outcome.job, outcome.result, outcome.error
                if result is None:
                    if isinstance(error, NothingToReadError) and job.model not in named:
                        reporter.note(f"{job.label}: left out: {error}")
                        continue
                    command.failed[job.path] = str(error)
                    reporter.warn(f"{job.label}: {error}")
                    tracker.fail(job.path, str(error))
                    continue
                fresh += result.work != "none"
                runs[job.path] = result.record
                command.runs.append(job.path)
                tracker.log_run(store.folder(job.data.name, job.id), result.record, result.work != "none")
                store.write_command(command)
        # Side by side they end in any order; the record keeps that of the request.
        command.runs.sort(key=[job.path for job in jobs].index)
        _look_again(store, jobs, runs, command)
        command.finished = now()
        store.write_command(command)
    except BaseException:
        tracker.finish("", "KILLED")
        raise
    if tracker.writes:
        tracker.finish(_table(store, table, reporter) if runs and table else "")
    return runs, fresh


def _look_again(store: Store, jobs: "list[Job]", runs: dict[str, RunRecord], command: CommandRecord) -> None:
    """Move to the failed runs what is no longer in the results folder at the end of the command."""
    for job in jobs:
        if job.path not in runs:
            continue
        folder = store.folder(job.data.name, job.id)
        files = ["run.json", *(evaluation.ranks for evaluation in runs[job.path].evaluations.values())]
        missing = [name for name in files if not (folder / name).exists()]
        if missing:
            del runs[job.path]
            command.runs.remove(job.path)
            command.failed[job.path] = f"{folder / missing[0]} was removed while the command ran; repeat the command"


def _table(store: Store, table: Callable[[Store], str], reporter: Reporter) -> str:
    """The command's table for MLflow. The runs are complete without it, so what is wrong with it is a warning."""
    try:
        return table(store)
    except BenchError as error:
        reporter.warn(f"no table: {error}")
        return ""


def check(request: RunRequest) -> None:
    """Everything about a request that needs no data."""
    if not request.dataset:
        raise UsageError("no data set given; name one with --dataset, see `bench data list`")
    for name in request.dataset:
        sources.entry(name)
    for task in request.tasks or ():
        if task not in TASKS:
            raise unknown("task", task, TASKS)
    settings.check_seeds(request.seeds)
    settings.check_threads(request.threads)
    request.placement.check()
    for option, value in (("--out", request.out), ("--tracking-uri", request.tracking_uri)):
        if value is not None and not str(value).strip():
            raise UsageError(f"{option} is empty; give it a value or leave it out")
    if request.validation_rows < 0:
        raise UsageError(f"--validation-rows {request.validation_rows}: expected 0 (all of them) or more")
    if not request.candidates:
        raise UsageError("no candidates given; --candidates uniform")
    for spec in request.candidates:
        if spec not in STRATEGIES and not spec.startswith("given:"):
            raise unknown("candidates", spec, [*STRATEGIES, "given:PATH"])
    registry.select(request.models, request.tasks or TASKS, request.trivial)


def _announce(plans: "list[DatasetPlan]", jobs: "list[Job]", reporter: Reporter) -> None:
    """Say once per data set what will be done, and what to beware of."""
    from bench.experiments.prepared_data import candidates_of, cautions

    for plan in {id(plan.prepared): plan for plan in plans}.values():
        prepared, data = plan.prepared, plan.prepared.choice()
        candidates = [candidates_of(prepared, each) for each in plan.candidates]
        reporter.note(_describe(plan, candidates, sum(job.data == data for job in jobs)))
        for remark in prepared.log.manifest.get("remarks", ()):
            reporter.note(f"{prepared.name}: {remark}")
        for caution in cautions(prepared, candidates):
            reporter.warn(caution)


def _describe(plan: "DatasetPlan", candidates: "list[CandidateSet]", runs: int) -> str:
    prepared = plan.prepared
    counts = prepared.split.counts()
    rows = ", ".join(f"{counts[f'test/{task}']} {task}" for task in prepared.tasks)
    lists = ", ".join(f"{each.label} ({each.fingerprint[:12]})" for each in candidates)
    made_up = f"; synthetic: {prepared.synthetic}" if prepared.synthetic else ""
    return f"{prepared.title}: test rows {rows}; candidates {lists}{made_up}; {runs} runs"
