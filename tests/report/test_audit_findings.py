"""What an audit found in a model stands under every view that shows the model, and in MLflow."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.evaluation.finding import Finding, in_order, of_record
from bench.report.html.page import Report
from bench.report.table import table
from bench.store.mlflow_content import run_content
from bench.store.records import content_digest

from .results_by_hand import FIRST, OTHER, draws

QUERY = Finding(
    "severe", "query", "A", "ranks searches as well with another query", ".400, then .401", "train it", ("A",)
)
HISTORY = Finding("warning", "history", "A", "does not read the history", "x", "look", ("A",))
DRAWS = Finding("note", "draws", "A", "chance is in it", "std .004", "compare on one draw", ("A",))
WORDS = "ranks searches as well with another query (.400, then .401): A"


def audited(folder, run, *findings):
    """Keep findings as `bench audit run` does."""
    place, record = folder.store.find(run.rpartition("/")[2])
    record.audit = {"made": "2030-01-01T00:00:00+00:00", "rows": 500, "findings": [each.record() for each in findings]}
    folder.store.write(place, record)
    return place


@pytest.fixture
def two(folder):
    runs = [folder.run("a", draws(1, 8)), folder.run("b", draws(2))]
    folder.command(*runs)
    audited(folder, runs[0], DRAWS, HISTORY, QUERY)
    return folder, runs


def test_findings_stand_under_every_view_and_notes_do_not(two):
    folder, _ = two
    made = table(folder.store)
    views = [made.text(200), made.markdown(), made.html(), made.layout("paper").text(200), made.against("a").markdown()]
    views += [made.compare("a", "b").text(200), made.latex()]
    for view in views:
        assert "!! ranks searches as well with another query" in view and "does not read the history" in view
        assert "chance is in it" not in view
    assert f"!! {WORDS}" in made.text(200)
    page = Report(made).html()
    assert "ranks searches as well with another query" in page and "chance is in it" in page


def test_findings_are_in_the_records(two):
    folder, _ = two
    made = table(folder.store)
    by_model = {each["model"]: each["notes"] for each in made.records()}
    assert "severe: ranks searches as well" in by_model["a"] and "severe" not in by_model["b"]
    (record, *_) = made.compare("a", "b").records()
    assert "severe: ranks searches as well" in record["notes_a"] and "severe" not in record["notes_b"]
    assert all("severe" not in each["notes_b"] for each in made.against("a").records())


def test_the_command_prints_stored_findings_and_ends_with_1(two):
    folder, _ = two
    done = CliRunner().invoke(main, ["audit", "table", "--out", str(folder.store.root), "--format", "json"])
    assert done.exit_code == 1
    checks = [each["check"] for each in json.loads(done.output)]
    assert "query" in checks and "history" in checks and "draws" in checks


def test_findings_of_several_seeds_are_one(folder):
    runs = [folder.run("a", draws(seed, 8), seed=seed) for seed in (0, 1)]
    folder.command(*runs)
    for run, evidence in zip(runs, (".1", ".2"), strict=True):
        audited(folder, run, Finding("severe", "query", "A", "ignores it", evidence, "train it", ("A",)))
    assert "!! ignores it (seed 0: .1; seed 1: .2): A" in table(folder.store).text(200)


def test_mlflow_gets_them_from_the_plain_files_alone(two):
    """A rebuild goes through the same content; the digest that tells a stale view has changed."""
    folder, (first, second) = two
    place, record = folder.store.find(first.rpartition("/")[2])
    shown = run_content(folder.store, place, record)
    assert shown.tags["bench.audit.counts"] == "1 severe, 1 warning, 1 note"
    assert shown.tags["bench.audit.findings"].splitlines()[0] == QUERY.line()
    record.audit = {}
    assert shown.digest != content_digest(record)
    place, record = folder.store.find(second.rpartition("/")[2])
    assert "bench.audit.counts" not in run_content(folder.store, place, record).tags
    assert of_record(json.loads(json.dumps(QUERY.record()))) == QUERY and in_order([DRAWS, QUERY])[0] == QUERY


def test_an_order_that_the_full_ranking_reverses_stands_under_both_tables(folder):
    better = draws(1, 8)
    runs = [folder.run("a", better), folder.run("b", better + 12)]
    for model, values in (("a", better + 12), ("b", better)):
        folder.run(model, values, candidates=OTHER, label="full")
    folder.command(*runs, candidates=(FIRST, OTHER))
    made = table(folder.store, candidates=("uniform", "full"))
    assert made.text(300).count("is reversed in the full ranking") == 4  # two tasks, two tables
    assert "reversed" not in table(folder.store, candidates="uniform").text(300)
