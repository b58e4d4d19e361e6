"""Searches in MLflow: a run for each study, a child for each trial, in an experiment apart from that of the results."""

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench.messages import first_line
from bench.store.mlflow_content import TAG_LENGTH, MetricValue, RunContent, allowed_name, milliseconds
from bench.store.mlflow_database import TrackingStore, write_run
from bench.store.records import BenchWarning
from bench.store.results import Store
from bench.store.studies import FAILED, Study, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class StudyTrackingWarning(BenchWarning):
    """MLflow could not be written; the files of the search are complete without it."""


class StudyTracker:
    """Writes a search as it goes. Never raises: after one warning it is silent.

    Args:
        store: the results folder.
        uri: MLflow tracking URI; None is the SQLite store inside the results folder.
    """

    def __init__(self, store: Store, uri: str | None = None):
        self._tracking = TrackingStore(store.root, uri)
        self._off = False

    def write(self, study: Study, trial: TrialRecord | None) -> None:
        """Write one trial that is over, or with None everything of the study that is missing."""
        if self._off:
            return
        try:
            with self._tracking.opened() as client:
                write_study(self._tracking, client, study, study.trials if trial is None else [trial])
        except Exception as error:
            self._off = True
            text = f"MLflow does not show the search {study.record.id} ({first_line(error)})"
            warnings.warn(f"{text}; its files in {study.folder} are complete", StudyTrackingWarning, stacklevel=2)


def write_study(tracking: TrackingStore, client: "MlflowClient", study: Study, trials: Iterable[TrialRecord]) -> int:
    """Write a study's run and trials, each once; returns how many trials were missing."""
    record = study.record
    experiment = tracking.experiment(client, f"{record.dataset['name']} tuning")
    # A search that was begun again with --force is another one.
    key = f"study:{record.id}:{record.started}"
    there = _complete(client, experiment, f"tags.`bench.run` = '{key}'")
    parent = there[0].info.run_id if there else write_run(client, experiment, _study_content(study, key))
    known = _complete(client, experiment, f"tags.`mlflow.parentRunId` = '{parent}'")
    names = {run.data.tags["bench.run"] for run in known}
    written = 0
    for trial in trials:
        content = _trial_content(study, trial, key)
        if content.key not in names:
            write_run(client, experiment, content, parent)
            written += 1
    if record.finished and study.best is not None:
        client.log_metric(parent, "valid/mean/N_10", study.best.value or 0.0)
        for name, value in study.spent().items():
            client.log_metric(parent, f"spent/{name}", value)
        client.set_terminated(parent, "FINISHED", milliseconds(record.finished))
    return written


def _complete(client: "MlflowClient", experiment: str, query: str) -> list["Run"]:
    """The runs that a query finds; those that a kill left half written are deleted, and written anew by who needs them."""
    kept = []
    for run in client.search_runs([experiment], query, max_results=50_000):
        if "bench.digest" in run.data.tags:
            kept.append(run)
        else:
            client.delete_run(run.info.run_id)
    return kept


def _study_content(study: Study, key: str) -> RunContent:
    record = study.record
    facts = {"model": record.model, "budget": record.budget, "search": record.search, "scheduler": record.scheduler}
    params = {f"bench.{name}": value for name, value in facts.items()} | {"bench.trials": str(record.trials)}
    tags = {"bench.kind": "study", "bench.model": record.model, "bench.data": record.dataset["fingerprint"]}
    # Neither RUNNING, which a kill would leave for ever, nor finished.
    start = milliseconds(record.started)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return RunContent(record.id, key, digest, start, None, "SCHEDULED", params, tags, config=record.default)


def _trial_content(study: Study, trial: TrialRecord, key: str) -> RunContent:
    end = milliseconds(trial.finished) or 0
    start = end - round(trial.seconds * 1000)
    metrics = [MetricValue("valid/mean/N_10", check["value"], start, int(check["step"])) for check in trial.checks]
    final = {"best": trial.value, "steps": trial.steps, "seconds": trial.seconds}
    metrics += [MetricValue(name, float(value), end, 0) for name, value in final.items() if value is not None]
    tags = {"bench.kind": "trial", "bench.model": study.record.model, "bench.status": trial.status}
    tags |= {"bench.failed": trial.reason[:TAG_LENGTH]} if trial.reason else {}
    name = f"trial {trial.number}" if trial.kind == "search" else f"default, seed {trial.seed}"
    return RunContent(
        name=name,
        key=f"{key}:{trial.number}",
        digest=hashlib.sha256(json.dumps(asdict(trial), sort_keys=True, default=str).encode()).hexdigest(),
        start=start,
        end=end,
        status="FAILED" if trial.status == FAILED else "FINISHED",
        params={allowed_name(name): str(value) for name, value in trial.values.items()}
        | {"bench.seed": str(trial.seed)},
        tags=tags,
        metrics=metrics,
    )
