"""What a user sees in MLflow of a results folder, while commands write it and after a rebuild."""

import json
import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.evaluation.metrics import DEFAULT, PRIMARY
from bench.evaluation.ranks import Ranks
from bench.store import mlflow_ui, mlflow_view
from bench.store.metric_names import from_mlflow_name, mlflow_name
from bench.store.mlflow_content import allowed_name, run_content
from bench.store.mlflow_database import quiet
from bench.store.mlflow_view import Tracker, TrackingWarning
from bench.store.results import checksums

# What would be a warning for a user is an error here, except where a test expects it.
pytestmark = pytest.mark.filterwarnings("error::bench.store.mlflow_view.TrackingWarning")

DATA, UNIFORM, HARD = "7a" * 32, "c1" * 32, "d2" * 32
BOTH = ((HARD, "same-query-99"), (UNIFORM, "uniform-99"))
END, LATER = "2025-03-01T10:05:30.250+00:00", "2025-03-01T11:00:00+00:00"
START_MS, END_MS = 1740823200000, 1740823530250
TABLE = "| model | rec N@10 |\n|---|---|\n| one | .5 |"


@pytest.fixture
def store(tracked):
    return tracked


@pytest.fixture
def complete():
    def complete(store, command, runs, tracker=None):
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

    return complete


def client_of(store):
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{store.root}/mlflow/mlflow.db")


def all_runs(store, kind=None):
    client = client_of(store)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, max_results=1000)
    return [run for run in runs if kind in (None, run.data.tags["bench.kind"])]


def parents(store):
    return {run.data.tags["bench.command"]: run for run in all_runs(store, "command")}


def shown(store):
    """Everything by which two views must agree."""
    client, runs, found = client_of(store), all_runs(store), set()
    names = {run.info.run_id: run.info.run_name for run in runs}
    for run in runs:
        tags = {name: text for name, text in run.data.tags.items() if name != "mlflow.parentRunId"}
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


def test_a_command_is_a_parent_with_a_child_per_run_and_its_table(store, make_run, make_command, complete):
    command = make_command(store)
    complete(store, command, [make_run(store, "one", 0), make_run(store, "one", 1), make_run(store, "two", 0)])
    experiments = {one.name: one for one in client_of(store).search_experiments()}
    assert experiments["toy"].artifact_location == str(store.root / "mlflow" / "artifacts" / "toy")
    assert experiments["toy"].tags["mlflow.experimentKind"] == "custom_model_development"
    parent = parents(store)["c1"]
    assert parent.data.tags["mlflow.note.content"] == TABLE and parent.info.status == "FINISHED"
    assert (Path(parent.info.artifact_uri) / "table.md").read_text() == TABLE
    assert (parent.info.start_time, parent.info.end_time) == (START_MS, END_MS)
    assert parent.data.params["bench.models"] == '["one", "two"]'
    runs = all_runs(store, "fit")
    names = {(run.data.tags["bench.model"], run.data.tags["bench.seed"]) for run in runs}
    assert names == {("one", "0"), ("one", "1"), ("two", "0")}
    for run in runs:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id and run.info.status == "FINISHED"
        assert (run.info.start_time, run.info.end_time) == (START_MS, END_MS)
    assert {run.info.run_name for run in runs} == {"One, seed 0", "One, seed 1", "Two, seed 0"}


def test_the_address_leads_to_the_models_of_the_newest_command(store, make_run, make_command, complete):
    complete(store, make_command(store), [make_run(store, "one", 0), make_run(store, "two", 0)])
    address = urlsplit(mlflow_ui.ui_address(store, None, 5123).replace("/#/", "/"))
    experiment = client_of(store).get_experiment_by_name("toy")
    assert address.path == f"/experiments/{experiment.experiment_id}/runs"
    key = parse_qs(address.query)["viewStateShareKey"][0]
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert view["selectedColumns"] == ["metrics.`rec/N_10`", "metrics.`search/N_10`"]
    found = client_of(store).search_runs(
        [experiment.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert {run.data.tags["bench.model"] for run in found} == {"one", "two"}


def test_a_child_shows_config_evidence_inputs_curves_and_files(store, make_run, make_command, complete):
    folder, record = make_run(store)
    complete(store, make_command(store), [(folder, record)])
    (run,) = all_runs(store, "fit")
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert params["lr"] == "0.001" and params["deep.layers"] == "[1, 2]" and params["deep.on"] == "True"
    assert params["n_k"] == "None" and params["bench.options.variant"] == "E"
    assert len(params["prompt"]) == 500 and params["prompt"].startswith("xxx")
    expected = {"kind": "fit", "candidates": UNIFORM, "data": DATA, "code": "code1234", "budget": "quick"}
    expected |= {"commit": "abc123", "dirty": "true", "evidence.backbone": "tiny", "env.packages.torch": "2.13.0"}
    expected |= {"folder": f"toy/{record.id}", "fit.procedure": "closed form", "synthetic": "queries"}
    assert {name: tags[f"bench.{name}"] for name in expected} == expected
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert metrics["seconds"] == 330.25 and metrics["peak_memory_mb"] == 512.5
    assert metrics["fit/epochs"] == 3 and metrics["fit/converged"] == 1
    assert metrics["leaks/zero:target in own history"] == 0 and metrics["leaks/duplicate user item rows"] == 7
    assert "leaks/remark" not in metrics
    inputs = {one.dataset.name: (one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs}
    assert inputs == {"toy": (DATA[:36], "training"), "toy uniform-99": (UNIFORM[:36], "eval")}
    history = client_of(store).get_metric_history
    loss = sorted((p.step, p.value, p.timestamp) for p in history(run.info.run_id, "train/loss"))
    assert loss == [(e, 1 / e, START_MS + 2000 * e) for e in (1, 2, 3)]
    valid = sorted((p.step, p.value) for p in history(run.info.run_id, "valid/rec/N_10"))
    assert valid == [(e, 0.1 * e) for e in (1, 2, 3)]
    # A validation value is never among those of the result.
    assert len(history(run.info.run_id, "rec/N_10")) == 1
    where = Path(run.info.artifact_uri)
    names = ["run.json", "curve.jsonl", f"ranks-{UNIFORM[:16]}.parquet"]
    assert sorted(path.name for path in where.iterdir()) == sorted([*names, "config.json"])
    assert all((where / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert json.loads((where / "config.json").read_text())["prompt"] == "x" * 900


def test_final_metrics_come_from_the_ranks(store, make_run, make_command, complete):
    folder, record = make_run(store, sets=BOTH)
    complete(store, make_command(store), [(folder, record)])
    (run,) = all_runs(store, "fit")
    for prefix, fingerprint in (("", UNIFORM), ("same-query-99/", HARD)):
        ranks = Ranks.load(folder / record.evaluations[fingerprint].ranks)
        for code, task in enumerate(("rec", "search")):
            mine = ranks.task == code
            # NDCG@10 over the tied block written out row by row, then the mean of the users' means.
            blocks = [range(b + 1, b + t + 2) for b, t in zip(ranks.better, ranks.tied, strict=True)]
            gain = np.array([np.mean([1 / np.log2(r + 1) if r <= 10 else 0.0 for r in block]) for block in blocks])
            means = [gain[mine & (ranks.user == user)].mean() for user in np.unique(ranks.user[mine])]
            assert run.data.metrics[f"{prefix}{task}/N_10"] == pytest.approx(np.mean(means), abs=1e-12)
            for metric in DEFAULT:
                assert run.data.metrics[prefix + mlflow_name(task, metric)] == ranks.only(task).mean(metric)
                assert from_mlflow_name(mlflow_name(task, metric)) == (task, metric)
    assert run.data.tags["bench.candidates"] == f"{UNIFORM},{HARD}"
    with pytest.raises(UsageError, match="did you mean search"):
        mlflow_name("serach", PRIMARY)


def test_two_candidate_sets_with_one_label_do_not_share_names(store, make_run):
    folder, record = make_run(store, sets=[(letter * 64, "uniform-99") for letter in "abc"])
    names = {one.name for one in run_content(store, folder, record).metrics if one.name.endswith("rec/N_10")}
    assert names - {"valid/rec/N_10"} == {"rec/N_10", "uniform-99-cccccccc/rec/N_10", "uniform-99/rec/N_10"}


def test_long_curves_and_configs_are_whole(store, make_run, make_command, complete):
    folder, record = make_run(store, config={f"p{i}": i for i in range(250)} | {"a@b": 1, "a_b": 2, "a=b": 3})
    lines = [json.dumps({"epoch": epoch, "train/loss": epoch, "a": epoch}) for epoch in range(1100)]
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    record.files = checksums(folder)
    store.write(folder, record)
    complete(store, make_command(store), [(folder, record)])
    (run,) = all_runs(store, "fit")
    assert len(client_of(store).get_metric_history(run.info.run_id, "train/loss")) == 1100
    assert sum(name.startswith("p") for name in run.data.params) == 250
    # No value is lost to a name that two settings share.
    assert sorted(value for name, value in run.data.params.items() if name.startswith("a_")) == ["1", "2", "3"]


def test_each_run_is_written_once_and_replaced_when_its_record_changes(store, make_run, make_command, complete):
    folder, record = make_run(store)
    complete(store, make_command(store), [(folder, record)])
    (before,) = all_runs(store, "fit")
    # A command that finds the run there writes nothing, not even a parent of its own.
    complete(store, make_command(store, "c2", started=LATER), [(folder, record)])
    (same,) = all_runs(store, "fit")
    assert same.info.run_id == before.info.run_id and set(parents(store)) == {"c1"}
    folder, record = make_run(store, sets=BOTH)
    assert mlflow_view.is_stale(store)
    Tracker(store).log_run(folder, record, store.commands()[0])
    (after,) = all_runs(store, "fit")
    assert "same-query-99/rec/N_10" in after.data.metrics and not mlflow_view.is_stale(store)
    before = shown(store)
    mlflow_view.rebuild(store)
    assert shown(store) == before


def test_a_failed_run_and_its_command(store, make_run, make_command, complete):
    message = "two: the model's loss became nan"
    command = make_command(store, failed={"toy/two-s0-ffff": message})
    complete(store, command, [make_run(store)])
    (failed,) = all_runs(store, "failed")
    assert failed.info.status == "FAILED" and failed.data.tags["bench.failed"] == message
    parent = parents(store)["c1"]
    assert failed.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.status == "FAILED" and parent.data.tags["bench.failed"] == "toy/two-s0-ffff"


def test_rebuild_gives_the_same_view_as_the_commands(store, make_run, make_command, complete):
    one, two = make_run(store, "one", 0), make_run(store, "two", 0)
    complete(store, make_command(store), [one, two])
    late = make_run(store, "one", 1, started=LATER, finished="2025-03-01T11:05:00+00:00")
    complete(store, make_command(store, "c2", started=LATER, failed={"toy/three-s0-eeee": "no"}), [one, late])
    before = shown(store)
    assert len(before) == 6
    shutil.rmtree(store.root / "mlflow")
    assert mlflow_view.is_stale(store)
    assert mlflow_view.rebuild(store) == 4
    assert shown(store) == before and not mlflow_view.is_stale(store)
    # Over an existing store: the same again, no double runs and no files of the old ones.
    assert mlflow_view.rebuild(store) == 4
    assert shown(store) == before
    # The failed run has no files, so no folder.
    assert len(list((store.root / "mlflow" / "artifacts").glob("*/*"))) == 5
    assert not list((store.root / "mlflow").glob(".*mlflow.db*"))
    store.remove(one[0])
    assert mlflow_view.is_stale(store)


def test_rebuild_knows_killed_and_living_commands_and_runs_without_one(store, make_run, make_command):
    _, record = make_run(store)
    make_command(store, runs=[f"toy/{record.id}", "toy/removed-s0-0000"])
    make_run(store, "mine", kind="imported", config={}, fit={})
    folder, two = make_run(store, "two", finished="2025-03-01T11:05:00+00:00")
    living, command = Tracker(store), make_command(store, "c2", started=LATER, runs=[f"toy/{two.id}"])
    living.start(command)
    living.log_run(folder, two, command)
    assert mlflow_view.rebuild(store) == 3
    assert {name: run.info.status for name, run in parents(store).items()} == {"c1": "KILLED", "c2": "RUNNING"}
    assert parents(store)["c1"].info.end_time == END_MS
    (imported,) = all_runs(store, "imported")
    assert "mlflow.parentRunId" not in imported.data.tags
    # The living command goes on in the new store.
    command.finished = END
    living.finish(command, TABLE)
    assert parents(store)["c2"].info.status == "FINISHED"


def test_commands_of_killed_processes_are_ended_and_living_ones_are_not(store, make_run, make_command):
    trackers = {}
    for name in ("c1", "c2"):
        command = make_command(store, name)
        trackers[name] = Tracker(store)
        trackers[name].start(command)
        trackers[name].log_run(*make_run(store, name), command)
    trackers["c1"]._lock.release()  # as the system does when the process dies
    (store.root / "mlflow" / ".new.mlflow.db.4711").write_text("half a database")
    Tracker(store).start(make_command(store, "c3"))
    assert {name: run.info.status for name, run in parents(store).items()} == {"c1": "KILLED", "c2": "RUNNING"}
    assert not list((store.root / "mlflow").glob(".new*"))


def test_broken_plain_files_cost_their_run_and_no_other(store, make_run, make_command, complete):
    folder, record = make_run(store, "one")
    (folder / "curve.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.warns(TrackingWarning, match=r"curve\.jsonl is not the file that run\.json describes") as caught:
        complete(store, make_command(store), [(folder, record), make_run(store, "two")])
    assert len(caught) == 1 and [run.data.tags["bench.model"] for run in all_runs(store, "fit")] == ["two"]
    record.files = checksums(folder)
    store.write(folder, record)
    with pytest.warns(TrackingWarning, match=r"line 2 of .*curve\.jsonl"):
        assert mlflow_view.rebuild(store) == 1


def test_a_destroyed_database_costs_one_warning_and_is_rebuilt(store, make_run, make_command, complete):
    (store.root / "mlflow" / "mlflow.db").write_bytes(b"this is no database " * 300)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrackingWarning)
        complete(store, make_command(store), [make_run(store)])
    lines = [str(one.message) for one in caught if issubclass(one.category, TrackingWarning)]
    assert len(lines) == 1 and "bench ui --rebuild" in lines[0] and "\n" not in lines[0]
    assert mlflow_view.is_stale(store)
    assert mlflow_view.rebuild(store) == 1
    # The table was kept although MLflow was broken.
    assert parents(store)["c1"].data.tags["mlflow.note.content"] == TABLE


@pytest.mark.parametrize("broken", ["a folder", "a path", "a server"])
def test_a_store_that_cannot_be_opened_costs_one_warning(store, make_run, make_command, complete, capfd, broken):
    if broken == "a server":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            uri = f"http://name:secret@127.0.0.1:{free.getsockname()[1]}"
    else:
        (store.root / "base.db").mkdir()
        uri = f"sqlite:///{store.root}/{'base.db' if broken == 'a folder' else 'is#this%41?.db'}"
    clock = time.perf_counter()
    with pytest.warns(TrackingWarning, match="bench ui --rebuild") as caught:
        complete(store, make_command(store), [make_run(store), make_run(store, "two")], Tracker(store, uri))
    assert time.perf_counter() - clock < 30
    assert len(caught) == 1 and "secret" not in str(caught[0].message)
    assert capfd.readouterr() == ("", "")


def test_a_copied_results_folder_is_rebuilt(store, tmp_path, make_run, make_command, complete):
    complete(store, make_command(store), [make_run(store)])
    before = shown(store)
    shutil.move(store.root, tmp_path / "elsewhere")
    moved = type(store)(tmp_path / "elsewhere")
    assert mlflow_view.is_stale(moved)
    with pytest.warns(TrackingWarning, match="was made for"):
        complete(moved, make_command(moved, "c2"), [make_run(moved, "two")])
    assert mlflow_view.rebuild(moved) == 2
    assert before < shown(moved) and not mlflow_view.is_stale(moved)


def test_another_store_is_added_to_and_never_replaced(store, tmp_path, migrated, make_run, make_command, complete):
    shutil.copy(migrated, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    from mlflow import MlflowClient

    foreign = MlflowClient(uri).create_experiment("foreign")
    MlflowClient(uri).create_run(foreign)
    complete(store, make_command(store), [make_run(store)])
    assert mlflow_view.rebuild(store, uri) == 1 and mlflow_view.rebuild(store, uri) == 1
    ids = [one.experiment_id for one in MlflowClient(uri).search_experiments()]
    assert len(MlflowClient(uri).search_runs(ids)) == 3  # parent, child and the foreign one


def test_ui_command(store):
    words = mlflow_ui.ui_command(store, None, 5123)
    assert words[0] == sys.executable and words[words.index("--port") + 1] == "5123"
    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{store.root}/mlflow/mlflow.db"
    assert mlflow_ui.ui_address(store, None, 5123) == "http://127.0.0.1:5123"
    with pytest.raises(UsageError, match="browser"):
        mlflow_ui.ui_command(store, "https://host:5000", 5123)


def test_a_command_with_nothing_new_does_not_import_mlflow(store, make_run, make_command, complete):
    complete(store, make_command(store), [make_run(store)])
    program = """
import sys
from bench.store.mlflow_view import Tracker
from bench.store.results import Store
store = Store(sys.argv[1])
(command,) = store.commands()
tracker = Tracker(store)
tracker.start(command)
for folder, record in store.runs():
    tracker.log_run(folder, record, command)
command.id = "c2"
tracker.finish(command, "the table")
assert not {"mlflow", "sqlalchemy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, store.root], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
        check(allowed_name(name))
