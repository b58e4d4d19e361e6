"""What models that compare the words of queries and items share."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.baselines.counting import ClosedForm, PairTable, distinct
from bench.errors import NothingToReadError
from bench.ranker.contract import Batch, Window


class Lexical(ClosedForm):
    """Base of models that add up a weight for every distinct word of the query that a candidate has.

    A subclass makes the table of (item, word) weights in `learn` under the name "weights". Events teach nothing.
    """

    uses_query: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    @property
    def window(self) -> Window:
        """As little history as there can be: none is read."""
        return Window(rec=0, search=0)

    def words(self, batch: Batch) -> Tensor:
        """(B, W) distinct words of each query, 0 = none."""
        return distinct(self.catalog.query_words.to(batch.query.device)[batch.query])

    def score(self, batch: Batch) -> Tensor:
        """(B, K) sum of the weights, 0 where no word is shared."""
        table = PairTable.of(self.learnt, "weights", self.catalog.n_words + 1)
        words = self.words(batch)
        score = torch.zeros(batch.cand.shape, device=batch.cand.device)
        for column in range(words.shape[1]):
            score += table.lookup(batch.cand, words[:, column, None])
        return score

    def require_words(self) -> None:
        """Refuse a log without words.

        Raises:
            NothingToReadError: items or queries have no words.
        """
        for kind, lists in (("items", self.catalog.item_word_lists), ("queries", self.catalog.query_word_lists)):
            if not len(lists.values):
                name = self.entry.name
                raise NothingToReadError(f"the {kind} of {self.catalog.name} have no words for {name} to match")
