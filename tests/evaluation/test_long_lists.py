"""Ranking among very many candidates: the same ranks as by the plain score, rows encoded once, bounded memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.batch import Batch, Batches
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import RunError
from bench.evaluation import long_lists
from bench.evaluation.candidates import CandidateSet, draw, seen_items
from bench.evaluation.ranks import Ranks, count
from bench.evaluation.scoring import RowValidation, rank
from bench.ranker import registry
from bench.ranker.context import Context


def plain(
    score, batches: Batches, candidates: CandidateSet, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts by a dense matrix of scores and a dense mask, all rows at once."""
    events, everything = batches.split.log.events, np.arange(1, len(batches.split.log.items) + 1)
    rows, position = candidates.rows, candidates.position
    valid = ~seen_items(batches.split).contains(events.user[rows][:, None], everything)
    valid[np.arange(len(rows)), position] = True
    blocks = np.array_split(everything, -(-len(everything) // 1000))
    with torch.no_grad():
        scores = [score(batches.rows(rows, np.tile(block, (len(rows), 1)), window)).numpy() for block in blocks]
    better, tied = count(np.concatenate(scores, axis=1), position, valid)
    return better, tied, valid.sum(1)


def equal(ranks: Ranks, expected: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
    better, tied, listed = expected
    same = (ranks.better == better).all() and (ranks.tied == tied).all() and (ranks.candidates == listed).all()
    return bool(same)


class Vectors:
    """A scorer by inner products of given vectors; counts how often it is asked for the vectors of rows."""

    def __init__(self, users: torch.Tensor, items: torch.Tensor):
        self.users, self.items, self.encoded = users, items, 0

    def row_vectors(self, batch: Batch) -> torch.Tensor:
        assert batch.cand.shape == (len(batch), 0), "nothing tells the positive"
        self.encoded += len(batch)
        return self.users[batch.user]

    def item_vectors(self) -> torch.Tensor:
        return self.items

    encode = row_vectors

    def score_items(self, encoded: torch.Tensor, cand: torch.Tensor) -> torch.Tensor:
        return (encoded[:, None] * self.items[cand]).sum(-1)

    def score(self, batch: Batch) -> torch.Tensor:
        return self.score_items(self.users[batch.user], batch.cand)


@given(
    seed=st.integers(0, 10_000),
    dim=st.integers(1, 70),
    levels=st.sampled_from([0, 1, 3]),
    copies=st.integers(0, 30),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_a_matrix_product_counts_like_the_score(make_log, seed, dim, levels, copies, scale):
    """Equal items tie, whatever rounding does; zero vectors tie with everything; near misses stay apart."""
    batches = Batches(split(make_log(seed, n_users=20, n_items=60, length=10)))
    generator = torch.Generator().manual_seed(seed)
    sizes = 21, len(batches.split.log.items) + 1
    users, items = (torch.randn(size, dim, generator=generator) * scale for size in sizes)
    if levels:  # few values: many exact ties
        users, items = (users / scale * levels).round(), (items / scale * levels).round() * scale
    items[1 : 1 + copies] = items[1].clone()
    items[copies // 2] *= 1 + 1e-7
    users[3] = 0
    scorer = Vectors(users, items)
    candidates = draw(batches.split, strategy="full")
    ranks = rank(scorer, batches, candidates, Window(5, 5), rows_per_batch=7)
    assert scorer.encoded == len(candidates)
    assert equal(ranks, plain(scorer.score, batches, candidates, Window(5, 5)))


def test_blocks_of_rows_change_nothing(make_log, monkeypatch):
    batches = Batches(split(make_log(2, n_users=30, n_items=60)))
    scorer = Vectors(torch.randn(31, 8), torch.randn(len(batches.split.log.items) + 1, 8).round())
    candidates = draw(batches.split, strategy="full")
    whole = rank(scorer, batches, candidates, Window(5, 5))
    for cells in (1, 100, 1000):
        monkeypatch.setattr(long_lists, "_CELLS", cells)
        monkeypatch.setattr(long_lists, "_CACHED_CELLS", cells // 2)
        assert equal(rank(scorer, batches, candidates, Window(5, 5)), (whole.better, whole.tied, whole.candidates))


class Steps:
    """A scorer in two steps that is no inner product."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, batch: Batch) -> torch.Tensor:
        self.encoded += len(batch)
        return batch.user.float() + batch.rec_items.sum(1)

    def score_items(self, encoded: torch.Tensor, cand: torch.Tensor) -> torch.Tensor:
        return (encoded[:, None] * 7 + cand * 13) % 11

    def score(self, batch: Batch) -> torch.Tensor:
        return self.score_items(batch.user.float() + batch.rec_items.sum(1), batch.cand)


@pytest.mark.parametrize("block", [1000, 7])
def test_two_steps_count_like_the_score_and_encode_a_row_once(make_log, monkeypatch, block):
    monkeypatch.setattr(long_lists, "_BLOCK", block)
    batches = Batches(split(make_log(4, n_users=30, n_items=60)))
    candidates, scorer = draw(batches.split, strategy="full"), Steps()
    assert equal(
        rank(scorer, batches, candidates, Window(5, 5), rows_per_batch=9),
        plain(scorer.score, batches, candidates, Window(5, 5)),
    )
    assert scorer.encoded == len(candidates)


def test_long_lists_of_unequal_length_are_scored_in_two_steps(make_log, monkeypatch):
    batches = Batches(split(make_log(4, n_users=30, n_items=60)))
    drawn = draw(batches.split, negatives=29)
    items = np.where(np.arange(30) < 30 - np.arange(len(drawn))[:, None] % 5, drawn.items, 0)
    items[np.arange(len(drawn)), drawn.position] = drawn.items[np.arange(len(drawn)), drawn.position]
    lists = CandidateSet(drawn.rows, items, drawn.position, drawn.meta)
    short = rank(Steps(), batches, lists, Window(5, 5))
    monkeypatch.setattr(long_lists, "LONG", 30)
    scorer = Steps()
    assert equal(rank(scorer, batches, lists, Window(5, 5)), (short.better, short.tied, short.candidates))
    assert scorer.encoded == len(lists)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda users, items: (users, items.index_fill(0, torch.tensor([9]), torch.nan)),
            "mine returned the score nan in row",
        ),
        (lambda users, items: (users * torch.inf, items), "mine returned the score"),
        (lambda users, items: (users, items[:-1]), "mine returned item vectors of shape"),
        (lambda users, items: (users, items.double()), "mine returned item vectors of shape"),
        (lambda users, items: (users[:, :-1], items), "mine returned torch.float32 row vectors of shape"),
        (lambda users, items: (users.half(), items), "mine returned torch.float16 row vectors"),
    ],
)
def test_broken_vectors_stop_with_the_model_named(make_log, spoil, message):
    batches = Batches(split(make_log()))
    scorer = Vectors(*spoil(torch.randn(13, 4), torch.randn(len(batches.split.log.items) + 1, 4)))
    with pytest.raises(RunError, match=message):
        rank(scorer, batches, draw(batches.split, strategy="full"), Window(5, 5), model="mine")


def test_broken_scores_of_two_steps_stop_with_the_model_named(make_log):
    batches = Batches(split(make_log()))
    scorer, candidates = Steps(), draw(batches.split, strategy="full")
    scorer.score_items = lambda encoded, cand: torch.full(cand.shape, torch.nan)
    with pytest.raises(RunError, match="mine returned the score nan in row"):
        rank(scorer, batches, candidates, Window(5, 5), model="mine")
    scorer.score_items = lambda encoded, cand: torch.zeros(len(cand), 3)
    with pytest.raises(RunError, match=r"mine returned scores of shape \(\d+, 3\)"):
        rank(scorer, batches, candidates, Window(5, 5), model="mine")


QUICK = (
    "bm25",
    "copy-detector",
    "item-knn",
    "lightgcn",
    "matcher",
    "popularity",
    "query-popularity",
    "seq-knn",
    "tfidf",
)
BRIDGED = ("gru4rec", "sasrec", "recbole:BPR", "recbole:FPMC")


@pytest.mark.parametrize("name", [*QUICK, *BRIDGED])
def test_models_rank_the_catalogue_like_their_score(make_log, name):
    if name in BRIDGED:
        pytest.importorskip("recbole")
    log = make_log(3, n_users=30, n_items=1100, length=12)
    batches, cls = Batches(split(log)), registry.get(name)
    short = {"max_steps": 3, "epochs": 1, "batch_size": 64}
    config = cls.Config(**{key: value for key, value in short.items() if key in cls.Config.model_fields})
    torch.manual_seed(0)
    model = cls(config, Context(Catalog(log), tasks=cls.entry.tasks))
    model.fit(TrainData(batches, cls.entry.tasks, 0), RowValidation(batches, cls.entry.tasks, model.window))
    candidates = draw(batches.split, tasks=cls.entry.tasks, strategy="full")
    assert equal(rank(model, batches, candidates, model.window), plain(model.score, batches, candidates, model.window))


def test_a_ranker_without_a_score_is_refused(make_log):
    from bench.ranker.ranker import Ranker

    class Nothing(Ranker):
        fit = state = load_state = lambda *_: None

    with pytest.raises(TypeError, match="Nothing has no score: it defines score, or encode and score_items, or"):
        Nothing(Nothing.Config(), Context(Catalog(make_log())))
