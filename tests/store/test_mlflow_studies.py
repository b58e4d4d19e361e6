"""Searches in MLflow: each trial once and complete, whenever the process that wrote them was killed."""

from collections import Counter

import mlflow
import pytest

from bench.store.mlflow_database import TrackingStore
from bench.store.mlflow_studies import write_study
from bench.store.results import Store
from bench.store.studies import Study, StudyRecord, TrialRecord, read_study, write_trial
from bench.store.studies import write_study as write_record

WRITES = ("create_run", "set_terminated", "log_batch", "log_dict", "set_tag", "log_metric")


class Killed(BaseException):
    """Stands for SIGKILL; no handler of errors may take it for one."""


@pytest.fixture
def study(tmp_path) -> Study:
    folder = tmp_path / "study"
    record = StudyRecord(
        id="m-quick-1", key="k", model="m", title="M", dataset={"name": "toy", "fingerprint": "f"}, tasks=["rec"], seed=0,
        space={"lr": [0.1, 0.2]}, default={"lr": 0.1}, validation_rows=0, threads=1, trials=2, spread=0, budget="quick",
        search="random", scheduler="none", device="cpu", code="c", started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    )  # fmt: skip
    write_record(folder, record)
    for number in range(2):
        checks = [{"step": 5, "value": 0.2}, {"step": 10, "value": 0.3}]
        write_trial(
            folder,
            TrialRecord(
                number,
                "search",
                {},
                0,
                "finished",
                0.3,
                steps=10,
                seconds=1.5,
                checks=checks,
                finished="2026-01-01T00:00:30+00:00",
            ),
        )
    return read_study(folder)


def shown(client: mlflow.MlflowClient) -> list:
    return client.search_runs([each.experiment_id for each in client.search_experiments()])


def test_a_search_is_shown_once_and_complete_after_a_kill_at_any_write(study, tmp_path, monkeypatch):
    calls, limit = Counter(), None
    for name in WRITES:
        original = getattr(mlflow.MlflowClient, name)

        def counted(self, *args, original=original, **options):
            calls["all"] += 1
            if limit is not None and calls["all"] > limit:
                raise Killed
            return original(self, *args, **options)

        monkeypatch.setattr(mlflow.MlflowClient, name, counted)
    tracking = TrackingStore(Store(tmp_path / "whole").root, None)
    with tracking.opened() as client:
        write_study(tracking, client, study, study.trials)
        writes = calls["all"]
        whole = sorted((run.info.run_name, run.info.status, str(run.data)) for run in shown(client))
        assert [status for _, status, _ in whole] == ["FINISHED"] * 3
        assert write_study(tracking, client, study, study.trials) == 0
    tracking = TrackingStore(Store(tmp_path / "killed").root, None)
    for moment in range(0, writes, 3):
        with tracking.opened() as client:
            for run in shown(client):
                client.delete_run(run.info.run_id)
            calls.clear()
            limit = moment
            with pytest.raises(Killed):
                write_study(tracking, client, study, study.trials)
            limit = None
            write_study(tracking, client, study, study.trials)
            found = shown(client)
        assert sorted((run.info.run_name, run.info.status) for run in found) == [line[:2] for line in whole], moment
        assert all("bench.digest" in run.data.tags for run in found)
