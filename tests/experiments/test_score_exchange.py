"""Lists and scores from outside, on small logs with every kind of mistake in the file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from bench.data.log import TASKS, Log
from bench.data.sources import SourceEntry
from bench.data.split import split
from bench.errors import BenchError, RunError, UsageError
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.given import read_lists, row_ids
from bench.evaluation.metrics import parse
from bench.evaluation.ranks import count
from bench.experiments.candidate_export import export_candidates
from bench.experiments.prepared_data import PreparedData
from bench.experiments.score_import import check_name, import_scores, rank_scores
from bench.store.results import Store, read_ranks


def prepared_of(log: Log) -> PreparedData:
    chosen = split(log)
    entry = SourceEntry("random", "Random", "", "leave-one-out", "everything", "item", "", "bench")
    return PreparedData("random", entry, {}, log, chosen)


@pytest.fixture(scope="module")
def prepared(make_log) -> PreparedData:
    return prepared_of(make_log(3, n_users=20, length=20))


@pytest.fixture(scope="module")
def lists(prepared: PreparedData) -> CandidateSet:
    return draw(prepared.split, negatives=9)


def exported(prepared: PreparedData, lists: CandidateSet, path: Path) -> pd.DataFrame:
    lines = export_candidates(prepared, lists, path)
    assert lists.items is None or lines == lists.items.size
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)


def scored(table: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    return table[["row", "item"]].assign(score=values)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("coarse", [False, True])
def test_ranks_of_a_file_are_those_of_the_scores(prepared, lists, tmp_path: Path, suffix: str, coarse: bool) -> None:
    table = exported(prepared, lists, tmp_path / f"lists{suffix}")
    scores = np.random.default_rng(0).normal(size=lists.items.shape).astype(np.float32)
    scores = np.round(scores) if coarse else scores
    shuffled = scored(table, scores.ravel().astype(np.float64)).sample(frac=1, random_state=1)
    path = tmp_path / f"scores{suffix}"
    shuffled.to_csv(path, index=False) if suffix == ".csv" else shuffled.to_parquet(path)
    ranks = rank_scores(path, prepared, lists)
    better, tied = count(scores, lists.position)
    assert np.array_equal(ranks.better, better) and np.array_equal(ranks.tied, tied) and (tied.any() == coarse)
    events = prepared.log.events
    assert np.array_equal(ranks.event_id, events.event_id[lists.rows]) and np.array_equal(
        ranks.item, events.item[lists.rows]
    )
    assert (ranks.candidates == 10).all()


def test_a_trec_run_with_every_candidate_has_the_ranks_of_its_scores(prepared, lists, tmp_path: Path) -> None:
    table = exported(prepared, lists, tmp_path / "lists.csv")
    scores = np.random.default_rng(1).normal(size=lists.items.shape)
    # The rank is wrong on purpose: as in trec_eval the score orders.
    lines = [
        f"{row} Q0 {item} 1 {score!r} theirs"
        for row, item, score in zip(table["row"], table["item"], scores.ravel().tolist(), strict=True)
    ]
    path = tmp_path / "theirs.trec"
    path.write_text("\n".join(lines) + "\n")
    ranks = rank_scores(path, prepared, lists)
    better, tied = count(scores.astype(np.float32), lists.position)
    assert np.array_equal(ranks.better, better) and not tied.any() and not ranks.tied.any()
    path.write_text("\n".join(line for number, line in enumerate(lines) if number % 10) + "\n")
    with pytest.raises(RunError, match="a list of the best alone does not say where the clicked item stands"):
        rank_scores(path, prepared, lists)
    for bad, words in (
        ("a Q0 b 1 .5", "line 2: 5 fields"),
        ("a Q0 b 1 high x", "could not convert string to float: 'high'"),
        ("a Q0 b 1 nan x", "no finite number|row"),
    ):
        path.write_text(lines[0] + "\n" + bad + "\n")
        with pytest.raises(RunError, match=words):
            rank_scores(path, prepared, lists)


def test_differences_below_float32_make_no_ties(prepared, lists, tmp_path: Path) -> None:
    table = exported(prepared, lists, tmp_path / "lists.parquet")
    scored(table, 1 + np.tile(np.arange(10), len(lists)) * 1e-12).to_csv(tmp_path / "s.csv", index=False)
    ranks = rank_scores(tmp_path / "s.csv", prepared, lists)
    assert not ranks.tied.any() and np.array_equal(ranks.better, 9 - lists.position)


def test_the_full_catalogue_and_a_single_task(prepared, tmp_path: Path) -> None:
    full = draw(prepared.split, strategy="full")
    table = exported(prepared, full, tmp_path / "full.parquet")
    touched = pd.MultiIndex.from_arrays(
        [prepared.log.users.id[prepared.log.events.user], prepared.log.items.id[prepared.log.events.item]]
    )
    seen = pd.MultiIndex.from_frame(table[["user", "item"]]).isin(touched)
    assert len(table) == 40 * (40 - 20 + 1) and seen.sum() == len(full) == 40  # only the positives
    scored(table, np.arange(len(table))[::-1])[table["task"] == "search"].to_parquet(tmp_path / "s.parquet")
    ranks = rank_scores(tmp_path / "s.parquet", prepared, full)
    assert ranks.tasks == ("search",) and (ranks.candidates == 21).all()
    with pytest.raises(RunError, match="no line for a rec row"):
        rank_scores(tmp_path / "s.parquet", prepared, full, ("rec", "search"))
    scored(table, np.arange(len(table))[::-1]).to_parquet(tmp_path / "both.parquet")
    assert np.array_equal(rank_scores(tmp_path / "both.parquet", prepared, full, ("search",)).better, ranks.better)
    place = table.groupby("row").cumcount()[seen & (table["task"] == "search")]
    assert np.array_equal(ranks.better, place)


def test_row_names_are_distinct_where_a_search_has_several_clicks(make_log) -> None:
    log = make_log(1)
    event = log.events.event_id.copy()
    rows = np.flatnonzero((log.events.user == 1) & (log.events.task == 1))
    event[rows[-2:]] = event[rows[-1]]
    double = split(Log(**{**vars(log), "events": type(log.events)(**{**vars(log.events), "event_id": event})}))
    names = row_ids(double, double.test)
    assert len(set(names)) == len(double.test)
    assert sum(name.endswith(":2") for name in names if name.count(":") == 3) == 1


def wrong(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """One mistake, in the entry with number 7 where it has a place."""
    table = table.copy().astype({"score": object})
    if kind == "text":
        table.loc[7, "score"] = "high"
    elif kind == "infinite":
        table.loc[7, "score"] = float("inf")
    elif kind == "item":
        table.loc[7, "item"] = "no-such-item"
    elif kind == "row":
        table.loc[7, "row"] = "rec:nobody:1"
    elif kind == "twice":
        table = pd.concat([table.iloc[:7], table.iloc[[3]], table.iloc[7:]])
    elif kind == "missing":
        table = table.drop(index=7)
    elif kind == "row missing":
        table = table[table["row"] != table["row"][0]]
    elif kind == "strange":
        own = set(table["item"][table["row"] == table["row"][0]])
        table.loc[7, "item"] = next(item for item in table["item"] if item not in own)
    elif kind == "column":
        table = table.rename(columns={"score": "points"})
    return table


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text", "no finite number in 1 of 400 entries, first in line 9, column score: 'high'"),
        ("infinite", "first in line 9, column score: 'inf'"),
        ("item", "unknown item in 1 of 400 entries, first in line 9, column item: 'no-such-item'"),
        ("row", "no such test row in 1 of 400 entries, first in line 9, column row: 'rec:nobody:1'"),
        ("twice", "1 (row, item) pairs are repeated, first in line 9"),
        ("missing", "1 (row, item) pairs have no score, first '"),
        ("row missing", "10 (row, item) pairs have no score"),
        ("strange", "1 entries are no candidates of their row, first in line 9"),
        ("column", "has the columns row, item, points; needed are row and item and score"),
    ],
)
def test_a_wrong_score_file_is_refused_with_its_place(
    prepared, lists, tmp_path: Path, kind: str, expected: str
) -> None:
    table = exported(prepared, lists, tmp_path / "lists.parquet")
    path = tmp_path / "scores.csv"
    wrong(scored(table, np.arange(len(table))), kind).to_csv(path, index=False)
    store = Store(tmp_path / "results")
    with pytest.raises(RunError) as error:
        import_scores(store, prepared, lists, path, "theirs")
    assert expected in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert not store.root.exists()


@pytest.mark.parametrize("content", [b"", b"row,item,score\n", b"row,item,score\na,b\n", b"\xff\xfe\x00", None])
def test_files_that_are_none(prepared, lists, tmp_path: Path, content: bytes | None) -> None:
    for name in ("scores.csv", "scores.parquet", "scores.txt"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match=name.replace(".", r"\.")):
            rank_scores(tmp_path / name, prepared, lists)


def test_an_import_is_a_run_beside_the_others(prepared, lists, tmp_path: Path) -> None:
    path, store = tmp_path / "scores.parquet", Store(tmp_path / "results")
    table = exported(prepared, lists, tmp_path / "lists.parquet")
    scored(table, np.arange(len(table))).to_parquet(path)
    record = import_scores(store, prepared, lists, path, "Their model (v2)", seed=4)
    ((folder, stored),) = store.runs()
    assert stored == record and folder.name == record.id and record.id.startswith("their-model-v2-imported-")
    assert (record.kind, record.title, record.group, record.seed) == ("imported", "Their model (v2)", "imported", 4)
    (evaluation,) = record.evaluations.values()
    ranks = read_ranks(folder, evaluation)
    assert evaluation.fingerprint == lists.fingerprint == ranks.meta["candidates"] and evaluation.rows == {
        "rec": 20,
        "search": 20,
    }
    assert ranks.only("rec").mean(parse("R@10")) == 1 and evaluation.leaks["zero:negatives the user touched"] == 0
    assert not [path for path in folder.parent.iterdir() if path.name.endswith(".part")]
    # The same file again is the same run; another file under its name is not taken for it.
    assert import_scores(store, prepared, lists, path, "Their model (v2)", seed=4).id == record.id
    scored(table, -np.arange(len(table))).to_parquet(path)
    with pytest.raises(RunError, match="there already"):
        import_scores(store, prepared, lists, path, "Their model (v2)", seed=4)
    assert import_scores(store, prepared, lists, path, "Their model (v2)", seed=5).id != record.id


def test_names_of_models_inside_are_taken() -> None:
    assert check_name("UniSAR (theirs)") == "unisar-theirs"
    for name in ("Popularity", "popularity", "()"):
        with pytest.raises(UsageError):
            check_name(name)


def test_an_export_says_what_it_is(prepared, lists, tmp_path: Path) -> None:
    exported(prepared, lists, tmp_path / "lists.parquet")
    facts = pq.read_schema(tmp_path / "lists.parquet").metadata[b"bench"].decode()
    assert lists.fingerprint in facts and '"strategy": "uniform"' in facts
    with pytest.raises(RunError, match="cannot write"):
        export_candidates(prepared, lists, tmp_path / "absent" / "lists.parquet")


def test_own_lists_keep_their_items_and_hide_the_answer(prepared, tmp_path: Path) -> None:
    events, rng = prepared.log.events, np.random.default_rng(5)
    rows = np.sort(prepared.split.test)
    drawn = draw(prepared.split, negatives=9)
    # The positive first in every list, and lists of 2 to 10 items.
    lengths = rng.integers(1, 10, len(rows))
    negatives = [
        [item for item in entry if item != positive]
        for entry, positive in zip(drawn.items, events.item[rows], strict=True)
    ]
    own = [
        [positive, *entry[:length]]
        for positive, entry, length in zip(events.item[rows], negatives, lengths, strict=True)
    ]
    table = pd.DataFrame({"row": row_ids(prepared.split, rows), "item": own}).explode("item")
    table["item"] = prepared.log.items.id[table["item"].astype(int)]
    table.to_csv(tmp_path / "own.csv", index=False)
    made = read_lists(tmp_path / "own.csv", prepared.split, TASKS)
    assert made.label == f"given-{lengths.max()}" and made.meta["tasks"] == ["rec", "search"]
    for entry, position, expected in zip(made.items, made.position, own, strict=True):
        assert sorted(entry[entry > 0]) == sorted(expected) and entry[position] == expected[0]
        assert not entry[len(expected) :].any()
    assert made.position.max() > 0 and made.position.mean() > 1
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "own.parquet")
    again = read_lists(tmp_path / "own.parquet", prepared.split, TASKS)
    assert again.fingerprint == made.fingerprint
    # By user and task, and one task alone.
    table[["task", "user", "_"]] = table["row"].str.split(":", expand=True)
    table.to_csv(tmp_path / "pairs.csv", index=False, columns=["user", "task", "item"])
    assert read_lists(tmp_path / "pairs.csv", prepared.split, TASKS).fingerprint == made.fingerprint
    rec = read_lists(tmp_path / "pairs.csv", prepared.split, ("rec",))
    assert rec.meta["tasks"] == ["rec"] and len(rec) == 20 and rec.fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda t, p: t[t["row"] != t["row"].iloc[0]], "1 of 40 test rows have no list"),
        (lambda t, p: t[~p], "40 of 40 test rows lack the clicked item"),
        (lambda t, p: t[p], "40 of 40 test rows have a list of a single item"),
        (lambda t, p: pd.concat([t, t.iloc[:3]]), "3 items stand in a list more than once, first in line 40"),
        (
            lambda t, p: t.assign(item=t["item"].where(t.index != 5, "")),
            "unknown item in 1 of 400 entries, first in line 7",
        ),
        (lambda t, p: t.assign(row="rec:1:1"), "no such test row in 400 of 400"),
        (lambda t, p: t.rename(columns={"row": "line"}), "needed are row and item or user and task and item"),
        (
            lambda t, p: t.rename(columns={"row": "user"}).assign(task="serach"),
            "unknown task (rec or search) in 400 of 400",
        ),
    ],
)
def test_wrong_lists_are_refused(prepared, lists, tmp_path: Path, edit, expected: str) -> None:
    table = exported(prepared, lists, tmp_path / "lists.parquet")
    positive = np.zeros(lists.items.shape, dtype=bool)
    positive[np.arange(len(lists)), lists.position] = True
    edit(table[["row", "item"]], positive.ravel()).to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(BenchError) as error:
        read_lists(tmp_path / "own.csv", prepared.split, TASKS)
    assert expected in str(error.value)
