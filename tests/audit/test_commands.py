"""The audit from the command line and from Python: what it prints, keeps in the record, and ends with."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import bench.api
from bench.cli.main import main
from bench.errors import UsageError
from bench.store.results import Store, read_ranks, write_ranks

SET = {"simulated": {"users": 90, "items": 300, "events": 4000}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders of data and results with one finished run."""
    root = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_start", "log_run"):
            patch.setattr(f"bench.experiments.tracking.CommandTracker.{name}", lambda *_: None)
        bench.api.run(
            "matcher", "simulated", split="leave-one-out", set=SET, trivial=False, threads=1, data=root / "data",
            out=root / "results", quiet=True,
        )  # fmt: skip
    return {"out": root / "results", "data": root / "data"}


@pytest.fixture(autouse=True)
def tracked(monkeypatch):
    """In place of MLflow: the runs whose content it was given."""
    seen = []

    class Tracker:
        def __init__(self, *_):
            pass

        def log_run(self, folder, record, command):
            seen.append(record)

    monkeypatch.setattr("bench.store.mlflow_view.Tracker", Tracker)
    return seen


def words(place):
    return [f"--{name}={folder}" for name, folder in place.items()]


def test_a_sound_run_ends_with_0_and_what_was_found_is_kept(place, tracked):
    done = CliRunner().invoke(main, ["audit", "run", "matcher", *words(place), "--rows", "40"])
    assert done.exit_code == 0 and "0 of them severe" in done.output, done.output
    _, record = Store(place["out"]).find("matcher")
    assert record.audit["rows"] == 40 and {each["check"] for each in record.audit["findings"]} >= {"draws"}
    assert [each.audit for each in tracked] == [record.audit]
    frame = bench.api.audit("matcher", **place, rows=40, device="cpu")
    assert set(frame["severity"]) <= {"warning", "note"} and list(frame.columns)[:3] == ["severity", "check", "subject"]


def test_ranks_that_the_weights_do_not_give_are_severe(place, tmp_path):
    import shutil

    out = shutil.copytree(place["out"], tmp_path / "results")
    store = Store(out)
    folder, record = store.find("matcher")
    ((key, evaluation),) = record.evaluations.items()
    ranks = read_ranks(folder, evaluation)
    told = replace(ranks, better=np.zeros_like(ranks.better), tied=np.zeros_like(ranks.tied))
    candidates = type(
        "Drawn", (), {"fingerprint": key, "label": evaluation.label, "meta": {"strategy": "uniform", "seed": 0}}
    )
    record.evaluations[key] = write_ranks(told, folder, "matcher", candidates, evaluation.leaks, 1.0)
    store.write(folder, record)
    words = [f"--out={out}", f"--data={place['data']}", "--rows", "40", "--format", "json"]
    done = CliRunner().invoke(main, ["audit", "run", "matcher", *words])
    found = json.loads(done.output)
    assert done.exit_code == 1
    assert {each["check"] for each in found if each["severity"] == "severe"} == {"always first", "reproduced"}
    assert "the stored ranks are not those" in CliRunner().invoke(main, ["table", f"--out={out}"]).output


def test_a_data_set_is_audited_before_anything_is_trained(place):
    options = [f"--set=simulated.{name}={value}" for name, value in SET["simulated"].items()]
    done = CliRunner().invoke(
        main,
        [
            "audit",
            "data",
            "--dataset=simulated",
            "--split=leave-one-out",
            *options,
            f"--data={place['data']}",
            "--format=json",
        ],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    frame = bench.api.audit(dataset="simulated", data=place["data"], split="leave-one-out", set=SET)
    assert [each["check"] for each in found] == list(frame["check"]) and "draws" in set(frame["check"])
    with pytest.raises(UsageError, match="not both"):
        bench.api.audit("matcher", "simulated")


def test_table_and_report_from_python(place, tmp_path):
    assert set(bench.api.audit(out=place["out"])["severity"]) <= {"warning", "note"}
    path = bench.api.report(tmp_path / "page.html", **place)
    assert path.stat().st_size > 100_000 and "Matcher" in path.read_text()
