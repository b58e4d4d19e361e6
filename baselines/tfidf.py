"""Cosine of tf-idf vectors."""

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor

from bench.baselines.counting import PairTable
from bench.baselines.lexical import Lexical
from bench.ranker.contract import Batch, TrainData
from bench.ranker.registry import register


@register("tfidf", title="TF-IDF", tasks=("search",), group="trivial", cite="Salton and Buckley, IPM 1988")
class TfIdf(Lexical):
    """Score = cosine of the vectors tf * idf of query and item, idf = 1 + ln((1 + N) / (1 + df)) over all N items.

    The words of a query count once each.
    """

    def learn(self, train: TrainData) -> dict[str, Tensor]:
        """Table `weights` of (item, word), and `idf` per word (n_words + 1,).

        Raises:
            NothingToReadError: items or queries have no words.
        """
        self.require_words()
        lists, n_words = self.catalog.item_word_lists, self.catalog.n_words
        shape = (self.catalog.n_items + 1, n_words + 1)
        # Copies, since the log's own arrays may be memory-mapped and read-only.
        words, offsets = lists.values.astype(np.int64), lists.offsets.astype(np.int64)
        counts = sparse.csr_array((np.ones(len(words)), words, offsets), shape=shape)
        counts.sum_duplicates()
        df = np.bincount(counts.indices, minlength=n_words + 1)
        idf = 1 + np.log((1 + self.catalog.n_items) / (1 + df))
        weights = counts @ sparse.diags_array(idf)
        length = np.sqrt((weights * weights).sum(1))
        scaled = sparse.coo_array(sparse.diags_array(1 / np.where(length > 0, length, 1)) @ weights)
        keys = scaled.row.astype(np.int64) * (n_words + 1) + scaled.col
        order = np.argsort(keys)
        values = (scaled.data * idf[scaled.col])[order]
        table = PairTable(torch.from_numpy(keys[order]), torch.from_numpy(values.astype(np.float32)), n_words + 1)
        return {"idf": torch.from_numpy(idf.astype(np.float32)), **table.state("weights")}

    def score(self, batch: Batch) -> Tensor:
        """(B, K) cosines in [0, 1]; 0 for a query without words."""
        words = self.words(batch)
        length = (self.learnt["idf"][words].square() * (words > 0)).sum(1, keepdim=True).sqrt()
        return super().score(batch) / length.clamp(min=1e-12)
