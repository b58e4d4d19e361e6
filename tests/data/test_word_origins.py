"""Words with their origin, words of reviews under every split, and queries that tell test relevance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.data import log as logs
from bench.data.batch import Batches
from bench.data.build import ReviewCounts, build
from bench.data.catalog import Catalog
from bench.data.log import Log, WordBags
from bench.data.split import split
from bench.data.training import TrainData
from bench.errors import NothingToReadError

ORIGINS = [("title", "red"), ("title", "lamp"), ("category", "home"), ("category", "lamp"), ("reviews", "bright")]


def shop(mode: str = "mirror", **options) -> Log:
    """Twelve purchases of two users; the review of purchase n says `w<n>` twice and `good` once."""
    acts = np.arange(12)
    events = pd.DataFrame({"act": acts, "user": [f"u{n % 2}" for n in acts], "item": [f"i{n // 2}" for n in acts]})
    events = events.assign(time=acts * 86_400_000, query="", task=0)
    if mode == "mirror":
        events = pd.concat([events, events.assign(task=1, query="home")], ignore_index=True)
    names = sorted(set(events["item"]))
    items = pd.DataFrame({"id": names, "text": ["red lamp"] * len(names)})
    items["words"] = [[word for _, word in ORIGINS] + [f"w{2 * n}", f"w{2 * n + 1}", "good"] for n in range(6)]
    items["word_origins"] = [[origin for origin, _ in ORIGINS] + ["reviews"] * 3 for _ in range(6)]
    words = np.asarray([*(f"w{n}" for n in acts), "good", "unheard"], dtype=object)
    act, word = np.repeat(acts, 3), np.stack([acts, np.full(12, 12), np.full(12, 13)], 1).ravel()
    reviews = ReviewCounts(words, act, word, np.tile([2, 1, 5], 12))
    queries = pd.DataFrame({"id": ["home"], "text": ["home"]})
    return build("shop", mode, events, items, queries, seed=0, reviews=reviews, **options)


def named(log: Log, bags: WordBags, row: int) -> dict[str, int]:
    return dict(zip(log.words.id[bags.words[row]].tolist(), bags.counts[row].tolist(), strict=True))


@pytest.mark.parametrize("name", ["leave-one-out", "last-day", "global-time"])
@pytest.mark.parametrize("mode", ["mirror", "natural"])
def test_bags_of_reviews_hold_training_reviews_only_under_every_split(name, mode):
    log = shop(mode)
    parts = split(log, name)
    data = TrainData(Batches(parts), ("rec",), 0)
    events = log.events
    trained = sorted({(int(events.event_id[r]), int(events.user[r]), int(events.item[r])) for r in parts.train})
    assert 0 < len(trained) < 12
    for of, place in (("user", 1), ("item", 2)):
        bags = data.review_words(of)
        assert len(bags) == (len(log.users) if of == "user" else len(log.items)) + 1 and not named(log, bags, 0)
        for row in range(1, len(bags)):
            own = [entry for entry in trained if entry[place] == row]
            # Purchase n is the only one of its user and item: user u(n % 2), item i(n // 2).
            numbers = [2 * int(log.items.id[item][1:]) + int(log.users.id[user][1:]) for _, user, item in own]
            expected = {f"w{n}": 2 for n in numbers} | ({"good": len(own)} if own else {})
            assert named(log, bags, row) == expected


def test_words_of_an_item_by_origin_with_counts():
    log = shop()
    catalog = Catalog(log)
    assert named(log, catalog.item_word_bags("title"), 1) == {"red": 1, "lamp": 1}
    assert named(log, catalog.item_word_bags("category"), 1) == {"home": 1, "lamp": 1}
    assert not named(log, catalog.item_word_bags("category"), 0)
    without = catalog.word_lists_without("category")
    assert len(without) == len(log.items) + 1
    assert log.words.id[without[1]].tolist() == ["red", "lamp", "bright", "w0", "w1", "good"]
    assert log.words.id[catalog.word_lists_without("category", "reviews")[2]].tolist() == ["red", "lamp"]
    assert log.words.id[catalog.item_word_lists[1]].tolist()[:5] == [word for _, word in ORIGINS]


def test_words_survive_saving_and_change_the_fingerprint(tmp_path):
    log = shop().save(tmp_path / "log")
    read = logs.load(tmp_path / "log")
    assert read.fingerprint == log.fingerprint and read.with_fingerprint().fingerprint == log.fingerprint
    assert read.reviews.counts.values.tolist() == log.reviews.counts.values.tolist()
    assert (
        Catalog(read).item_word_bags("title").words.values.tolist()
        == Catalog(log).item_word_bags("title").words.values.tolist()
    )
    other = replace(
        log, reviews=WordBags(log.reviews.words, replace(log.reviews.counts, values=log.reviews.counts.values + 1))
    )
    assert other.with_fingerprint().fingerprint != log.fingerprint


def test_a_log_without_origins_or_reviews_says_so(make_log):
    log = make_log()
    with pytest.raises(NothingToReadError, match="does not say where the words"):
        Catalog(log).word_lists_without("category")
    with pytest.raises(NothingToReadError, match="no words of reviews"):
        TrainData(Batches(split(log)), ("rec",), 0).review_words("user")
    with pytest.raises(ValueError, match="unknown origin 'colour'"):
        Catalog(shop()).item_word_bags("colour")


def test_queries_from_test_relevance_reach_no_learned_model(make_log):
    log = make_log()
    assert Catalog(log).item_queries is log.items.queries
    log.manifest["queries from test relevance"] = True
    assert Catalog(log).item_queries is None and Catalog(log).matched_queries is log.items.queries


@pytest.mark.parametrize("kept", [False, True])
def test_items_that_nobody_clicked_stay_as_candidates_when_asked(kept):
    events = pd.DataFrame({"act": [0, 1], "user": "u", "item": ["b", "d"], "time": [0, 1], "query": "", "task": 0})
    items = pd.DataFrame({"id": list("abcde"), "text": list("ABCDE"), "categories": [[n] for n in "vwxyz"]})
    queries = pd.DataFrame({"id": [], "text": []}, dtype=str)
    log = build("tiny", "natural", events, items, queries, seed=0, unclicked_items=kept)
    assert log.items.id[1:].tolist() == (list("abcde") if kept else ["b", "d"])
    assert log.items.text[log.events.item].tolist() == ["B", "D"]
    assert log.manifest.get("items without an event") == (3 if kept else None)
    assert log.manifest["counts"]["items"] == (5 if kept else 2)


def test_a_log_prints_on_one_short_line():
    assert repr(shop()) == "Log(shop, mirror: 24 events, 2 users, 6 items, 1 queries)"
