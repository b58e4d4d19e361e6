"""A results folder that is filled by hand, and an MLflow database that is made once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.log import file_sha256
from bench.evaluation.ranks import Ranks
from bench.store.mlflow_database import TrackingStore
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store, checksums, ranks_name

DATA = "7a" * 32
UNIFORM, HARD = "c1" * 32, "d2" * 32
START, END = "2025-03-01T10:00:00+00:00", "2025-03-01T10:05:30.250+00:00"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database with all tables; making one costs more than everything a test does with it."""
    tracking = TrackingStore(tmp_path_factory.mktemp("migrated"))
    with tracking.opened():
        pass
    return tracking.database


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def tracked(store, migrated):
    """A results folder with an MLflow database."""
    (store.root / "mlflow").mkdir(parents=True)
    shutil.copy(migrated, store.root / "mlflow" / "mlflow.db")
    return store


@pytest.fixture
def make_run():
    return _make_run


@pytest.fixture
def make_command():
    return _make_command


def _ranks(seed: int, fingerprint: str, users: int = 30) -> Ranks:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(1, users + 1), 2)
    n = len(user)
    task = np.arange(n) % 2
    counts = rng.integers(0, 60, n), rng.integers(0, 3, n), np.full(n, 100)
    return Ranks(user, np.arange(n), rng.integers(1, 50, n), task, task * 4, *counts, meta={"candidates": fingerprint})


def _evaluation(fingerprint: str, label: str, strategy: str) -> Evaluation:
    leaks = {"zero:target in own history": 0, "duplicate (user, item) rows": 7, "share of ties": 0.25, "remark": "none"}
    rows = {"rec": 30, "search": 30}
    name = ranks_name(fingerprint)
    return Evaluation(fingerprint, label, strategy, 0, rows, {"rec": 0.1}, leaks, name, "", 1.5, END)


def _make_run(
    store: Store, model: str = "one", seed: int = 0, sets=((UNIFORM, "uniform-99"),), **changes
) -> tuple[Path, RunRecord]:
    """A finished run with an evaluation per (fingerprint, label), a curve of three epochs and weights."""
    record = RunRecord(
        id=f"{model}-s{seed}-0123456789ab",
        fit_key=f"{model}{seed}" * 8,
        kind="fit",
        model=model,
        title=model.title(),
        group="rec",
        tasks=["rec", "search"],
        seed=seed,
        budget="quick",
        config={"lr": 0.001, "deep": {"layers": [1, 2], "on": True}, "prompt": "x" * 900, "n@k": None},
        dataset={
            "name": "toy",
            "title": "Toy",
            "options": {"variant": "E"},
            "fingerprint": DATA,
            "mode": "disjoint",
            "split": "leave-one-out",
            "synthetic": "queries",
            "counts": {"users": 30},
        },
        device="cpu",
        threads=1,
        code="code1234",
        fit={"epochs": 3, "converged": True, "best": 0.4, "procedure": "closed form"},
        evidence={"backbone": "tiny"},
        environment={"packages": {"torch": "2.13.0", "ray": None}, "commit": "abc123", "dirty": True},
        started=START,
        finished=END,
        seconds=330.25,
        peak_memory_mb=512.5,
    )
    folder = store.folder("toy", record.id)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"epoch": e, "train/loss": 1 / e, "rec/N@10": 0.1 * e, "mean/N@10": 0.1, "seconds": 2.0} for e in (1, 2, 3)
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "weights.safetensors").write_bytes(b"weights")
    record = replace(record, files=checksums(folder), **changes)
    for number, (fingerprint, label) in enumerate(sets):
        one = _evaluation(fingerprint, label, label.rpartition("-")[0])
        _ranks(seed * 10 + number, fingerprint).save(folder / one.ranks)
        record.evaluations[fingerprint] = replace(one, sha256=file_sha256(folder / one.ranks))
    store.write(folder, record)
    return folder, record


def _make_command(store: Store, name: str = "c1", **changes) -> CommandRecord:
    line = "bench run --models one,two"
    command = replace(CommandRecord(name, line, START, ["toy"], ["one", "two"], [0, 1], "quick", [UNIFORM]), **changes)
    store.write_command(command)
    return command
