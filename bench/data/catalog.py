"""What a model may know of items, queries and users before it sees an event: sizes, words, categories, features."""

from functools import cached_property

import numpy as np
import torch

from bench.data.log import WORD_ORIGINS, Log, WordBags
from bench.data.ragged import Ragged
from bench.errors import NothingToReadError


class Catalog:
    """Tables by id, row 0 = padding; built from the Log's entities, never from its events."""

    def __init__(self, log: Log):
        self._log = log
        self.name = log.name
        self.fingerprint = log.fingerprint
        # What the data set calls an item ("film"), for prompts.
        self.item_kind: str = log.manifest.get("items are", "item")
        self.n_users = len(log.users)
        self.n_items = len(log.items)
        self.n_queries = len(log.queries)
        self.n_words = len(log.words)
        self.n_categories = len(log.categories)

    @cached_property
    def item_words(self) -> torch.Tensor:
        """(n_items + 1, W) int64 word ids, right padded with 0, at most 50."""
        return _padded(self._log.items.words, self.n_items, 50)

    @cached_property
    def query_words(self) -> torch.Tensor:
        """(n_queries + 1, W) int64 word ids, right padded with 0, at most 50."""
        return _padded(self._log.queries.words, self.n_queries, 50)

    @cached_property
    def item_categories(self) -> torch.Tensor:
        """(n_items + 1, C) int64 category ids, right padded with 0."""
        return _padded(self._log.items.categories, self.n_items, 20)

    @property
    def item_word_lists(self) -> Ragged:
        """All word ids of each item, uncut."""
        return self._log.items.words or _empty(self.n_items)

    def word_lists_without(self, *origins: str) -> Ragged:
        """All word ids of each item but those from some origins, uncut.

        Queries that are made from category paths stand in the category words of their items: a model that learns from
        an item's words can leave them out (`without("category")`).

        Args:
            origins: names from WORD_ORIGINS ("title", "category", "reviews", ...).

        Raises:
            ValueError: there is no such origin.
            NothingToReadError: the data set does not say where its words come from.
        """
        codes = [WORD_ORIGINS.index(origin) for origin in origins]
        known = self._log.items.word_origins
        if known is None:
            raise NothingToReadError(f"{self.name} does not say where the words of its items come from")
        lists = self.item_word_lists
        kept = ~np.isin(known.values, codes)
        return Ragged.from_pairs(lists.owners()[kept], lists.values[kept], len(lists))

    def item_word_bags(self, origin: str) -> WordBags:
        """(n_items + 1,) bags of the words that an item has from one origin, with counts.

        Reviews that lend words to an item's text are those of purchases that are trained on under every split that the
        data were prepared for; all words of training reviews are in `TrainData.review_words`.

        Raises:
            ValueError: there is no such origin.
            NothingToReadError: the data set does not say where its words come from.
        """
        others = [name for name in WORD_ORIGINS if name != origin]
        if len(others) == len(WORD_ORIGINS):
            raise ValueError(f"unknown origin '{origin}'; known: {', '.join(WORD_ORIGINS)}")
        lists = self.word_lists_without(*others)
        return WordBags.of(lists.owners(), lists.values, np.ones(len(lists.values)), len(lists))

    @property
    def query_word_lists(self) -> Ragged:
        """All word ids of each query, uncut."""
        return self._log.queries.words or _empty(self.n_queries)

    @property
    def item_queries(self) -> Ragged | None:
        """For each item the queries that the data preparation could generate for it; None for real queries.

        None, too, where they were read off the relevance of test rows (`queries from test relevance` in the manifest):
        a model would learn its answers. Models that only match, and learn nothing, read `matched_queries`.
        """
        return None if self._log.manifest.get("queries from test relevance") else self._log.items.queries

    @property
    def matched_queries(self) -> Ragged | None:
        """`item_queries`, those from test relevance included; for yardsticks without parameters only."""
        return self._log.items.queries

    @property
    def item_text(self) -> np.ndarray:
        """(n_items + 1,) str."""
        return self._log.items.text if self._log.items.text is not None else np.full(self.n_items + 1, "", dtype=object)

    @property
    def query_text(self) -> np.ndarray:
        """(n_queries + 1,) str."""
        text = self._log.queries.text
        return text if text is not None else np.full(self.n_queries + 1, "", dtype=object)

    @property
    def word_text(self) -> np.ndarray:
        """(n_words + 1,) str."""
        return self._log.words.id

    @property
    def item_features(self) -> dict[str, torch.Tensor]:
        """Small integer codes, (n_items + 1,) int64 each, 0 = padding."""
        return {name: torch.tensor(values, dtype=torch.long) for name, values in self._log.items.features.items()}

    @property
    def user_features(self) -> dict[str, torch.Tensor]:
        """Small integer codes, (n_users + 1,) int64 each, 0 = padding."""
        return {name: torch.tensor(values, dtype=torch.long) for name, values in self._log.users.features.items()}


def _padded(lists: Ragged | None, n: int, limit: int) -> torch.Tensor:
    if lists is None:
        return torch.zeros((n + 1, 1), dtype=torch.long)
    width = max(1, min(limit, int(lists.lengths.max(initial=1))))
    return torch.from_numpy(lists.padded(width).astype(np.int64))


def _empty(n: int) -> Ragged:
    return Ragged(np.zeros(n + 2, dtype=np.int64), np.zeros(0, dtype=np.int32))
