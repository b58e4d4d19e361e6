"""Six processes with one list of runs on a fresh results folder."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

# What `bench run` does with the store and with MLflow, per process; the fit is a file that says who made it.
PROGRAM = """
import os, shutil, sys
from dataclasses import replace
from pathlib import Path
from bench.store.mlflow_database import quiet
from bench.store.mlflow_view import Tracker
from bench.store.records import CommandRecord, now
from bench.store.results import Store

ready, root, models = Store(sys.argv[1]), Store(sys.argv[2]), [folder.name for folder in Store(sys.argv[1]).run_folders()]
with quiet():  # imported once, so that all six begin at the same moment
    import mlflow.store.tracking.sqlalchemy_store

def work(number):
    command = CommandRecord(f"c{number}", "bench run", now(), ["toy"], models, [0], "quick", ["c1" * 32])
    tracker = Tracker(root)
    tracker.start(command)
    for run in models:
        with root.locked("toy", run, lambda line: None):
            record = root.finished("toy", run)
            if record is None:
                part = root.part("toy", run)
                shutil.copytree(ready.folder("toy", run), part)
                (part / "run.json").unlink()
                with (root.root / "fits").open("a") as stream:
                    stream.write(f"{run}\\n")
                record = replace(ready.finished("toy", run), started=now(), finished=now())
                root.write(part, record)
                root.publish("toy", run)
        command.runs.append(f"toy/{run}")
        tracker.log_run(root.folder("toy", run), record, command)
        root.write_command(command)
    command.finished = now()
    root.write_command(command)
    tracker.finish(command, "the table")

children = []
for number in range(6):
    child = os.fork()
    if not child:
        work(number)
        sys.stdout.flush()
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""

SHOWN = """
    SELECT r.status, kind.value, found.value FROM runs r
    LEFT JOIN tags kind ON kind.run_uuid = r.run_uuid AND kind.key = 'bench.kind'
    LEFT JOIN tags found ON found.run_uuid = r.run_uuid AND found.key = 'bench.run'
    WHERE r.lifecycle_stage = 'active'
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the six processes are forked")
def test_six_commands_at_once_fit_each_model_once_and_complete_mlflow(store, tmp_path, make_run):
    ready = type(store)(tmp_path / "ready")
    names = [make_run(ready, model)[1].id for model in ("one", "two", "three", "four")]
    words = [sys.executable, "-c", PROGRAM, str(ready.root), str(store.root)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "always"}
    )
    assert done.returncode == 0 and done.stdout == "" and "TrackingWarning" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted((store.root / "fits").read_text().split()) == sorted(names)
    assert sorted(record.id for _, record in store.runs()) == sorted(names)
    with closing(sqlite3.connect(store.root / "mlflow" / "mlflow.db")) as base:
        runs = base.execute(SHOWN).fetchall()
    assert {status for status, _, _ in runs} == {"FINISHED"}
    assert sorted(key.partition(":")[0] for _, kind, key in runs if kind == "fit") == sorted(names)
    assert {kind for _, kind, _ in runs} == {"fit", "command"}
    assert not list(store.root.glob("mlflow/.*mlflow.db*")) and not list(store.root.glob("mlflow/.command.*"))
