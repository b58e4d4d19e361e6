"""A model outside bench: candidates out, scores in, and it has the figures that it would have inside."""

import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bench.data.log
import bench.datasets
from bench.data.split import split

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None,
    reason="ml-100k comes with RecBole, which is not installed (pip install --no-deps recbole==1.2.1)",
)


def test_scores_from_outside_have_the_figures_of_the_same_model_inside(results, bench) -> None:
    selection = ("--dataset", "ml-100k", "--data", results.data)
    done = bench("candidates", "export", *selection, "--out", "lists.parquet")
    assert done.exit_code == 0 and "188,600 lines for rec and search" in done.stdout
    lists = pd.read_parquet("lists.parquet")
    assert list(lists.columns) == ["row", "task", "user", "query", "item"]
    # Popularity as somebody else would count it.
    log = bench_log(results.data)
    trained = pd.Series(log.items.id[log.events.item[split(log).train]])
    scores = lists[["row", "item"]].assign(score=lists["item"].map(trained.value_counts()).fillna(0))
    scores.sample(frac=1, random_state=0).to_csv("scores.csv", index=False)
    before = results.bench("table", "--format", "json").stdout
    done = results.bench("scores", "import", "scores.csv", "--name", "Their Popularity", *selection)
    assert done.exit_code == 0, done.output
    assert f"; `bench table --out {results.out}` shows it" in done.stdout
    assert results.runs()["their-popularity-s0"]["kind"] == "imported"
    records = json.loads(results.bench("table", "--format", "json", "--metrics", "R@5,N@10,MRR,AUC").stdout)
    means = {(r["model"], r["task"], r["metric"]): r["mean"] for r in records}
    assert {r["fingerprint"] for r in records} == {r["fingerprint"] for r in json.loads(before)}
    for task in ("rec", "search"):
        for metric in ("R@5", "N@10", "MRR", "AUC"):
            assert means["their-popularity", task, metric] == pytest.approx(
                means["popularity", task, metric], abs=1e-12
            )
    # Other candidates than the file was made for are refused, and nothing is kept.
    done = results.bench("scores", "import", "scores.csv", "--name", "Other", *selection, "--candidate-seed", "1")
    assert done.exit_code == 1 and "does not fit the candidates uniform-99" in done.stderr
    assert "other-s0" not in results.runs()
    done = results.bench("evaluate", "their-popularity", "--candidates", "full", "--data", results.data)
    assert done.exit_code == 2 and "imported scores" in done.stderr


def test_scores_on_other_candidates_name_the_table_that_shows_them(results, bench) -> None:
    selection = ("--dataset", "ml-100k", "--data", results.data, "--tasks", "rec", "--candidate-seed", "5")
    assert bench("candidates", "export", *selection, "--out", "lists.csv").exit_code == 0
    pd.read_csv("lists.csv", usecols=["row", "item"]).assign(score=0).to_csv("scores.csv", index=False)
    out = results.out.rename(results.out.with_name("my results (new)"))
    done = bench("scores", "import", "scores.csv", "--name", "Flat", *selection, "--out", out)
    assert done.exit_code == 0, done.output
    # The newest command ranked on other candidates; the line names a command that shows the scores, ready to paste.
    command = shlex.split(done.stdout.split("`")[1])
    assert command[:4] == ["bench", "table", "--dataset", "ml-100k"] and command[-2:] == ["--out", str(out)]
    shown = bench(*command[1:])
    assert shown.exit_code == 0 and "Flat" in shown.stdout, shown.output
    assert "Flat" not in bench("table", "--out", out).stdout
    first = shown.stdout.splitlines()[0]
    assert first.endswith("split leave-one-out, mode disjoint, seed 0") and "budget" not in first


def test_exported_lists_have_the_figures_of_the_ranks_in_ir_measures(results, bench) -> None:
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed (pip install -e .[dev])")
    from bench.evaluation.metrics import parse
    from bench.store.results import Store, read_ranks

    words = ("scores", "export", "popularity-s0", "--to", "exported", "--data", results.data)
    refused = results.bench(*words)
    assert refused.exit_code == 2 and "--top-lists" in refused.stderr
    done = results.bench(
        "evaluate", "popularity-s0", "--candidates", "uniform", "--top-lists", "--data", results.data, "--quiet"
    )
    assert done.exit_code == 0, done.output
    done = results.bench(*words)
    assert done.exit_code == 0 and "1,886 rows" in done.stdout, done.output
    folder, record = Store(results.out).find("popularity-s0")
    ranks = read_ranks(folder, next(each for each in record.evaluations.values() if each.lists))
    run = list(ir_measures.read_trec_run("exported/run.trec"))
    judgements = list(ir_measures.read_trec_qrels("exported/qrels.trec"))
    assert len(run) == 18_860 and len(judgements) == 1_886
    rows = [each.query_id for each in judgements]
    assert [row.split(":")[0] for row in rows] == [("rec", "search")[code] for code in ranks.task]
    names = {"R@5": ir_measures.R @ 5, "R@10": ir_measures.R @ 10, "N@10": ir_measures.nDCG @ 10}
    found = {name: {} for name in names}
    by_measure = {str(measure): name for name, measure in names.items()}
    for each in ir_measures.iter_calc(list(names.values()), judgements, run):
        found[by_measure[str(each.measure)]][each.query_id] = each.value
    clear = ranks.tied == 0
    assert clear.sum() > 900
    for name in names:
        theirs = np.array([found[name][row] for row in rows])
        assert np.abs(theirs - ranks.values(parse(name)))[clear].max() < 1e-9


def test_lists_of_ones_own_are_kept_and_ranked(results, bench) -> None:
    selection = ("--dataset", "ml-100k", "--data", results.data)
    assert bench("candidates", "export", *selection, "--tasks", "rec", "--out", "lists.parquet").exit_code == 0
    pd.read_parquet("lists.parquet", columns=["user", "task", "item"]).to_csv("own.csv", index=False)
    done = results.bench("candidates", "import", "own.csv", *selection)
    assert done.exit_code == 0 and "--candidates given:own.csv" in done.stdout, done.output
    fingerprint = done.stdout.split("fingerprint ")[1].split()[0]
    stored = json.loads((results.out / "ml-100k" / "candidates" / f"{fingerprint[:16]}.json").read_text())
    assert stored["strategy"] == "given" and stored["rows"] == 943 and stored["tasks"] == ["rec"]
    done = results.run("--models", "popularity", "--candidates", "given:own.csv")
    assert done.exit_code == 0, done.output
    own, drawn = (
        {
            (r["task"], r["metric"]): r["mean"]
            for r in json.loads(results.bench("table", "--candidates", kind, "--format", "json").stdout)
        }
        for kind in (fingerprint[:12], "uniform")
    )
    # The same items in another order give the same ranks.
    assert own and all(value == pytest.approx(drawn[key]) for key, value in own.items() if key[1] == "N@10")
    pd.read_csv("own.csv").iloc[:-100].to_csv("short.csv", index=False)
    done = results.bench("candidates", "import", "short.csv", *selection)
    assert done.exit_code == 1 and "1 of 943 test rows have no list" in done.stderr


def bench_log(data: Path) -> bench.data.log.Log:
    return bench.datasets.load("ml-100k", data=data)


def test_a_csv_has_its_facts_beside_it_and_tells_no_answers(bench, data: Path) -> None:
    done = bench("candidates", "export", "--dataset", "ml-100k", "--data", data, "--tasks", "rec", "--out", "lists.csv")
    assert done.exit_code == 0, done.output
    facts = json.loads(Path("lists.csv.json").read_text())
    assert (
        facts["strategy"] == "uniform"
        and facts["seed"] == 0
        and facts["split"] == "leave-one-out"
        and len(facts["fingerprint"]) == 64
    )
    lists = pd.read_csv("lists.csv", dtype=str, keep_default_na=False)
    log = bench_log(data)
    rows = split(log).rows("test", "rec")
    positive = pd.Series(log.items.id[log.events.item[rows]], index=log.users.id[log.events.user[rows]])
    column = lists.groupby("row").cumcount()[lists["item"].to_numpy() == positive[lists["user"]].to_numpy()]
    # One clicked item a list, in a column that is uniform: 10 classes of 94.3 rows, chi-square with 9 degrees.
    assert len(column) == len(rows)
    counts = np.bincount(column // 10, minlength=10)
    assert ((counts - 94.3) ** 2 / 94.3).sum() < 27.9  # p = .001
