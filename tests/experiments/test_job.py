"""Jobs are plain data that travel; what they give does not depend on the process that carries them out."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import RunError
from bench.evaluation import scoring
from bench.experiments import fitting
from bench.experiments.job import Job, execute
from bench.experiments.plan import plan
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides
from bench.store.records import read_run

pytest.importorskip("recbole", reason="ml-100k comes with RecBole (pip install --no-deps recbole==1.2.1)")
TINY = {
    "recbole:GRU4Rec": {"max_steps": 4, "epochs": 2, "steps_per_epoch": 2, "batch_size": 32},
    "lightgcn": {"max_steps": 6, "steps_per_epoch": 2, "patience": 9},
}


def jobs(models: str, out: Path, **options) -> list[Job]:
    request = RunRequest(
        models, trivial=False, threads=1, out=out, overrides=Overrides(options.pop("set", {})), **options
    )
    return plan(request)[0].jobs


def ranks(job: Job) -> dict[str, bytes]:
    folder = Path(job.out) / job.path
    return {path.name: path.read_bytes() for path in folder.glob("ranks-*")}


def test_a_job_is_small_whatever_the_model(tmp_path):
    for job in jobs("gensr,recbole:GRU4Rec,popularity", tmp_path, candidates=("uniform", "full")):
        packed = pickle.dumps(job)
        assert len(packed) < 10_000
        again = pickle.loads(packed)
        assert (again, again.key) == (job, job.key)
        json.dumps(job.config)


@pytest.mark.parametrize("model", ["lightgcn", pytest.param("recbole:GRU4Rec", marks=pytest.mark.slow)])
def test_a_fresh_process_gives_the_same_ranks_without_the_raw_data(tmp_path, model):
    planned = jobs(f"{model},popularity", tmp_path / "here", set={model: TINY[model]})
    travelling = [replace(job, out=str(tmp_path / "there")) for job in planned]
    (tmp_path / "jobs").write_bytes(pickle.dumps(travelling))
    code = (
        "import pickle, sys, pathlib\nfrom bench.data import sources\nfrom bench.experiments.job import execute\n"
        "sources.load = None  # a job opens the prepared log, not its source\n"
        "for job in pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()): print(execute(job).work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "jobs")], cwd="/", capture_output=True, text=True)
    assert done.stdout.split() == ["fitted", "fitted"], done.stderr
    for here, there in zip(planned, travelling, strict=True):
        assert execute(here).work == "fitted"
        assert ranks(here) == ranks(there) and len(ranks(here)) == 1
        assert execute(here).work == "none"


def test_a_listener_ends_a_fit_after_its_second_check_and_the_record_says_so(tmp_path, monkeypatch):
    (job,) = jobs("lightgcn", tmp_path, set={"lightgcn": TINY["lightgcn"]}, validation_rows=50)
    checks, ranked, original = [], [], fitting.rank

    def rank(scorer, batches, candidates, *given, **named):
        ranked.append(len(candidates))
        return original(scorer, batches, candidates, *given, **named)

    monkeypatch.setattr(scoring, "rank", rank)

    def listener(check):
        checks.append(check.epoch)
        return "the scheduler" if len(checks) == 2 else None

    record = execute(job, listener).record
    assert checks == [1, 2]
    # The state that is left was checked: its metrics are those of the check, and nothing is scored again.
    assert ranked == [50, 50] and record.fit["validation"]["mean/N@10"] == record.fit["best"]
    assert record.fit["ended_by"] == "the scheduler" and record.fit["epochs"] == 2 and record.evaluations
    assert read_run(Path(job.out) / job.path).fit["ended_by"] == "the scheduler"


def test_validation_rows_are_capped_recorded_and_part_of_the_key(tmp_path):
    (full,) = jobs("popularity", tmp_path)
    (few,) = jobs("popularity", tmp_path, validation_rows=50)
    assert few.key != full.key
    records = [execute(job).record for job in (full, few)]
    assert [record.evidence.get("validation rows per task") for record in records] == [None, 50]
    # Closed forms are validated like every other model.
    assert all(0 < record.fit["validation"]["mean/N@10"] < 1 for record in records)
    assert records[0].fit["validation"] != records[1].fit["validation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda job: replace(job, code="0" * 16), "is meant for other sources"),
        (lambda job: replace(job, data=replace(job.data, fingerprint="0" * 64)), "holds other data"),
        (
            lambda job: replace(job, data=replace(job.data, folder="/nowhere", split="given")),
            "no prepared log at /nowhere",
        ),
        (
            lambda job: replace(job, candidates=(replace(job.candidates[0], fingerprint="0" * 64),)),
            "the uniform candidates of ml-100k are now",
        ),
    ],
)
def test_a_job_meant_for_something_else_is_refused(tmp_path, change, message):
    (job,) = jobs("popularity", tmp_path)
    with pytest.raises(RunError, match=message):
        execute(change(job))
    assert not list(tmp_path.glob("[!.]*/popularity*"))
