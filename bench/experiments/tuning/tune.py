"""`bench tune`: the same number of trials for every model, chosen by the validation rows."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import sources
from bench.data.log import TASKS
from bench.errors import RunError, UsageError, unknown
from bench.experiments import settings
from bench.experiments.executors.choose import Placement
from bench.experiments.job import Job
from bench.experiments.plan import DatasetPlan, plan
from bench.experiments.progress import Reporter
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides
from bench.experiments.tuning.proposals import SEARCHES, proposals
from bench.experiments.tuning.trial import Trial, TrialPlan, clean
from bench.experiments.tuning.with_ray import SCHEDULERS
from bench.experiments.tuning.without_test import SearchData, search_data
from bench.messages import split_commas
from bench.ranker import registry
from bench.store.records import now
from bench.store.results import Store
from bench.store.studies import (
    FAILED,
    FINISHED,
    STOPPED,
    Study,
    StudyRecord,
    TrialRecord,
    read_study,
    study_folder,
    trial_folder,
    write_study,
    write_trial,
)


@dataclass
class TuneRequest:
    """Everything that `bench tune` takes, in the words of the command line."""

    models: str
    dataset: Sequence[str] = ("ml-100k",)
    trials: int = 20
    spread: int = 2
    search: str = "random"
    scheduler: str = "asha"
    tasks: tuple[str, ...] | None = None
    split: str | None = None
    mode: str | None = None
    seed: int = 0
    overrides: Overrides = field(default_factory=Overrides)
    budget: str = "quick"
    validation_rows: int = 0
    device: str = "auto"
    threads: int = 0
    jobs: int = 1
    address: str | None = None
    gpus: float | None = None
    resume: bool = True
    out: str | Path = "results/local"
    data: str | Path | None = None
    tracking_uri: str | None = None


Heard = Callable[[Study, TrialRecord | None], None]


def tune(request: TuneRequest, reporter: Reporter | None = None, track: Heard | None = None) -> list[Study]:
    """Search the settings of models; trials that are there are not repeated.

    Args:
        request: the words of the command.
        reporter: shows the progress; silent by default.
        track: hears of each trial that is over and, with None, of the study's beginning and end.

    Raises:
        UsageError: something in the request cannot be; nothing has been started then.
        RunError: the cluster is not there, or a file cannot be written.
    """
    reporter = reporter or Reporter()
    _check(request)
    store = Store(request.out)
    store.check_writable()
    # As for `bench run`, Ray's default of one thread included only where a cluster is named.
    placement = Placement("ray" if request.address else "local", request.jobs, request.address)
    planned = plan(
        RunRequest(
            request.models,
            tuple(request.dataset),
            request.tasks,
            request.split,
            request.mode,
            seeds=(request.seed,),
            overrides=request.overrides,
            budget=request.budget,
            validation_rows=request.validation_rows,
            device=request.device,
            threads=request.threads,
            trivial=False,
            out=request.out,
            data=request.data,
            placement=placement,
        )
    )
    named = set(split_commas(request.models))
    searches = []
    for each in planned:
        data = search_data(each.prepared)
        for job in each.jobs:
            if registry.get(job.model).search_space:
                searches.append(_Search(request, store, each, job, data))
            elif job.model in named:
                raise UsageError(f"{job.model} declares no search space; leave it out, or see docs/add-a-model.md")
            else:
                reporter.note(f"{job.model}: left out, it declares no search space")
    if not searches:
        raise UsageError(f"none of the models {request.models} declares a search space")
    from bench.experiments.executors.on_ray import cluster

    reporter.note(
        f"budget of each of {len(searches)} searches: {request.trials} trials of --budget {request.budget}, the first with "
        f"the default settings; {request.spread} further seeds of the default beside them"
    )
    done = []
    waiting = [search for search in searches if not search.complete]
    if waiting:
        with cluster(request.address, max(search.job.threads for search in waiting) * request.jobs) as ray:
            for search in searches:
                done.append(search.run(ray, reporter, track))
    else:
        done = [search.run(None, reporter, track) for search in searches]
    return done


def _check(request: TuneRequest) -> None:
    """Everything about a request that needs no data."""
    if request.search not in SEARCHES:
        raise unknown("search", request.search, SEARCHES)
    if request.scheduler not in SCHEDULERS:
        raise unknown("scheduler", request.scheduler, SCHEDULERS)
    if request.trials < 1 or request.spread < 0 or request.jobs < 1:
        raise UsageError("--trials and --jobs are 1 or more, --spread 0 or more")
    if not request.dataset:
        raise UsageError("no data set given; name one with --dataset, see `bench data list`")
    for name in request.dataset:
        sources.entry(name)
    settings.check_seeds((request.seed,))
    registry.select(request.models, request.tasks or TASKS, False)


class _Search:
    """The study of one model on one data set."""

    def __init__(self, request: TuneRequest, store: Store, plan: DatasetPlan, job: Job, data: SearchData):
        self._request, self._plan, self.job, self._data = request, plan, job, data
        self._cls = registry.get(job.model)
        self._published = sources.published_as(plan.prepared.name, plan.prepared.log)
        key = {
            "data": data.fingerprint,
            "model": job.model,
            "tasks": job.tasks,
            "config": job.config,
            "space": self._cls.search_space,
            "search": request.search,
            "scheduler": request.scheduler,
            "seed": request.seed,
            "budget": request.budget,
            "validation rows": request.validation_rows,
            "device": job.device.partition(":")[0],
            "threads": job.threads,
            "code": job.code,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        self.record = StudyRecord(
            id=f"{job.model.replace(':', '-')}-{request.budget}-{digest[:12]}",
            key=digest,
            model=job.model,
            title=self._cls.entry.title,
            dataset=plan.prepared.record(),
            tasks=list(job.tasks),
            budget=request.budget,
            search=request.search,
            scheduler=request.scheduler,
            seed=request.seed,
            space=json.loads(json.dumps(self._cls.search_space)),
            default=job.config,
            validation_rows=request.validation_rows,
            device=job.device,
            threads=job.threads,
            code=job.code,
            trials=request.trials,
            spread=request.spread,
            started=now(),
        )
        self.folder = study_folder(store, plan.prepared.name, self.record.id)
        self._store = store
        self._stored: dict[int, TrialRecord] = {}
        self._load()
        self._numbers = iter([*range(request.trials), *(-seed for seed in range(1, request.spread + 1))])
        self._proposals = proposals(
            request.search,
            self._cls.search_space,
            request.seed,
            lambda values: self._config(values) is not None,
            {name: job.config[name] for name in self._cls.search_space},
        )
        if request.search == "random":
            try:
                self._proposals.ask(request.trials - 1)
            except RunError as error:
                raise UsageError(f"{job.model}: {error}") from None
        self._failure: RunError | None = None

    @property
    def complete(self) -> bool:
        """Whether every trial is there."""
        return self._wanted() <= set(self._stored)

    def _load(self) -> None:
        """Read what is there already."""
        if self._request.resume and (self.folder / "study.json").exists():
            before = read_study(self.folder)
            self.record.started = before.record.started
            self._stored = {trial.number: trial for trial in before.trials}

    def run(self, ray: Any, reporter: Reporter, track: Heard | None) -> Study:
        """Carry out what is missing and write the best settings; another command on the same study waits."""

        def waiting(line: str) -> None:
            reporter.note(f"{self.record.id}: {line}; waiting for it")

        with self._store.locked(self.record.dataset["name"], self.record.id, waiting):
            self._load()
            return self._run(ray, reporter, track)

    def _run(self, ray: Any, reporter: Reporter, track: Heard | None) -> Study:
        from bench.experiments.tuning.with_ray import run_study

        label = f"{self.record.model} on {self.record.dataset['name']}"
        if not self.complete:
            if not self._request.resume:
                shutil.rmtree(self.folder, ignore_errors=True)
            write_study(self.folder, self.record)
            if track:
                track(read_study(self.folder), None)
            if self._stored:
                reporter.note(f"{label}: {len(self._stored)} trials are there already")
            self._reporter, self._track = reporter, track
            run_study(
                ray,
                TrialPlan(
                    self.job.model,
                    self.job.tasks,
                    self._data,
                    self.job.device,
                    self.job.threads,
                    self.job.code,
                    self._request.validation_rows,
                ),
                self._next,
                self._tell_proposals,
                self._over,
                most=self._request.trials + self._request.spread,
                at_once=self._request.jobs,
                scheduler=self._request.scheduler,
                resources=self._resources(),
            )
            if self._failure is not None:
                raise self._failure
            missing = self._wanted() - set(self._stored)
            if missing:
                raise RunError(f"{label}: {len(missing)} trials are missing; the same command goes on with them")
        self.record.finished = now()
        if self._request.resume and (self.folder / "study.json").exists():
            before = read_study(self.folder).record
            # A study that grows keeps what it has.
            self.record.trials = max(before.trials, self.record.trials)
            self.record.finished = before.finished or self.record.finished
        write_study(self.folder, self.record)
        study = read_study(self.folder)
        if study.best is None:
            reasons = sorted({trial.reason for trial in study.searched})
            raise RunError(f"{label}: every trial failed: {'; '.join(reasons)}")
        _write_best(study)
        reporter.note(_summary(study))
        if track:
            track(study, None)
        return study

    def _wanted(self) -> set[int]:
        return {*range(self._request.trials), *(-seed for seed in range(1, self._request.spread + 1))}

    def _resources(self) -> dict[str, float]:
        gpus = (
            (1.0 if self.job.device.startswith("cuda") else 0.0) if self._request.gpus is None else self._request.gpus
        )
        return {"cpu": self.job.threads} | ({"gpu": gpus} if gpus else {})

    def _config(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """The complete config of a trial; None where the model refuses it."""
        own = Overrides({self.job.model: values}).over(self._request.overrides)
        try:
            config = settings.model_config(self._cls, self.job.model, self._request.budget, own, self._published)
            return settings.on_this_machine(config.model_dump())
        except UsageError:
            return None

    def _next(self) -> Trial | None:
        number = next(self._numbers, None)
        if number is None:
            return None
        searched = number >= 0
        try:
            values = self._proposals.ask(number) if searched else {}
        except RunError as error:
            self._failure = error
            return None
        stored = self._stored.get(number)
        if stored is not None and stored.values != values:
            # Only where trials ran side by side does Optuna propose in another order; what was tried counts.
            values = stored.values
        config = self._config(values)
        assert config is not None, "proposals are checked against the config"
        return Trial(
            number,
            "search" if searched else "spread",
            values,
            config,
            self._request.seed if searched else self._request.seed - number,
            str(trial_folder(self.folder, number)),
            vars(stored) if stored is not None else None,
        )

    def _tell_proposals(self, number: int, value: float | None) -> None:
        if number >= 0:
            self._proposals.tell(number, value)

    def _over(self, trial: Trial, reports: list[dict[str, Any]], lost: str) -> None:
        """Keep the record of a trial, unless it was only told again."""
        if trial.stored is not None:
            return
        final = next((report for report in reports if report.get("final")), None)
        checks = [report for report in reports if not report.get("final")]
        last = final or (checks[-1] if checks else {})
        reason = lost or (final or {}).get("reason", "")
        value = last.get("best")
        record = TrialRecord(
            number=trial.number,
            kind=trial.kind,
            values=trial.values,
            seed=trial.seed,
            status=FAILED if reason else FINISHED if final else STOPPED,
            value=None if value is None or value < 0 else value,
            checks=checks,
            steps=int(last.get("steps", 0)),
            seconds=float(last.get("seconds", 0.0)),
            reason=reason,
            finished=now(),
        )
        write_trial(self.folder, record)
        clean(trial_folder(self.folder, trial.number))
        self._stored[trial.number] = record
        study = read_study(self.folder)
        self._reporter.note(_trial_line(study, record))
        if self._track:
            self._track(study, record)


def _trial_line(study: Study, trial: TrialRecord) -> str:
    """What a user reads when a trial is over."""
    who = f"trial {trial.number + 1}/{study.record.trials}" if trial.kind == "search" else f"default, seed {trial.seed}"
    shown = ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.values.items()
    )
    how = f"failed: {trial.reason}" if trial.status == FAILED else f"N@10 {trial.value:.4f}"
    best = f" (best {study.best.value:.4f})" if study.best else ""
    stopped = ", stopped early" if trial.status == STOPPED else ""
    return f"{study.record.model} {who}: {how}{best}{stopped}; {shown or 'default settings'}"


def _summary(study: Study) -> str:
    best, spent = study.best, study.spent()
    assert best is not None
    cost = f"spent {spent['trials']:.0f} trials, {spent['steps']:,.0f} steps, {spent['seconds']:,.0f} s"
    found = f"best N@10 on validation {best.value:.4f} in trial {best.number + 1}"
    return f"{study.record.model}: {found}; {cost}; {study.folder / 'best.yaml'}"


def _write_best(study: Study) -> None:
    import yaml

    from bench.files import write_atomically

    best, record, spent = study.best, study.record, study.spent()
    assert best is not None
    content: dict[str, Any] = {"models": record.model, "dataset": record.dataset["name"], "budget": record.budget}
    content |= {"set": {record.model: best.values}} if best.values else {}
    head = (
        f"# {record.title} on {record.dataset.get('title', record.dataset['name'])}: the best of {spent['trials']:.0f} trials\n"
        f"# ({record.search}, scheduler {record.scheduler}, seed {record.seed}), N@10 on validation {best.value:.6f}.\n"
        f"# bench run --config {study.folder / 'best.yaml'}\n"
    )
    text = head + yaml.safe_dump(content, sort_keys=False)
    write_atomically(study.folder / "best.yaml", lambda scratch: scratch.write_text(text))
