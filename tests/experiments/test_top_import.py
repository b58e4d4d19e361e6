"""Lists of the best items from RecBole, RecTools, WarpRec and TREC runs: what they say, and what they leave open."""

import json

import numpy as np
import pandas as pd
import pytest

from bench.data.sources import SourceEntry
from bench.data.split import split
from bench.errors import RunError, UsageError
from bench.evaluation.candidates import draw
from bench.evaluation.given import row_ids
from bench.evaluation.metrics import parse
from bench.evaluation.ranks import count
from bench.evaluation.trec import judgement_lines, run_lines
from bench.experiments.prepared_data import PreparedData
from bench.experiments.score_import import import_scores
from bench.experiments.top_import import rank_top_lists
from bench.report.table import table
from bench.store.mlflow_content import run_content
from bench.store.results import Store

TOP = 14


@pytest.fixture(scope="module")
def world(make_log):
    """Data, candidates, scores without ties, the exact ranks, and the best items as a table."""
    log = make_log(3, n_users=20, length=20, n_items=60)
    chosen = split(log)
    entry = SourceEntry("random", "Random", "", "leave-one-out", "", "items", "", "bench")
    prepared = PreparedData("random", entry, {}, log, chosen)
    lists = draw(chosen, negatives=29)
    scores = np.random.default_rng(0).normal(size=lists.items.shape).astype(np.float32)
    order = np.argsort(-scores, axis=1)[:, :TOP]
    rows = np.repeat(np.arange(len(lists)), TOP)
    task = log.events.task[lists.rows][rows]
    frame = pd.DataFrame(
        {
            "user_id": log.users.id[log.events.user[lists.rows]][rows],
            "item_id": log.items.id[np.take_along_axis(lists.items, order, 1).ravel()],
            "score": np.take_along_axis(scores, order, 1).ravel(),
            "rank": np.tile(np.arange(1, TOP + 1), len(lists)),
        }
    )
    return prepared, lists, scores, frame[task == 0].reset_index(drop=True)


def write(frame, form, path):
    if form == "recbole":
        typed = {"user_id": "user_id:token", "item_id": "item_id:token", "score": "score:float"}
        frame.rename(columns=typed)[list(typed.values())].to_csv(path, sep="\t", index=False)
    elif form == "rectools":
        frame.drop(columns="score").to_parquet(path)
    elif form == "rectools scores":
        frame.to_csv(path, index=False)
    else:
        header = form == "warprec"
        frame.rename(columns={"score": "rating"}).drop(columns="rank").to_csv(
            path, sep="\t", index=False, header=header
        )
    return path


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        ("recbole", ".inter"),
        ("rectools", ".parquet"),
        ("rectools scores", ".csv"),
        ("warprec", ".tsv"),
        ("warprec bare", ".tsv"),
    ],
)
def test_metrics_within_the_lists_are_those_of_all_scores(world, tmp_path, form, suffix):
    prepared, lists, scores, frame = world
    found = rank_top_lists(write(frame, form, tmp_path / f"top{suffix}"), prepared, lists, ("rec",))
    of_task = prepared.log.events.task[lists.rows] == 0
    better, tied = count(scores[of_task], lists.position[of_task])
    listed = better < TOP
    assert found.depth == TOP and 0 < listed.sum() < len(better) and not tied.any()
    assert np.array_equal(found.ranks.better[listed], better[listed]) and (found.ranks.better[~listed] == 29).all()
    exact = found.ranks.rows(np.arange(len(found.ranks)))
    object.__setattr__(exact, "better", better)
    for name in ("R@5", "N@10", f"N@{TOP}"):
        assert found.ranks.mean(parse(name)) == pytest.approx(exact.mean(parse(name)), abs=1e-12)
    assert f"{int((~listed).sum())} of {len(better)} rows do not list the clicked item" in found.account[0]


def test_a_trec_run_and_its_judgements_agree_with_ir_measures(world, tmp_path):
    ir_measures = pytest.importorskip("ir_measures", reason="ir_measures is not installed (pip install -e .[dev])")
    prepared, lists, scores, _ = world
    events, ids = prepared.log.events, prepared.log.items.id
    names = row_ids(prepared.split, lists.rows)
    best = np.take_along_axis(lists.items, np.argsort(-scores, axis=1)[:, :TOP], 1)
    (tmp_path / "run.trec").write_text("".join(run_lines(names, best, ids, "theirs")))
    (tmp_path / "qrels").write_text("".join(judgement_lines(names, events.item[lists.rows], ids)))
    ranks = rank_top_lists(tmp_path / "run.trec", prepared, lists, ("rec", "search")).ranks
    judgements = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels")))
    run = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    for name, measure in (("R@5", ir_measures.R @ 5), ("R@10", ir_measures.R @ 10), ("N@10", ir_measures.nDCG @ 10)):
        theirs = {each.query_id: each.value for each in ir_measures.iter_calc([measure], judgements, run)}
        ours = ranks.values(parse(name))
        assert np.abs(ours - np.array([theirs[row] for row in names])).max() < 1e-9


def test_what_is_unknown_stands_nowhere(world, tmp_path):
    prepared, lists, _, frame = world
    path, store = write(frame, "recbole", tmp_path / "top.inter"), Store(tmp_path / "results")
    record = import_scores(store, prepared, lists, path, "Theirs", tasks=("rec",), top=True)
    folder, record = store.find(record.id)
    assert next(iter(record.evaluations.values())).depth == TOP and record.evidence["top lists"]
    made = table(store, metrics=("N@10", "R@20", "MRR", "AUC"))
    assert {each["metric"] for each in made.records()} == {"N@10"}
    assert f"cut-offs above {TOP} are unknown" in made.text(200) and "-" in made.markdown()
    names = {each.name for each in run_content(store, folder, record).metrics}
    assert "rec/N_10" in names and not {"rec/MRR", "rec/AUC"} & names


def test_lists_that_say_too_little_are_refused(world, tmp_path):
    prepared, lists, _, frame = world
    path = tmp_path / "top.csv"

    def refused(changed, error, words, tasks=("rec",)):
        changed.to_csv(path, index=False)
        with pytest.raises(error, match=words):
            rank_top_lists(path, prepared, lists, tasks)

    refused(frame, UsageError, "--tasks rec or --tasks search", ("rec", "search"))
    refused(frame[frame["rank"] <= 9], RunError, "has 9 candidates, N@10 needs 10")
    refused(frame[frame["user_id"] != frame["user_id"][0]], RunError, "1 of 20 test rows have no list")
    refused(frame.rename(columns={"item_id": "thing"}), RunError, "needed are row or user_id")
    refused(frame.assign(item_id="nothing"), RunError, "unknown item")
    refused(frame.assign(score="high"), RunError, "no finite number")
    refused(pd.concat([frame, frame[:1]]), RunError, "more than once")
    # What the user touched is no candidate: it is left aside, and the lists are shorter by it.
    events = prepared.log.events
    users = frame["user_id"].unique()
    first = [int(np.flatnonzero(prepared.log.users.id[events.user] == user)[0]) for user in users]
    own = prepared.log.items.id[events.item[first]]
    touched = pd.DataFrame({"user_id": users, "item_id": own, "score": 9.0, "rank": 0})
    pd.concat([touched, frame]).to_csv(path, index=False)
    found = rank_top_lists(path, prepared, lists, ("rec",))
    assert found.depth == TOP and "20 listed items are no candidates" in " ".join(found.account)
    assert json.dumps(found.account)
