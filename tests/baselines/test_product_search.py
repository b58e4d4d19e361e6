"""What the product-search family shares: noise contrast, word noise, bags of words, query encoders, past clicks."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bench.data.batch import Batches
from bench.data.build import ReviewCounts, build
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.log import Log
from bench.data.ragged import Ragged
from bench.data.split import split
from bench.data.training import TrainData
from bench.ranker.blocks.product_search import QueryEncoder, noise_contrast
from bench.ranker.blocks.word_bags import WordDraws, WordNoise, item_words, user_words

ACTS = 12


def shop(origins: bool = True, reviews: bool = True, mode: str = "mirror") -> Log:
    """Twelve purchases of two users; the review of purchase n says `w<n>` twice. Items are a lamp of a room."""
    acts = np.arange(ACTS)
    events = pd.DataFrame({"act": acts, "user": [f"u{n % 2}" for n in acts], "item": [f"i{n // 2}" for n in acts]})
    events = events.assign(time=acts * 86_400_000, query="", task=0)
    if mode == "mirror":
        events = pd.concat([events, events.assign(task=1, query="home")], ignore_index=True)
    names = sorted(set(events["item"]))
    items = pd.DataFrame({"id": names, "text": "red lamp home", "queries": [["home"]] * len(names)})
    items["words"] = [["red", "lamp", "home"] + ([f"w{2 * n}", f"w{2 * n + 1}"] if reviews else []) for n in range(6)]
    if origins:
        items["word_origins"] = [["title", "title", "category"] + ["reviews"] * (2 * reviews) for _ in range(6)]
    said = ReviewCounts(np.asarray([f"w{n}" for n in acts], dtype=object), acts, acts, np.full(ACTS, 2))
    queries = pd.DataFrame({"id": ["home"], "text": ["home"]})
    return build("shop", mode, events, items, queries, seed=0, reviews=said if reviews else None)


def texts(log: Log, lists: Ragged, row: int) -> list[str]:
    return sorted(log.words.id[lists[row]].tolist())


def train_of(log: Log, name: str = "leave-one-out") -> TrainData:
    return TrainData(Batches(split(log, name)), ("search",), 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_gradients_of_noise_contrast_are_those_worked_out_by_hand(seed, biased):
    """dL/ds of the positive is sigmoid(s) - 1, of each noise word sigmoid(s); all else is the chain rule."""
    rng = np.random.default_rng(seed)
    d, words, rows, noise = 3, 7, 4, 5
    context, table, bias = rng.normal(size=(rows, d)), rng.normal(size=(words, d)), rng.normal(size=words) * biased
    positive, drawn = rng.integers(0, words, rows), rng.integers(0, words, (rows, noise))
    by_hand = {"context": np.zeros((rows, d)), "table": np.zeros((words, d)), "bias": np.zeros(words)}
    loss = 0.0
    for row in range(rows):
        for word, label in [(positive[row], 1), *((word, 0) for word in drawn[row])]:
            score = context[row] @ table[word] + bias[word]
            probability = 1 / (1 + math.exp(-score))
            loss -= math.log(probability if label else 1 - probability)
            by_hand["context"][row] += (probability - label) * table[word]
            by_hand["table"][word] += (probability - label) * context[row]
            by_hand["bias"][word] += probability - label
    c, t, b = (torch.tensor(array, requires_grad=True) for array in (context, table, bias))
    extra = (b[positive], b[drawn]) if biased else ()
    found = noise_contrast(c, t[positive], t[drawn], *extra).sum()
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    np.testing.assert_allclose(c.grad.numpy(), by_hand["context"], atol=1e-6)
    np.testing.assert_allclose(t.grad.numpy(), by_hand["table"], atol=1e-6)
    if biased:
        np.testing.assert_allclose(b.grad.numpy(), by_hand["bias"], atol=1e-6)


def test_word_noise_follows_counts_to_the_power_three_quarters():
    counts = np.asarray([50, 1, 0, 16, 81, 3, 1000])  # entry 0 is padding, word 2 does not occur
    torch.manual_seed(0)
    drawn = np.bincount(WordNoise(counts)(400, 50).flatten().numpy(), minlength=len(counts))
    assert drawn[0] == drawn[2] == 0
    plain = np.asarray([1, 16, 81, 3, 1000])
    observed = drawn[[1, 3, 4, 5, 6]]
    expected = plain**0.75
    assert chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 0.01
    # The test tells this distribution from that of the counts themselves.
    assert chisquare(observed, plain / plain.sum() * observed.sum()).pvalue < 1e-6


def test_words_are_drawn_from_their_owner_as_often_as_they_occur():
    lists = Ragged.from_lists([[], [4, 4, 4, 7], [], [9]])
    draws = WordDraws(lists)
    torch.manual_seed(1)
    words, real = draws(torch.tensor([1, 2, 3, 0]), 8000)
    assert real.tolist() == [True, False, True, False]
    assert set(words[0].tolist()) == {4, 7} and set(words[2].tolist()) == {9}
    assert not words[1].any() and not words[3].any()
    count = int((words[0] == 4).sum())
    assert chisquare([count, 8000 - count], [6000, 2000]).pvalue > 0.01
    owners = draws.owners(4000)
    assert set(owners.tolist()) == {1, 3}
    assert chisquare(owners.bincount().numpy()[[1, 3]]).pvalue > 0.01
    nobody = WordDraws(Ragged.from_lists([[], [], []]))
    words, real = nobody(nobody.owners(3), 2)
    assert not words.any() and not real.any()


@pytest.mark.parametrize("mode", ["mirror", "natural"])
@pytest.mark.parametrize("name", ["leave-one-out", "last-day", "global-time"])
def test_bags_hold_no_word_of_a_held_out_review(name, mode):
    log = shop(mode=mode)
    parts = split(log, name)
    train = TrainData(Batches(parts), ("rec",), 0)
    trained = {int(log.events.event_id[row]) for row in parts.train}
    assert 0 < len(trained) < ACTS
    items, sentence = item_words(Catalog(log), train, "text")
    assert sentence == "text of the item without category words and its training reviews"
    by_item = {log.items.id[row]: texts(log, items, row) for row in range(1, len(items))}
    # Purchase n is the only one of its user and item.
    words_of = {f"w{int(item[1:]) * 2 + int(user[1:])}" for user, item in _pairs(log, parts.train)}
    assert {word for words in by_item.values() for word in words} == words_of | {"red", "lamp"}
    for item, words in by_item.items():
        own = [f"w{2 * int(item[1:]) + n}" for n in range(2)]
        assert words == sorted(["red", "lamp", *(word for word in own if word in words_of for _ in range(2))])
    users, sentence = user_words(Catalog(log), train, "text")
    assert sentence == "training reviews of the user"
    for row in range(1, len(users)):
        odd = int(log.users.id[row][1:])
        assert set(texts(log, users, row)) == {word for word in words_of if int(word[1:]) % 2 == odd}


def _pairs(log: Log, rows: np.ndarray) -> set[tuple[str, str]]:
    return {(log.users.id[log.events.user[row]], log.items.id[log.events.item[row]]) for row in rows}


@pytest.mark.parametrize(
    ("origins", "words", "expected", "sentence"),
    [
        (True, "text", ["lamp", "red"], "text of the item without category words"),
        (True, "all", ["home", "lamp", "red"], "text of the item"),
        (False, "text", ["lamp", "red"], "text of the item without words of the item's queries"),
        (False, "all", ["home", "lamp", "red"], "text of the item"),
    ],
)
def test_words_that_hold_the_query_are_left_out_unless_asked_for(origins, words, expected, sentence):
    log = shop(origins=origins, reviews=False)
    catalog, train = Catalog(log), train_of(log)
    lists, found = item_words(catalog, train, words)
    assert (texts(log, lists, 1), found) == (expected, sentence)
    of_users, found = user_words(catalog, train, words)
    assert found == f"no reviews; {sentence}, of the items that the user has a training event with"
    count = len({item for user, item in _pairs(log, train._rows) if user == log.users.id[1]})
    assert texts(log, of_users, 1) == sorted(expected * count)


def test_nothing_is_left_out_where_queries_are_real():
    log = shop(origins=False, reviews=False)
    log = replace(log, items=replace(log.items, queries=None))
    lists, sentence = item_words(Catalog(log), train_of(log), "text")
    assert (texts(log, lists, 1), sentence) == (["home", "lamp", "red"], "text of the item")


@pytest.mark.parametrize("form", ["fs", "mean", "projected"])
def test_a_query_is_a_bag_of_its_real_words(form):
    torch.manual_seed(0)
    table = torch.nn.Embedding(9, 4)  # row 0 is not zero: what stands in padding must not count
    queries = torch.tensor([[0, 0, 0, 0], [3, 5, 8, 0], [8, 3, 5, 0], [3, 5, 8, 2]])
    encoder = QueryEncoder(table, queries, form)
    encoded = encoder(torch.arange(4))
    assert not encoded[0].any()
    torch.testing.assert_close(encoded[1], encoded[2], atol=1e-6, rtol=0)
    assert (encoded[1] - encoded[3]).abs().max() > 1e-3
    mean = table.weight[[3, 5, 8]].mean(0)
    by_hand = mean if form == "mean" else encoder.linear(mean)
    torch.testing.assert_close(encoded[1], torch.tanh(by_hand) if form == "fs" else by_hand)
    encoder.query_words = queries[:, :3]
    torch.testing.assert_close(encoder(torch.tensor([1])), encoded[1:2], atol=1e-6, rtol=0)
    assert "words" not in str(list(encoder.state_dict()))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 500), st.integers(1, 9), st.sampled_from(["disjoint", "mirror"]), st.booleans())
def test_the_last_clicks_are_those_of_both_tasks_in_order(seed, length, mode, both):
    from tests.conftest import random_log

    log = random_log(seed, n_users=5, mode=mode)
    batches = Batches(split(log))
    rows = np.flatnonzero(log.events.task == 1)[:20]
    window = Window(rec=length if both else 0, search=length)
    batch = batches.rows(rows, np.zeros((len(rows), 0), dtype=np.int64), window)
    past = batch.merged(length).last_clicks(length)
    events = log.events
    for row, (items, queries, count) in enumerate(zip(past.items, past.queries, past.length, strict=True)):
        event = rows[row]
        before = [
            other
            for other in range(event)
            if events.user[other] == events.user[event]
            and events.event_id[other] != events.event_id[event]
            and events.item[other] != events.item[event]
            and (both or events.task[other] == 1)
        ][-length:]
        assert items[:count].tolist() == events.item[before].tolist() and not items[count:].any()
        assert queries[:count].tolist() == events.query[before].tolist() and not queries[count:].any()
    assert torch.equal(past.mask, past.items > 0)
