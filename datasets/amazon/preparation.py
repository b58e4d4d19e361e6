"""From raw Amazon files to a Log, step by step, with the count of every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.build import ReviewCounts, build, k_core
from bench.data.log import Log, WordBags
from bench.data.ragged import Ragged
from bench.datasets.amazon.metadata import Product, read_metadata, read_titles
from bench.datasets.amazon.queries import drawn_queries, path_queries, task_events
from bench.datasets.amazon.relevance import published_queries, read_queries, read_relevance
from bench.datasets.amazon.reviews import Reviews
from bench.datasets.amazon.text import SPLITS, chosen_fields, item_texts, product_parts, trained_purchases
from bench.datasets.amazon.words import STOP_WORDS, WordCounts, aligned, count_words, stemmer
from bench.errors import RunError


class Preparation:
    """One run from raw files to a Log; `steps` collects the count of every step."""

    def __init__(self, name: str, config: Any, files: dict[str, Path]):
        self.name, self.config, self.files = name, config, files
        self.stem = stemmer(config.stem)
        self.fields = chosen_fields(config.text)
        self.steps: dict[str, int] = {}

    def log(self, reference: Callable[[dict[str, int]], dict[str, Any]]) -> Log:
        """The Log. `reference` turns the counts into published statistics beside ours, if there are any."""
        config = self.config
        reviews = Reviews(self.files["reviews"])
        purchases, rows_of = self._purchases(reviews)
        user, user_ids = pd.factorize(purchases["user"], sort=True)
        item, item_ids = pd.factorize(purchases["item"], sort=True)
        products = self._products(item_ids)
        paths = [product.paths for product in products]
        written = counts = None
        if config.queries == "published":
            texts, carried, drawn = self._published(user, user_ids, item, item_ids)
            if "reviews" in self.fields:
                written, counts = self._review_words(reviews, purchases, drawn >= 0, user, item, rows_of)
        else:
            searchable = np.asarray([bool(entry) for entry in self._path_queries(paths, None)])
            written, counts = self._review_words(reviews, purchases, searchable[item], user, item, rows_of)
            vocabulary = counts.vocabulary(config.min_count)
            self.steps["words of the training vocabulary"] = len(vocabulary)
            lists = self._path_queries(paths, vocabulary)
            texts = sorted({key for entry in lists for key in entry})
            index = {key: number for number, key in enumerate(texts)}
            carried = Ragged.from_lists([[index[key] for key in entry] for entry in lists])
            drawn = drawn_queries(user, item, carried, config.seed)
        self.steps["items with a query"] = int((carried.lengths > 0).sum())
        self.steps["purchases with a query"] = int((drawn >= 0).sum())
        self.steps["distinct queries drawn"] = len(np.unique(drawn[drawn >= 0]))
        purchases["query"] = np.asarray([*texts, ""], dtype=object)[drawn]
        parts = [product_parts(product) for product in products]
        if counts is not None and "reviews" in self.fields:
            for entry, lent in zip(
                parts, counts.top(len(item_ids), config.review_words, config.min_count), strict=True
            ):
                entry["reviews"] = " ".join(lent)
        text = item_texts(parts, self.fields, self.stem)
        items = pd.DataFrame(
            {
                "id": item_ids,
                "text": text.text,
                "provenance": text.provenance,
                "words": text.words,
                "word_origins": text.word_origins,
                "categories": [list(dict.fromkeys(level for path in entry for level in path)) for entry in paths],
                "queries": [[texts[code] for code in carried[number]] for number in range(len(item_ids))],
            }
        )
        manifest = {
            # The published queries of an item are those of both relevance files.
            "queries from test relevance": config.queries == "published",
            "steps": self.steps,
            "coverage": text.coverage,
            "time": "days: every time is midnight UTC; the order: hash orders the events of one day",
            "review words": f"from reviews of purchases that are trained on under {', '.join(self._splits())}",
        }
        compared = reference({**self.steps, "users": len(user_ids), "items": len(item_ids)})
        return build(
            self.name,
            config.mode,
            task_events(purchases, user, item, config.mode, config.seed),
            items,
            pd.DataFrame({"id": texts, "text": texts, "words": [key.split() for key in texts]}),
            seed=config.seed,
            reviews=written,
            manifest=manifest | ({"reference": compared} if compared else {}),
        )

    def _purchases(self, reviews: Reviews) -> tuple[pd.DataFrame, np.ndarray]:
        """One row per (user, item), the earliest, of the k-core; and each row's purchase, -1 for none."""
        rows = reviews.purchases()
        self.steps["review rows"] = len(rows)
        self.steps["users in the file"], self.steps["items in the file"] = (
            int(rows[name].nunique()) for name in ("user", "item")
        )
        user, item, time = (
            rows["user"].cat.codes.to_numpy(np.int64),
            rows["item"].cat.codes.to_numpy(np.int64),
            rows["time"].to_numpy(),
        )
        pair = user * (int(item.max()) + 1) + item
        order = np.lexsort((time, pair))
        first = order[np.r_[True, np.diff(pair[order]) > 0]]
        self.steps["repeated user-item rows, the earliest is kept"] = len(rows) - len(first)
        first = first[k_core(user[first], item[first], self.config.core)]
        self.steps[f"rows after the {self.config.core}-core"] = len(first)
        if not len(first):
            raise RunError(
                f"{reviews.path}: of {len(rows):,} reviews none is left in the {self.config.core}-core; if the file is "
                f"a sample, a smaller core keeps more: --set {self.name.partition(':')[0]}.core=1"
            )
        first = np.sort(first)
        # A review written twice on one day belongs to the purchase, whichever row came first in the file.
        _, earliest = np.unique(pair[first], return_index=True)
        match = np.searchsorted(pair[first][earliest], pair)
        candidate = earliest[np.minimum(match, len(earliest) - 1)]
        same = (pair[first][candidate] == pair) & (time[first][candidate] == time)
        purchases = pd.DataFrame(
            {
                "act": np.arange(len(first)),
                "user": rows["user"].iloc[first].astype(str).to_numpy(object),
                "item": rows["item"].iloc[first].astype(str).to_numpy(object),
                "time": time[first],
            }
        )
        return purchases, np.where(same, candidate, -1)

    def _products(self, item_ids: np.ndarray) -> list[Product]:
        found: dict[str, Product] = {}
        if "metadata" in self.files:
            metadata = read_metadata(self.files["metadata"], set(item_ids))
            found = metadata.products
            self.steps |= metadata.counts
        self.steps["items with metadata"] = len(found)
        self.steps["items with a title in the metadata"] = sum(bool(product.title) for product in found.values())
        products = [found.get(name) or Product() for name in item_ids]
        for label in sorted(name for name in self.files if name.startswith("titles ")):
            titles = read_titles(self.files[label])
            used = 0
            for name, product in zip(item_ids, products, strict=True):
                if not product.title and name in titles:
                    product.title = titles[name]
                    used += 1
            self.steps[f"titles taken from {self.files[label].name}"] = used
        return products

    def _path_queries(self, paths: list[list[list[str]]], vocabulary: set[str] | None) -> list[list[str]]:
        generated = path_queries(
            paths, self.stem, vocabulary, top_level=self.config.top_level, stop_words=self.config.stop_words
        )
        self.steps |= generated.counts
        return generated.lists

    def _published(
        self, user: np.ndarray, user_ids: np.ndarray, item: np.ndarray, item_ids: np.ndarray
    ) -> tuple[list[str], Ragged, np.ndarray]:
        """Texts of the published queries, those of each item, and (n,) the one drawn for each purchase (-1: none)."""
        texts = read_queries(self.files["query_text.txt"])
        parts = [read_relevance(self.files[name], len(texts)) for name in ("train.qrels", "test.qrels")]
        relevance = pd.concat([part.astype({"user": str, "item": str}) for part in parts], ignore_index=True)
        published = published_queries(relevance, user, user_ids, item, item_ids)
        self.steps |= published.counts
        # Words of items are brought into the form of the published ones.
        known = {word for text in texts for word in text.split()}
        self.stem = lambda word: aligned((word,), known)[0]
        drawn = drawn_queries(user, item, published.of_purchase, self.config.seed, np.arange(len(user)))
        return texts, published.of_item, drawn

    def _splits(self) -> tuple[str, ...]:
        return SPLITS if self.config.text_split == "every" else (self.config.text_split,)

    def _review_words(
        self,
        reviews: Reviews,
        purchases: pd.DataFrame,
        searched: np.ndarray,
        user: np.ndarray,
        item: np.ndarray,
        rows_of: np.ndarray,
    ) -> tuple[ReviewCounts, WordCounts]:
        """Words of all reviews by purchase, and of those of training purchases by item.

        `searched` (n,): which purchases have a query.
        """
        marked = purchases.assign(query=np.where(searched, "?", ""))
        trained = trained_purchases(marked, user, item, self.config.mode, self.config.seed, self._splits())
        self.steps["purchases whose reviews lend words"] = int(trained.sum())
        pieces = ((rows_of[rows].astype(np.int64), texts) for rows, texts in reviews.texts(rows_of >= 0))
        written = count_words(pieces, self.stem, STOP_WORDS if self.config.stop_words else frozenset())
        lent = trained[written.item]
        counts = WordBags.of(item[written.item[lent]], written.word[lent], written.count[lent], int(item.max()) + 1)
        return (
            ReviewCounts(written.words, written.item, written.word, written.count),
            WordCounts(written.words, counts.words.owners(), counts.words.values, counts.counts.values),
        )
