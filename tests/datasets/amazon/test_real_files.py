"""The real files, where they are."""

import gzip
import json
import re
from collections import Counter

import pytest

from bench.data import sources
from bench.data.batch import Batches
from bench.data.split import split
from bench.datasets.amazon.metadata import read_metadata, read_titles
from bench.datasets.amazon.queries import path_queries
from bench.datasets.amazon.reviews import Reviews
from bench.datasets.amazon.words import s_stem
from bench.errors import RunError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw

from .amazon_files import REAL, Everything, real


@real("amazon-gift-cards-2018")
@pytest.mark.parametrize("mode", ["mirror", "disjoint"])
def test_real_2018_pair(tmp_path, mode):
    (tmp_path / "amazon").mkdir()
    (tmp_path / "amazon" / "Gift_Cards").symlink_to(REAL / "amazon-gift-cards-2018")
    log = sources.load("amazon:Gift_Cards", {"mode": mode}, tmp_path)
    steps = log.manifest["steps"]
    assert (steps["review rows"], steps["users in the file"], steps["items in the file"]) == (2972, 458, 148)
    assert steps["repeated user-item rows, the earliest is kept"] == 7 and steps["metadata lines"] == 1547
    assert steps["items with metadata"] == log.manifest["counts"]["items"]
    # A slow 5-core of the distinct pairs.
    with gzip.open(REAL / "amazon-gift-cards-2018" / "Gift_Cards_5.json.gz") as stream:
        pairs = {(row["reviewerID"], row["asin"]) for row in map(json.loads, stream)}
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = {(u, i) for u, i in pairs if users[u] >= 5 and items[i] >= 5}
        if kept == pairs:
            break
        pairs = kept
    assert steps["rows after the 5-core"] == len(pairs)
    assert (log.manifest["counts"]["users"], log.manifest["counts"]["items"]) == (len(users), len(items))
    parts = split(log)
    counters = leaks.counters(Batches(parts), draw(parts, negatives=20))
    assert not any(value for name, value in counters.items() if name.startswith("zero:"))


@real("amazon-gift-cards-2018")
def test_real_2018_categories_hold_no_sentences():
    made = read_metadata(REAL / "amazon-gift-cards-2018" / "meta_Gift_Cards.json.gz", Everything())
    assert len(made.products) == made.counts["metadata lines"] == 1547
    # 510 lists with four feature sentences, five with markup, one with two long sentences.
    assert made.counts["category lists cut at markup or a sentence"] == 516
    assert sum(not product.paths for product in made.products.values()) == 5
    assert {tuple(path) for product in made.products.values() for path in product.paths} == {
        ("Gift Cards", "Gift Cards"), ("Gift Cards", "Gift Card Accessories"),
    }  # fmt: skip
    assert not any(re.search(r"<|&#|&amp;", product.title) for product in made.products.values())


@real("amazon-kindle-meta-head-2014")
def test_real_2014_metadata_head():
    made = read_metadata(REAL / "amazon-kindle-meta-head-2014" / "meta_Kindle_Store.head3.json", Everything())
    assert [bool(product.title) for product in made.products.values()] == [False, True, False]
    assert [len(product.paths) for product in made.products.values()] == [6, 1, 3]
    book = made.products["B000F83SZQ"]
    assert book.paths[-1] == ["Kindle Store", "Kindle eBooks", "Mystery, Thriller & Suspense", "Suspense"]
    queries = path_queries([book.paths], s_stem, None, top_level=True, stop_words=False).lists[0]
    assert queries == [
        "book literature fiction",
        "book mystery thriller suspense",
        "store kindle ebook mystery thriller suspense",
    ]


@real("amazon-kindle-reviews-sample-2014")
@real("amazon-kindle-meta-head-2014")
@real("amazon-kindle-titles")
def test_real_kindle_sample_with_titles(tmp_path):
    folder = tmp_path / "amazon-kindle"
    folder.mkdir()
    (folder / "kindle_reviews.csv.gz").symlink_to(REAL / "amazon-kindle-reviews-sample-2014" / "kindle_reviews.csv.gz")
    (folder / "meta_Kindle_Store.json").symlink_to(
        REAL / "amazon-kindle-meta-head-2014" / "meta_Kindle_Store.head3.json"
    )
    for name in ("ebooks_title_from_asindb.csv.gz", "ebooks_title_from_amazon_complete.csv.gz"):
        (folder / name).symlink_to(REAL / "amazon-kindle-titles" / name)
    rows = Reviews(folder / "kindle_reviews.csv.gz").purchases()
    assert (len(rows), rows["user"].nunique(), rows["item"].nunique()) == (4905, 4370, 4444)
    assert (rows["time"].min(), rows["time"].max()) == (1_156_032_000_000, 1_406_073_600_000)
    # A random sample of rows has no 5-core.
    with pytest.raises(RunError, match="none is left in the 5-core"):
        sources.load("amazon-kindle", {}, tmp_path)
    log = sources.load("amazon-kindle", {"core": 1}, tmp_path)
    steps, counts = log.manifest["steps"], log.manifest["counts"]
    assert (counts["users"], counts["items"], counts["rec"]) == (4370, 4444, 4905)
    titles = sum(
        steps[f"titles taken from {name}"]
        for name in ("ebooks_title_from_asindb.csv.gz", "ebooks_title_from_amazon_complete.csv.gz")
    )
    assert titles > 100 and log.manifest["coverage"]["title"] == titles / 4444
    assert "982,619" in log.manifest["reference"]["differences"]["users"]


@real("amazon-kindle-catalogue-2018")
@real("amazon-kindle-titles")
def test_real_title_files():
    catalogue = REAL / "amazon-kindle-catalogue-2018"
    assert len(read_titles(catalogue / "data_kindle_preprocessed.a_heavy_users.csv.gz")) == 14_501
    assert len(read_titles(catalogue / "data_kindle_preprocessed.f_smallest.csv.gz")) == 3_308
    titles = [read_titles(path) for path in sorted((REAL / "amazon-kindle-titles").glob("*.csv.gz"))]
    assert sorted(map(len, titles)) == [512, 2741] and len({*titles[0], *titles[1]}) == 2_898
