"""Does the item answer the query? The floor of every claim about learnt search."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.baselines.counting import ClosedForm, PairTable, distinct, item_counts, tie_breaks
from bench.data.catalog import Catalog
from bench.errors import NothingToReadError
from bench.ranker.contract import Batch, Config, Context, TrainData, Window
from bench.ranker.registry import register


class Match:
    """How well candidates match a row's query, from the catalogue alone.

    Where the queries were generated from items (`catalog.matched_queries`), an item matches if the query is among those
    that could be generated for it. Real queries match to the extent that their distinct words occur among the item's
    words.

    Raises:
        RunError: the log has neither.
    """

    def __init__(self, catalog: Catalog, device: torch.device):
        self.generated = catalog.matched_queries is not None
        if catalog.matched_queries is not None:
            table, self._words = PairTable.of_lists(catalog.matched_queries, catalog.n_queries + 1), None
        elif len(catalog.item_word_lists.values) and len(catalog.query_word_lists.values):
            table = PairTable.of_lists(catalog.item_word_lists, catalog.n_words + 1)
            self._words = distinct(catalog.query_words).to(device)
        else:
            raise NothingToReadError(
                f"{catalog.name} has neither generated queries nor words of items and queries; nothing can be matched"
            )
        ones = torch.ones(len(table.keys), device=device)
        self._table = PairTable(table.keys.to(device), ones, table.width)

    @property
    def meaning(self) -> str:
        """What a match is on this log, for the record."""
        if self.generated:
            return "the query is one of the item's generated queries"
        return "share of the query's words in the item's words"

    def level(self, batch: Batch) -> Tensor:
        """Whole numbers (B, K), float32: 0 or 1 for generated queries, else the number of matched words."""
        if self._words is None:
            return self._table.lookup(batch.cand, batch.query[:, None])
        words = self._words[batch.query]
        # One word at a time keeps the memory at (B, K); no word is id 0, which the table does not hold.
        level = torch.zeros(batch.cand.shape, device=batch.cand.device)
        for column in range(words.shape[1]):
            level += self._table.lookup(batch.cand, words[:, column, None])
        return level

    def best(self, batch: Batch) -> Tensor:
        """(B, 1) the level of a complete match, at least 1."""
        if self._words is None:
            return torch.ones((len(batch), 1), device=batch.query.device)
        return (self._words[batch.query] > 0).sum(1, keepdim=True).clamp(min=1).float()


class _Matching(ClosedForm):
    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    def __init__(self, config: Config, context: Context):
        super().__init__(config, context)
        self.match = Match(context.catalog, context.device)

    @property
    def window(self) -> Window:
        """None is read."""
        return Window(rec=0, search=0)

    def evidence(self) -> dict[str, Any]:
        """What a match is on this log."""
        return {"match": self.match.meaning}


@register("matcher", title="Matcher", tasks=("search",), group="trivial")
class Matcher(_Matching):
    """Score = match of query and item in [0, 1]; no user, no learning (see `Match`)."""

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Nothing: the catalogue says it all."""
        return {}

    def score(self, batch: Batch) -> Tensor:
        """(B, K): 0 or 1 for generated queries, else the share of matched words."""
        return self.match.level(batch) / self.match.best(batch)


@register("matcher-popularity", title="Matcher, then popularity", tasks=("search",), group="trivial")
class MatcherPopularity(_Matching):
    """Lexicographic: the better match first; among equal matches the item with more training events, of either task."""

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """`popularity` (n_items + 1,): training events of each item, as ranks in [0, 1)."""
        return {"popularity": tie_breaks(item_counts(train, self.catalog.n_items))}

    def score(self, batch: Batch) -> Tensor:
        """(B, K): level of the match plus popularity in [0, 1)."""
        return self.match.level(batch) + self.learnt["popularity"][batch.cand]
