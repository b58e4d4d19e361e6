"""Text of Amazon products by where it comes from, and which reviews may lend words to it.

Kindle books have almost no titles and few descriptions, so products also speak through their categories and through the
reviews of purchases that are trained on. The review of a purchase that is tested on would give the answer away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.data.build import build
from bench.data.split import split
from bench.datasets.amazon.metadata import Product
from bench.datasets.amazon.queries import task_events
from bench.datasets.amazon.words import Stem, path_words, text_words
from bench.errors import UsageError

FIELDS = ("title", "description", "category", "reviews")
SPLITS = ("leave-one-out", "last-day", "global-time")
_DESCRIPTION_WORDS = 50


def chosen_fields(text: str, known: Sequence[str] = FIELDS) -> tuple[str, ...]:
    """The setting `text` (names with commas) as fields, in the order in which an item's text is written.

    Raises:
        UsageError: a name does not exist.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            raise UsageError(f"text={text}: unknown field '{name}'; known: {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def trained_purchases(
    purchases: pd.DataFrame, user: np.ndarray, item: np.ndarray, mode: str, seed: int, splits: Sequence[str]
) -> np.ndarray:
    """(n,) whether a purchase is trained on, in whichever task it serves, under each of `splits`.

    A Log without any text is built and split by the code that splits the real one: order and tasks depend on ids, times
    and on who has a query, not on what the queries say.

    Args:
        purchases: `act`, `user`, `item`, `time`, `query` ("?" where it has one, else "").
        user: (n,) codes of the hashes.
        item: (n,) codes of the hashes.
        mode: disjoint or mirror.
        seed: of the data set.
        splits: names of splits.
    """
    events = task_events(purchases, user, item, mode, seed)
    items = pd.DataFrame({"id": purchases["item"].unique(), "text": ""})
    log = build("purchases", mode, events, items, pd.DataFrame({"id": ["?"], "text": [""]}), seed=seed)
    width = len(log.items) + 1
    log_user = pd.Index(log.users.id).get_indexer(purchases["user"]).astype(np.int64)
    log_item = pd.Index(log.items.id).get_indexer(purchases["item"])
    trained = np.ones(len(purchases), dtype=bool)
    for name in splits:
        rows = split(log, name, allow_empty=True).train
        pairs = log.events.user[rows].astype(np.int64) * width + log.events.item[rows]
        trained &= np.isin(log_user * width + log_item, pairs)
    return trained


@dataclass(frozen=True)
class ItemText:
    """Entries of items (n,): readable text, where it comes from, words in normal form; the share of items by origin."""

    text: list[str]
    provenance: list[str]
    words: list[list[str]]
    word_origins: list[list[str]]
    coverage: dict[str, float]


def product_parts(product: Product) -> dict[str, str]:
    """Texts of a product's metadata: title, start of the description, names of its categories."""
    names = dict.fromkeys(level for path in product.paths for level in path)
    description = " ".join(product.description.split()[:_DESCRIPTION_WORDS])
    return {"title": product.title, "description": description, "category": ", ".join(names)}


def item_texts(parts: Sequence[dict[str, str]], fields: Sequence[str], stem: Stem) -> ItemText:
    """Join what is known of each item, in the order of `fields`.

    Args:
        parts: (n,) texts by field. Those of `reviews` are stems already; the names in `category` are cut as in queries.
        fields: which of them, in this order.
        stem: brings a word into its normal form.
    """
    cuts = {"category": lambda text: path_words([text]), "reviews": str.split}
    texts, origins, words, word_origins = [], [], [], []
    for of_item in parts:
        known = {name: of_item[name] for name in fields if of_item.get(name)}
        texts.append(". ".join(known.values()))
        origins.append(" + ".join(known) or "none")
        cut = {name: cuts.get(name, text_words)(text) for name, text in known.items()}
        words.append([word if name == "reviews" else stem(word) for name, entry in cut.items() for word in entry])
        word_origins.append([name for name, entry in cut.items() for _ in entry])
    coverage = {name: float(np.mean([name in origin.split(" + ") for origin in origins])) for name in (*fields, "none")}
    return ItemText(texts, origins, words, word_origins, coverage)
