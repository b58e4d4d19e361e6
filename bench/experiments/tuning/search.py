"""The search of one model on one data set: which trials are missing, what each tries, and what is kept of it."""

import shutil
from collections.abc import Callable
from typing import Any

from bench.data import sources
from bench.errors import RunError, UsageError
from bench.experiments import settings
from bench.experiments.job import Job
from bench.experiments.plan import DatasetPlan
from bench.experiments.progress import Reporter
from bench.experiments.settings import Overrides
from bench.experiments.tuning.best_settings import write_best
from bench.experiments.tuning.identity import study_record
from bench.experiments.tuning.progress_lines import summary, trial_line
from bench.experiments.tuning.proposals import proposals
from bench.experiments.tuning.request import TuneRequest
from bench.experiments.tuning.trial import Trial, TrialPlan, clean
from bench.experiments.tuning.without_test import SearchData
from bench.ranker import registry
from bench.store.records import now
from bench.store.results import Store
from bench.store.studies import (
    FAILED,
    FINISHED,
    STOPPED,
    Study,
    TrialRecord,
    read_study,
    study_folder,
    trial_folder,
    write_study,
    write_trial,
)

Heard = Callable[[Study, TrialRecord | None], None]


class Search:
    """The study of one model on one data set.

    Args:
        request: the words of the command.
        store: the results folder.
        plan: of the data set.
        job: the run of the default settings.
        data: what a trial can open.

    Raises:
        UsageError: the model's space has not that many settings.
    """

    def __init__(self, request: TuneRequest, store: Store, plan: DatasetPlan, job: Job, data: SearchData):
        self._request, self.job, self._data = request, job, data
        self._cls = registry.get(job.model)
        self._published = sources.published_as(plan.prepared.name, plan.prepared.log)
        self.record = study_record(request, plan, job, data)
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
                    self._request.time_limit,
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
        write_best(study)
        reporter.note(summary(study))
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
        self._reporter.note(trial_line(study, record))
        if self._track:
            self._track(study, record)
