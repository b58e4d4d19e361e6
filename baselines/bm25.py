"""BM25 over the items' words."""

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from bench.baselines.counting import PairTable
from bench.baselines.lexical import Lexical
from bench.ranker.contract import Config, Field, PositiveFloat, TrainData
from bench.ranker.registry import register


class BM25Config(Config):
    """The two free numbers of BM25, as Lucene sets them."""

    k1: Annotated[PositiveFloat, Field(le=10)] = 1.2
    """Saturation of repeated words."""
    b: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Share of the normalisation by document length."""


@register("bm25", title="BM25", tasks=("search",), group="trivial", cite="Robertson and Zaragoza, FnTIR 2009")
class BM25(Lexical):
    """Sum of the weights of the words that query and item share.

    Score of an item with words T = sum over the distinct words w of the query of

        ln(1 + (N - df + .5) / (df + .5)) * tf (k1 + 1) / (tf + k1 (1 - b + b |T| / mean |T|))

    over all N items of the catalogue; tf counts w in T, df the items with w. The weights come from bm25s, whose
    variant "lucene" leaves out the constant factor k1 + 1.
    """

    Config = BM25Config
    search_space: ClassVar[dict[str, Any]] = {"k1": [0.6, 0.9, 1.2, 1.6, 2.0], "b": [0.0, 0.25, 0.5, 0.75, 1.0]}
    config: BM25Config

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Table `weights` of (item, word).

        Raises:
            NothingToReadError: items or queries have no words.
        """
        import bm25s
        from bm25s.tokenization import Tokenized

        self.require_words()
        lists, n_words = self.catalog.item_word_lists, self.catalog.n_words
        # Row 0 and word 0 are padding and no part of the collection.
        documents = [lists[item].tolist() for item in range(1, self.catalog.n_items + 1)]
        ids = [[word - 1 for word in words] for words in documents]
        index = bm25s.BM25(k1=self.config.k1, b=self.config.b, method="lucene")
        vocabulary = {str(word + 1): word for word in range(n_words)}
        index.index(Tokenized(ids=ids, vocab=vocabulary), create_empty_token=False, show_progress=False)
        offsets = torch.as_tensor(index.scores["indptr"], dtype=torch.long)
        items = torch.as_tensor(index.scores["indices"], dtype=torch.long) + 1
        words = torch.repeat_interleave(torch.arange(1, n_words + 1), offsets.diff())
        values = torch.as_tensor(index.scores["data"], dtype=torch.float32) * (self.config.k1 + 1)
        keys, order = (items * (n_words + 1) + words).sort()
        return PairTable(keys, values[order], n_words + 1).state("weights")
