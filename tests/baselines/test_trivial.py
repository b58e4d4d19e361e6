"""Models without training: reference values on MovieLens, and closed forms on logs small enough to count by hand."""

import importlib.util
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bench.datasets
from bench.baselines.counting import PairTable, distinct, tie_breaks
from bench.data.batch import Batch, Batches
from bench.data.build import build
from bench.data.catalog import Catalog
from bench.data.log import Log
from bench.data.ragged import Ragged
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.evaluation.candidates import CandidateSet, draw
from bench.evaluation.metrics import parse
from bench.evaluation.scoring import rank
from bench.ranker import registry
from bench.ranker.contract import Context, Ranker

BOTH = ("rec", "search")
TRIVIAL = [entry.name for entry in registry.entries().values() if entry.group == "trivial"]


def fitted(name: str, sp: LogSplit, **config: Any) -> Ranker:
    cls = registry.get(name)
    model = cls(cls.Config(**config), Context(Catalog(sp.log), tasks=cls.entry.tasks))
    model.fit(TrainData(Batches(sp), cls.entry.tasks, 0), None)
    return model


def batch_of(sp: LogSplit, model: Ranker, part: str = "test", task: str | None = None, k: int = 15) -> Batch:
    """Rows of a part with k random candidates each."""
    rows = sp.rows(part, task)
    cand = np.random.default_rng(5).permuted(np.tile(np.arange(1, len(sp.log.items) + 1), (len(rows), 1)), axis=1)
    return Batches(sp).rows(rows, cand[:, :k], model.window)


@pytest.fixture(scope="module")
def small(make_log) -> LogSplit:
    return split(make_log(n_users=15, n_items=40, length=14))


# Data preparation "disjoint", queries E, 99 uniform negatives: rec R@5, rec N@10, search R@5, search N@10.
REFERENCE = {
    "popularity": (0.25, 0.211, 0.25, 0.207),
    "item-knn": (0.35, 0.290, 0.34, 0.280),
    "seq-knn": (0.54, 0.429, 0.54, 0.434),
    "matcher": (None, None, 0.535, 0.449),
    "matcher-popularity": (None, None, 0.733, 0.622),
    "query-popularity": (None, None, 0.742, 0.630),
    "matcher-seq-knn": (None, None, 0.88, 0.767),
    "copy-detector": (0.05, 0.0454, 0.05, 0.0454),
    "bm25": (None, None, 0.53, 0.443),
}


@pytest.fixture(scope="module")
def movielens(tmp_path_factory) -> tuple[LogSplit, CandidateSet]:
    sp = split(bench.datasets.load("ml-100k", data=tmp_path_factory.mktemp("data")))
    return sp, draw(sp, "test", BOTH, seed=0)


@pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None, reason="ml-100k comes with RecBole, which is not installed"
)
@pytest.mark.parametrize("name", REFERENCE)
def test_reference_values_on_movielens(name, movielens):
    sp, candidates = movielens
    model = fitted(name, sp)
    kept = np.isin(sp.log.events.task[candidates.rows], [BOTH.index(task) for task in model.entry.tasks])
    chosen = CandidateSet(candidates.rows[kept], candidates.items[kept], candidates.position[kept], candidates.meta)
    ranks = rank(model.score, Batches(sp), chosen, model.window)
    cells = [(task, metric) for task in BOTH for metric in ("R@5", "N@10")]
    for (task, metric), expected in zip(cells, REFERENCE[name], strict=True):
        if expected is not None:
            # The spread between constructions of the data is about .02 (one standard error of 943 users is .016).
            assert ranks.only(task).mean(parse(metric)) == pytest.approx(expected, abs=0.04), (task, metric)


@pytest.mark.parametrize("name", TRIVIAL)
def test_state_restores_the_scores(name, small):
    model = fitted(name, small)
    fresh = type(model)(model.config, Context(Catalog(small.log), seed=9))
    fresh.load_state({key: value.clone() for key, value in model.state().items()})
    batch = batch_of(small, model, task="search")
    assert torch.equal(model.score(batch), fresh.score(batch))


@pytest.mark.parametrize("name", TRIVIAL)
def test_held_out_events_teach_nothing(name, small):
    """The items and queries of all held-out rows are replaced; what is learnt must not change."""
    events = small.log.events
    held = np.concatenate([small.valid, small.test])
    item, query = events.item.copy(), events.query.copy()
    item[held] = 1 + (item[held] + 6) % len(small.log.items)
    query[held] = np.where(query[held] > 0, 1 + (query[held] + 1) % len(small.log.queries), 0)
    changed = replace(small, log=replace(small.log, events=replace(events, item=item, query=query)))
    before, after = fitted(name, small).state(), fitted(name, changed).state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["popularity", "item-knn", "seq-knn", "query-popularity"])
def test_training_events_teach_something(name, small):
    """The counterpart: with another item in half of the training rows the state does change."""
    events = small.log.events
    item = events.item.copy()
    item[small.train[::2]] = 1
    changed = replace(small, log=replace(small.log, events=replace(events, item=item)))
    before, after = fitted(name, small).state(), fitted(name, changed).state()
    assert any(before[key].shape != after[key].shape or not torch.equal(before[key], after[key]) for key in before)


def test_popularity_counts_the_training_events_of_both_tasks(small):
    model = fitted("popularity", small)
    counts = Counter(small.log.events.item[small.train].tolist())
    batch = batch_of(small, model)
    assert model.score(batch).tolist() == [[counts[item] for item in row] for row in batch.cand.tolist()]


@pytest.mark.parametrize("name", ["popularity", "matcher", "matcher-popularity", "query-popularity", "bm25", "tfidf"])
def test_models_without_a_person_ignore_user_and_past(name, small):
    model = fitted(name, small)
    batch = batch_of(small, model, task="search")
    other = replace(
        batch,
        user=batch.user.roll(1),
        rec_items=batch.rec_items.roll(1),
        search_items=batch.search_items.roll(1),
        time=batch.time.roll(1),
    )
    assert torch.equal(model.score(batch), model.score(other))


def test_matcher_is_membership_in_the_generated_queries(small):
    model = fitted("matcher", small)
    batch = batch_of(small, model, task="search", k=40)
    carried = small.log.items.queries
    expected = [
        [float(query in carried[item]) for item in row]
        for query, row in zip(batch.query.tolist(), batch.cand.tolist(), strict=True)
    ]
    assert model.score(batch).tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert "generated" in model.evidence()["match"]


def test_matcher_of_real_queries_is_the_share_of_their_words():
    log = worded(["red shoe", "blue shoe", "shoe", "hat"], ["red shoe", "red red green"])
    sp = split(log)
    model = fitted("matcher", sp)
    batch = worded_batch(sp, model)
    table = dict(zip(log.queries.text[batch.query.numpy()], model.score(batch).tolist(), strict=True))
    assert table["red shoe"] == [1.0, 0.5, 0.5, 0.0]
    # Two distinct words, one of them known.
    assert table["red red green"] == [0.5, 0.0, 0.0, 0.0]
    assert "words" in model.evidence()["match"]


def test_a_query_without_words_matches_nothing():
    log = worded(["red shoe", "blue shoe", "shoe", "hat"], ["red shoe", ""])
    sp = split(log)
    for name in ("matcher", "bm25", "tfidf"):
        model = fitted(name, sp)
        batch = worded_batch(sp, model)
        table = dict(zip(log.queries.text[batch.query.numpy()], model.score(batch).tolist(), strict=True))
        assert table[""] == [0.0, 0.0, 0.0, 0.0] and max(table["red shoe"]) > 0, name


def test_matchers_refuse_a_log_without_words_and_generated_queries():
    log = worded(["", "", "", ""], ["", " "])
    with pytest.raises(RunError, match=r"neither generated queries nor words"):
        fitted("matcher", split(log))
    with pytest.raises(RunError, match="no words for bm25 to match"):
        fitted("bm25", split(log))


@pytest.mark.parametrize(("name", "second"), [("matcher-popularity", "popularity"), ("matcher-seq-knn", "seq-knn")])
def test_lexicographic_order(name, second, small):
    """The match decides; within equal matches the second model decides, and ties stay ties."""

    def scores(name: str) -> torch.Tensor:
        model = fitted(name, small)
        return model.score(batch_of(small, model, task="search", k=40)).double()

    # Differences of all pairs of candidates.
    both, match, then = (found[:, :, None] - found[:, None] for found in map(scores, (name, "matcher", second)))
    assert (both[match > 0] > 0).all()
    assert (both[(match == 0) & (then == 0)] == 0).all()
    # Incomplete matches lie below 0, where float32 has steps of 6e-8.
    assert (both[(match == 0) & (then > 1e-6)] > 0).all()


@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=300), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_tie_breaks_keep_the_order_beside_whole_numbers(counts, level):
    tie = tie_breaks(torch.tensor(counts, dtype=torch.float32))
    assert tie.min() >= 0 and tie.max() < 1
    shifted = level + tie
    expected = np.asarray(counts)[:, None] < np.asarray(counts)
    assert np.array_equal((shifted[:, None] < shifted).numpy(), expected)


def test_query_popularity_counts_clicks_under_the_query_and_then_popularity(small):
    model = fitted("query-popularity", small)
    events, rows = small.log.events, small.rows("train", "search")
    clicks = Counter(zip(events.query[rows].tolist(), events.item[rows].tolist(), strict=True))
    total = Counter(events.item[small.train].tolist())
    batch = batch_of(small, model, task="search", k=40)
    score = model.score(batch).numpy()
    for query, items, found in zip(batch.query.tolist(), batch.cand.tolist(), score, strict=True):
        keys = [(clicks[query, item], total[item]) for item in items]
        assert [key[0] for key in keys] == np.floor(found).tolist()
        order = np.argsort(found, kind="stable")
        assert [keys[place] for place in order] == sorted(keys)


def test_item_knn_equals_the_sum_over_the_whole_history(small):
    model = fitted("item-knn", small)
    batch = batch_of(small, model, k=40)
    # Give some candidates a place in the history: no item may be its own neighbour.
    batch.cand[:, 0] = batch.rec_items[:, 0].clamp(min=1)
    events = small.log.events
    users = {item: set(events.user[small.train][events.item[small.train] == item].tolist()) for item in range(1, 41)}
    past = Batches(small).histories.gather(small.test, model.window)
    expected = np.zeros(batch.cand.shape)
    for row, items in enumerate(batch.cand.tolist()):
        seen = [*past.rec_items[row].tolist(), *past.search_items[row].ravel().tolist()]
        for column, item in enumerate(items):
            for other in filter(None, seen):
                if other != item and users[item] and users[other]:
                    expected[row, column] += len(users[item] & users[other]) / math.sqrt(
                        len(users[item]) * len(users[other])
                    )
    assert expected.max() > 1
    np.testing.assert_allclose(model.score(batch).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("last", "reach"), [(5, 10), (2, 3)])
def test_seq_knn_equals_the_sum_over_near_pairs(last, reach, small):
    model = fitted("seq-knn", small, last=last, reach=reach)
    events = small.log.events.take(small.train)
    near: Counter = Counter()
    for i in range(len(events)):
        for j in range(i + 1, min(i + reach + 1, len(events))):
            if events.user[i] == events.user[j] and events.item[i] != events.item[j]:
                near[frozenset((int(events.item[i]), int(events.item[j])))] += 1
    total = Counter(events.item.tolist())
    batch = batch_of(small, model, k=40)
    history = batch.merged(last)
    items, mask = history.items, history.mask
    expected = np.zeros(batch.cand.shape)
    for row, cand in enumerate(batch.cand.tolist()):
        for column, item in enumerate(cand):
            for other in items[row][mask[row]].tolist():
                pairs = near[frozenset((item, other))] if item != other else 0
                expected[row, column] += pairs / math.sqrt(max(total[item] * total[other], 1))
    assert expected.max() > 0.5
    np.testing.assert_allclose(model.score(batch).numpy(), expected, atol=1e-5)


def test_copy_detector_is_exactly_at_chance_without_a_leak_and_perfect_with_one(make_log):
    sp = split(make_log(n_users=20, n_items=150, length=15))
    model, batches = fitted("copy-detector", sp), Batches(sp)
    candidates = draw(sp, "test", BOTH, seed=0)
    assert rank(model.score, batches, candidates, model.window).mean(parse("R@5")) == pytest.approx(0.05, abs=1e-12)
    # Plant the leak: the positive becomes the first item of the row's past.
    batch = batches.rows(candidates.rows, candidates.items, model.window)
    first = torch.where(batch.rec_len > 0, batch.rec_items[:, 0], batch.search_items[:, 0, 0])
    leaky = np.where(np.arange(100) == candidates.position[:, None], first.numpy()[:, None], candidates.items)
    planted = replace(candidates, items=leaky)
    assert rank(model.score, batches, planted, model.window).mean(parse("R@1")) == 1


def test_copy_detector_sees_the_oldest_event_and_no_padding(small):
    model = fitted("copy-detector", small)
    batch = batch_of(small, model, k=40)
    past = Batches(small).histories.gather(small.test, model.window)
    for row, found in enumerate(model.score(batch)):
        seen = {*past.rec_items[row].tolist(), *past.search_items[row].ravel().tolist()} - {0}
        assert set(batch.cand[row][found == 1].tolist()) == seen
    junk = torch.where(batch.rec_mask, batch.rec_items, 7)
    assert torch.equal(model.score(batch), model.score(replace(batch, rec_items=junk)))


# Lexical models on a corpus of four documents

DOCUMENTS = ["red shoe for a red dress", "blue shoe", "a long text about a hat and a shoe and a coat", "hat"]
QUERIES = ["red shoe", "shoe shoe hat", "a coat zzz"]


def worded(documents: list[str], queries: list[str]) -> Log:
    """Real queries: one user searches each query once for every document; items carry no query lists."""
    names = [f"i{number}" for number in range(len(documents))]
    rows = [(f"q{q}", name) for q in range(len(queries)) for name in names]
    events = pd.DataFrame(rows, columns=["query", "item"])
    clicks = pd.DataFrame({"query": "", "item": names, "task": 0})
    events = pd.concat([events.assign(task=1), clicks], ignore_index=True)
    events = events.assign(act=range(len(events)), user="u", time=range(len(events)))
    items = pd.DataFrame({"id": names, "text": documents})
    table = pd.DataFrame({"id": [f"q{q}" for q in range(len(queries))], "text": queries})
    return build("worded", "natural", events, items, table, seed=0)


def worded_batch(sp: LogSplit, model: Ranker) -> Batch:
    """One row a query, all documents as candidates in their order."""
    log = sp.log
    rows = np.asarray([np.flatnonzero(log.events.query == query)[0] for query in range(1, len(log.queries) + 1)])
    order = np.argsort(log.items.id[1:]) + 1
    return Batches(sp).rows(rows, np.tile(order, (len(rows), 1)), model.window)


def by_query(documents: list[str], queries: list[str], name: str, **config: Any) -> dict[str, list[float]]:
    sp = split(worded(documents, queries))
    model = fitted(name, sp, **config)
    batch = worded_batch(sp, model)
    return dict(zip(sp.log.queries.text[batch.query.numpy()], model.score(batch).tolist(), strict=True))


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.6, 0.0), (2.0, 1.0)])
def test_bm25_equals_the_formula(k1, b):
    found = by_query(DOCUMENTS, QUERIES, "bm25", k1=k1, b=b)
    texts = [document.split() for document in DOCUMENTS]
    mean = sum(map(len, texts)) / len(texts)
    for query in QUERIES:
        expected = []
        for words in texts:
            score = 0.0
            for word in set(query.split()):
                df, tf = sum(word in text for text in texts), words.count(word)
                idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
                score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(words) / mean))
            expected.append(score)
        assert found[query] == pytest.approx(expected, rel=1e-5), query


def test_tfidf_equals_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    found = by_query(DOCUMENTS, QUERIES, "tfidf")
    vectorizer = text.TfidfVectorizer(tokenizer=str.split, token_pattern=None)
    documents = vectorizer.fit_transform(DOCUMENTS)
    for query in QUERIES:
        # Words that no document has are unknown to scikit-learn; they only lengthen the query's vector.
        expected = (documents @ vectorizer.transform([" ".join(dict.fromkeys(query.split()))]).T).toarray().ravel()
        unknown = len(set(query.split()) - set(vectorizer.vocabulary_)) > 0
        factor = found[query][2] / expected[2] if unknown else 1.0
        assert factor < 1 if unknown else factor == 1
        assert found[query] == pytest.approx((expected * factor).tolist(), rel=1e-5), query


@pytest.mark.parametrize("name", ["bm25", "tfidf"])
def test_a_word_that_no_document_has_changes_no_ranking(name):
    plain, extended = (
        by_query(DOCUMENTS, QUERIES, name),
        by_query(DOCUMENTS, [f"{query} qqq www" for query in QUERIES], name),
    )
    for query in QUERIES:
        assert np.argsort(plain[query]).tolist() == np.argsort(extended[f"{query} qqq www"]).tolist()
    repeated = by_query(DOCUMENTS, ["red shoe", "red red shoe"], name)
    assert repeated["red shoe"] == repeated["red red shoe"]


# Blocks


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_pair_table_is_a_counter(pairs):
    rows, columns = (np.asarray([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    table = PairTable.count(rows, columns, 7)
    expected = Counter(pair for pair in pairs if min(pair) > 0)
    grid = torch.arange(7)
    found = table.lookup(grid[:, None], grid[None, :])
    assert found.dtype == torch.float32
    assert found.tolist() == [[expected[row, column] for column in range(7)] for row in range(7)]


def test_pair_table_of_lists_counts_repetitions():
    table = PairTable.of_lists(Ragged.from_lists([[], [3, 3, 1], [2]]), 4)
    assert table.lookup(torch.tensor([1, 1, 2, 2]), torch.tensor([3, 1, 2, 3])).tolist() == [2, 1, 1, 0]


def test_distinct_leaves_one_of_each_word():
    words = distinct(torch.tensor([[4, 2, 4, 0], [1, 1, 1, 1]]))
    assert [sorted(filter(None, row)) for row in words.tolist()] == [[2, 4], [1]]
