import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.log import file_sha256
from bench.errors import RunError, UsageError
from bench.evaluation.metrics import DEFAULT
from bench.evaluation.ranks import Ranks
from bench.store import mlflow_runs as tracking_fields
from bench.store import mlflow_store as tracking_store
from bench.store import mlflow_view as tracking
from bench.store.metric_names import from_mlflow_name, mlflow_name
from bench.store.mlflow_store import Place, configure, quiet
from bench.store.mlflow_view import Tracker, TrackingWarning
from bench.store.records import CommandRecord, Evaluation, RunRecord
from bench.store.results import Store

# What would be a warning for a user is an error here, except where a test expects it.
pytestmark = pytest.mark.filterwarnings("error::bench.store.mlflow_view.TrackingWarning")

DATA = "7a" * 32
UNIFORM, HARD = "c1" * 32, "d2" * 32
START, END = "2025-03-01T10:00:00+00:00", "2025-03-01T10:05:30.250+00:00"
START_MS, END_MS = 1740823200000, 1740823530250
TABLE = "| model | rec N@10 |\n|---|---|\n| one | .5 |"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """A database with all tables; making one costs more than everything a test does with it."""
    place = Place.of(tmp_path_factory.mktemp("migrated"), None)
    with quiet():
        place.connect()
    return place.database


@pytest.fixture
def store(tmp_path, migrated, monkeypatch):
    # Rebuilding makes a database too; `migrated` and the race below make theirs in earnest.
    monkeypatch.setattr(tracking_store, "_create", lambda database: shutil.copy(migrated, database))
    store = Store(tmp_path / "results")
    (store.root / "mlflow").mkdir(parents=True)
    shutil.copy(migrated, store.root / "mlflow" / "mlflow.db")
    return store


def make_ranks(seed: int, users: int = 30) -> Ranks:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(1, users + 1), 3)
    n = len(user)
    task = np.arange(n) % 2
    return Ranks(
        user,
        np.arange(n),
        rng.integers(1, 50, n),
        task,
        task * 4,
        rng.integers(0, 60, n),
        rng.integers(0, 3, n),
        np.full(n, 100),
    )


def evaluation(fingerprint: str = UNIFORM, label: str = "uniform-99", strategy: str = "uniform") -> Evaluation:
    leaks = {"zero:target in own history": 0, "duplicate (user, item) rows": 7, "share of ties": 0.25, "remark": "none"}
    rows = {"rec": 45, "search": 45}
    return Evaluation(
        fingerprint, label, strategy, 0, rows, {}, leaks, f"ranks-{fingerprint[:16]}.parquet", "", 1.5, END
    )


def make_run(store: Store, model: str = "one", seed: int = 0, evaluations=None, **changes) -> tuple[Path, RunRecord]:
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
        evaluations={one.fingerprint: one for one in evaluations or [evaluation()]},
        environment={"packages": {"torch": "2.13.0", "ray": None}, "commit": "abc123", "dirty": True},
        started=START,
        finished=END,
        seconds=330.25,
        peak_memory_mb=512.5,
    )
    record = replace(record, **changes)
    folder = store.folder("toy", record.id)
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(record.evaluations.values()):
        make_ranks(seed * 10 + number).save(folder / one.ranks)
        one.sha256 = file_sha256(folder / one.ranks)
    lines = [
        {"epoch": e, "train/loss": 1 / e, "rec/N@10": 0.1 * e, "mean/N@10": 0.1, "seconds": 2.0} for e in (1, 2, 3)
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store.write(folder, record)
    return folder, record


def make_command(store: Store, name: str = "c1", **changes) -> CommandRecord:
    models, line = ["one", "two"], "bench run --models one,two"
    command = replace(CommandRecord(name, line, START, ["toy"], models, [0, 1], "quick", [UNIFORM]), **changes)
    store.write_command(command)
    return command


def complete(store: Store, command: CommandRecord, runs, tracker: Tracker | None = None) -> None:
    """What a command does with its tracker."""
    tracker = tracker or Tracker(store)
    tracker.start(command)
    for folder, record in runs:
        command.runs.append(f"toy/{record.id}")
        tracker.log_run(folder, record, command)
    for name, message in command.failed.items():
        tracker.fail(name, message, command)
    command.finished = END
    store.write_command(command)
    tracker.finish(command, TABLE)


def client_of(store: Store):
    configure(sqlite=True)
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store.root}/mlflow/mlflow.db")


def all_runs(store: Store):
    client = client_of(store)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, max_results=1000)


def children(store: Store, name: str | None = None):
    runs = [run for run in all_runs(store) if run.data.tags["bench.kind"] != "command"]
    return [run for run in runs if name is None or run.info.run_name.startswith(name)]


def parents(store: Store) -> dict:
    return {run.data.tags["bench.command"]: run for run in all_runs(store) if "bench.command" in run.data.tags}


def shown(store: Store) -> set:
    """Everything by which two views must agree."""
    client, found = client_of(store), set()
    runs = all_runs(store)
    names = {run.info.run_id: run.info.run_name for run in runs}
    for run in runs:
        tags = dict(run.data.tags)
        tags = {name: tags[name] for name in tags if not name.startswith(("bench.writer", "mlflow.parentRunId"))}
        history = client.get_metric_history(run.info.run_id, "train/loss") if run.data.metrics else []
        curve = [(point.value, point.step, point.timestamp) for point in history]
        where = Path(run.info.artifact_uri)
        files = sorted(path.name for path in where.iterdir()) if where.exists() else []
        inputs = sorted((one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs)
        # When a run failed is written nowhere but in MLflow.
        end = run.info.end_time if run.info.status != "FAILED" else None
        facts = [run.data.params, run.data.metrics, tags, curve, files, inputs, run.info.start_time, end]
        parent = names.get(run.data.tags.get("mlflow.parentRunId"))
        found.add((run.info.run_name, parent, run.info.status, json.dumps(facts, sort_keys=True)))
    return found


def test_a_command_is_a_parent_with_one_child_for_each_run(store):
    command = make_command(store)
    complete(store, command, [make_run(store, "one", 0), make_run(store, "one", 1), make_run(store, "two", 0)])
    experiments = {one.name: one for one in client_of(store).search_experiments()}
    assert experiments["toy"].artifact_location == str(store.root / "mlflow" / "artifacts" / "toy")
    parent = parents(store)["c1"]
    assert parent.info.experiment_id == experiments["toy"].experiment_id
    assert parent.data.tags["mlflow.note.content"] == TABLE and parent.info.status == "FINISHED"
    assert (parent.info.start_time, parent.info.end_time) == (START_MS, END_MS)
    assert parent.data.params["bench.models"] == '["one", "two"]'
    runs = children(store)
    assert {(run.data.tags["bench.model"], run.data.tags["bench.seed"]) for run in runs} == {
        ("one", "0"),
        ("one", "1"),
        ("two", "0"),
    }
    for run in runs:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.info.status == "FINISHED"
        assert (run.info.start_time, run.info.end_time) == (START_MS, END_MS)


def test_a_child_shows_config_and_evidence(store):
    folder, record = make_run(store)
    complete(store, make_command(store), [(folder, record)])
    (run,) = children(store)
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert params["lr"] == "0.001" and params["deep.layers"] == "[1, 2]" and params["deep.on"] == "True"
    assert params["n_k"] == "None" and params["bench.options.variant"] == "E"
    assert params["bench.split"] == "leave-one-out"
    assert len(params["prompt"]) == 500 and params["prompt"].startswith("xxx")
    expected = {
        "kind": "fit",
        "candidates": UNIFORM,
        "data": DATA,
        "code": "code1234",
        "budget": "quick",
        "commit": "abc123",
        "dirty": "true",
        "evidence.backbone": "tiny",
        "env.packages.torch": "2.13.0",
        "folder": f"toy/{record.id}",
        "fit.procedure": "closed form",
        "synthetic": "queries",
    }
    assert {name: tags[f"bench.{name}"] for name in expected} == expected
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert metrics["seconds"] == 330.25 and metrics["peak_memory_mb"] == 512.5
    assert metrics["fit/epochs"] == 3 and metrics["fit/converged"] == 1
    assert metrics["leaks/zero:target in own history"] == 0 and metrics["leaks/duplicate user item rows"] == 7
    assert "leaks/remark" not in metrics


def test_final_metrics_come_from_the_ranks(store):
    folder, record = make_run(store, evaluations=(evaluation(HARD, "same-query-99", "same-query"), evaluation()))
    complete(store, make_command(store), [(folder, record)])
    (run,) = children(store)
    for prefix, fingerprint in (("", UNIFORM), ("same-query-99/", HARD)):
        ranks = Ranks.load(folder / record.evaluations[fingerprint].ranks)
        for code, task in enumerate(("rec", "search")):
            mine = ranks.task == code
            # NDCG@10 over the tied block written out row by row, then the mean of the users' means.
            gain = np.array(
                [
                    np.mean([1 / np.log2(r + 1) if r <= 10 else 0.0 for r in range(b + 1, b + t + 2)])
                    for b, t in zip(ranks.better, ranks.tied, strict=True)
                ]
            )
            means = [gain[mine & (ranks.user == user)].mean() for user in np.unique(ranks.user[mine])]
            assert run.data.metrics[f"{prefix}{task}/N_10"] == pytest.approx(np.mean(means), abs=1e-12)
            for metric in DEFAULT:
                name = mlflow_name(task, metric)
                assert run.data.metrics[prefix + name] == ranks.only(task).mean(metric)
                assert from_mlflow_name(name) == (task, metric)
    assert run.data.metrics["rec/N_10"] != run.data.metrics["same-query-99/rec/N_10"]
    assert run.data.tags["bench.candidates"] == f"{UNIFORM},{HARD}"


def test_two_candidate_sets_with_one_label_do_not_share_names(store):
    sets = [evaluation(letter * 64, "uniform-99") for letter in "abc"]
    _, record = make_run(store, evaluations=sets)
    view = tracking_fields.run_view(store, store.folder("toy", record.id), record)
    names = [point.name for point in view.points if point.name.endswith("rec/N_10")]
    assert sorted({*names} - {"valid/rec/N_10"}) == ["rec/N_10", "uniform-99-cccccccc/rec/N_10", "uniform-99/rec/N_10"]


def test_curves_by_epoch_under_names_of_their_own(store):
    complete(store, make_command(store), [make_run(store)])
    (run,) = children(store)
    client = client_of(store)
    loss = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(p.step, p.value, p.timestamp) for p in sorted(loss, key=lambda p: p.step)] == [
        (e, 1 / e, START_MS + 2000 * e) for e in (1, 2, 3)
    ]
    valid = client.get_metric_history(run.info.run_id, "valid/rec/N_10")
    assert sorted((p.step, p.value) for p in valid) == [(e, 0.1 * e) for e in (1, 2, 3)]
    # A validation value is never among those of the result.
    assert len(client.get_metric_history(run.info.run_id, "rec/N_10")) == 1
    assert len(client.get_metric_history(run.info.run_id, "seconds")) == 1


def test_a_long_curve_needs_several_calls(store):
    folder, record = make_run(store, config={f"p{i}": i for i in range(250)})
    lines = [json.dumps({"epoch": epoch, "train/loss": epoch, "a": epoch}) for epoch in range(1100)]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    complete(store, make_command(store), [(folder, record)])
    (run,) = children(store)
    assert len(client_of(store).get_metric_history(run.info.run_id, "train/loss")) == 1100
    assert sum(name.startswith("p") for name in run.data.params) == 250


def test_data_set_inputs_carry_our_fingerprints(store):
    complete(store, make_command(store), [make_run(store)])
    (run,) = children(store)
    inputs = {one.dataset.name: (one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs}
    assert inputs == {"toy": (DATA[:36], "training"), "toy uniform-99": (UNIFORM[:36], "eval")}
    for one in run.inputs.dataset_inputs:
        source = json.loads(one.dataset.source)["tags"]
        assert source["fingerprint"] == DATA and source["mode"] == "disjoint"


def test_artifacts_are_the_plain_files(store):
    folder, record = make_run(store)
    complete(store, make_command(store), [(folder, record)])
    (run,) = children(store)
    where = Path(run.info.artifact_uri)
    assert where.is_relative_to(store.root / "mlflow" / "artifacts")
    names = ["run.json", "curve.jsonl", f"ranks-{UNIFORM[:16]}.parquet"]
    assert sorted(path.name for path in where.iterdir()) == sorted([*names, "config.json"])
    for name in names:
        assert (where / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((where / "config.json").read_text())["prompt"] == "x" * 900
    (parent,) = parents(store).values()
    assert (Path(parent.info.artifact_uri) / "table.md").read_text() == TABLE


def test_logging_again_changes_nothing_and_a_changed_record_replaces_it_everywhere(store):
    folder, record = make_run(store)
    first = make_command(store)
    complete(store, first, [(folder, record)])
    (before,) = children(store)
    Tracker(store).log_run(folder, record, first)
    (same,) = children(store)
    assert same.info.run_id == before.info.run_id
    complete(store, make_command(store, "c2"), [(folder, record)])
    assert len(children(store)) == 2 and len(parents(store)) == 2
    # Ranked on further candidates by the second command: the first one's child shows it too.
    folder, record = make_run(store, evaluations=(evaluation(), evaluation(HARD, "same-query-99", "same-query")))
    tracker = Tracker(store)
    tracker.log_run(folder, record, store.commands()[-1])
    tracker.close()
    after = children(store)
    owners = {run.info.run_id for run in parents(store).values()}
    assert {run.data.tags["mlflow.parentRunId"] for run in after} == owners
    assert len(after) == 2 and all("same-query-99/rec/N_10" in run.data.metrics for run in after)
    live = shown(store)
    tracking.rebuild(store)
    assert shown(store) == live


def test_a_failed_run_and_its_command(store):
    command = make_command(store, failed={"toy/two-s0-ffff": "two: the model's loss became nan"})
    complete(store, command, [make_run(store)])
    (failed,) = children(store, "two")
    assert failed.info.status == "FAILED" and failed.data.tags["bench.failed"] == "two: the model's loss became nan"
    parent = parents(store)["c1"]
    assert failed.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FAILED" and parent.data.tags["bench.failed"] == "toy/two-s0-ffff"
    Tracker(store).fail("toy/two-s0-ffff", "two: the model's loss became nan", command)
    assert len(children(store, "two")) == 1


def test_rebuild_gives_the_same_view_after_the_store_is_deleted(store):
    one, two = make_run(store, "one", 0), make_run(store, "two", 0)
    complete(store, make_command(store), [one, two])
    complete(store, make_command(store, "c2", failed={"toy/three-s0-eeee": "no"}), [one, make_run(store, "one", 1)])
    before = shown(store)
    assert len(before) == 7
    shutil.rmtree(store.root / "mlflow")
    assert tracking.rebuild(store) == 5
    assert shown(store) == before
    # Over an existing store: the same again, no double runs and no files of the old ones.
    assert tracking.rebuild(store) == 5
    assert shown(store) == before
    # The failed run has no files, so no folder.
    assert len(list((store.root / "mlflow" / "artifacts").glob("*/*"))) == 6
    assert not list((store.root / "mlflow").glob(".*mlflow.db*"))


def test_rebuild_knows_unfinished_commands_and_runs_without_one(store):
    _, record = make_run(store)
    make_command(store, runs=[f"toy/{record.id}", "toy/removed-s0-0000"])
    make_run(store, "mine", kind="imported", config={}, fit={})
    assert tracking.rebuild(store) == 2
    parent = parents(store)["c1"]
    assert parent.info.status == "KILLED" and parent.info.end_time == END_MS
    (imported,) = children(store, "mine")
    assert imported.data.tags["bench.kind"] == "imported" and "mlflow.parentRunId" not in imported.data.tags


def test_rebuild_refuses_what_it_cannot_do_and_keeps_the_old_store(store):
    folder, record = make_run(store)
    tracker = Tracker(store)
    command = make_command(store)
    tracker.start(command)
    with pytest.raises(RunError, match="busy"):
        tracking.rebuild(store)
    command.runs.append(f"toy/{record.id}")
    tracker.log_run(folder, record, command)
    tracker.finish(command, "")
    store.write_command(command)
    before, files = shown(store), sorted((store.root / "mlflow").rglob("*"))
    (folder / record.evaluations[UNIFORM].ranks).write_bytes(b"no parquet")
    with pytest.raises(RunError, match=r"is not the file that run.json speaks of"):
        tracking.rebuild(store)
    assert shown(store) == before and sorted((store.root / "mlflow").rglob("*")) == files


def test_a_destroyed_database_costs_one_warning_and_is_rebuilt(store):
    database = store.root / "mlflow" / "mlflow.db"
    database.write_bytes(b"this is no database " * 300)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrackingWarning)
        complete(store, make_command(store), [make_run(store)])
    told = [str(one.message) for one in caught if issubclass(one.category, TrackingWarning)]
    assert len(told) == 1 and "bench ui --rebuild" in told[0] and "\n" not in told[0]
    with pytest.raises(RunError, match="--rebuild"):
        tracking.ui_command(store, None, 5000)
    assert tracking.rebuild(store) == 1
    assert len(children(store)) == 1
    # The table was kept although MLflow was broken.
    assert parents(store)["c1"].data.tags["mlflow.note.content"] == TABLE


@pytest.mark.parametrize("broken", ["a folder", "a path"])
def test_a_database_that_cannot_be_opened_does_not_keep_anybody_waiting(store, tmp_path, broken):
    (tmp_path / "base.db").mkdir()
    uri = f"sqlite:///{tmp_path}/{'base.db' if broken == 'a folder' else 'is#this%41?.db'}"
    clock = time.perf_counter()
    with pytest.warns(TrackingWarning, match="unable to open|cannot open"):
        complete(store, make_command(store), [make_run(store)], Tracker(store, uri))
    assert time.perf_counter() - clock < 10


def test_an_unreachable_server_costs_one_warning_and_no_result(store, capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, runs = make_command(store), [make_run(store), make_run(store, "two")]
    clock = time.perf_counter()
    with pytest.warns(TrackingWarning, match="bench ui --rebuild") as caught:
        complete(store, command, runs, Tracker(store, f"http://name:secret@127.0.0.1:{port}"))
    assert time.perf_counter() - clock < 15
    assert len(caught) == 1 and "secret" not in str(caught[0].message)
    assert capfd.readouterr() == ("", "")
    assert len(list(store.runs())) == 2


def test_a_broken_run_does_not_stop_the_next(store):
    folder, record = make_run(store, "one")
    (folder / "curve.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.warns(TrackingWarning, match=r"line 2 of .*curve\.jsonl") as caught:
        complete(store, make_command(store), [(folder, record), make_run(store, "two")])
    assert len(caught) == 1 and [run.data.tags["bench.model"] for run in children(store)] == ["two"]


def test_a_copied_results_folder_asks_for_a_rebuild(store, tmp_path):
    complete(store, make_command(store), [make_run(store)])
    before = shown(store)
    shutil.move(store.root, tmp_path / "elsewhere")
    moved = Store(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="another folder"):
        tracking.ui_command(moved, None, 5000)
    with pytest.warns(TrackingWarning, match="made for another folder"):
        complete(moved, make_command(moved, "c2"), [make_run(moved, "two")])
    assert tracking.rebuild(moved) == 2
    assert before < shown(moved)
    assert tracking.ui_command(moved, None, 5000)


def test_another_store_is_added_to_and_never_replaced(store, tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    from mlflow import MlflowClient

    foreign = MlflowClient(uri).create_experiment("foreign")
    MlflowClient(uri).create_run(foreign)
    complete(store, make_command(store), [make_run(store)])
    assert tracking.rebuild(store, uri) == 1 and tracking.rebuild(store, uri) == 1
    ids = [one.experiment_id for one in MlflowClient(uri).search_experiments()]
    assert len(MlflowClient(uri).search_runs(ids)) == 3  # parent, child and the foreign one


def test_ui_command(store, tmp_path):
    words = tracking.ui_command(store, None, 5123)
    assert words[0] == sys.executable and words[words.index("--port") + 1] == "5123"
    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{store.root}/mlflow/mlflow.db"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    with pytest.raises(UsageError, match="browser"):
        tracking.ui_command(store, "https://host:5000", 5123)
    with pytest.raises(RunError, match="--rebuild"):
        tracking.ui_command(Store(tmp_path / "empty"), None, 5123)


def test_a_process_is_known_by_more_than_its_pid():
    mine = tracking_store._writer()
    assert tracking_store._alive(mine)
    # The pid has gone to another process since.
    assert not tracking_store._alive(mine | {"bench.writer.started": str(float(mine["bench.writer.started"]) - 60)})
    assert not tracking_store._alive({})


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=40)
    | st.sampled_from(
        ["x" * 300, "x" * 249 + "/y", "../a", "a//b", "./.", "/x", "given:/a/b.tsv-99", "N@10", "a b (c)"]
    )
)
def test_every_name_becomes_one_that_mlflow_accepts(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(tracking_fields.allowed(name))


def test_no_config_value_is_lost_to_a_shared_name(store):
    _, record = make_run(store, config={"a@b": 1, "a_b": 2, "a=b": 3})
    view = tracking_fields.run_view(store, store.folder("toy", record.id), record)
    assert sorted(value for name, value in view.params.items() if name.startswith("a")) == ["1", "2", "3"]


WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from bench.store.records import CommandRecord
from bench.store.results import Store
from bench.store.mlflow_view import Tracker
assert not {"mlflow", "sqlalchemy"} & set(sys.modules), "importing the tracker must not cost MLflow's import"
root, name, run, kill, barrier = sys.argv[1:]
store = Store(root)
command = CommandRecord(**json.loads((store.root / "commands" / f"{name}.json").read_text()))
from bench.store.mlflow_store import configure
configure(sqlite=True)
import mlflow.store.tracking.sqlalchemy_store
Path(barrier, name).touch()
while len(os.listdir(barrier)) < 2:
    time.sleep(0.005)
tracker = Tracker(store)
tracker.start(command)
folder = store.folder("toy", run)
tracker.log_run(folder, store.read(folder), command)
if kill == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
tracker.finish(command, "")
"""


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A fresh store that two processes opened at the same moment; one of them was killed before it finished."""
    store, barrier = Store(tmp_path_factory.mktemp("race") / "results"), tmp_path_factory.mktemp("barrier")
    workers = []
    for name, kill in (("c1", "live"), ("c2", "kill")):
        _, record = make_run(store, f"model-{name}")
        make_command(store, name)
        words = [sys.executable, "-c", WORKER, str(store.root), name, record.id, kill, str(barrier)]
        workers.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=barrier))
    results = [(worker.communicate(timeout=120), worker.returncode) for worker in workers]
    return store, results, barrier


def test_two_processes_may_start_on_a_fresh_store(raced):
    store, results, barrier = raced
    # Nothing on the terminal and nothing in the working folder.
    assert results == [(("", ""), 0), (("", ""), -signal.SIGKILL)]
    assert sorted(os.listdir(barrier)) == ["c1", "c2"]
    assert {run.info.run_name.split("-s0")[0] for run in children(store)} == {"model-c1", "model-c2"}
    assert not list((store.root / "mlflow").glob(".*mlflow.db*"))


def test_runs_of_dead_processes_are_ended_and_those_of_living_ones_are_not(raced):
    store, _, _ = raced
    # The child that died with its process was complete; its command never ended.
    assert parents(store)["c2"].info.status == "RUNNING"
    living = Tracker(store)
    command = make_command(store, "c3")
    living.start(command)
    living.log_run(*make_run(store), command)
    other = Tracker(store)
    other.start(make_command(store, "c4"))
    found = {name: run.info.status for name, run in parents(store).items()}
    assert found == {"c1": "FINISHED", "c2": "KILLED", "c3": "RUNNING"}
    living.close()
    other.close()


def test_the_record_is_untouched(store):
    folder, record = make_run(store)
    before = json.dumps(asdict(record), default=str)
    complete(store, make_command(store), [(folder, record)])
    assert json.dumps(asdict(record), default=str) == before and json.dumps(asdict(store.read(folder))) == before
