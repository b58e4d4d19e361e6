"""NRHUB: a user as three views, of clicks, queries and clicks in searches (Wu et al., EMNLP-IJCNLP 2019).

No official code is public. The paper reads the texts of news; the layers above the texts follow a simplified version that
a third party (IV4Rec+, TOIS 2023) published. What stands in for the texts is reconstruction.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ranker.blocks.dropout import Dropout
from bench.ranker.blocks.losses import bce, sampled_softmax
from bench.ranker.blocks.pooling import AdditiveAttention, masked_mean, weighted_mean
from bench.ranker.blocks.rows import rows_of
from bench.ranker.contract import Batch, Context, Fraction, PositiveInt, TorchRanker, TrainConfig
from bench.ranker.registry import register


class NRHUBConfig(TrainConfig):
    """The paper's loss, negatives, dropout and Adam; the widths of the third party's version."""

    d: PositiveInt = 64
    """Width of items and words."""
    space: PositiveInt = 200
    """Width of the space of views and candidates, and of the attention over the records of a view."""
    attention: PositiveInt = 100
    """Width of the attention over the views."""
    dropout: Fraction = 0.2
    """Of item and query vectors, drawn once for all places of an id in a batch."""
    loss_type: Literal["softmax", "BCE"] = "softmax"
    """Cross-entropy of the click against its negatives (the paper), or binary cross-entropy (the third party)."""
    batch_size: PositiveInt = 256
    """Rows of a training batch."""
    history_rec: PositiveInt = 50
    """Last recommendation clicks, as in the third party's version."""
    history_search: PositiveInt = 50
    """Last searches."""


@register("nrhub", title="NRHUB (re-implementation)", tasks=("rec",), group="rec", cite="Wu et al., EMNLP 2019")
class NRHUB(TorchRanker):
    """u = attention over the views, each an attention over its records; score = u . tanh(linear(item)).

    The views are recommendation clicks, queries, and items clicked in searches. A record is the id vector of an item or
    the mean of a query's words; a view's vector goes through tanh(linear) into the common space. There are no positions:
    the order within a view does not count. A view without records gets no weight (in the third party's version it attends
    to padding), and a user without any gets the score 0 for everything. The query of the row to be ranked is unknown.

    In the paper a record is a text, read by a convolution over its words, and the third view holds browsed web pages, for
    which items clicked in searches stand here.
    """

    Config = NRHUBConfig
    quick: ClassVar[dict[str, Any]] = {"max_steps": 1500}
    search_space: ClassVar[dict[str, Any]] = {
        "attention": [64, 100, 200],
        "lr": [1e-4, 5e-4, 1e-3],
        "dropout": [0.0, 0.2],
        "history_rec": [30, 50],
        "history_search": [30, 50],
        "loss_type": ["softmax", "BCE"],
    }
    config: NRHUBConfig
    query_words: Tensor

    def __init__(self, config: NRHUBConfig, context: Context):
        super().__init__(config, context)
        catalog, d, space = self.catalog, config.d, config.space
        self.register_buffer("query_words", catalog.query_words, persistent=False)  # (n_queries + 1, W)
        self.items = nn.Embedding(catalog.n_items + 1, d)
        self.words = nn.Embedding(catalog.n_words + 1, d)
        for table in (self.items, self.words):
            nn.init.normal_(table.weight, std=d**-0.5)
        self.dropout = Dropout(config.dropout)
        self.records = nn.ModuleDict({view: AdditiveAttention(d, space) for view in ("rec", "query", "search")})
        self.view = nn.Sequential(nn.Linear(d, space), nn.Tanh())
        self.views = AdditiveAttention(space, config.attention)
        self.candidate = nn.Sequential(nn.Linear(d, space), nn.Tanh())

    def row_vectors(self, batch: Batch) -> Tensor:
        """(B, space) users; zero without any record."""
        clicked = batch.search_click_mask.flatten(1)  # (B, Ls * Cs)
        asked = batch.search_mask & (self.query_words > 0).any(1)[batch.search_query]  # (B, Ls)
        found = batch.search_items.flatten(1).where(clicked, 0)
        records = {
            "rec": (self.items, batch.rec_items.where(batch.rec_mask, 0), batch.rec_mask),
            "query": (self.queries, batch.search_query.where(asked, 0), asked),
            "search": (self.items, found, clicked),
        }
        pooled = []
        for view, (table, ids, mask) in records.items():
            # What a record says and weighs is its id's alone, so each id goes through the network once.
            distinct, place = ids.unique(return_inverse=True)
            vectors = self.dropout(table(distinct))  # (n, d)
            scores = self.records[view].scores(vectors)  # (n,)
            pooled.append(weighted_mean(F.embedding(place, vectors), rows_of(scores, place), mask))
        real = torch.stack([mask.any(1) for _, _, mask in records.values()], 1)  # (B, 3)
        return self.views(self.view(torch.stack(pooled, 1)), real)

    def queries(self, ids: Tensor) -> Tensor:
        """(n,) ids -> (n, d) means of their words."""
        words = self.query_words[ids]  # (n, W)
        return masked_mean(self.words(words), words > 0)

    def candidates(self, ids: Tensor) -> Tensor:
        """(..., space) vectors of items (...) as candidates."""
        distinct, place = ids.unique(return_inverse=True)
        return F.embedding(place, self.candidate(self.dropout(self.items(distinct))))

    def item_vectors(self) -> Tensor:
        """(n_items + 1, space), for ranking the whole catalogue."""
        return self.candidates(torch.arange(self.catalog.n_items + 1, device=self.items.weight.device))

    def score_items(self, encoded: Tensor, cand: Tensor) -> Tensor:
        """(B, K) logits of candidates (B, K) for the users (B, space) that `encode` gave."""
        return (encoded[:, None] * self.candidates(cand)).sum(-1)

    def loss(self, batch: Batch) -> Tensor:
        """Fresh value near ln(1 + negatives), or ln 2 for "BCE"."""
        assert batch.item is not None and batch.negatives is not None
        both = torch.cat([batch.item[:, None], batch.negatives], 1)  # (B, 1 + N)
        scores = self.score_items(self.row_vectors(batch), both)
        clicked, drawn = scores[:, 0], scores[:, 1:]
        if self.config.loss_type == "BCE":
            return bce(clicked, drawn)
        # All negatives are equally likely, so that no correction is due.
        return sampled_softmax(clicked, drawn, torch.zeros_like(clicked), torch.zeros_like(drawn))
