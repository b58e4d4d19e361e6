"""The audit of published numbers finds what no ranking can have, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import RunError, UsageError
from bench.evaluation.metrics import parse, values
from bench.report.number_audit import audit_numbers

# R@5, R@10, N@5, N@10 of some rows of Tables 2 and 3 of the GenSR paper (arXiv:2504.06714).
PAPER = {
    ("Amazon", "rec", "DIN"): (0.5170, 0.6525, 0.3726, 0.4165),
    ("Amazon", "rec", "GenSR"): (0.6102, 0.7200, 0.4922, 0.5278),
    ("Amazon", "search", "UniSAR"): (0.8190, 0.8977, 0.6875, 0.7132),
    ("Amazon", "search", "GenSR"): (0.9782, 0.9664, 0.9853, 0.9687),
    ("KuaiSAR", "rec", "GRU4Rec"): (0.3764, 0.5788, 0.2345, 0.3087),
    ("KuaiSAR", "rec", "SASRec"): (0.4065, 0.6007, 0.2671, 0.3298),
    ("KuaiSAR", "rec", "CoLLM"): (0.4092, 0.5915, 0.3199, 0.3683),
    ("KuaiSAR", "rec", "GenSR"): (0.5235, 0.6819, 0.3686, 0.4199),
    ("KuaiSAR", "search", "UniSAR"): (0.7476, 0.8369, 0.6417, 0.6708),
    ("KuaiSAR", "search", "GenSR"): (0.7661, 0.8372, 0.7564, 0.7655),
}
IMPOSSIBLE = {
    ("Amazon", "search", "GenSR"),
    ("KuaiSAR", "rec", "GRU4Rec"),
    ("KuaiSAR", "rec", "CoLLM"),
    ("KuaiSAR", "search", "GenSR"),
}
METRICS = ("R@5", "R@10", "N@5", "N@10")


def write(path, rows, decimals=4):
    """Rows as a long table; `rows` maps (dataset, task, model) to metric -> value, or to the four of METRICS."""
    lines = ["dataset,task,model,metric,value,significant"]
    for key, row in rows.items():
        cells = row if isinstance(row, dict) else dict(zip(METRICS, row, strict=True))
        lines += [",".join([*key, metric, f"{value:.{decimals}f}", "0"]) for metric, value in cells.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_paper_has_four_impossible_rows_and_an_exchange_repairs_one(tmp_path):
    count, findings = audit_numbers(write(tmp_path / "paper.csv", PAPER))
    assert count == len(PAPER)
    assert {(each.dataset, each.task, each.model) for each in findings} == IMPOSSIBLE
    by_row = {(each.dataset, each.task, each.model): each for each in findings}
    swapped = by_row["Amazon", "search", "GenSR"]
    assert swapped.suggestion == "the row is possible with R@10 and N@5 exchanged"
    assert "R@10 = 0.9664 is below R@5 = 0.9782" in swapped.relation
    assert {each.suggestion for each in findings} == {"", swapped.suggestion}
    assert "N@10 - N@5 = 0.0091, but R@10 - R@5 = 0.0711 allows only" in by_row["KuaiSAR", "search", "GenSR"].relation


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=200),
    st.sampled_from([(5, 10), (1, 3, 20), (10,), (1, 2, 5, 10, 50)]),
    st.integers(2, 4),
)
def test_no_ranking_is_ever_blamed(tmp_path_factory, better, cut_offs, decimals):
    counts = np.array(better), np.zeros(len(better), int), np.full(len(better), 100)
    names = [f"{kind}@{k}" for k in cut_offs for kind in "RN"] + ["MRR"]
    row = {name: values(parse(name), *counts).mean() for name in names}
    path = write(tmp_path_factory.mktemp("audit") / "t.csv", {("d", "rec", "m"): row}, decimals)
    assert audit_numbers(path) == (1, [])


@pytest.mark.parametrize(("a", "b"), [("R@5", "R@10"), ("N@5", "N@10"), ("R@5", "N@5"), ("R@10", "N@10")])
def test_exchanged_cells_are_found_and_named(tmp_path, a, b):
    row = dict(zip(METRICS, PAPER["Amazon", "rec", "DIN"], strict=True))
    row[a], row[b] = row[b], row[a]
    _, (finding,) = audit_numbers(write(tmp_path / "t.csv", {("d", "rec", "m"): row}))
    assert f"{a} and {b}" in finding.suggestion


def test_rounding_is_allowed_for_and_no_more(tmp_path):
    # Every hit is at rank 1, so that recall and NDCG are equal; they were rounded in different directions.
    sound = {("d", "rec", "m"): {"R@10": 0.3333, "N@10": 0.3334}}
    assert audit_numbers(write(tmp_path / "t.csv", sound)) == (1, [])
    wrong = {("d", "rec", "m"): {"R@10": 0.3333, "N@10": 0.3336}}
    assert len(audit_numbers(write(tmp_path / "t.csv", wrong))[1]) == 1


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("dataset,task,model,metric\n", UsageError, "the column value is missing"),
        ("dataset,task,model,metric,value\nd,rec,m,R@5,high\n", RunError, "line 2: the value 'high' is no number"),
        ("dataset,task,model,metric,value\nd,rec,m,HR@5,.5\n", RunError, "line 2: unknown metric"),
        ("dataset,task,model,metric,value\nd,rec,m,R@5,.5\nd,rec,m,R@5,.6\n", RunError, "there twice"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, content, error, words):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(error, match=words) as caught:
        audit_numbers(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="No such file"):
        audit_numbers(tmp_path / "absent.csv")


def test_empty_cells_are_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "dataset,task,model,metric,value\nd,rec,m,R@5,–\nd,rec,m,R@10,-\nd,rec,n,R@5,0.5\nd,rec,n,R@10,0.6\n"
    )
    assert audit_numbers(path) == (1, [])


def test_the_command_gives_one_record_per_finding(tmp_path):
    from click.testing import CliRunner

    from bench.cli.main import main

    path = write(tmp_path / "paper.csv", PAPER)
    done = CliRunner().invoke(main, ["audit", "numbers", str(path), "--format", "json"])
    records = json.loads(done.stdout)
    assert done.exit_code == 1 and len(records) == 4
    assert all(set(record) == {"dataset", "task", "model", "relation", "suggestion"} for record in records)
    text = CliRunner().invoke(main, ["audit", "numbers", str(path)])
    assert text.exit_code == 1 and text.stdout.endswith("4 of 10 rows are impossible\n")
    sound = write(tmp_path / "sound.csv", {key: row for key, row in PAPER.items() if key not in IMPOSSIBLE})
    assert CliRunner().invoke(main, ["audit", "numbers", str(sound)]).exit_code == 0
