"""Words of paths and reviews: cut, stemmed, counted."""

import importlib.util
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from bench.datasets.amazon.queries import last_occurrences, path_queries
from bench.datasets.amazon.words import aligned, count_words, path_words, s_stem, stemmer, text_words
from bench.errors import RunError

from .amazon_files import N_ITEMS, paths_of


def test_path_words_and_order_are_those_of_the_published_queries():
    assert last_occurrences(["camera", "photo", "digital", "camera", "lenses"]) == [
        "photo",
        "digital",
        "camera",
        "lenses",
    ]
    paths = [["Books", "Mystery, Thriller & Suspense", "Thrillers & Suspense", "Women Sleuths"]]
    made = path_queries([paths], s_stem, None, top_level=True, stop_words=False)
    # `books` is an exception of Krovetz's stemmer; everything else of this published query is the same.
    assert made.lists == [["book mystery thriller suspense women sleuth"]]
    assert path_words(["Self-Help", "Children's (3 & up)"]) == ["selfhelp", "childrens", "up"]


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (["Books", "Self-Help"], {"top_level": False}, ["selfhelp"]),
        (["Books", "Self-Help"], {"top_level": True}, ["book selfhelp"]),
        (["Books"], {"top_level": True}, []),
        (["Books", "Food of the Gods", "Gods"], {"top_level": False, "stop_words": True}, ["food god"]),
        (["Books", "Food & Gods"], {"top_level": False, "vocabulary": {"god"}}, ["god"]),
        (["Books", "Food & Gods"], {"top_level": False, "vocabulary": {"wine"}}, ["food god"]),
        (["Books", "1984"], {"top_level": False}, []),
    ],
)
def test_steps_of_the_query_recipe(path, options, expected):
    made = path_queries([[path]], s_stem, **({"vocabulary": None, "stop_words": False} | options))
    assert made.lists == [expected]


def test_a_vocabulary_never_decides_whether_an_item_can_be_searched():
    paths = [paths_of(item) for item in range(N_ITEMS)] + [[["Books"]], []]
    whole = path_queries(paths, s_stem, None, top_level=False, stop_words=False).lists
    cut = path_queries(paths, s_stem, {"romance"}, top_level=False, stop_words=False).lists
    assert [bool(entry) for entry in whole] == [bool(entry) for entry in cut] and whole != cut


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("batteries", "battery"),
        ("cases", "case"),
        ("phones", "phone"),
        ("glass", "glass"),
        ("gas", "gas"),
        ("plus", "plus"),
        ("shoes", "shoe"),
        ("brushes", "brush"),
        ("boxes", "box"),
    ],
)
def test_s_stemmer(word, stem):
    assert s_stem(word) == stem


def test_krovetz_is_used_or_asked_for():
    if importlib.util.find_spec("krovetzstemmer"):
        stem = stemmer("krovetz")
        assert [stem(word) for word in ("books", "ebooks", "childrens")] == ["books", "ebook", "children"]
    else:
        with pytest.raises(RunError, match=r"pip install krovetzstemmer.*stem=s"):
            stemmer("krovetz")


def test_words_meet_a_foreign_vocabulary():
    known = {"wire", "parts", "battery", "lens", "track"}
    assert aligned(["wired", "parts", "batteries", "lenses", "tracking", "cases"], known) == [
        "wire", "parts", "battery", "lens", "track", "case",
    ]  # fmt: skip


# Words of reviews


def test_counted_words_equal_a_slow_count():
    rng = np.random.default_rng(0)
    bank = ["Cat's", "cats", "self-help", "end.Then", "Ünder", "R2D2", "&quot;hi&quot;", "don’t", "the", "\n\t"]
    texts = [" ".join(rng.choice(bank, rng.integers(0, 9))) for _ in range(300)]
    item = rng.integers(0, 7, 300)
    pieces = [(item[low : low + 50].astype(np.int64), pa.array(texts[low : low + 50])) for low in range(0, 300, 50)]
    counts = count_words(iter(pieces), s_stem, frozenset({"the"}))
    slow = Counter()
    for number, text in zip(item, texts, strict=True):
        plain = re.sub(r"&#?\w+;", " ", text)
        slow.update((int(number), s_stem(word)) for word in text_words(plain) if word != "the")
    found = {(int(i), counts.words[w]): int(n) for i, w, n in zip(counts.item, counts.word, counts.count, strict=True)}
    assert found == dict(slow)
    total = Counter()
    for (_, word), number in slow.items():
        total[word] += number
    assert counts.vocabulary(40) == {word for word, number in total.items() if number >= 40}
    spread = Counter(word for _, word in slow)
    reviewed = len({number for number, _ in slow})
    for number, best in enumerate(counts.top(8, 3, 20)):
        scores = {
            word: amount * np.log(reviewed / spread[word])
            for (owner, word), amount in slow.items()
            if owner == number and total[word] >= 20 and spread[word] < reviewed
        }
        assert best == sorted(scores, key=lambda word: (-scores[word], word))[:3]
